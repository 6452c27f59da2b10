//! One live stream, and the table of all of them.
//!
//! An inbox exists per connected user, so a quiet stream is small: everything that only a busy stream needs is boxed in
//! [`Extra`] and freed when it has nothing to say, keys stand in a table of texts, and streams share the text of their epoch.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use super::WINDOW_MS_MAX;
use super::tail::Tail;
use crate::chunks::Chunks;
use crate::ids::{Epoch, Now, Seq, ShardId, StreamIdx, StreamKey};
use crate::index::Index;
use crate::link::{Corr, Message};
use crate::messages::{ConnClass, Encoding, PlatformId};
use crate::texts::{TextId, Texts};

/// Knowledge about a stream that has members here, or had some a moment ago.
#[derive(Debug)]
pub(super) struct Stream {
    key: TextId,
    pub window: WindowEnd,
    pub epoch: Epoch,
    /// R: everything up to here has arrived, without a hole.
    pub received: Seq,
    /// F: everything up to here was given to the shards. `flushed ≤ received`.
    pub flushed: Seq,
    /// Oldest seq still stored, as control last said.
    pub first: Seq,
    pub classes: Classes,
    extra: Option<Box<Extra>>,
    /// Memberships of the shard `home`. A stream with members on others too has these in [`Extra`].
    at_home: u32,
    home: ShardId,
    pub fanout: FanoutState,
    /// Tells this stream from an earlier one with the same index.
    pub serial: u32,
    /// Opens and invitations that will add members soon.
    pub holds: u32,
}

const _: () = assert!(size_of::<Option<Stream>>() == 72);

/// Memberships of one shard.
#[derive(Clone, Copy, Debug)]
struct Members {
    count: u32,
    shard: ShardId,
}

/// The shards at work, and two facts in the bits that they leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FanoutState(u16);

/// What few streams have. Dropped as soon as all of it is empty.
#[derive(Debug, Default)]
struct Extra {
    pending: Option<Box<Pending>>,
    tail: Option<Box<Tail>>,
    /// Memberships of further shards.
    more: Vec<Members>,
}

/// The moment before which nothing leaves, unless the window is full: in whole milliseconds, of which 32 bits are kept. A
/// stream that was quiet for just 49.7 days may hold its first message back for one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WindowEnd(u32);

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

const MS: u64 = 1_000_000;
/// Fewer epochs than this are not worth a sweep.
const EPOCHS_SWEPT_MIN: usize = 64;

impl WindowEnd {
    /// A window that begins now.
    pub fn after(now: Now, window: Duration) -> WindowEnd {
        WindowEnd(((now + window).0 / MS) as u32)
    }

    /// When it ends; `None`: it has ended.
    pub fn still(self, now: Now) -> Option<Now> {
        let now_ms = now.0 / MS;
        let left = self.0.wrapping_sub(now_ms as u32);
        (1..=WINDOW_MS_MAX).contains(&left).then(|| Now((now_ms + u64::from(left)) * MS))
    }
}

impl FanoutState {
    const OPEN_GROUP: u16 = 1 << 15;
    const LINGERING: u16 = 1 << 14;

    fn shards(self) -> u16 {
        self.0 & (Self::LINGERING - 1)
    }

    fn set(&mut self, flag: u16, on: bool) {
        self.0 = if on { self.0 | flag } else { self.0 & !flag };
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
    fn new(key: TextId, epoch: Epoch, head: Seq, first: Seq, serial: u32) -> Stream {
        Stream {
            key,
            window: WindowEnd::default(),
            epoch,
            received: head,
            flushed: head,
            first,
            classes: Classes::default(),
            extra: None,
            at_home: 0,
            home: ShardId(0),
            fanout: FanoutState::default(),
            serial,
            holds: 0,
        }
    }

    pub fn pending(&self) -> Option<&Pending> {
        self.extra.as_ref()?.pending.as_deref()
    }

    pub fn pending_mut(&mut self) -> Option<&mut Pending> {
        self.extra.as_mut()?.pending.as_deref_mut()
    }

    pub fn make_pending(&mut self) -> &mut Pending {
        self.extra.get_or_insert_default().pending.get_or_insert_default()
    }

    pub fn drop_empty_pending(&mut self) {
        if let Some(extra) = &mut self.extra
            && extra.pending.as_ref().is_some_and(|pending| pending.is_empty())
        {
            extra.pending = None;
            self.trim();
        }
    }

    pub fn tail(&self) -> Option<&Tail> {
        self.extra.as_ref()?.tail.as_deref()
    }

    pub fn tail_mut(&mut self) -> Option<&mut Tail> {
        self.extra.as_mut()?.tail.as_deref_mut()
    }

    pub fn make_tail(&mut self, make: impl FnOnce() -> Tail) -> &mut Tail {
        self.extra.get_or_insert_default().tail.get_or_insert_with(|| Box::new(make()))
    }

    pub fn take_tail(&mut self) -> Option<Box<Tail>> {
        let tail = self.extra.as_mut()?.tail.take();
        self.trim();
        tail
    }

    pub fn add_members(&mut self, shard: ShardId, count: u32) {
        if count == 0 {
            return;
        }
        if self.at_home == 0 {
            self.home = shard;
        }
        if self.home == shard {
            self.at_home += count;
            return;
        }
        let more = &mut self.extra.get_or_insert_default().more;
        match more.iter_mut().find(|members| members.shard == shard) {
            Some(members) => members.count += count,
            None => more.push(Members { count, shard }),
        }
    }

    /// Returns false if the shard had fewer, which breaks the counting rule of `messages`.
    pub fn remove_members(&mut self, shard: ShardId, count: u32) -> bool {
        let more = self.extra.as_mut().map_or(&mut [][..], |extra| &mut extra.more);
        let of_shard = if self.home == shard {
            Some(&mut self.at_home)
        } else {
            more.iter_mut().find(|members| members.shard == shard).map(|members| &mut members.count)
        };
        let Some(of_shard) = of_shard.filter(|of_shard| **of_shard >= count) else { return false };
        *of_shard -= count;
        if let Some(extra) = &mut self.extra {
            extra.more.retain(|members| members.count > 0);
            if self.at_home == 0
                && let Some(other) = extra.more.pop()
            {
                (self.home, self.at_home) = (other.shard, other.count);
            }
            self.trim();
        }
        true
    }

    pub fn has_members(&self) -> bool {
        self.at_home > 0
    }

    /// Memberships per shard.
    pub fn members(&self) -> impl Iterator<Item = (ShardId, u32)> + '_ {
        let more = self.extra.as_ref().map_or(&[][..], |extra| &extra.more);
        let home = self.has_members().then_some((self.home, self.at_home));
        home.into_iter().chain(more.iter().map(|members| (members.shard, members.count)))
    }

    /// Shards that have not yet reported the end of the running fan-out.
    pub fn is_running(&self) -> bool {
        self.fanout.shards() > 0
    }

    /// One more shard is at work.
    pub fn begin_on_shard(&mut self) {
        self.fanout.0 += 1;
    }

    /// Returns whether no shard is at work any more.
    pub fn end_on_shard(&mut self) -> bool {
        self.fanout.0 -= u16::from(self.is_running());
        !self.is_running()
    }

    pub fn is_open_group(&self) -> bool {
        self.fanout.0 & FanoutState::OPEN_GROUP != 0
    }

    pub fn set_open_group(&mut self, on: bool) {
        self.fanout.set(FanoutState::OPEN_GROUP, on);
    }

    pub fn is_lingering(&self) -> bool {
        self.fanout.0 & FanoutState::LINGERING != 0
    }

    pub fn set_lingering(&mut self, on: bool) {
        self.fanout.set(FanoutState::LINGERING, on);
    }

    /// Nobody here wants it and nothing is under way.
    pub fn is_idle(&self) -> bool {
        !self.has_members() && self.holds == 0 && !self.is_running()
    }

    pub fn healing(&self) -> bool {
        self.pending().is_some_and(|pending| pending.heal.is_some())
    }

    pub fn has_unsent(&self) -> bool {
        self.flushed < self.received || self.pending().is_some_and(|pending| !pending.ephemeral.is_empty())
    }

    /// Where a connection that brings `seq` can be brought up to date from: the hot tail reaches back to it.
    pub fn tail_covers(&self, seq: Seq) -> bool {
        let reaches = match self.tail() {
            Some(tail) => tail.after,
            None => self.received,
        };
        reaches <= seq && seq <= self.received
    }

    fn trim(&mut self) {
        let empty = |extra: &Extra| extra.pending.is_none() && extra.tail.is_none() && extra.more.is_empty();
        if self.extra.as_deref().is_some_and(empty) {
            self.extra = None;
        }
    }
}

/// Live streams by index and by key.
#[derive(Debug)]
pub(super) struct Streams {
    streams: Chunks<Option<Stream>>,
    free: Vec<StreamIdx>,
    by_key: Index,
    keys: Texts,
    /// Epochs of live streams: nearly all of them have the same. Those of streams that are gone are swept out now and then.
    epochs: HashSet<Epoch, FixedState>,
    sweep_epochs_at: usize,
    hasher: FixedState,
    next_serial: u32,
}

impl Streams {
    pub fn new(seed: u64) -> Streams {
        Streams {
            streams: Chunks::default(),
            free: Vec::new(),
            by_key: Index::default(),
            keys: Texts::default(),
            epochs: HashSet::with_hasher(FixedState::with_seed(seed)),
            sweep_epochs_at: EPOCHS_SWEPT_MIN,
            hasher: FixedState::with_seed(seed),
            next_serial: 1,
        }
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn find(&self, key: &StreamKey) -> Option<StreamIdx> {
        let name = key.as_str().as_bytes();
        let is = |at| self.at(StreamIdx(at)).is_some_and(|stream| self.keys.bytes(stream.key) == name);
        self.by_key.find(self.hasher.hash_one(name), is).map(StreamIdx)
    }

    pub fn at(&self, idx: StreamIdx) -> Option<&Stream> {
        self.streams.at(idx.0 as usize)?.as_ref()
    }

    pub fn at_mut(&mut self, idx: StreamIdx) -> Option<&mut Stream> {
        self.streams.at_mut(idx.0 as usize)?.as_mut()
    }

    /// Empty for a stream that is not live.
    pub fn key_text(&self, idx: StreamIdx) -> &str {
        self.at(idx).map_or("", |stream| self.keys.text(stream.key))
    }

    pub fn key(&self, idx: StreamIdx) -> Option<StreamKey> {
        self.key_text(idx).parse().ok()
    }

    /// A stream by index and serial, for timers and questions that may have outlived it.
    pub fn current(&mut self, idx: StreamIdx, serial: u32) -> Option<&mut Stream> {
        self.at_mut(idx).filter(|stream| stream.serial == serial)
    }

    /// The key must not be live yet.
    pub fn insert(&mut self, key: &StreamKey, epoch: &Epoch, head: Seq, first: Seq) -> StreamIdx {
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        let epoch = self.share_epoch(epoch);
        let stream = Stream::new(self.keys.insert(&[key.as_str()]), epoch, head, first, serial);
        let at = match self.free.pop() {
            Some(idx) => {
                if let Some(place) = self.streams.at_mut(idx.0 as usize) {
                    *place = Some(stream);
                }
                idx.0
            }
            None => self.streams.push(Some(stream)) as u32,
        };
        let (streams, keys, hasher) = (&self.streams, &self.keys, &self.hasher);
        let hash_of = |at: u32| {
            let stream = streams.at(at as usize).and_then(Option::as_ref);
            hasher.hash_one(stream.map_or(&[][..], |stream| keys.bytes(stream.key)))
        };
        self.by_key.insert(hash_of(at), at, hash_of);
        StreamIdx(at)
    }

    /// Forgets the stream and returns its key.
    pub fn remove(&mut self, idx: StreamIdx) -> Option<StreamKey> {
        let key = self.key(idx)?;
        let stream = self.streams.at_mut(idx.0 as usize)?.take()?;
        self.by_key.remove(self.hasher.hash_one(key.as_str().as_bytes()), idx.0);
        self.keys.remove(stream.key);
        self.free.push(idx);
        Some(key)
    }

    pub fn set_epoch(&mut self, idx: StreamIdx, epoch: &Epoch) {
        let epoch = self.share_epoch(epoch);
        if let Some(stream) = self.at_mut(idx) {
            stream.epoch = epoch;
        }
    }

    /// The key of every live stream, as text.
    pub fn all_texts(&self) -> impl Iterator<Item = &str> {
        self.streams.iter().flatten().map(|stream| self.keys.text(stream.key))
    }

    /// The index of every live stream.
    pub fn all(&self) -> Vec<StreamIdx> {
        let live = self.streams.iter().enumerate().filter(|(_, stream)| stream.is_some());
        live.map(|(at, _)| StreamIdx(at as u32)).collect()
    }

    fn share_epoch(&mut self, epoch: &Epoch) -> Epoch {
        if let Some(shared) = self.epochs.get(epoch) {
            return shared.clone();
        }
        if self.epochs.len() >= self.sweep_epochs_at {
            self.epochs.retain(|epoch| epoch.shares() > 1);
            self.sweep_epochs_at = EPOCHS_SWEPT_MIN.max(2 * self.epochs.len());
        }
        self.epochs.insert(epoch.clone());
        epoch.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> StreamKey {
        format!("u:{n}").parse().expect("valid")
    }

    /// The struct, its key in a block of the table of texts, and its share of the index of keys, at worst.
    #[test]
    fn a_quiet_inbox_costs_little_more_than_a_hundred_bytes() {
        let key = (1 + "u:lt123456789-199999".len()).next_multiple_of(8);
        let index = (size_of::<StreamIdx>() + 1) * 16 / 7;
        assert!(size_of::<Option<Stream>>() + key + index <= 107);
    }

    #[test]
    fn an_index_is_found_by_key_until_removed_and_then_reused_with_another_serial() {
        let mut streams = Streams::new(7);
        let epoch = Epoch::from("e");
        let all: Vec<_> = (0..3_000).map(|n| streams.insert(&key(n), &epoch, Seq(0), Seq(1))).collect();
        assert_eq!(streams.len(), 3_000);
        assert_eq!(streams.find(&key(2_047)), Some(all[2_047]));
        let serial = streams.at(all[5]).expect("live").serial;
        assert_eq!(streams.remove(all[5]), Some(key(5)));
        assert_eq!(streams.find(&key(5)), None);
        let again = streams.insert(&key(5), &epoch, Seq(9), Seq(1));
        assert_eq!(again, all[5]);
        assert!(streams.current(again, serial).is_none());
        assert_eq!(streams.all_texts().count(), 3_000);
    }

    #[test]
    fn streams_share_the_text_of_an_epoch_and_those_of_gone_streams_do_not_pile_up() {
        let mut streams = Streams::new(7);
        let one = streams.insert(&key(1), &Epoch::from("e"), Seq(0), Seq(1));
        let two = streams.insert(&key(2), &Epoch::from("e"), Seq(0), Seq(1));
        assert_eq!(streams.at(one).map(|stream| stream.epoch.shares()), Some(3));
        streams.set_epoch(two, &Epoch::from("f"));
        assert_eq!(streams.at(one).map(|stream| stream.epoch.shares()), Some(2));
        for n in 0..10_000 {
            let idx = streams.insert(&key(7), &Epoch::from(format!("e{n}")), Seq(0), Seq(1));
            assert!(streams.remove(idx).is_some());
        }
        assert!(streams.epochs.len() <= EPOCHS_SWEPT_MIN);
        assert_eq!(streams.at(one).map(|stream| stream.epoch.as_str()), Some("e"));
    }

    #[test]
    fn members_are_counted_on_every_shard() {
        let mut streams = Streams::new(7);
        let idx = streams.insert(&key(1), &Epoch::from("e"), Seq(0), Seq(1));
        let stream = streams.at_mut(idx).expect("live");
        stream.add_members(ShardId(1), 2);
        assert!(stream.remove_members(ShardId(1), 1));
        assert!(!stream.remove_members(ShardId(1), 2), "fewer are left");
        assert!(!stream.remove_members(ShardId(2), 1));
        stream.add_members(ShardId(2), 5);
        stream.add_members(ShardId(3), 1);
        assert!(stream.remove_members(ShardId(1), 1));
        let mut left: Vec<_> = stream.members().collect();
        left.sort_unstable();
        assert_eq!(left, [(ShardId(2), 5), (ShardId(3), 1)]);
        assert!(stream.remove_members(ShardId(2), 5) && stream.remove_members(ShardId(3), 1));
        assert!(!stream.has_members() && stream.extra.is_none());
    }

    #[test]
    fn a_window_ends_at_its_millisecond_also_where_the_count_wraps() {
        let wrap = (1 << 32) * MS;
        for begin in [0, 5 * MS + 300_000, wrap - 20 * MS, wrap - 50 * MS] {
            let end = begin / MS * MS + 50 * MS;
            let window = WindowEnd::after(Now(begin), Duration::from_millis(50));
            assert_eq!(window.still(Now(begin)), Some(Now(end)));
            assert_eq!(window.still(Now(end - 1)), Some(Now(end)));
            assert_eq!(window.still(Now(end)), None);
            assert_eq!(window.still(Now(end + 3_600_000 * MS)), None);
            assert_eq!(WindowEnd::after(Now(begin), Duration::ZERO).still(Now(begin)), None);
        }
    }
}
