//! The endpoint ring: a consistent hash of users over gateways, with virtual nodes, weights and bounded load.
//!
//! Control publishes it ([`document`]) and answers with it which gateway a user should connect to ([`Ring::place`]); gateways
//! read it and let go, at a limited rate, of the connections whose place is elsewhere ([`mover`]). Both must reach the same
//! answer, which is why this one thing stands in a crate of its own (`docs/adr/0010`).
//!
//! Pure: no clock, no randomness, no I/O. It decides about comfort and never about delivery: a client on another gateway
//! than its place is served just the same. Not to be confused with the rings of io_uring in `gateway/ring`.

#![forbid(unsafe_code)]

pub mod document;
mod hash;
pub mod loads;
pub mod mover;
mod ring;

pub use hash::UserHash;
pub use loads::Loads;
pub use ring::{Layout, LoadFactor, Member, Ring, RingError, Version};

/// Points of a member of weight 1. With 160 the shares of equal members differ by some 8 %.
pub const VIRTUAL_NODES_DEFAULT: u16 = 160;
pub const VIRTUAL_NODES_MAX: u16 = 1_024;
pub const MEMBERS_MAX: usize = 1_024;
pub const WEIGHT_MAX: u16 = 100;
/// Points of a whole ring: 16 bytes each.
pub const POINTS_MAX: usize = 1 << 21;
/// Longest name of a gateway, and longest URL, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
pub const URL_BYTES_MAX: usize = 512;
/// What a member may hold above its even share, in thousandths: 1,250 is a quarter more.
pub const LOAD_FACTOR_DEFAULT: u32 = 1_250;
pub const LOAD_FACTOR_MIN: u32 = 1_010;
pub const LOAD_FACTOR_MAX: u32 = 10_000;

const _: () = assert!(MEMBERS_MAX <= u16::MAX as usize);
const _: () = assert!(MEMBERS_MAX * VIRTUAL_NODES_MAX as usize <= POINTS_MAX, "members of weight 1 always fit");
const _: () = assert!(LOAD_FACTOR_MIN > 1_000, "at exactly 1 nobody has room for the next");
