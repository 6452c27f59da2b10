//! Processor, priority and limits, offered to crates that forbid `unsafe`.
//!
//! * INV-1 A pointer given to a libc call is to a local of the type the call expects, alive for the call.

use std::io;
use std::mem;

/// How much nicer the threads are that must yield to the shards.
const NICE: i32 = 10;

/// Binds the calling thread to one core.
pub fn pin_thread(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: INV-1: a set of bits, for which all zeros is the empty set; `core` was checked against its size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    checked(result)
}

/// Lets other threads of the machine go before the calling one (nice 10), where the scheduler honours it.
pub fn lower_priority() -> io::Result<()> {
    // SAFETY: no pointers. On Linux a thread's priority is its own, named by its thread id.
    checked(unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, NICE) })
}

/// Raises RLIMIT_NOFILE to its hard limit and returns it.
pub fn raise_nofile() -> io::Result<u64> {
    let mut limit = limits()?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: INV-1.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// The present limit of descriptors, which is also that of a ring's file table.
pub(crate) fn nofile() -> io::Result<u32> {
    Ok(limits()?.rlim_cur.try_into().unwrap_or(u32::MAX))
}

fn limits() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: INV-1.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(limit)
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn a_pinned_thread_runs_on_its_core() {
        // SAFETY: no pointers.
        let core = in_thread(|| pin_thread(0).map(|()| unsafe { libc::sched_getcpu() }));
        assert_eq!(core.unwrap(), 0);
        assert!(in_thread(|| pin_thread(usize::MAX)).is_err());
    }

    #[test]
    fn a_lowered_priority_is_the_threads_own() {
        // SAFETY: no pointers.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t) };
        let before = nice();
        let inside = in_thread(move || lower_priority().map(|()| nice()));
        assert_eq!(inside.unwrap(), NICE);
        assert_eq!(nice(), before);
    }

    #[test]
    fn the_descriptor_limit_goes_up_to_the_hard_one() {
        let raised = raise_nofile().unwrap();
        assert_eq!(u64::from(nofile().unwrap()), raised);
    }
}
