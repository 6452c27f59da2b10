//! One batch between its decisions and its commit: the records to write, what will be said then, and what later commands of
//! the same batch must already see.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

use super::access::View;
use super::api::{GatewayId, Input, LinkOpen, LinkOpenStream, Reply, Token};
use crate::domain::{
    Append, Body, Epoch, Gid, GroupChange, Joined, MembershipChange, Place, Record, Refusal, Seq, StreamKey, Uid,
    record::Dedup,
};
use crate::ports::{DedupHit, Group, Member, Progress};

#[derive(Debug)]
pub(super) struct Batch {
    pub records: Vec<Record>,
    /// Of the streams of all places, in order: routing needs them again.
    pub hashes: Vec<u64>,
    pub effects: Vec<Effect>,
    pub overlay: Overlay,
    /// A tick was among the inputs.
    pub tick: bool,
    /// Committed with the records.
    pub progress: Progress,
}

/// What is done after the commit, in the order of the inputs.
#[derive(Debug)]
pub(super) enum Effect {
    Reply {
        token: Token,
        result: Result<Reply, Refusal>,
    },
    /// Send a record to the gateways that want it.
    Route {
        record: u32,
        hashes: u32,
    },
    Ephemeral {
        stream: StreamKey,
        hash: u64,
        epoch: Epoch,
        body: Arc<Body>,
    },
    /// The group's record at this index ended it and these users' membership; `seq` is the message that says so.
    Dismissed {
        record: u32,
        seq: Seq,
        hash: u64,
        members: Vec<Uid>,
    },
    Pull {
        token: Token,
        pull: Box<Pull>,
    },
    Heads {
        token: Token,
        views: Vec<(StreamKey, Result<View, Refusal>)>,
    },
    Open(Box<Opening>),
    /// The record at this index is news for gateways that want the user's inbox.
    Joined {
        record: u32,
    },
    /// The record at this index owes something to other partitions.
    Errands {
        record: u32,
    },
    /// An input of a link that decides nothing. `before`: records of this batch that stand before it.
    Link {
        input: Input,
        before: u32,
    },
}

#[derive(Debug)]
pub(super) struct Pull {
    pub view: View,
    pub epoch: Option<Epoch>,
    pub after: Seq,
    pub since_ts: Option<i64>,
    pub limit: usize,
}

#[derive(Debug)]
pub(super) struct Opening {
    pub gateway: GatewayId,
    /// As it was asked, in case it has to be decided again.
    pub open: LinkOpen,
    /// And which of those that nobody named belong to other partitions. `None`: the store was not available to decide it.
    pub streams: Option<(Entered, Vec<StreamKey>)>,
}

/// The streams of an open and whether it may have each.
pub(super) type Entered = Vec<(Wanted, Result<View, Refusal>)>;

#[derive(Debug)]
pub(super) struct Wanted {
    pub stream: LinkOpenStream,
    /// By the client, not by `auto_join`.
    pub named: bool,
}

/// A device of a user, in a stream.
pub(super) type DeviceStream = (Uid, Box<str>, StreamKey);

/// Decisions that the store does not know yet.
#[derive(Debug)]
pub(super) struct Overlay {
    pub dedup: HashMap<[u8; 16], DedupHit, FixedState>,
    /// What the store said of keys of this batch, asked for all of them together.
    pub asked_keys: HashMap<[u8; 16], Option<DedupHit>, FixedState>,
    /// Begun or dismissed in this batch: for these the store's members do not count.
    pub groups: HashMap<Gid, Group, FixedState>,
    pub members: HashMap<(Gid, Uid), Member, FixedState>,
    pub marks: HashMap<DeviceStream, (Epoch, Seq), FixedState>,
    pub reads: HashMap<(Uid, StreamKey), (Epoch, Seq), FixedState>,
    /// Scratch for streams named twice.
    pub seen: HashSet<StreamKey, FixedState>,
}

impl Batch {
    pub fn new(seed: u64) -> Batch {
        let hasher = || FixedState::with_seed(seed);
        let overlay = Overlay {
            dedup: HashMap::with_hasher(hasher()),
            asked_keys: HashMap::with_hasher(hasher()),
            groups: HashMap::with_hasher(hasher()),
            members: HashMap::with_hasher(hasher()),
            marks: HashMap::with_hasher(hasher()),
            reads: HashMap::with_hasher(hasher()),
            seen: HashSet::with_hasher(hasher()),
        };
        Batch {
            records: Vec::new(),
            hashes: Vec::new(),
            effects: Vec::new(),
            overlay,
            tick: false,
            progress: Progress::default(),
        }
    }

    /// Adds a message and its routing. `places` come with the hashes of their streams.
    pub fn append(&mut self, body: Arc<Body>, places: SmallVec<[(Place, u64); 1]>, dedup: Option<Dedup>) {
        self.append_with(body, places, dedup, None);
    }

    pub fn append_with(
        &mut self,
        body: Arc<Body>,
        places: SmallVec<[(Place, u64); 1]>,
        dedup: Option<Dedup>,
        membership: Option<MembershipChange>,
    ) {
        let route = Effect::Route { record: self.records.len() as u32, hashes: self.hashes.len() as u32 };
        self.effects.push(route);
        let mut bare = SmallVec::with_capacity(places.len());
        for (place, hash) in places {
            self.hashes.push(hash);
            bare.push(place);
        }
        self.records.push(Record::Append(Append { body, places: bare, dedup, membership }));
    }

    /// The record that was added last owes something to other partitions.
    pub fn owes(&mut self) {
        self.effects.push(Effect::Errands { record: self.records.len() as u32 - 1 });
    }

    /// A user came into a group of another partition: told to gateways that know the user.
    pub fn joined(&mut self, joined: Joined) {
        self.effects.push(Effect::Joined { record: self.records.len() as u32 });
        self.records.push(Record::Joined(joined));
    }

    pub fn group(&mut self, change: GroupChange) {
        self.records.push(Record::Group(change));
    }

    pub fn reply(&mut self, token: Token, result: Result<Reply, Refusal>) {
        self.effects.push(Effect::Reply { token, result });
    }

    /// Empty again, with its buffers kept.
    pub fn clear(&mut self) {
        self.records.clear();
        self.hashes.clear();
        self.effects.clear();
        self.tick = false;
        self.progress = Progress::default();
        self.overlay.clear();
    }
}

impl Overlay {
    fn clear(&mut self) {
        self.dedup.clear();
        self.asked_keys.clear();
        self.groups.clear();
        self.members.clear();
        self.marks.clear();
        self.reads.clear();
    }
}
