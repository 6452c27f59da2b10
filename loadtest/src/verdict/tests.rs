use super::*;
use crate::result::{
    Connections, Deliveries, Floor, Generator, LoadResult, Machine, PhaseResult, SCHEMA, Server, Settings, SlowResult,
};

const SCENARIO: &str = r#"
name = "judged"
[connections]
count = 10
[[groups]]
name = "all"
count = 1
[[publish]]
name = "a"
to = "all"
phases = [
    { name = "base", per_second = 1, for_s = 2 },
    { name = "over", per_second = 1, for_s = 2 },
    { name = "again", per_second = 1, for_s = 6 },
]
[slow]
count = 2
after_s = 0
for_s = 1
[thresholds]
latency_p99_ms_max = 50
rss_bytes_per_connection_max = 400
slow_told_a_gap = true
slow_others_p99_times_max = 2
slow_others_p99_more_ms_max = 10
[thresholds.loads.a]
peak_deliveries_per_second_min = 100
recovery_after = "over"
recovery_p99_ms = 50
recovery_s_max = 3
"#;

/// A result that keeps everything.
fn kept() -> RunResult {
    let phase = |name: &str, from_s, to_s, rate| PhaseResult {
        name: name.into(),
        from_s,
        to_s,
        published: 2,
        published_per_second: 1.0,
        deliveries_per_second: Some(rate),
        latency_ms: None,
        server: None,
    };
    RunResult {
        schema: SCHEMA,
        scenario: "judged".into(),
        verdict: Verdict::Pass,
        reasons: Vec::new(),
        findings: Vec::new(),
        started: String::new(),
        seconds: 10.0,
        commit: None,
        machine: Machine::default(),
        settings: Settings::default(),
        connections: Connections { asked: 10, established: 10, ..Connections::default() },
        published: 10,
        deliveries: Some(Deliveries::default()),
        latency_ms: Some(Percentiles { p99: 50.0, ..Percentiles::default() }),
        loads: vec![LoadResult {
            name: "a".into(),
            sent: 10,
            published: 10,
            published_per_second: 1.0,
            refused: [].into(),
            unanswered: 0,
            answer_ms: None,
            latency_ms: None,
            phases: vec![
                phase("base", 1.0, 3.0, 10.0),
                phase("over", 3.0, 5.0, 100.0),
                phase("again", 5.0, 11.0, 10.0),
            ],
        }],
        slow: Some(SlowResult { clients: 2, told_a_gap: 2, others_p99_before_ms: 4.0, others_p99_during_ms: 14.0 }),
        certificate_swap: None,
        server: Some(Server { rss_bytes_per_connection: Some(399.0), ..Server::default() }),
        floor: None,
        generator: Generator { drain: "armed".into(), ..Generator::default() },
        thresholds: Vec::new(),
        histogram: None,
        timeline: Vec::new(),
    }
}

/// Latencies of seconds 1 to 10: `slow` ones are above the limit.
fn latency(slow: &[u64]) -> Latency {
    let mut latency = Latency::default();
    for second in 1..=10 {
        latency.record(second * 1_000_000, if slow.contains(&second) { 90_000 } else { 10_000 });
    }
    latency
}

/// The verdict on a result and what the oracle found.
fn judged(change: impl FnOnce(&mut RunResult, &mut Found)) -> RunResult {
    let mut result = kept();
    let mut found = Found {
        findings: Findings::default(),
        load: LoadOutcome::default(),
        latency: latency(&[3, 4, 5, 6]),
        gaps: 2,
        interrupted: false,
    };
    change(&mut result, &mut found);
    let evidence = Evidence {
        findings: Some(&found.findings),
        loads: std::slice::from_ref(&found.load),
        seqs_used_twice: 0,
        latency: std::slice::from_ref(&found.latency),
        told_a_gap: Some(found.gaps),
        no_floor: None,
        no_swap: None,
        interrupted: found.interrupted,
    };
    let scenario = Scenario::parse(SCENARIO).expect("valid");
    conclude(&mut result, &scenario, &evidence);
    result
}

struct Found {
    findings: Findings,
    load: LoadOutcome,
    latency: Latency,
    gaps: u32,
    interrupted: bool,
}

#[test]
fn what_is_kept_passes_with_every_threshold_listed() {
    let result = judged(|_, _| ());
    assert_eq!((result.verdict, result.reasons.len()), (Verdict::Pass, 0), "{:?}", result.reasons);
    let values: Vec<_> =
        result.thresholds.iter().map(|judged| (judged.name.as_str(), judged.value, judged.limit)).collect();
    assert_eq!(
        values,
        [
            ("thresholds.latency_p99_ms_max", Some(50.0), 50.0),
            ("thresholds.rss_bytes_per_connection_max", Some(399.0), 400.0),
            ("thresholds.slow_told_a_gap", Some(2.0), 2.0),
            ("thresholds.slow_others_p99_times_max", Some(14.0), 14.0),
            ("thresholds.loads.a.peak_deliveries_per_second_min", Some(100.0), 100.0),
            ("thresholds.loads.a.recovery_s_max", Some(2.0), 3.0),
        ]
    );
}

#[test]
fn void_takes_the_place_of_a_pass_or_a_miss_and_never_of_a_loss() {
    let table = [
        (false, false, false, Verdict::Pass),
        (false, false, true, Verdict::Fail),
        (false, true, false, Verdict::Void),
        (false, true, true, Verdict::Void),
        (true, false, false, Verdict::Fail),
        (true, false, true, Verdict::Fail),
        (true, true, false, Verdict::Fail),
        (true, true, true, Verdict::Fail),
    ];
    for (lost, late, missed, verdict) in table {
        let result = judged(|result, found| {
            if lost {
                found.findings.add(Kind::Lost, || "lt-3 g:lt-all-0 seq 7".to_owned());
            }
            if late {
                result.generator.loop_lag_ms_p99 = 50.1;
            }
            if missed {
                result.latency_ms = Some(Percentiles { p99: 50.1, ..Percentiles::default() });
            }
        });
        assert_eq!(result.verdict, verdict, "lost {lost} late {late} missed {missed}: {:?}", result.reasons);
        assert_eq!(result.reasons.is_empty(), verdict == Verdict::Pass);
    }
}

#[test]
fn reasons_name_counts_and_the_first_findings() {
    let result = judged(|result, found| {
        for seq in 0..9 {
            found.findings.add(Kind::Reordered, || format!("seq {seq}"));
        }
        found.load.unanswered = 4;
        found.load.refused.insert("OVERLOADED".into(), 5);
        found.load.wrong.count = 1;
        found.load.wrong.texts.push("the answer names another stream".into());
        result.connections.failed = 1;
        result.connections.closed_unexpectedly = 2;
        found.interrupted = true;
    });
    assert_eq!(result.verdict, Verdict::Fail);
    let expected = [
        "interrupted",
        "9 reordered",
        "reordered: seq 0",
        "reordered: seq 1",
        "reordered: seq 2",
        "a: 4 pushes were never answered",
        "a: 5 pushes were refused with OVERLOADED",
        "a: 1 answers were wrong",
        "a: the answer names another stream",
        "1 of 10 connections were not established",
        "2 connections were closed unexpectedly",
    ];
    assert_eq!(result.reasons, expected);
}

#[test]
fn each_limit_of_the_generator_voids() {
    let limits: [fn(&mut Generator); 3] =
        [|g| g.loop_lag_ms_p99 = 50.1, |g| g.publish_lag_ms_p99 = 50.1, |g| g.cpu_percent = 97.1];
    for change in limits {
        let result = judged(|result, _| change(&mut result.generator));
        assert_eq!((result.verdict, result.reasons.len()), (Verdict::Void, 1), "{:?}", result.reasons);
    }
}

#[test]
fn what_could_not_be_measured_is_missed() {
    let result = judged(|result, _| result.server = None);
    assert_eq!(result.verdict, Verdict::Fail);
    assert_eq!(result.reasons, ["thresholds.rss_bytes_per_connection_max: could not be measured, must be at most 400"]);
}

#[test]
fn slow_clients_count_and_the_larger_allowance_holds() {
    assert_eq!(judged(|_, found| found.gaps = 1).verdict, Verdict::Fail);
    let slow = |before, during| SlowResult {
        clients: 2,
        told_a_gap: 2,
        others_p99_before_ms: before,
        others_p99_during_ms: during,
    };
    for (before, during, verdict) in [
        (4.0, 14.1, Verdict::Fail),
        (4.0, 13.9, Verdict::Pass),
        (40.0, 80.0, Verdict::Pass),
        (40.0, 80.1, Verdict::Fail),
    ] {
        assert_eq!(judged(|result, _| result.slow = Some(slow(before, during))).verdict, verdict, "{before} {during}");
    }
}

#[test]
fn recovery_is_until_every_later_second_is_calm() {
    let recovered = |slow: &[u64]| {
        let result = judged(|_, found| found.latency = latency(slow));
        result.thresholds.iter().find(|judged| judged.name.ends_with("recovery_s_max")).expect("listed").value
    };
    assert_eq!(recovered(&[3, 4]), Some(0.0));
    assert_eq!(recovered(&[5, 7]), Some(3.0), "a calm second between does not end it");
    assert_eq!(recovered(&[10]), None, "not recovered at the end");
}

#[test]
fn half_the_interval_is_its_width_to_one_side() {
    let mut result = kept();
    result.floor = Some(Floor {
        loop_name: "epoll".into(),
        cpu_us_per_send: 5.0,
        ratio: Some(1.1),
        ratio_low: Some(1.0),
        ratio_high: Some(1.3),
        frame_bytes: 200,
        sockets: 10,
        pairs: Vec::new(),
    });
    let evidence = Evidence {
        findings: None,
        loads: &[],
        seqs_used_twice: 0,
        latency: &[],
        told_a_gap: None,
        no_floor: None,
        no_swap: None,
        interrupted: false,
    };
    let half = measured(Metric::FloorHalfWidth, &result, &evidence).expect("measured");
    assert!((half - 0.15).abs() < 1e-9, "{half}");
}
