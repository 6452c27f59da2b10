//! What sockets cost in kernel memory, read from outside on a machine that holds both ends of every connection.
//!
//! The totals of `/proc/meminfo` move with page caches and builds, so only what belongs to sockets is counted:
//! * `TCP`, `TCPv6`, `sock_inode_cache`: one each per socket, made by nothing else (other socket families have few);
//! * one `filp`, `dentry` and LSM blob of each per socket: those caches are mostly about files, so they are not read but
//!   multiplied: the objects are one per socket by construction;
//! * `io_kiocb` (armed and running requests), `eventpoll_epi` and `eventpoll_pwq` (registrations with epoll);
//! * `kmalloc-32` … `kmalloc-1k`: a ring's entry for a direct descriptor, poll entries, message headers of pending
//!   receives. Other things live there too, but they move little against thousands of sockets;
//! * `request_sock_TCP` (half-open connections);
//! * the `mem` pages of `/proc/net/sockstat`: bytes queued in sockets. Socket buffers that are cached and free are not.
//!
//! An object counts with its share of its slab, which is what the kernel really sets aside. `TIME_WAIT` sockets are left
//! out: they belong to connections that are gone. So are the buckets of bound ports: each belongs to a client's socket, or
//! to one in `TIME_WAIT`; what a server accepts shares its listener's.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use io_uring::IoUring;

const PAGE_BYTES: f64 = 4096.0;
/// Caches whose growth is counted as it is.
const COUNTED: [&str; 8] =
    ["TCP", "TCPv6", "io_kiocb", "eventpoll_epi", "eventpoll_pwq", "request_sock_TCP", "request_sock_TCPv6", SOCKETS];
/// Its objects are the sockets.
const SOCKETS: &str = "sock_inode_cache";
/// One object per socket in each of them.
const PER_SOCKET: [&str; 4] = ["filp", "dentry", "lsm_inode_cache", "lsm_file_cache"];
const KMALLOC: [&str; 12] = [
    "kmalloc-32",
    "kmalloc-64",
    "kmalloc-96",
    "kmalloc-128",
    "kmalloc-192",
    "kmalloc-256",
    "kmalloc-512",
    "kmalloc-1k",
    "kmalloc-cg-64",
    "kmalloc-cg-128",
    "kmalloc-cg-256",
    "kmalloc-cg-512",
];

const ATTEMPTS_MAX: u32 = 4;
/// Memory stands still when it changes by less between two looks; a hundredth of what a thousand sockets take.
const STILL_BYTES: i64 = 64 * 1024;
const LOOK: Duration = Duration::from_millis(250);
const LOOKS_MAX: u32 = 60;
/// Pairs in one ring of [`bare_socket_bytes`]: both ends in a table of fewer slots than the usual descriptor limit.
const PAIRS_PER_RING: usize = 4096;
/// Pairs to one address: below the number of ports that the kernel gives out for it.
const PAIRS_PER_ADDRESS: usize = 16_384;

/// Kernel memory at one moment. Reading it needs root (`/proc/slabinfo`).
#[derive(Clone, Debug)]
pub struct KernelMemory {
    caches: BTreeMap<String, Cache>,
    queued_bytes: i64,
}

#[derive(Clone, Copy, Debug)]
struct Cache {
    objects: i64,
    /// An object with its share of the slab that holds it.
    object_bytes: f64,
}

impl KernelMemory {
    pub fn read() -> io::Result<KernelMemory> {
        KernelMemory::parse(&fs::read_to_string("/proc/slabinfo")?, &fs::read_to_string("/proc/net/sockstat")?)
    }

    /// Read when it stands still: the kernel takes back a ring and its sockets some time after they were closed, those of
    /// a process that ended a moment ago included. Waits 15 s at most.
    pub fn read_settled() -> io::Result<KernelMemory> {
        let mut memory = KernelMemory::read()?;
        for _ in 0..LOOKS_MAX {
            std::thread::sleep(LOOK);
            let before = std::mem::replace(&mut memory, KernelMemory::read()?);
            if memory.grown_bytes(&before).abs() < STILL_BYTES {
                break;
            }
        }
        Ok(memory)
    }

    fn parse(slabinfo: &str, sockstat: &str) -> io::Result<KernelMemory> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "unexpected format of slabinfo or sockstat");
        let mut caches = BTreeMap::new();
        for line in slabinfo.lines().filter(|line| !line.starts_with("slabinfo") && !line.starts_with('#')) {
            let mut fields = line.split_whitespace();
            let name = fields.next().ok_or_else(bad)?;
            let numbers: Vec<i64> = fields.take(5).map_while(|field| field.parse().ok()).collect();
            let [active, _, _, per_slab, pages] = numbers.as_slice() else { return Err(bad()) };
            let object_bytes = *pages as f64 * PAGE_BYTES / (*per_slab).max(1) as f64;
            caches.insert(name.to_owned(), Cache { objects: *active, object_bytes });
        }
        if !caches.contains_key(SOCKETS) {
            return Err(bad());
        }
        let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP:")).ok_or_else(bad)?;
        let mut words = tcp.split_whitespace();
        let pages: i64 = words.find(|word| *word == "mem").and_then(|_| words.next()?.parse().ok()).ok_or_else(bad)?;
        Ok(KernelMemory { caches, queued_bytes: pages * PAGE_BYTES as i64 })
    }

    /// Bytes that sockets and what is armed on them take more than before. Negative when there are fewer.
    pub fn grown_bytes(&self, before: &Self) -> i64 {
        let counted: f64 = COUNTED.iter().chain(&KMALLOC).map(|name| self.growth(before, name)).sum();
        let per_socket: f64 = PER_SOCKET.iter().filter_map(|name| self.caches.get(*name)).map(|c| c.object_bytes).sum();
        let bytes = counted + self.grown_sockets(before) as f64 * per_socket;
        bytes as i64 + self.queued_bytes - before.queued_bytes
    }

    /// How many sockets there are more than before, of all processes.
    pub fn grown_sockets(&self, before: &Self) -> i64 {
        self.objects(SOCKETS) - before.objects(SOCKETS)
    }

    /// Grown bytes by cache, for a reader who wants to know where they went.
    pub fn grown_by_cache(&self, before: &Self) -> BTreeMap<String, i64> {
        let names = COUNTED.iter().chain(&KMALLOC).chain(&PER_SOCKET);
        names
            .map(|name| ((*name).to_owned(), self.growth(before, name) as i64))
            .filter(|(_, bytes)| *bytes != 0)
            .collect()
    }

    fn growth(&self, before: &Self, name: &str) -> f64 {
        let object_bytes = self.caches.get(name).map_or(0.0, |cache| cache.object_bytes);
        (self.objects(name) - before.objects(name)) as f64 * object_bytes
    }

    /// Kernels merge and leave out caches: one that is not there has no objects of its own.
    fn objects(&self, name: &str) -> i64 {
        self.caches.get(name).map_or(0, |cache| cache.objects)
    }
}

/// What one client-side socket in a ring's table costs: half of what `n` loopback pairs take. Nothing is armed on them.
///
/// The pairs are in tables of rings, as the fleet's sockets are, so `n` may go beyond the descriptor limit. Sockets that
/// other processes open or close meanwhile would be measured too: then it tries again, and is an error in the end.
pub fn bare_socket_bytes(n: usize) -> io::Result<f64> {
    let mut strangers = 0;
    for _ in 0..ATTEMPTS_MAX {
        let mut pairs = Pairs::default();
        // The first pairs fill partly used slabs and the kernel's caches of free objects.
        pairs.open(n / 16 + 1)?;
        let before = KernelMemory::read_settled()?;
        pairs.open(n)?;
        let after = KernelMemory::read()?;
        let sockets = 2 * n as i64;
        strangers = (after.grown_sockets(&before) - sockets).abs();
        if strangers <= n as i64 / 50 + 64 {
            return Ok(after.grown_bytes(&before) as f64 / sockets as f64);
        }
    }
    Err(io::Error::other(format!("a bare socket cannot be measured while others come and go, here {strangers}")))
}

/// Loopback pairs, both ends in tables of rings.
#[derive(Default)]
struct Pairs {
    listener: Option<TcpListener>,
    rings: Vec<IoUring>,
    opened: usize,
}

impl Pairs {
    fn open(&mut self, n: usize) -> io::Result<()> {
        for _ in 0..n {
            if self.opened.is_multiple_of(PAIRS_PER_ADDRESS) {
                self.listener = Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
            }
            let slot = (self.opened % PAIRS_PER_RING) as u32 * 2;
            if slot == 0 {
                let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(8)?;
                ring.submitter().register_files_sparse(2 * PAIRS_PER_RING as u32)?;
                self.rings.push(ring);
            }
            let (Some(listener), Some(ring)) = (&self.listener, self.rings.last()) else { unreachable!("just made") };
            let near = TcpStream::connect(listener.local_addr()?)?;
            let (far, _) = listener.accept()?;
            // The table holds the files from here on; the descriptors are closed.
            ring.submitter().register_files_update(slot, &[near.as_raw_fd(), far.as_raw_fd()])?;
            self.opened += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize>\n";

    fn slabinfo(sockets: u32, requests: u32, dentries: u32) -> String {
        format!(
            "{HEAD}TCP {sockets} 400023 2368 13 8 : tunables 0 0 0 : slabdata 1 1 0\n\
             sock_inode_cache {sockets} 400102 832 19 4 : tunables 0 0 0 : slabdata 1 1 0\n\
             dentry {dentries} 407925 192 21 1 : tunables 0 0 0 : slabdata 1 1 0\n\
             io_kiocb {requests} 204384 256 16 1 : tunables 0 0 0 : slabdata 1 1 0\n"
        )
    }

    fn sockstat(pages: u32) -> String {
        format!("sockets: used 20\nTCP: inuse 1 orphan 0 tw 18161 alloc 1 mem {pages}\nUDP: inuse 0 mem 0\n")
    }

    #[test]
    fn only_what_belongs_to_sockets_is_counted() {
        let read = |sockets, requests, dentries, pages| {
            KernelMemory::parse(&slabinfo(sockets, requests, dentries), &sockstat(pages)).expect("well formed")
        };
        let before = read(100, 10, 5_000, 3);
        let after = read(1_100, 510, 90_000, 5);
        assert_eq!(after.grown_sockets(&before), 1_000);
        let socket = 32_768.0 / 13.0 + 16_384.0 / 19.0 + 4096.0 / 21.0;
        let expected = 1_000.0 * socket + 500.0 * 256.0 + 2.0 * 4096.0;
        let grown = after.grown_bytes(&before) as f64;
        assert!((grown - expected).abs() < 2.0, "{grown} is not {expected}");
        assert!((before.grown_bytes(&after) as f64 + expected).abs() < 2.0);
        assert!(after.grown_by_cache(&before).contains_key("dentry"));
    }

    #[test]
    fn another_format_is_an_error() {
        assert!(KernelMemory::parse(HEAD, &sockstat(1)).is_err(), "no cache of sockets");
        assert!(KernelMemory::parse("TCP x\n", &sockstat(1)).is_err());
        assert!(KernelMemory::parse(&slabinfo(1, 1, 1), "TCP: inuse 1\n").is_err());
    }

    #[test]
    fn a_bare_socket_costs_kilobytes() {
        // Only root may read slabinfo, and a container may forbid rings.
        if KernelMemory::read().is_err() || IoUring::new(2).is_err() {
            return;
        }
        // Whatever else runs meanwhile opens and closes sockets as well: then it says so, or a measurement is off, and is
        // made again.
        let mut measured = Vec::new();
        while measured.len() < 10 && !measured.iter().flatten().any(|bytes| (2_000.0..8_000.0).contains(bytes)) {
            measured.push(bare_socket_bytes(4_000).ok());
        }
        let in_range = measured.iter().flatten().any(|bytes| (2_000.0..8_000.0).contains(bytes));
        assert!(in_range || measured.iter().all(Option::is_none), "{measured:?}");
    }
}
