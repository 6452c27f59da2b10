use serde_json::json;

use super::*;
use crate::front_door::rules::testing::{expired_token, rules, token};

struct Fed {
    verdict: Verdict,
    out: Vec<u8>,
}

fn identity(uid: &str) -> Identity {
    Identity { uid: uid.parse().expect("uid"), device: None, platform: None, expires_at_ms: None }
}

fn feed(identity: Option<Identity>, bytes: &[u8]) -> Fed {
    let mut first = FirstFrame::new(Encoding::Json, None, identity, Wishes::default());
    let mut out = Vec::new();
    let mut bytes = bytes.to_vec();
    let verdict = first.feed(Now(0), &mut bytes, &mut Inflater::new(), &rules(), &mut out);
    Fed { verdict, out }
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [9, 8, 7, 6];
    let mut frame = vec![first, 0x80 | 126];
    if payload.len() <= 125 {
        frame = vec![first, 0x80 | payload.len() as u8];
    } else {
        frame.extend((payload.len() as u16).to_be_bytes());
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn text(value: &serde_json::Value) -> Vec<u8> {
    masked(0x81, value.to_string().as_bytes())
}

fn ended(fed: &Fed) -> CloseCode {
    match fed.verdict {
        Verdict::End(code) => code,
        ref other => panic!("expected an end, got {other:?}"),
    }
}

#[test]
fn a_connect_is_taken_and_the_rest_left() {
    let connect = text(&json!({"id": 4, "connect": {"token": token("bob", 60), "device": "d", "platform": "web"}}));
    let fed = feed(None, &[connect.as_slice(), b"rest"].concat());
    let Verdict::Promote(hello, consumed) = fed.verdict else { panic!("{:?}", fed.verdict) };
    assert_eq!(consumed, connect.len());
    assert_eq!((hello.uid.as_str(), hello.reply_to, &*hello.device), ("bob", Some(4), "d"));
    assert!(fed.out.is_empty());
}

#[test]
fn the_frame_may_come_byte_by_byte_with_pings_between() {
    let mut first = FirstFrame::new(Encoding::Json, None, None, Wishes::default());
    let mut inflater = Inflater::new();
    let mut out = Vec::new();
    let connect = text(&json!({"id": 1, "connect": {"token": token("bob", 60)}}));
    let bytes = [masked(0x89, b"hi"), connect].concat();
    let last = bytes.len() - 1;
    for (at, byte) in bytes.into_iter().enumerate() {
        match first.feed(Now(0), &mut [byte], &mut inflater, &rules(), &mut out) {
            Verdict::Wait => assert!(at < last, "still waiting at the end"),
            Verdict::Promote(hello, 1) => assert_eq!((at, hello.uid.as_str()), (last, "bob")),
            other => panic!("{other:?} at {at}"),
        }
    }
    assert_eq!(out, [0x8a, 2, b'h', b'i']);
}

#[test]
fn ends_have_their_codes() {
    let bad_token = json!({"id": 1, "connect": {"token": "a.b.c"}});
    let expired = json!({"id": 1, "connect": {"token": expired_token("bob")}});
    let nobody = json!({"id": 1, "connect": {}});
    let other_first = json!({"id": 1, "head": {"stream": "g:1"}});
    let bad_device = json!({"id": 1, "connect": {"token": token("bob", 60), "device": "a b"}});
    for (frame, code) in [
        (&bad_token, CloseCode::BadToken),
        (&expired, CloseCode::TokenExpired),
        (&nobody, CloseCode::BadToken),
        (&other_first, CloseCode::BadToken),
        (&bad_device, CloseCode::BadRequest),
    ] {
        let fed = feed(None, &text(frame));
        assert_eq!(ended(&fed), code, "{frame}");
        let close = close_frame(code.number(), "");
        assert!(fed.out.windows(2).any(|pair| pair == &close[2..4]), "{frame}: the close frame is written");
    }
    assert_eq!(ended(&feed(None, &masked(0x81, b"nonsense"))), CloseCode::BadRequest);
    assert_eq!(ended(&feed(None, b"\x81\x01x")), CloseCode::Protocol);
    assert_eq!(ended(&feed(None, &masked(0x88, b""))), CloseCode::Normal);
}

#[test]
fn a_handshake_that_was_authenticated_needs_no_token() {
    let fed = feed(Some(identity("bob")), &text(&json!({"id": 1, "connect": {"auto_join": false}})));
    let Verdict::Promote(hello, _) = fed.verdict else { panic!("{:?}", fed.verdict) };
    assert_eq!((hello.uid.as_str(), hello.auto_join, hello.expires_at_ms), ("bob", false, None));
    let other_user = feed(Some(identity("bob")), &text(&json!({"id": 1, "connect": {"token": token("eve", 60)}})));
    assert_eq!(ended(&other_user), CloseCode::BadToken);
    let other_op = feed(Some(identity("bob")), &text(&json!({"id": 1, "ping": {}})));
    assert_eq!(ended(&other_op), CloseCode::BadRequest);
}

#[test]
fn too_much_is_cut_off() {
    let huge = [&[0x81u8, 0xff][..], &(1u64 << 40).to_be_bytes(), &[0; 4]].concat();
    assert_eq!(ended(&feed(None, &huge)), CloseCode::TooBig);
}
