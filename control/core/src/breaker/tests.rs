use proptest::prelude::*;

use super::*;

const CONFIG: BreakerConfig = BreakerConfig {
    failure_percent: 50,
    requests_min: 4,
    window: Duration::from_millis(800),
    cool_down: Duration::from_millis(100),
    cool_down_max: Duration::from_millis(100),
    probes: 2,
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn request(breaker: &mut Breaker, outcome: Outcome, now: u64) {
    let permit = breaker.allow(ms(now)).expect("let through");
    breaker.record(permit, outcome, ms(now));
}

fn opened() -> Breaker {
    let mut breaker = Breaker::new(CONFIG);
    (0..4).for_each(|_| request(&mut breaker, Outcome::Failure, 0));
    assert_eq!(breaker.state(), BreakerState::Open);
    breaker
}

#[test]
fn it_opens_at_its_share_of_failures_and_not_before_enough_requests() {
    let mut breaker = Breaker::new(CONFIG);
    (0..3).for_each(|_| request(&mut breaker, Outcome::Failure, 0));
    assert_eq!(breaker.state(), BreakerState::Closed);
    request(&mut breaker, Outcome::Success, 0);
    assert_eq!(breaker.state(), BreakerState::Open, "three of four failed");
    assert_eq!((breaker.allow(ms(99)), breaker.opened(), breaker.refused()), (None, 1, 1));
}

#[test]
fn failures_leave_the_window_with_time() {
    let mut breaker = Breaker::new(CONFIG);
    (0..3).for_each(|_| request(&mut breaker, Outcome::Failure, 0));
    request(&mut breaker, Outcome::Failure, 900);
    (0..3).for_each(|_| request(&mut breaker, Outcome::Success, 900));
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn after_the_cool_down_a_few_probes_decide() {
    let mut breaker = opened();
    assert_eq!(breaker.retry_at(), Some(ms(100)));
    let (one, other) = (breaker.allow(ms(100)).expect("a probe"), breaker.allow(ms(100)).expect("another"));
    assert_eq!((breaker.allow(ms(100)), breaker.state()), (None, BreakerState::HalfOpen));
    breaker.record(one, Outcome::Success, ms(110));
    breaker.record(other, Outcome::Success, ms(110));
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn a_failed_probe_opens_it_again() {
    let mut breaker = opened();
    request(&mut breaker, Outcome::Success, 100);
    request(&mut breaker, Outcome::Failure, 100);
    assert_eq!((breaker.state(), breaker.retry_at()), (BreakerState::Open, Some(ms(200))));
}

#[test]
fn the_cool_down_doubles_with_each_failure_in_a_row_up_to_its_bound() {
    let config = BreakerConfig { requests_min: 1, cool_down_max: ms(350), probes: 1, ..CONFIG };
    let mut breaker = Breaker::new(config);
    let mut now = 0;
    for cool_down in [100, 200, 350, 350] {
        request(&mut breaker, Outcome::Failure, now);
        assert_eq!(breaker.retry_at(), Some(ms(now + cool_down)));
        now += cool_down;
    }
    request(&mut breaker, Outcome::Success, now);
    request(&mut breaker, Outcome::Failure, now);
    assert_eq!(breaker.retry_at(), Some(ms(now + 100)), "a success ends the row");
}

#[test]
fn a_late_answer_of_before_does_not_count() {
    let mut breaker = Breaker::new(CONFIG);
    let late = breaker.allow(ms(0)).expect("let through");
    (0..4).for_each(|_| request(&mut breaker, Outcome::Failure, 0));
    let _probe = breaker.allow(ms(100)).expect("a probe");
    breaker.record(late, Outcome::Failure, ms(100));
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
}

#[test]
fn probes_that_were_given_up_do_not_shut_it_for_ever() {
    let mut breaker = opened();
    for _ in 0..2 {
        let _given_up = breaker.allow(ms(100)).expect("a probe");
    }
    assert_eq!(breaker.allow(ms(150)), None);
    request(&mut breaker, Outcome::Success, 200);
    request(&mut breaker, Outcome::Success, 200);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u64),
    Ask,
    /// Of the oldest permit that is out.
    Answer(Outcome),
    GiveUp,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![Just(Outcome::Success), Just(Outcome::Failure)];
    prop_oneof![(0u64..300).prop_map(Step::Wait), Just(Step::Ask), outcome.prop_map(Step::Answer), Just(Step::GiveUp),]
}

proptest! {
    /// Whatever happened: while open nothing passes, half-open at most `probes` per cool-down, and once the dependency is well
    /// again, asking now and then closes it.
    #[test]
    fn it_never_passes_more_than_it_should_and_always_recovers(steps in prop::collection::vec(step(), 0..200)) {
        let mut breaker = Breaker::new(CONFIG);
        let (mut now, mut out) = (0, std::collections::VecDeque::new());
        let mut probes_since: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(more) => now += more,
                Step::Ask => {
                    let open_until = breaker.retry_at();
                    if let Some(permit) = breaker.allow(ms(now)) {
                        prop_assert!(open_until.is_none_or(|until| ms(now) >= until));
                        if breaker.state() == BreakerState::HalfOpen {
                            probes_since.push(now);
                        }
                        out.push_back(permit);
                    }
                }
                Step::Answer(outcome) => {
                    if let Some(permit) = out.pop_front() {
                        let before = breaker.state();
                        breaker.record(permit, outcome, ms(now));
                        prop_assert!(!(before == BreakerState::Open && breaker.state() != BreakerState::Open));
                    }
                }
                Step::GiveUp => drop(out.pop_front()),
            }
        }
        for at in &probes_since {
            // Probes that succeed make room for others, but never for more than it takes to close.
            let near = probes_since.iter().filter(|other| (*at..at + 100).contains(*other)).count();
            prop_assert!(near <= 4 * CONFIG.probes as usize, "{near} probes within a cool-down");
        }
        for _ in 0..CONFIG.probes + 1 {
            now += 1_000;
            if let Some(permit) = breaker.allow(ms(now)) {
                breaker.record(permit, Outcome::Success, ms(now));
            }
        }
        prop_assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
