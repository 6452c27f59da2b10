//! Where each relay stands in its partition's log.

use tidegate_control_core::domain::{Lsn, PartitionId};
use tidegate_control_core::ports::StoreError;

use crate::adapters::postgres::Postgres;

/// Every method blocks. A place never goes back: of two who say one, the later stands, since whoever said it has told of all
/// before it.
pub(crate) trait Places: Send + Sync {
    fn load(&self, partition: PartitionId, name: &str) -> Result<Option<Lsn>, StoreError>;

    fn save(&self, partition: PartitionId, name: &str, at: Lsn) -> Result<(), StoreError>;
}

/// Beside the log, so that a backup of both fits together.
impl Places for Postgres {
    fn load(&self, partition: PartitionId, name: &str) -> Result<Option<Lsn>, StoreError> {
        self.place_of(partition, name)
    }

    fn save(&self, partition: PartitionId, name: &str, at: Lsn) -> Result<(), StoreError> {
        self.keep_place(partition, name, at)
    }
}
