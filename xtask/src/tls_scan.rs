//! A TLS scanner (sslyze) against `tidegate dev --tls`: it must find TLS 1.2 and 1.3 with AEAD suites, and nothing else.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tidegate_load::node::{Addrs, Node};

use crate::command::{self, cache};
use crate::workspace::Workspace;

#[derive(clap::Args)]
pub struct Args {
    /// Scans a listener that runs already, such as one behind a balancer, instead of a node of its own.
    #[arg(long, value_name = "HOST:PORT")]
    target: Option<String>,
    /// How the node serves its connections: auto, uring or epoll.
    #[arg(long, value_name = "DRIVER", default_value = "auto")]
    io: String,
}

const SCANNER: &str = "sslyze==6.3.1";
const SCANS: &[&str] = &[
    "--mozilla_config=disable",
    "--sslv2",
    "--sslv3",
    "--tlsv1",
    "--tlsv1_1",
    "--tlsv1_2",
    "--tlsv1_3",
    "--compression",
    "--early_data",
    "--fallback",
    "--heartbleed",
    "--openssl_ccs",
    "--reneg",
    "--robot",
    "--ems",
];
/// What a server of today must not speak.
const OLD_VERSIONS: [&str; 4] = ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"];
/// What it speaks. Without both of them the scan has looked at something else.
const VERSIONS: [&str; 2] = ["tls_1_2", "tls_1_3"];
/// Suites that authenticate as they encrypt; of version 1.2 those with forward secrecy.
const AEAD: [&str; 3] = ["_GCM_SHA256", "_GCM_SHA384", "_CHACHA20_POLY1305_SHA256"];
/// Place of each further finding in the scanner's result, and what it must be.
const FACTS: [(&str, &str, bool); 8] = [
    ("tls_compression", "supports_compression", false),
    ("tls_1_3_early_data", "supports_early_data", false),
    ("tls_fallback_scsv", "supports_fallback_scsv", true),
    ("heartbleed", "is_vulnerable_to_heartbleed", false),
    ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", false),
    ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", false),
    ("session_renegotiation", "supports_secure_renegotiation", true),
    ("tls_extended_master_secret", "supports_ems_extension", true),
];
const ROBOT_SAFE: &str = "NOT_VULNERABLE";

pub fn run(args: &Args) -> anyhow::Result<()> {
    let scanner = install()?;
    let workspace = Workspace::new()?;
    let report = workspace.folder.join("scan.json");
    match &args.target {
        Some(target) => scan(&scanner, target, &report)?,
        None => {
            let binary = command::build("tidegate")?;
            let tls = free()?.to_string();
            let more = ["--tls", "--tls-addr", &tls, "--io", &args.io];
            let node = Node::dev(&binary, &workspace.data(), &Addrs::free()?, &workspace.log(), &more)?;
            scan(&scanner, &tls, &report)?;
            drop(node);
        }
    }
    let text = fs::read_to_string(&report).with_context(|| format!("the scanner wrote no {}", report.display()))?;
    let found = judge(&serde_json::from_str(&text)?)?;
    if !found.is_empty() {
        found.iter().for_each(|problem| eprintln!("  {problem}"));
        bail!("the scan found {} problems; its report is {}", found.len(), report.display());
    }
    workspace.remove();
    Ok(())
}

fn install() -> anyhow::Result<PathBuf> {
    let folder = cache("sslyze")?;
    let scanner = folder.join("bin").join("sslyze");
    if !scanner.exists() {
        command::run("python3", &["-m", "venv", &folder.to_string_lossy()])?;
        let pip = folder.join("bin").join("pip");
        command::run(&pip.to_string_lossy(), &["install", "--quiet", SCANNER])?;
    }
    Ok(scanner)
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn scan(scanner: &Path, target: &str, report: &Path) -> anyhow::Result<()> {
    let out = format!("--json_out={}", report.display());
    command::run(&scanner.to_string_lossy(), &[SCANS, &[&*out, target]].concat())
}

/// Prints what is accepted and returns what should not be.
fn judge(report: &Value) -> anyhow::Result<Vec<String>> {
    let scan = &report["server_scan_results"][0];
    let results = &scan["scan_result"];
    if scan["scan_status"] != "COMPLETED" {
        bail!("the server could not be scanned: {}", scan["connectivity_error_trace"]);
    }
    let mut problems = Vec::new();
    for version in OLD_VERSIONS.iter().chain(&VERSIONS) {
        let result = completed(results, &format!("{version}_cipher_suites"))?;
        let accepted = result["accepted_cipher_suites"].as_array().context("a list of suites")?;
        let suites: Vec<&str> = accepted.iter().filter_map(|suite| suite["cipher_suite"]["name"].as_str()).collect();
        println!("{version}: {}", if suites.is_empty() { "refused".to_owned() } else { suites.join(" ") });
        if VERSIONS.contains(version) {
            problems.extend(suites.is_empty().then(|| format!("{version} is not spoken")));
            problems
                .extend(suites.iter().filter(|name| !is_aead(version, name)).map(|name| format!("{version}: {name}")));
        } else if !suites.is_empty() || result["is_tls_version_supported"] != false {
            problems.push(format!("{version} is spoken"));
        }
    }
    for (scan, key, expected) in FACTS {
        let value = &completed(results, scan)?[key];
        println!("{scan}: {key} {value}");
        if *value != expected {
            problems.push(format!("{scan}: {key} is {value}"));
        }
    }
    let robot = &completed(results, "robot")?["robot_result"];
    println!("robot: {robot}");
    if !robot.as_str().is_some_and(|verdict| verdict.starts_with(ROBOT_SAFE)) {
        problems.push(format!("robot: {robot}"));
    }
    Ok(problems)
}

/// The result of one scan. One that was not carried out proves nothing.
fn completed<'a>(results: &'a Value, scan: &str) -> anyhow::Result<&'a Value> {
    match results[scan]["status"].as_str() {
        Some("COMPLETED") => Ok(&results[scan]["result"]),
        status => bail!("{scan} ended with {status:?}: {}", results[scan]["error_trace"]),
    }
}

fn is_aead(version: &str, name: &str) -> bool {
    let keys_are_fresh = version == "tls_1_3" || name.starts_with("TLS_ECDHE_");
    keys_are_fresh && AEAD.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn suites(names: &[&str]) -> Value {
        let accepted: Vec<Value> = names.iter().map(|name| json!({"cipher_suite": {"name": name}})).collect();
        let result = json!({"is_tls_version_supported": !names.is_empty(), "accepted_cipher_suites": accepted});
        json!({"status": "COMPLETED", "result": result})
    }

    fn good() -> Value {
        let done = |result: Value| json!({"status": "COMPLETED", "result": result});
        let none = suites(&[]);
        let results = json!({
            "ssl_2_0_cipher_suites": none, "ssl_3_0_cipher_suites": none,
            "tls_1_0_cipher_suites": none, "tls_1_1_cipher_suites": none,
            "tls_1_2_cipher_suites": suites(&["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]),
            "tls_1_3_cipher_suites": suites(&["TLS_CHACHA20_POLY1305_SHA256"]),
            "tls_compression": done(json!({"supports_compression": false})),
            "tls_1_3_early_data": done(json!({"supports_early_data": false})),
            "tls_fallback_scsv": done(json!({"supports_fallback_scsv": true})),
            "heartbleed": done(json!({"is_vulnerable_to_heartbleed": false})),
            "openssl_ccs_injection": done(json!({"is_vulnerable_to_ccs_injection": false})),
            "session_renegotiation": done(json!({
                "is_vulnerable_to_client_renegotiation_dos": false, "supports_secure_renegotiation": true,
            })),
            "tls_extended_master_secret": done(json!({"supports_ems_extension": true})),
            "robot": done(json!({"robot_result": "NOT_VULNERABLE_RSA_NOT_SUPPORTED"})),
        });
        json!({"server_scan_results": [{"scan_status": "COMPLETED", "scan_result": results}]})
    }

    #[test]
    fn each_weakness_is_found() {
        assert_eq!(judge(&good()).expect("a report"), [""; 0]);
        for (scan, result) in [
            ("tls_1_1_cipher_suites", suites(&["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"])["result"].clone()),
            ("tls_1_2_cipher_suites", suites(&["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"])["result"].clone()),
            ("tls_1_2_cipher_suites", suites(&["TLS_RSA_WITH_AES_128_GCM_SHA256"])["result"].clone()),
            ("tls_1_3_cipher_suites", suites(&[])["result"].clone()),
            ("tls_1_3_cipher_suites", suites(&["TLS_AES_128_CCM_8_SHA256"])["result"].clone()),
            ("tls_compression", json!({"supports_compression": true})),
            ("heartbleed", json!({"is_vulnerable_to_heartbleed": true})),
            ("robot", json!({"robot_result": "VULNERABLE_WEAK_ORACLE"})),
            ("tls_1_3_early_data", json!({})),
        ] {
            let mut report = good();
            report["server_scan_results"][0]["scan_result"][scan]["result"] = result;
            assert_eq!(judge(&report).expect("a report").len(), 1, "{scan}");
        }
    }

    #[test]
    fn a_scan_that_did_not_take_place_proves_nothing() {
        for path in ["/server_scan_results/0/scan_status", "/server_scan_results/0/scan_result/robot/status"] {
            let mut report = good();
            *report.pointer_mut(path).expect("there") = json!("ERROR");
            judge(&report).expect_err("no verdict");
        }
    }
}
