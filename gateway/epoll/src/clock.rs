//! The clock that deadlines are in: CLOCK_MONOTONIC in nanoseconds, the same for every thread of the machine.

use rustix::time::{ClockId, clock_gettime};
use tidegate_gateway_core::ids::Now;

pub(crate) fn monotonic() -> Now {
    let time = clock_gettime(ClockId::Monotonic);
    Now(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
