//! What the ledger decides at the end, over many clients.

use std::sync::Arc;

use super::*;
use crate::client::Ranges;
use crate::fleet::Judgement;
use crate::payload::Stamp;
use crate::population::{ClientNo, GroupClass, Population, StreamNo};

const GROUP: StreamNo = StreamNo(0);

fn stamp(seq: u64) -> Stamp {
    Stamp { load: 0, number: seq, intended_us: 0 }
}

fn seen(seq: u64) -> Seen {
    Seen { id: 100 + seq, stamp: stamp(seq) }
}

fn ledger(seqs: impl IntoIterator<Item = u64>) -> Ledger {
    let mut ledger = Ledger::default();
    for seq in seqs {
        ledger.record(GROUP, Answered { seq, id: 100 + seq, stamp: stamp(seq) });
    }
    ledger
}

fn evidence(shown: impl IntoIterator<Item = (u64, Seen)>) -> Evidence {
    let mut evidence = Evidence::default();
    for (seq, seen) in shown {
        assert!(evidence.record(GROUP, seq, seen));
    }
    evidence
}

/// `count` clients that stand at `last`.
fn standings(count: u32, last: u64) -> Vec<Standing<'static>> {
    let standing = |number| Standing {
        client: ClientNo(number),
        is_slow: false,
        stream: GROUP,
        start: 0,
        last,
        absent: None,
        is_behind: false,
    };
    (0..count).map(standing).collect()
}

fn judged(standings: Vec<Standing<'_>>, tally: Tally, evidence: &Evidence, ledger: &Ledger) -> Judgement {
    let class = GroupClass { name: "all".into(), count: 1, members: 1_000 };
    let population = Arc::new(Population::new("t", 1_000, vec![class], 0));
    judge(standings, tally, evidence, ledger, &population)
}

#[test]
fn everyone_at_the_end_of_what_was_answered_is_clean() {
    let evidence = evidence((1..=9).map(|seq| (seq, seen(seq))));
    let judgement = judged(standings(1_000, 9), Tally::new(1), &evidence, &ledger(1..=9));
    assert!(judgement.findings.is_clean());
    assert_eq!(judgement.expected, 9_000);
}

#[test]
fn losses_are_exact_for_every_client_and_their_words_are_bounded() {
    let mut absent = Ranges::default();
    assert!(absent.add(3, 6));
    let mut standings = standings(1_000, 8);
    standings[7].absent = Some(&absent);
    standings[8].last = 0;
    standings[9].is_slow = true;
    let evidence = evidence((1..=9).map(|seq| (seq, seen(seq))));
    let judgement = judged(standings, Tally::new(1), &evidence, &ledger(1..=10));
    assert_eq!(judgement.findings.count(Kind::Lost), 1_000 * 2 + 4 + 8);
    assert_eq!(judgement.findings.texts().len(), FINDINGS_MAX);
    assert_eq!((judgement.latency[0].all.len(), judgement.slow_latency[0].all.len()), (999 * 2 + 4 + 8, 2));
    assert!(judgement.findings.texts().iter().any(|text| text.contains("t-7 g:t-all-0: seq 3 ")));
}

#[test]
fn one_wrong_message_for_all_is_wrong_for_each_who_was_shown_it() {
    let mut shown: Vec<(u64, Seen)> = (1..=9).map(|seq| (seq, seen(seq))).collect();
    shown[3].1.stamp.number = 77;
    let mut standings = standings(10, 9);
    standings[2].last = 3;
    let judgement = judged(standings, Tally::new(1), &evidence(shown), &ledger(1..=9));
    assert_eq!(judgement.findings.count(Kind::WrongPayload), 9);
    assert_eq!(judgement.findings.count(Kind::Lost), 6);
    assert!(judgement.findings.texts().iter().any(|text| text.contains("seq 4 ")), "{:?}", judgement.findings);
}

#[test]
fn the_ledger_says_who_was_right() {
    let odd = |seen| Odd { client: ClientNo(1), stream: GROUP, seq: 4, seen };
    let mut wrong_one = seen(4);
    wrong_one.id = 7;
    for (first, other, wrong) in [(seen(4), wrong_one, 1), (wrong_one, seen(4), 9)] {
        let mut tally = Tally::new(1);
        assert!(tally.keep_odd(odd(other)));
        let shown = (1..=9).map(|seq| if seq == 4 { (4, first) } else { (seq, seen(seq)) });
        let judgement = judged(standings(10, 9), tally, &evidence(shown), &ledger(1..=9));
        assert_eq!(judgement.findings.count(Kind::WrongPayload), wrong, "{:?}", judgement.findings);
        assert!(Kind::ALL.iter().all(|kind| *kind == Kind::WrongPayload || judgement.findings.count(*kind) == 0));
    }
}

#[test]
fn one_id_under_two_seqs_is_a_duplicate_for_each_who_was_shown_both() {
    let mut shown: Vec<(u64, Seen)> = (1..=9).map(|seq| (seq, seen(seq))).collect();
    shown[4].1 = seen(3);
    let mut standings = standings(10, 9);
    standings[0].start = 3;
    let judgement = judged(standings, Tally::new(1), &evidence(shown), &ledger([1, 2, 3, 4, 6, 7, 8, 9]));
    assert_eq!(judgement.findings.count(Kind::Duplicated), 9);
    assert_eq!(judgement.findings.count(Kind::Lost), 3);
}

#[test]
fn a_message_that_was_stored_twice_is_a_duplicate_for_each_who_was_shown_both() {
    let mut again = seen(3);
    again.id = 77;
    let shown = (1..=9).map(|seq| (seq, if seq == 5 { again } else { seen(seq) }));
    let mut standings = standings(10, 9);
    standings[0].last = 4;
    let judgement = judged(standings, Tally::new(1), &evidence(shown), &ledger([1, 2, 3, 4]));
    assert_eq!(judgement.findings.count(Kind::Duplicated), 9, "{:?}", judgement.findings);
}

#[test]
fn what_was_never_published_is_found_and_what_may_have_been_is_not() {
    let mut ledger = ledger([1, 2, 4]);
    ledger.leave_open(stamp(5));
    let shown = (1..=5).map(|seq| (seq, seen(seq)));
    let mut standings = standings(10, 5);
    standings[0].last = 2;
    let judgement = judged(standings, Tally::new(1), &evidence(shown), &ledger);
    assert_eq!(judgement.findings.count(Kind::WrongPayload), 9, "{:?}", judgement.findings);
    assert!(judgement.findings.texts().iter().any(|text| text.contains("seq 3 was refused")));
}

#[test]
fn who_began_to_follow_late_lost_what_came_before() {
    let mut standings = standings(10, 9);
    standings[4].start = 7;
    let evidence = evidence((1..=9).map(|seq| (seq, seen(seq))));
    let judgement = judged(standings, Tally::new(1), &evidence, &ledger(1..=9));
    assert_eq!((judgement.expected, judgement.findings.count(Kind::Lost)), (90, 7));
}

#[test]
fn a_seq_beyond_reason_costs_no_memory() {
    let mut evidence = Evidence::default();
    assert!(!evidence.record(GROUP, 1 << 50, seen(1)));
    assert!(!evidence.record(GROUP, 0, seen(1)));
    assert!(evidence.record(GROUP, 1, seen(1)) && !evidence.record(GROUP, 1, seen(2)));
    assert_eq!(evidence.of(GROUP).count(), 1);
}
