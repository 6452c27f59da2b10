//! What a publisher has to send and what it waits for, without any connection: the ways to publish ask it for the next
//! message and tell it the answers.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use hashbrown::HashMap;
use tidegate_proto::v1::{PushRequest, PushResult, PushStatus};

use super::requests::Requests;
use super::tally::Tally;
use super::{LoadOutcome, LoadPlan, PhaseOutcome, Sample, Shared};
use crate::judge::Answered;
use crate::payload::Stamp;
use crate::scenario::Via;
use crate::schedule::{Cursor, Due};

/// Pause before a message whose fate is unknown is sent again.
const AGAIN_US: u64 = 100_000;
/// However long the server wishes it to be.
const AGAIN_MAX_US: u64 = 5_000_000;
/// Every so many messages one is kept as a sample.
const SAMPLE_EVERY: u64 = 101;
const SAMPLES_MAX: usize = 1_000;
const WRONG_TEXTS_MAX: usize = 20;
/// The code of an answer after which a message may be stored or not: it is sent again with its key.
const UNAVAILABLE: &str = "UNAVAILABLE";

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Send(Box<PushRequest>),
    /// Nothing before this time.
    Wait(u64),
    /// `in_flight` messages are unanswered.
    Full,
    /// Everything was sent and answered, or given up.
    Done,
}

/// A message that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Pending {
    stamp: Stamp,
    /// Index in the outcome's phases.
    phase: usize,
    handed_us: u64,
}

#[derive(Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
    load: usize,
    via: Via,
    in_flight: usize,
    patience_us: u64,
    requests: Requests,
    cursor: Cursor,
    pending: HashMap<u64, Pending>,
    /// To be sent again, each not before its time.
    again: VecDeque<(u64, u64)>,
    /// Of streams that nobody follows.
    tally: Option<Tally>,
    state: State,
    waker: Option<Waker>,
    outcome: LoadOutcome,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    full: bool,
    /// When there was room again.
    room_us: u64,
    /// When the server last answered, or began to owe an answer.
    progress_us: u64,
    /// Since when there is no connection.
    broken_us: Option<u64>,
    failed: bool,
}

impl Outbox {
    pub fn new(plan: LoadPlan, load: usize, shared: Arc<Shared>) -> Outbox {
        let targets = plan.schedule.targets.clone();
        let unfollowed = shared.population.unfollowed_range();
        let tally = unfollowed.contains(&targets.start).then(|| Tally::new(targets.start, targets.len()));
        let schedule = Arc::new(plan.schedule);
        Outbox {
            load,
            via: plan.via,
            in_flight: plan.in_flight,
            patience_us: plan.patience.as_micros() as u64,
            requests: Requests::new(&shared.population, Arc::clone(&schedule), plan.payload_bytes, plan.filling),
            cursor: Cursor::new(schedule),
            pending: HashMap::new(),
            again: VecDeque::new(),
            tally,
            state: State::default(),
            waker: None,
            outcome: LoadOutcome::default(),
            shared,
        }
    }

    pub fn via(&self) -> Via {
        self.via
    }

    /// Who sends, where clients do.
    pub fn sender(&self) -> String {
        format!("{}-sender{}", self.shared.population.run(), self.load)
    }

    pub fn load(&self) -> usize {
        self.load
    }

    pub fn now_us(&self) -> u64 {
        self.shared.clock.now_us()
    }

    pub fn begin(&mut self, phases: Range<usize>, at_us: u64) {
        self.open_phase(phases.start, at_us);
        self.cursor.begin(phases, at_us);
        self.state = State { room_us: at_us, ..State::default() };
    }

    /// After [`Step::Done`]: what is still unanswered is given up.
    pub fn end(&mut self) {
        let now_us = self.now_us();
        self.outcome.unanswered += self.pending.len() as u64;
        let mut ledger = self.shared.ledger.lock().expect("no holder panics");
        self.pending.drain().for_each(|(_, pending)| ledger.leave_open(pending.stamp));
        drop(ledger);
        self.again.clear();
        // An interrupted phase ends now; the one that would have come next was never published.
        self.close_phase(now_us);
        self.progress().ended.fetch_add(1, Ordering::Release);
    }

    pub fn outcome(&mut self) -> LoadOutcome {
        if let Some(tally) = self.tally.take()
            && self.outcome.unanswered == 0
        {
            let wrong: Vec<_> = tally.wrong().collect();
            for (stream, text) in wrong {
                let name = self.shared.population.name(stream);
                self.wrong(|| format!("{name}: {text}"));
            }
        }
        std::mem::take(&mut self.outcome)
    }

    /// The next thing to do. After [`Step::Full`] the given waker is woken by an answer.
    pub fn step(&mut self, now_us: u64, waker: Option<&Waker>) -> Step {
        let stopped = self.shared.stop.load(Ordering::Relaxed);
        if self.gave_up(now_us) {
            return Step::Done;
        }
        if let Some((number, _)) = self.again.pop_front_if(|(_, from_us)| *from_us <= now_us)
            && let Some(pending) = self.pending.get_mut(&number)
        {
            pending.handed_us = now_us;
            self.outcome.repeats.sent += 1;
            return Step::Send(Box::new(self.requests.make(pending.stamp)));
        }
        if self.pending.len() >= self.in_flight {
            self.state.full = true;
            self.waker = waker.cloned();
            return Step::Full;
        }
        if std::mem::take(&mut self.state.full) {
            self.state.room_us = now_us;
        }
        let due = if stopped { Due::Ended } else { self.due(now_us) };
        match due {
            Due::Now => Step::Send(Box::new(self.next(now_us))),
            Due::At(at_us) => Step::Wait(self.again.front().map_or(at_us, |(_, from_us)| at_us.min(*from_us))),
            Due::Ended if self.pending.is_empty() => Step::Done,
            Due::Ended => {
                self.waker = waker.cloned();
                Step::Wait(self.again.front().map_or(u64::MAX, |(_, from_us)| *from_us))
            }
        }
    }

    /// The answer to a message.
    pub fn answered(&mut self, number: u64, answer: &PushResult) {
        let now_us = self.now_us();
        self.state.progress_us = now_us;
        self.state.broken_us = None;
        let code = answer.error.as_ref().map_or("", |error| error.code.as_str());
        let (status, seq) = (answer.status(), answer.seq);
        match (status, seq) {
            (PushStatus::Accepted, Some(seq)) => self.accepted(number, seq, answer, now_us),
            (PushStatus::Error, _) if code != UNAVAILABLE => self.refused(number, code),
            // Stored without a seq yet, or stored or not: the same key asks again.
            _ => {
                let wish_us =
                    answer.error.as_ref().and_then(|error| error.retry_after_ms).map_or(0, |ms| u64::from(ms) * 1000);
                self.ask_again(number, wish_us.max(AGAIN_US));
            }
        }
        if self.pending.len() < self.in_flight
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// A refusal of the whole call, which may not be the server's own.
    pub fn call_refused(&mut self, number: u64, code: &str) {
        if let Some(pending) = self.pending.get(&number) {
            self.shared.ledger.lock().expect("no holder panics").leave_open(pending.stamp);
        }
        self.refused(number, code);
    }

    /// Not stored. The message is not sent again: the schedule is open-loop.
    fn refused(&mut self, number: u64, code: &str) {
        if self.pending.remove(&number).is_some() {
            *self.outcome.refused.entry(code.to_owned()).or_default() += 1;
            self.progress().refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Nobody knows what became of it.
    pub fn unknown(&mut self, number: u64) {
        self.ask_again(number, AGAIN_US);
    }

    fn ask_again(&mut self, number: u64, after_us: u64) {
        let from_us = self.now_us() + after_us.min(AGAIN_MAX_US);
        // Nearly all wait equally long: its place is at the end or near it.
        let later = self.again.iter().rev().take_while(|(_, at_us)| *at_us > from_us).count();
        self.again.insert(self.again.len() - later, (number, from_us));
    }

    /// The connection that everything was sent over is gone.
    pub fn broken(&mut self) {
        self.outcome.repeats.reconnects += 1;
        let now_us = self.now_us();
        self.state.broken_us.get_or_insert(now_us);
        let mut unanswered: Vec<u64> = self.pending.keys().copied().collect();
        unanswered.sort_unstable();
        self.again = unanswered.into_iter().map(|number| (number, 0)).collect();
    }

    /// Ends the load at once with this reason.
    pub fn fail(&mut self, why: impl FnOnce() -> String) {
        self.wrong(why);
        self.state.failed = true;
    }

    /// Whether the server has been silent or away for too long; then the load has failed.
    pub fn gave_up(&mut self, now_us: u64) -> bool {
        let owing_us = (!self.pending.is_empty()).then_some(self.state.progress_us);
        let silent = |since: u64| now_us.saturating_sub(since) > self.patience_us;
        if !self.state.failed && self.state.broken_us.or(owing_us).is_some_and(silent) {
            let (unanswered, seconds) = (self.pending.len(), self.patience_us / 1_000_000);
            self.fail(|| format!("no answer for {seconds} s; {unanswered} messages wait for one"));
        }
        self.state.failed
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    fn due(&mut self, now_us: u64) -> Due {
        let mut ended = None;
        let due = self.cursor.due(now_us, |_, _, to_us| ended = Some(to_us));
        if let Some(to_us) = ended {
            self.close_phase(to_us);
            if due != Due::Ended {
                self.open_phase(self.cursor.phase(), to_us);
            }
        }
        due
    }

    fn next(&mut self, now_us: u64) -> PushRequest {
        if self.pending.is_empty() {
            self.state.progress_us = now_us;
        }
        let planned = self.cursor.take(now_us);
        let stamp = Stamp { load: self.load as u16, number: planned.number, intended_us: planned.intended_us };
        let late = now_us.saturating_sub(planned.intended_us.max(self.state.room_us));
        self.outcome.lag_us.saturating_record(late.max(1));
        let phase = self.outcome.phases.len().saturating_sub(1);
        self.outcome.phases[phase].sent += 1;
        self.outcome.sent += 1;
        self.pending.insert(planned.number, Pending { stamp, phase, handed_us: now_us });
        self.progress().sent.fetch_add(1, Ordering::Relaxed);
        self.requests.make(stamp)
    }

    fn accepted(&mut self, number: u64, seq: u64, answer: &PushResult, now_us: u64) {
        let Some(pending) = self.pending.remove(&number) else {
            self.wrong(|| format!("a second answer to message {number}: {answer:?}"));
            return;
        };
        let stream = self.requests.target(number);
        self.outcome.answered += 1;
        let phase = &mut self.outcome.phases[pending.phase];
        phase.answered += 1;
        phase.answered_us = now_us;
        self.outcome.repeats.duplicates += u64::from(answer.duplicate);
        self.outcome.answer_us.saturating_record(now_us.saturating_sub(pending.handed_us).max(1));
        if let Err(problem) = self.requests.check(number, answer) {
            self.wrong(|| format!("message {number}: {problem}: {answer:?}"));
        }
        let audience = u64::from(self.shared.population.audience(stream));
        let fits = match &mut self.tally {
            Some(tally) => {
                tally.record(stream, seq);
                true
            }
            None => {
                let id = answer.message_id.parse().unwrap_or(0);
                let answered = Answered { seq, id, stamp: pending.stamp };
                self.shared.ledger.lock().expect("no holder panics").record(stream, answered)
            }
        };
        if !fits {
            self.wrong(|| format!("message {number}: a seq that cannot be: {answer:?}"));
        }
        if number.is_multiple_of(SAMPLE_EVERY) && self.outcome.samples.len() < SAMPLES_MAX {
            let request = self.requests.make(pending.stamp);
            self.outcome.samples.push(Sample { request, answer: answer.clone() });
        }
        self.progress().expected.fetch_add(audience, Ordering::Relaxed);
        self.progress().answered.fetch_add(1, Ordering::Relaxed);
    }

    fn open_phase(&mut self, phase: usize, from_us: u64) {
        self.progress().phase.store(phase, Ordering::Relaxed);
        self.outcome.phases.push(PhaseOutcome { phase, from_us, ..PhaseOutcome::default() });
    }

    fn close_phase(&mut self, to_us: u64) {
        if let Some(phase) = self.outcome.phases.last_mut().filter(|phase| phase.to_us == 0) {
            phase.to_us = to_us.max(phase.from_us);
        }
    }

    fn wrong(&mut self, text: impl FnOnce() -> String) {
        let wrong = &mut self.outcome.wrong;
        wrong.count += 1;
        if wrong.texts.len() < WRONG_TEXTS_MAX {
            wrong.texts.push(text());
        }
    }

    fn progress(&self) -> &super::LoadProgress {
        &self.shared.progress[self.load]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;

    use tidegate_proto::v1::PushError;

    use super::*;
    use crate::clock::Clock;
    use crate::payload::Filling;
    use crate::population::Population;
    use crate::publish::{LoadProgress, PATIENCE};
    use crate::scenario::{Phase, Pick, Until};
    use crate::schedule::Schedule;

    /// Ten messages to two inboxes, at most four unanswered.
    fn outbox() -> Outbox {
        let phase = Phase { name: "p".into(), per_second: 0.0, until: Until::Messages(10) };
        let schedule = Schedule { load: 0, seed: 1, pick: Pick::Turn, targets: 0..2, phases: vec![phase] };
        let plan = LoadPlan {
            schedule,
            via: Via::Stream,
            payload_bytes: 64,
            filling: Filling::Letters,
            in_flight: 4,
            patience: PATIENCE,
        };
        let shared = Shared {
            population: Arc::new(Population::new("lt", 2, Vec::new(), 0)),
            clock: Clock::start(),
            ledger: Mutex::default(),
            stop: AtomicBool::new(false),
            progress: vec![LoadProgress::default()],
        };
        let mut outbox = Outbox::new(plan, 0, Arc::new(shared));
        outbox.begin(0..1, 0);
        outbox
    }

    fn sent(outbox: &mut Outbox) -> Vec<PushRequest> {
        let mut sent = Vec::new();
        // Far enough ahead that whatever is to be sent again is due.
        while let Step::Send(request) = outbox.step(1_000_000, None) {
            sent.push(*request);
        }
        sent
    }

    fn accepted(request: &PushRequest) -> PushResult {
        PushResult {
            to: request.to[0].clone(),
            status: PushStatus::Accepted.into(),
            message_id: (100 + request.corr).to_string(),
            epoch: "e".into(),
            seq: Some(request.corr / 2 + 1),
            ..PushResult::default()
        }
    }

    #[test]
    fn at_most_so_many_are_unanswered() {
        let mut outbox = outbox();
        let first = sent(&mut outbox);
        assert_eq!(first.len(), 4);
        assert_eq!(outbox.step(1_000_000, None), Step::Full);
        outbox.answered(first[2].corr, &accepted(&first[2]));
        assert_eq!(sent(&mut outbox).len(), 1);
        assert_eq!(outbox.shared.progress[0].expected.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_unanswered_is_the_same_message_again_on_the_next_connection() {
        let mut outbox = outbox();
        let first = sent(&mut outbox);
        outbox.answered(0, &accepted(&first[0]));
        outbox.broken();
        let again = sent(&mut outbox);
        assert_eq!(again[..3], first[1..], "in order, with the same keys and contents");
        assert_eq!((again.len(), again[3].corr), (4, 4));
        let duplicate = PushResult { duplicate: true, ..accepted(&first[1]) };
        outbox.answered(1, &duplicate);
        let outcome = outbox.outcome();
        assert_eq!((outcome.sent, outcome.answered, outcome.repeats.sent, outcome.repeats.duplicates), (5, 2, 3, 1));
    }

    #[test]
    fn unavailable_and_queued_are_asked_again_and_refusals_are_not() {
        let mut outbox = outbox();
        let first = sent(&mut outbox);
        let error = |code: &str| PushResult {
            status: PushStatus::Error.into(),
            error: Some(PushError { code: code.into(), ..PushError::default() }),
            ..PushResult::default()
        };
        outbox.answered(0, &error("UNAVAILABLE"));
        outbox.answered(1, &PushResult { status: PushStatus::Queued.into(), seq: None, ..accepted(&first[1]) });
        outbox.answered(2, &error("OVERLOADED"));
        let numbers: Vec<u64> = sent(&mut outbox).iter().map(|request| request.corr).collect();
        assert_eq!(numbers, [0, 1, 4]);
        assert_eq!(outbox.outcome().refused, [("OVERLOADED".to_owned(), 1)].into());
    }

    #[test]
    fn answers_that_cannot_be_are_named() {
        let mut outbox = outbox();
        let first = sent(&mut outbox);
        outbox.answered(0, &PushResult { to: "u:lt-1".into(), ..accepted(&first[0]) });
        outbox.answered(1, &accepted(&first[1]));
        outbox.answered(1, &accepted(&first[1]));
        outbox.answered(3, &PushResult { epoch: "f".into(), ..accepted(&first[3]) });
        outbox.answered(2, &PushResult { seq: Some(1), ..accepted(&first[2]) });
        let wrong = outbox.outcome().wrong;
        assert_eq!(wrong.count, 4, "{wrong:?}");
        for (text, what) in wrong.texts.iter().zip(["another stream", "second answer", "epoch changed", "a seq that"]) {
            assert!(text.contains(what), "{text}");
        }
    }

    #[test]
    fn a_silent_server_is_given_up() {
        let mut outbox = outbox();
        sent(&mut outbox);
        assert_eq!(outbox.step(PATIENCE.as_micros() as u64 * 2, None), Step::Done);
        outbox.end();
        let outcome = outbox.outcome();
        assert_eq!((outcome.unanswered, outcome.wrong.count), (4, 1));
        assert_eq!(outcome.phases.len(), 1);
    }
}
