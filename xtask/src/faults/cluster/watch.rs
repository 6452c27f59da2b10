//! Memory of every node, and pauses of the load, sampled while a fault is done; what a node's metrics say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tidegate_load::publish::Meter;
use xtask::cluster::Home;
use xtask::servers::ask;

const EVERY: Duration = Duration::from_millis(100);
/// From here on a lag is no lag: records are always on their way.
const LAG_MAX: f64 = 100.0;
const LAG_TIMEOUT: Duration = Duration::from_secs(180);

/// What a watch saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Most resident bytes of each node.
    pub rss: BTreeMap<String, u64>,
    /// Longest time in which no push was answered.
    pub pause: Duration,
}

pub struct Watch {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Watch {
    pub fn begin(home: Arc<Home>, meter: Meter) -> anyhow::Result<Watch> {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let look = move || {
            let mut seen = Seen::default();
            let mut last = (meter.answered(), Instant::now());
            while !ended.load(Ordering::Relaxed) {
                // Between two writes of its file a cluster is what it was.
                if let Ok(cluster) = home.load() {
                    for name in cluster.names() {
                        let rss = cluster.process(&name).and_then(|process| process.resident()).unwrap_or(0);
                        let most = seen.rss.entry(name).or_default();
                        *most = rss.max(*most);
                    }
                }
                seen.pause = seen.pause.max(last.1.elapsed());
                let answered = meter.answered();
                if answered != last.0 {
                    last = (answered, Instant::now());
                }
                thread::sleep(EVERY);
            }
            seen
        };
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(look).context("no thread to watch")?;
        Ok(Watch { end, thread })
    }

    pub fn end(self) -> Seen {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// Messages of the upstream topic that a control node has not handled.
#[derive(Debug)]
pub struct Lag {
    /// At the first look.
    pub first: u64,
    /// Until no node had more than a hundred; `None`: one still has.
    pub gone_after: Option<Duration>,
}

impl Lag {
    pub fn wait(home: &Home) -> anyhow::Result<Lag> {
        let since = Instant::now();
        let cluster = home.load()?;
        let most = || -> Option<f64> {
            // A node that owns nothing has no rows.
            let of =
                |http: &str| page(http).map(|page| sum(&upstream(&page), "tidegate_control_bus_lag").unwrap_or(0.0));
            cluster
                .controls
                .iter()
                .map(|node| of(&node.http))
                .try_fold(0.0, |most: f64, lag| lag.map(|lag| lag.max(most)))
        };
        let first = most().unwrap_or(0.0) as u64;
        while since.elapsed() < LAG_TIMEOUT {
            if most().is_some_and(|lag| lag < LAG_MAX) {
                return Ok(Lag { first, gone_after: Some(since.elapsed()) });
            }
            thread::sleep(EVERY);
        }
        Ok(Lag { first, gone_after: None })
    }
}

/// Sum over the rows of a metric of a node. `None`: it does not answer, or has no such metric.
pub fn metric(http: &str, name: &str) -> Option<f64> {
    sum(&page(http)?, name)
}

fn page(http: &str) -> Option<String> {
    ask::http(http.rsplit_once(':')?.1.parse().ok()?, "/metrics").ok()
}

/// Rows of the upstream topic: tasks of users who are away are no messages that somebody waits for.
fn upstream(page: &str) -> String {
    page.lines().filter(|line| line.contains("topic=\"im-upstream-topic\"")).map(|line| format!("{line}\n")).collect()
}

fn sum(page: &str, name: &str) -> Option<f64> {
    let value = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?;
        let rest = match rest.strip_prefix('{') {
            Some(labels) => labels.split_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        rest.split_ascii_whitespace().next()?.parse().ok()
    };
    page.lines().filter_map(value).fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_metric_are_summed_and_others_are_not() {
        let page = "# HELP lag x\nlag{partition=\"1\"} 3\nlag{partition=\"2\"} 4\nlag_other 9\nplain 5\n";
        assert_eq!((sum(page, "lag"), sum(page, "plain"), sum(page, "none")), (Some(7.0), Some(5.0), None));
    }
}
