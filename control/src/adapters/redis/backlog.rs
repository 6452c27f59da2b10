//! Facts on their way to the server, and what is owed to it because facts were dropped. No I/O, no clock.
//!
//! Invariants:
//! * The backlog is bounded by number and bytes; the oldest facts go first.
//! * What a dropped fact leaves behind is owed: a stream is forgotten, a route is written or removed as it was last told. What
//!   is owed is written before anything newer about the same stream or user, so an older value never passes for a newer one.
//! * What is owed is bounded too. Past that the generation rises: who holds the facts writes them again.

use std::collections::{BTreeMap, VecDeque};

use tidegate_control_core::domain::StreamKey;
use tidegate_control_core::ports::cache::{Fact, OwnedRun, RouteKey};

/// Repairs that are remembered.
pub const OWED_MAX: usize = 1 << 16;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owed {
    Stream(StreamKey),
    Route(RouteKey),
}

/// Facts that were taken to be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub facts: Vec<Fact>,
    /// They are what was owed.
    pub repair: bool,
}

#[derive(Debug)]
pub struct Backlog {
    facts: VecDeque<Fact>,
    bytes: usize,
    facts_max: usize,
    bytes_max: usize,
    owed: BTreeMap<Owed, Fact>,
    pub dropped: u64,
    /// Rises when more was dropped than is remembered.
    pub forgotten: u64,
}

impl Backlog {
    pub fn new(facts_max: usize, bytes_max: usize) -> Backlog {
        let (facts, owed) = (VecDeque::new(), BTreeMap::new());
        Backlog { facts, bytes: 0, facts_max, bytes_max, owed, dropped: 0, forgotten: 0 }
    }

    pub fn push(&mut self, fact: Fact) {
        self.bytes += weight(&fact);
        self.facts.push_back(fact);
        self.trim();
    }

    fn trim(&mut self) {
        while self.facts.len() > self.facts_max || self.bytes > self.bytes_max {
            let Some(oldest) = self.pop() else { break };
            self.drop_newer(oldest);
        }
    }

    pub fn len(&self) -> usize {
        self.facts.len()
    }

    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Its facts at the server are not to be trusted now.
    pub fn owes(&self, stream: &StreamKey) -> bool {
        !self.owed.is_empty() && self.owed.contains_key(&Owed::Stream(stream.clone()))
    }

    /// The next facts to write, at most `most`: what is owed alone and first, if `repair` says that it may be tried.
    pub fn take(&mut self, most: usize, repair: bool) -> Batch {
        if repair && !self.owed.is_empty() {
            let facts = std::iter::from_fn(|| self.owed.pop_first()).map(|(_, fact)| fact).take(most).collect();
            return Batch { facts, repair: true };
        }
        let mut facts = Vec::new();
        while facts.len() < most
            && let Some(fact) = self.pop()
        {
            match owed_for(&fact) {
                Some((key, _)) if self.owed.contains_key(&key) => self.drop_newer(fact),
                _ => facts.push(fact),
            }
        }
        Batch { facts, repair: false }
    }

    /// Nothing of the batch is known to be written, and all of it may be written again: every fact may be said twice.
    pub fn give_back(&mut self, batch: Batch) {
        if batch.repair {
            return self.owe_again(batch.facts);
        }
        for fact in batch.facts.into_iter().rev() {
            self.bytes += weight(&fact);
            self.facts.push_front(fact);
        }
        self.trim();
    }

    /// These of a batch could not be written, while others could. What was dropped meanwhile is newer.
    pub fn failed(&mut self, batch: Batch) {
        if !batch.repair {
            self.dropped += batch.facts.len() as u64;
        }
        self.owe_again(batch.facts);
    }

    fn owe_again(&mut self, facts: Vec<Fact>) {
        // Of several about the same, the last one counts.
        for fact in facts.into_iter().rev() {
            let Some((key, repair)) = owed_for(&fact) else { continue };
            if self.owed.contains_key(&key) || self.has_room() {
                self.owed.entry(key).or_insert(repair);
            }
        }
    }

    fn drop_newer(&mut self, fact: Fact) {
        self.dropped += 1;
        if let Some((key, repair)) = owed_for(&fact)
            && (self.owed.contains_key(&key) || self.has_room())
        {
            self.owed.insert(key, repair);
        }
    }

    fn has_room(&mut self) -> bool {
        let room = self.owed.len() < OWED_MAX;
        self.forgotten += u64::from(!room);
        room
    }

    fn pop(&mut self) -> Option<Fact> {
        let fact = self.facts.pop_front()?;
        self.bytes -= weight(&fact);
        Some(fact)
    }
}

/// What must be written in place of a fact that was dropped; `None`: its absence is a miss and no more.
fn owed_for(fact: &Fact) -> Option<(Owed, Fact)> {
    match fact {
        Fact::Head { stream, .. } | Fact::Forget(stream) => Some(forget(stream)),
        Fact::Hot(OwnedRun { stream, .. }) | Fact::Queue(OwnedRun { stream, .. }) => Some(forget(stream)),
        Fact::Online { uid, connection } => {
            let key = RouteKey { uid: uid.clone(), at: connection.at.clone(), id: connection.id.clone() };
            Some((Owed::Route(key), fact.clone()))
        }
        Fact::Offline(key) => Some((Owed::Route(key.clone()), fact.clone())),
        Fact::Void(_) | Fact::Dedup { .. } | Fact::Cursor { .. } | Fact::Publish { .. } => None,
    }
}

fn forget(stream: &StreamKey) -> (Owed, Fact) {
    (Owed::Stream(stream.clone()), Fact::Forget(stream.clone()))
}

fn weight(fact: &Fact) -> usize {
    std::mem::size_of::<Fact>()
        + match fact {
            Fact::Hot(run) | Fact::Queue(run) => run.entries.iter().map(|entry| entry.bytes.len() + 48).sum(),
            Fact::Publish { bytes, .. } => bytes.len(),
            _ => 128,
        }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidegate_control_core::domain::{Epoch, OwnerEpoch, Seq};
    use tidegate_control_core::ports::cache::{Channel, Connection, Incarnation};

    use super::*;

    fn stream(name: &str) -> StreamKey {
        name.parse().expect("a stream")
    }

    fn head(name: &str, seq: u64) -> Fact {
        Fact::Head { stream: stream(name), epoch: Epoch(1), seq: Seq(seq), owner: OwnerEpoch(1) }
    }

    fn online(id: &str) -> Fact {
        let at = Incarnation { gateway: "gw".into(), number: 1 };
        let (device, platform) = ("d".into(), "web".into());
        let connection = Connection { at, id: id.into(), device, platform, since: Default::default() };
        Fact::Online { uid: "ann".parse().expect("a uid"), connection }
    }

    fn offline(id: &str) -> Fact {
        let at = Incarnation { gateway: "gw".into(), number: 1 };
        Fact::Offline(RouteKey { uid: "ann".parse().expect("a uid"), at, id: id.into() })
    }

    fn taken(backlog: &mut Backlog) -> Vec<Fact> {
        backlog.take(10, true).facts
    }

    #[test]
    fn what_is_given_back_is_written_first_and_is_the_first_to_go() {
        let mut backlog = Backlog::new(3, 1 << 20);
        (1..=2).for_each(|seq| backlog.push(head("g:1", seq)));
        let batch = backlog.take(10, true);
        backlog.push(head("g:2", 1));
        backlog.give_back(batch);
        assert_eq!(taken(&mut backlog), [head("g:1", 1), head("g:1", 2), head("g:2", 1)]);
        backlog.push(head("g:1", 3));
        let batch = backlog.take(10, true);
        (1..=3).for_each(|seq| backlog.push(head("g:2", seq)));
        backlog.give_back(batch);
        assert_eq!((backlog.dropped, taken(&mut backlog)), (1, vec![Fact::Forget(stream("g:1"))]));
        assert_eq!(backlog.bytes, 3 * weight(&head("g:2", 1)));
    }

    #[test]
    fn the_oldest_go_and_their_streams_are_owed() {
        let mut backlog = Backlog::new(2, 1 << 20);
        (1..=4).for_each(|seq| backlog.push(head(&format!("g:{seq}"), seq)));
        assert_eq!((backlog.len(), backlog.dropped, backlog.owed()), (2, 2, 2));
        assert!(backlog.owes(&stream("g:1")) && !backlog.owes(&stream("g:3")));
        assert_eq!(taken(&mut backlog), [Fact::Forget(stream("g:1")), Fact::Forget(stream("g:2"))]);
        assert_eq!(taken(&mut backlog), [head("g:3", 3), head("g:4", 4)]);
    }

    #[test]
    fn nothing_newer_of_a_stream_is_written_before_it_is_forgotten() {
        let mut backlog = Backlog::new(2, 1 << 20);
        (1..=3).for_each(|seq| backlog.push(head("g:1", seq)));
        assert_eq!(backlog.take(10, false).facts, Vec::new());
        assert_eq!(taken(&mut backlog), [Fact::Forget(stream("g:1"))]);
    }

    #[test]
    fn of_a_route_the_last_word_counts() {
        let mut backlog = Backlog::new(1, 1 << 20);
        [online("1"), offline("1"), offline("2"), online("2"), head("g:1", 1)]
            .into_iter()
            .for_each(|f| backlog.push(f));
        assert_eq!(taken(&mut backlog), [offline("1"), online("2")]);
        backlog.failed(Batch { facts: vec![online("3"), offline("3")], repair: false });
        assert_eq!(taken(&mut backlog), [offline("3")]);
    }

    #[test]
    fn what_fails_does_not_replace_what_was_dropped_after_it() {
        let mut backlog = Backlog::new(1, 1 << 20);
        backlog.push(online("1"));
        let batch = backlog.take(10, true);
        backlog.push(offline("1"));
        backlog.push(head("g:1", 1));
        backlog.failed(batch);
        assert_eq!(taken(&mut backlog), [offline("1")]);
    }

    #[test]
    fn memory_is_bounded_in_bytes_too_and_overflow_is_told() {
        let mut backlog = Backlog::new(usize::MAX, 100_000);
        let channel: Channel = "c".parse().expect("a channel");
        for _ in 0..1_000 {
            backlog.push(Fact::Publish { channel: channel.clone(), bytes: Bytes::from(vec![0; 10_000]) });
        }
        assert!(backlog.len() < 10 && backlog.bytes <= 100_000);
        let mut backlog = Backlog::new(1, 1 << 20);
        (0..OWED_MAX as u64 + 10).for_each(|n| backlog.push(head(&format!("g:{n}"), 1)));
        assert_eq!((backlog.owed(), backlog.forgotten), (OWED_MAX, 9));
    }
}
