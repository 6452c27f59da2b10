//! Most containers forbid io_uring: the plain command serves all the same and says on what; and what epoll costs is refused
//! in good order.

mod support;

use std::path::Path;
use std::process::Command;
use std::thread;

use support::{Client, Dev, http};
use tidegate_load::node::{Addrs, Node, NodeError};

/// In a thread of its own, because the filter stays with the thread and with what it starts.
fn without_io_uring<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let forbidden = || {
        xtask::no_uring::forbid().expect("a filter");
        work()
    };
    thread::scope(|scope| scope.spawn(forbidden).join().expect("it worked"))
}

fn log(dev: &Dev) -> String {
    std::fs::read_to_string(dev.log()).expect("a log")
}

fn has_a_ring(pid: u32) -> bool {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let links = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.into_iter().any(|link| link == Path::new("anon_inode:[io_uring]"))
}

#[track_caller]
fn says(dev: &Dev, driver: &str, reason: &str) {
    let metrics = http(dev.addrs.admin, "GET", "/metrics", &[], None).body;
    let line = format!("tidegate_gateway_io{{driver=\"{driver}\",reason=\"{reason}\"}} 1");
    assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    let log = log(dev);
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("connections are served by")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains(driver) && lines[0].contains(reason), "{log}");
}

#[test]
fn the_plain_command_serves_and_says_why() {
    let dev = without_io_uring(Dev::start);
    let mut alice = dev.client("alice");
    dev.push("u:alice", "hi");
    assert_eq!(alice.messages("u:alice", 1)[0]["content"], "hi");
    says(&dev, "epoll", "forbidden");
}

#[test]
fn io_uring_on_demand_is_an_error_that_says_why() {
    let folder = tempfile::tempdir().expect("tempdir");
    let log = folder.path().join("log");
    let addrs = Addrs::free().expect("free ports");
    let start = || Node::dev(support::binary(), &folder.path().join("data"), &addrs, &log, &["--io", "uring"]);
    let Err(NodeError::Ended { status, .. }) = without_io_uring(start) else { panic!("it must not start") };
    assert_eq!(status.code(), Some(1));
    let log = std::fs::read_to_string(log).expect("a log");
    let last = log.lines().last().expect("a line");
    assert!(last.contains("gateway.engine.io: io_uring is forbidden on this host"), "{log}");
}

#[test]
fn each_driver_on_demand_is_the_only_one() {
    for (driver, ring) in [("epoll", false), ("uring", true)] {
        let dev = Dev::with(&["--io", driver]);
        let mut alice = dev.client("alice");
        dev.push("u:alice", "hi");
        assert_eq!(alice.messages("u:alice", 1)[0]["content"], "hi");
        says(&dev, driver, "configured");
        assert_eq!(has_a_ring(dev.node.as_ref().expect("running").pid()), ring, "{driver}");
    }
}

/// Every connection is a descriptor: the last ones are kept for the process, and who finds no place is told so in HTTP.
#[test]
fn a_node_out_of_descriptors_refuses_newcomers_and_keeps_the_others() {
    let (dev, mut clients) = full_node();
    for n in [0, clients.len() - 1] {
        dev.push(&format!("u:u{n}"), "still here");
        assert_eq!(clients[n].messages(&format!("u:u{n}"), 1)[0]["content"], "still here");
    }
}

#[test]
fn a_place_that_is_given_up_is_given_again() {
    let (dev, mut clients) = full_node();
    drop(clients.pop());
    support::eventually("there is room again", || Client::try_open(dev.addrs.client, "/api/v1/ws?uid=u0", &[]).is_ok());
}

/// A node with few descriptors, and as many clients as it takes.
fn full_node() -> (Dev, Vec<Client>) {
    const LIMIT: usize = 300;
    let folder = tempfile::tempdir().expect("tempdir");
    let addrs = Addrs::free().expect("free ports");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {LIMIT}; exec \"$0\" \"$@\"")]).arg(support::binary());
    command.args(["dev", "--io", "epoll", "--data-dir"]).arg(folder.path().join("data"));
    let node = Node::start(command, &addrs, &[addrs.admin, addrs.http], &folder.path().join("log"));
    let node = node.expect("it starts");
    let dev = Dev::over(addrs, folder, node);
    let path = |n: usize| format!("/api/v1/ws?uid=u{n}");
    let mut clients = Vec::new();
    let refused = loop {
        match Client::try_open(dev.addrs.client, &path(clients.len()), &[]) {
            Ok(client) => clients.push(client),
            Err(answer) => break answer,
        }
        assert!(clients.len() < LIMIT, "more connections than descriptors");
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(clients.len() > LIMIT / 2, "{} connections", clients.len());
    let metrics = http(dev.addrs.admin, "GET", "/metrics", &[], None).body;
    assert!(
        metrics.contains("tidegate_gateway_accept_errors_total 0"),
        "there was a descriptor for everyone:\n{metrics}"
    );
    (dev, clients)
}
