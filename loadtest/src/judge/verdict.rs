//! The end: every client's place in each of its streams, held against the ledger.
//!
//! It works stream by stream, so that what all clients of a stream share is found out once.

use hashbrown::{HashMap, HashSet};

use super::evidence::{Evidence, Seen};
use super::findings::Kind;
use super::ledger::{Answered, Ledger};
use super::tally::{Odd, Tally};
use crate::client::Ranges;
use crate::fleet::Judgement;
use crate::population::{ClientNo, Population, StreamNo};

/// Where a client stands in a stream at the end.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    pub client: ClientNo,
    pub is_slow: bool,
    pub stream: StreamNo,
    /// Messages above it are to be shown.
    pub start: u64,
    /// Messages up to it were shown, but for `absent`.
    pub last: u64,
    pub absent: Option<&'a Ranges>,
    pub is_behind: bool,
}

impl Standing<'_> {
    fn was_shown(&self, seq: u64) -> bool {
        seq > self.start && seq <= self.last && self.absent.is_none_or(|absent| !absent.contains(seq))
    }
}

/// Judges all clients. `slow_with_gap` is passed on.
pub fn judge(
    mut standings: Vec<Standing<'_>>,
    mut tally: Tally,
    evidence: &Evidence,
    ledger: &Ledger,
    population: &Population,
) -> Judgement {
    standings.sort_unstable_by_key(|standing| (standing.stream, standing.client));
    let mut odd = HashMap::<StreamNo, Vec<Odd>>::new();
    for one in tally.take_odd() {
        odd.entry(one.stream).or_default().push(one);
    }
    let (latency, slow_latency) = tally.take_latencies();
    let mut judgement = Judgement {
        expected: 0,
        received: tally.received,
        holes_healed: tally.holes_healed,
        gaps: tally.gaps,
        overlaps: tally.overlaps,
        slow_with_gap: 0,
        findings: tally.findings,
        latency,
        slow_latency,
    };
    for standings in standings.chunk_by(|a, b| a.stream == b.stream) {
        let stream = standings[0].stream;
        let odd = odd.remove(&stream).unwrap_or_default();
        Trial::new(stream, odd, evidence, ledger, population).judge(standings, &mut judgement);
    }
    judgement
}

/// One stream's share.
struct Trial<'a> {
    stream: StreamNo,
    population: &'a Population,
    ledger: &'a Ledger,
    answered: Vec<&'a Answered>,
    /// Seqs under which something else was shown than answered.
    wrong: Vec<&'a Answered>,
    /// Shown under seqs that no answer named, and no message that was answered or may have been stored.
    unpublished: Vec<(u64, &'a Seen)>,
    /// A seq and another that the same message was shown under.
    twice: Vec<(u64, u64)>,
    ids: HashMap<u64, u64>,
    odd: Vec<Odd>,
    odd_seqs: HashSet<(ClientNo, u64)>,
}

impl<'a> Trial<'a> {
    fn new(
        stream: StreamNo,
        odd: Vec<Odd>,
        evidence: &'a Evidence,
        ledger: &'a Ledger,
        population: &'a Population,
    ) -> Self {
        let answered: Vec<&Answered> = ledger.of(stream).collect();
        let differs = |answered: &&&Answered| {
            let seen = Seen { id: answered.id, stamp: answered.stamp };
            evidence.at(stream, answered.seq).is_some_and(|shown| *shown != seen)
        };
        let wrong = answered.iter().filter(differs).copied().collect();
        let mut ids = HashMap::new();
        let mut twice = Vec::new();
        let mut unpublished = Vec::new();
        for (seq, seen) in evidence.of(stream) {
            match ids.insert(seen.id, seq) {
                Some(before) => twice.push((before, seq)),
                None if ledger.at(stream, seq).is_none() => unpublished.push((seq, seen)),
                None => {}
            }
        }
        if !unpublished.is_empty() {
            let places: HashMap<_, _> = answered.iter().map(|answered| (answered.stamp, answered.seq)).collect();
            unpublished.retain(|(seq, seen)| match places.get(&seen.stamp) {
                // Stored a second time, as after a retry that was not recognised.
                Some(place) => {
                    twice.push((*place, *seq));
                    false
                }
                None => !ledger.is_open(seen.stamp),
            });
        }
        let odd_seqs = odd.iter().map(|odd| (odd.client, odd.seq)).collect();
        Trial { stream, population, ledger, answered, wrong, unpublished, twice, ids, odd, odd_seqs }
    }

    fn judge(&self, standings: &[Standing<'_>], judgement: &mut Judgement) {
        let mut lost = [false, true].map(|_| vec![0i64; self.answered.len() + 1]);
        for standing in standings {
            judgement.expected += self.answered.len() as u64;
            self.lost(standing, judgement, &mut lost[usize::from(standing.is_slow)]);
            self.wrong(standing, judgement);
            if standing.is_behind {
                judgement.findings.add(Kind::UnhealedHole, || {
                    format!(
                        "{} seq {} is the first of a hole or gap to the end",
                        self.who(standing.client),
                        standing.last + 1
                    )
                });
            }
        }
        self.odd(standings, judgement);
        let [lost, slow_lost] = lost;
        for (losses, latency) in [(lost, &mut judgement.latency), (slow_lost, &mut judgement.slow_latency)] {
            let mut count = 0;
            for (answered, change) in self.answered.iter().zip(losses) {
                count += change;
                if let (1.., Some(latency)) = (count, latency.get_mut(usize::from(answered.stamp.load))) {
                    latency.never(answered.stamp.intended_us, count as u64);
                }
            }
        }
    }

    /// Adds to `losses`, at each answered message, the change of how many clients lost it.
    fn lost(&self, standing: &Standing<'_>, judgement: &mut Judgement, losses: &mut [i64]) {
        let mut range = |from: usize, to: usize| {
            if from >= to {
                return;
            }
            losses[from] += 1;
            losses[to] -= 1;
            for answered in &self.answered[from..to] {
                if !judgement.findings.has_room() {
                    break;
                }
                let text = format!("seq {} (id {}) was answered and never shown", answered.seq, answered.id);
                judgement.findings.keep(Kind::Lost, || format!("{} {text}", self.who(standing.client)));
            }
            judgement.findings.count_more(Kind::Lost, (to - from) as u64);
        };
        // Who began to follow late, or was told a wrong head, was not shown what came before.
        range(0, self.place_after(standing.start));
        for (low, high) in standing.absent.into_iter().flat_map(Ranges::iter) {
            range(self.place_after(low.max(standing.start + 1) - 1), self.place_after(high));
        }
        range(self.place_after(standing.last.max(standing.start)), self.answered.len());
    }

    fn wrong(&self, standing: &Standing<'_>, judgement: &mut Judgement) {
        let as_all = |seq: u64| standing.was_shown(seq) && !self.odd_seqs.contains(&(standing.client, seq));
        for answered in self.wrong.iter().filter(|answered| as_all(answered.seq)) {
            judgement.findings.add(Kind::WrongPayload, || {
                format!("{} seq {} is not what was answered, {answered:?}", self.who(standing.client), answered.seq)
            });
        }
        for (seq, seen) in self.unpublished.iter().filter(|(seq, _)| as_all(*seq)) {
            judgement.findings.add(Kind::WrongPayload, || {
                format!("{} seq {seq} was refused or never published, {seen:?}", self.who(standing.client))
            });
        }
        for (before, again) in &self.twice {
            if as_all(*before) && as_all(*again) {
                judgement.findings.add(Kind::Duplicated, || {
                    format!("{} seq {again} is the message of seq {before}", self.who(standing.client))
                });
            }
        }
    }

    fn odd(&self, standings: &[Standing<'_>], judgement: &mut Judgement) {
        for odd in &self.odd {
            let right = self.ledger.at(self.stream, odd.seq);
            if right.is_none_or(|right| (right.id, right.stamp) != (odd.seen.id, odd.seen.stamp)) {
                judgement.findings.add(Kind::WrongPayload, || {
                    format!("{} seq {} was shown as {:?}", self.who(odd.client), odd.seq, odd.seen)
                });
            }
            let standing = standings.iter().find(|standing| standing.client == odd.client);
            let other = self.ids.get(&odd.seen.id).filter(|seq| **seq != odd.seq);
            if let (Some(other), Some(standing)) = (other, standing)
                && standing.was_shown(*other)
            {
                judgement.findings.add(Kind::Duplicated, || {
                    format!("{} seq {} has the id of seq {other}", self.who(odd.client), odd.seq)
                });
            }
        }
    }

    /// Place in `answered` of the first seq above.
    fn place_after(&self, seq: u64) -> usize {
        self.answered.partition_point(|answered| answered.seq <= seq)
    }

    fn who(&self, client: ClientNo) -> String {
        format!("{} {}:", self.population.uid(client), self.population.name(self.stream))
    }
}
