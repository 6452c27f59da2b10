//! Looks at the run once a second, on a thread of its own: for the timeline and for whoever watches.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::watch::{Snapshot, Watch};
use crate::fleet::Progress;
use crate::latency::SECONDS_MAX;
use crate::result::Second;
use crate::scenario::Scenario;

/// How soon the thread ends when it is to.
const LOOK: Duration = Duration::from_millis(50);

/// What the run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Connecting,
    Holding,
    Publishing,
    Settling,
    Comparing,
    Judging,
}

impl Stage {
    const ALL: [Stage; 6] =
        [Stage::Connecting, Stage::Holding, Stage::Publishing, Stage::Settling, Stage::Comparing, Stage::Judging];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Connecting => "connecting",
            Stage::Holding => "holding",
            Stage::Publishing => "publishing",
            Stage::Settling => "settling",
            Stage::Comparing => "comparing with the floor",
            Stage::Judging => "judging",
        }
    }
}

/// What can be told of a running run.
#[derive(Clone, Debug)]
pub struct Status {
    pub stage: Stage,
    pub asked: u32,
    pub progress: Progress,
    pub answered: u64,
    /// The last second.
    pub second: Second,
}

#[derive(Debug)]
pub struct Sampler {
    end: Arc<AtomicBool>,
    stage: Arc<AtomicU8>,
    thread: JoinHandle<Vec<Second>>,
}

impl Sampler {
    pub fn start(
        watch: Arc<Watch>,
        scenario: &Scenario,
        mut show: impl FnMut(&Status) + Send + 'static,
    ) -> io::Result<Sampler> {
        let (end, stage) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU8::new(0)));
        let asked = scenario.connections.count;
        let thread = std::thread::Builder::new().name("sampler".to_owned()).spawn({
            let (end, stage) = (Arc::clone(&end), Arc::clone(&stage));
            move || {
                let mut seconds = Vec::new();
                let mut before = watch.glance();
                while wait(&watch, before.at_us / 1_000_000 + 1, &end) {
                    let now = watch.glance();
                    let second = second(&before, &now);
                    let stage = Stage::ALL[usize::from(stage.load(Ordering::Relaxed)) % Stage::ALL.len()];
                    let (progress, answered) = (now.progress, now.answered);
                    show(&Status { stage, asked, progress, answered, second: second.clone() });
                    if seconds.len() < SECONDS_MAX {
                        seconds.push(second);
                    }
                    before = now;
                }
                seconds
            }
        })?;
        Ok(Sampler { end, stage, thread })
    }

    pub fn stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// The timeline, without latencies.
    pub fn end(self) -> Vec<Second> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Until the run's clock shows this second; false: the end.
fn wait(watch: &Watch, second: u64, end: &AtomicBool) -> bool {
    let until = watch.clock().at(second * 1_000_000);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if end.load(Ordering::Relaxed) || left.is_zero() {
            return !end.load(Ordering::Relaxed);
        }
        std::thread::sleep(left.min(LOOK));
    }
}

/// The time between two glances, filed under the second in which it began: there the latencies of what was to be sent
/// then are filed too.
fn second(before: &Snapshot, now: &Snapshot) -> Second {
    let seconds = (now.at_us.saturating_sub(before.at_us) as f64 / 1e6).max(1e-3);
    let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
    let pairs = || before.usages().iter().zip(now.usages());
    let percent = |(before, now): (&Option<_>, &Option<_>)| cpu(before.as_ref(), now.as_ref()) / 1e4 / seconds;
    Second {
        at_s: (before.at_us / 1_000_000) as f64,
        established: u64::from(now.progress.established),
        published_per_second: rate(before.answered, now.answered),
        deliveries_per_second: rate(before.progress.shown, now.progress.shown),
        cpu_percent: pairs().map(percent).collect(),
        rss_bytes: now.usages().iter().map(|usage| usage.as_ref().map_or(0, |usage| usage.rss_bytes)).collect(),
        generator_cpu_percent: now.generator_percent(before).unwrap_or(0.0),
        ..Second::default()
    }
}

fn cpu(before: Option<&crate::measure::process::Usage>, now: Option<&crate::measure::process::Usage>) -> f64 {
    match (before, now) {
        (Some(before), Some(now)) => now.cpu_us.saturating_sub(before.cpu_us) as f64,
        _ => 0.0,
    }
}
