//! What control needs from the outside, in the domain's language.

pub mod cache;
#[cfg(any(test, feature = "contract"))]
pub mod memory;
pub mod store;

pub use store::{
    Consumed, DEVICE_MARKS_MAX, DedupHit, DeviceMark, Group, Head, Member, MessageStore, Page, PageLimit, Progress,
    ReplayPage, StoreError, StoreReader, Stored,
};
