//! What a round came to, and how it is shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use tidegate_load::judge::Kind;

use super::fault::Fault;
use super::load::Ended;

/// Words of findings that a round keeps.
const TEXTS_MAX: usize = 12;

#[derive(Debug, Serialize)]
pub struct Row {
    pub fault: String,
    pub round: u32,
    /// What was done.
    pub hit: String,
    pub seconds: f64,
    pub answered: u64,
    /// Of them, while the fault was done.
    pub answered_during: u64,
    /// By code; not stored, and not sent again.
    pub refused: BTreeMap<String, u64>,
    pub unanswered: u64,
    pub sent_again: u64,
    /// Answers that said `duplicate`.
    pub duplicates_answered: u64,
    pub reconnects: u64,
    pub expected: u64,
    pub received: u64,
    pub lost: u64,
    pub twins: u64,
    pub reordered: u64,
    pub other: u64,
    pub seqs_used_twice: u64,
    pub holes_healed: u64,
    pub holes_left: u64,
    pub gaps: u64,
    /// Longest time without an answer.
    pub pause_s: f64,
    /// From the fault's end until pushes were answered at their rate again.
    pub recovered_s: Option<f64>,
    /// Most resident bytes of each node while the fault was done and after it.
    pub rss: BTreeMap<String, u64>,
    /// Messages that a node had not handled when the fault was over, and seconds until below a hundred.
    pub lag_first: u64,
    pub lag_gone_s: Option<f64>,
    /// Records of this round in the upstream topic, if it was read.
    pub upstream: Option<u64>,
    pub violations: Vec<String>,
}

impl Row {
    pub const HEAD: &'static str = "fault                   round answered  during refused  again    shown lost twins order twice holes pause recov  RSS max  lag  gone  verdict";

    pub fn new(fault: Fault, round: u32) -> Row {
        Row {
            fault: fault.name(),
            round,
            hit: String::new(),
            seconds: 0.0,
            answered: 0,
            answered_during: 0,
            refused: BTreeMap::new(),
            unanswered: 0,
            sent_again: 0,
            duplicates_answered: 0,
            reconnects: 0,
            expected: 0,
            received: 0,
            lost: 0,
            twins: 0,
            reordered: 0,
            other: 0,
            seqs_used_twice: 0,
            holes_healed: 0,
            holes_left: 0,
            gaps: 0,
            pause_s: 0.0,
            recovered_s: None,
            rss: BTreeMap::new(),
            lag_first: 0,
            lag_gone_s: None,
            upstream: None,
            violations: Vec::new(),
        }
    }

    /// A round that could not be brought to its end.
    pub fn broken_off(fault: Fault, round: u32, error: &anyhow::Error) -> Row {
        Row { violations: vec![format!("the round was broken off: {error:#}")], ..Row::new(fault, round) }
    }

    pub fn judged(&mut self, ended: &Ended) {
        let Ended { published, judgement, moved, .. } = ended;
        for load in &published.loads {
            self.answered += load.answered;
            self.unanswered += load.unanswered;
            self.sent_again += load.repeats.sent;
            self.duplicates_answered += load.repeats.duplicates;
            load.refused.iter().for_each(|(code, count)| *self.refused.entry(code.clone()).or_default() += count);
            self.violations.extend(load.wrong.texts.iter().take(TEXTS_MAX).cloned());
        }
        self.reconnects = ended.reconnects;
        let count = |kind| judgement.findings.count(kind);
        (self.expected, self.received) = (judgement.expected, judgement.received);
        (self.lost, self.twins, self.reordered) = (count(Kind::Lost), count(Kind::Duplicated), count(Kind::Reordered));
        self.other = count(Kind::WrongRecipient) + count(Kind::WrongPayload) + count(Kind::Protocol);
        (self.holes_healed, self.holes_left, self.gaps) =
            (judgement.holes_healed, count(Kind::UnhealedHole), judgement.gaps);
        self.seqs_used_twice = published.ledger.seqs_used_twice();
        for (what, count) in [
            ("seqs were used twice", self.seqs_used_twice),
            ("messages were never answered", self.unanswered),
            ("messages did not get their old place when sent again", moved.len() as u64),
        ] {
            if count > 0 {
                self.violations.push(format!("{count} {what}"));
            }
        }
        if !judgement.findings.is_clean() {
            self.violations.push(format!(
                "lost {}, twins {}, reordered {}, holes left {}, other {}",
                self.lost, self.twins, self.reordered, self.holes_left, self.other
            ));
            self.violations.extend(judgement.findings.texts().iter().take(TEXTS_MAX).cloned());
        }
        self.violations.extend(moved.iter().take(TEXTS_MAX).cloned());
    }

    pub fn line(&self) -> String {
        let refused: u64 = self.refused.values().sum();
        let rss = self.rss.values().max().copied().unwrap_or(0) >> 20;
        let shown = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"));
        let (gone, recovered) = (shown(self.lag_gone_s), shown(self.recovered_s));
        format!(
            "{:23} {:>5} {:>8} {:>7} {:>7} {:>6} {:>8} {:>4} {:>5} {:>5} {:>5} {:>5} {:>5.1} {recovered:>5} {:>4} MiB {:>4} {gone:>5}  {}",
            self.fault,
            self.round,
            self.answered,
            self.answered_during,
            refused,
            self.sent_again,
            self.received,
            self.lost,
            self.twins,
            self.reordered,
            self.seqs_used_twice,
            self.holes_healed,
            self.pause_s,
            rss,
            self.lag_first,
            self.verdict()
        )
    }

    fn verdict(&self) -> String {
        let upstream = self.upstream.map(|records| format!("; {records} records upstream")).unwrap_or_default();
        let word = if self.violations.is_empty() { "kept" } else { "BROKEN" };
        format!("{word}: {}{upstream}", self.hit)
    }
}

/// All rounds of each fault together.
pub fn summary(faults: &[Fault], rows: &[Row]) -> String {
    let mut text = "fault                   rounds kept  answered     lost twins order twice  holes  worst pause  recovered  RSS max  worst lag  gone after\n".to_owned();
    for fault in faults {
        let of: Vec<&Row> = rows.iter().filter(|row| row.fault == fault.name()).collect();
        if of.is_empty() {
            continue;
        }
        let kept = of.iter().filter(|row| row.violations.is_empty()).count();
        let sum = |value: fn(&Row) -> u64| of.iter().map(|row| value(row)).sum::<u64>();
        let most = |value: fn(&Row) -> f64| of.iter().map(|row| value(row)).fold(0.0, f64::max);
        let rss = of.iter().filter_map(|row| row.rss.values().max()).max().copied().unwrap_or(0) >> 20;
        // A String takes everything.
        let _ = writeln!(
            text,
            "{:23} {:>6} {:>4} {:>9} {:>8} {:>5} {:>5} {:>5} {:>6} {:>10.1} s {:>8.1} s {:>4} MiB {:>10} {:>9.1} s",
            fault.name(),
            of.len(),
            kept,
            sum(|row| row.answered),
            sum(|row| row.lost),
            sum(|row| row.twins),
            sum(|row| row.reordered),
            sum(|row| row.seqs_used_twice),
            sum(|row| row.holes_healed),
            most(|row| row.pause_s),
            most(|row| row.recovered_s.unwrap_or(f64::INFINITY)),
            rss,
            most(|row| row.lag_first as f64),
            most(|row| row.lag_gone_s.unwrap_or(f64::INFINITY)),
        );
    }
    text
}
