//! The same broadcast by the server and by both bare servers, in interleaved slices.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Run;
use super::watch::Snapshot;
use crate::floor::{Broadcast, Floors, summarize};
use crate::result::Floor;
use crate::scenario::FloorPairs;

/// Before a slice's first message.
const AHEAD_US: u64 = 100_000;
const LOOK: Duration = Duration::from_millis(2);

/// Errors: why the floor could not be measured, as a reason of the run.
pub fn measure(run: &Run<'_>, pairs: FloorPairs) -> Result<Floor, String> {
    let scenario = run.scenario;
    let [load] = scenario.loads.as_slice() else { return Err("the floor needs one load".to_owned()) };
    let (Some(fleet), Some(stream)) = (&run.fleet, run.group(load)) else {
        return Err("the floor needs a group with connections".to_owned());
    };
    if run.options.tls.is_some() {
        return Err("the floor's bare loops speak no TLS".to_owned());
    }
    let frame = fleet.sample_frame(stream).ok_or("no frame was seen whose like the floor could send")?;
    let per_second = load.phases[0].per_second;
    let broadcast = Broadcast {
        rounds: (pairs.slice.as_secs_f64() * per_second).round() as u64,
        spacing: Duration::from_secs_f64(1.0 / per_second),
        frame,
    };
    let sockets = scenario.connections.count as usize;
    let told = |error: &dyn std::error::Error| format!("the floor could not be measured: {}", with_sources(error));
    let mut floors = Floors::stand(&run.options.binary, sockets, scenario.connections.drain).map_err(|e| told(&e))?;
    // Sockets that never sent anything have no route and no buffers yet.
    floors.slice(&Broadcast { rounds: broadcast.rounds.min(3), ..broadcast.clone() }).map_err(|e| told(&e))?;
    let mut measured = Vec::new();
    for number in 0..pairs.pairs {
        if run.stop.is_set() {
            break;
        }
        let first = if number % 2 == 0 { Some(server_slice(run)?) } else { None };
        let mut pair = floors.slice(&broadcast).map_err(|e| told(&e))?;
        pair.server = Some(match first {
            Some(cost) => cost,
            None => server_slice(run)?,
        });
        measured.push(pair);
    }
    summarize(&measured, broadcast.frame.len(), sockets as u64, scenario.seed)
        .ok_or_else(|| "the run was interrupted before the first pair".to_owned())
}

/// Publishes one slice and waits until it has been shown; CPU µs of the gateway per send.
fn server_slice(run: &Run<'_>) -> Result<f64, String> {
    let slice = run.scenario.loads[0].phases.len();
    let progress = run.publishers.progress(0);
    let parts = progress.ended.load(Ordering::Acquire);
    let before = run.watch.snapshot();
    run.publishers.begin(0, slice..slice + 1, run.clock.now_us() + AHEAD_US);
    while progress.ended.load(Ordering::Acquire) == parts {
        if run.stop.is_set() {
            run.publishers.stop();
        }
        std::thread::sleep(LOOK);
    }
    run.settle();
    per_send(&before, &run.watch.snapshot())
}

fn per_send(before: &Snapshot, after: &Snapshot) -> Result<f64, String> {
    let (Some(from), Some(to)) = (before.gateway_cpu_us(), after.gateway_cpu_us()) else {
        return Err("the floor needs the gateway's process: --server-pid".to_owned());
    };
    let (Some(earlier), Some(later)) = (before.counters, after.counters) else {
        return Err("the floor needs the gateway's counters: --admin".to_owned());
    };
    match later.sends.saturating_sub(earlier.sends) {
        0 => Err("the gateway counted no sends".to_owned()),
        sends => Ok(to.saturating_sub(from) as f64 / sends as f64),
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
