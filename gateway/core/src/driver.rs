//! What the worker loop needs from an I/O backend. Implemented by `gateway/ring` (io_uring), later `gateway/epoll` and the
//! simulator.
//!
//! Contract, pinned by the drivers' tests:
//!
//! * **Send.** [`Driver::send`] queues one send of all bytes. After the next [`Driver::flush`] or [`Driver::turn`] returns, a
//!   send for which no [`Event::Sent`] came has put *all* its bytes into the socket and the driver holds nothing of it.
//!   A short or failed send always yields exactly one `Sent`. The caller never queues a second send for a socket between
//!   `send` and the `flush` that follows, and after a short one not before [`Event::Writable`].
//! * **Receive.** A registered socket is watched at once. Bytes arrive in [`Event::Data`], borrowed from the driver for the
//!   duration of the callback. After [`Event::Eof`] or [`Event::Failed`] nothing more arrives.
//! * **Close.** After [`Driver::close`] no event of that socket arrives but [`Event::Closed`], which comes exactly once, when
//!   nothing of it is in flight any more; only then may its token be used again.

use bytes::Bytes;

use crate::ids::Now;

/// The caller's name for a socket: given at registration, echoed in every event. The low 32 bits are the slab index, the
/// high 32 bits the generation, and the driver treats all of it as opaque; at most 56 bits are significant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// The driver's name for a registered socket; 8 bytes in the connection's hot line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket {
    /// Ring (or other unit) of the shard.
    pub ring: u16,
    /// Slot in that ring's file table.
    pub slot: u32,
}

/// What happened. `D` borrows are valid during the callback only.
#[derive(Debug)]
pub enum Event<'a> {
    /// Received bytes, mutable so that frames are unmasked in place.
    Data { token: Token, bytes: &'a mut [u8] },
    /// The peer closed its sending side.
    Eof { token: Token },
    /// The socket is broken (reset, time-out).
    Failed { token: Token, errno: i32 },
    /// A send was short (`Ok(n)` with n below the length; 0 for EAGAIN) or failed (`Err(errno)`).
    Sent { token: Token, result: Result<usize, i32> },
    /// Answer to [`Driver::watch_writable`], once.
    Writable { token: Token },
    /// Answer to [`Driver::close`], once.
    Closed { token: Token },
    /// Somebody rang the doorbell: look at the inbox.
    Doorbell,
}

#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Every ring's table is full. The connection is refused with 3004 and nothing else changes.
    #[error("no free descriptor slot")]
    Full,
    #[error("registering a socket failed: errno {0}")]
    Os(i32),
}

/// How a socket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseHow {
    /// Everything sent so far reaches the peer, then FIN.
    Graceful,
    /// RST: the peer is hostile or gone, and memory must come back now.
    Abort,
}

pub trait Driver {
    /// An ordinary socket on its way in (an owned descriptor; a number in the simulator).
    type Incoming;

    /// Takes the socket over and begins to watch it. On error the socket is given back so that it can be told why.
    fn register(&mut self, token: Token, socket: Self::Incoming) -> Result<Socket, (RegisterError, Self::Incoming)>;

    /// Queues the bytes `frame[from..]` for the socket.
    fn send(&mut self, token: Token, socket: Socket, frame: &Bytes, from: usize);

    /// Asks for one [`Event::Writable`].
    fn watch_writable(&mut self, token: Token, socket: Socket);

    fn close(&mut self, token: Token, socket: Socket, how: CloseHow);

    /// Submits what is queued and hands out completions that are there already; never sleeps.
    fn flush(&mut self, on_event: &mut dyn FnMut(Event<'_>));

    /// Like [`Driver::flush`], then sleeps until an event, a doorbell or `deadline` (`None`: no deadline), and hands out what came.
    fn turn(&mut self, deadline: Option<Now>, on_event: &mut dyn FnMut(Event<'_>));

    /// The clock that deadlines are in.
    fn now(&self) -> Now;
}
