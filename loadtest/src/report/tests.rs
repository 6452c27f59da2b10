use super::*;
use crate::result::{Connections, Generator, Machine, Pair, Second, Settings, Verdict};

/// A run with everything that a result can hold: several loads, losses, a floor, slow clients, an unobserved second.
const FULL: &str = include_str!("testdata/result.json");

fn full() -> RunResult {
    from_json(FULL).expect("the fixture is a result")
}

/// A result with nothing that may be absent.
fn least() -> RunResult {
    RunResult {
        schema: SCHEMA,
        scenario: "least".to_owned(),
        verdict: Verdict::Pass,
        reasons: Vec::new(),
        findings: Vec::new(),
        started: "2026-11-21T10:00:00Z".to_owned(),
        seconds: 1.0,
        commit: None,
        machine: Machine::default(),
        settings: Settings::default(),
        connections: Connections::default(),
        published: 0,
        deliveries: None,
        latency_ms: None,
        loads: Vec::new(),
        slow: None,
        certificate_swap: None,
        server: None,
        floor: None,
        generator: Generator::default(),
        thresholds: Vec::new(),
        histogram: None,
        timeline: Vec::new(),
    }
}

/// Panics unless every element is closed where it should be.
fn assert_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>\n").expect("a doctype");
    while let Some(start) = rest.find('<') {
        let from = &rest[start + 1..];
        let end = from.find('>').expect("a tag ends");
        let tag = &from[..end];
        rest = &from[end + 1..];
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()) && !name.is_empty(), "<{tag}>");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes another element");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        if ["style", "script"].contains(&name) && !tag.starts_with('/') {
            // Their text is not markup.
            rest = &rest[rest.find("</").expect("it is closed")..];
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}

#[test]
fn pages_are_well_formed() {
    let mut void = full();
    void.verdict = Verdict::Void;
    for page in [html(&full()), html(&least()), html(&void)] {
        assert_well_formed(&page);
    }
}

#[test]
fn a_page_needs_nothing_but_itself() {
    let mut result = full();
    result.settings.target = "ws://gateway.example".to_owned();
    let page = html(&result);
    for reference in ["src=", "href=", "url(", "@import", "fetch(", "XMLHttpRequest", "http://", "https://", "<link"] {
        assert!(!page.contains(reference), "{reference}");
    }
}

#[test]
fn nothing_in_a_result_becomes_markup() {
    let hostile = "</script></pre><script>alert(1)</script><img src=x onerror='alert(1)'>\"";
    let json = serde_json::to_value(full()).expect("JSON");
    let mut poisoned = json;
    poison(&mut poisoned, hostile);
    let page = html(&from_json(&poisoned.to_string()).expect("still a result"));
    assert_well_formed(&page);
    assert!(page.contains("&lt;img") && !page.contains("<img") && !page.contains("<script>alert"));
    // Our own script, and the data of the figures.
    let figures = page.matches("<figure>").count();
    assert_eq!(page.matches("<script").count(), figures + 1);
}

/// Every string of the result, but those that it is read by.
fn poison(value: &mut serde_json::Value, hostile: &str) {
    match value {
        serde_json::Value::String(text) => *text = hostile.to_owned(),
        serde_json::Value::Array(values) => values.iter_mut().for_each(|value| poison(value, hostile)),
        serde_json::Value::Object(fields) => {
            let free = fields.iter_mut().filter(|(name, _)| !["verdict", "histogram"].contains(&name.as_str()));
            free.for_each(|(_, value)| poison(value, hostile));
        }
        _ => {}
    }
}

#[test]
fn what_a_result_does_not_hold_does_not_appear() {
    let page = html(&least());
    let absent = [
        "Thresholds",
        "Findings",
        "<figure",
        "Loads",
        "Phases",
        "Processes",
        "Floor",
        "Slow clients",
        "Server CPU",
        "Latency",
        "Lost",
        "Commit",
        "Machine",
        "undefined",
        "NaN",
        "null",
    ];
    let page = page.split("<body>").nth(1).expect("a body").replace(include_str!("readout.js"), "");
    for word in absent {
        assert!(!page.contains(word), "{word}");
    }
    let whole = html(&full());
    for word in &absent[..13] {
        assert!(whole.contains(word), "{word}");
    }
}

#[test]
fn the_verdict_is_a_word_with_its_reasons() {
    let mut result = full();
    result.reasons = vec!["12 deliveries were lost".to_owned()];
    for (verdict, word) in [(Verdict::Pass, "pass"), (Verdict::Fail, "fail"), (Verdict::Void, "void")] {
        result.verdict = verdict;
        let page = html(&result);
        assert!(
            page.contains(&format!("<strong>{word}</strong>")) && page.contains("<li>12 deliveries were lost</li>")
        );
        assert_eq!(page.contains("say nothing about the server"), verdict == Verdict::Void);
    }
}

#[test]
fn what_never_came_is_said_so_and_stretches_no_axis() {
    let page = html(&full());
    assert!(page.contains("never came") && page.contains("class=\"beyond\""));
    assert!(!page.contains("3,600,000") && !page.contains("3600 k"));
}

#[test]
fn a_run_of_one_second_or_of_one_pair_can_be_drawn() {
    let mut result = least();
    let second = Second { at_s: 0.0, p50_ms: Some(1.0), generator_cpu_percent: 5.0, ..Second::default() };
    result.timeline = vec![second];
    let mut floor = full().floor.expect("the fixture has one");
    floor.pairs = vec![Pair { server: Some(5.0), epoll: None, io_uring: Some(4.0) }];
    result.floor = Some(floor);
    let page = html(&result);
    assert_well_formed(&page);
    assert!(page.contains("Latency over time") && page.contains("Server ÷ floor") && !page.contains("NaN"));
}

#[test]
fn long_runs_are_drawn_by_the_worst_of_several_seconds() {
    let mut result = least();
    let second = |at: u32| Second { at_s: f64::from(at), p99_ms: Some(2.0), ..Second::default() };
    result.timeline = (0..7200).map(second).collect();
    result.timeline[3601].p99_ms = Some(977.0);
    let page = html(&result);
    assert!(page.contains("the worst of 12 seconds") && page.contains("Highest p99: 977 ms"));
    assert!(page.len() < 300_000, "{} bytes", page.len());
}

#[test]
fn results_are_written_and_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let inner = folder.path().join("made");
    write(&full(), &inner).expect("written");
    let json = std::fs::read_to_string(inner.join("result.json")).expect("result.json");
    let again = from_json(&json).expect("a result");
    assert_eq!(std::fs::read_to_string(inner.join("report.html")).expect("report.html"), html(&again));
}

#[test]
fn a_result_of_another_schema_is_refused_by_its_number() {
    let error = from_json(r#"{"schema":9}"#).expect_err("another schema");
    assert_eq!(error.to_string(), "a result of schema 9; this harness reads schema 1");
    assert!(matches!(from_json("{}"), Err(ReadError::Json(_))));
}
