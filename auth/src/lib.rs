//! Who is asking: JSON Web Tokens (RFC 7519), service tokens, and the rules of development auth. Gateway, control and the command line use
//! the same code, so that no token is good at one door and bad at another.
//!
//! Invariants: the algorithm comes from the configured key, never from the token (S2); a token never appears in an error.

#![forbid(unsafe_code)]

pub mod dev;
pub mod service;
pub mod token;

pub use token::{Algorithm, Claims, Issuer, Key, KeyError, TokenError, Verifier, VerifierConfig};
