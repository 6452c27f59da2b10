//! Key figures: the few that matter large, then all of them in groups.

use super::markup::Markup;
use super::quantity::{bytes, count, is_never, ms_unit, number};
use crate::result::{Deliveries, Percentiles, RunResult, Server, Verdict};

struct Group {
    title: &'static str,
    rows: Vec<Row>,
}

struct Row {
    name: &'static str,
    value: String,
    /// What must not be: a count that is not zero, a latency of what never came.
    wrong: bool,
}

pub fn write(markup: &mut Markup, result: &RunResult) {
    if result.verdict == Verdict::Void {
        markup.leaf(
            "p",
            &[("class", &"void note")],
            "Void: these are the generator's limits, not the server's figures.",
        );
    }
    markup.element("div", &[("class", &"large")], |large| {
        for (name, value, beside) in largest(result) {
            large.element("div", &[], |tile| {
                tile.leaf("p", &[("class", &"name")], name);
                tile.leaf("p", &[("class", &"value")], value);
                tile.leaf("p", &[("class", &"beside")], beside);
            });
        }
    });
    markup.element("div", &[("class", &"groups")], |groups| {
        for group in groups_of(result).into_iter().filter(|group| !group.rows.is_empty()) {
            groups.element("div", &[("class", &"group")], |markup| write_group(markup, &group));
        }
    });
}

fn write_group(markup: &mut Markup, group: &Group) {
    markup.leaf("h3", &[], group.title);
    markup.element("dl", &[], |list| {
        for row in &group.rows {
            list.element("div", &[("class", &if row.wrong { "wrong" } else { "" })], |line| {
                line.leaf("dt", &[], row.name);
                let sign = if row.wrong { "✕ " } else { "" };
                line.leaf("dd", &[], format_args!("{sign}{}", row.value));
            });
        }
    });
}

/// Name, value, and what belongs beside it.
fn largest(result: &RunResult) -> Vec<(&'static str, String, String)> {
    let mut tiles = Vec::new();
    if let Some(deliveries) = &result.deliveries {
        let (lost, expected) = (count(deliveries.lost), count(deliveries.expected));
        tiles.push(("Lost", lost, format!("of {expected} deliveries")));
        tiles.push(("Deliveries/s", number(deliveries.per_second), "mean while publishing".to_owned()));
    }
    if result.connections.asked > 0 {
        let beside = format!("of {} asked", count(result.connections.asked));
        tiles.push(("Connections", count(result.connections.established), beside));
    }
    if let Some(latency) = &result.latency_ms {
        let beside = format!("p50 {} · max {}", ms_unit(latency.p50), ms_unit(latency.max));
        tiles.push(("Latency, p99", ms_unit(latency.p99), beside));
    }
    // Of several loads the rates are in their table: a sum of rates of different times would be nobody's rate.
    if let ([load], None) = (&result.loads[..], &result.deliveries) {
        let beside = format!("{} answered OK", count(result.published));
        tiles.push(("Published/s", number(load.published_per_second), beside));
    }
    if let Some(server) = &result.server {
        if let Some(cpu) = server.cpu_us_per_delivery {
            let control = server.control_cpu_us_per_delivery.map(|us| format!(" · control {} µs", number(us)));
            let beside = format!("gateway{}", control.unwrap_or_default());
            tiles.push(("CPU per delivery", format!("{} µs", number(cpu)), beside));
        }
        if let Some(bytes) = server.rss_bytes_per_connection {
            let kernel = server.kernel_bytes_per_connection.map(|bytes| format!(" · kernel {} B", number(bytes)));
            let beside = format!("process{}", kernel.unwrap_or_default());
            tiles.push(("RSS per connection", format!("{} B", number(bytes)), beside));
        }
    }
    if let Some((floor, ratio)) = result.floor.as_ref().and_then(|floor| Some((floor, floor.ratio?))) {
        let interval = floor.ratio_low.zip(floor.ratio_high);
        let beside = interval.map(|(low, high)| format!("95 %: {} to {}", number(low), number(high)));
        tiles.push(("Server ÷ floor", format!("{} ×", number(ratio)), beside.unwrap_or_default()));
    }
    tiles
}

fn groups_of(result: &RunResult) -> Vec<Group> {
    let deliveries = result.deliveries.as_ref();
    vec![
        Group { title: "Connections", rows: connections(result) },
        Group { title: "Deliveries", rows: deliveries.map(delivered).unwrap_or_default() },
        Group { title: "What must be zero", rows: deliveries.map(judged).unwrap_or_default() },
        Group { title: "Latency", rows: latency(result) },
        Group { title: "Server CPU", rows: result.server.as_ref().map(cpu).unwrap_or_default() },
        Group { title: "Server memory", rows: result.server.as_ref().map(memory).unwrap_or_default() },
        Group { title: "Generator", rows: generator(result) },
        Group { title: "Floor", rows: floor(result) },
        Group { title: "Slow clients", rows: slow(result) },
        Group { title: "Certificate", rows: certificate(result) },
    ]
}

fn connections(result: &RunResult) -> Vec<Row> {
    let connections = &result.connections;
    let mut rows = Vec::new();
    if connections.asked > 0 {
        rows.push(Row::new("asked", count(connections.asked)));
        rows.push(Row::new("established", count(connections.established)));
        rows.push(Row::zero("failed", connections.failed));
        rows.push(Row::zero("closed unexpectedly", connections.closed_unexpectedly));
        rows.push(Row::new("reconnects", count(connections.reconnects)));
        rows.extend(connections.per_second.map(|rate| Row::new("established per second", number(rate))));
    }
    rows
}

fn delivered(deliveries: &Deliveries) -> Vec<Row> {
    vec![
        Row::new("expected", count(deliveries.expected)),
        Row::new("received", count(deliveries.received)),
        Row::new("per second", number(deliveries.per_second)),
        Row::new("holes healed", count(deliveries.holes_healed)),
        Row::new("gaps told", count(deliveries.gaps)),
        Row::new("overlaps passed over", count(deliveries.overlaps)),
    ]
}

fn judged(deliveries: &Deliveries) -> Vec<Row> {
    vec![
        Row::zero("lost", deliveries.lost),
        Row::zero("duplicated", deliveries.duplicated),
        Row::zero("reordered", deliveries.reordered),
        Row::zero("wrong recipient", deliveries.wrong_recipient),
        Row::zero("wrong payload", deliveries.wrong_payload),
        Row::zero("unhealed holes", deliveries.unhealed_holes),
        Row::zero("against the protocol", deliveries.against_protocol),
    ]
}

fn latency(result: &RunResult) -> Vec<Row> {
    let of = |latency: &Percentiles| {
        let named = [
            ("p50", latency.p50),
            ("p90", latency.p90),
            ("p99", latency.p99),
            ("p99.9", latency.p999),
            ("max", latency.max),
        ];
        named.map(|(name, value)| Row { name, value: ms_unit(value), wrong: is_never(value) }).into()
    };
    result.latency_ms.as_ref().map(of).unwrap_or_default()
}

fn cpu(server: &Server) -> Vec<Row> {
    let us = |value: f64| format!("{} µs", number(value));
    Row::known([
        ("gateway per delivery", server.cpu_us_per_delivery.map(us)),
        ("control per delivery", server.control_cpu_us_per_delivery.map(us)),
        ("control per message", server.control_cpu_us_per_message.map(us)),
        ("gateway per send", server.cpu_us_per_send.map(us)),
        ("messages per send", server.messages_per_send.map(number)),
        ("bytes per delivery", server.bytes_per_delivery.map(number)),
        ("use of one core", server.cpu_percent.map(|value| format!("{} %", number(value)))),
    ])
}

fn memory(server: &Server) -> Vec<Row> {
    let octets = |value: f64| format!("{} B", number(value));
    Row::known([
        ("RSS per connection", server.rss_bytes_per_connection.map(octets)),
        ("kernel per connection", server.kernel_bytes_per_connection.map(octets)),
        ("RSS", server.rss_bytes.map(|value| bytes(value as f64))),
    ])
}

fn floor(result: &RunResult) -> Vec<Row> {
    let Some(floor) = &result.floor else { return Vec::new() };
    let mut rows = vec![
        Row::new("cheaper loop", floor.loop_name.clone()),
        Row::new("its CPU per send", format!("{} µs", number(floor.cpu_us_per_send))),
    ];
    rows.extend(floor.ratio.map(|ratio| Row::new("server ÷ floor", number(ratio))));
    let interval = floor.ratio_low.zip(floor.ratio_high);
    rows.extend(interval.map(|(l, h)| Row::new("95 % interval", format!("{} to {}", number(l), number(h)))));
    rows.push(Row::new("pairs", count(floor.pairs.len() as u64)));
    rows.push(Row::new("sockets", count(floor.sockets)));
    rows.push(Row::new("frame", format!("{} B", count(floor.frame_bytes as u64))));
    rows
}

fn certificate(result: &RunResult) -> Vec<Row> {
    let Some(swap) = &result.certificate_swap else { return Vec::new() };
    vec![
        Row::new("new one shown after", ms_unit(swap.shown_after_ms)),
        Row::new("newcomers until then", count(swap.handshakes)),
    ]
}

fn slow(result: &RunResult) -> Vec<Row> {
    let Some(slow) = &result.slow else { return Vec::new() };
    vec![
        Row::new("stopped reading", count(slow.clients)),
        Row::new("told a gap", count(slow.told_a_gap)),
        Row::new("others' p99 before", ms_unit(slow.others_p99_before_ms)),
        Row::new("others' p99 meanwhile", ms_unit(slow.others_p99_during_ms)),
    ]
}

fn generator(result: &RunResult) -> Vec<Row> {
    let generator = &result.generator;
    let mut rows = vec![
        Row::new("busiest thread", format!("{} % of a core", number(generator.cpu_percent))),
        Row::new("loop lag, p99", ms_unit(generator.loop_lag_ms_p99)),
        Row::new("publish lag, p99", ms_unit(generator.publish_lag_ms_p99)),
    ];
    if !generator.drain.is_empty() {
        rows.push(Row::new("sockets read", generator.drain.clone()));
    }
    rows
}

impl Row {
    fn new(name: &'static str, value: String) -> Row {
        Row { name, value, wrong: false }
    }

    fn known<const N: usize>(rows: [(&'static str, Option<String>); N]) -> Vec<Row> {
        rows.into_iter().filter_map(|(name, value)| Some(Row::new(name, value?))).collect()
    }

    /// Anything but zero is wrong.
    fn zero(name: &'static str, value: u64) -> Row {
        Row { name, value: count(value), wrong: value > 0 }
    }
}
