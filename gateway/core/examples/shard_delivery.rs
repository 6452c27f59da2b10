//! What one delivery costs in the shard's own code: fan-outs to members of one stream over a driver that does nothing.
//!
//! `cargo run --release -p tidegate-gateway-core --example shard_delivery [members] [fan-outs]`
//!
//! Joins are shuffled, so that neighbours in the member list are not neighbours in the slab. A driver that counts virtual
//! calls and keeps nothing is the floor; what the real one adds is the kernel's.

// A measurement outside the core: it has a clock of its own.
#![allow(clippy::disallowed_methods)]

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use tidegate_gateway_core::client::ops::AckMode;
use tidegate_gateway_core::driver::{CloseHow, Driver, Event, RegisterError, Socket, Token};
use tidegate_gateway_core::ids::{ConnId, Now, Seq, SeqRange, ShardId, StreamIdx};
use tidegate_gateway_core::messages::{
    ClassMask, ConnClass, Encoding, FANOUT_SLICE_MAX, Fanout, FrameSet, Hello, PlatformId, ToHub, ToShard,
};
use tidegate_gateway_core::shard::{Mailbox, Promoted, Promotion, Shard, ShardConfig, ShardInput};
use tidegate_gateway_core::ws::{OpCode, frame};

const CLASS: ConnClass = ConnClass { encoding: Encoding::Json, deflate: false, platform: PlatformId(0) };

#[derive(Default)]
struct NullDriver {
    slots: u32,
    sends: u64,
    /// Keeps the optimiser from seeing that nothing is done with a send.
    sum: u64,
}

impl Driver for NullDriver {
    type Incoming = ();

    fn register(&mut self, _token: Token, _socket: ()) -> Result<Socket, (RegisterError, ())> {
        self.slots += 1;
        Ok(Socket { ring: 0, slot: self.slots })
    }

    fn send(&mut self, token: Token, socket: Socket, frame: &Bytes, from: usize) {
        self.sends += 1;
        self.sum = self.sum.wrapping_add(token.0 ^ u64::from(socket.slot) ^ (frame.len() - from) as u64);
    }

    fn watch_writable(&mut self, _token: Token, _socket: Socket) {}

    fn close(&mut self, _token: Token, _socket: Socket, _how: CloseHow) {}

    fn flush(&mut self, _on_event: &mut dyn FnMut(Event<'_>)) {}

    fn turn(&mut self, _deadline: Option<Now>, _on_event: &mut dyn FnMut(Event<'_>)) {}

    fn now(&self) -> Now {
        Now(0)
    }
}

#[derive(Default)]
struct Inbox {
    items: VecDeque<ShardInput<()>>,
    connected: Vec<ConnId>,
    done: u64,
}

impl Mailbox<()> for Inbox {
    fn next(&mut self) -> Option<ShardInput<()>> {
        self.items.pop_front()
    }

    fn to_hub(&mut self, item: ToHub) {
        match item {
            ToHub::Connected { conn, .. } => self.connected.push(conn.conn),
            ToHub::FanoutDone { .. } => self.done += 1,
            _ => {}
        }
    }

    fn may_sleep(&mut self) -> bool {
        self.items.is_empty()
    }

    fn awake(&mut self) {}
}

fn hello(n: u32) -> Hello {
    Hello {
        uid: format!("user-{n}").parse().expect("a uid"),
        device: "d".into(),
        class: CLASS,
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

fn shuffle<T>(items: &mut [T]) {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for at in (1..items.len()).rev() {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        items.swap(at, (seed % (at as u64 + 1)) as usize);
    }
}

fn batch(stream: u32, after: u64, payload: &Bytes) -> ShardInput<()> {
    let mut frames = FrameSet::default();
    frames.push(ClassMask { encoding: Encoding::Json, deflate: false, platform: None }, payload.clone());
    let range = Some(SeqRange { after: Seq(after), upto: Seq(after + 1) });
    ShardInput::Hub(ToShard::Fanout(Fanout {
        stream: StreamIdx(stream),
        range,
        frames,
        report_done: true,
        messages: 1,
        pushed_at_ms: None,
    }))
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let members = args.next().unwrap_or(10_000);
    let fanouts = args.next().unwrap_or(2_000);
    let config = ShardConfig { connections_max: members as usize, ..ShardConfig::default() };
    let mut shard = Shard::new(ShardId(0), NullDriver::default(), config, 1);
    let mut inbox = Inbox::default();
    let payload = frame(OpCode::Text, &[b'x'; 128]);

    let begin = Instant::now();
    for n in 0..members as u32 {
        let session = Promoted::Client { hello: Box::new(hello(n)), params: None };
        inbox.items.push_back(ShardInput::Promote(Promotion { socket: (), early: Vec::new(), session }));
        shard.tick(&mut inbox);
    }
    let promoted = begin.elapsed();
    let mut conns = inbox.connected.clone();
    shuffle(&mut conns);
    for (n, &conn) in conns.iter().enumerate() {
        for stream in [0, n as u32 + 1] {
            inbox.items.push_back(ShardInput::Hub(ToShard::AddMember {
                conn,
                stream: StreamIdx(stream),
                flushed: Seq(0),
                gapped: false,
                class: CLASS,
                inbox: stream != 0,
            }));
        }
        shard.tick(&mut inbox);
    }
    println!("{members} connections: {:.0} ns each to promote", promoted.as_nanos() as f64 / members as f64);

    for round in 0..3 {
        let begin = Instant::now();
        for after in 0..fanouts {
            inbox.items.push_back(batch(0, after, &payload));
            let done = inbox.done;
            while inbox.done == done {
                shard.tick(&mut inbox);
            }
        }
        let deliveries = fanouts * members;
        let each = begin.elapsed().as_nanos() as f64 / deliveries as f64;
        println!("round {round}: one stream, {each:.1} ns per delivery, slices of {FANOUT_SLICE_MAX}");
    }

    let begin = Instant::now();
    let rounds = (fanouts / 100).max(1);
    for after in 0..rounds {
        for stream in 1..=members as u32 {
            inbox.items.push_back(batch(stream, after, &payload));
            if stream % 64 == 0 {
                shard.tick(&mut inbox);
            }
        }
        shard.tick(&mut inbox);
    }
    let each = begin.elapsed().as_nanos() as f64 / (rounds * members) as f64;
    println!("inboxes of one member each: {each:.1} ns per delivery, its command made and taken included");

    let stats = shard.stats().clone();
    let NullDriver { sends, sum, .. } = *shard.driver();
    assert_eq!(stats.delivered.durable.value(), sends);
    println!("{sends} sends, checksum {sum:x}");
}
