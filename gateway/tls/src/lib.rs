//! TLS of client connections, by rustls in its unbuffered form: its state moves from the front door, where it shakes hands,
//! to a shard, where it stays.
//!
//! | module | what |
//! |---|---|
//! | [`acceptor`] | certificates, keys, client CAs: loaded, checked, replaced while running; session tickets |
//! | [`session`] | one connection's TLS: bytes in, bytes and answers out; no I/O |
//! | [`secured`] | a [`Driver`](tidegate_gateway_core::driver::Driver) around another one: opens what comes, seals what goes |
//!
//! Invariants: nothing is sealed before it is about to be sent, and what has been sealed is sent or dies with the
//! connection, because a record that is left out ends it; an idle connection holds its keys and no buffer; TLS 1.2 and 1.3
//! with AEAD suites only.
//!
//! What it does not do: kernel TLS, early data, renegotiation.

#![forbid(unsafe_code)]

pub mod acceptor;
pub mod secured;
pub mod session;
mod table;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use acceptor::{Acceptor, ClientCertificates, LoadError, PairFiles, TlsFiles, names_of};
pub use secured::{Incoming, Secured, TlsStats};
pub use session::{Received, Session, TlsError};
