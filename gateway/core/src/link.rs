//! What the hub says to control and hears from it; `link.proto` carries it, and the gateway process converts.
//!
//! There is one attachment per partition, to whoever owns it. Every value belongs to one of them, and is handed over together
//! with its partition.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::client::errors::ErrorCode;
use crate::ids::{Epoch, Seq, SeqRange, StreamKey, Uid};
pub use crate::ids::{PartitionId, Partitions};
use crate::messages::PlatformId;

/// Correlates a question with its answers on one attachment of the link; never 0.
pub type Corr = u64;

/// A place in a partition's log, under one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub partition: PartitionId,
    pub owner_epoch: u64,
    pub lsn: u64,
}

/// A message as clients will see it, apart from its place.
#[derive(Clone, Debug)]
pub struct Message {
    /// 0: ephemeral.
    pub seq: Seq,
    /// The wire form of `message.proto`, decoded. Shared, so that the hot tail and a window can both hold it.
    pub body: std::sync::Arc<tidegate_proto::v1::Message>,
    /// Empty: every platform.
    pub platforms: SmallVec<[PlatformId; 2]>,
}

/// Gateway → control.
#[derive(Debug)]
pub enum ToLink {
    /// Answered by one [`FromLink::Opened`] per stream and one [`FromLink::OpenEnd`].
    Open {
        corr: Corr,
        uid: Uid,
        device: Box<str>,
        streams: Vec<OpenStream>,
        auto_join: bool,
    },
    /// Answered by one [`FromLink::Reply`].
    Request {
        corr: Corr,
        uid: Option<Uid>,
        device: Box<str>,
        op: LinkOp,
    },
    /// The stream has no members here any more.
    Forget {
        stream: StreamKey,
    },
    /// After [`FromLink::Up`]: the whole interest in this partition, once, then where the node stands in it.
    Announce {
        streams: Vec<StreamKey>,
        position: Option<Position>,
    },
    Online {
        uid: Uid,
        device: Box<str>,
        platform: Box<str>,
        connection_id: Box<str>,
    },
    Offline {
        uid: Uid,
        connection_id: Box<str>,
    },
    /// So many bytes of deliveries were taken off the link.
    Credit {
        bytes: u64,
    },
}

#[derive(Clone, Debug)]
pub struct OpenStream {
    pub stream: StreamKey,
    pub cursor: Option<(Epoch, Seq)>,
    /// Nobody named it: an error is not told, and it is listed only if there is news.
    pub auto: bool,
}

#[derive(Clone, Debug)]
pub enum LinkOp {
    Send(Box<crate::client::ops::Send>),
    Ack { stream: StreamKey, epoch: Option<Epoch>, seq: Seq },
    Read { stream: StreamKey, epoch: Option<Epoch>, seq: Seq },
    Pull { stream: StreamKey, epoch: Option<Epoch>, after: Seq, since_ts: Option<i64>, limit: u32 },
    Heads { streams: Vec<StreamKey> },
}

/// Control → gateway.
#[derive(Debug)]
pub enum FromLink {
    /// Whose log the attachment that begins speaks of; comes before [`FromLink::Up`]. Another number than before: what was
    /// known of the partition is of a history that was lost.
    History {
        history: u64,
    },
    /// A new attachment begins; answers to questions of an older one will not come.
    Up,
    /// The attachment broke: pending questions end with UNAVAILABLE or are asked again.
    Down,
    Deliver(Deliver),
    Position(Position),
    /// The node's place cannot be replayed; [`FromLink::Opened`] with corr 0 says where each stream stands. Nobody says who
    /// came into groups or left them meanwhile: that is settled by connections that come back.
    Reset(Position),
    Opened(Opened),
    OpenEnd {
        corr: Corr,
    },
    /// What an `auto_join` covers in other partitions; before its [`FromLink::OpenEnd`].
    Also {
        corr: Corr,
        streams: Vec<StreamKey>,
    },
    Reply {
        corr: Corr,
        result: Result<LinkOk, LinkError>,
    },
    Membership {
        uid: Uid,
        stream: StreamKey,
        epoch: Epoch,
        seq: Seq,
        joined: bool,
        reason: Box<str>,
        position: Position,
    },
}

#[derive(Debug)]
pub struct Deliver {
    pub position: Position,
    pub stream: StreamKey,
    pub epoch: Epoch,
    /// `None`: ephemeral.
    pub range: Option<SeqRange>,
    pub messages: Vec<Message>,
    /// Size on the link, for credits.
    pub bytes: u32,
}

#[derive(Debug)]
pub struct Opened {
    pub corr: Corr,
    pub stream: StreamKey,
    pub result: Result<OpenedStream, LinkError>,
}

#[derive(Debug)]
pub struct OpenedStream {
    pub epoch: Epoch,
    pub head: Seq,
    pub first: Seq,
    /// Where this connection starts.
    pub start: Seq,
    pub recovered: Recovered,
    /// Messages of `(start, head]`, if they fit a page.
    pub page: Option<Vec<Message>>,
    /// Anyone may join: the hub need not ask again while the stream is live here.
    pub open_group: bool,
    pub listed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    Full,
    Partial,
    Expired,
}

#[derive(Debug)]
pub enum LinkOk {
    Sent { stream: StreamKey, epoch: Epoch, seq: Option<Seq>, message_id: Box<str>, duplicate: bool },
    Pulled(Pulled),
    Heads(Vec<(StreamKey, Result<Head, LinkError>)>),
    Done,
}

#[derive(Debug)]
pub struct Pulled {
    pub stream: StreamKey,
    pub epoch: Epoch,
    pub range: SeqRange,
    pub messages: Vec<Message>,
    pub head: Seq,
    pub first: Seq,
}

#[derive(Clone, Debug)]
pub struct Head {
    pub epoch: Epoch,
    pub head: Seq,
    pub first: Seq,
}

/// An error that reaches the client as it is.
#[derive(Clone, Debug)]
pub struct LinkError {
    pub code: ErrorCode,
    pub message: Box<str>,
    pub retry_after_ms: Option<u32>,
    /// With `EXPIRED`: where the stream stands now.
    pub stands: Option<Head>,
}

/// Bytes that are shared with every recipient of a recovery page.
pub type SharedPage = Bytes;
