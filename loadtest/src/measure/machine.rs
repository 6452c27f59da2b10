//! What the run ran on.

use std::fs;
use std::process::{Command, Stdio};

use crate::result::Machine;

/// Of this machine; a field that cannot be read stays empty.
pub fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, key: &str| -> Option<String> {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let kib = |text: String| text.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
    let cpus = read("/proc/cpuinfo");
    Machine {
        cpu: value(&cpus, "model name").or_else(|| value(&cpus, "CPU part")).unwrap_or_default(),
        cores: std::thread::available_parallelism().map_or(0, |cores| cores.get() as u32),
        memory_bytes: value(&read("/proc/meminfo"), "MemTotal").and_then(kib).unwrap_or(0) * 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
    }
}

/// The commit of the work tree that holds the running binary, with `-dirty` if tracked files differ from it; else that
/// of the working directory. `None` outside of git.
pub fn commit() -> Option<String> {
    let folder = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    let here = std::env::current_dir().ok();
    folder.into_iter().chain(here).find_map(|folder| {
        let git = |arguments: &[&str]| -> Option<String> {
            let output =
                Command::new("git").arg("-C").arg(&folder).args(arguments).stderr(Stdio::null()).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let commit = git(&["rev-parse", "--short=12", "HEAD"]).filter(|commit| !commit.is_empty())?;
        let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
        Some(if clean { commit } else { commit + "-dirty" })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let machine = machine();
        assert!(!machine.cpu.is_empty() && machine.cores > 0, "{machine:?}");
        assert!(machine.memory_bytes > 1 << 26 && machine.kernel.contains('.'), "{machine:?}");
    }

    #[test]
    fn a_commit_is_a_number_in_base_16() {
        // A source archive has none.
        if let Some(commit) = commit() {
            let number = commit.trim_end_matches("-dirty");
            assert!(number.len() >= 12 && number.chars().all(|c| c.is_ascii_hexdigit()), "{commit}");
        }
    }
}
