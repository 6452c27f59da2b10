//! The command line itself: exit statuses, messages, refusals at start.

mod support;

use std::process::{Command, Output};

use serde_json::json;
use support::{Dev, binary};

fn tidegate(args: &[&str]) -> Output {
    Command::new(binary()).args(args).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn push_prints_the_place() {
    let dev = Dev::start();
    let grpc = dev.addrs.grpc.to_string();
    let pushed = tidegate(&["push", "--to", "u:alice", "--content", "hi", "--grpc-addr", &grpc]);
    assert!(pushed.status.success(), "{}", text(&pushed.stderr));
    assert!(text(&pushed.stdout).starts_with("u:alice seq 1, message "), "{}", text(&pushed.stdout));
    let mut alice = dev.client("alice");
    assert_eq!(alice.messages("u:alice", 1)[0]["content"], "hi");
    let wrong = tidegate(&["push", "--to", "nonsense", "--content", "hi", "--grpc-addr", &grpc]);
    assert!(!wrong.status.success() && text(&wrong.stderr).contains("BAD_REQUEST"), "{}", text(&wrong.stderr));
    let nobody = tidegate(&["push", "--to", "u:a", "--content", "hi", "--grpc-addr", "127.0.0.1:1"]);
    assert!(!nobody.status.success() && text(&nobody.stderr).contains("cannot reach"));
}

#[test]
fn a_configuration_is_checked_whole() {
    let folder = tempfile::tempdir().expect("tempdir");
    let file = folder.path().join("tidegate.toml");
    let path = file.to_string_lossy().into_owned();
    let default = tidegate(&["default-config"]);
    std::fs::write(&file, &default.stdout).expect("written");
    assert_eq!(tidegate(&["check-config", &path]).status.code(), Some(0));
    std::fs::write(&file, "[gateway]\nwindow = 7\nclient_addr = \"x\"\n[control]\ndata_dri = \"x\"\n")
        .expect("written");
    let bad = tidegate(&["check-config", &path]);
    assert_eq!(bad.status.code(), Some(2));
    for part in ["window_ms", "client_addr", "data_dir"] {
        assert!(text(&bad.stderr).contains(part), "{part}: {}", text(&bad.stderr));
    }
    assert_eq!(tidegate(&["check-config", "/nonexistent.toml"]).status.code(), Some(2));
}

#[test]
fn development_auth_stays_at_home() {
    let folder = tempfile::tempdir().expect("tempdir");
    let data = folder.path().to_string_lossy().into_owned();
    let open = tidegate(&["dev", "--data-dir", &data, "--client-addr", "0.0.0.0:0"]);
    assert!(!open.status.success() && text(&open.stderr).contains("loopback"), "{}", text(&open.stderr));
    let echo = tidegate(&["dev", "--data-dir", &data, "--dev-echo", "0.0.0.0:0"]);
    assert!(!echo.status.success() && text(&echo.stderr).contains("loopback"), "{}", text(&echo.stderr));
}

#[test]
fn two_nodes_cannot_share_a_data_folder() {
    let dev = Dev::start();
    let data = dev.data().to_string_lossy().into_owned();
    let addrs =
        ["--client-addr", "--http-addr", "--grpc-addr", "--admin-addr"].map(|flag| [flag, "127.0.0.1:0"]).concat();
    let second = tidegate(&[&["dev", "--data-dir", &data], addrs.as_slice()].concat());
    assert!(!second.status.success());
    assert!(text(&second.stderr).contains("another process"), "{}", text(&second.stderr));
}

#[test]
fn the_log_can_be_verified_while_nobody_runs() {
    let mut dev = Dev::start();
    dev.push("u:alice", "one");
    dev.kill_nine();
    let data = dev.data().to_string_lossy().into_owned();
    let good = tidegate(&["verify-log", "--data-dir", &data]);
    assert!(good.status.success(), "{}", text(&good.stderr));
}

#[test]
fn metrics_are_served_by_both_sides() {
    let dev = Dev::start();
    let mut alice = dev.client("alice");
    dev.push("u:alice", "one");
    alice.messages("u:alice", 1);
    let control = support::http(dev.addrs.http, "GET", "/metrics", &[], None);
    assert!(control.status == 200 && control.body.contains("tidegate_"), "{}", control.body);
    support::eventually("the gateway counts its connection", || {
        let gateway = support::http(dev.addrs.admin, "GET", "/metrics", &[], None);
        let line =
            gateway.body.lines().find(|l| l.starts_with("tidegate_gateway_connections") && !l.contains("_total"));
        line.is_some_and(|l| l.ends_with(" 1"))
    });
    let page = support::http(dev.addrs.http, "GET", "/", &[], None);
    assert!(page.status == 200 && page.body.contains("<html"), "{}", page.head);
    let history = support::http(dev.addrs.http, "GET", "/api/v1/streams/u:alice/messages?after=0&limit=10", &[], None);
    assert_eq!(history.json()["messages"][0]["content"], json!("one"), "{}", history.body);
}
