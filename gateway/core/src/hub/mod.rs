//! Streams of one node: windows, encoding, memberships, recovery, holes.
//!
//! The hub is sans-io. Shards say what connections want ([`ToHub`]), control says what happened ([`FromLink`]), and after
//! every `handle_*` the caller takes what came of it from [`Hub::poll_shard`] and [`Hub::poll_link`] until both are empty,
//! then asks [`Hub::poll_timeout`] when to call [`Hub::handle_timeout`].
//!
//! Invariants, per live stream:
//!
//! * **Seam.** `F ≤ R`. What shards were given ends at F, what has arrived without a hole ends at R. A connection is added
//!   exactly at F: its recovery frames and its `AddMember` go into the same FIFO to its shard as the fan-outs.
//! * **No hole is passed on.** What lies beyond R is not kept but pulled, by one question per stream; a stream whose
//!   window has no room is treated in the same way. What cannot be had any more is told to every member as a gap.
//! * **One fan-out at a time**, unless all of it fits one slice of every shard.
//! * **Memberships are counted**, never listed: there is no table of connections here. A stream with no member, no open
//!   under way and nothing running is forgotten after it lingered.
//!
//! What it does not do: authorisation (control's, apart from a user's own inbox and open groups), sockets, slow consumers
//! (the shards').

mod attach;
mod compress;
mod config;
mod encode;
mod gather;
mod heal;
mod interest;
mod members;
mod open;
mod ops;
mod partitions;
mod parts;
mod present;
mod recover;
mod stream;
mod tail;
mod window;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use compress::Compressor;
pub use config::*;
use encode::Encoder;
use gather::Gathering;
use open::{Late, PendingOpen};
use ops::Asked;
use partitions::Links;
pub use partitions::PartitionsChanged;
use present::Telling;
use stream::Streams;
use tail::Tails;

use crate::ids::{Now, PartitionId, ShardId, StreamIdx, Uid};
use crate::link::{Corr, FromLink, ToLink};
use crate::messages::{ToHub, ToShard};

/// One per node.
pub struct Hub {
    config: HubConfig,
    streams: Streams,
    tails: Tails,
    encoder: Encoder,
    opens: HashMap<Corr, PendingOpen, FixedState>,
    /// Opens by user, for membership changes and departures that overtake them.
    opens_of: HashMap<Uid, SmallVec<[Corr; 2]>, FixedState>,
    /// The open that a part belongs to.
    parts: HashMap<Corr, Corr, FixedState>,
    /// Opens from before the number of partitions was known.
    unrouted: Vec<Corr>,
    /// Bytes of pages in opens that wait.
    pages_held: usize,
    /// Opens whose stream moved on: they may be able to finish.
    retries: VecDeque<Corr>,
    /// What was asked of which partition.
    requests: HashMap<Corr, (PartitionId, Asked), FixedState>,
    gatherings: HashMap<Corr, Gathering, FixedState>,
    timers: BinaryHeap<Reverse<Timer>>,
    /// Streams without members, by the end of their lingering.
    lingering: VecDeque<(Now, StreamIdx, u32)>,
    links: Links,
    telling: Telling,
    next_corr: Corr,
    random: u64,
    to_shard: VecDeque<(ShardId, ToShard)>,
    to_link: VecDeque<(PartitionId, ToLink)>,
    stats: HubStats,
}

/// Ordered by time; the rest only breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    at: Now,
    stream: StreamIdx,
    serial: u32,
    kind: TimerKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKind {
    Window,
    Heal,
}

impl Hub {
    /// `seed` drives hash tables and jitter: the same seed and inputs give the same outputs.
    pub fn new(config: HubConfig, seed: u64) -> Self {
        let hasher = || FixedState::with_seed(seed);
        let config = HubConfig { window_ms: config.window_ms.min(WINDOW_MS_MAX), ..config };
        Hub {
            streams: Streams::new(seed),
            tails: Tails::new(config.hot_tail_messages, config.hot_tail_bytes_max),
            encoder: Encoder::new(Compressor::new(config.compression, config.cpu_clock)),
            opens: HashMap::with_hasher(hasher()),
            opens_of: HashMap::with_hasher(hasher()),
            parts: HashMap::with_hasher(hasher()),
            unrouted: Vec::new(),
            pages_held: 0,
            retries: VecDeque::new(),
            requests: HashMap::with_hasher(hasher()),
            gatherings: HashMap::with_hasher(hasher()),
            timers: BinaryHeap::new(),
            lingering: VecDeque::new(),
            links: Links::new(seed),
            telling: Telling::default(),
            next_corr: 1,
            random: seed,
            to_shard: VecDeque::new(),
            to_link: VecDeque::new(),
            stats: HubStats::default(),
            config,
        }
    }

    /// Poll both queues afterwards.
    pub fn handle_shard(&mut self, now: Now, item: ToHub) {
        match item {
            ToHub::Connected { conn, connection_id, hello } => self.connected(conn, connection_id, hello),
            ToHub::Request { conn, id, who, op, memberships } => self.request(now, conn, id, who, op, &memberships),
            ToHub::Left { conn, streams, class: _ } => {
                for idx in streams {
                    self.member_left(now, conn.shard, idx);
                }
            }
            ToHub::Disconnected { conn, uid, connection_id } => self.disconnected(conn, uid, connection_id),
            ToHub::Gapped { conn, stream, from, class } => self.gapped(conn, stream, from, class),
            ToHub::FanoutDone { shard: _, stream } => self.fanout_done(now, stream),
            ToHub::Invited { shard, stream, added } => self.invited(now, shard, stream, added),
            ToHub::Sent { who, stream, upto } => self.sent(*who, stream, upto),
            ToHub::Present { conn, who, connection_id } => self.present(conn, *who, connection_id),
            ToHub::PresentTold { shard, next } => self.present_told(now, shard, next),
        }
        self.settle(now);
    }

    /// What came on the attachment of `partition`. Of one attachment nothing comes after its `Down`. Poll both queues
    /// afterwards.
    pub fn handle_link(&mut self, now: Now, partition: PartitionId, item: FromLink) {
        match item {
            FromLink::History { history } => self.history(partition, history),
            FromLink::Up => self.link_up(now, partition),
            FromLink::Down => self.link_down(now, partition),
            FromLink::Deliver(deliver) => self.deliver(now, partition, deliver),
            FromLink::Position(position) => {
                self.accept_position(partition, position);
            }
            FromLink::Reset(position) => self.reset(now, partition, position),
            FromLink::Opened(opened) => self.opened(now, partition, opened),
            FromLink::OpenEnd { corr } => self.open_end(now, corr),
            FromLink::Also { corr, streams } => self.opens_also(corr, streams),
            FromLink::Reply { corr, result } => self.reply(now, partition, corr, result),
            FromLink::Membership { uid, stream, epoch, seq, joined, reason, position } => {
                if !self.accept_position(partition, position) {
                    return;
                }
                let elsewhere = self.links.of(stream.as_str()) != partition;
                match joined {
                    true => self.membership_began(uid, Late { stream, epoch, seq, elsewhere }),
                    // Who has members of the group hears it from the group's own partition, in the order of its log.
                    false if elsewhere => {}
                    false => self.membership_ended(now, uid, stream, seq, &reason),
                }
            }
        }
        self.settle(now);
    }

    /// Works off what is due, at most [`TIMERS_PER_CALL_MAX`] timers. Poll both queues afterwards, then `poll_timeout`,
    /// which lies in the past if there is more.
    pub fn handle_timeout(&mut self, now: Now) {
        for _ in 0..TIMERS_PER_CALL_MAX {
            let Some(Reverse(timer)) = self.timers.peek().copied().filter(|Reverse(timer)| timer.at <= now) else {
                break;
            };
            self.timers.pop();
            match timer.kind {
                TimerKind::Window => self.window_ended(now, timer.stream, timer.serial),
                TimerKind::Heal => self.queue_heal(self.partition_at(timer.stream), timer.stream, timer.serial),
            }
        }
        for _ in 0..TIMERS_PER_CALL_MAX {
            let Some(&(at, idx, serial)) = self.lingering.front() else { break };
            if at > now {
                break;
            }
            self.lingering.pop_front();
            self.lingered(now, idx, serial);
        }
        self.go_on_telling(now);
        self.settle(now);
    }

    pub fn poll_timeout(&self) -> Option<Now> {
        let timer = self.timers.peek().map(|Reverse(timer)| timer.at);
        let linger = self.lingering.front().map(|(at, ..)| *at);
        [timer, linger, self.telling.next_at()].into_iter().flatten().min()
    }

    pub fn poll_shard(&mut self) -> Option<(ShardId, ToShard)> {
        self.to_shard.pop_front()
    }

    /// With the partition whose attachment it is for.
    pub fn poll_link(&mut self) -> Option<(PartitionId, ToLink)> {
        self.to_link.pop_front()
    }

    pub fn stats(&self) -> HubStats {
        HubStats {
            streams: self.streams.len() as u64,
            hot_tail_bytes: self.tails.bytes(),
            opens_pending: self.opens.len() as u64,
            requests_pending: self.requests.len() as u64,
            partitions: self.links.count().map_or(0, |count| count.count().into()),
            partitions_up: self.links.up() as u64,
            frames_encoded: self.encoder.frames,
            deflate: self.encoder.deflate_stats(),
            ..self.stats
        }
    }

    /// Ends every public call: what became possible by it happens now.
    fn settle(&mut self, now: Now) {
        while let Some(corr) = self.retries.pop_front() {
            self.try_finish(now, corr);
        }
        while let Some(partition) = self.links.next_stirred() {
            self.pump_heals(now, partition);
            self.pump_opens(partition);
        }
    }

    fn send(&mut self, shard: ShardId, command: ToShard) {
        self.to_shard.push_back((shard, command));
    }

    fn corr(&mut self) -> Corr {
        let corr = self.next_corr;
        self.next_corr += 1;
        corr
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn jitter_ms(&mut self, span_ms: u32) -> u32 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        ((u128::from(z) * (u128::from(span_ms) + 1)) >> 64) as u32
    }

    fn window(&self) -> Duration {
        Duration::from_millis(self.config.window_ms.into())
    }
}
