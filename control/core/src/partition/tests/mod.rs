//! The partition over a memory store, behaviour by behaviour.

mod failures;
mod groups;
mod links;
mod opens;
mod properties;
mod pushes;
mod reads;
mod scattered;
mod world;

use smallvec::SmallVec;

use super::*;
use crate::domain::{Content, Epoch, ErrorCode, Gid, PartitionId, Priority, Refusal, Seq, StreamKey, Timestamp, Uid};
use crate::ports::memory::{MemoryDisk, MemoryStore};
use crate::ports::{Head, Page, StoreError, Stored};

const BASE: Epoch = Epoch(0xba5e);
const GATEWAY: GatewayId = GatewayId(1);

/// A partition, its disk and its clock.
struct Rig {
    disk: MemoryDisk,
    partition: Partition<MemoryStore>,
    config: PartitionConfig,
    now: i64,
    token: u64,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(PartitionConfig { auto_groups: true, worker: 3, ..PartitionConfig::default() })
    }

    fn with(config: PartitionConfig) -> Rig {
        Rig::of(PartitionId(0), config)
    }

    fn of(id: PartitionId, config: PartitionConfig) -> Rig {
        let disk = MemoryDisk::new(BASE);
        let partition = Partition::new(id, disk.open(), config.clone(), 42).expect("opens");
        Rig { disk, partition, config, now: ID_EPOCH_MS + 1_000_000, token: 0 }
    }

    /// The process dies and starts again on the same disk.
    fn restart(&mut self) {
        self.disk.heal();
        let store = self.disk.open();
        let id = self.partition.origin().partition;
        self.partition = Partition::new(id, store, self.config.clone(), 43).expect("opens");
    }

    /// The retention of everything so far: nothing of it can be read or replayed.
    fn trim(&mut self, upto: u64) {
        let mut store = self.disk.open();
        store.trim(crate::domain::Lsn(upto));
        drop(store);
        self.restart();
    }

    fn turn(&mut self, mut inputs: Vec<Input>) -> Vec<Output> {
        let mut out = Vec::new();
        self.partition.handle(Timestamp(self.now), &mut inputs, &mut out).expect("the store works");
        assert!(inputs.is_empty());
        out
    }

    fn command(&mut self, command: Command) -> Input {
        self.token += 1;
        Input::Command { token: Token(self.token), command }
    }

    fn ask(&mut self, command: Command) -> Result<Reply, Refusal> {
        let input = self.command(command);
        let mut replies: Vec<_> = self.turn(vec![input]).into_iter().filter_map(reply).collect();
        assert_eq!(replies.len(), 1, "exactly one reply per command");
        let (token, result) = replies.remove(0);
        assert_eq!(token, Token(self.token));
        result
    }

    fn refusal(&mut self, command: Command) -> ErrorCode {
        match self.ask(command) {
            Ok(reply) => panic!("not refused: {reply:?}"),
            Err(refusal) => refusal.code,
        }
    }

    fn push(&mut self, push: Push) -> (Seq, bool) {
        match self.ask(Command::Push(Box::new(push))).expect("pushed") {
            Reply::Pushed { seq: Some(seq), duplicate, .. } => (seq, duplicate),
            other => panic!("no place: {other:?}"),
        }
    }

    fn pull(&mut self, who: Option<&str>, name: &str, after: u64) -> Result<(Page, Head), Refusal> {
        self.ask(pull(who, name, after)).map(|reply| match reply {
            Reply::Page { page, head, .. } => (page, head),
            other => panic!("no page: {other:?}"),
        })
    }

    /// Attaches a gateway that is interested in nothing yet.
    fn attach(&mut self, gateway: GatewayId, credit_bytes: u64) {
        let out =
            self.turn(vec![Input::LinkUp { gateway, credit_bytes }, Input::InterestEnd { gateway, cursor: None }]);
        assert!(matches!(links(out, gateway)[..], [LinkItem::Position { .. }]));
    }

    fn open(&mut self, open: LinkOpen) -> Vec<LinkItem> {
        let out = self.turn(vec![Input::Open { gateway: GATEWAY, open }]);
        links(out, GATEWAY)
    }
}

fn reply(output: Output) -> Option<(Token, Result<Reply, Refusal>)> {
    match output {
        Output::Reply { token, result } => Some((token, result)),
        _ => None,
    }
}

/// What one gateway got.
fn links(out: Vec<Output>, to: GatewayId) -> Vec<LinkItem> {
    let items = out.into_iter().filter_map(|output| match output {
        Output::Link { gateway, item } if gateway == to => Some(item),
        _ => None,
    });
    items.collect()
}

/// `(lsn, stream, after, upto, seqs)` of the Delivers.
fn delivers(items: &[LinkItem]) -> Vec<(u64, String, u64, u64, Vec<u64>)> {
    let delivers = items.iter().filter_map(|item| match item {
        LinkItem::Deliver { lsn, stream, after, upto, messages, .. } => {
            Some((lsn.0, stream.to_string(), after.0, upto.0, seqs(messages)))
        }
        _ => None,
    });
    delivers.collect()
}

fn seqs(messages: &[Stored]) -> Vec<u64> {
    messages.iter().map(|m| m.seq.0).collect()
}

fn stream(name: &str) -> StreamKey {
    name.parse().expect("a valid stream key")
}

fn uid(name: &str) -> Uid {
    name.parse().expect("a valid uid")
}

fn gid(name: &str) -> Gid {
    name.parse().expect("a valid gid")
}

/// A backend's push of a text.
fn push(to: &str, text: &str) -> Push {
    Push {
        id: None,
        ack_durable: false,
        to: stream(to),
        sender: None,
        from: "billing".into(),
        client_msg_id: "".into(),
        message_id: None,
        kind: "text".into(),
        title: "".into(),
        content: Content::Text(text.into()),
        metadata: "".into(),
        ephemeral: false,
        priority: Priority::Normal,
        ttl_s: 0,
        platforms: SmallVec::new(),
    }
}

fn keyed(to: &str, text: &str, key: &str) -> Push {
    Push { message_id: Some(key.into()), ..push(to, text) }
}

/// A client's send.
fn send(sender: &str, to: &str, text: &str) -> Push {
    Push { sender: Some(uid(sender)), from: "".into(), ..push(to, text) }
}

fn pushes(to: &str, count: usize) -> Vec<Input> {
    let command = |at| Command::Push(Box::new(push(to, &format!("{at}"))));
    (0..count).map(|at| Input::Command { token: Token(1_000_000 + at as u64), command: command(at) }).collect()
}

fn pull(who: Option<&str>, name: &str, after: u64) -> Command {
    let (uid, stream, after) = (who.map(uid), stream(name), Seq(after));
    Command::Pull { uid, stream, epoch: None, after, since_ts: None, limit: 100 }
}

fn create(name: &str, open: bool, creator: Option<&str>, members: &[&str]) -> Command {
    let members = members.iter().map(|name| uid(name)).collect();
    Command::CreateGroup { gid: gid(name), name: "A group".into(), open, creator: creator.map(uid), members }
}

fn ack(who: &str, device: &str, name: &str, seq: u64) -> Command {
    Command::Ack { uid: uid(who), device: device.into(), stream: stream(name), epoch: None, seq: Seq(seq) }
}

fn open(who: &str, device: &str) -> LinkOpen {
    LinkOpen { corr: 7, uid: uid(who), device: device.into(), streams: Vec::new(), auto_join: false }
}

fn named(name: &str, cursor: Option<(Epoch, u64)>) -> LinkOpenStream {
    LinkOpenStream {
        stream: stream(name),
        cursor: cursor.map(|(epoch, seq)| (epoch.to_string().into_boxed_str(), Seq(seq))),
        auto: false,
    }
}
