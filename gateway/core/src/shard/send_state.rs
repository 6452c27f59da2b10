//! The send side of a connection as one table.
//!
//! Only [`SendState::Idle`] takes part in the fan-out's fast path; everything else has a [`Backlog`](super::backlog::Backlog).

/// Where a connection's sending stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SendState {
    /// Nothing waits and every stream is live.
    #[default]
    Idle,
    /// One frame was cut short by a full socket.
    Partial,
    /// Frames wait behind another one.
    Queued,
    /// Bytes wait, and at least one stream gets no frames because its gap has to be told or pulled.
    Gapped,
    /// Nothing waits, but at least one stream is still off until a pull reaches its head.
    Draining,
}

/// What happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendCause {
    /// The socket took less than it was offered.
    Cut,
    /// A frame was put behind what is there.
    Waits,
    /// A stream was taken off.
    Gapped,
    /// The last waiting byte is in the socket.
    Emptied,
    /// The last stream that was off is live again.
    Healed,
}

impl SendState {
    pub(super) fn after(self, cause: SendCause) -> SendState {
        use SendCause as C;
        use SendState as S;
        match (self, cause) {
            (S::Idle | S::Partial, C::Cut) => S::Partial,
            (S::Idle | S::Partial | S::Queued, C::Waits) | (S::Queued, C::Cut) => S::Queued,
            (S::Partial | S::Queued, C::Gapped) => S::Gapped,
            (S::Gapped, C::Cut | C::Waits | C::Gapped) => S::Gapped,
            (S::Draining, C::Cut | C::Waits) => S::Gapped,
            (S::Idle | S::Draining, C::Gapped) => S::Draining,
            (S::Gapped | S::Draining, C::Emptied) => S::Draining,
            (S::Idle | S::Partial | S::Queued, C::Emptied) => S::Idle,
            (S::Gapped, C::Healed) => S::Queued,
            (S::Draining, C::Healed) => S::Idle,
            (S::Idle | S::Partial | S::Queued, C::Healed) => {
                debug_assert!(false, "healed in {self:?}; expected Gapped or Draining");
                self
            }
        }
    }

    /// Bytes of the connection are waiting.
    pub(super) fn waits(self) -> bool {
        matches!(self, SendState::Partial | SendState::Queued | SendState::Gapped)
    }
}
