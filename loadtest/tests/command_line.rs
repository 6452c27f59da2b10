//! What the command line promises before anything is started.

use std::process::{Command, Output};

fn load(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate-load")).args(arguments).output().expect("it runs")
}

#[test]
fn a_bad_scenario_exits_2_with_every_problem() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bad.toml");
    let text = "name = \"bad\"\n[connections]\ncoutn = 3\n[[publish]]\nname = \"a\"\nto = \"inboxes\"\n[[publish.phases]]\n\
                name = \"p\"\nper_second = -1\n";
    std::fs::write(&file, text).expect("written");
    let out = folder.path().join("out");
    let path = file.to_str().expect("UTF-8");
    let output = load(&["run", path, "--serve", "/nonexistent", "--out", out.to_str().expect("UTF-8")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for problem in [
        "connections.coutn: is no key of a scenario; did you mean `count`?",
        "connections.count: is missing",
        "publish[0].phases[0].per_second: must be 0 to",
        "publish[0].phases[0].for_s: a phase needs for_s or messages",
    ] {
        assert!(said.contains(&format!("{path}: {problem}")), "{problem} is not in {said}");
    }
    assert!(output.stdout.is_empty() && !out.exists(), "nothing was started");
}

#[test]
fn a_file_that_is_not_there_is_a_bad_scenario() {
    assert_eq!(load(&["run", "/nonexistent.toml"]).status.code(), Some(2));
    assert_eq!(load(&["floor", "/nonexistent.toml"]).status.code(), Some(2));
}

#[test]
fn only_a_result_can_be_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("result.json");
    std::fs::write(&file, "{\"schema\":1}").expect("written");
    let output = load(&["report", file.to_str().expect("UTF-8")]);
    assert!(!output.status.success() && !folder.path().join("report.html").exists());
}
