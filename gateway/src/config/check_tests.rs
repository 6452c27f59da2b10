use std::path::PathBuf;

use super::*;
use crate::config::{DEFAULT_CONFIG, KeyConfig};

fn parse(text: &str) -> toml::Table {
    text.parse().expect("TOML")
}

fn found(section: &str) -> Vec<String> {
    check_section(&parse(section)).iter().map(Problem::to_string).collect()
}

#[test]
fn the_annotated_default_is_the_default() {
    let file = parse(DEFAULT_CONFIG);
    let section = file["gateway"].as_table().expect("section");
    assert_eq!(check(&file), []);
    let config = Config::deserialize(toml::Value::Table(section.clone())).expect("parses");
    assert_eq!(config, Config::default());
}

#[test]
fn the_list_of_keys_is_complete() {
    let key = KeyConfig { algorithm: tidegate_auth::Algorithm::HS256, id: None, file: "k".into() };
    let mut full = Config { echo_addr: Some("127.0.0.1:1".parse().expect("address")), ..Config::default() };
    full.client_url = Some("ws://a".into());
    full.link.addr = Some(crate::config::OneOrMany::One("http://127.0.0.1:1".into()));
    full.link.token_file = Some(PathBuf::from("t"));
    full.deliver.tokens_file = Some(PathBuf::from("t"));
    full.deliver.tls_addr = full.echo_addr;
    let files = [&mut full.deliver.certificate, &mut full.deliver.key, &mut full.deliver.client_authorities];
    files.into_iter().for_each(|file| *file = Some(PathBuf::from("f")));
    full.auth.keys.push(key);
    (full.tls.addr, full.tls.echo_addr) = (full.echo_addr, full.echo_addr);
    full.tls.client_authorities = Some(PathBuf::from("c"));
    let table = toml::Table::try_from(&full).expect("serialises");
    let keys = |table: &toml::Table| table.keys().cloned().collect::<BTreeSet<String>>();
    let known = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<BTreeSet<String>>();
    // Read, never written.
    let registry = "registry".to_owned();
    for (name, section) in SECTIONS {
        let written = if name.is_empty() { &table } else { table[name].as_table().expect("section") };
        let mut written = keys(written);
        written.extend(name.is_empty().then(|| registry.clone()));
        assert_eq!(written, known(section), "{name}");
    }
}

#[test]
fn owners_are_found_in_the_registry_or_at_addresses_but_not_both() {
    let registry = "[registry]\nkind = \"etcd\"\nendpoints = [\"http://127.0.0.1:2379\"]\n";
    let client_url = "client_url = \"wss://chat.example.com\"\n";
    let said = |text: &str| found(text).join("\n");
    assert_eq!(said(&format!("{client_url}{registry}")), "");
    assert_eq!(said("[link]\naddr = [\"http://a:1\", \"http://b:1\"]"), "");
    let both = said(&format!("{client_url}{registry}[link]\naddr = \"http://a:1\""));
    assert!(both.contains("gateway.link.addr: the owners of partitions are found in gateway.registry"), "{both}");
    assert!(said(registry).contains("gateway.client_url: with gateway.registry"), "{}", said(registry));
    for (wrong, told) in [
        ("cluster = \"a/b\"", "gateway.cluster"),
        ("[registry]\nkind = \"etcd\"\nendpoints = [\"redis://a\"]", "gateway.registry: endpoints"),
        ("[registry]\nkind = \"zookeeper\"\nendpoints = []", "gateway.registry"),
        ("client_url = \"http://a\"", "gateway.client_url"),
        ("weight = 0", "gateway.weight"),
        ("weight = 101", "gateway.weight"),
        ("[ring]\nmoves_per_s = 0", "gateway.ring.moves_per_s"),
        ("[ring]\nmoves = 1", "gateway.ring.moves"),
        ("[deliver]\ntokens_file = \"/nonexistent/tokens\"", "gateway.deliver.tokens_file"),
        ("[deliver]\ntls_addr = \"127.0.0.1:0\"\ncertificate = \"c\"", "gateway.deliver.key: is needed"),
        ("[deliver]\nclients = [\"billing\"]", "gateway.deliver.tls_addr: is needed"),
        (
            "[deliver]\ntls_addr = \"127.0.0.1:0\"\ncertificate = \"/nonexistent/c\"\nkey = \"k\"\nclient_authorities = \"a\"",
            "gateway.deliver.certificate: cannot read",
        ),
        ("[link]\naddr = []", "gateway.link.addr"),
    ] {
        assert!(said(wrong).contains(told), "{wrong}: {}", said(wrong));
    }
}

#[test]
fn every_problem_is_reported_at_once_with_a_hint() {
    let text = r#"
        clientaddr = "127.0.0.1:1"
        admin_addr = "nowhere"
        window_ms = 5000
        zebra = 1
        [auth]
        leeway_s = 61
        audience = ["x"]
        [limits]
        queue_bytes_max = "many"
    "#;
    let found = found(text).join("\n");
    for expected in [
        "gateway.clientaddr: unknown key; did you mean client_addr?",
        "gateway.admin_addr: invalid socket address",
        "gateway.window_ms: the batch window is 0 to 1000",
        "gateway.zebra: unknown key",
        "gateway.auth.leeway_s: at most 60",
        "gateway.auth.audience: unknown key; did you mean audiences?",
        "gateway.limits.queue_bytes_max: invalid type",
    ] {
        assert!(found.contains(expected), "{expected} is not in\n{found}");
    }
    assert_eq!(found.lines().count(), 7, "{found}");
}

#[test]
fn origins_and_proxies_that_are_none_are_named() {
    let found = found(
        r#"
        origins = ["https://chat.example/", "*", "null", "https://*.example", "http://[::1]:3000"]
        [proxies]
        trusted = ["10.0.0.0/8", "10.0.0.0/33", "lb.example", "::1"]
        proxy_protocol = "sometimes"
    "#,
    );
    for (at, expected) in [
        (0, "gateway.proxies.proxy_protocol: unknown variant `sometimes`"),
        (1, "gateway.origins: \"https://chat.example/\" is not"),
        (2, "gateway.origins: \"https://*.example\" is not"),
        (3, "gateway.proxies.trusted: \"10.0.0.0/33\" is not an address or a network"),
        (4, "gateway.proxies.trusted: \"lb.example\" is not"),
    ] {
        assert!(found[at].starts_with(expected), "{expected} is not at {at} of\n{found:#?}");
    }
    assert_eq!(found.len(), 5, "{found:#?}");
}

#[test]
fn a_header_is_taken_from_nobody_only_if_it_is_asked_of_nobody() {
    let asked = |word: &str| found(&format!("[proxies]\nproxy_protocol = {word:?}"));
    assert_eq!(asked("off"), [""; 0]);
    for word in ["optional", "required"] {
        assert!(asked(word)[0].starts_with("gateway.proxies.proxy_protocol: nobody is trusted"), "{word}");
    }
}

#[test]
fn development_doors_stay_on_loopback() {
    let open = found("client_addr = \"0.0.0.0:8080\"\necho_addr = \"192.0.2.1:9001\"\n[auth]\ndev = true");
    assert_eq!(open.len(), 2, "{open:?}");
    assert!(open[0].starts_with("gateway.echo_addr"), "{open:?}");
    assert!(open[1].starts_with("gateway.auth.dev"), "{open:?}");
    assert_eq!(found("echo_addr = \"[::1]:9001\"\n[auth]\ndev = true"), [""; 0]);
}

#[test]
fn key_files_are_read_before_anything_is_bound() {
    let dir = tempfile::tempdir().expect("tempdir");
    let short = dir.path().join("short");
    fs::write(&short, b"too short").expect("written");
    let text = format!(
        "[[auth.keys]]\nalgorithm = \"HS256\"\nfile = {short:?}\n[[auth.keys]]\nalgorithm = \"EdDSA\"\nfile = \"/nonexistent/key\""
    );
    let found = found(&text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("at least 32 bytes"), "{found:?}");
    assert!(found[1].contains("cannot read /nonexistent/key"), "{found:?}");
}

#[test]
fn only_the_own_section_is_looked_at() {
    assert_eq!(check(&parse("[control]\nx = 1")), []);
    assert_eq!(check(&parse("gateway = 1")).len(), 1);
    assert_eq!(check(&parse("[gateway]\nx = 1\n[control]\nx = 1")).len(), 1);
}

#[test]
fn hints_are_only_for_near_keys() {
    assert_eq!(edits("kitten", "sitting"), 3);
    assert_eq!(nearest("drain", &["drain_ms", "name"]), Some("drain_ms"));
    assert_eq!(nearest("completely_else", &["drain_ms", "name"]), None);
}
