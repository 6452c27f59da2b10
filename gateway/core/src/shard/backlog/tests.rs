use proptest::prelude::*;

use super::*;

fn durable(stream: u32, after: u64, len: usize) -> Queued {
    let range = SeqRange { after: Seq(after), upto: Seq(after + 1) };
    let kind = Kind::Durable { stream: StreamIdx(stream), messages: 1, range };
    Queued { frame: Bytes::from(vec![stream as u8; len]), kind }
}

fn ephemeral(len: usize) -> Queued {
    let kind = Kind::Ephemeral { stream: StreamIdx(9), messages: 1 };
    Queued { frame: Bytes::from(vec![9; len]), kind }
}

fn direct(len: usize) -> Queued {
    Queued { frame: Bytes::from(vec![0; len]), kind: Kind::Direct }
}

fn kinds(backlog: &Backlog) -> Vec<Kind> {
    backlog.queue.iter().map(|queued| queued.kind).collect()
}

#[test]
fn ephemeral_frames_go_first_and_oldest_first() {
    let mut backlog = Backlog::default();
    for queued in [durable(1, 0, 100), ephemeral(100), ephemeral(50), durable(1, 1, 100), ephemeral(70)] {
        backlog.push(queued);
    }
    let cost = backlog.cost();
    let mut lost = Vec::new();
    backlog.shed(cost - 1, &mut |queued| lost.push(queued.frame.len()));
    assert_eq!(lost, [100]);
    assert!(backlog.gaps.is_empty());
    backlog.shed(2 * (100 + QUEUED_OVERHEAD_BYTES), &mut |queued| lost.push(queued.frame.len()));
    assert_eq!(lost, [100, 50, 70]);
    assert!(backlog.gaps.is_empty());
}

#[test]
fn then_the_heaviest_stream_goes_whole_but_for_the_head() {
    let mut backlog = Backlog::default();
    for queued in
        [durable(1, 4, 100), durable(2, 7, 300), direct(100), durable(1, 5, 100), durable(2, 8, 10), durable(1, 6, 100)]
    {
        backlog.push(queued);
    }
    let mut lost = 0;
    backlog.shed(backlog.cost() - 1, &mut |_| lost += 1);
    // Stream 2 weighs most; its first frame is not at the head.
    assert_eq!(backlog.gaps[..], [Gap::new(StreamIdx(2), Seq(8), false)]);
    assert_eq!((lost, backlog.queue.len()), (2, 4));
    backlog.shed(0, &mut |_| lost += 1);
    assert_eq!(backlog.gaps[1], Gap::new(StreamIdx(1), Seq(6), false));
    assert_eq!(kinds(&backlog), [durable(1, 4, 0).kind, Kind::Direct]);
}

#[test]
fn a_lone_frame_stays_whatever_its_size() {
    let mut backlog = Backlog::default();
    backlog.push(durable(1, 0, 1_000_000));
    backlog.shed(100, &mut |_| panic!("lost"));
    assert_eq!(backlog.queue.len(), 1);
}

proptest! {
    /// Whatever is pushed, offered, taken short and shed: the bytes that left are whole frames in order, except that the last
    /// may be under way; and the cost is what is held.
    #[test]
    fn bytes_leave_as_whole_frames_in_order(
        ops in prop::collection::vec((0u32..5, 1usize..6_000, 0usize..20_000), 1..120),
    ) {
        let mut backlog = Backlog::default();
        let mut scratch = BytesMut::new();
        let mut out: Vec<u8> = Vec::new();
        let mut done: Vec<Bytes> = Vec::new();
        let mut n = 0u8;
        for (op, len, taken) in ops {
            match op {
                0..=2 => {
                    n = n.wrapping_add(1);
                    let mut queued = [durable(1, u64::from(n), 0), ephemeral(0), direct(0)][op as usize].clone();
                    queued.frame = Bytes::from(vec![n; len]);
                    backlog.push(queued);
                }
                3 => backlog.shed(10_000, &mut |_| {}),
                _ => {
                    if let Some((bytes, from)) = backlog.offer(&mut scratch) {
                        backlog.shed(5_000, &mut |_| {});
                        let taken = taken.min(bytes.len() - from);
                        out.extend_from_slice(&bytes[from..from + taken]);
                        backlog.settle(Some(taken), &mut |queued| done.push(queued.frame));
                    }
                }
            }
            let held: usize = backlog.queue.iter().map(Queued::cost).sum();
            prop_assert_eq!(backlog.cost(), held);
            let mut expected: Vec<u8> = done.iter().flat_map(|frame| frame.iter().copied()).collect();
            if backlog.begun > 0 {
                expected.extend_from_slice(&backlog.queue[0].frame[..backlog.begun]);
            }
            prop_assert!(out == expected);
        }
    }
}
