//! One round: load, the fault, recovery, judgement.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tidegate_load::cluster::Cluster as Nodes;

use super::acts;
use super::audit;
use super::delay::Far;
use super::fault::Fault;
use super::lab::Lab;
use super::load::{Ended, Load, Mark};
use super::row::Row;
use super::watch::{Lag, Watch};

/// Until pushes are answered at their rate again after a fault.
const RECOVERY: Duration = Duration::from_secs(90);
/// Of the rate, what must flow before and after a fault, so that a round proves something.
const FLOW: f64 = 0.25;
/// Of the rate, what a window must show of a cluster that has recovered.
const RECOVERED: f64 = 0.8;
const WINDOW: Duration = Duration::from_secs(1);

pub fn run(lab: &mut Lab, fault: Fault, number: u32) -> anyhow::Result<Row> {
    if fault == Fault::GrowTopic && lab.grown {
        lab.begin_anew()?;
    }
    let began = Instant::now();
    let run = format!("f{}-{}{number}", std::process::id(), short(fault));
    let far = match fault {
        Fault::Lossy => Some(Far::from(&Nodes::read(lab.home.json())?.clients())?),
        _ => None,
    };
    let load = Load::begin(lab, &run, far.as_ref().map(|far| far.addresses.clone()))?;
    let mut row = Row::new(fault, number);
    let start = load.mark();
    thread::sleep(Duration::from_secs_f64(lab.between));
    let before = load.mark();
    flows(lab, &start, &before, "before", &mut row);
    let watch = Watch::begin(Arc::clone(&lab.home), load.meter())?;
    match acts::run(fault, lab, &load) {
        Ok(hit) => row.hit = hit,
        Err(error) => {
            row.violations.push(format!("the fault did not go as it should: {error:#}"));
            lab.mend()?;
        }
    }
    let after = load.mark();
    row.answered_during = after.answered - before.answered;
    recover(lab, &load, &mut row);
    let lag = Lag::wait(&lab.home)?;
    row.lag_first = lag.first;
    row.lag_gone_s = lag.gone_after.map(|time| time.as_secs_f64());
    if lag.gone_after.is_none() {
        row.violations.push("the lag was not worked off".to_owned());
    }
    let again = load.mark();
    thread::sleep(Duration::from_secs_f64(lab.between));
    flows(lab, &again, &load.mark(), "after", &mut row);
    let seen = watch.end();
    row.pause_s = seen.pause.as_secs_f64();
    row.rss = seen.rss;
    let ended = load.end()?;
    drop(far);
    if fault.breaks_clients() && ended.reconnects <= start.reconnects {
        row.violations.push("no client lost its connection".to_owned());
    }
    row.judged(&ended);
    audited(lab, fault, &ended, &mut row);
    row.seconds = began.elapsed().as_secs_f64();
    Ok(row)
}

/// Names of groups and users stay short.
fn short(fault: Fault) -> String {
    fault.name().split('-').filter_map(|word| word.chars().next()).collect()
}

fn flows(lab: &Lab, from: &Mark, to: &Mark, when: &str, row: &mut Row) {
    let (answered, shown) = (to.answered - from.answered, to.shown - from.shown);
    let least = (lab.rate * lab.between * FLOW) as u64;
    if answered < least || shown < least {
        let text = format!("too little load {when} the fault: {answered} answered, {shown} shown, not {least}");
        row.violations.push(text);
    }
}

fn recover(lab: &Lab, load: &Load, row: &mut Row) {
    let since = Instant::now();
    let least = (lab.rate * WINDOW.as_secs_f64() * RECOVERED) as u64;
    while since.elapsed() < RECOVERY {
        let (from, began) = (load.mark().answered, since.elapsed());
        thread::sleep(WINDOW);
        if load.mark().answered - from >= least {
            row.recovered_s = Some(began.as_secs_f64());
            return;
        }
    }
    row.violations.push(format!("pushes were not answered at their rate within {RECOVERY:?} after the fault"));
}

fn audited(lab: &Lab, fault: Fault, ended: &Ended, row: &mut Row) {
    if !lab.audit && fault != Fault::UpstreamAudit {
        return;
    }
    match lab.cluster().and_then(|cluster| audit::compare(&cluster.kafka, acts::UPSTREAM, ended)) {
        Ok(found) => {
            row.upstream = Some(found.records);
            row.violations.extend(found.problems);
        }
        Err(error) => row.violations.push(format!("the upstream topic could not be read: {error:#}")),
    }
}
