use serde::Deserialize as _;
use toml::Table;

use super::*;

/// A file with this `[control]` section.
fn file(section: &str) -> Table {
    Table::from_iter([("control".to_owned(), toml::Value::Table(section.parse().expect("TOML")))])
}

fn keys(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.key.as_str()).collect()
}

#[test]
fn the_annotated_text_is_the_defaults() {
    let file: Table = DEFAULT_CONFIG.parse().expect("TOML");
    assert_eq!(check(&file), []);
    assert_eq!(Config::deserialize(file["control"].clone()).expect("parses"), Config::default());
    assert_eq!(check(&Table::new()), []);
}

#[test]
fn the_commented_keys_of_the_text_exist() {
    let uncommented: String = DEFAULT_CONFIG
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") || setting.starts_with('[') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let file: Table = uncommented.parse().expect("TOML");
    let config = Config::deserialize(file["control"].clone()).expect("parses");
    assert!(config.link_token_file.is_some() && config.service_tokens_file.is_some());
    assert_eq!(config.auth.keys.len(), 1);
}

#[test]
fn every_problem_is_told_at_once() {
    let problems = check(&file(
        r#"
        http_adr = "127.0.0.1:1"
        grpc_addr = 7
        dev_auth = true
        http_addr = "0.0.0.0:8090"
        [limits]
        targets_max = 5000
        answer_timeout = 3
        [auth]
        keys = [{ algorithm = "none", file = "x" }]
        "#,
    ));
    let mut found = keys(&problems);
    found.sort_unstable();
    assert_eq!(
        found,
        ["auth.keys", "dev_auth", "grpc_addr", "http_adr", "limits.answer_timeout", "limits.targets_max"]
    );
    let hint = |key: &str| problems.iter().find(|p| p.key == key).and_then(|p| p.hint.clone());
    assert_eq!(hint("http_adr").as_deref(), Some("http_addr"));
    assert_eq!(hint("limits.answer_timeout").as_deref(), Some("answer_timeout_ms"));
}

#[test]
fn an_unknown_table_and_a_key_inside_a_list_are_problems() {
    assert_eq!(keys(&check(&file("[retentoin]\nhours = 1"))), ["retentoin"]);
    let problems = check(&file("[[auth.keys]]\nalgorithm = \"ES256\"\nfile = \"a\"\nidd = \"x\""));
    assert_eq!(keys(&problems), ["auth.keys"]);
    assert_eq!(problems[0].hint.as_deref(), Some("id"));
    assert!(problems[0].to_string().contains("idd"), "{}", problems[0]);
}

#[test]
fn development_settings_need_loopback() {
    let open = Config { grpc_addr: "0.0.0.0:9090".parse().expect("address"), ..Config::dev() };
    assert_eq!(keys(&open.problems()), ["dev_auth", "auto_groups", "link_token_file"]);
    assert_eq!(Config::dev().problems(), []);
    let v6 = Config { http_addr: "[::1]:8090".parse().expect("address"), ..Config::dev() };
    assert_eq!(v6.problems(), []);
}

/// Nodes that are started with them would refuse to.
#[test]
fn configurations_in_deploy_are_good() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    for name in ["compose/control.toml", "k8s/control.toml", "local/control.toml", "tidegate.toml"] {
        let text = std::fs::read_to_string(folder.join(name)).expect("readable");
        let addresses = ["@HTTP@", "@GRPC@"].iter().zip(["127.0.0.1:1", "127.0.0.1:2"]);
        let text = addresses.fold(text, |text, (from, to)| text.replace(from, to));
        let text = text
            .replace("@REGISTRY_KIND@", "etcd")
            .replace("@REDIS@", "redis://127.0.0.1:6379")
            .replace("@ROLES@", r#""api""#)
            .replace("@TASKS@", "false")
            .replace('@', "");
        let problems = check(&text.parse().expect("TOML"));
        let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert!(problems.is_empty(), "{name}: {problems:?}");
    }
}

#[test]
fn a_cache_needs_a_cluster_and_forgets_keys_before_the_store_does() {
    let cache = crate::adapters::redis::RedisSettings::default();
    let alone = Config { cache: Some(cache.clone()), ..Config::default() };
    assert_eq!(keys(&alone.problems()), ["cluster"]);
    let mut longer = cache;
    longer.ttl.dedup_s = 3 * 3_600;
    let dedup = DedupConfig { hours: 2, ..DedupConfig::default() };
    let longer = Config { cache: Some(longer), dedup, ..Config::default() };
    assert_eq!(keys(&longer.problems()), ["cluster", "cache.ttl.dedup_s"]);
}
