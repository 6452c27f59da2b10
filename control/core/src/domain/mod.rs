//! The words of the domain.

pub mod errors;
pub mod message;
pub mod names;
pub mod record;

pub use errors::{ErrorCode, Refusal};
pub use message::{Body, Content, Priority};
pub use names::{
    BadName, Epoch, Fingerprint, Gid, Lsn, MessageId, OwnerEpoch, PartitionId, Seq, StreamKey, StreamKind, Timestamp,
    Uid,
};
pub use record::{Append, GroupChange, Joined, LeaveReason, Mark, MembershipChange, Place, Record, Role};
