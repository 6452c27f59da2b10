//! What shards and the hub say to each other. Both directions are FIFO per shard, and the seams rely on it: a member that
//! is added between two fan-outs gets exactly the later one.
//!
//! **Memberships are counted, not connections.** The hub adds one to `(stream, shard)` when it sends
//! [`ToShard::AddMember`], and [`ToHub::Invited`] adds what the shard says; each entry of a [`ToHub::Left`] takes one away.
//! So every `AddMember` ends in exactly one `Left` entry:
//!
//! * the connection is dead when the command arrives: `Left { streams: [idx] }` at once;
//! * it is a member already: nothing changes (also not `gapped`), and `Left { streams: [idx] }` is answered for the extra count;
//! * otherwise it is a member until it closes, or until `RemoveMember` or `Expel` takes it out: `Left` then.
//!
//! `RemoveMember` of a connection that is dead or no member changes nothing and answers nothing.
//! A `StreamIdx` is reused only after its count has come back to 0 on every shard.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::client::ops::{AckMode, Op};
use crate::ids::{ConnId, ConnRef, Cursor, PartitionId, Partitions, Seq, SeqRange, ShardId, StreamIdx, StreamKey, Uid};
use crate::ws::close::CloseCode;

/// Most sends of one slice of a fan-out. The hub asks for `report_done` when a shard has more members than this.
pub const FANOUT_SLICE_MAX: u32 = 512;

/// Sub-protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    Json,
    Proto,
}

/// A platform (`pc`, `mobile`, `web`, …), interned per node by the front door; 0 is "not told".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PlatformId(pub u8);

/// Everything that decides which bytes a connection gets: one shared frame exists per class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnClass {
    pub encoding: Encoding,
    /// permessage-deflate was negotiated.
    pub deflate: bool,
    pub platform: PlatformId,
}

/// One message of the hub's stream as WebSocket frames, one per class that has members. Shared by every recipient.
#[derive(Clone, Debug, Default)]
pub struct FrameSet {
    variants: SmallVec<[(ClassMask, Bytes); 2]>,
}

/// Which classes a variant serves. `platform: None` serves every platform without a variant of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassMask {
    pub encoding: Encoding,
    pub deflate: bool,
    pub platform: Option<PlatformId>,
}

impl FrameSet {
    pub fn is_empty(&self) -> bool {
        self.variants.is_empty()
    }

    pub fn push(&mut self, mask: ClassMask, frame: Bytes) {
        self.variants.push((mask, frame));
    }

    /// The frame for a connection. An exact platform wins over a general variant; a deflating connection takes the plain
    /// variant if no compressed one exists (it did not pay).
    ///
    /// An empty frame means that this class sees nothing of the range and needs no frame now (only ephemeral messages
    /// for other platforms); `None` means that no variant was encoded for the class, which is a bug of the hub.
    pub fn select(&self, class: ConnClass) -> Option<&Bytes> {
        let fits = |mask: &ClassMask| {
            mask.encoding == class.encoding
                && (mask.deflate == class.deflate || !mask.deflate)
                && mask.platform.is_none_or(|p| p == class.platform)
        };
        self.variants
            .iter()
            .filter(|(mask, _)| fits(mask))
            .max_by_key(|(mask, _)| (mask.platform.is_some(), mask.deflate == class.deflate))
            .map(|(_, frame)| frame)
    }
}

/// What a connection asked for in its handshake or `connect` frame, already authenticated.
#[derive(Clone, Debug)]
pub struct Hello {
    pub uid: Uid,
    pub device: Box<str>,
    pub class: ConnClass,
    /// The `connect` frame's id: the session object answers it as `ok`; `None`: it goes out as `welcome`.
    pub reply_to: Option<u32>,
    pub cursors: Vec<(StreamKey, Cursor)>,
    pub auto_join: bool,
    pub ack_mode: AckMode,
    pub ping_interval_ms: u32,
    /// Milliseconds until the token expires, counted from promotion.
    pub expires_in_ms: Option<u64>,
    /// Milliseconds since the Unix epoch, for the session object.
    pub expires_at_ms: Option<i64>,
    pub platform_name: Box<str>,
}

/// Shard → hub.
#[derive(Debug)]
pub enum ToHub {
    /// A promoted connection wants its streams. `connection_id` is opaque outside and unguessable. Answered by [`ToShard::Send`] (the session object) and [`ToShard::AddMember`].
    Connected { conn: ConnRef, connection_id: Box<str>, hello: Box<Hello> },
    /// Answered by exactly one [`ToShard::Send`] with `finishes: Some(id)`.
    Request {
        conn: ConnRef,
        id: u32,
        who: Box<Requester>,
        op: Op,
        /// Streams that the connection is a member of at this moment. Filled for `Op::Join` and `Op::Leave` only, empty otherwise.
        /// A hint: commands that change it may be on their way.
        memberships: SmallVec<[StreamIdx; 4]>,
    },
    /// Memberships that ended; see the module's rule of counting. One entry per membership and stream.
    Left { conn: ConnRef, streams: SmallVec<[StreamIdx; 4]>, class: ConnClass },
    /// The connection is gone; comes once, after its `Left`.
    Disconnected { conn: ConnRef, uid: Uid, connection_id: Box<str> },
    /// A slow connection's socket drained: tell it what it missed. Answered by [`ToShard::Gap`].
    Gapped { conn: ConnRef, stream: StreamIdx, from: Seq, class: ConnClass },
    /// A fan-out with `report_done` reached every member of this shard.
    FanoutDone { shard: ShardId, stream: StreamIdx },
    /// Answers each [`ToShard::Invite`] exactly once, before any `Left` of those it added; `added` may be 0.
    Invited { shard: ShardId, stream: StreamIdx, added: u32 },
    /// A connection with [`AckMode::Sent`] has everything up to `upto` of its inbox (the stream whose `AddMember` said
    /// `inbox`) in its socket. At most once a second per connection, only when `upto` moved.
    Sent { who: Box<Requester>, stream: StreamIdx, upto: Seq },
    /// A connection that [`ToShard::TellPresent`] asks for.
    Present { conn: ConnRef, who: Box<Requester>, connection_id: Box<str> },
    /// Answers each [`ToShard::TellPresent`] once, behind its [`ToHub::Present`]s; `next`: where the shard goes on if it is asked.
    PresentTold { shard: ShardId, next: Option<u32> },
}

/// Whose request it is. The hub keeps no table of connections, so the shard says it each time.
#[derive(Clone, Debug)]
pub struct Requester {
    pub uid: Uid,
    pub device: Box<str>,
    pub class: ConnClass,
}

/// Hub → shard.
#[derive(Debug)]
pub enum ToShard {
    /// Send to every member, in slices. A stream never starts a fan-out while its previous one runs: the hub waits for
    /// [`ToHub::FanoutDone`] of every shard, or keeps fan-outs small enough for one slice.
    Fanout(Fanout),
    /// The connection receives the stream's fan-outs from here on. It stands at the stream's flushed seq, or, if `gapped`,
    /// has been told a `gap` and gets nothing until a pull reaches the head.
    AddMember {
        conn: ConnId,
        stream: StreamIdx,
        flushed: Seq,
        gapped: bool,
        class: ConnClass,
        /// This is the user's own inbox: what a connection with [`AckMode::Sent`] reports as [`ToHub::Sent`].
        inbox: bool,
    },
    /// The user became a member of a group: every member of `inbox` on this shard whose session has `auto_join` and that
    /// is not a member of `stream` yet gets its frame of `frames` (a `joined`) and then becomes one, standing at `flushed`.
    /// Answered by one [`ToHub::Invited`].
    Invite {
        inbox: StreamIdx,
        stream: StreamIdx,
        flushed: Seq,
        frames: FrameSet,
    },
    /// The user ceased to be a member: every connection of `uid` on this shard that is a member of `stream` is taken out,
    /// its queued and not yet begun frames of the stream may stay (they are older than the change), and it gets its frame of
    /// `frames` (a `left`). Fan-outs after this one never reach it. Answered by one `Left` per connection taken out.
    Expel {
        uid: Uid,
        stream: StreamIdx,
        frames: FrameSet,
    },
    /// The stream is no more: every member on this shard is taken out and gets its frame of `frames` (a `left`), or, if there
    /// are none at all, hears nothing. It takes its turn among the stream's fan-outs. Answered by one `Left` per member taken
    /// out.
    Dismiss {
        stream: StreamIdx,
        frames: FrameSet,
    },
    /// The hub cannot send what follows `from − 1`: every member becomes gapped as if its queue had overflowed there, and
    /// [`ToHub::Gapped`] goes out for each as its socket is drained (at once if nothing is queued). A member that is gapped
    /// already keeps its place, unless `new_epoch`: then `from` replaces it, frames of the stream that are queued and not
    /// yet begun are removed, and `Gapped` is sent also for those that were told a gap or wait for one. It takes its turn
    /// among the stream's fan-outs. `flushed` is the stream's flushed seq from here on (lower than before in a new epoch).
    GapAll {
        stream: StreamIdx,
        from: Seq,
        flushed: Seq,
        new_epoch: bool,
    },
    /// Say who is here and has the inbox in one of these partitions, a slice of all connections from the place `from` on.
    TellPresent {
        of: Partitions,
        partitions: Arc<[PartitionId]>,
        from: u32,
    },
    RemoveMember {
        conn: ConnId,
        stream: StreamIdx,
    },
    /// An encoded frame for one connection.
    Send(Direct),
    /// The `gap` frame asked for by [`ToHub::Gapped`].
    Gap {
        conn: ConnId,
        stream: StreamIdx,
        /// As in the `Gapped` that this answers. The shard drops the frame if the connection's gap begins elsewhere by now
        /// (a `GapAll` crossed it, and another answer follows).
        from: Seq,
        frame: Bytes,
    },
    Close {
        conn: ConnId,
        code: CloseCode,
        reason: &'static str,
    },
    /// Every connection that is here now is let go with 3000, to come back and open its streams anew. They go at once, since
    /// what they take for their streams is not so any more; what spreads their return is the `bye`.
    Reopen,
}

/// A frame for one connection: a reply, a recovery page, a notice.
#[derive(Debug)]
pub struct Direct {
    pub conn: ConnId,
    pub frame: Bytes,
    /// The request that this answers: its id leaves the in-flight set.
    pub finishes: Option<u32>,
    /// This pull reply brings the connection to this seq of the stream: if that is the stream's flushed seq, a gap ends.
    pub reached: Option<(StreamIdx, Seq)>,
    /// A recovery batch or gap that goes before an `AddMember` of this stream: the shard drops it if the connection is a
    /// member already (a repeated join must not bring anything twice).
    pub recovers: Option<StreamIdx>,
}

#[derive(Clone, Debug)]
pub struct Fanout {
    pub stream: StreamIdx,
    /// `None`: ephemeral.
    pub range: Option<SeqRange>,
    pub frames: FrameSet,
    /// Set when some shard may need more than one slice: every shard that got this then answers [`ToHub::FanoutDone`].
    pub report_done: bool,
    /// Messages in the batch, for accounting.
    pub messages: u32,
}
