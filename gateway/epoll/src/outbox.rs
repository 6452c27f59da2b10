//! Queued sends: one frame and the sockets it goes to. A fan-out queues the same frame again and again, so one reference
//! keeps its bytes for all of them.
//!
//! It is bounded by [`SENDS_MAX`]: a full outbox, and one that holds another frame, is emptied before it takes the next.

use bytes::Bytes;

use crate::table::SlotUse;

pub(crate) const SENDS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frame: Bytes,
    /// Where to, and from which byte on.
    targets: Vec<(SlotUse, usize)>,
}

impl Outbox {
    pub fn has_room_for(&self, frame: &Bytes) -> bool {
        let same = self.frame.as_ptr() == frame.as_ptr() && self.frame.len() == frame.len();
        self.targets.is_empty() || same && self.targets.len() < SENDS_MAX
    }

    /// The caller has made sure that there is room.
    pub fn push(&mut self, of: SlotUse, frame: &Bytes, from: usize) {
        debug_assert!(self.has_room_for(frame));
        if self.targets.is_empty() {
            self.frame = frame.clone();
        }
        self.targets.push((of, from));
    }

    /// Hands each send to `issue` and lets go of the frame.
    pub fn empty(&mut self, mut issue: impl FnMut(SlotUse, &[u8])) {
        let frame = std::mem::take(&mut self.frame);
        for (of, from) in self.targets.drain(..) {
            issue(of, &frame[from..]);
        }
    }
}
