//! A shard in a world of scripted sockets, with a hub made of the test's own words.

#![allow(dead_code)]

pub mod net;
pub mod wire;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_gateway_core::client::ops::AckMode;
use tidegate_gateway_core::ids::{ConnId, Seq, SeqRange, ShardId, StreamIdx};
use tidegate_gateway_core::messages::{
    ClassMask, ConnClass, Direct, Encoding, Fanout, FrameSet, Hello, PlatformId, ToHub, ToShard,
};
use tidegate_gateway_core::shard::{Mailbox, Promoted, Promotion, Shard, ShardConfig, ShardInput, ShardStats};
use tidegate_gateway_core::ws::{OpCode, frame};

use self::net::{Net, NetDriver, Peer};
use self::wire::ServerSent;

/// Capacity of a socket whose peer reads.
pub const READS: usize = usize::MAX / 2;

pub const JSON: ConnClass = ConnClass { encoding: Encoding::Json, deflate: false, platform: PlatformId(0) };

#[derive(Default)]
pub struct Box_ {
    pub inbox: VecDeque<ShardInput<u32>>,
    pub hub: Vec<ToHub>,
}

impl Mailbox<u32> for Box_ {
    fn next(&mut self) -> Option<ShardInput<u32>> {
        self.inbox.pop_front()
    }

    fn to_hub(&mut self, item: ToHub) {
        self.hub.push(item);
    }

    fn may_sleep(&mut self) -> bool {
        self.inbox.is_empty()
    }

    fn awake(&mut self) {}
}

pub struct World {
    pub net: Rc<RefCell<Net>>,
    pub shard: Shard<NetDriver>,
    pub mail: Box_,
    next: u32,
}

/// A connection of the test: its socket and, once the hub has heard of it, its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub socket: u32,
    pub conn: ConnId,
}

impl World {
    pub fn new(config: ShardConfig, seed: u64) -> World {
        let net = Rc::new(RefCell::new(Net::new(100_000, seed)));
        let shard = Shard::new(ShardId(4), NetDriver(net.clone()), config, seed);
        World { net, shard, mail: Box_::default(), next: 0 }
    }

    pub fn quiet() -> World {
        World::new(ShardConfig { connections_max: 10_000, ..ShardConfig::default() }, 7)
    }

    pub fn stats(&self) -> &ShardStats {
        self.shard.stats()
    }

    pub fn tick(&mut self) -> bool {
        self.shard.tick(&mut self.mail)
    }

    pub fn ticks(&mut self, n: usize) {
        for _ in 0..n {
            self.tick();
        }
    }

    /// Lets time pass in small steps, with turns between them.
    pub fn pass(&mut self, span: Duration) {
        let step = Duration::from_millis(125);
        for _ in 0..span.as_millis().div_ceil(step.as_millis()) {
            let now = self.net.borrow().now + step;
            self.net.borrow_mut().now = now;
            self.ticks(3);
        }
    }

    pub fn socket(&mut self, capacity: usize) -> u32 {
        self.next += 1;
        self.net.borrow_mut().peers.insert(self.next, Peer::taking(capacity));
        self.next
    }

    pub fn hello(&self, uid: &str) -> Hello {
        Hello {
            uid: uid.parse().expect("a uid"),
            device: "d".into(),
            class: JSON,
            reply_to: None,
            cursors: Vec::new(),
            auto_join: true,
            ack_mode: AckMode::Client,
            ping_interval_ms: 0,
            expires_in_ms: None,
            expires_at_ms: None,
            platform_name: "".into(),
        }
    }

    pub fn connect(&mut self, uid: &str) -> Client {
        let hello = self.hello(uid);
        self.connect_as(hello, b"")
    }

    pub fn connect_as(&mut self, hello: Hello, early: &[u8]) -> Client {
        let socket = self.socket(READS);
        let session = Promoted::Client { hello: Box::new(hello), params: None };
        self.promote(socket, early, session);
        self.tick();
        let conn = self.mail.hub.iter().rev().find_map(|item| match item {
            ToHub::Connected { conn, .. } => Some(conn.conn),
            _ => None,
        });
        Client { socket, conn: conn.expect("connected") }
    }

    pub fn echo(&mut self, capacity: usize) -> u32 {
        let socket = self.socket(capacity);
        self.promote(socket, b"", Promoted::Echo { params: None });
        self.tick();
        socket
    }

    pub fn promote(&mut self, socket: u32, early: &[u8], session: Promoted) {
        let promotion = Promotion { socket, early: early.to_vec(), session };
        self.mail.inbox.push_back(ShardInput::Promote(promotion));
    }

    pub fn hub(&mut self, command: ToShard) {
        self.mail.inbox.push_back(ShardInput::Hub(command));
    }

    /// The client sends bytes; an empty chunk ends its stream.
    pub fn client_sends(&mut self, socket: u32, bytes: &[u8]) {
        self.net.borrow_mut().peers.get_mut(&socket).expect("a peer").sends.push_back(bytes.to_vec());
    }

    pub fn peer<T>(&self, socket: u32, with: impl FnOnce(&mut Peer) -> T) -> T {
        with(self.net.borrow_mut().peers.get_mut(&socket).expect("a peer"))
    }

    /// The client reads so much more.
    pub fn takes(&self, socket: u32, bytes: usize) {
        self.peer(socket, |peer| peer.capacity = bytes);
    }

    /// Whole frames that the client has received, and whether part of another follows.
    pub fn received(&self, socket: u32) -> (Vec<ServerSent>, bool) {
        self.peer(socket, |peer| wire::parse(&peer.received))
    }

    /// Texts of whole text frames.
    pub fn texts(&self, socket: u32) -> Vec<String> {
        self.received(socket).0.into_iter().filter_map(ServerSent::into_text).collect()
    }

    pub fn over(&self, socket: u32) -> bool {
        self.peer(socket, |peer| peer.over)
    }

    /// Everything said to the hub since the last call.
    pub fn said(&mut self) -> Vec<ToHub> {
        std::mem::take(&mut self.mail.hub)
    }
}

pub fn text_frame(text: &str) -> Bytes {
    frame(OpCode::Text, text.as_bytes())
}

pub fn frames(text: &str) -> FrameSet {
    let mut set = FrameSet::default();
    set.push(ClassMask { encoding: Encoding::Json, deflate: false, platform: None }, text_frame(text));
    set
}

/// A durable batch of one message: its text says `stream/after`, then filling.
pub fn batch(stream: u32, after: u64, fill: usize) -> ToShard {
    ToShard::Fanout(Fanout {
        stream: StreamIdx(stream),
        range: Some(SeqRange { after: Seq(after), upto: Seq(after + 1) }),
        frames: frames(&format!("L {stream} {after} {}", "x".repeat(fill))),
        report_done: true,
        messages: 1,
        pushed_at_ms: None,
    })
}

pub fn ephemeral(stream: u32, fill: usize) -> ToShard {
    ToShard::Fanout(Fanout {
        stream: StreamIdx(stream),
        range: None,
        frames: frames(&format!("E {stream} {}", "x".repeat(fill))),
        report_done: false,
        messages: 1,
        pushed_at_ms: None,
    })
}

pub fn member(client: Client, stream: u32, flushed: u64) -> ToShard {
    ToShard::AddMember {
        conn: client.conn,
        stream: StreamIdx(stream),
        flushed: Seq(flushed),
        gapped: false,
        class: JSON,
        inbox: false,
    }
}

pub fn direct(client: Client, text: &str) -> Direct {
    Direct { conn: client.conn, frame: text_frame(text), finishes: None, reached: None, recovers: None }
}
