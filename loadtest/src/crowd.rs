//! Many followers at once: started, watched, ended and judged together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::crowd_judge::{Ledger, StreamLog, Verdict};
use crate::follower::{Controls, Follower};

/// How long clients may take to be established, and to show the last messages.
pub const SETTLE: Duration = Duration::from_secs(60);

/// What one client was shown, by stream.
pub type Logs = BTreeMap<String, StreamLog>;

#[derive(Debug, Default)]
pub struct Fleet {
    tasks: JoinSet<(String, Logs)>,
    pub controls: Vec<Arc<Controls>>,
    /// Streams that each client was to follow, by its name.
    wanted: BTreeMap<String, Vec<String>>,
}

impl Fleet {
    pub fn follow(&mut self, follower: Follower) {
        let inbox = format!("u:{}", follower.name);
        let wanted = follower.streams.iter().cloned().chain([inbox]).collect();
        self.wanted.insert(follower.name.clone(), wanted);
        self.controls.push(follower.controls.clone());
        self.tasks.spawn(follower.run());
    }

    pub fn established(&self) -> usize {
        self.controls.iter().filter(|c| c.established.load(Ordering::SeqCst)).count()
    }

    pub fn shown(&self) -> u64 {
        self.controls.iter().map(|c| c.shown.load(Ordering::Relaxed)).sum()
    }

    /// Waits until every client is established; returns how many are, which is fewer only after [`SETTLE`].
    pub async fn gather(&self) -> usize {
        let deadline = Instant::now() + SETTLE;
        while self.established() < self.controls.len() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.established()
    }

    /// Waits until nothing new has been shown for `quiet`.
    pub async fn settle(&self, ledger: &Ledger, quiet: Duration) {
        let deadline = Instant::now() + SETTLE;
        let mut last = (self.shown(), Instant::now());
        let busy = !self.controls.is_empty() && ledger.answered > 0;
        while busy && Instant::now() < deadline && last.1.elapsed() <= quiet {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.shown();
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
    }

    /// Ends every client and judges each stream that it was to follow; `each` sees the logs. A client without a log of a stream
    /// was shown nothing of it, and one whose task failed is a finding: neither may pass for clean.
    pub async fn judge(mut self, ledger: &Ledger, mut each: impl FnMut(&str, &Logs)) -> Verdict {
        self.controls.iter().for_each(|c| c.stop());
        let mut verdict = Verdict::default();
        while let Some(ended) = self.tasks.join_next().await {
            let Ok((name, mut logs)) = ended else {
                verdict.fail("a client's task failed".to_owned());
                continue;
            };
            each(&name, &logs);
            for stream in self.wanted.remove(&name).unwrap_or_default() {
                logs.entry(stream).or_default();
            }
            logs.iter().for_each(|(stream, log)| verdict.judge(&name, stream, log, ledger));
        }
        verdict
    }
}
