//! Processes that outlive the command that started them, and how they are told from others that got their number later.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use serde::{Deserialize, Serialize};

/// How long a server may take to end by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// In ticks since the machine booted: a later process of the same number has another.
    pub started: u64,
}

/// How a server is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    Terminate,
    /// What PostgreSQL takes as "now, but orderly", whoever is still connected.
    Interrupt,
}

impl Process {
    /// Starts a command in a process group of its own, so that ^C meant for us does not reach it.
    pub fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Process> {
        use std::os::unix::process::CommandExt as _;
        let out = File::options().create(true).append(true).open(log);
        let out = out.with_context(|| format!("cannot write {}", log.display()))?;
        command.process_group(0).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let pid = child.id();
        let started = started(pid).with_context(|| format!("process {pid} ended at once; see {}", log.display()))?;
        Ok(Process { pid, started })
    }

    pub fn is_alive(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// Asks it to end, waits, and kills it if it does not.
    pub fn stop(&self, farewell: Farewell) -> anyhow::Result<()> {
        let signal = match farewell {
            Farewell::Terminate => Signal::TERM,
            Farewell::Interrupt => Signal::INT,
        };
        for (signal, timeout) in [(signal, STOP_TIMEOUT), (Signal::KILL, KILL_TIMEOUT)] {
            self.signal(signal)?;
            if self.is_gone_within(timeout) {
                return Ok(());
            }
        }
        bail!("process {} does not end, even killed", self.pid)
    }

    /// `kill -9`, for tests of failure.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        match self.is_gone_within(KILL_TIMEOUT) {
            true => Ok(()),
            false => bail!("process {} does not end, even killed", self.pid),
        }
    }

    /// SIGSTOP: it stands still, its connections stay.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// The descriptor holds on to the process while we look whether it is ours, so that the signal cannot reach another.
    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("not the number of a process")?;
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        if self.is_alive() {
            pidfd_send_signal(&handle, signal).with_context(|| format!("cannot signal process {pid:?}"))?;
        }
        Ok(())
    }

    /// Gone is who holds nothing any more. Its first thread can end before the others, which still hold its sockets, and
    /// then looks like a whole process that has ended.
    fn is_gone_within(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while self.is_alive() || self.threads_are_left() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.reap();
        true
    }

    fn threads_are_left(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let tasks = || fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count);
        state_and_start(&stat).is_some_and(|(_, started)| started == self.started) && tasks() > 1
    }

    /// A child of ours that has ended keeps its number until somebody asks for its status, and to others it looks alive:
    /// PostgreSQL refuses to start beside such a predecessor.
    fn reap(&self) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
            && !self.is_alive()
        {
            // Not our child: then init has asked.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// When the process began; `None` if it ended, also if only its parent has not heard so yet.
fn started(pid: u32) -> Option<u64> {
    started_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn started_of(stat: &str) -> Option<u64> {
    state_and_start(stat).filter(|(state, _)| !matches!(*state, "Z" | "X")).map(|(_, started)| started)
}

/// Fields of `/proc/PID/stat`, see proc(5). The name (2) may hold anything, spaces and brackets too, so they are counted
/// from its end: state is 3, start time is 22.
fn state_and_start(stat: &str) -> Option<(&str, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let line = |name: &str, state: &str| {
            format!(
                "42 ({name}) {state} 1 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 987654 1000 200 18446744073709551615\n"
            )
        };
        assert_eq!(started_of(&line("postgres", "S")), Some(987_654));
        assert_eq!(started_of(&line("a) R 7 (b", "S")), Some(987_654));
        assert_eq!(started_of(&line("gone", "Z")), None);
        assert_eq!(started_of("nothing"), None);
    }

    #[test]
    fn a_process_that_ended_or_was_another_is_not_alive() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sleep");
        let process = Process::spawn(command.arg("600"), &folder.path().join("log")).expect("spawn");
        assert!(process.is_alive() && process.resident().is_some());
        let another = Process { started: process.started + 1, ..process };
        assert!(!another.is_alive());
        another.stop(Farewell::Terminate).expect("nothing to stop");
        assert!(process.is_alive(), "a signal for another process does not reach this one");
        process.stop(Farewell::Terminate).expect("stop");
        assert!(!process.is_alive());
        process.kill().expect("killing what is gone is no error");
        assert!(!Path::new(&format!("/proc/{}", process.pid)).exists(), "its number is free again");
    }
}
