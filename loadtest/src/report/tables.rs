//! Thresholds, findings, loads, phases and processes.

use super::charts::PROCESS_CLASSES;
use super::markup::Markup;
use super::quantity::{beside, bytes, count, is_never, ms, number, plain};
use super::table::Table;
use crate::result::{Judged, Percentiles, Process, RunResult};

/// Most threads of a process with a line of their own.
const THREADS_MAX: usize = 16;

pub fn thresholds(markup: &mut Markup, result: &RunResult) {
    markup.element("div", &[("class", &"wide"), ("tabindex", &"0")], |wide| {
        wide.element("table", &[("class", &"thresholds")], |table| {
            table.element("thead", &[], |head| {
                head.element("tr", &[], |tr| {
                    tr.leaf("th", &[("scope", &"col")], "threshold").leaf("th", &[("scope", &"col")], "limit");
                    tr.leaf("th", &[("scope", &"col"), ("class", &"n")], "measured");
                    tr.leaf("th", &[("scope", &"col")], "kept");
                });
            });
            table.element("tbody", &[], |body| {
                for judged in &result.thresholds {
                    body.element("tr", &[("class", &if judged.kept { "kept" } else { "missed" })], |tr| {
                        tr.element("td", &[], |td| {
                            for part in judged.name.split_inclusive(['_', '.']) {
                                td.text(part).empty("wbr", &[]);
                            }
                        });
                        tr.leaf(
                            "td",
                            &[("class", &"limit")],
                            format_args!("{} {}", sign(&judged.rule), plain(judged.limit)),
                        );
                        tr.leaf("td", &[("class", &"n")], measured(judged));
                        tr.leaf("td", &[("class", &"kept")], if judged.kept { "✓ yes" } else { "✕ no" });
                    });
                }
            });
        });
    });
}

fn sign(rule: &str) -> &str {
    match rule {
        "at most" => "≤",
        "at least" => "≥",
        other => other,
    }
}

fn measured(judged: &Judged) -> String {
    match judged.value {
        None => "not measured".to_owned(),
        Some(value) if judged.name.contains("ms") && is_never(value) => "never".to_owned(),
        Some(value) => beside(value, judged.limit),
    }
}

pub fn findings(markup: &mut Markup, result: &RunResult) {
    markup.leaf("p", &[("class", &"about")], "What the oracle found, the first ones by client, stream and seq.");
    markup.element("ol", &[("class", &"findings")], |list| {
        for finding in &result.findings {
            list.leaf("li", &[], finding);
        }
    });
}

pub fn loads(markup: &mut Markup, result: &RunResult) {
    let numbers = ["sent", "published", "per second", "unanswered", "refused"];
    let mut table = Table::new(&["load"], &numbers);
    for load in &result.loads {
        let refused: Vec<String> =
            load.refused.iter().map(|(code, times)| format!("{code} × {}", count(*times))).collect();
        table.row(vec![
            Some(load.name.clone()),
            Some(count(load.sent)),
            Some(count(load.published)),
            Some(number(load.published_per_second)),
            Some(count(load.unanswered)),
            (!refused.is_empty()).then(|| refused.join(", ")),
        ]);
    }
    table.write(markup);
    let spans = result.loads.iter().flat_map(|load| {
        let shown = load.latency_ms.map(|latency| (load.name.clone(), "intended time → shown", latency));
        let answered = load.answer_ms.map(|latency| (load.name.clone(), "push → answer", latency));
        [shown, answered].into_iter().flatten()
    });
    let mut table = Table::new(&["load", "latency, ms"], &["p50", "p90", "p99", "p99.9", "max"]);
    let mut any = false;
    for (load, span, latency) in spans {
        let Percentiles { p50, p90, p99, p999, max } = latency;
        let values = [p50, p90, p99, p999, max].map(|value| Some(ms(value)));
        table.row([Some(load), Some(span.to_owned())].into_iter().chain(values).collect());
        any = true;
    }
    if any {
        table.write(markup);
    }
}

pub fn phases(markup: &mut Markup, result: &RunResult) {
    let numbers = [
        "from, s",
        "to, s",
        "published",
        "per second",
        "deliveries per second",
        "p50, ms",
        "p99, ms",
        "max, ms",
        "gateway CPU per delivery, µs",
        "control CPU per delivery, µs",
        "messages per send",
        "CPU, % of a core",
    ];
    let mut table = Table::new(&["load", "phase"], &numbers);
    for (load, phase) in result.loads.iter().flat_map(|load| load.phases.iter().map(move |phase| (load, phase))) {
        let server = phase.server.as_ref();
        table.row(vec![
            Some(load.name.clone()),
            Some(phase.name.clone()),
            Some(format!("{:.1}", phase.from_s)),
            Some(format!("{:.1}", phase.to_s)),
            Some(count(phase.published)),
            Some(number(phase.published_per_second)),
            phase.deliveries_per_second.map(number),
            phase.latency_ms.map(|latency| ms(latency.p50)),
            phase.latency_ms.map(|latency| ms(latency.p99)),
            phase.latency_ms.map(|latency| ms(latency.max)),
            server.and_then(|server| server.cpu_us_per_delivery).map(number),
            server.and_then(|server| server.control_cpu_us_per_delivery).map(number),
            server.and_then(|server| server.messages_per_send).map(number),
            server.and_then(|server| server.cpu_percent).map(number),
        ]);
    }
    table.write(markup);
}

pub fn processes(markup: &mut Markup, result: &RunResult) {
    let processes = result.server.as_ref().map_or(&[][..], |server| &server.processes);
    markup.element("div", &[("class", &"groups")], |groups| {
        for (number, process) in processes.iter().enumerate() {
            let class = PROCESS_CLASSES.get(number).copied().unwrap_or("faint");
            groups.element("div", &[("class", &"group")], |group| write_process(group, process, class));
        }
    });
}

fn write_process(markup: &mut Markup, process: &Process, class: &'static str) {
    markup.element("h3", &[], |title| {
        title.leaf("span", &[("class", &format_args!("key {class}"))], "");
        title.text(&process.name);
    });
    let (pid, cpu, resident) = (process.pid, number(process.cpu_seconds), bytes(process.rss_bytes as f64));
    markup.leaf("p", &[("class", &"about")], format_args!("pid {pid} · {cpu} s of CPU · {resident} resident"));
    let mut threads: Vec<(&str, f64)> = process.threads.iter().map(|(name, cpu)| (name.as_str(), *cpu)).collect();
    threads.sort_by(|a, b| b.1.total_cmp(&a.1));
    let rest: f64 = threads.iter().skip(THREADS_MAX).map(|(_, cpu)| cpu).sum();
    let others = threads.len().saturating_sub(THREADS_MAX);
    threads.truncate(THREADS_MAX);
    let others = (others > 0).then(|| format!("{others} others"));
    threads.extend(others.as_deref().map(|others| (others, rest)));
    let whole = process.cpu_seconds.max(threads.iter().map(|(_, cpu)| cpu).sum()).max(1e-9);
    markup.element("dl", &[("class", &"threads")], |list| {
        for (name, cpu) in threads {
            let share = cpu / whole * 100.0;
            list.element("div", &[], |row| {
                row.leaf("dt", &[], name);
                row.leaf("dd", &[], format_args!("{cpu:.2} s"));
                let width = format!("width:{share:.1}%");
                row.leaf("span", &[("class", &format_args!("bar {class}")), ("style", &width)], "");
            });
        }
    });
}
