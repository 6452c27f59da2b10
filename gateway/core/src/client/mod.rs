//! The two client sub-protocols: `tidegate.v1.json` and `tidegate.v1.proto`. Both decode to [`ops`] and encode from the
//! same values; [`errors`] is the one table of error codes.

pub mod errors;
pub mod ops;
