//! Ephemeral messages that somebody hands to this very node, past control.

use super::Hub;
use crate::ids::{Now, StreamKey};
use crate::link::Message;

impl Hub {
    /// To the stream's members on this node, with its next frame, as if control had sent it. Returns how many connections these
    /// are now; a window that is full pushes its oldest ephemeral messages out. Poll both queues afterwards.
    pub fn deliver_here(&mut self, now: Now, stream: &StreamKey, message: Message) -> u32 {
        let Some(idx) = self.streams.find(stream) else { return 0 };
        let members: u32 = self.streams.at(idx).map_or(0, |stream| stream.members().map(|(_, count)| count).sum());
        if members > 0 {
            self.stats.delivered_here += 1;
            self.take_ephemeral(now, idx, vec![message]);
            self.settle(now);
        }
        members
    }
}
