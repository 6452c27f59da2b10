//! Over TLS the judge sees what it sees without, and no certificate is believed that should not be.

mod double;
mod harness;

use double::{Double, Fault};
use harness::{Outcome, Room, command, run};
use tidegate_load::judge::Kind;

fn judged(fault: Fault, room: Room) -> Outcome {
    run(&Double::over_tls(fault), &room.toml())
}

#[test]
fn a_clean_server_passes() {
    for drain in ["armed", "timer"] {
        let room = Room { drain, ..Room::default() };
        let outcome = judged(Fault::None, room);
        outcome.assert_passed();
        assert_eq!(outcome.deliveries().received, room.messages * room.members());
        assert!(outcome.result.settings.target.starts_with("wss://"));
    }
}

#[test]
fn a_lost_message_is_found() {
    for drain in ["armed", "timer"] {
        let outcome = judged(Fault::DropEvery { nth: 99 }, Room { drain, ..Room::default() });
        outcome.assert_failed();
        outcome.assert_found(&[(Kind::Lost, outcome.wronged())]);
        outcome.assert_named(Kind::Lost);
    }
    let outcome = judged(Fault::DropForOne { at: 100 }, Room::default());
    outcome.assert_found(&[(Kind::Lost, 1)]);
    outcome.assert_named(Kind::Lost);
}

#[test]
fn a_message_that_comes_twice_is_found() {
    let outcome = judged(Fault::Duplicate { nth: 100 }, Room::default());
    outcome.assert_found(&[(Kind::Duplicated, outcome.wronged())]);
    outcome.assert_named(Kind::Duplicated);
}

/// The exit status, and what was said on standard error.
fn refused(scenario: &str, more: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("scenario.toml");
    std::fs::write(&file, scenario).expect("written");
    let ended = command(&file).args(more).arg("--plain").output().expect("it runs");
    assert!(ended.stdout.is_empty(), "nothing was judged: {}", String::from_utf8_lossy(&ended.stdout));
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}

#[test]
fn a_certificate_of_a_stranger_is_refused_with_the_reason() {
    let (double, other) = (Double::over_tls(Fault::None), Double::over_tls(Fault::None));
    let target = format!("wss://{}", double.client);
    let grpc = format!("http://{}", double.grpc);
    let elsewhere = other.authority.as_ref().and_then(|file| file.to_str()).expect("UTF-8");
    for trusting in [&[][..], &["--ca", elsewhere]] {
        let more = [&["--target", &target, "--grpc", &grpc][..], trusting].concat();
        let (status, said) = refused(&Room::default().toml(), &more);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(&format!("the certificate of {target} is refused")), "{said}");
        assert!(said.contains("--insecure") && said.contains("invalid peer certificate"), "{said}");
    }
    assert_eq!(double.accepted(), 0, "nothing was published");
    let insecure = Double::over_tls(Fault::None);
    let outcome = harness::run_trusting(&insecure, &Room::default().toml(), &["--insecure"]);
    outcome.assert_passed();
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let double = Double::over_tls(Fault::None);
    let authority = double.authority.as_ref().and_then(|file| file.to_str()).expect("UTF-8");
    let (target, grpc) = (format!("wss://localhost:{}", double.client.port()), format!("http://{}", double.grpc));
    let (status, said) = refused(&Room::default().toml(), &["--target", &target, "--grpc", &grpc, "--ca", authority]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("is refused") && said.contains("not valid for name"), "{said}");
}

#[test]
fn a_server_without_tls_is_told_apart() {
    let double = Double::start(Fault::None);
    let (target, grpc) = (format!("wss://{}", double.client), format!("http://{}", double.grpc));
    let (status, said) = refused(&Room::default().toml(), &["--target", &target, "--grpc", &grpc, "--insecure"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains(&format!("no TLS with {target}")), "{said}");
}

#[test]
fn a_scenario_that_wants_tls_is_not_run_without() {
    let scenario = Room::default().toml().replace("reconnect = true", "reconnect = true\ntls = true");
    let double = Double::start(Fault::None);
    let (status, said) = refused(&scenario, &["--target", &format!("ws://{}", double.client)]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("clients are to connect over TLS"), "{said}");
}

#[test]
fn only_a_certificate_of_ours_is_swapped() {
    let scenario = Room::default().toml().replace("reconnect = true", "reconnect = true\ntls = true");
    let scenario = format!("{scenario}[certificate_swap]\nafter_s = 1\n");
    let double = Double::over_tls(Fault::None);
    let (target, grpc) = (format!("wss://{}", double.client), format!("http://{}", double.grpc));
    let (status, said) = refused(&scenario, &["--target", &target, "--grpc", &grpc, "--insecure"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("[certificate_swap] needs --serve"), "{said}");
}
