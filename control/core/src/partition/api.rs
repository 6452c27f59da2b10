//! What goes into a partition and what comes out.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::domain::{
    Body, Content, Epoch, Gid, Joined, LeaveReason, Lsn, MessageId, OwnerEpoch, PartitionId, Place, Priority, Refusal,
    Seq, StreamKey, Uid,
};
use crate::ports::{Consumed, Group, Head, Page, Stored};

/// The caller's name for a command, echoed in its one [`Output::Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// One attachment of a gateway: a new one gets a new number, so that what was meant for a broken link goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayId(pub u64);

#[derive(Debug)]
pub enum Input {
    /// From the API or (through a link) from a client.
    Command {
        token: Token,
        command: Command,
    },
    LinkUp {
        gateway: GatewayId,
        credit_bytes: u64,
    },
    LinkDown {
        gateway: GatewayId,
    },
    Interest {
        gateway: GatewayId,
        add: Vec<StreamKey>,
        remove: Vec<StreamKey>,
    },
    /// The whole interest was announced; replay from here, `None`: from the attachment on. Deliveries begin with it, and
    /// opens are answered once the replay is done.
    InterestEnd {
        gateway: GatewayId,
        cursor: Option<(OwnerEpoch, Lsn)>,
    },
    Open {
        gateway: GatewayId,
        open: LinkOpen,
    },
    /// So many bytes were taken off the link, counted as encoded Delivers (of durable and ephemeral messages alike). Nothing
    /// else costs credit.
    Credit {
        gateway: GatewayId,
        bytes: u64,
    },
    /// At least ten times a second; positions and the store's housekeeping depend on it.
    Tick,
    /// Read from the upstream topic, where `upto` comes next. What came of it is committed with that place, even if it was
    /// refused, so that a successor never decides it again. A store that is away refuses none of these: all waits for it.
    Appended {
        token: Token,
        push: Box<Push>,
        upto: Consumed,
    },
    /// As [`Input::Appended`], of records that are nobody's push.
    Consumed(Consumed),
    /// What the log's records up to here owe to other partitions has arrived there.
    Routed(Lsn),
}

/// Each is carried out whole or refused; what is refused has changed nothing.
#[derive(Clone, Debug)]
pub enum Command {
    /// A backend's push (`sender: None`: no membership asked) or a client's send.
    Push(Box<Push>),
    CreateGroup {
        gid: Gid,
        name: Box<str>,
        open: bool,
        creator: Option<Uid>,
        members: Vec<Uid>,
    },
    /// `by`: who asks; `None`: a backend.
    AddMember {
        gid: Gid,
        uid: Uid,
        by: Option<Uid>,
    },
    RemoveMember {
        gid: Gid,
        uid: Uid,
        by: Option<Uid>,
    },
    DismissGroup {
        gid: Gid,
        by: Option<Uid>,
    },
    Ack {
        uid: Uid,
        device: Box<str>,
        stream: StreamKey,
        epoch: Option<Epoch>,
        seq: Seq,
    },
    Read {
        uid: Uid,
        stream: StreamKey,
        epoch: Option<Epoch>,
        seq: Seq,
    },
    /// Reads on behalf of `uid` (authorised) or of the node itself (`None`). `limit` 0: the maximum. An `after` beyond the head
    /// is EXPIRED, as is another epoch.
    Pull {
        uid: Option<Uid>,
        stream: StreamKey,
        epoch: Option<Epoch>,
        after: Seq,
        since_ts: Option<i64>,
        limit: usize,
    },
    Heads {
        uid: Option<Uid>,
        streams: Vec<StreamKey>,
    },
    /// From another partition, which may say it more than once.
    Errand(Errand),
}

/// What a record of one partition owes to another: derived from the record alone, so a new owner finds it in the log again.
#[derive(Clone, Debug)]
pub enum Errand {
    /// A one-to-one message belongs into this user's inbox. `place` is that in the conversation.
    Entry { inbox: Uid, place: Place, body: Arc<Body> },
    /// A user came into a group: gateways that know only the user must hear of it.
    Joined(Joined),
}

impl Errand {
    /// Whose partition it is for.
    pub fn to(&self) -> &Uid {
        match self {
            Errand::Entry { inbox, .. } => inbox,
            Errand::Joined(joined) => &joined.uid,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Push {
    /// Given by who took the push in; `None`: the partition gives one.
    pub id: Option<MessageId>,
    /// A `u:` target of a client's send becomes a conversation; of a backend's push it is the inbox itself.
    pub to: StreamKey,
    /// The authenticated client; `None`: a backend.
    pub sender: Option<Uid>,
    /// What recipients see as sender when a backend pushes.
    pub from: Box<str>,
    pub client_msg_id: Box<str>,
    /// Idempotency key of a backend. A client's key is `client_msg_id`, scoped by sender.
    pub message_id: Option<Box<str>>,
    pub kind: Box<str>,
    pub title: Box<str>,
    pub content: Content,
    /// A JSON object as text, or empty; checked by the caller.
    pub metadata: Box<str>,
    pub ephemeral: bool,
    pub priority: Priority,
    pub ttl_s: u32,
    pub platforms: SmallVec<[Box<str>; 1]>,
    /// Who takes it in may answer [`Reply::Queued`] as soon as it is durable. A partition does not care.
    pub ack_durable: bool,
}

#[derive(Debug)]
pub struct LinkOpen {
    pub corr: u64,
    pub uid: Uid,
    pub device: Box<str>,
    pub streams: Vec<LinkOpenStream>,
    /// Also the inbox, `g:_all` and the user's member groups.
    pub auto_join: bool,
}

#[derive(Debug)]
pub struct LinkOpenStream {
    pub stream: StreamKey,
    /// As the client said them; an epoch that does not parse is a foreign one.
    pub cursor: Option<(Box<str>, Seq)>,
    /// Nobody named it: another partition listed it for `auto_join`. An error is not told, and it is listed only with news.
    pub auto: bool,
}

#[derive(Debug)]
pub enum Output {
    /// Exactly one per command.
    Reply { token: Token, result: Result<Reply, Refusal> },
    /// In order, to one attachment.
    Link { gateway: GatewayId, item: LinkItem },
    /// The attachment must be ended: it violated the protocol or its replay failed.
    Detach { gateway: GatewayId, why: &'static str },
    /// The record at `lsn` owes this to another partition. All of a record come together, in the order of the log.
    Errand { lsn: Lsn, errand: Errand },
}

#[derive(Debug)]
pub enum Reply {
    Pushed {
        stream: StreamKey,
        epoch: Epoch,
        seq: Option<Seq>,
        id: MessageId,
        duplicate: bool,
        /// Live connections of the target's user, where whoever answers knows them. A partition does not.
        online: Option<u32>,
    },
    /// It is durable and will be sequenced; nobody waited for that. Said by who takes pushes in, never by a partition.
    Queued {
        /// `None`: the partition will give it one.
        id: Option<MessageId>,
    },
    Group(Group),
    /// Of acks, reads and membership changes; `seq` is the place of the change if it has one.
    Done {
        seq: Option<Seq>,
    },
    Page {
        stream: StreamKey,
        page: Page,
        head: Head,
    },
    Heads(Heads),
}

pub type Heads = Vec<(StreamKey, Result<Head, Refusal>)>;

/// Shared between gateways: one `Arc` per sequenced message.
///
/// With an item that has an `lsn`, everything up to this lsn that the interest selects has been sent: when one record gives
/// several items, all but the last carry the lsn before it.
#[derive(Debug, Clone)]
pub enum LinkItem {
    /// Covers `(after, upto]`; a message of the range that is absent has expired.
    Deliver {
        lsn: Lsn,
        stream: StreamKey,
        epoch: Epoch,
        after: Seq,
        upto: Seq,
        messages: SmallVec<[Stored; 1]>,
    },
    Ephemeral {
        stream: StreamKey,
        epoch: Epoch,
        body: Arc<Body>,
    },
    /// Everything up to here that the interest selects has been sent.
    Position {
        lsn: Lsn,
    },
    /// The place asked for cannot be replayed; `Opened` with corr 0 follows for each stream of the interest.
    Reset {
        lsn: Lsn,
    },
    Opened(Arc<Opened>),
    OpenEnd {
        corr: u64,
    },
    /// Streams of other partitions that this open's `auto_join` means too; before its `OpenEnd`.
    Also(Arc<Also>),
    Membership {
        lsn: Lsn,
        uid: Uid,
        stream: StreamKey,
        epoch: Epoch,
        seq: Seq,
        joined: bool,
        reason: LeaveReason,
    },
}

#[derive(Debug)]
pub struct Also {
    pub corr: u64,
    pub streams: Vec<StreamKey>,
}

#[derive(Debug)]
pub struct Opened {
    pub corr: u64,
    pub stream: StreamKey,
    pub result: Result<OpenedStream, Refusal>,
}

#[derive(Debug)]
pub struct OpenedStream {
    pub head: Head,
    /// Where this connection starts: its cursor, its mark, or the head.
    pub start: Seq,
    pub recovered: Recovered,
    /// Messages of `(start, head]` if they fit a page.
    pub page: Option<Vec<Stored>>,
    pub open_group: bool,
    /// Named by the client, or it has news.
    pub listed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    Full,
    Partial,
    Expired,
}

/// Stands on every item that leaves a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub partition: PartitionId,
    /// The epoch that the log began with: another log has another.
    pub history: Epoch,
    pub owner_epoch: OwnerEpoch,
}
