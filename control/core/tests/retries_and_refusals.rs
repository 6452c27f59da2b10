//! What callers may rely on, whatever the store does and whenever the process dies: who asks again with the same key gets the
//! same place, a refusal left nothing, and seqs have neither hole nor twin.

use std::collections::BTreeMap;

use proptest::prelude::*;
use smallvec::SmallVec;
use tidegate_control_core::domain::{
    Append, Content, Epoch, ErrorCode, MessageId, PartitionId, Priority, Record, Refusal, Seq, StreamKey, Timestamp,
};
use tidegate_control_core::partition::{
    COMMIT_TRIES_MAX, Command, ID_EPOCH_MS, Input, Output, Partition, PartitionConfig, Push, Reply, Token,
};
use tidegate_control_core::ports::StoreError;
use tidegate_control_core::ports::memory::{Fault, MemoryDisk, MemoryStore};

const TARGETS: [&str; 6] = ["g:open", "g:club", "g:none", "u:ann", "u:bob", "c:ann:bob"];
const SENDERS: [Option<&str>; 4] = [None, Some("ann"), Some("bob"), Some("eve")];

/// What a caller says; the same number is the same message.
#[derive(Clone, Copy, Debug)]
struct Said {
    to: usize,
    sender: usize,
    keyed: bool,
    ephemeral: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// New messages and earlier ones again (by number), in one batch.
    Batch {
        new: Vec<Said>,
        again: Vec<usize>,
        faults: Vec<Fault>,
    },
    Crash,
}

type Place = (StreamKey, Epoch, Seq, MessageId);

/// What a caller knows of its message.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    /// Nobody answered: it may be there or not.
    Unknown,
    Refused,
    At(Place),
    /// Told to those who were there; it has no place.
    Passed,
}

struct Callers {
    disk: MemoryDisk,
    partition: Partition<MemoryStore>,
    now: i64,
    token: u64,
    said: Vec<(Said, Known)>,
    waiting: BTreeMap<Token, usize>,
}

impl Callers {
    fn new() -> Callers {
        let disk = MemoryDisk::new(Epoch(0xba5e));
        let partition = partition(&disk);
        let (said, waiting) = (Vec::new(), BTreeMap::new());
        let mut callers = Callers { disk, partition, now: ID_EPOCH_MS + 1_000_000, token: 0, said, waiting };
        let group = |gid: &str, open, members: &[&str]| Command::CreateGroup {
            gid: gid.parse().expect("a gid"),
            name: "".into(),
            open,
            creator: None,
            members: members.iter().map(|uid| uid.parse().expect("a uid")).collect(),
        };
        callers.handle(vec![command(0, group("open", true, &[])), command(1, group("club", false, &["bob"]))]);
        callers.token = 1;
        callers
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Crash => self.crash(),
            Step::Batch { new, again, faults } => {
                self.now += 17;
                let first = self.said.len();
                self.said.extend(new.into_iter().map(|said| (said, Known::Unknown)));
                let mut numbers: Vec<usize> = (first..self.said.len()).collect();
                // Without a key it would be another message.
                let retried = again.into_iter().filter(|_| first > 0).map(|number| number % first.max(1));
                numbers.extend(retried.filter(|number| self.said[*number].0.keyed && !self.said[*number].0.ephemeral));
                self.ask(numbers, faults);
            }
        }
    }

    fn ask(&mut self, numbers: Vec<usize>, faults: Vec<Fault>) {
        faults.into_iter().for_each(|fault| self.disk.plant(fault));
        let mut inputs = Vec::new();
        for number in numbers {
            self.token += 1;
            self.waiting.insert(Token(self.token), number);
            // What was refused may be there once it is asked again.
            if self.said[number].1 == Known::Refused {
                self.said[number].1 = Known::Unknown;
            }
            inputs.push(command(self.token, Command::Push(Box::new(push(self.said[number].0, number)))));
        }
        self.handle(inputs);
        self.disk.heal();
        self.check();
    }

    fn handle(&mut self, mut inputs: Vec<Input>) {
        let mut out = Vec::new();
        let handled = self.partition.handle(Timestamp(self.now), &mut inputs, &mut out);
        for output in out {
            if let Output::Reply { token, result } = output
                && let Some(number) = self.waiting.remove(&token)
            {
                self.answered(number, result);
            }
        }
        match handled {
            Ok(()) => assert!(self.waiting.is_empty(), "one answer to each question"),
            Err(StoreError::Unavailable(_)) => self.handle(inputs),
            Err(_) => self.crash(),
        }
    }

    fn crash(&mut self) {
        self.waiting.clear();
        self.disk.heal();
        self.partition = partition(&self.disk);
    }

    fn answered(&mut self, number: usize, result: Result<Reply, Refusal>) {
        let before = self.said[number].1.clone();
        let known = match result {
            Ok(Reply::Pushed { stream, epoch, seq: Some(seq), id, duplicate, .. }) => {
                let place = (stream, epoch, seq, id);
                if let Known::At(earlier) = &before {
                    assert!(duplicate && *earlier == place, "{earlier:?} became {place:?}");
                }
                Known::At(place)
            }
            Ok(Reply::Pushed { seq: None, .. }) => Known::Passed,
            Ok(other) => panic!("not the answer to a push: {other:?}"),
            // What is there already, told or not, may be refused for the moment only.
            Err(refusal) if self.texts().contains_key(&number) => {
                assert_eq!(refusal.code, ErrorCode::Unavailable, "{before:?} is there: {refusal:?}");
                before
            }
            Err(_) => Known::Refused,
        };
        self.said[number].1 = known;
    }

    /// Everything that is durable, by the number of what was said.
    fn texts(&self) -> BTreeMap<usize, Vec<Append>> {
        let mut texts: BTreeMap<usize, Vec<Append>> = BTreeMap::new();
        for (_, record) in self.disk.records() {
            if let Record::Append(append) = record
                && let Content::Text(text) = &append.body.content
                && let Ok(number) = text.parse()
            {
                texts.entry(number).or_default().push(append);
            }
        }
        texts
    }

    fn check(&self) {
        let texts = self.texts();
        for (number, (said, known)) in self.said.iter().enumerate() {
            let appends = texts.get(&number).map(Vec::as_slice).unwrap_or_default();
            assert!(appends.len() <= 1, "{number} stands {} times", appends.len());
            match known {
                Known::Refused | Known::Passed => assert!(appends.is_empty(), "{number} {said:?} was {known:?}"),
                Known::At((stream, epoch, seq, id)) => {
                    let [append] = appends else { panic!("{number} was answered and is not there") };
                    let place = &append.places[0];
                    assert_eq!((&place.stream, &place.epoch, place.seq), (stream, epoch, *seq));
                    assert_eq!(append.body.id, *id);
                }
                Known::Unknown => {}
            }
        }
        let mut tails: BTreeMap<(StreamKey, u64), u64> = BTreeMap::new();
        for (_, record) in self.disk.records() {
            let Record::Append(append) = record else { continue };
            for place in append.places {
                let tail = tails.entry((place.stream.clone(), place.epoch.0)).or_default();
                *tail += 1;
                assert_eq!(place.seq.0, *tail, "{} has a hole or a twin", place.stream);
            }
        }
    }
}

fn partition(disk: &MemoryDisk) -> Partition<MemoryStore> {
    let config = PartitionConfig { worker: 3, ..PartitionConfig::default() };
    Partition::new(PartitionId(0), disk.open(), config, 42).expect("opens")
}

fn command(token: u64, command: Command) -> Input {
    Input::Command { token: Token(token), command }
}

fn push(said: Said, number: usize) -> Push {
    let key = said.keyed.then(|| Box::<str>::from(format!("k{number}")));
    let sender = SENDERS[said.sender];
    Push {
        id: None,
        ack_durable: false,
        to: TARGETS[said.to].parse().expect("a stream"),
        sender: sender.map(|uid| uid.parse().expect("a uid")),
        from: "billing".into(),
        client_msg_id: key.clone().filter(|_| sender.is_some()).unwrap_or_default(),
        message_id: key.filter(|_| sender.is_none()),
        kind: "text".into(),
        title: "".into(),
        content: Content::Text(number.to_string().into()),
        metadata: "".into(),
        ephemeral: said.ephemeral,
        priority: Priority::Normal,
        ttl_s: 0,
        platforms: SmallVec::new(),
    }
}

fn said() -> impl Strategy<Value = Said> {
    (0..TARGETS.len(), 0..SENDERS.len(), prop::bool::weighted(0.7), prop::bool::weighted(0.1))
        .prop_map(|(to, sender, keyed, ephemeral)| Said { to, sender, keyed, ephemeral })
}

fn step() -> impl Strategy<Value = Step> {
    let tries = 1..=COMMIT_TRIES_MAX as usize;
    let faults = prop_oneof![
        6 => Just(Vec::new()),
        2 => tries.prop_map(|times| vec![Fault::Unavailable; times]),
        1 => Just(vec![Fault::DiesBefore]),
        1 => Just(vec![Fault::DiesAfter]),
        2 => (0usize..5).prop_map(|kept| vec![Fault::DiesWithin { kept }]),
    ];
    let batch = (prop::collection::vec(said(), 0..6), prop::collection::vec(any::<usize>(), 0..6), faults);
    prop_oneof![
        8 => batch.prop_map(|(new, again, faults)| Step::Batch { new, again, faults }),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_key_is_one_place_and_a_refusal_is_nothing(steps in prop::collection::vec(step(), 1..25)) {
        let mut callers = Callers::new();
        for step in steps {
            callers.step(step);
        }
        // Who knows nothing asks again, and then knows.
        let asks_again = |(_, (said, _)): &(usize, &(Said, Known))| said.keyed && !said.ephemeral;
        let numbers: Vec<usize> = callers.said.iter().enumerate().filter(asks_again).map(|(number, _)| number).collect();
        for numbers in numbers.chunks(20) {
            callers.ask(numbers.to_vec(), Vec::new());
        }
        for number in numbers {
            prop_assert_ne!(&callers.said[number].1, &Known::Unknown);
        }
    }
}
