//! CPU time and memory of a watched process, from `/proc`.
//!
//! CPU time comes from `/proc/PID/task/TID/schedstat`, in nanoseconds. It lags by at most one scheduler tick for a thread
//! that is running at that moment, and is exact for one that sleeps. What threads used that have ended stays in the sum:
//! the last value seen of each, and where `/proc/PID/stat` (which counts ended threads too, in granules of 10 ms) knows
//! of more, the difference under the name [`ENDED`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

/// Stands for threads that ended between two reads, so that nobody saw their last value.
pub const ENDED: &str = "(ended)";

/// `USER_HZ` and the page size, the same on every Linux this runs on (x86-64, AArch64 with small pages).
const TICK: Duration = Duration::from_millis(10);
const PAGE_BYTES: u64 = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    pub name: String,
    pub pid: u32,
}

/// What a process has used since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all its threads, also of those that ended, in µs.
    pub cpu_us: u64,
    /// The same by thread name, in µs.
    pub threads: BTreeMap<String, u64>,
    /// Resident memory now.
    pub rss_bytes: u64,
}

/// Reads one process again and again and remembers its threads. The sums never go down.
#[derive(Debug)]
pub struct Probe {
    watched: Watched,
    living: BTreeMap<u32, Thread>,
    /// CPU time in ns of threads that ended, by name.
    gone: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Thread {
    name: String,
    cpu_ns: u64,
}

impl Probe {
    pub fn new(watched: Watched) -> Probe {
        Probe { watched, living: BTreeMap::new(), gone: BTreeMap::new() }
    }

    pub fn watched(&self) -> &Watched {
        &self.watched
    }

    /// `NotFound` once the process has ended.
    pub fn usage(&mut self) -> io::Result<Usage> {
        let pid = self.watched.pid;
        // Before the threads: what runs between the two reads must not look like the time of ended threads.
        let whole_ns = process_ns(pid)?;
        self.look_at_threads(pid)?;
        let mut threads = self.gone.clone();
        for thread in self.living.values() {
            *threads.entry(thread.name.clone()).or_default() += thread.cpu_ns;
        }
        let seen_ns: u64 = threads.values().sum();
        if whole_ns > seen_ns {
            *self.gone.entry(ENDED.to_owned()).or_default() += whole_ns - seen_ns;
            *threads.entry(ENDED.to_owned()).or_default() += whole_ns - seen_ns;
        }
        let cpu_us = threads.values().sum::<u64>() / 1000;
        threads.values_mut().for_each(|ns| *ns /= 1000);
        Ok(Usage { cpu_us, threads, rss_bytes: rss_bytes(pid)? })
    }

    fn look_at_threads(&mut self, pid: u32) -> io::Result<()> {
        let mut before = std::mem::take(&mut self.living);
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = entry?.path();
            let Some(tid) = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else { continue };
            // A thread may end between the listing and these reads: then it counts as ended.
            let (Ok(name), Ok(times)) =
                (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
            else {
                continue;
            };
            let cpu_ns = times.split_whitespace().next().and_then(|ns| ns.parse().ok()).ok_or_else(bad_format)?;
            let thread = Thread { name: name.trim_end().to_owned(), cpu_ns };
            if let Some(earlier) = before.remove(&tid)
                && earlier.cpu_ns > cpu_ns
            {
                // The number was given to a new thread.
                self.bury(earlier);
            }
            self.living.insert(tid, thread);
        }
        before.into_values().for_each(|thread| self.bury(thread));
        Ok(())
    }

    fn bury(&mut self, thread: Thread) {
        *self.gone.entry(thread.name).or_default() += thread.cpu_ns;
    }
}

/// The gateway's part where one process holds gateway and control (`tidegate dev`): its threads by name, in µs. What runs
/// on a shared runtime counts for control.
pub fn gateway_cpu_us(usage: &Usage) -> u64 {
    let of_gateway = |name: &str| {
        matches!(name, "hub" | "admin") || ["shard-", "door-", "link"].iter().any(|prefix| name.starts_with(prefix))
    };
    usage.threads.iter().filter(|(name, _)| of_gateway(name)).map(|(_, us)| us).sum()
}

/// User and system time of the process with its ended threads, in ns, rounded down to two ticks below the truth.
fn process_ns(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name may hold spaces and parentheses: fields count from the last ')'.
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or_else(bad_format)?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).ok_or_else(bad_format);
    Ok((ticks(11)? + ticks(12)?) * TICK.as_nanos() as u64)
}

fn rss_bytes(pid: u32) -> io::Result<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|f| f.parse().ok()).ok_or_else(bad_format)?;
    Ok(pages * PAGE_BYTES)
}

fn bad_format() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "unexpected format in /proc")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const BURN_NS: u64 = 60_000_000;

    fn ours() -> Probe {
        Probe::new(Watched { name: "test".into(), pid: std::process::id() })
    }

    /// Computes until this thread has used `BURN_NS`.
    fn burn() {
        let used = || -> u64 {
            let times = fs::read_to_string("/proc/thread-self/schedstat").expect("readable");
            times.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("a number")
        };
        while used() < BURN_NS {
            std::hint::black_box((0..100_000u64).fold(1, |a, b| a ^ b.wrapping_mul(a)));
        }
    }

    #[test]
    fn threads_count_by_name() {
        let mut probe = ours();
        let (burnt, wait) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let work = move || {
            burn();
            burnt.send(()).expect("the test waits");
            let _ = ended.recv();
        };
        let thread = thread::Builder::new().name("burner".into()).spawn(work).expect("spawned");
        wait.recv().expect("it burns");
        let usage = probe.usage().expect("readable");
        assert!(usage.threads["burner"] * 1000 >= BURN_NS, "{usage:?}");
        assert!(usage.cpu_us * 1000 >= BURN_NS && usage.rss_bytes > 100_000, "{usage:?}");

        drop(end);
        thread.join().expect("it ends");
        let after = probe.usage().expect("readable");
        assert!(after.threads["burner"] >= usage.threads["burner"], "the time of an ended thread stays: {after:?}");
    }

    #[test]
    fn a_thread_that_nobody_saw_counts_too() {
        let mut probe = ours();
        let before = probe.usage().expect("readable");
        thread::spawn(burn).join().expect("it ends");
        let after = probe.usage().expect("readable");
        // Two ticks of rounding, and what the first read already took for unseen.
        let least = BURN_NS / 1000 - 2 * TICK.as_micros() as u64;
        assert!(after.cpu_us - before.cpu_us >= least, "{before:?} {after:?}");
    }

    #[test]
    fn an_ended_process_is_an_error() {
        let mut child = std::process::Command::new("true").spawn().expect("spawned");
        let pid = child.id();
        child.wait().expect("it ends");
        let error = Probe::new(Watched { name: "true".into(), pid }).usage().expect_err("it is gone");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_gateways_threads_are_known_by_name() {
        let names = ["shard-0", "shard-11", "hub", "door-0", "admin", "link", "partition-0", "tokio-rt-worker", ENDED];
        let threads: BTreeMap<String, u64> =
            names.iter().enumerate().map(|(nth, name)| ((*name).to_owned(), 1 << nth)).collect();
        let usage = Usage { cpu_us: threads.values().sum(), threads, rss_bytes: 0 };
        assert_eq!(gateway_cpu_us(&usage), 0b11_1111);
    }
}
