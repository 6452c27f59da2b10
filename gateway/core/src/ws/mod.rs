//! RFC 6455 frames and RFC 7692 compression, strict and bounded by what was received.
//!
//! * [`Decoder`] turns received chunks into messages. It unmasks in place and copies only what is split over chunks or
//!   fragments; an idle connection keeps 24 bytes of it and nothing on the heap.
//! * [`frame`], [`close_frame`] and [`Deflater`] make whole server frames, ready to be shared by many sockets.
//! * [`negotiate_deflate`] and [`accept_key`] are the two computations of the opening handshake.
//!
//! What it does not do: HTTP, I/O, timers, and the closing handshake (who answers a close frame, and when, is the session's).

pub mod close;
mod decoder;
mod deflate;
mod encode;
mod error;
mod head;
mod negotiate;
mod text;

pub use decoder::{Decoder, Incoming, Limits};
pub use deflate::{CpuClock, Deflater, Inflated, Inflater, WINDOW_BITS_MAX, WINDOW_BITS_MIN};
pub use encode::{OpCode, close_frame, frame};
pub use error::WsError;
pub use negotiate::{DeflateParams, accept_key, negotiate_deflate};
