//! What publishers are answered is judged as well, whichever way they publish.

mod double;
mod harness;

use double::Fault;
use harness::{Room, judged};
use tidegate_load::judge::Kind;

const AT: u64 = 100;

#[test]
fn a_seq_that_two_messages_are_answered_with_is_found() {
    let outcome = judged(Fault::SeqTwice { at: AT }, Room::default());
    outcome.assert_failed();
    let planted = outcome.planted.first().expect("it struck");
    let all: Vec<&String> = outcome.result.reasons.iter().chain(&outcome.result.findings).collect();
    let named = all.iter().any(|text| text.contains(&planted.stream) && text.contains(&planted.seq.to_string()));
    assert!(named, "{planted:?}: {all:#?}");
}

#[test]
fn refused_pushes_are_reported_and_not_expected() {
    for via in ["stream", "unary", "rest"] {
        let room = Room { via, ..Room::default() };
        let outcome = judged(Fault::RefusedPush { nth: 100, code: "OVERLOADED" }, room);
        outcome.assert_failed();
        outcome.assert_found(&[]);
        let load = &outcome.result.loads[0];
        assert_eq!(load.refused.get("OVERLOADED"), Some(&3), "{via}: {:?}", load.refused);
        assert_eq!((load.sent, load.published), (397, 394), "{via}");
        assert_eq!(outcome.deliveries().expected, 394 * room.members(), "{via}");
    }
}

#[test]
fn a_push_that_was_refused_and_is_shown_is_found() {
    let room = Room::default();
    let outcome = judged(Fault::RefusedAndShown { at: AT }, room);
    outcome.assert_failed();
    outcome.assert_found(&[(Kind::WrongPayload, room.members())]);
    outcome.assert_named(Kind::WrongPayload);
    assert_eq!(outcome.deliveries().expected, (room.messages - 1) * room.members());
}

#[test]
fn pushes_whose_fate_is_unknown_are_asked_again() {
    for via in ["stream", "unary", "rest"] {
        let room = Room { via, ..Room::default() };
        for fault in [Fault::RefusedPush { nth: 100, code: "UNAVAILABLE" }, Fault::LateAnswer { at: AT }] {
            let outcome = judged(fault, room);
            outcome.assert_passed();
            assert_eq!(outcome.result.published, room.messages, "{via} {fault:?}");
            assert_eq!(outcome.deliveries().expected, room.messages * room.members(), "{via} {fault:?}");
        }
    }
}

#[test]
fn a_push_that_is_never_answered_is_reported_and_not_expected() {
    let room = Room::default();
    let outcome = judged(Fault::Unanswered { at: AT }, room);
    outcome.assert_failed();
    outcome.assert_found(&[]);
    assert_eq!((outcome.result.loads[0].unanswered, outcome.result.published), (1, room.messages - 1));
    assert_eq!(outcome.deliveries().expected, (room.messages - 1) * room.members());
}

#[test]
fn a_push_stream_that_breaks_loses_and_doubles_nothing() {
    let room = Room::default();
    let outcome = judged(Fault::PushStreamBreaks { at: AT }, room);
    outcome.assert_passed();
    assert_eq!(outcome.deliveries().expected, room.messages * room.members());
    assert_eq!(outcome.result.published, room.messages);
}

#[test]
fn every_way_to_publish_is_judged() {
    for via in ["stream", "unary", "rest"] {
        for to in ["room", "inboxes"] {
            let room = Room { via, to, ..Room::default() };
            judged(Fault::None, room).assert_passed();
            let outcome = judged(Fault::DropEvery { nth: 90 }, room);
            outcome.assert_failed();
            outcome.assert_found(&[(Kind::Lost, outcome.wronged())]);
            outcome.assert_named(Kind::Lost);
        }
    }
}
