//! What a process costs, read from outside (`/proc`).

use std::fs;
use std::io;

/// CPU time and resident memory of a process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time of all threads, in µs (10 ms granules).
    pub cpu_us: u64,
    pub rss_bytes: u64,
}

const TICK_US: u64 = 10_000;
const PAGE_BYTES: u64 = 4096;

/// `pid`'s usage now.
pub fn usage(pid: u32) -> io::Result<Usage> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "unexpected format in /proc");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name may hold spaces and parentheses: fields count from the last ')'.
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or_else(bad)?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).ok_or_else(bad);
    let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|f| f.parse().ok()).ok_or_else(bad)?;
    Ok(Usage { cpu_us: (ticks(11)? + ticks(12)?) * TICK_US, rss_bytes: pages * PAGE_BYTES })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_usage_is_read() {
        let usage = usage(std::process::id()).expect("readable");
        assert!(usage.rss_bytes > 100_000, "{usage:?}");
    }
}
