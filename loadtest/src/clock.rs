//! One clock for a whole run: microseconds since its origin. Intended times, arrival times and samples of the server all
//! count from there.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    pub fn now_us(&self) -> u64 {
        self.origin.elapsed().as_micros() as u64
    }

    /// The instant at which this clock shows `us`.
    pub fn at(&self, us: u64) -> Instant {
        self.origin + Duration::from_micros(us)
    }
}
