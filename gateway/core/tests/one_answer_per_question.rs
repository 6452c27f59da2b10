//! Whatever a client asks, in whatever order and pieces, and whenever the hub answers: each question has one answer, and the
//! hub never hears of an id that is in flight, of more questions than are allowed, or of anything after the end.

mod shard_world;

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;
use shard_world::{Client, World, direct, wire};
use tidegate_gateway_core::client::ops::IN_FLIGHT_MAX;
use tidegate_gateway_core::messages::{Direct, ToHub, ToShard};

#[derive(Clone, Debug)]
enum Step {
    /// A frame that can be answered: what, under which id.
    Asks {
        id: u32,
        what: usize,
    },
    /// So many questions at once, under ids of their own.
    Floods {
        from: u32,
        count: u32,
    },
    /// What nobody can answer: the connection ends.
    Breaks {
        what: usize,
    },
    /// The hub answers one of the questions that it has.
    Answers {
        which: usize,
    },
    Turn,
}

const QUESTIONS: [&str; 12] = [
    r#""ping":{}"#,
    r#""join":{"stream":"g:a"}"#,
    r#""leave":{"stream":"g:a"}"#,
    r#""send":{"to":"g:a","type":"text","content":"hi"}"#,
    r#""pull":{"stream":"g:a","after":3}"#,
    r#""head":{"stream":"g:a"}"#,
    r#""sync":{"cursors":{}}"#,
    r#""ack":{"stream":"u:alice","seq":3}"#,
    r#""presence":{"uids":["bob"]}"#,
    r#""connect":{"device":"x"}"#,
    r#""join":{"stream":7}"#,
    r#""nothing":{}"#,
];
const NO_QUESTIONS: [&str; 4] = ["{", "[]", r#"{"id":0,"ping":{}}"#, r#"{"ping":{}}"#];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (1u32..9, 0..QUESTIONS.len()).prop_map(|(id, what)| Step::Asks { id, what }),
        1 => (9u32..200, 1u32..90).prop_map(|(from, count)| Step::Floods { from, count }),
        1 => (0..NO_QUESTIONS.len()).prop_map(|what| Step::Breaks { what }),
        8 => any::<usize>().prop_map(|which| Step::Answers { which }),
        4 => Just(Step::Turn),
    ]
}

struct Talk {
    world: World,
    client: Client,
    /// Bytes that the client has said and not sent yet.
    unsent: Vec<u8>,
    asked: BTreeMap<u32, usize>,
    /// Questions that the hub has.
    open: Vec<u32>,
    broken: bool,
}

impl Talk {
    fn new() -> Talk {
        let mut world = World::quiet();
        let client = world.connect("alice");
        world.said();
        Talk { world, client, unsent: Vec::new(), asked: BTreeMap::new(), open: Vec::new(), broken: false }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Asks { id, what } => self.asks(id, QUESTIONS[what]),
            Step::Floods { from, count } => (from..from + count).for_each(|id| self.asks(id, QUESTIONS[5])),
            Step::Breaks { what } => {
                self.unsent.extend(wire::text(NO_QUESTIONS[what]));
                self.broken = true;
            }
            Step::Answers { which } => self.answers(which),
            Step::Turn => self.turn(),
        }
    }

    fn asks(&mut self, id: u32, what: &str) {
        self.unsent.extend(wire::text(&format!(r#"{{"id":{id},{what}}}"#)));
        if !self.broken {
            *self.asked.entry(id).or_default() += 1;
        }
    }

    fn answers(&mut self, which: usize) {
        if self.open.is_empty() {
            return;
        }
        let id = self.open.swap_remove(which % self.open.len());
        let answer = direct(self.client, &format!(r#"{{"id":{id},"ok":{{}}}}"#));
        self.world.hub(ToShard::Send(Direct { finishes: Some(id), ..answer }));
        self.turn();
    }

    fn sends(&mut self, piece: usize) {
        let bytes = std::mem::take(&mut self.unsent);
        for chunk in bytes.chunks(piece) {
            self.world.client_sends(self.client.socket, chunk);
        }
        self.world.ticks(bytes.len() / piece + 3);
    }

    fn turn(&mut self) {
        self.world.ticks(3);
        for item in self.world.said() {
            match item {
                ToHub::Request { id, .. } => {
                    assert!(!self.open.contains(&id), "{id} is in flight already");
                    self.open.push(id);
                    assert!(self.open.len() <= IN_FLIGHT_MAX);
                }
                ToHub::Disconnected { .. } => {
                    assert!(self.broken, "nothing was wrong");
                    self.open.clear();
                }
                other => panic!("nobody asked for {other:?}"),
            }
        }
    }

    fn answered(&self) -> BTreeMap<u32, usize> {
        let mut answered = BTreeMap::new();
        for text in self.world.texts(self.client.socket) {
            let frame: Value = serde_json::from_str(&text).expect("JSON");
            let is_answer = frame.get("ok").is_some() != frame.get("error").is_some();
            match frame.get("id").and_then(Value::as_u64) {
                Some(id) if is_answer => *answered.entry(id as u32).or_default() += 1,
                _ => assert!(self.broken && frame.get("bye").is_some(), "nobody asked for {text}"),
            }
        }
        answered
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn each_question_has_one_answer(
        steps in prop::collection::vec(step(), 1..60),
        pieces in prop::collection::vec(1usize..90, 1..8),
    ) {
        let mut talk = Talk::new();
        for (step, piece) in steps.iter().zip(pieces.iter().cycle()) {
            talk.step(step);
            talk.sends(*piece);
            talk.turn();
        }
        // While one waits no other may have its id, so that what has it is refused; in the end nothing waits.
        while !talk.open.is_empty() {
            talk.answers(0);
        }
        let answered = talk.answered();
        if talk.broken {
            // The questions that the hub still had end with the connection.
            for (id, count) in answered {
                prop_assert!(count <= talk.asked[&id], "{id} was answered {count} times");
            }
            prop_assert_eq!(talk.world.stats().connections.value().min(1), u64::from(!talk.world.over(talk.client.socket)));
        } else {
            prop_assert_eq!(answered, talk.asked);
        }
    }
}
