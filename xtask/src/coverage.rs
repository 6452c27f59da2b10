//! Which lines of both cores the simulator executes.
//!
//! Only the workspace's own crates are instrumented: this program wraps rustc for them, so dependencies stay as they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::command::{self, cargo};
use crate::workspace::Workspace;

/// Tells this program that it is called in the place of rustc.
const WRAPS: &str = "TIDEGATE_WRAPS_RUSTC";
const CORES: [&str; 2] = ["gateway/core/src", "control/core/src"];
/// Suites for adapters: the simulator has them compiled, since they stand in the crate, and has no use for them.
const LEFT_OUT: &str = "contract/";
/// Less of a core than this is a failure.
const PERCENT_MIN: f64 = 85.0;

/// If cargo called this program in the place of rustc: calls it, with instruments.
pub fn wrap_rustc() -> Option<ExitCode> {
    std::env::var_os(WRAPS)?;
    let mut args = std::env::args_os().skip(1);
    let status = Command::new(args.next()?).args(args).arg("-Cinstrument-coverage").status();
    Some(match status.ok().and_then(|status| status.code()) {
        Some(0) => ExitCode::SUCCESS,
        code => ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
    })
}

pub fn run(args: &[&str]) -> anyhow::Result<()> {
    let tools = tools()?;
    let wrapper = std::env::current_exe()?;
    let wrapper = wrapper.to_string_lossy();
    let env = [("RUSTC_WORKSPACE_WRAPPER", &*wrapper), (WRAPS, "1")];
    let build = ["build", "--quiet", "--profile", "sim", "--package", "tidegate-sim"];
    command::run_with(&cargo(), &build, &env)?;
    let binary = command::target().join("sim").join("tidegate-sim");
    let binary = binary.to_string_lossy();
    let workspace = Workspace::new()?;
    let (raw, merged) = (workspace.folder.join("sim.profraw"), workspace.folder.join("sim.profdata"));
    let (raw, merged) = (raw.to_string_lossy(), merged.to_string_lossy());
    command::run_with(&binary, args, &[("LLVM_PROFILE_FILE", &*raw)])?;
    command::run(&tools.join("llvm-profdata").to_string_lossy(), &["merge", "--sparse", &raw, "-o", &merged])?;
    let profile = format!("--instr-profile={merged}");
    let export = ["export", &binary, &profile, "--summary-only", "--sources", CORES[0], CORES[1]];
    let report = command::output(&tools.join("llvm-cov").to_string_lossy(), &export)?;
    workspace.remove();
    judge(&serde_json::from_str(&report)?)
}

/// Prints each file, the least covered first, and each core.
fn judge(report: &Value) -> anyhow::Result<()> {
    let files = report["data"][0]["files"].as_array().context("a report without files")?;
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut lines = Vec::new();
    for file in files {
        let name = file["filename"].as_str().unwrap_or_default();
        let Some(core) = CORES.into_iter().find(|core| name.contains(core) && !name.contains(LEFT_OUT)) else {
            continue;
        };
        let number = |what: &str| file["summary"]["lines"][what].as_u64().unwrap_or(0);
        let (count, covered) = (number("count"), number("covered"));
        let sum = sums.entry(core).or_default();
        *sum = (sum.0 + count, sum.1 + covered);
        let at = name.find(core).unwrap_or(0);
        lines.push((percent(count, covered), format!("{covered:>5} of {count:>5}  {}", &name[at..])));
    }
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    lines.iter().for_each(|(percent, line)| println!("{percent:>6.1} %  {line}"));
    for core in CORES {
        let (count, covered) = sums.get(core).copied().unwrap_or_default();
        println!("{:>6.1} %  {covered:>5} of {count:>5}  {core}, all", percent(count, covered));
        if percent(count, covered) < PERCENT_MIN {
            bail!("less than {PERCENT_MIN} % of {core} is covered");
        }
    }
    Ok(())
}

fn percent(count: u64, covered: u64) -> f64 {
    100.0 * covered as f64 / count.max(1) as f64
}

/// LLVM's tools of the very version that rustc instruments for.
fn tools() -> anyhow::Result<PathBuf> {
    let sysroot = command::output("rustc", &["--print", "sysroot"])?;
    let about = command::output("rustc", &["-vV"])?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let tools = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin");
    if !tools.join("llvm-cov").exists() {
        bail!("no llvm-cov: rustup component add llvm-tools");
    }
    Ok(tools)
}
