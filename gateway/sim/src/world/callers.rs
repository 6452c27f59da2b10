//! Everything that was ever said, by backends and by clients: what each was answered, and what that promises.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_control_core::domain::{Content, ErrorCode, Priority, Refusal};
use tidegate_control_core::partition::{Command, Push, Reply};

use crate::client::Answer;
use crate::control::{Control, Waiter};
use crate::rng::Rng;
use crate::script::MS;
use crate::truth::{BACKEND, Life, Truth, text};

/// A message that somebody wants said.
#[derive(Clone, Debug)]
pub struct Said {
    pub to: String,
    pub keyed: bool,
    pub ephemeral: bool,
    pub platform: Option<&'static str>,
    pub ttl_s: u32,
    pub bytes: usize,
}

#[derive(Debug)]
pub struct Saying {
    pub said: Said,
    pub text: String,
    pub key: String,
    /// Where it was told to stand, and on which disk.
    place: Option<(usize, Life, u64, String)>,
    /// Some attempt has no known outcome.
    unknown: bool,
    refused: bool,
    attempts: u32,
}

pub struct Callers {
    pub sayings: Vec<Saying>,
    /// Said again then.
    again: VecDeque<(u64, usize)>,
    retries: bool,
    rng: Rng,
}

impl Callers {
    pub fn new(rng: Rng, retries: bool) -> Callers {
        Callers { sayings: Vec::new(), again: VecDeque::new(), retries, rng }
    }

    pub fn say(&mut self, said: Said) -> usize {
        let number = self.sayings.len();
        let mut text = format!("m{number} {} ", said.to);
        text.extend(std::iter::repeat_n('x', said.bytes));
        let key = format!("k{number}");
        let saying = Saying { said, text, key, place: None, unknown: false, refused: false, attempts: 0 };
        self.sayings.push(saying);
        number
    }

    /// Calls control's API. If nobody is there, the caller tries again.
    pub fn call(&mut self, now: u64, number: usize, control: &mut Control) {
        if control.life.is_none() {
            return self.come_again(now, number);
        }
        let saying = &mut self.sayings[number];
        saying.attempts += 1;
        let said = &saying.said;
        let push = Push {
            id: None,
            ack_durable: false,
            to: said.to.parse().expect("a stream"),
            sender: None,
            from: BACKEND.into(),
            client_msg_id: Box::default(),
            message_id: said.keyed.then(|| saying.key.as_str().into()),
            kind: "text".into(),
            title: Box::default(),
            content: Content::Text(saying.text.as_str().into()),
            metadata: Box::default(),
            ephemeral: said.ephemeral,
            priority: Priority::Normal,
            ttl_s: said.ttl_s,
            platforms: said.platform.iter().map(|name| (*name).into()).collect(),
        };
        let at = now + self.rng.between(50_000, 3 * MS);
        control.call(at, Command::Push(Box::new(push)), Waiter::Push(number));
    }

    fn come_again(&mut self, now: u64, number: usize) {
        let at = now + self.rng.between(20 * MS, 200 * MS);
        self.again.push_back((at, number));
    }

    pub fn wakes_at(&self) -> Option<u64> {
        self.again.iter().map(|(at, _)| *at).min()
    }

    pub fn turn(&mut self, now: u64, control: &mut Control) {
        let (due, later) = std::mem::take(&mut self.again).into_iter().partition(|(at, _)| *at <= now);
        self.again = later;
        let due: VecDeque<(u64, usize)> = due;
        for (_, number) in due {
            self.call(now, number, control);
        }
    }

    /// Control died: nobody knows what became of these.
    pub fn lost(&mut self, now: u64, numbers: Vec<usize>) {
        for number in numbers {
            self.sayings[number].unknown = true;
            if self.sayings[number].said.keyed && !self.sayings[number].said.ephemeral {
                self.come_again(now, number);
            }
        }
    }

    pub fn answered(
        &mut self,
        now: u64,
        number: usize,
        result: Result<Reply, Refusal>,
        truth: &Truth,
    ) -> Result<(), String> {
        match result {
            Ok(Reply::Pushed { stream, epoch, seq, id, duplicate, .. }) => {
                let life = (stream.to_string(), epoch.to_string());
                let seq = seq.map(|seq| seq.0);
                self.accept(number, Answer::Ok { life, seq, id: id.to_string(), duplicate }, truth)?;
                let saying = &self.sayings[number];
                if self.retries && saying.said.keyed && saying.attempts < 3 && self.rng.chance(300) {
                    self.come_again(now, number);
                }
                Ok(())
            }
            Ok(other) => Err(format!("the wrong answer to a push: {other:?}")),
            Err(refusal) => {
                if matches!(refusal.code, ErrorCode::BadRequest | ErrorCode::Internal) {
                    return Err(format!("a push was refused: {refusal}"));
                }
                if refusal.code.retry() {
                    self.come_again(now, number);
                } else {
                    self.accept(number, Answer::Refused, truth)?;
                }
                Ok(())
            }
        }
    }

    /// What an answer says must be so, and stay so.
    pub fn accept(&mut self, number: usize, answer: Answer, truth: &Truth) -> Result<(), String> {
        let saying = &mut self.sayings[number];
        let (life, seq, id, duplicate) = match answer {
            Answer::Unknown => {
                saying.unknown = true;
                return Ok(());
            }
            Answer::Refused => {
                saying.refused = true;
                return Ok(());
            }
            Answer::Ok { life, seq: Some(seq), id, duplicate } => (life, seq, id, duplicate),
            Answer::Ok { .. } if saying.said.ephemeral => return Ok(()),
            Answer::Ok { .. } => return Err(format!("{}: accepted without a place", saying.text)),
        };
        let disk = truth.lives.get(&life).map_or(usize::MAX, |history| history.disk);
        let there =
            truth.message(&life, seq).is_some_and(|body| body.id.to_string() == id && text(body) == saying.text);
        if !there {
            return Err(format!("{}: OK at {life:?} {seq}, where it does not stand", saying.text));
        }
        match &saying.place {
            Some((on, life_before, seq_before, id_before)) if *on == disk => {
                if (life_before, seq_before, id_before) != (&life, &seq, &id) {
                    return Err(format!("{}: at {seq_before} ({id_before}), then at {seq} ({id})", saying.text));
                }
                if !duplicate {
                    return Err(format!("{}: said twice, and no duplicate", saying.text));
                }
            }
            _ => saying.place = Some((disk, life, seq, id)),
        }
        Ok(())
    }

    pub fn is_calm(&self) -> bool {
        self.again.is_empty()
    }

    /// The whole history against everything that was said.
    pub fn judge(&self, truth: &Truth) -> Result<(), String> {
        let mut standing: BTreeMap<(usize, &str, &str), u32> = BTreeMap::new();
        let mut anywhere: BTreeSet<&str> = BTreeSet::new();
        for ((stream, _), history) in &truth.lives {
            for (_, body) in &history.messages {
                anywhere.insert(text(body));
                *standing.entry((history.disk, stream, text(body))).or_default() += 1;
            }
        }
        for saying in &self.sayings {
            let once = saying.said.keyed || saying.attempts <= 1;
            let twice = |((_, _, text), count): (&(usize, &str, &str), &u32)| *text == saying.text && *count > 1;
            if once && !saying.said.ephemeral && standing.iter().any(twice) {
                return Err(format!("{}: stands twice", saying.text));
            }
            if saying.refused && !saying.unknown && saying.place.is_none() && anywhere.contains(saying.text.as_str()) {
                return Err(format!("{}: was refused, and stands in the log", saying.text));
            }
            if saying.said.ephemeral && anywhere.contains(saying.text.as_str()) {
                return Err(format!("{}: ephemeral, and stands in the log", saying.text));
            }
            if let Some((disk, life, seq, id)) = &saying.place
                && *disk == truth.disk()
                && truth.message(life, *seq).is_none_or(|body| body.id.to_string() != *id)
            {
                return Err(format!("{}: was accepted at {seq}, and is gone", saying.text));
            }
        }
        Ok(())
    }
}
