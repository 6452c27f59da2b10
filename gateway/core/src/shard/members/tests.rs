use proptest::prelude::*;

use super::*;

const STREAM: StreamIdx = StreamIdx(3);

/// A slab's worth of positions, as connections remember them.
#[derive(Default)]
struct Remembered(std::collections::BTreeMap<u32, u32>);

impl Remembered {
    fn check(&self, streams: &Streams) {
        for (&slot, &position) in &self.0 {
            assert_eq!(streams.members(STREAM)[position as usize], Slot(slot));
        }
        let live = streams.members(STREAM).iter().filter(|slot| **slot != Slot::NONE).count();
        assert_eq!(live, self.0.len());
    }
}

#[derive(Clone, Debug)]
enum Op {
    Toggle(u32),
    Begin,
    End,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![8 => (0u32..40).prop_map(Op::Toggle), 1 => Just(Op::Begin), 1 => Just(Op::End)]
}

proptest! {
    #[test]
    fn positions_stay_true_whatever_comes_and_goes(ops in prop::collection::vec(op(), 1..300)) {
        let mut streams = Streams::default();
        let mut remembered = Remembered::default();
        let mut running: Option<(Place, Vec<Slot>)> = None;
        for op in ops {
            match op {
                Op::Toggle(n) => match remembered.0.remove(&n) {
                    Some(position) => {
                        if let Some(moved) = streams.remove(STREAM, position) {
                            remembered.0.insert(moved.0, position);
                        }
                    }
                    None => {
                        let position = streams.add(STREAM, Slot(n), Seq(1));
                        remembered.0.insert(n, position);
                    }
                },
                Op::Begin => match streams.begin(STREAM, None) {
                    Begun::Members(place, end) => {
                        prop_assert!(running.is_none());
                        running = Some((place, streams.members(STREAM)[..end as usize].to_vec()));
                    }
                    Begun::Nobody => prop_assert!(running.is_none() && remembered.0.is_empty()),
                    Begun::Running => prop_assert!(running.is_some()),
                },
                Op::End => {
                    if let Some((place, _)) = running.take() {
                        streams.end(place, &mut |slot, position| {
                            remembered.0.insert(slot.0, position);
                        });
                        prop_assert!(!streams.members(STREAM).contains(&Slot::NONE));
                    }
                }
            }
            remembered.check(&streams);
            // Nobody moves under a running fan-out: each place holds who was there, or nobody.
            if let Some((place, snapshot)) = &running {
                prop_assert_eq!(streams.members_at(*place), streams.members(STREAM));
                for (place, was) in streams.members(STREAM).iter().zip(snapshot) {
                    prop_assert!(place == was || *place == Slot::NONE);
                }
            }
        }
    }
}

#[test]
fn an_entry_is_given_back_with_its_last_member() {
    let mut streams = Streams::default();
    for round in 0..10 {
        let stream = StreamIdx(round);
        assert_eq!(streams.flushed(stream), None);
        let position = streams.add(stream, Slot(1), Seq(7));
        assert_eq!(streams.flushed(stream), Some(Seq(7)));
        assert_eq!(streams.remove(stream, position), None);
        assert_eq!(streams.flushed(stream), None);
    }
    assert_eq!(streams.entries.len(), 1);
}

#[test]
fn one_who_leaves_and_one_who_comes_under_a_fan_out_are_not_confused() {
    let mut streams = Streams::default();
    let first = streams.add(STREAM, Slot(1), Seq(1));
    let Begun::Members(place, 1) = streams.begin(STREAM, None) else { panic!("one member") };
    assert_eq!(streams.begin(STREAM, Some(Seq(4))), Begun::Running);
    assert_eq!(streams.flushed(STREAM), Some(Seq(4)));
    streams.remove(STREAM, first);
    let second = streams.add(STREAM, Slot(2), Seq(1));
    assert_eq!((streams.members(STREAM)[0], second), (Slot::NONE, 1));
    let mut moves = Vec::new();
    streams.end(place, &mut |slot, position| moves.push((slot, position)));
    assert_eq!(moves, [(Slot(2), 0)]);
}
