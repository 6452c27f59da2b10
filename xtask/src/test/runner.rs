//! Runs test executables, two at a time at most: those that mostly wait beside all others, each lane in its order.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::suite::{Env, Executable};
use super::times::Times;

/// One executable with what its environment says beside.
#[derive(Clone)]
pub struct Job<'a> {
    pub executable: &'a Executable,
    pub settings: Env<'a>,
}

impl Job<'_> {
    pub fn name(&self) -> String {
        let set: String = self.settings.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        format!("{}{set}", self.executable.name())
    }
}

/// How one ended.
struct Ended {
    name: String,
    wall: Duration,
    cpu: Duration,
    ok: bool,
}

/// Runs all, whatever fails. Returns the names of those that failed, and how long each took.
pub fn run(jobs: &[Job<'_>], waits: impl Fn(&Executable) -> bool) -> anyhow::Result<(Vec<String>, Times)> {
    let (beside, main): (Vec<&Job<'_>>, Vec<&Job<'_>>) = jobs.iter().partition(|job| waits(job.executable));
    let lanes = thread::scope(|scope| {
        let beside = scope.spawn(|| lane(&beside));
        let main = lane(&main);
        let beside = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        anyhow::Ok([main?, beside?])
    })?;
    let (mut failed, mut times) = (Vec::new(), Times::default());
    for Ended { name, wall, cpu, ok } in lanes.into_iter().flatten() {
        times.add(&name, wall, Some(cpu), ok);
        if !ok {
            failed.push(name);
        }
    }
    times.sort();
    Ok((failed, times))
}

fn lane(jobs: &[&Job<'_>]) -> anyhow::Result<Vec<Ended>> {
    jobs.iter().map(|job| one(job)).collect()
}

/// Its output is shown whole at its end, so that two lanes do not mix.
fn one(job: &Job<'_>) -> anyhow::Result<Ended> {
    let (name, began) = (job.name(), Instant::now());
    let mut output = tempfile::tempfile().context("no file for what a test says")?;
    let mut command = job.executable.command();
    command.envs(job.settings.iter().copied()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("cannot run {}", job.executable.path.display()))?;
    let (status, cpu) = end_of(&mut child)?;
    let ended = Ended { name, wall: began.elapsed(), cpu, ok: status.success() };
    show(&ended, status, &mut output)?;
    Ok(ended)
}

fn show(ended: &Ended, status: ExitStatus, output: &mut File) -> anyhow::Result<()> {
    let mut said = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut said)?;
    let mut out = std::io::stderr().lock();
    writeln!(out, "\nxtask: {} ({:.1} s, {status})", ended.name, ended.wall.as_secs_f64())?;
    out.write_all(&said)?;
    Ok(())
}

/// Waits, and asks what it used before it is forgotten.
fn end_of(child: &mut Child) -> anyhow::Result<(ExitStatus, Duration)> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let pid = Pid::from_child(child);
    let waited = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
    let cpu = waited.ok().and_then(|_| cpu_of(child.id())).unwrap_or_default();
    Ok((child.wait()?, cpu))
}

/// User and system time of a process and of those of its children that it waited for.
fn cpu_of(pid: u32) -> Option<Duration> {
    /// Of `/proc`, on every architecture.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything. Behind it follow the state and ten more fields, then utime, stime, cutime, cstime.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::super::suite::Kind;
    use super::*;

    fn script(folder: &Path, name: &str, text: &str) -> Executable {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("it may be run");
        Executable { package: "xtask".to_owned(), target: name.to_owned(), kind: Kind::Behaviour, path }
    }

    #[test]
    fn a_failure_is_named_and_stops_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let fails = script(folder.path(), "fails", "exit 3");
        let sees = script(
            folder.path(),
            "sees",
            r#"test "$WAY" = there && test -f Cargo.toml && touch "$(dirname "$0")/ran""#,
        );
        let settings = [("WAY", "there")];
        let jobs = [Job { executable: &fails, settings: &[] }, Job { executable: &sees, settings: &settings }];
        let (failed, _) = run(&jobs, |_| false).expect("they run");
        assert_eq!(failed, ["xtask/tests/fails"]);
        assert!(folder.path().join("ran").exists(), "it ran in its package's folder, with its settings");
    }

    #[test]
    fn who_waits_runs_beside_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        // Each needs the other to be running.
        let until = |mine: &str, theirs: &str| {
            format!(
                r#"cd "$(dirname "$0")"; touch {mine}; i=0; while ! test -f {theirs}; do i=$((i+1)); test $i -gt 600 && exit 1; sleep 0.1; done"#
            )
        };
        let waits = script(folder.path(), "waits", &until("a", "b"));
        let works = script(folder.path(), "works", &until("b", "a"));
        let jobs = [&waits, &works].map(|executable| Job { executable, settings: &[] });
        let (failed, _) = run(&jobs, |executable| executable.target == "waits").expect("they run");
        assert!(failed.is_empty(), "{failed:?}");
    }
}
