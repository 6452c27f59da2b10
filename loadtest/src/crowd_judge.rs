//! The judge: what every client was shown, held against what was published.
//!
//! Rules, for every client and stream: seqs rise by the client rule (R-SEQ-2), none is shown twice, none is missing from what
//! frames and pulls claim to cover, and everything that a publisher got an OK for is shown with the id that the OK named.

use std::collections::BTreeMap;
use std::fmt;

use hashbrown::{HashMap, HashSet};

/// Most findings that are kept with their text; all are counted.
pub const FINDINGS_MAX: usize = 50;

/// One client's log of one stream.
#[derive(Clone, Debug, Default)]
pub struct StreamLog {
    pub epoch: String,
    /// The client's cursor: everything up to here was shown or passed over.
    pub last: u64,
    /// Where this client began to follow.
    pub start: u64,
    /// Shown messages: seq → id.
    pub shown: BTreeMap<u64, u64>,
    /// Server-side mistakes seen while following.
    pub faults: Vec<Fault>,
    /// Messages at or below the cursor, which the client rule passes over: a live frame may overlap a pull's answer.
    pub overlaps: u64,
    /// Holes that were found and healed by pulling.
    pub healed: u64,
    pub gaps: u64,
}

impl StreamLog {
    /// Begins to follow without a cursor. Users of the harness are new, so their inboxes must be shown from the first message
    /// on, wherever the server says it begins.
    pub fn begin(&mut self, stream: &str, epoch: &str, at: u64) {
        epoch.clone_into(&mut self.epoch);
        self.start = if stream.starts_with("u:") { 0 } else { at };
        self.last = self.start;
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not above the previous one within a frame.
    Reordered { seq: u64, after: u64 },
    /// Outside the range that the frame claims.
    OutOfRange { seq: u64 },
    /// A live frame while the stream was in `gap`.
    LiveInGap { after: u64 },
    /// The epoch changed although no history was lost.
    EpochChanged { from: String, to: String },
}

/// What a publisher knows: an answered message.
#[derive(Clone, Debug)]
pub struct Answered {
    pub stream: String,
    pub epoch: String,
    pub seq: u64,
    pub id: u64,
}

/// What was published and answered, by stream.
#[derive(Debug, Default)]
pub struct Ledger {
    streams: HashMap<String, BTreeMap<u64, u64>>,
    pub answered: u64,
    pub seqs_used_twice: u64,
}

impl Ledger {
    pub fn record(&mut self, answered: &Answered) {
        self.answered += 1;
        let previous = self.streams.entry_ref(answered.stream.as_str()).or_default().insert(answered.seq, answered.id);
        if previous.is_some_and(|id| id != answered.id) {
            self.seqs_used_twice += 1;
        }
    }

    pub fn of(&self, stream: &str) -> Option<&BTreeMap<u64, u64>> {
        self.streams.get(stream)
    }

    pub fn streams(&self) -> impl Iterator<Item = (&String, &BTreeMap<u64, u64>)> {
        self.streams.iter()
    }

    /// Highest answered seq of a stream; 0 if none.
    pub fn head(&self, stream: &str) -> u64 {
        self.of(stream).and_then(|seqs| seqs.keys().next_back().copied()).unwrap_or(0)
    }
}

/// Counts over all clients, and the first findings with their place.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub expected: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub wrong: u64,
    pub overlaps: u64,
    pub holes_healed: u64,
    pub gaps: u64,
    pub findings: Vec<String>,
}

impl Verdict {
    pub fn clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.wrong == 0
    }

    /// Something that makes the whole verdict worthless.
    pub fn fail(&mut self, text: String) {
        self.wrong += 1;
        self.find(text);
    }

    fn find(&mut self, text: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(text);
        }
    }

    /// Holds one client's log of a stream against the ledger.
    pub fn judge(&mut self, client: &str, stream: &str, log: &StreamLog, ledger: &Ledger) {
        self.holes_healed += log.healed;
        self.gaps += log.gaps;
        self.overlaps += log.overlaps;
        let mut ids = HashSet::with_capacity(log.shown.len());
        for (seq, id) in &log.shown {
            if !ids.insert(*id) {
                self.duplicated += 1;
                self.find(format!("{client} {stream}: id {id} was shown twice, the second time as seq {seq}"));
            }
        }
        for fault in &log.faults {
            match fault {
                Fault::Reordered { .. } => self.reordered += 1,
                Fault::OutOfRange { .. } | Fault::LiveInGap { .. } | Fault::EpochChanged { .. } => self.wrong += 1,
            }
            self.find(format!("{client} {stream}: {fault:?}"));
        }
        self.received += log.shown.len() as u64;
        let Some(published) = ledger.of(stream) else { return };
        for (seq, id) in published.range(log.start + 1..) {
            self.expected += 1;
            match log.shown.get(seq) {
                None => {
                    self.lost += 1;
                    self.find(format!("{client} {stream}: seq {seq} (id {id}) was answered and never shown"));
                }
                Some(shown) if shown != id => {
                    self.wrong += 1;
                    self.find(format!(
                        "{client} {stream}: seq {seq} was answered with id {id} and shown with id {shown}"
                    ));
                }
                Some(_) => {}
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected {} received {} lost {} duplicated {} reordered {} wrong {} overlaps {} holes healed {} gaps {}",
            self.expected,
            self.received,
            self.lost,
            self.duplicated,
            self.reordered,
            self.wrong,
            self.overlaps,
            self.holes_healed,
            self.gaps
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        for seq in 1..=3 {
            ledger.record(&Answered { stream: "g:1".into(), epoch: "e".into(), seq, id: 100 + seq });
        }
        ledger
    }

    fn log(shown: &[(u64, u64)]) -> StreamLog {
        StreamLog { epoch: "e".into(), last: 3, shown: shown.iter().copied().collect(), ..StreamLog::default() }
    }

    fn verdict(log: &StreamLog) -> Verdict {
        let mut verdict = Verdict::default();
        verdict.judge("c", "g:1", log, &ledger());
        verdict
    }

    #[test]
    fn a_complete_log_is_clean() {
        let verdict = verdict(&log(&[(1, 101), (2, 102), (3, 103)]));
        assert!(verdict.clean());
        assert_eq!((verdict.expected, verdict.received), (3, 3));
    }

    #[test]
    fn each_kind_of_mistake_is_counted_and_named() {
        let lost = verdict(&log(&[(1, 101), (3, 103)]));
        assert_eq!(lost.lost, 1);
        assert!(lost.findings[0].contains("seq 2"), "{:?}", lost.findings);
        assert_eq!(verdict(&log(&[(1, 101), (2, 999), (3, 103)])).wrong, 1);
        assert_eq!(verdict(&log(&[(1, 101), (2, 102), (3, 103), (4, 102)])).duplicated, 1);
        let mut repeated = log(&[(1, 101), (2, 102), (3, 103)]);
        repeated.faults.push(Fault::Reordered { seq: 1, after: 2 });
        assert_eq!(verdict(&repeated).reordered, 1);
    }

    #[test]
    fn a_seq_given_twice_is_seen() {
        let mut ledger = ledger();
        ledger.record(&Answered { stream: "g:1".into(), epoch: "e".into(), seq: 2, id: 7 });
        assert_eq!(ledger.seqs_used_twice, 1);
    }
}
