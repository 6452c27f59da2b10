//! `tidegate-load floor`: both bare servers alone, with the sockets, frame and spacing of a scenario.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use prost::Message as _;
use tidegate_load::floor::stats::interval;
use tidegate_load::floor::{Broadcast, Floors, Loop};
use tidegate_load::payload::{self, Stamp};
use tidegate_load::result::Pair;
use tidegate_load::scenario::{FloorPairs, Scenario};
use tidegate_proto::v1::{Batch, Message, ServerFrame, server_frame};

/// For a scenario without a `[floor]`.
const USUAL: FloorPairs = FloorPairs { pairs: 9, slice: Duration::from_secs(8) };

#[derive(clap::Args)]
pub struct FloorArgs {
    /// A scenario with a paced load: its connections, drain mode, payload and spacing are used.
    scenario: PathBuf,
}

pub fn run(args: &FloorArgs) -> anyhow::Result<ExitCode> {
    let scenario = match super::scenario(&args.scenario) {
        Ok(scenario) => scenario,
        Err(status) => return Ok(status),
    };
    let sockets = scenario.connections.count as usize;
    let paced = scenario.loads.iter().find_map(|load| {
        let phase = load.phases.iter().find(|phase| phase.per_second > 0.0)?;
        Some((load.payload_bytes, phase.per_second)).filter(|_| scenario.is_followed(load))
    });
    let Some((payload_bytes, per_second)) = paced else {
        eprintln!("{}: no load of it is paced and followed by connections", args.scenario.display());
        return Ok(ExitCode::from(super::BAD_SCENARIO));
    };
    let FloorPairs { pairs, slice } = scenario.floor.unwrap_or(USUAL);
    let broadcast = Broadcast {
        frame: frame(payload_bytes)?,
        rounds: ((slice.as_secs_f64() * per_second).round() as u64).max(1),
        spacing: Duration::from_secs_f64(1.0 / per_second),
    };
    println!(
        "{sockets} sockets, frames of {} B, {per_second} rounds a second, {} rounds a slice",
        broadcast.frame.len(),
        broadcast.rounds
    );
    let measured = measure(&scenario, &broadcast, pairs as usize)?;
    for which in Loop::BOTH {
        let costs: Vec<f64> = measured.iter().filter_map(|pair| cost(which, pair)).collect();
        if costs.is_empty() {
            continue;
        }
        let found = interval(&costs, scenario.seed);
        println!(
            "{:>8}: {:.2} µs CPU per send (median of {}; 95 %: {:.2} to {:.2})",
            which.name(),
            found.median,
            costs.len(),
            found.low,
            found.high
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(scenario: &Scenario, broadcast: &Broadcast, slices: usize) -> anyhow::Result<Vec<Pair>> {
    let binary = std::env::current_exe().context("this program's own file is unknown")?;
    let mut floors =
        Floors::stand(&binary, scenario.connections.count as usize, scenario.connections.drain).context("no floor")?;
    if let Some(why) = &floors.left_out {
        eprintln!("{why}");
    }
    let shown = |cost: Option<f64>| cost.map_or_else(|| "-".to_owned(), |cost| format!("{cost:.2}"));
    let told = |number, pair: &Pair| {
        eprintln!("slice {number} of {slices}: epoll {}, io_uring {}", shown(pair.epoll), shown(pair.io_uring));
    };
    floors.compare(broadcast, slices, told).context("no floor")
}

/// A frame as a gateway would send it for one message of that size.
fn frame(payload_bytes: usize) -> anyhow::Result<Vec<u8>> {
    let message = Message {
        seq: 1_000,
        id: (1u64 << 60).to_string(),
        ts: 1_790_000_000_000,
        r#type: "text".to_owned(),
        content: payload::content(Stamp { load: 0, number: 1_000, intended_us: 60_000_000 }, payload_bytes),
        ..Message::default()
    };
    let batch = Batch {
        stream: "g:lt123456789-all-0".to_owned(),
        epoch: "k3f9k3f9".to_owned(),
        after: Some(999),
        upto: Some(1_000),
        messages: vec![message],
    };
    let body = ServerFrame { id: 0, body: Some(server_frame::Body::Batch(batch)) }.encode_to_vec();
    // A server's frame, RFC 6455 section 5.2: final, binary, not masked.
    let mut frame = vec![0x82];
    match body.len() {
        short @ 0..=125 => frame.push(short as u8),
        length => {
            let length = u16::try_from(length).context("a payload too large for one frame of this kind")?;
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend(body);
    Ok(frame)
}

fn cost(which: Loop, pair: &Pair) -> Option<f64> {
    match which {
        Loop::Epoll => pair.epoll,
        Loop::Uring => pair.io_uring,
    }
}
