use super::*;

const WHOLE: &str = r#"
name = "whole"
about = "every key"
seed = 7
[connections]
count = 500
tls = true
ramp_per_second = 1000
drain = "timer"
drain_ms = 20
hold_s = 0
reconnect = true
[[groups]]
name = "room"
count = 5
members = 100
[[groups]]
name = "all"
count = 1
[[publish]]
name = "even"
to = "room"
pick = "random"
via = "stream"
payload_bytes = 128
in_flight = 10000
[[publish.phases]]
name = "steady"
per_second = 200.0
for_s = 30.0
[[publish.phases]]
name = "more"
per_second = 400
messages = 1000
[[publish]]
name = "rest"
to = "streams"
streams = 10
via = "rest"
after = "even"
phases = [{ name = "fast", per_second = 0, messages = 100 }]
[slow]
count = 5
after_s = 1
for_s = 2.5
[certificate_swap]
after_s = 5
[generator]
loop_lag_p99_ms_max = 100
publish_lag_p99_ms_max = 10
cpu_percent_max = 90
[thresholds]
latency_p99_ms_max = 65
rss_bytes_per_connection_max = 400
kernel_bytes_per_connection_max = 4300
gateway_cpu_us_per_delivery_max = 0.9
control_cpu_us_per_delivery_max = 5
connections_per_second_min = 10
slow_told_a_gap = true
slow_others_p99_times_max = 2
slow_others_p99_more_ms_max = 10
[thresholds.loads.even]
latency_p50_ms_max = 35
answer_p50_ms_max = 5
peak_deliveries_per_second_min = 100
recovery_after = "steady"
recovery_p99_ms = 50
recovery_s_max = 10
[thresholds.loads.rest]
published_per_second_min = 100
"#;

fn problems(text: &str) -> Vec<String> {
    Scenario::parse(text).expect_err("refused").iter().map(Problem::to_string).collect()
}

/// The problems of [`WHOLE`] with one piece of it replaced.
fn with(from: &str, to: &str) -> Vec<String> {
    assert!(WHOLE.contains(from), "{from}");
    problems(&WHOLE.replacen(from, to, 1))
}

#[test]
fn every_key_is_read() {
    let scenario = Scenario::parse(WHOLE).expect("valid");
    assert_eq!(scenario.connections.drain, crate::fleet::Drain::Timer { every: Duration::from_millis(20) });
    assert_eq!((scenario.connections.tls, scenario.swap_after), (true, Some(Duration::from_secs(5))));
    assert_eq!(scenario.groups[1].members, 500, "members follow from the connections");
    assert_eq!(scenario.loads[1].after, Some(0));
    assert_eq!((scenario.loads[0].to, scenario.loads[1].to), (To::Groups(0), To::Streams(10)));
    assert_eq!(scenario.loads[0].phases[1].until, Until::Messages(1000));
    assert_eq!(scenario.generator.cpu_percent_max, 90.0);
    assert_eq!(scenario.thresholds.len(), 13, "{:?}", scenario.thresholds);
    let population = scenario.population("lt1");
    assert_eq!(population.unfollowed_range().len(), 10);
    assert_eq!(scenario.text, WHOLE);
}

#[test]
fn the_shipped_scenarios_parse() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let scenario = Scenario::parse(&text);
        assert!(scenario.is_ok(), "{}: {:?}", path.display(), scenario.err());
        assert_eq!(path.file_stem().and_then(|stem| stem.to_str()), Some(scenario.expect("valid").name.as_str()));
        seen += 1;
    }
    assert!(seen >= 8, "{seen}");
}

#[test]
fn all_problems_are_named_at_once_with_their_keys() {
    let text = r#"
        name = "many words"
        colour = 1
        [connections]
        count = -3
        ramp_per_second = 0
        drain = "never"
        drian_ms = 4
        [[publish]]
        name = "a"
        to = "rooms"
        payload_bytes = "large"
        after = "b"
        [[publish.phases]]
        name = "p"
        per_second = nan
        for_s = 1
        messages = 2
        [[publish.phases]]
        name = "q"
        per_second = 1
        [floor]
        pairs = 0
        [thresholds]
        latency_p99 = 5
        slow_told_a_gap = true
        [thresholds.loads.c]
        latency_p50_ms_max = 1
    "#;
    let found = problems(text);
    let keys = [
        "name: must be",
        "colour: is no key",
        "connections.count: must be 0 to 1000000, is -3",
        "connections.ramp_per_second: must be 1 to 1000000, is 0",
        "connections.drain: must be \"armed\" or \"timer\", is \"never\"",
        "connections.drian_ms: is no key of a scenario; did you mean `drain_ms`?",
        "publish[0].to: \"rooms\" is neither",
        "publish[0].payload_bytes: must be a whole number, is string",
        "publish[0].after: no [[publish]] has the name \"b\"",
        "publish[0].phases[0].per_second: must be 0 to 10000000, is NaN",
        "publish[0].phases[0].messages: a phase has for_s or messages, not both",
        "publish[0].phases[1].for_s: a phase needs for_s or messages",
        "floor.pairs: must be 1 to 99, is 0",
        "thresholds.latency_p99: is no key of a scenario; did you mean `latency_p99_ms_max`?",
        "thresholds.slow_told_a_gap: cannot be measured: this scenario has no [slow]",
        "thresholds.loads.c: no [[publish]] has this name; did you mean `a`?",
    ];
    for key in keys {
        assert!(found.iter().any(|problem| problem.starts_with(key)), "{key} is not in {found:#?}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let found = problems("[connections]\n[[groups]]\n[[publish]]\n[slow]\n");
    for key in ["name", "connections.count", "groups[0].name", "groups[0].count", "publish[0].name", "publish[0].to"] {
        assert!(found.contains(&format!("{key}: is missing")), "{key} is not in {found:#?}");
    }
    assert!(found.contains(&"publish[0].phases: is missing: at least one [[publish.phases]]".to_owned()));
    assert_eq!(problems("name = \"x\"").len(), 1, "a scenario that does nothing");
    assert!(problems("name = ")[0].contains("line 1"), "no TOML");
}

#[test]
fn names_must_lead_somewhere() {
    assert!(with("to = \"room\"", "to = \"rom\"")[0].contains("did you mean \"room\"?"));
    assert!(with("after = \"even\"", "after = \"evn\"")[0].contains("did you mean \"even\"?"));
    assert!(with("after = \"even\"", "after = \"rest\"")[0].contains("wait for itself"));
    assert!(with("name = \"all\"", "name = \"room\"")[0].contains("groups[1].name: \"room\" is taken"));
    assert!(with("name = \"all\"", "name = \"inboxes\"")[0].starts_with("groups[1].name"));
    assert!(with("name = \"more\"", "name = \"steady\"")[0].contains("phases[1].name: \"steady\" is taken"));
}

#[test]
fn impossible_numbers_are_refused() {
    for (from, to, key) in [
        ("members = 100", "members = 501", "groups[0].members"),
        ("count = 5\nmembers = 100", "count = 6\nmembers = 100", "groups[0].count"),
        ("count = 5\nafter_s", "count = 500\nafter_s", "slow.count"),
        ("payload_bytes = 128", "payload_bytes = 47", "publish[0].payload_bytes"),
        ("in_flight = 10000", "in_flight = 0", "publish[0].in_flight"),
        ("via = \"rest\"", "via = \"rest\"\nin_flight = 5000", "publish[1].in_flight"),
        ("per_second = 200.0\nfor_s = 30.0", "per_second = 0.1\nfor_s = 1", "publish[0].phases[0].for_s"),
        ("drain = \"timer\"", "drain = \"armed\"", "connections.drain_ms"),
        ("tls = true", "tls = false", "certificate_swap: needs"),
        ("after_s = 5", "after_s = -5", "certificate_swap.after_s"),
        ("cpu_percent_max = 90", "cpu_percent_max = 101", "generator.cpu_percent_max"),
    ] {
        let found = with(from, to);
        assert!(found.len() == 1 && found[0].starts_with(key), "{key}: {found:#?}");
    }
}

#[test]
fn thresholds_that_cannot_be_measured_are_refused() {
    for (from, to, key) in [
        ("connections_per_second_min = 10", "floor_ratio_max = 1.1", "thresholds.floor_ratio_max: cannot be measured"),
        (
            "published_per_second_min = 100",
            "latency_p50_ms_max = 1",
            "thresholds.loads.rest.latency_p50_ms_max: cannot be measured: nobody follows",
        ),
        (
            "recovery_after = \"steady\"",
            "recovery_after = \"more\"",
            "thresholds.loads.even.recovery_after: cannot be measured: no phase follows it",
        ),
        ("recovery_after = \"steady\"", "", "thresholds.loads.even.recovery_after: is missing"),
        ("[slow]\ncount = 5\nafter_s = 1\nfor_s = 2.5", "", "thresholds.slow_told_a_gap: cannot be measured"),
    ] {
        let found = with(from, to);
        assert!(found.iter().any(|problem| problem.starts_with(key)), "{key}: {found:#?}");
    }
}

#[test]
fn a_floor_needs_one_group_with_everybody() {
    let text = "name = \"f\"\n[connections]\ncount = 10\n[[groups]]\nname = \"all\"\ncount = 1\n[[publish]]\nname = \"b\"\n\
                to = \"all\"\nphases = [{ name = \"p\", per_second = 5, for_s = 2 }]\n[floor]\n";
    assert!(Scenario::parse(text).is_ok());
    assert!(problems(&text.replace("count = 1\n", "count = 2\n"))[0].starts_with("publish[0].to: [floor] needs"));
    assert!(problems(&text.replace("for_s = 2", "messages = 2"))[0].contains("say for_s"));
    assert!(problems(&text.replace("count = 10", "count = 10\ntls = true"))[0].starts_with("floor: "));
    assert!(problems(&text.replace("per_second = 5", "per_second = 0"))[0].contains("needs a spacing"));
    assert!(problems(&text.replace("to = \"all\"", "to = \"all\"\nvia = \"rest\""))[0].contains("needs \"stream\""));
}
