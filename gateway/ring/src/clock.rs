//! The clock that deadlines are in, CLOCK_MONOTONIC in nanoseconds, the same for every thread of the machine; and that of
//! what a thread uses.
//!
//! * INV-1 A pointer given to a libc call is to a local of the type the call expects, alive for the call.

use tidegate_gateway_core::ids::Now;

/// Nanoseconds of CLOCK_MONOTONIC. Readings of different threads compare.
pub fn monotonic() -> Now {
    Now(read(libc::CLOCK_MONOTONIC))
}

/// Nanoseconds of CPU that the calling thread has used.
pub fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: INV-1.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "every Linux has this clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::{monotonic, thread_cpu_ns};

    #[test]
    fn only_the_own_thread_counts() {
        let before = thread_cpu_ns();
        let other = std::thread::spawn(|| {
            while thread_cpu_ns() < 20_000_000 {
                std::hint::spin_loop();
            }
        });
        other.join().unwrap();
        assert!(thread_cpu_ns() - before < 20_000_000);
    }

    #[test]
    fn readings_of_two_threads_are_of_one_clock() {
        let before = monotonic();
        let inside = std::thread::spawn(monotonic).join().unwrap();
        let after = monotonic();
        assert!(before <= inside && inside <= after);
    }
}
