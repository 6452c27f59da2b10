//! What clients ask for, decoded and checked.

use bytes::Bytes;

use crate::ids::{Cursor, Epoch, Seq, StreamKey};

/// Most requests of one connection that wait for their answer.
pub const IN_FLIGHT_MAX: usize = 64;
/// Most cursors in a `connect` frame or a `sync`.
pub const CURSORS_MAX: usize = 10_000;
/// Most messages in one pull answer; a higher `limit` is lowered.
pub const PULL_MESSAGES_MAX: u32 = 1_000;
/// Most bytes of messages in one pull answer or recovery page.
pub const PAGE_BYTES_MAX: usize = 64 * 1024;
/// Most messages in a recovery page; more is a `gap` to pull.
pub const PAGE_MESSAGES_MAX: usize = 100;

/// One request: exactly one operation and its id (1 … 2^31−1).
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub id: u32,
    pub op: Op,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// First frame only; later it is BAD_REQUEST.
    Connect(Box<Connect>),
    Join {
        stream: StreamKey,
        cursor: Option<Cursor>,
    },
    Leave {
        stream: StreamKey,
    },
    Send(Box<Send>),
    Ack {
        stream: StreamKey,
        epoch: Option<Epoch>,
        seq: Seq,
    },
    Read {
        stream: StreamKey,
        epoch: Option<Epoch>,
        seq: Seq,
    },
    Pull {
        stream: StreamKey,
        epoch: Option<Epoch>,
        after: Seq,
        since_ts: Option<i64>,
        limit: Option<u32>,
    },
    Sync {
        cursors: Vec<(StreamKey, Cursor)>,
    },
    Head {
        stream: StreamKey,
    },
    Ping,
    /// Known to the protocol, not to this version of the gateway: answered UNIMPLEMENTED.
    Unimplemented(&'static str),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Connect {
    pub token: Option<Box<str>>,
    pub device: Box<str>,
    pub platform: Box<str>,
    pub cursors: Vec<(StreamKey, Cursor)>,
    pub auto_join: bool,
    pub ack_mode: AckMode,
    /// As asked for; the session clamps it.
    pub ping_interval_ms: Option<u32>,
}

/// Who moves the device's mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckMode {
    #[default]
    Client,
    /// Whatever went into the socket counts as acknowledged.
    Sent,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Send {
    /// `g:…` or `u:…`.
    pub to: StreamKey,
    pub client_msg_id: Box<str>,
    pub kind: Box<str>,
    pub content: Content,
    /// A JSON object as text; empty: none.
    pub metadata: Box<str>,
    pub ephemeral: bool,
    pub priority: Option<Priority>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Text(Box<str>),
    Binary(Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    High,
    Normal,
    Low,
}
