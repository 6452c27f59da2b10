//! The command's exit statuses, its files and its words.

mod double;
mod harness;

use std::io::Read as _;
use std::process::Command;

use double::{Double, Fault};
use harness::{Room, Started, command, run};
use tidegate_load::result::{RunResult, Verdict};

#[test]
fn the_exit_status_is_the_verdict() {
    let clean = Double::start(Fault::None);
    assert_eq!(run(&clean, &Room::default().toml()).status, 0);
    let losing = Double::start(Fault::DropEvery { nth: 100 });
    assert_eq!(run(&losing, &Room::default().toml()).status, 1);
}

#[test]
fn a_missed_threshold_fails() {
    let double = Double::start(Fault::None);
    let scenario = format!("{}[thresholds]\nlatency_p50_ms_max = 0.000001\n", Room::default().toml());
    let outcome = run(&double, &scenario);
    outcome.assert_failed();
    outcome.assert_found(&[]);
    let judged = &outcome.result.thresholds;
    assert!(judged.iter().any(|threshold| !threshold.kept && threshold.value.is_some()), "{judged:?}");
}

#[test]
fn a_generator_that_was_the_bottleneck_makes_the_run_void() {
    let impossible = harness::PATIENT.replace("30000.0", "0.1").replace("100.0", "1.0");
    let scenario = Room { per_second: 0.0, messages: 20_000, ..Room::default() }.toml();
    let scenario = scenario.replace(harness::PATIENT, &impossible);
    let outcome = run(&Double::start(Fault::None), &scenario);
    assert_eq!((outcome.status, outcome.result.verdict), (3, Verdict::Void), "{:?}", outcome.result.reasons);
    assert!(!outcome.result.reasons.is_empty());
}

#[test]
fn a_bad_scenario_is_refused_with_every_problem() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bad.toml");
    let scenario = Room::default()
        .toml()
        .replace("count = 20", "count = 20\ncolour = \"red\"")
        .replace("ramp_per_second = 1000.0", "ramp_per_second = -1.0")
        .replace("to = \"room\"", "to = \"nowhere\"")
        .replace("payload_bytes = 100", "payload_bytes = 100000000");
    std::fs::write(&file, scenario).expect("written");
    let ended = command(&file).output().expect("it runs");
    let words = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(2), "{words}");
    for problem in ["colour", "ramp_per_second", "nowhere", "payload_bytes"] {
        assert!(words.contains(problem), "{problem} is not among the problems:\n{words}");
    }
}

#[test]
fn a_scenario_that_is_not_there_is_a_bad_one() {
    let ended = command(std::path::Path::new("/nowhere/scenario.toml")).output().expect("it runs");
    assert_eq!(ended.status.code(), Some(2), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn an_interrupted_run_ends_with_its_report() {
    let double = Double::start(Fault::None);
    let room = Room { messages: 1_000_000, per_second: 200.0, ..Room::default() };
    let mut started = Started::new(&double, &room.toml(), &["--plain"]);
    double.wait_accepted(100);
    let pid = started.child.id().to_string();
    let told = Command::new("sh").args(["-c", &format!("kill -INT {pid}")]).status().expect("a shell");
    assert!(told.success());
    let status = started.child.wait().expect("it ends");
    assert_eq!(status.code(), Some(1), "{status}");
    let json = std::fs::read_to_string(started.out().join("result.json")).expect("a result");
    let result: RunResult = serde_json::from_str(&json).expect("it can be read");
    assert_eq!(result.verdict, Verdict::Fail);
    let deliveries = result.deliveries.expect("there were recipients");
    assert_eq!((deliveries.lost, deliveries.expected), (0, result.published * room.members()), "{:?}", result.findings);
    assert!(result.published >= 100);
    let page = std::fs::read_to_string(started.out().join("report.html")).expect("a report");
    assert!(page.contains("</html>"));
}

#[test]
fn plain_words_have_no_control_codes() {
    let double = Double::start(Fault::None);
    let mut started = Started::new(&double, &Room::default().toml(), &["--plain"]);
    let mut words = String::new();
    started.child.stdout.take().expect("piped").read_to_string(&mut words).expect("text");
    started.child.stderr.take().expect("piped").read_to_string(&mut words).expect("text");
    assert_eq!(started.child.wait().expect("it ends").code(), Some(0), "{words}");
    assert!(!words.contains(['\u{1b}', '\r']), "{words:?}");
    assert!(words.lines().count() > 1, "{words}");
}
