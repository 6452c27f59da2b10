//! What a run shows on the terminal: its plan, its progress, its end.

use std::fmt::Write as _;
use std::io::Write as _;

use tidegate_load::result::{LoadResult, Percentiles, RunResult, Server, Verdict};
use tidegate_load::run::{Options, Status};
use tidegate_load::scenario::Scenario;

/// Seconds between plain lines.
const PLAIN_EVERY_S: u64 = 5;

pub fn announce(scenario: &Scenario, options: &Options) {
    eprintln!("{}: {}", scenario.name, scenario.about);
    let watched: Vec<String> =
        options.watched.iter().map(|process| format!("{} {}", process.name, process.pid)).collect();
    let watched = if watched.is_empty() { "no process".to_owned() } else { watched.join(", ") };
    let counters = match options.admins.as_slice() {
        [] => "no counters".to_owned(),
        admins => format!("counters from {}", admins.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    eprintln!("target {}; measured: {watched}, {counters}", options.target);
}

/// Shows each second: one line that is redrawn, or plain lines now and then.
pub fn progress(redraw: bool) -> impl FnMut(&Status) + Send + 'static {
    let mut seen = 0;
    move |status| {
        let text = line(status);
        if redraw {
            eprint!("\r\x1b[K{text}");
            let _ = std::io::stderr().flush();
        } else if seen % PLAIN_EVERY_S == 0 {
            eprintln!("{text}");
        }
        seen += 1;
    }
}

fn line(status: &Status) -> String {
    let (progress, second) = (&status.progress, &status.second);
    let mut text = format!("{:>5.0} s {}", second.at_s + 1.0, status.stage.name());
    let mut add = |part: String| text.push_str(&part);
    if status.asked > 0 {
        add(format!(" · {} of {} clients", progress.established, status.asked));
    }
    if status.answered > 0 {
        add(format!(" · {} msg/s", short(second.published_per_second)));
    }
    if status.answered > 0 && status.asked > 0 {
        add(format!(" · {} shown/s", short(second.deliveries_per_second)));
    }
    for (count, what) in [
        (u64::from(progress.failed), "failed"),
        (progress.closed, "closed"),
        (u64::from(progress.behind), "behind"),
        (progress.findings, "FINDINGS"),
    ] {
        if count > 0 {
            add(format!(" · {count} {what}"));
        }
    }
    let server: Vec<String> = second.cpu_percent.iter().map(|percent| format!("{percent:.0}")).collect();
    if !server.is_empty() {
        add(format!(" · CPU {} % ({:.0} % ours)", server.join("+"), second.generator_cpu_percent));
        let rss: u64 = second.rss_bytes.iter().sum();
        add(format!(" · {} MB", rss / 1_000_000));
    }
    text
}

/// The end of a run as a table.
pub fn page(result: &RunResult) -> String {
    let mut page = String::new();
    let _ = write_page(&mut page, result);
    page
}

fn write_page(page: &mut String, result: &RunResult) -> std::fmt::Result {
    let verdict = match result.verdict {
        Verdict::Pass => "PASS",
        Verdict::Fail => "FAIL",
        Verdict::Void => "VOID: the generator was the bottleneck",
    };
    writeln!(page, "\n{} {verdict} ({:.1} s)", result.scenario, result.seconds)?;
    result.reasons.iter().try_for_each(|reason| writeln!(page, "  ! {reason}"))?;
    let connections = &result.connections;
    if connections.asked > 0 {
        let rate = connections.per_second.map(|rate| format!(", {rate:.0}/s")).unwrap_or_default();
        writeln!(
            page,
            "connections   {} of {}{rate}, {} closed unexpectedly, {} came back",
            connections.established, connections.asked, connections.closed_unexpectedly, connections.reconnects
        )?;
    }
    if let Some(deliveries) = &result.deliveries {
        writeln!(
            page,
            "deliveries    {} of {}, {:.0}/s: {} lost, {} duplicated, {} reordered; {} gaps, {} holes healed",
            deliveries.received,
            deliveries.expected,
            deliveries.per_second,
            deliveries.lost,
            deliveries.duplicated,
            deliveries.reordered,
            deliveries.gaps,
            deliveries.holes_healed
        )?;
    }
    row(page, "latency", result.latency_ms)?;
    result.loads.iter().try_for_each(|load| write_load(page, load))?;
    if let Some(slow) = &result.slow {
        writeln!(
            page,
            "slow          {} of {} told a gap; P99 of the others {:.1} ms before, {:.1} ms meanwhile",
            slow.told_a_gap, slow.clients, slow.others_p99_before_ms, slow.others_p99_during_ms
        )?;
    }
    if let Some(swap) = &result.certificate_swap {
        let (ms, handshakes) = (swap.shown_after_ms, swap.handshakes);
        writeln!(page, "certificate   replaced; shown to newcomers {ms:.0} ms later, at their handshake {handshakes}")?;
    }
    if let Some(server) = &result.server {
        writeln!(page, "server        {}", costs(server))?;
    }
    if let Some(floor) = &result.floor {
        let ratio = floor.ratio.map(|ratio| format!("server {ratio:.3} × that")).unwrap_or_default();
        let interval = floor.ratio_low.zip(floor.ratio_high);
        let interval = interval.map(|(low, high)| format!(" (95 %: {low:.3} to {high:.3})")).unwrap_or_default();
        let (name, cost, pairs) = (&floor.loop_name, floor.cpu_us_per_send, floor.pairs.len());
        writeln!(page, "floor         {name} {cost:.2} µs per send, {ratio}{interval}, {pairs} pairs")?;
    }
    let generator = &result.generator;
    writeln!(
        page,
        "generator     busiest thread {:.0} %, loop lag P99 {:.1} ms, publish lag P99 {:.1} ms, drain {}",
        generator.cpu_percent, generator.loop_lag_ms_p99, generator.publish_lag_ms_p99, generator.drain
    )?;
    for judged in &result.thresholds {
        let mark = if judged.kept { "kept" } else { "MISSED" };
        let value = judged.value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.3}"));
        writeln!(page, "{mark:<13} {} {value}, {} {}", judged.name, judged.rule, judged.limit)?;
    }
    Ok(())
}

fn write_load(page: &mut String, load: &LoadResult) -> std::fmt::Result {
    writeln!(page, "load          {}: {} published, {:.0}/s", load.name, load.published, load.published_per_second)?;
    row(page, "  answers", load.answer_ms)?;
    row(page, "  latency", load.latency_ms)?;
    if load.phases.len() < 2 {
        return Ok(());
    }
    for phase in &load.phases {
        let shown = phase.deliveries_per_second.map(|rate| format!(", {rate:.0} shown/s")).unwrap_or_default();
        let p99 = phase.latency_ms.map(|ms| format!(", P50 {:.1} P99 {:.1} ms", ms.p50, ms.p99)).unwrap_or_default();
        let server = phase.server.as_ref().map(|server| format!("; {}", costs(server))).unwrap_or_default();
        writeln!(page, "  {:<12}{:.0} msg/s{shown}{p99}{server}", phase.name, phase.published_per_second)?;
    }
    Ok(())
}

fn row(page: &mut String, name: &str, percentiles: Option<Percentiles>) -> std::fmt::Result {
    let Some(Percentiles { p50, p90, p99, p999, max }) = percentiles else { return Ok(()) };
    writeln!(page, "{name:<13} P50 {p50:.1}  P90 {p90:.1}  P99 {p99:.1}  P99.9 {p999:.1}  max {max:.1} ms")
}

fn costs(server: &Server) -> String {
    let mut parts = Vec::new();
    let mut add = |value: Option<f64>, digits: usize, what: &str| {
        parts.extend(value.map(|value| format!("{value:.digits$} {what}")));
    };
    add(server.cpu_us_per_delivery, 2, "µs per delivery");
    add(server.control_cpu_us_per_delivery, 2, "µs control's per delivery");
    add(server.control_cpu_us_per_message, 2, "µs control's per message");
    add(server.cpu_us_per_send, 2, "µs per send");
    add(server.messages_per_send, 2, "messages per send");
    add(server.bytes_per_delivery, 0, "B per delivery");
    add(server.cpu_percent, 0, "% CPU");
    add(server.rss_bytes_per_connection, 0, "B per connection");
    add(server.kernel_bytes_per_connection, 0, "B of the kernel");
    parts.join(", ")
}

/// A rate with three digits at most.
fn short(rate: f64) -> String {
    if rate >= 1e6 {
        format!("{:.2}M", rate / 1e6)
    } else if rate >= 1e4 {
        format!("{:.0}k", rate / 1e3)
    } else {
        format!("{rate:.0}")
    }
}
