//! What no single key can tell: numbers that contradict each other.

use super::reader::Problems;
use super::{Load, Scenario, To, Until, Via};
use crate::population::GroupClass;

pub fn check(scenario: &Scenario, problems: &Problems) {
    names_once(problems, "groups", scenario.groups.iter().map(|group| group.name.as_str()));
    names_once(problems, "publish", scenario.loads.iter().map(|load| load.name.as_str()));
    for (index, group) in scenario.groups.iter().enumerate() {
        check_group(group, index, scenario.connections.count, problems);
    }
    for (index, load) in scenario.loads.iter().enumerate() {
        check_load(load, index, scenario, problems);
    }
    check_slow(scenario, problems);
    check_swap(scenario, problems);
    check_floor(scenario, problems);
    if scenario.connections.count == 0 && scenario.loads.is_empty() && problems.is_empty() {
        problems.add("", "a scenario needs connections.count above 0 or a [[publish]]");
    }
}

fn names_once<'a>(problems: &Problems, what: &str, names: impl Iterator<Item = &'a str>) {
    let mut seen = Vec::new();
    for (index, name) in names.enumerate() {
        if seen.contains(&name) && !name.is_empty() {
            problems.add(format!("{what}[{index}].name"), format!("\"{name}\" is taken"));
        }
        seen.push(name);
    }
}

fn check_group(group: &GroupClass, index: usize, connections: u32, problems: &Problems) {
    let key = |key: &str| format!("groups[{index}].{key}");
    if matches!(group.name.as_str(), "inboxes" | "streams") {
        problems.add(key("name"), format!("\"{}\" means something else in publish.to", group.name));
    }
    if group.members > connections {
        problems.add(key("members"), format!("{} members of {connections} connections", group.members));
    } else if u64::from(group.count - 1) * u64::from(group.members) >= u64::from(connections) {
        let text = format!("{} groups of {} members: some would have none", group.count, group.members);
        problems.add(key("count"), format!("{text} of {connections} connections"));
    }
}

fn check_load(load: &Load, index: usize, scenario: &Scenario, problems: &Problems) {
    let key = |key: &str| format!("publish[{index}].{key}");
    if load.to == To::Inboxes && scenario.connections.count == 0 {
        problems.add(key("to"), "there are no inboxes without connections");
    }
    names_once(problems, &key("phases"), load.phases.iter().map(|phase| phase.name.as_str()));
    for (number, phase) in load.phases.iter().enumerate() {
        if let Until::Seconds(seconds) = phase.until
            && phase.per_second > 0.0
            && phase.per_second * seconds < 1.0
        {
            let text = format!("{} messages per second for {seconds} s are none", phase.per_second);
            problems.add(key(&format!("phases[{number}].for_s")), text);
        }
    }
    let mut before = load.after;
    for _ in 0..scenario.loads.len() {
        match before {
            Some(other) if other == index => {
                problems.add(key("after"), "this load would wait for itself");
                return;
            }
            Some(other) => before = scenario.loads[other].after,
            None => return,
        }
    }
}

fn check_slow(scenario: &Scenario, problems: &Problems) {
    let Some(slow) = scenario.slow else { return };
    if slow.count >= scenario.connections.count {
        problems.add("slow.count", format!("must be less than connections.count ({})", scenario.connections.count));
    }
    if !scenario.loads.iter().any(|load| scenario.is_followed(load)) {
        problems.add("slow", "nothing is published to the clients that would stop reading");
    }
}

fn check_swap(scenario: &Scenario, problems: &Problems) {
    if scenario.swap_after.is_none() {
        return;
    }
    if !scenario.connections.tls {
        problems.add("certificate_swap", "needs connections.tls = true");
    }
    if scenario.loads.is_empty() {
        problems.add("certificate_swap", "is dated from the begin of the first [[publish]], and there is none");
    }
}

/// The floor sends what the product sends: one group with everybody, one message after the other.
fn check_floor(scenario: &Scenario, problems: &Problems) {
    if scenario.floor.is_none() {
        return;
    }
    if scenario.connections.tls {
        problems.add("floor", "the bare loops speak no TLS");
    }
    if scenario.slow.is_some() {
        problems.add("floor", "cannot be compared while [slow] clients do not read");
    }
    let [load] = scenario.loads.as_slice() else {
        problems.add("floor", format!("needs exactly one [[publish]], there are {}", scenario.loads.len()));
        return;
    };
    match load.to {
        To::Groups(class) => {
            let class = &scenario.groups[class];
            if class.count != 1 || class.members != scenario.connections.count {
                let all = scenario.connections.count;
                problems.add("publish[0].to", format!("[floor] needs one group with all {all} connections"));
            }
        }
        To::Inboxes | To::Streams(_) => problems.add("publish[0].to", "[floor] needs a group with all connections"),
    }
    if load.via != Via::Stream {
        problems.add("publish[0].via", "[floor] needs \"stream\"");
    }
    match load.phases.as_slice() {
        [phase] if phase.per_second > 0.0 && matches!(phase.until, Until::Seconds(_)) => {}
        [phase] if phase.per_second > 0.0 => {
            problems.add("publish[0].phases[0].messages", "[floor] repeats its own slices; say for_s");
        }
        [_] => problems.add("publish[0].phases[0].per_second", "[floor] needs a spacing between messages"),
        _ => problems.add("publish[0].phases", "[floor] needs exactly one phase"),
    }
}
