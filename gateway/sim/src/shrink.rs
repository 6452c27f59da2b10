//! Makes a failing plan smaller: features and steps of the script are left out as long as it still fails.

use crate::plan::Plan;
use crate::planted::Planted;
use crate::run;
use crate::trace::Trace;

/// Runs that one shrinking may take.
const RUNS_MAX: usize = 400;

/// A smaller plan that fails in the same way.
pub fn shrink(plan: &Plan, planted: Option<Planted>) -> Plan {
    let Some(kind) = run(plan, planted, Trace::default()).0.violation.map(|text| kind(&text)) else {
        return plan.clone();
    };
    let mut best = plan.clone();
    let mut runs = 0;
    let mut fails = |plan: &Plan| {
        runs += 1;
        runs <= RUNS_MAX
            && run(plan, planted, Trace::default()).0.violation.is_some_and(|text| self::kind(&text) == kind)
    };
    // Chunks of the script first, large ones before small ones (Zeller's ddmin, without its complements).
    let mut chunk = best.script.len().div_ceil(2);
    while chunk >= 1 {
        let mut at = 0;
        while at < best.script.len() {
            let mut smaller = best.clone();
            smaller.script.drain(at..(at + chunk).min(best.script.len()));
            if fails(&smaller) {
                best = smaller;
            } else {
                at += chunk;
            }
        }
        if chunk == 1 {
            break;
        }
        chunk = chunk.div_ceil(2);
    }
    for feature in best.features.iter() {
        let smaller = Plan { features: best.features.without(feature), ..best.clone() };
        if fails(&smaller) {
            best = smaller;
        }
    }
    for smaller in shapes(&best) {
        if fails(&smaller) {
            best = smaller;
        }
    }
    for smaller in less_scattered(&best) {
        if fails(&smaller) {
            best = smaller;
        }
    }
    best
}

/// What kind of violation a text speaks of: its words, without what they speak about.
fn kind(violation: &str) -> String {
    let plain = |word: &&str| word.len() > 1 && word.chars().all(|letter| letter.is_ascii_lowercase());
    violation.split([' ', ':', ',']).filter(plain).take(6).collect::<Vec<_>>().join(" ")
}

/// The same with fewer gateways and shards.
fn shapes(plan: &Plan) -> Vec<Plan> {
    let with = |gateways, shards| {
        let mut plan = plan.clone();
        (plan.shape.gateways, plan.shape.shards) = (gateways, shards);
        for (_, action) in &mut plan.script {
            use crate::script::Action;
            if let Action::CrashGateway { gateway } | Action::DrainGateway { gateway } | Action::BreakLink { gateway } =
                action
            {
                *gateway %= gateways;
            }
        }
        plan
    };
    vec![with(plan.shape.gateways, 1), with(1, plan.shape.shards), with(1, 1)]
}

/// The same over fewer partitions and sources.
fn less_scattered(plan: &Plan) -> Vec<Plan> {
    let with = |partitions| Plan { partitions, sources: 1, ..plan.clone() };
    if plan.partitions > 1 { vec![with(plan.partitions), with(2), with(1)] } else { Vec::new() }
}
