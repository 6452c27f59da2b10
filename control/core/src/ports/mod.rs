//! What control needs from the outside, in the domain's language.

pub mod store;

pub use store::{
    DedupHit, DeviceMark, Group, Head, Member, MessageStore, Page, PageLimit, ReplayPage, StoreError, StoreReader,
    Stored,
};
