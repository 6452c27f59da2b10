//! The hub alone on a bench: the test plays one shard and the link.

use std::time::Duration;

use smallvec::SmallVec;
use tidegate_gateway_core::client::ops::{AckMode, Op};
use tidegate_gateway_core::hub::{Hub, HubConfig};
use tidegate_gateway_core::ids::{ConnId, ConnRef, Now, Seq, SeqRange, ShardId, StreamIdx};
use tidegate_gateway_core::link::*;
use tidegate_gateway_core::messages::*;
use tidegate_proto::v1::server_frame::Body;

use super::control::{epoch, message};
use super::{frames, key, uid};

/// One hub, one shard that only collects, and a link that the test plays.
pub struct Bench {
    pub hub: Hub,
    pub now: Now,
    pub shard: Vec<ToShard>,
    pub link: Vec<ToLink>,
    /// Where each of `link` went.
    pub places: Vec<PartitionId>,
    pub lsn: u64,
}

pub const SHARD: ShardId = ShardId(0);

pub fn class(encoding: Encoding, deflate: bool, platform: u8) -> ConnClass {
    ConnClass { encoding, deflate, platform: PlatformId(platform) }
}

pub fn plain() -> ConnClass {
    class(Encoding::Proto, false, 1)
}

pub fn conn(index: u32) -> ConnRef {
    ConnRef { shard: SHARD, conn: ConnId { index, generation: 1 } }
}

/// A connection that has just been promoted.
pub fn connected(index: u32, hello: Hello) -> ToHub {
    ToHub::Connected { conn: conn(index), connection_id: "c".into(), hello: Box::new(hello) }
}

pub fn hello(user: &str, class: ConnClass) -> Hello {
    Hello {
        uid: uid(user),
        device: "d".into(),
        class,
        reply_to: None,
        cursors: Vec::new(),
        auto_join: true,
        ack_mode: AckMode::Client,
        ping_interval_ms: 60_000,
        expires_in_ms: None,
        expires_at_ms: Some(1_790_000_000_000),
        platform_name: "web".into(),
    }
}

impl Bench {
    /// One partition, whose link is up.
    pub fn new(config: HubConfig) -> Bench {
        Bench::with_partitions(config, 1)
    }

    pub fn with_partitions(config: HubConfig, partitions: u32) -> Bench {
        let count = Partitions::new(partitions).expect("a valid count");
        let mut bench = Bench::without_partitions(config);
        bench.hub.set_partitions(bench.now, count).expect("told once");
        for partition in count.all() {
            bench.link_of(partition, FromLink::Up);
        }
        bench.take_link();
        bench
    }

    /// Nobody has said yet how many there are.
    pub fn without_partitions(config: HubConfig) -> Bench {
        let (hub, now) = (Hub::new(config, 7), Now(1_000_000_000));
        Bench { hub, now, shard: Vec::new(), link: Vec::new(), places: Vec::new(), lsn: 0 }
    }

    pub fn collect(&mut self) {
        self.shard.extend(std::iter::from_fn(|| self.hub.poll_shard()).map(|(_, command)| command));
        for (partition, item) in std::iter::from_fn(|| self.hub.poll_link()) {
            self.places.push(partition);
            self.link.push(item);
        }
    }

    pub fn link(&mut self, item: FromLink) {
        self.link_of(PartitionId(0), item);
    }

    pub fn link_of(&mut self, partition: PartitionId, item: FromLink) {
        self.hub.handle_link(self.now, partition, item);
        self.collect();
    }

    /// What went up since, each with its partition.
    pub fn take_link(&mut self) -> Vec<(PartitionId, ToLink)> {
        std::mem::take(&mut self.places).into_iter().zip(std::mem::take(&mut self.link)).collect()
    }

    pub fn shard_says(&mut self, item: ToHub) {
        self.hub.handle_shard(self.now, item);
        self.collect();
    }

    pub fn pass(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        while self.hub.poll_timeout().is_some_and(|at| at <= self.now) {
            self.hub.handle_timeout(self.now);
            self.collect();
        }
    }

    pub fn position(&mut self) -> Position {
        self.lsn += 1;
        Position { partition: PartitionId(0), owner_epoch: 1, lsn: self.lsn }
    }

    pub fn deliver(&mut self, stream: &str, after: u64, messages: Vec<Message>) {
        let upto = messages.last().map_or(after, |message| message.seq.0);
        let range = Some(SeqRange { after: Seq(after), upto: Seq(upto) });
        self.deliver_range(stream, range, messages);
    }

    pub fn deliver_range(&mut self, stream: &str, range: Option<SeqRange>, messages: Vec<Message>) {
        let position = self.position();
        let stream = key(stream);
        let epoch = epoch(&stream, 1);
        self.link(FromLink::Deliver(Deliver { position, stream, epoch, range, messages, bytes: 100 }));
    }

    /// Seqs `after + 1 ..= upto`, one message each.
    pub fn deliver_seqs(&mut self, stream: &str, after: u64, upto: u64) {
        let messages = (after + 1..=upto).map(|seq| message(seq, "hello", &[])).collect();
        self.deliver(stream, after, messages);
    }

    pub fn last_corr(&self) -> Corr {
        let corr = self.link.iter().rev().find_map(|item| match item {
            ToLink::Open { corr, .. } | ToLink::Request { corr, .. } => Some(*corr),
            _ => None,
        });
        corr.expect("something was asked")
    }

    pub fn answer_open(&mut self, corr: Corr, streams: &[(&str, u64, bool)]) {
        for (stream, head, open_group) in streams {
            let stream = key(stream);
            let stands = OpenedStream {
                epoch: epoch(&stream, 1),
                head: Seq(*head),
                first: Seq(1),
                start: Seq(*head),
                recovered: Recovered::Full,
                page: Some(Vec::new()),
                open_group: *open_group,
                listed: false,
            };
            self.link(FromLink::Opened(Opened { corr, stream, result: Ok(stands) }));
        }
        self.link(FromLink::OpenEnd { corr });
    }

    /// A connection with streams that stand at the given heads.
    pub fn connect(&mut self, index: u32, hello: Hello, streams: &[(&str, u64, bool)]) {
        self.shard_says(connected(index, hello));
        let corr = self.last_corr();
        self.answer_open(corr, streams);
    }

    pub fn request(&mut self, index: u32, id: u32, user: &str, op: Op) {
        let who = Box::new(Requester { uid: uid(user), device: "d".into(), class: plain() });
        self.shard_says(ToHub::Request { conn: conn(index), id, who, op, memberships: SmallVec::new() });
    }

    pub fn take_fanouts(&mut self) -> Vec<Fanout> {
        let commands = std::mem::take(&mut self.shard).into_iter();
        commands.filter_map(|command| if let ToShard::Fanout(fanout) = command { Some(fanout) } else { None }).collect()
    }

    pub fn take_sent(&mut self) -> Vec<Body> {
        let commands = std::mem::take(&mut self.shard).into_iter();
        let sent = commands.filter_map(|command| if let ToShard::Send(direct) = command { Some(direct) } else { None });
        sent.map(|direct| frames::decode(Encoding::Proto, &direct.frame).body.expect("a body")).collect()
    }

    pub fn index_of(&self, flushed: u64) -> StreamIdx {
        let added = self.shard.iter().find_map(|command| match command {
            ToShard::AddMember { stream, flushed: at, .. } if *at == Seq(flushed) => Some(*stream),
            _ => None,
        });
        added.expect("added at that place")
    }
}

/// (after, upto, seqs) of a fan-out for one class.
pub fn batch(fanout: &Fanout, class: ConnClass) -> (Option<(u64, u64)>, Vec<u64>) {
    let frame = fanout.frames.select(class).expect("a variant");
    let Some(Body::Batch(batch)) = frames::decode(class.encoding, frame).body else { panic!("not a batch") };
    (batch.after.zip(batch.upto), batch.messages.iter().map(|message| message.seq).collect())
}

pub fn group() -> Bench {
    let mut bench = Bench::new(HubConfig { fanout_slice: 2, ..HubConfig::default() });
    bench.connect(1, hello("alice", plain()), &[("g:a", 0, true)]);
    bench.shard.clear();
    bench.link.clear();
    bench
}
