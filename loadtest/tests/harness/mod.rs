//! The command as its users run it, against a double.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tidegate_load::judge::Kind;
use tidegate_load::result::{Deliveries, RunResult};

use crate::double::{Double, Fault, Planted};

/// Limits that a busy machine does not reach: a judged fault must not become a void run.
pub const PATIENT: &str =
    "[generator]\nloop_lag_p99_ms_max = 30000.0\npublish_lag_p99_ms_max = 30000.0\ncpu_percent_max = 100.0\n";

/// A scenario of one room and one load.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub connections: u32,
    pub groups: u32,
    pub messages: u64,
    /// 0: as fast as answers come.
    pub per_second: f64,
    pub in_flight: u32,
    pub via: &'static str,
    pub to: &'static str,
    pub drain: &'static str,
    pub reconnect: bool,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            connections: 20,
            groups: 2,
            messages: 397,
            per_second: 400.0,
            in_flight: 1_000,
            via: "stream",
            to: "room",
            drain: "armed",
            reconnect: true,
        }
    }
}

impl Room {
    pub fn toml(&self) -> String {
        let Room { connections, groups, messages, per_second, in_flight, via, to, drain, reconnect } = self;
        let members = connections / groups;
        let drain_ms = if *drain == "timer" { "drain_ms = 10\n" } else { "" };
        format!(
            "name = \"room\"\nabout = \"a room for a fault\"\nseed = 7\n\
             [connections]\ncount = {connections}\nramp_per_second = 1000.0\nreconnect = {reconnect}\n\
             drain = \"{drain}\"\n{drain_ms}\
             [[groups]]\nname = \"room\"\ncount = {groups}\nmembers = {members}\n\
             [[publish]]\nname = \"load\"\nto = \"{to}\"\nvia = \"{via}\"\npayload_bytes = 100\nin_flight = {in_flight}\n\
             [[publish.phases]]\nname = \"only\"\nper_second = {per_second:?}\nmessages = {messages}\n{PATIENT}"
        )
    }

    pub fn members(&self) -> u64 {
        u64::from(self.connections / self.groups)
    }
}

/// What became of a run.
#[derive(Debug)]
pub struct Outcome {
    pub status: i32,
    pub result: RunResult,
    /// What the double did wrong.
    pub planted: Vec<Planted>,
}

/// Runs a room against a double with this fault.
pub fn judged(fault: Fault, room: Room) -> Outcome {
    let double = Double::start(fault);
    run(&double, &room.toml())
}

pub fn run(double: &Double, scenario: &str) -> Outcome {
    let authority = double.authority.as_ref().map(|file| file.to_str().expect("UTF-8"));
    run_trusting(double, scenario, &authority.map_or_else(Vec::new, |file| vec!["--ca", file]))
}

/// `trusting`: whom clients trust, where TLS is spoken.
pub fn run_trusting(double: &Double, scenario: &str, trusting: &[&str]) -> Outcome {
    let started = Started::new(double, scenario, &[&["--plain"][..], trusting].concat());
    let folder = started.out();
    let ended = started.child.wait_with_output().expect("it ends");
    let words = || format!("{}\n{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    let Ok(json) = std::fs::read_to_string(folder.join("result.json")) else {
        panic!("{} without a result:\n{}", ended.status, words());
    };
    let result = serde_json::from_str(&json).expect("a result that can be read again");
    let status = ended.status.code().unwrap_or_else(|| panic!("{}:\n{}", ended.status, words()));
    Outcome { status, result, planted: double.planted() }
}

/// A run under way.
pub struct Started {
    pub child: Child,
    folder: TempDir,
}

impl Started {
    pub fn new(double: &Double, scenario: &str, more: &[&str]) -> Started {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("scenario.toml");
        std::fs::write(&file, scenario).expect("written");
        let scheme = if double.authority.is_some() { "wss" } else { "ws" };
        let child = command(&file)
            .arg("--target")
            .arg(format!("{scheme}://{}", double.client))
            .arg("--api")
            .arg(format!("http://{}", double.http))
            .arg("--grpc")
            .arg(format!("http://{}", double.grpc))
            .arg("--out")
            .arg(folder.path().join("out"))
            .args(more)
            .spawn()
            .expect("the command runs");
        Started { child, folder }
    }

    pub fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }
}

pub fn command(scenario: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-load"));
    command.arg("run").arg(scenario).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Outcome {
    pub fn deliveries(&self) -> &Deliveries {
        self.result.deliveries.as_ref().expect("there were recipients")
    }

    /// Exactly these kinds were found, so often.
    pub fn assert_found(&self, wanted: &[(Kind, u64)]) {
        let deliveries = self.deliveries();
        let found: Vec<(Kind, u64)> = Kind::ALL.into_iter().map(|kind| (kind, count(deliveries, kind))).collect();
        let found: Vec<(Kind, u64)> = found.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(found, wanted, "{:#?}\n{:#?}", self.result.reasons, self.result.findings);
    }

    /// Each planted fault stands in the findings under this kind, with its stream and seq.
    pub fn assert_named(&self, kind: Kind) {
        assert!(!self.planted.is_empty(), "the fault never struck");
        for planted in &self.planted {
            let named = self.named(kind, planted);
            assert!(named, "{planted:?} is not named as {kind}: {:#?}", self.result.findings);
        }
    }

    pub fn named(&self, kind: Kind, planted: &Planted) -> bool {
        let kind = format!("{kind}: ");
        let seq = planted.seq.to_string();
        // `g:room-1` must not be found in `g:room-10`, nor seq 5 in 50.
        let holds = |finding: &str, word: &str| {
            finding.split([' ', ',', ';', '(', ')']).any(|w| w.trim_end_matches(':') == word)
        };
        let findings = &self.result.findings;
        findings.iter().any(|text| text.starts_with(&kind) && holds(text, &planted.stream) && holds(text, &seq))
    }

    /// To how many clients wrong was done.
    pub fn wronged(&self) -> u64 {
        self.planted.iter().map(|planted| planted.recipients).sum()
    }

    pub fn assert_passed(&self) {
        self.assert_found(&[]);
        let RunResult { reasons, .. } = &self.result;
        assert_eq!((self.status, &self.result.verdict), (0, &tidegate_load::result::Verdict::Pass), "{reasons:#?}");
        assert!(reasons.is_empty(), "{reasons:#?}");
    }

    pub fn assert_failed(&self) {
        let RunResult { reasons, .. } = &self.result;
        assert_eq!((self.status, &self.result.verdict), (1, &tidegate_load::result::Verdict::Fail), "{reasons:#?}");
        assert!(!reasons.is_empty(), "a failure has a reason");
    }
}

pub fn count(deliveries: &Deliveries, kind: Kind) -> u64 {
    match kind {
        Kind::Lost => deliveries.lost,
        Kind::Duplicated => deliveries.duplicated,
        Kind::Reordered => deliveries.reordered,
        Kind::WrongRecipient => deliveries.wrong_recipient,
        Kind::WrongPayload => deliveries.wrong_payload,
        Kind::UnhealedHole => deliveries.unhealed_holes,
        Kind::Protocol => deliveries.against_protocol,
    }
}
