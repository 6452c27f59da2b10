//! One live stream, and the table of all of them.
//!
//! An inbox exists per connected user, so a quiet stream is small: everything that only a busy stream needs is boxed in
//! [`Pending`] or in its [`Tail`] and freed when it has nothing to say.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::tail::Tail;
use crate::ids::{Epoch, Now, Seq, ShardId, StreamIdx, StreamKey};
use crate::link::{Corr, Message};
use crate::messages::{ConnClass, Encoding, PlatformId};

/// Knowledge about a stream that has members here, or had some a moment ago.
#[derive(Debug)]
pub(super) struct Stream {
    pub key: StreamKey,
    pub epoch: Epoch,
    /// R: everything up to here has arrived, without a hole.
    pub received: Seq,
    /// F: everything up to here was given to the shards. `flushed ≤ received`.
    pub flushed: Seq,
    /// Oldest seq still stored, as control last said.
    pub first: Seq,
    /// Nothing leaves before this moment, unless the window is full.
    pub window_end: Now,
    pub members: Members,
    pub classes: Classes,
    pub pending: Option<Box<Pending>>,
    pub tail: Option<Box<Tail>>,
    /// Tells this stream from an earlier one with the same index.
    pub serial: u32,
    /// Opens and invitations that will add members soon.
    pub holds: u32,
    /// Shards that have not yet reported the end of the running fan-out.
    pub running: u16,
    pub open_group: bool,
    pub lingering: bool,
}

/// What only a stream with something unfinished has.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Messages of `(F, R]`.
    pub durable: VecDeque<Message>,
    pub durable_bytes: usize,
    pub ephemeral: VecDeque<Message>,
    /// Known to exist beyond R: a hole to pull.
    pub heal: Option<Heal>,
    /// A gap for every member, which waits for the running fan-out.
    pub gap_all: Option<GapAll>,
    /// Opens whose connection starts above F.
    pub blocked: Vec<Corr>,
    /// Invitations that shards have not answered, with the members counted for them.
    pub invites: VecDeque<(ShardId, u32)>,
    pub timer_armed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heal {
    pub target: Seq,
    pub step: HealStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealStep {
    /// Until the window has room for a page.
    WaitsForRoom,
    /// In the queue of holes, or until a retry timer puts it there.
    Queued,
    Asked(Corr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GapAll {
    pub from: Seq,
    pub new_epoch: bool,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.durable.is_empty()
            && self.ephemeral.is_empty()
            && self.heal.is_none()
            && self.gap_all.is_none()
            && self.blocked.is_empty()
            && self.invites.is_empty()
            && !self.timer_armed
    }
}

/// Memberships per shard. Two shards fit inline, which is what an inbox has.
#[derive(Debug, Default)]
pub(super) struct Members(SmallVec<[(ShardId, u32); 2]>);

impl Members {
    pub fn add(&mut self, shard: ShardId, count: u32) {
        match self.0.iter_mut().find(|(s, _)| *s == shard) {
            Some((_, n)) => *n += count,
            None if count > 0 => self.0.push((shard, count)),
            None => {}
        }
    }

    /// Returns false if the shard had fewer, which breaks the counting rule of `messages`.
    pub fn remove(&mut self, shard: ShardId, count: u32) -> bool {
        let Some(at) = self.0.iter().position(|(s, n)| *s == shard && *n >= count) else { return false };
        self.0[at].1 -= count;
        if self.0[at].1 == 0 {
            self.0.swap_remove(at);
            if self.0.is_empty() {
                self.0 = SmallVec::new();
            }
        }
        true
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn shards(&self) -> impl Iterator<Item = (ShardId, u32)> + '_ {
        self.0.iter().copied()
    }
}

/// Classes that members have had since the stream last was empty, as bits: platforms from below, four codings on top.
/// Forgetting one too early would leave a member without a frame, so bits are only cleared all at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Classes(u64);

impl Classes {
    /// This bit stands for every platform from here on.
    pub const WIDE: u8 = 59;

    pub fn note(&mut self, class: ConnClass) {
        self.0 |= Classes::coding(class.encoding, class.deflate) | Classes::platform(class.platform);
    }

    pub fn merge(&mut self, other: Classes) {
        self.0 |= other.0;
    }

    pub fn has(self, encoding: Encoding, deflate: bool) -> bool {
        self.0 & Classes::coding(encoding, deflate) != 0
    }

    pub fn has_platform(self, platform: PlatformId) -> bool {
        self.0 & Classes::platform(platform) != 0
    }

    fn platform(platform: PlatformId) -> u64 {
        1 << platform.0.min(Classes::WIDE)
    }

    fn coding(encoding: Encoding, deflate: bool) -> u64 {
        1 << (60 + 2 * u8::from(encoding == Encoding::Proto) + u8::from(deflate))
    }
}

impl Stream {
    pub fn new(key: StreamKey, epoch: Epoch, head: Seq, first: Seq, serial: u32) -> Stream {
        Stream {
            key,
            epoch,
            received: head,
            flushed: head,
            first,
            window_end: Now(0),
            members: Members::default(),
            classes: Classes::default(),
            pending: None,
            tail: None,
            serial,
            holds: 0,
            running: 0,
            open_group: false,
            lingering: false,
        }
    }

    pub fn pending(&mut self) -> &mut Pending {
        self.pending.get_or_insert_default()
    }

    pub fn drop_empty_pending(&mut self) {
        if self.pending.as_ref().is_some_and(|pending| pending.is_empty()) {
            self.pending = None;
        }
    }

    /// Nobody here wants it and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.members.is_empty() && self.holds == 0 && self.running == 0
    }

    pub fn healing(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.heal.is_some())
    }

    pub fn has_unsent(&self) -> bool {
        self.flushed < self.received || self.pending.as_ref().is_some_and(|pending| !pending.ephemeral.is_empty())
    }

    /// Where a connection that brings `seq` can be brought up to date from: the hot tail reaches back to it.
    pub fn tail_covers(&self, seq: Seq) -> bool {
        let reaches = match &self.tail {
            Some(tail) => tail.after,
            None => self.received,
        };
        reaches <= seq && seq <= self.received
    }
}

const CHUNK: usize = 1_024;

/// Live streams by index and by key. Storage grows in chunks, so that growth neither copies nor doubles.
#[derive(Debug)]
pub(super) struct Streams {
    chunks: Vec<Vec<Option<Stream>>>,
    free: Vec<StreamIdx>,
    by_key: HashTable<StreamIdx>,
    hasher: FixedState,
    next_serial: u32,
}

impl Streams {
    pub fn new(seed: u64) -> Streams {
        Streams {
            chunks: Vec::new(),
            free: Vec::new(),
            by_key: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            next_serial: 1,
        }
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn find(&self, key: &StreamKey) -> Option<StreamIdx> {
        let hash = self.hasher.hash_one(key);
        self.by_key.find(hash, |idx| slot(&self.chunks, *idx).is_some_and(|s| s.key == *key)).copied()
    }

    pub fn at(&self, idx: StreamIdx) -> Option<&Stream> {
        slot(&self.chunks, idx)
    }

    pub fn at_mut(&mut self, idx: StreamIdx) -> Option<&mut Stream> {
        let index = idx.0 as usize;
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)?.as_mut()
    }

    /// A stream by index and serial, for timers and questions that may have outlived it.
    pub fn current(&mut self, idx: StreamIdx, serial: u32) -> Option<&mut Stream> {
        self.at_mut(idx).filter(|stream| stream.serial == serial)
    }

    /// The key must not be live yet.
    pub fn insert(&mut self, key: StreamKey, epoch: Epoch, head: Seq, first: Seq) -> StreamIdx {
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        let hash = self.hasher.hash_one(&key);
        let stream = Stream::new(key, epoch, head, first, serial);
        let idx = match self.free.pop() {
            Some(idx) => {
                self.chunks[idx.0 as usize / CHUNK][idx.0 as usize % CHUNK] = Some(stream);
                idx
            }
            None => self.push(stream),
        };
        let (chunks, hasher) = (&self.chunks, &self.hasher);
        self.by_key.insert_unique(hash, idx, |idx| {
            hasher.hash_one(&slot(chunks, *idx).expect("every index in the table is live").key)
        });
        idx
    }

    fn push(&mut self, stream: Stream) -> StreamIdx {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let chunk = self.chunks.len() - 1;
        self.chunks[chunk].push(Some(stream));
        StreamIdx((chunk * CHUNK + self.chunks[chunk].len() - 1) as u32)
    }

    pub fn remove(&mut self, idx: StreamIdx) -> Option<Stream> {
        let index = idx.0 as usize;
        let stream = self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)?.take()?;
        let hash = self.hasher.hash_one(&stream.key);
        if let Ok(entry) = self.by_key.find_entry(hash, |other| *other == idx) {
            entry.remove();
        }
        self.free.push(idx);
        Some(stream)
    }

    /// All live streams by index.
    pub fn iter(&self) -> impl Iterator<Item = (StreamIdx, &Stream)> {
        self.chunks
            .iter()
            .flatten()
            .enumerate()
            .filter_map(|(index, stream)| stream.as_ref().map(|stream| (StreamIdx(index as u32), stream)))
    }
}

fn slot(chunks: &[Vec<Option<Stream>>], idx: StreamIdx) -> Option<&Stream> {
    let index = idx.0 as usize;
    chunks.get(index / CHUNK)?.get(index % CHUNK)?.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The struct, the allocations of key and epoch (two counters and the text, rounded up by the allocator) and the
    /// stream's share of the table of keys.
    #[test]
    fn a_quiet_inbox_costs_about_200_bytes() {
        let key = (16 + "u:alice-1234567".len()).next_multiple_of(16);
        let epoch = (16 + "k3f9".len()).next_multiple_of(16);
        let table = 2 * (size_of::<StreamIdx>() + 1);
        assert_eq!(size_of::<Option<Stream>>(), 128);
        assert!(size_of::<Option<Stream>>() + key + epoch + table <= 202);
    }

    #[test]
    fn an_index_is_found_by_key_until_removed_and_then_reused_with_another_serial() {
        let mut streams = Streams::new(7);
        let key = |n: u32| format!("u:{n}").parse::<StreamKey>().expect("valid");
        let epoch = Epoch("e".into());
        let all: Vec<_> = (0..3_000).map(|n| streams.insert(key(n), epoch.clone(), Seq(0), Seq(1))).collect();
        assert_eq!(streams.len(), 3_000);
        assert_eq!(streams.find(&key(2_047)), Some(all[2_047]));
        let serial = streams.at(all[5]).expect("live").serial;
        assert!(streams.remove(all[5]).is_some());
        assert_eq!(streams.find(&key(5)), None);
        let again = streams.insert(key(5), epoch, Seq(9), Seq(1));
        assert_eq!(again, all[5]);
        assert!(streams.current(again, serial).is_none());
        assert_eq!(streams.iter().count(), 3_000);
    }

    #[test]
    fn removing_more_members_than_there_are_is_refused() {
        let mut members = Members::default();
        members.add(ShardId(1), 2);
        assert!(members.remove(ShardId(1), 1));
        assert!(!members.remove(ShardId(1), 2));
        assert!(!members.remove(ShardId(2), 1));
        assert!(members.remove(ShardId(1), 1));
        assert!(members.is_empty());
    }
}
