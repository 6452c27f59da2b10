use proptest::prelude::*;

use super::super::slab::{Phase, Slab};
use super::*;

fn slab(n: u32) -> Slab {
    let mut slab = Slab::new(n as usize);
    for _ in 0..n {
        let slot = slab.insert().expect("room");
        slab.hot_mut(slot).phase = Phase::Open;
    }
    slab
}

proptest! {
    /// Against a plain list: everybody is visited, at the armed tick or (beyond the horizon) before it, and nobody twice.
    #[test]
    fn each_armed_timer_is_visited_once_and_never_late(
        ops in prop::collection::vec((0u32..20, 0u32..3_000, 0u32..40), 1..200),
    ) {
        let mut slab = slab(20);
        let mut now = Tick(1);
        let mut wheel = Wheel::new(now);
        let mut armed: Vec<Option<(Tick, u32)>> = vec![None; 20];
        for (n, ahead, pass) in ops {
            let at = now.plus(ahead.max(1));
            if pass % 3 == 0 {
                wheel.disarm(&mut slab, Slot(n));
                armed[n as usize] = None;
            } else {
                wheel.arm(&mut slab, Slot(n), at);
                armed[n as usize] = Some((at, ahead));
            }
            now = now.plus(pass);
            wheel.advance(now);
            while let Some(slot) = wheel.due(&mut slab) {
                let (at, ahead) = armed[slot.0 as usize].take().expect("armed once, visited once");
                prop_assert!(at <= now || ahead >= BUCKETS - 1, "a timer within the horizon came early");
            }
            for (at, _) in armed.iter().flatten() {
                prop_assert!(*at > now, "a timer is late");
            }
        }
    }
}

#[test]
fn a_long_pause_loses_nobody() {
    let mut slab = slab(1);
    let mut wheel = Wheel::new(Tick(1));
    wheel.arm(&mut slab, Slot(0), Tick(5));
    wheel.advance(Tick(1_000_000));
    assert_eq!(wheel.due(&mut slab), Some(Slot(0)));
    assert_eq!(wheel.due(&mut slab), None);
}
