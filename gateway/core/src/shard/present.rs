//! Who is here, said once more for partitions whose owner may have heard of nobody.

use super::config::PRESENT_SLICE_MAX;
use super::engine::Engine;
use super::slab::{Phase, Slot};
use crate::ids::{PartitionId, Partitions};
use crate::messages::ToHub;

impl Engine {
    /// Looks at the next slots and says which connections have their inbox in one of these partitions.
    pub(super) fn tell_present(&mut self, of: Partitions, partitions: &[PartitionId], from: u32) {
        let end = self.slab.len().min(from.saturating_add(PRESENT_SLICE_MAX));
        for slot in (from..end).map(Slot).filter(|&slot| self.slab.hot(slot).phase == Phase::Open) {
            let Some(identity) = self.slab.identity(slot) else { continue };
            if !partitions.contains(&of.of_inbox(identity.uid)) {
                continue;
            }
            let Some(who) = self.requester(slot) else { continue };
            let conn = self.conn_ref(slot);
            let connection_id = self.kit.connection_ids.of(conn);
            self.todo.to_hub.push(ToHub::Present { conn, who, connection_id });
        }
        let next = (end < self.slab.len()).then_some(end);
        self.todo.to_hub.push(ToHub::PresentTold { shard: self.id, next });
    }
}
