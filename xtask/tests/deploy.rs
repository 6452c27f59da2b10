//! What can be said about `deploy/` without a tool; the rest is `cargo xtask lint-deploy`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Metrics that alerts and the dashboard use and that no program has yet. Whoever adds one takes it off this list.
const PROMISED: &[&str] = &[
    // There, but named below a prefix of its own, which this test does not see.
    "tidegate_control_records_dropped_total",
];

/// Where programs name their metrics, and the prefix that their registries put before.
const NAMED: [(&str, &[&str]); 3] = [
    ("tidegate_gateway_", &["gateway/src"]),
    ("tidegate_control_", &["control/src"]),
    ("tidegate_", &["control/src", "bus/src", "registry/src", "gateway/src"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every `tidegate_…` of a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
    words.filter(|word| word.starts_with("tidegate_")).map(str::to_owned).collect()
}

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).expect("source"));
        }
    }
}

/// A registry is told a metric's name without its prefix, and without what its type puts behind.
fn exists(metric: &str) -> bool {
    let (prefix, folders) = NAMED.iter().find(|(prefix, _)| metric.starts_with(prefix)).expect("ours");
    let mut name = &metric[prefix.len()..];
    for end in ["_total", "_bucket", "_sum", "_count"] {
        name = name.strip_suffix(end).unwrap_or(name);
    }
    let mut text = String::new();
    folders.iter().for_each(|folder| sources(&root().join(folder), &mut text));
    text.contains(&format!("\"{name}\"")) || text.contains(&format!("\"{prefix}{name}\""))
}

#[test]
fn alerts_and_dashboards_ask_for_metrics_that_there_are() {
    let used: BTreeSet<String> = ["deploy/prometheus/rules.yml", "deploy/grafana/tidegate.json"]
        .iter()
        .flat_map(|file| metrics(&read(file)))
        .collect();
    assert!(used.len() > 20, "{used:?}");
    for metric in &used {
        match (exists(metric), PROMISED.contains(&metric.as_str())) {
            (false, false) => panic!("{metric} is in no source; if it is to come, add it to PROMISED"),
            (true, true) => panic!("{metric} is there now: take it off PROMISED"),
            _ => {}
        }
    }
    for metric in PROMISED {
        assert!(used.contains(*metric), "{metric} is promised, and nobody uses it");
    }
}

#[test]
fn a_metric_that_nobody_has_is_noticed() {
    assert!(exists("tidegate_gateway_connections") && exists("tidegate_control_commit_seconds_bucket"));
    assert!(!exists("tidegate_gateway_no_such_thing_total"));
    assert_eq!(
        metrics("sum(rate(tidegate_a_total{x=\"y\"}[5m])) / tidegate_b"),
        metrics("tidegate_a_total,tidegate_b")
    );
}

#[test]
fn each_alert_has_its_test() {
    let (rules, tests) = (read("deploy/prometheus/rules.yml"), read("deploy/prometheus/rules_test.yml"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        assert!(tests.contains(alert), "{alert} has no test");
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_reads() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/tidegate.json")).expect("JSON");
    assert_eq!(dashboard["uid"], "tidegate");
    let mut ids = BTreeSet::new();
    let mut places: Vec<[u64; 4]> = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "two panels of one id");
        let place = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a place"));
        let [x, y, w, h] = place;
        assert!(x + w <= 24 && w > 0 && h > 0, "{}", panel["title"]);
        let overlaps = |[ox, oy, ow, oh]: &[u64; 4]| x < ox + ow && *ox < x + w && y < oy + oh && *oy < y + h;
        assert!(!places.iter().any(overlaps), "{} lies on another panel", panel["title"]);
        places.push(place);
        if panel["type"] != "row" {
            assert!(!panel["targets"].as_array().expect("queries").is_empty(), "{}", panel["title"]);
        }
    }
}

#[test]
fn configurations_of_nodes_are_toml() {
    for form in ["compose", "k8s"] {
        for role in ["control", "gateway"] {
            let file: toml::Table = read(&format!("deploy/{form}/{role}.toml")).parse().expect("TOML");
            let node = &file[role];
            assert_eq!(node["cluster"]["name"].as_str(), Some(form));
            assert_eq!(node["registry"]["kind"].as_str(), Some("etcd"));
            assert_eq!(file.keys().collect::<Vec<_>>(), [role], "one role, so that it needs no secrets of the other");
        }
    }
}

#[test]
fn the_seccomp_profile_allows_io_uring_and_little_else() {
    let profile: Value = serde_json::from_str(&read("deploy/seccomp/tidegate.json")).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().expect("rules");
    let allows = |name: &str| {
        rules.iter().any(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW"
                && rule.get("args").is_none()
                && rule["names"].as_array().expect("names").iter().any(|n| n == name)
        })
    };
    for name in ["io_uring_setup", "io_uring_enter", "io_uring_register", "epoll_wait", "accept4", "futex"] {
        assert!(allows(name), "{name} is not allowed");
    }
    for name in
        ["mount", "unshare", "setns", "bpf", "ptrace", "init_module", "socket", "clone", "keyctl", "userfaultfd"]
    {
        assert!(!allows(name), "{name} is allowed without conditions");
    }
}

/// Paths in compose's and kustomize's files are not looked at by their schemas.
#[test]
fn files_that_others_mount_are_there() {
    let folder = root().join("deploy/compose");
    let compose = read("deploy/compose/docker-compose.yml");
    let mounts = compose.split(['"', ' ', '[', '\n']).filter(|word| word.starts_with("./") || word.starts_with("../"));
    let paths: Vec<&str> = mounts.map(|word| word.split(':').next().expect("a path")).collect();
    let ours: Vec<&&str> = paths.iter().filter(|path| !path.starts_with("./secrets/")).collect();
    assert!(ours.len() >= 10, "{ours:?}");
    for path in ours {
        assert!(folder.join(path.trim_end_matches('}')).exists(), "{path} is not there");
    }
    let made = read("deploy/compose/make-secrets.sh");
    for path in paths.iter().filter_map(|path| path.strip_prefix("./secrets/")) {
        let name = path.trim_end_matches('}');
        assert!(made.contains(name), "make-secrets.sh does not make {name}");
    }
}
