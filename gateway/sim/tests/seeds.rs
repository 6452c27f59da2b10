//! What the simulator promises of itself: the same seed is the same run, the code that ships passes, planted bugs do not.

use tidegate_sim::plan::Plan;
use tidegate_sim::planted::{Planted, Seam};
use tidegate_sim::run;
use tidegate_sim::trace::Trace;

/// Seeds of a search; the table in `docs/testing.md` says which finds which.
const SEEDS: std::ops::Range<u64> = 1..1_000;

fn find(planted: Planted) -> Option<u64> {
    SEEDS.into_iter().find(|seed| {
        let plan = Plan::of(*seed);
        run(&plan, Some(planted), Trace::default()).0.violation.is_some()
    })
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=12 {
        let trace = || run(&Plan::of(seed), None, Trace::on()).1.lines();
        let first = trace();
        assert!(first.len() > 50, "seed {seed} has hardly any events");
        assert_eq!(first, trace(), "seed {seed}");
    }
}

/// Seeds that once found a bug of the code that ships, or of an oracle; CHANGELOG.md says which. Plans are drawn otherwise
/// now, so what they found stands in tests of the crate that was mended too (`hub_history.rs`), and planted bugs bring it back.
const REGRESSIONS: &[u64] = &[
    22, 50, 74, 180, 494, 585, 833, 1_567, 1_907, 1_923, 2_328, 2_818, 4_341, 4_792, 9_414, 18_902, 34_752, 44_053,
    46_011, 81_565,
];

/// As those, of a fresh range.
const FRESH_REGRESSIONS: &[u64] = &[5_550_030_101, 2_879_608_299_765_178];

#[test]
fn the_code_that_ships_violates_nothing() {
    for seed in (1..=150).chain(REGRESSIONS.iter().chain(FRESH_REGRESSIONS).copied()) {
        let (outcome, _) = run(&Plan::of(seed), None, Trace::default());
        assert_eq!(outcome.violation, None, "cargo xtask sim --seed {seed}");
    }
}

/// Whatever number a seed draws.
#[test]
fn nor_does_it_over_several_partitions() {
    for seed in 1..=60 {
        let plan = Plan::over(seed, Some(2 + (seed % 2) as u32));
        let (outcome, _) = run(&plan, None, Trace::default());
        assert_eq!(outcome.violation, None, "cargo xtask sim --partitions {} --seed {seed}", plan.partitions);
    }
}

/// What production puts between the worker loop and the sockets of TLS connections, under the same faults.
#[test]
fn nor_does_it_over_tls() {
    for seed in 1..=15 {
        let plan = Plan { tls: true, ..Plan::of(seed) };
        let (outcome, _) = run(&plan, None, Trace::default());
        assert_eq!(outcome.violation, None, "cargo xtask sim --tls --seed {seed}");
        assert!(outcome.shown > 0, "seed {seed} shows nothing");
    }
}

/// Two that are found at once, so that the test stays short; `cargo xtask sim --planted all` looks for every one.
#[test]
fn planted_bugs_are_found() {
    for seam in [Seam::ResumeSkipsSeam, Seam::TruncatedShortSend, Seam::ExpelIgnored] {
        assert!(find(Planted::Seam(seam)).is_some(), "{seam:?}");
    }
}
