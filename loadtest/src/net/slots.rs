//! The places of one ring's file table and what is under way on each.

/// A socket of the network: its ring and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sock {
    pub(super) ring: u16,
    pub(super) slot: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Connecting,
    Open,
    /// The peer or an error ended it; its owner was told and will close it.
    Ended,
    /// Waits for what is in flight.
    Closing,
}

/// How an open socket is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Only by [`super::Network::read_all`].
    OnDemand,
    /// Armed, once each time: cheap to end.
    Armed,
    /// Armed for good.
    Multishot,
    /// Not at all.
    Paused,
}

/// Bytes on their way out.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// What the kernel was given; unchanged until its completion.
    pub in_kernel: Vec<u8>,
    pub next: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub owner: u32,
    pub state: State,
    pub reading: Reading,
    /// A receive is armed.
    pub armed: bool,
    /// Operations whose last completion has not come.
    pub in_flight: u8,
    pub outgoing: Option<Box<Outgoing>>,
}

impl Slot {
    fn empty() -> Slot {
        let (state, reading) = (State::Free, Reading::OnDemand);
        Slot { owner: u32::MAX, state, reading, armed: false, in_flight: 0, outgoing: None }
    }

    pub fn wants_armed(&self) -> bool {
        let armed = matches!(self.reading, Reading::Armed | Reading::Multishot);
        self.state == State::Open && armed && !self.armed
    }

    /// To be read by a pass over all sockets.
    pub fn is_on_demand(&self) -> bool {
        self.state == State::Open && self.reading == Reading::OnDemand && !self.armed
    }
}

#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u16>,
    max: u16,
}

impl Slots {
    pub fn new(max: u16) -> Slots {
        Slots { slots: Vec::new(), free: Vec::new(), max }
    }

    /// A place for a socket that begins to connect.
    pub fn take(&mut self, owner: u32) -> Option<u16> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < usize::from(self.max) => {
                self.slots.push(Slot::empty());
                (self.slots.len() - 1) as u16
            }
            None => return None,
        };
        self.slots[usize::from(slot)] = Slot { owner, state: State::Connecting, ..Slot::empty() };
        Some(slot)
    }

    pub fn release(&mut self, slot: u16) {
        self.slots[usize::from(slot)] = Slot::empty();
        self.free.push(slot);
    }

    pub fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < usize::from(self.max)
    }

    pub fn used_to(&self) -> u32 {
        self.slots.len() as u32
    }

    pub fn at(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }
}
