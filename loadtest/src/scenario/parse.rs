//! From the file's tables to a [`Scenario`]. Reading goes on after a problem, so that all are found.

use std::time::Duration;

use toml::Table;

use super::checks;
use super::reader::{Problem, Problems, Section, nearest};
use super::thresholds::{self, Measurable};
use super::{
    CONNECTIONS_MAX, Connections, FloorPairs, GeneratorLimits, LOADS_MAX, Load, NAME_BYTES_MAX, PHASES_MAX, Phase,
    Pick, STREAMS_MAX, Scenario, Slow, To, Until, Via,
};
use crate::fleet::Drain;
use crate::payload::{Filling, PAYLOAD_BYTES_MIN};
use crate::population::GroupClass;

const DAY_S: f64 = 86_400.0;
const PER_SECOND_MAX: f64 = 10_000_000.0;
const MESSAGES_MAX: u64 = 100_000_000_000;
const PAYLOAD_BYTES_MAX: u64 = 64 * 1024;
const PAYLOAD_BYTES: u64 = 128;
const IN_FLIGHT_MAX: u64 = 1_000_000;
/// Connections of one REST load, and calls of one unary load: what one control node takes by default.
const CALLS_MAX: u64 = 1_000;
/// The protocol's: so many requests of one client may wait for their answers.
const OF_ONE_CLIENT_MAX: u64 = 64;
const RAMP_PER_SECOND: f64 = 1_000.0;
const DRAIN_MS: u64 = 20;
const LAG_MS_MAX: f64 = 50.0;
const CPU_PERCENT_MAX: f64 = 97.0;
const SEED: u64 = 1;

pub fn parse(text: &str) -> Result<Scenario, Vec<Problem>> {
    let table: Table =
        text.parse().map_err(|error: toml::de::Error| vec![Problem { key: String::new(), text: error.to_string() }])?;
    let problems = Problems::default();
    let scenario = scenario(Section::root(&table, &problems), text);
    checks::check(&scenario, &problems);
    let problems = problems.into_vec();
    if problems.is_empty() { Ok(scenario) } else { Err(problems) }
}

/// Where something is unusable a default stands in its place; the problem that was noted keeps it from being used.
fn scenario(mut root: Section<'_>, text: &str) -> Scenario {
    let name = root.text("name");
    let name = root.required("name", name).unwrap_or_default();
    if root.has("name") {
        check_name(&root, "name", &name);
    }
    let about = root.text("about").unwrap_or_default();
    let seed = root.integer("seed", 0..=i64::MAX as u64).unwrap_or(SEED);
    let connections = match root.section("connections") {
        Some(section) => connections(section),
        None => no_connections(),
    };
    let groups: Vec<GroupClass> =
        root.sections("groups").into_iter().map(|section| group_class(section, connections.count)).collect();
    let loads = loads(&mut root, &groups);
    let slow = root.section("slow").map(slow);
    let swap_after = root.section("certificate_swap").map(certificate_swap);
    let floor = root.section("floor").map(floor);
    let generator = generator(root.section("generator"), connections.drain);
    let may = Measurable {
        loads: &loads,
        connections: connections.count > 0,
        slow: slow.map(|slow| slow.count),
        floor: floor.is_some(),
    };
    let thresholds = match root.section("thresholds") {
        Some(mut section) => {
            let thresholds = thresholds::read(&mut section, may);
            section.end();
            thresholds
        }
        None => Vec::new(),
    };
    root.end();
    Scenario {
        name,
        about,
        seed,
        connections,
        groups,
        loads,
        slow,
        swap_after,
        floor,
        generator,
        thresholds,
        text: text.to_owned(),
    }
}

fn no_connections() -> Connections {
    Connections {
        count: 0,
        tls: false,
        compression: false,
        ramp_per_second: RAMP_PER_SECOND,
        drain: Drain::Armed,
        hold: Duration::ZERO,
        reconnect: true,
    }
}

fn connections(mut section: Section<'_>) -> Connections {
    let count = section.integer("count", 0..=CONNECTIONS_MAX);
    let count = section.required("count", count).unwrap_or(0) as u32;
    let tls = section.flag("tls").unwrap_or(false);
    let compression = section.flag("compression").unwrap_or(false);
    let ramp_per_second = section.number("ramp_per_second", 1.0..=1_000_000.0).unwrap_or(RAMP_PER_SECOND);
    let timer = section.choice("drain", &[("armed", false), ("timer", true)]).unwrap_or(false);
    let drain_ms = section.integer("drain_ms", 1..=10_000);
    if drain_ms.is_some() && !timer {
        section.problem("drain_ms", "belongs to drain = \"timer\"");
    }
    let every = Duration::from_millis(drain_ms.unwrap_or(DRAIN_MS));
    let hold = seconds(section.number("hold_s", 0.0..=DAY_S).unwrap_or(0.0));
    let reconnect = section.flag("reconnect").unwrap_or(true);
    section.end();
    Connections {
        count,
        tls,
        compression,
        ramp_per_second,
        drain: if timer { Drain::Timer { every } } else { Drain::Armed },
        hold,
        reconnect,
    }
}

fn group_class(mut section: Section<'_>, connections: u32) -> GroupClass {
    let name = name(&mut section);
    let count = section.integer("count", 1..=STREAMS_MAX);
    let count = section.required("count", count).unwrap_or(1) as u32;
    let spread = connections.div_ceil(count).max(1);
    let members = section.integer("members", 1..=CONNECTIONS_MAX).map_or(spread, |members| members as u32);
    section.end();
    GroupClass { name, count, members }
}

fn loads(root: &mut Section<'_>, groups: &[GroupClass]) -> Vec<Load> {
    let sections = root.sections("publish");
    if sections.len() > LOADS_MAX {
        root.problem("publish", format!("at most {LOADS_MAX} loads"));
    }
    let mut afters = Vec::new();
    let mut loads: Vec<Load> = Vec::new();
    for mut section in sections {
        afters.push((section.key("after"), section.text("after")));
        loads.push(load(section, groups));
    }
    for (index, (key, after)) in afters.into_iter().enumerate() {
        let Some(after) = after else { continue };
        loads[index].after = loads.iter().position(|load| load.name == after);
        if loads[index].after.is_none() {
            let hint = nearest(&after, loads.iter().map(|load| load.name.as_str()));
            let hint = hint.map(|meant| format!("; did you mean \"{meant}\"?")).unwrap_or_default();
            root.problem(&key, format!("no [[publish]] has the name \"{after}\"{hint}"));
        }
    }
    loads
}

fn load(mut section: Section<'_>, groups: &[GroupClass]) -> Load {
    let name = name(&mut section);
    let to = to(&mut section, groups);
    let pick = section.choice("pick", &[("turn", Pick::Turn), ("random", Pick::Random)]).unwrap_or(Pick::Turn);
    let ways = [("stream", Via::Stream), ("unary", Via::Unary), ("rest", Via::Rest), ("clients", Via::Clients)];
    let via = section.choice("via", &ways).unwrap_or(Via::Stream);
    if via == Via::Clients && to == To::Inboxes {
        section.problem(
            "via",
            "what a client sends to a user is answered with its seq in their conversation, not in the inbox",
        );
    }
    let payload_bytes =
        section.integer("payload_bytes", PAYLOAD_BYTES_MIN as u64..=PAYLOAD_BYTES_MAX).unwrap_or(PAYLOAD_BYTES);
    let fillings = [("letters", Filling::Letters), ("words", Filling::Words)];
    let filling = section.choice("filling", &fillings).unwrap_or_default();
    let (most, usual) = match via {
        Via::Stream => (IN_FLIGHT_MAX, 10_000),
        Via::Unary | Via::Rest => (CALLS_MAX, 64),
        Via::Clients => (OF_ONE_CLIENT_MAX, OF_ONE_CLIENT_MAX),
    };
    let in_flight = section.integer("in_flight", 1..=most).unwrap_or(usual);
    let phases: Vec<Phase> = section.sections("phases").into_iter().map(phase).collect();
    if phases.is_empty() {
        section.problem("phases", "is missing: at least one [[publish.phases]]");
    }
    if phases.len() > PHASES_MAX {
        section.problem("phases", format!("at most {PHASES_MAX} phases"));
    }
    section.end();
    let (payload_bytes, in_flight) = (payload_bytes as usize, in_flight as usize);
    Load { name, to, pick, via, payload_bytes, filling, in_flight, after: None, phases }
}

fn to(section: &mut Section<'_>, groups: &[GroupClass]) -> To {
    let word = section.text("to");
    let word = section.required("to", word);
    let streams = section.integer("streams", 1..=STREAMS_MAX);
    if streams.is_some() && word.as_deref() != Some("streams") {
        section.problem("streams", "belongs to to = \"streams\"");
    }
    let Some(word) = word else { return To::Inboxes };
    match word.as_str() {
        "inboxes" => To::Inboxes,
        "streams" => To::Streams(section.required("streams", streams).unwrap_or(1) as u32),
        class => match groups.iter().position(|group| group.name == class) {
            Some(index) => To::Groups(index),
            None => {
                let names = groups.iter().map(|group| group.name.as_str()).chain(["inboxes", "streams"]);
                let hint = nearest(class, names).map(|meant| format!("; did you mean \"{meant}\"?"));
                let text = "is neither the name of a [[groups]] nor \"inboxes\" nor \"streams\"";
                section.problem("to", format!("\"{class}\" {text}{}", hint.unwrap_or_default()));
                To::Inboxes
            }
        },
    }
}

fn phase(mut section: Section<'_>) -> Phase {
    let name = name(&mut section);
    let per_second = section.number("per_second", 0.0..=PER_SECOND_MAX);
    let per_second = section.required("per_second", per_second).unwrap_or(0.0);
    let for_s = section.number("for_s", 0.001..=DAY_S);
    let messages = section.integer("messages", 1..=MESSAGES_MAX);
    let until = match (section.has("for_s"), section.has("messages")) {
        (true, true) => {
            section.problem("messages", "a phase has for_s or messages, not both");
            Until::Messages(1)
        }
        (false, false) => {
            section.problem("for_s", "a phase needs for_s or messages");
            Until::Messages(1)
        }
        (true, false) => Until::Seconds(for_s.unwrap_or(1.0)),
        (false, true) => Until::Messages(messages.unwrap_or(1)),
    };
    section.end();
    Phase { name, per_second, until }
}

fn slow(mut section: Section<'_>) -> Slow {
    let count = section.integer("count", 1..=CONNECTIONS_MAX);
    let count = section.required("count", count).unwrap_or(1) as u32;
    let after_s = section.number("after_s", 0.0..=DAY_S);
    let after = seconds(section.required("after_s", after_s).unwrap_or(0.0));
    let for_s = section.number("for_s", 0.001..=DAY_S);
    let for_time = seconds(section.required("for_s", for_s).unwrap_or(1.0));
    section.end();
    Slow { count, after, for_time }
}

fn certificate_swap(mut section: Section<'_>) -> Duration {
    let after_s = section.number("after_s", 0.0..=DAY_S);
    let after = seconds(section.required("after_s", after_s).unwrap_or(0.0));
    section.end();
    after
}

fn floor(mut section: Section<'_>) -> FloorPairs {
    let pairs = section.integer("pairs", 1..=99).unwrap_or(9) as u32;
    let slice = seconds(section.number("slice_s", 0.5..=600.0).unwrap_or(8.0));
    section.end();
    FloorPairs { pairs, slice }
}

fn generator(section: Option<Section<'_>>, drain: Drain) -> GeneratorLimits {
    let loop_lag = match drain {
        Drain::Armed => LAG_MS_MAX,
        Drain::Timer { every } => every.as_secs_f64() * 1000.0 + LAG_MS_MAX,
    };
    let mut limits = GeneratorLimits {
        loop_lag_p99_ms_max: loop_lag,
        publish_lag_p99_ms_max: LAG_MS_MAX,
        cpu_percent_max: CPU_PERCENT_MAX,
    };
    if let Some(mut section) = section {
        let lag = 0.1..=3_600_000.0;
        limits.loop_lag_p99_ms_max = section.number("loop_lag_p99_ms_max", lag.clone()).unwrap_or(loop_lag);
        limits.publish_lag_p99_ms_max = section.number("publish_lag_p99_ms_max", lag).unwrap_or(LAG_MS_MAX);
        limits.cpu_percent_max = section.number("cpu_percent_max", 1.0..=100.0).unwrap_or(CPU_PERCENT_MAX);
        section.end();
    }
    limits
}

fn name(section: &mut Section<'_>) -> String {
    let name = section.text("name");
    let name = section.required("name", name);
    if let Some(name) = &name {
        check_name(section, "name", name);
    }
    name.unwrap_or_default()
}

/// Names become part of stream names and idempotency keys.
fn check_name(section: &Section<'_>, key: &str, name: &str) {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !letters {
        section.problem(key, format!("must be 1 to {NAME_BYTES_MAX} letters, digits, `_`, `.` or `-`, is \"{name}\""));
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}
