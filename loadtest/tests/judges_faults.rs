//! Each planted fault is found, counted exactly and named with stream and seq; a server without a fault passes.

mod double;
mod harness;

use std::time::Duration;

use double::{Double, Fault, How, Pulls};
use harness::{Room, judged, run};
use tidegate_load::judge::Kind;
use tidegate_load::latency::NEVER_US;

const AT: u64 = 100;

#[test]
fn a_clean_server_passes() {
    let room = Room::default();
    let double = Double::start(Fault::None);
    let outcome = run(&double, &room.toml());
    outcome.assert_passed();
    let (deliveries, connections) = (outcome.deliveries(), &outcome.result.connections);
    assert_eq!(deliveries.expected, room.messages * room.members());
    assert_eq!(deliveries.received, deliveries.expected);
    assert_eq!((outcome.result.published, double.accepted()), (room.messages, room.messages));
    assert_eq!((connections.asked, connections.established, connections.failed), (20, 20, 0));
    assert_eq!((connections.closed_unexpectedly, connections.reconnects), (0, 0));
    assert_eq!((deliveries.holes_healed, deliveries.gaps), (0, 0));
    assert_eq!(double.pongs(), 20, "each client answers the ping that it gets at once");
}

#[test]
fn sockets_that_are_read_by_a_timer_are_judged_as_well() {
    let room = Room { drain: "timer", ..Room::default() };
    judged(Fault::None, room).assert_passed();
    let outcome = judged(Fault::DropEvery { nth: 99 }, room);
    outcome.assert_found(&[(Kind::Lost, outcome.wronged())]);
    outcome.assert_named(Kind::Lost);
}

#[test]
fn every_ten_thousandth_message_lost_is_found() {
    let room =
        Room { connections: 10, groups: 1, messages: 20_001, per_second: 0.0, in_flight: 256, ..Room::default() };
    let outcome = judged(Fault::DropEvery { nth: 10_000 }, room);
    outcome.assert_failed();
    assert_eq!(outcome.wronged(), 2 * 10);
    outcome.assert_found(&[(Kind::Lost, 2 * 10)]);
    outcome.assert_named(Kind::Lost);
    assert_eq!(outcome.deliveries().expected, 20_001 * 10);
    assert_eq!(outcome.deliveries().received, 19_999 * 10);
}

#[test]
fn one_message_lost_for_one_client_is_found_and_counts_as_the_worst_latency() {
    let outcome = judged(Fault::DropForOne { at: AT }, Room::default());
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Lost, 1)]);
    outcome.assert_named(Kind::Lost);
    assert!(outcome.result.latency_ms.expect("latencies").max >= NEVER_US as f64 / 1000.0 * 0.99);
}

#[test]
fn a_tail_that_nobody_hears_of_is_lost() {
    let room = Room::default();
    let outcome = judged(Fault::SilentFrom { at: room.messages }, room);
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Lost, room.members())]);
    outcome.assert_named(Kind::Lost);
    assert!(outcome.result.latency_ms.expect("latencies").max >= NEVER_US as f64 / 1000.0 * 0.99);
}

#[test]
fn a_hole_that_a_pull_fills_is_no_loss() {
    let room = Room::default();
    let one = judged(Fault::DropLive { nth: 300 }, room);
    one.assert_passed();
    assert_eq!((one.planted.len(), one.deliveries().holes_healed), (1, room.members()));
    let many = judged(Fault::DropLive { nth: 7 }, room);
    many.assert_passed();
    assert!(many.deliveries().holes_healed > 0);
}

#[test]
fn a_hole_that_the_pull_passes_over_is_a_loss() {
    let room = Room::default();
    let outcome = judged(Fault::HoleInPull { at: AT }, room);
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Lost, room.members())]);
    outcome.assert_named(Kind::Lost);
}

#[test]
fn a_hole_that_no_pull_fills_is_found() {
    for pulls in [Pulls::Error, Pulls::Empty, Pulls::Never] {
        let room = Room::default();
        let outcome = judged(Fault::UnhealedHole { at: AT, pulls }, room);
        outcome.assert_failed();
        assert_eq!(outcome.deliveries().unhealed_holes, room.members(), "{pulls:?} {:#?}", outcome.result.findings);
        assert!(outcome.deliveries().lost >= room.members(), "{pulls:?}");
        assert_eq!(outcome.deliveries().duplicated + outcome.deliveries().reordered, 0, "{pulls:?}");
        outcome.assert_named(Kind::UnhealedHole);
    }
}

#[test]
fn a_stall_counts_for_every_message_that_waited() {
    let pause = Duration::from_secs(2);
    for in_flight in [1_000, 1] {
        let room = Room { messages: 1_000, in_flight, ..Room::default() };
        let outcome = judged(Fault::Stall { at: 200, pause }, room);
        outcome.assert_found(&[]);
        let histogram = outcome.result.histogram.as_deref().and_then(tidegate_load::result::decode).expect("latencies");
        assert!(histogram.max() >= 1_900_000, "{in_flight} in flight: {}", histogram.max());
        // 800 messages were to be sent within the two seconds; those of the first second waited for more than one.
        let late = histogram.count_between(1_000_000, NEVER_US);
        assert!(late >= 390 * room.members(), "{in_flight} in flight: only {late} deliveries were late");
        let worst = outcome.result.timeline.iter().filter_map(|second| second.max_ms).fold(0.0, f64::max);
        assert!(worst >= 1_900.0, "{in_flight} in flight: the timeline shows {worst} ms");
    }
}

#[test]
fn duplicates_are_counted() {
    let room = Room::default();
    let outcome = judged(Fault::Duplicate { nth: 50 }, room);
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Duplicated, 7 * room.members())]);
    outcome.assert_named(Kind::Duplicated);
    assert_eq!(outcome.deliveries().received, outcome.deliveries().expected);
}

#[test]
fn a_message_that_stands_twice_in_its_frame_is_a_duplicate() {
    let room = Room::default();
    let outcome = judged(Fault::DuplicateInFrame { at: AT }, room);
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Duplicated, room.members())]);
    outcome.assert_named(Kind::Duplicated);
}

#[test]
fn a_message_that_comes_again_under_another_seq_is_found() {
    let room = Room::default();
    let outcome = judged(Fault::SecondPlace { at: AT }, room);
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Duplicated, room.members())]);
    outcome.assert_named(Kind::Duplicated);
}

#[test]
fn swapped_frames_are_counted_and_lose_nothing() {
    let outcome = judged(Fault::Reorder { at: AT }, Room::default());
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Reordered, 1)]);
    outcome.assert_named(Kind::Reordered);
    assert_eq!(outcome.deliveries().received, outcome.deliveries().expected);
}

#[test]
fn messages_in_the_wrong_order_within_a_frame_are_counted() {
    let room = Room::default();
    let outcome = judged(Fault::ReorderInFrame { at: AT }, room);
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Reordered, room.members())]);
    outcome.assert_named(Kind::Reordered);
}

#[test]
fn content_that_was_not_published_is_found() {
    for fault in [
        Fault::WrongPayload { at: AT },
        Fault::ContentOfAnother { at: AT },
        Fault::OtherId { at: AT },
        Fault::Truncated { at: AT },
        Fault::OtherType { at: AT },
        Fault::WrongInPull { at: AT },
        Fault::Phantom { at: AT },
    ] {
        let room = Room::default();
        let outcome = judged(fault, room);
        outcome.assert_failed();
        outcome.assert_found(&[(Kind::WrongPayload, room.members())]);
        outcome.assert_named(Kind::WrongPayload);
    }
}

#[test]
fn a_frame_of_a_stream_that_the_client_does_not_follow_is_found() {
    for to in ["room", "inboxes"] {
        let outcome = judged(Fault::WrongRecipient { at: AT }, Room { to, ..Room::default() });
        outcome.assert_failed();
        outcome.assert_found(&[(Kind::WrongRecipient, 1)]);
        outcome.assert_named(Kind::WrongRecipient);
    }
}

#[test]
fn a_frame_of_a_stream_that_nobody_asked_for_is_found() {
    let room = Room::default();
    let outcome = judged(Fault::ForeignStream { at: AT }, room);
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::WrongRecipient, room.members())]);
    assert!(outcome.result.findings.iter().any(|text| text.contains("g:foreign")), "{:#?}", outcome.result.findings);
}

#[test]
fn a_range_that_is_claimed_too_early_is_found() {
    let room = Room::default();
    let outcome = judged(Fault::ClaimsMore { at: AT, more: 5 }, room);
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Reordered, 5 * room.members())]);
    outcome.assert_named(Kind::Reordered);
}

#[test]
fn a_tail_that_is_only_missing_live_is_lost() {
    let room = Room::default();
    let outcome = judged(Fault::DropLive { nth: room.messages }, room);
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Lost, room.members())]);
    outcome.assert_named(Kind::Lost);
}

#[test]
fn frames_that_cannot_be_understood_are_found() {
    let room = Room::default();
    // Message 100 is the 50th of the second of two rooms, which gets 198. Who cannot understand the server stays away.
    let rest = 198 - 49;
    for fault in [Fault::TextFrame { at: AT }, Fault::MaskedFrame { at: AT }, Fault::Garbage { at: AT }] {
        let outcome = judged(fault, room);
        outcome.assert_failed();
        assert_eq!(outcome.planted[0].seq, 50);
        outcome.assert_found(&[(Kind::Lost, rest * outcome.wronged()), (Kind::Protocol, outcome.wronged())]);
    }
}

#[test]
fn what_breaks_the_protocol_is_found() {
    let room = Room::default();
    for (fault, count) in [
        // Away from the stream's epoch, and back.
        (Fault::OtherEpoch { at: AT }, 2 * room.members()),
        (Fault::OutsideRange { at: AT }, room.members()),
        (Fault::LiveInGap { at: AT }, room.members()),
    ] {
        let outcome = judged(fault, room);
        outcome.assert_failed();
        outcome.assert_found(&[(Kind::Protocol, count)]);
        outcome.assert_named(Kind::Protocol);
    }
}

#[test]
fn a_gap_that_is_told_is_no_fault() {
    let room = Room::default();
    let outcome = judged(Fault::Gap { at: AT }, room);
    outcome.assert_passed();
    assert_eq!(outcome.deliveries().gaps, room.members());
    assert_eq!(outcome.deliveries().received, outcome.deliveries().expected);
}

#[test]
fn connections_that_are_ended_come_back_and_miss_nothing() {
    for how in [How::Cut, How::Frame(3000)] {
        let room = Room::default();
        let outcome = judged(Fault::Close { at: AT, count: 5, how }, room);
        outcome.assert_found(&[]);
        assert_eq!(outcome.deliveries().received, room.messages * room.members(), "{how:?}");
        let connections = &outcome.result.connections;
        assert_eq!((connections.closed_unexpectedly, connections.reconnects), (5, 5), "{how:?}");
        assert_eq!(connections.established, 20, "{how:?}");
    }
}

#[test]
fn connections_that_stay_away_miss_the_rest() {
    let room = Room { groups: 1, reconnect: false, ..Room::default() };
    let outcome = judged(Fault::Close { at: AT, count: 5, how: How::Cut }, room);
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Lost, 5 * (room.messages - AT + 1))]);
    let connections = &outcome.result.connections;
    assert_eq!((connections.closed_unexpectedly, connections.reconnects), (5, 0));
}

#[test]
fn a_server_that_forgets_what_was_missed_is_found() {
    let outcome = judged(Fault::ForgetsMissed { at: AT, count: 3 }, Room::default());
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Lost, outcome.wronged())]);
    outcome.assert_named(Kind::Lost);
}

#[test]
fn a_server_that_forgets_cursors_is_found() {
    let outcome = judged(Fault::ForgetsCursors { at: AT, count: 1 }, Room::default());
    outcome.assert_failed();
    let deliveries = outcome.deliveries();
    assert!(deliveries.duplicated > 0, "{:#?}", outcome.result.findings);
    assert_eq!((deliveries.lost, deliveries.reordered), (0, 0));
}

#[test]
fn a_client_that_is_refused_is_counted() {
    let outcome = judged(Fault::RefusedUpgrade { client: 3 }, Room::default());
    outcome.assert_failed();
    assert_eq!((outcome.result.connections.established, outcome.result.connections.failed), (19, 1));
}

#[test]
fn a_head_that_a_stream_has_not_reached_hides_no_loss() {
    let room = Room::default();
    let outcome = judged(Fault::JoinsAhead { by: 50 }, room);
    outcome.assert_failed();
    assert_eq!(outcome.deliveries().expected, room.messages * room.members());
    outcome.assert_found(&[(Kind::Lost, 50 * u64::from(room.connections))]);
}

#[test]
fn an_answer_to_no_request_is_no_answer() {
    let outcome = judged(Fault::WrongAnswerId, Room { connections: 2, groups: 1, ..Room::default() });
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::Protocol, 2)]);
    assert_eq!(outcome.result.connections.established, 0);
}

#[test]
fn the_same_run_twice_gives_the_same_verdict() {
    let fault = Fault::DropEvery { nth: 120 };
    let (first, second) = (judged(fault, Room::default()), judged(fault, Room::default()));
    assert_eq!(first.result.verdict, second.result.verdict);
    assert_eq!(first.deliveries().expected, second.deliveries().expected);
    assert_eq!(first.deliveries().lost, second.deliveries().lost);
    assert_eq!(first.deliveries().received, second.deliveries().received);
}
