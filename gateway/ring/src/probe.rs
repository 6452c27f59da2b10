//! Finds out whether this host lets us use io_uring, and says why not, so that the process can fall back to epoll.
//!
//! It needs Linux 6.1 or newer, and a container runtime whose seccomp profile allows the three io_uring calls (Docker ≥ 25 and
//! containerd 2 forbid them by default; so does `kernel.io_uring_disabled`).

use std::io;
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use io_uring::register::Probe;

use crate::config::{CQ_ENTRIES_MIN, RingConfig};
use crate::op;
use crate::queue::{self, Queue};
use crate::tag::{OpKind, SlotUse};
use crate::thread::nofile;

/// More than a socket takes whose peer does not read.
const TOO_MUCH: usize = 4 << 20;

/// What this host's io_uring can do beyond the minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// An aborted connection is reset (Linux 6.7). Without it, it ends like any other, with FIN.
    pub can_reset: bool,
    /// Most sockets that one ring holds: RLIMIT_NOFILE.
    pub slots_max: u32,
}

/// Why io_uring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unsupported {
    #[error("io_uring is forbidden on this host (seccomp profile or kernel.io_uring_disabled)")]
    Forbidden,
    #[error("this kernel has no io_uring")]
    Missing,
    #[error("this kernel's io_uring is too old: it lacks {0} (Linux 6.1 or newer is needed)")]
    TooOld(&'static str),
    #[error("io_uring cannot be set up now (without CAP_IPC_LOCK, rings count against RLIMIT_MEMLOCK)")]
    Failed(#[source] io::Error),
}

/// Tries what the driver needs on a small ring of its own.
pub fn probe() -> Result<Features, Unsupported> {
    let ring = queue::build(8, CQ_ENTRIES_MIN).map_err(refusal)?;
    let parameters = ring.params();
    let facts = [
        (parameters.is_feature_nodrop(), "completions that are never dropped"),
        (parameters.is_feature_skip_cqe_on_success(), "CQE_SKIP_SUCCESS"),
        (parameters.is_feature_ext_arg(), "waits with a time-out"),
    ];
    if let Some((_, what)) = facts.into_iter().find(|(there, _)| !there) {
        return Err(Unsupported::TooOld(what));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(Unsupported::Failed)?;
    if let Some((name, _)) = op::NEEDED.into_iter().find(|(_, code)| !probe.is_supported(*code)) {
        return Err(Unsupported::TooOld(name));
    }
    drop(ring);
    let config = RingConfig { sq_entries: 8, enter_every: 8, buffers: 1, ..RingConfig::default() };
    let mut queue = Queue::open(&config, 1).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => Unsupported::TooOld("sparse file tables or provided buffer rings"),
        _ => Unsupported::Failed(error),
    })?;
    if !tells_short_sends(&mut queue).map_err(Unsupported::Failed)? {
        return Err(Unsupported::TooOld("completions of short sends"));
    }
    Ok(Features {
        can_reset: can_reset(&mut queue).map_err(Unsupported::Failed)?,
        slots_max: nofile().map_err(Unsupported::Failed)?,
    })
}

fn refusal(error: io::Error) -> Unsupported {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Unsupported::Forbidden,
        Some(libc::ENOSYS) => Unsupported::Missing,
        Some(libc::EINVAL) => Unsupported::TooOld("SINGLE_ISSUER and DEFER_TASKRUN"),
        _ => Unsupported::Failed(error),
    }
}

/// Whether a send that does not fit is heard of although success is skipped, by sending too much. All delivery rests on it.
fn tells_short_sends(queue: &mut Queue) -> io::Result<bool> {
    let (socket, _peer) = UnixStream::pair()?;
    queue.place(0, &socket.into())?;
    let of = SlotUse { slot: 0, uses: 1 };
    queue.push_send(of, &Bytes::from(vec![0; TOO_MUCH]), 0);
    queue.push(&op::close::slot(of));
    let told = results(queue, OpKind::Send);
    Ok(matches!(told[..], [taken] if taken > 0 && (taken as usize) < TOO_MUCH))
}

/// Whether a registered socket can be told to reset, by telling one.
fn can_reset(queue: &mut Queue) -> io::Result<bool> {
    let (socket, _peer) = UnixStream::pair()?;
    queue.place(0, &socket.into())?;
    let of = SlotUse { slot: 0, uses: 2 };
    queue.push_linked(&[op::linger::reset_then(of), op::close::slot(of)]);
    Ok(results(queue, OpKind::Linger) == [0])
}

fn results(queue: &mut Queue, kind: OpKind) -> Vec<i32> {
    queue.visit();
    let mut completions = Vec::new();
    queue.reap(&mut completions);
    completions.retain(|completion| completion.tag().kind == kind);
    completions.into_iter().map(|completion| completion.result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_told_apart() {
        let refused = |errno| refusal(io::Error::from_raw_os_error(errno));
        assert!(matches!(refused(libc::EPERM), Unsupported::Forbidden));
        assert!(matches!(refused(libc::ENOSYS), Unsupported::Missing));
        assert!(matches!(refused(libc::EINVAL), Unsupported::TooOld(_)));
        assert!(matches!(refused(libc::EMFILE), Unsupported::Failed(_)));
    }
}
