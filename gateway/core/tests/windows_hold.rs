//! Whatever comes over the link and whenever shards are done: a stream leaves in order, without loss, at most once in a window,
//! never while its previous fan-out runs, and encoded once for all shards.

mod hub_world;

use std::collections::BTreeMap;
use std::time::Duration;

use hub_world::bench::{Bench, class, conn, hello, plain};
use hub_world::control::message;
use hub_world::frames;
use proptest::prelude::*;
use tidegate_gateway_core::hub::{EPHEMERAL_MAX, HubConfig};
use tidegate_gateway_core::ids::{ConnRef, Now, ShardId, StreamIdx};
use tidegate_gateway_core::messages::{ConnClass, Encoding, Fanout, ToHub};
use tidegate_proto::v1;
use tidegate_proto::v1::server_frame::Body;

const STREAMS: [&str; 2] = ["g:a", "g:b"];
const SHARDS: usize = 2;
const WINDOW: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
enum Step {
    /// So many new messages, after so many that came before.
    Deliver {
        stream: usize,
        again: u64,
        new: u64,
    },
    Ephemeral {
        stream: usize,
        count: usize,
    },
    Pass {
        ms: u64,
    },
    /// One shard ends its part of a running fan-out.
    Done {
        which: usize,
    },
}

#[derive(Default)]
struct Flow {
    delivered: u64,
    /// What left.
    reached: u64,
    said: usize,
    heard: usize,
    left_at: Option<Now>,
    /// Frames that left at that moment: durable, ephemeral.
    frames: (u32, u32),
    /// Shards whose part runs.
    running: Vec<ShardId>,
    index: Option<StreamIdx>,
}

struct Flows {
    bench: Bench,
    by_name: BTreeMap<&'static str, Flow>,
}

fn json() -> ConnClass {
    class(Encoding::Json, true, 2)
}

impl Flows {
    fn new(fanout_slice: u32) -> Flows {
        let config = HubConfig { fanout_slice, window_ms: WINDOW.as_millis() as u32, ..HubConfig::default() };
        let mut bench = Bench::new(config);
        let stands = STREAMS.map(|name| (name, 0, true));
        for index in 0..4u32 {
            let shard = ShardId(index as u16 % SHARDS as u16);
            let hello = hello(&format!("user{index}"), if index < 2 { plain() } else { json() });
            let conn = ConnRef { shard, ..conn(index) };
            bench.shard_says(ToHub::Connected { conn, connection_id: "c".into(), hello: Box::new(hello) });
            let corr = bench.last_corr();
            bench.answer_open(corr, &stands);
        }
        bench.shard.clear();
        Flows { bench, by_name: STREAMS.into_iter().map(|name| (name, Flow::default())).collect() }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Deliver { stream, again, new } => {
                let name = STREAMS[stream];
                let flow = self.by_name.get_mut(name).expect("known");
                let after = flow.delivered.saturating_sub(again);
                flow.delivered += new;
                let upto = flow.delivered;
                self.bench.deliver_seqs(name, after, upto);
            }
            Step::Ephemeral { stream, count } => {
                let flow = self.by_name.get_mut(STREAMS[stream]).expect("known");
                let messages = (flow.said..flow.said + count).map(|n| message(0, &n.to_string(), &[])).collect();
                flow.said += count;
                self.bench.deliver_range(STREAMS[stream], None, messages);
            }
            Step::Pass { ms } => self.bench.pass(ms),
            Step::Done { which } => self.done(which),
        }
        self.judge();
    }

    fn done(&mut self, which: usize) {
        let running = |flow: &Flow| flow.running.iter().map(|shard| (*shard, flow.index)).collect::<Vec<_>>();
        let all: Vec<_> = self.by_name.values().flat_map(running).collect();
        if let Some((shard, Some(stream))) = all.get(which % all.len().max(1)).copied() {
            let flow = self.by_name.values_mut().find(|flow| flow.index == Some(stream)).expect("known");
            flow.running.retain(|other| *other != shard);
            self.bench.shard_says(ToHub::FanoutDone { shard, stream });
        }
    }

    fn judge(&mut self) {
        let fanouts = self.bench.take_fanouts();
        assert!(fanouts.len().is_multiple_of(SHARDS));
        for shards in fanouts.chunks(SHARDS) {
            self.left(shards);
        }
        let stats = self.bench.hub.stats();
        assert_eq!(stats.frames_encoded, 2 * stats.batches, "once for each of two classes, however many members");
    }

    fn left(&mut self, shards: &[Fanout]) {
        let fanout = &shards[0];
        for other in shards {
            assert_eq!((other.stream, other.range), (fanout.stream, fanout.range));
            for class in [plain(), json()] {
                let frame = |fanout: &Fanout| fanout.frames.select(class).expect("a frame").as_ptr();
                assert_eq!(frame(other), frame(fanout), "one frame for all");
            }
        }
        let batch = opened(fanout, plain());
        assert_eq!(opened(fanout, json()), batch, "the same in every class");
        let flow = self.by_name.get_mut(batch.stream.as_str()).expect("a stream that has members");
        flow.index = Some(fanout.stream);
        assert!(flow.running.is_empty(), "the one before still runs");
        if fanout.report_done {
            flow.running = (0..SHARDS as u16).map(ShardId).collect();
        }
        flow.takes(self.bench.now, &batch);
    }
}

impl Flow {
    fn takes(&mut self, now: Now, batch: &v1::Batch) {
        if self.left_at != Some(now) {
            assert!(self.left_at.is_none_or(|at| now - at >= WINDOW), "twice within a window");
            (self.left_at, self.frames) = (Some(now), (0, 0));
        }
        match batch.after.zip(batch.upto) {
            Some((after, upto)) => {
                self.frames.0 += 1;
                assert_eq!(after, self.reached, "a hole or a twin");
                let seqs: Vec<u64> = batch.messages.iter().map(|message| message.seq).collect();
                assert_eq!(seqs, (after + 1..=upto).collect::<Vec<_>>());
                self.reached = upto;
            }
            None => {
                self.frames.1 += 1;
                let numbers: Vec<usize> = batch.messages.iter().map(|m| m.content.parse().expect("a number")).collect();
                // What a full window pushed out is older than what it holds.
                assert_eq!(numbers, (self.said - numbers.len()..self.said).collect::<Vec<_>>());
                assert!(numbers[0] >= self.heard && numbers.len() <= EPHEMERAL_MAX);
                self.heard = self.said;
            }
        }
        assert!(self.frames.0 <= 1 && self.frames.1 <= 1, "what fits one frame leaves as one: {:?}", self.frames);
    }
}

fn opened(fanout: &Fanout, class: ConnClass) -> v1::Batch {
    let frame = fanout.frames.select(class).expect("a frame");
    match frames::decode(class.encoding, frame).body {
        Some(Body::Batch(mut batch)) => {
            // The helper's JSON reader leaves them out.
            batch.messages.iter_mut().for_each(|message| message.id.clear());
            batch
        }
        other => panic!("not a batch: {other:?}"),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..STREAMS.len();
    prop_oneof![
        6 => (stream.clone(), 0u64..4, 0u64..4).prop_map(|(stream, again, new)| Step::Deliver { stream, again, new }),
        2 => (stream, 1usize..EPHEMERAL_MAX).prop_map(|(stream, count)| Step::Ephemeral { stream, count }),
        4 => prop_oneof![0u64..60, Just(50), Just(49), Just(1)].prop_map(|ms| Step::Pass { ms }),
        4 => any::<usize>().prop_map(|which| Step::Done { which }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_stream_leaves_whole_in_order_and_once_in_a_window(
        steps in prop::collection::vec(step(), 1..80),
        slice in prop::sample::select(vec![1u32, 1_000]),
    ) {
        let mut flows = Flows::new(slice);
        steps.iter().for_each(|step| flows.step(step));
        // Every fan-out ends and every window with it: nothing waits any more.
        for _ in 0..6 {
            (0..STREAMS.len() * SHARDS).for_each(|_| flows.step(&Step::Done { which: 0 }));
            flows.step(&Step::Pass { ms: 50 });
        }
        for (name, flow) in &flows.by_name {
            prop_assert_eq!((flow.reached, flow.heard), (flow.delivered, flow.said), "{}", name);
        }
    }
}
