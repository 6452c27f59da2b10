//! The clock that deadlines are in: CLOCK_MONOTONIC in nanoseconds, the same for every thread of the machine.
//!
//! * INV-1 A pointer given to a libc call is to a local of the type the call expects, alive for the call.

use tidegate_gateway_core::ids::Now;

/// Nanoseconds of CLOCK_MONOTONIC. Readings of different threads compare.
pub fn monotonic() -> Now {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: INV-1.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(result, 0, "CLOCK_MONOTONIC exists on every Linux");
    Now(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::monotonic;

    #[test]
    fn readings_of_two_threads_are_of_one_clock() {
        let before = monotonic();
        let inside = std::thread::spawn(monotonic).join().unwrap();
        let after = monotonic();
        assert!(before <= inside && inside <= after);
    }
}
