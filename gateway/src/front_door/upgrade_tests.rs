use super::*;
use crate::front_door::rules::testing::{FORGED, rules, token};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const BASE: [&str; 5] =
    ["Host: 127.0.0.1:8080", "Upgrade: websocket", "Connection: keep-alive, Upgrade", "Sec-WebSocket-Version: 13", KEY];

fn judge_text(line: &str, fields: &[&str], door: Door) -> Result<Upgrade, Refusal> {
    let head = format!("{line} HTTP/1.1\r\n{}\r\n\r\n", fields.join("\r\n"));
    judge(&Request::parse(head.as_bytes())?, door, &rules())
}

fn status(line: &str, fields: &[&str]) -> u16 {
    match judge_text(line, fields, Door::Client) {
        Ok(_) => 101,
        Err(refusal) => refusal.status,
    }
}

fn with(extra: &[&'static str]) -> Vec<&'static str> {
    BASE.iter().chain(extra).copied().collect()
}

fn without(name: &str, instead: &[&'static str]) -> Vec<&'static str> {
    let kept = BASE.iter().filter(|field| !field.starts_with(name));
    kept.chain(instead).copied().collect()
}

#[test]
fn every_refusal_has_its_status() {
    let ws = "GET /api/v1/ws";
    assert_eq!(status(ws, &BASE), 101);
    assert_eq!(status("GET /", &BASE), 404);
    assert_eq!(status("GET /api/v1/ws/", &BASE), 404);
    assert_eq!(status("POST /api/v1/ws", &BASE), 405);
    assert_eq!(status(ws, &without("Upgrade", &[])), 426);
    assert_eq!(status(ws, &without("Upgrade", &["Upgrade: h2c"])), 426);
    assert_eq!(status(ws, &without("Connection", &["Connection: close"])), 400);
    assert_eq!(status(ws, &without("Sec-WebSocket-Version", &["Sec-WebSocket-Version: 8"])), 426);
    assert_eq!(status(ws, &without("Sec-WebSocket-Version", &[])), 426);
    assert_eq!(status(ws, &without("Sec-WebSocket-Key", &["Sec-WebSocket-Key: short"])), 400);
    assert_eq!(status(ws, &without("Sec-WebSocket-Key", &[])), 400);
    assert_eq!(status(ws, &with(&[KEY])), 400);
    assert_eq!(status(ws, &with(&["Origin: http://evil.example"])), 403);
    assert_eq!(status(ws, &with(&["Origin: https://chat.example"])), 101);
    assert_eq!(status(ws, &with(&["Origin: http://localhost:8090"])), 101);
    assert_eq!(status(ws, &with(&["Sec-WebSocket-Protocol: graphql-ws"])), 400);
    assert_eq!(status("GET /message-push/v1/message", &BASE), 400);
    assert_eq!(status("GET /message-push/v1/message", &with(&["Sec-WebSocket-Protocol: tidegate.v1.json"])), 101);
    assert_eq!(status("GET /api/v1/ws?cursors=x", &BASE), 400);
    assert_eq!(status("GET /api/v1/ws?uid=a%20b", &BASE), 400);
    assert_eq!(status(&format!("GET /api/v1/ws?token={FORGED}"), &BASE), 401);
    assert_eq!(status("GET /api/v1/ws?token=", &BASE), 401);
    assert_eq!(status(ws, &with(&["Authorization: Basic YTpi"])), 401);
    assert_eq!(status(ws, &with(&["Authorization: Bearer"])), 401);
    assert_eq!(status(&format!("{ws}?uid=a&token={}", token("a", 60)), &BASE), 400);
    assert_eq!(status(&format!("{ws}?token={}", token("a", 60)), &BASE), 101);
}

#[test]
fn development_auth_stays_on_this_machine() {
    let ws = "GET /api/v1/ws?uid=alice";
    assert_eq!(status(ws, &BASE), 101);
    assert_eq!(status(ws, &with(&["Origin: http://localhost:8080"])), 101);
    assert_eq!(status(ws, &with(&["Origin: http://evil.example"])), 403);
    // An origin that may connect with a token may still not name its own uid.
    assert_eq!(status(ws, &with(&["Origin: https://chat.example"])), 403);
    assert_eq!(status(ws, &with(&["X-Forwarded-For: 192.0.2.1"])), 401);
    assert_eq!(status(ws, &with(&["Via: 1.1 proxy"])), 401);
    assert_eq!(status(ws, &without("Host", &["Host: evil.example:8080"])), 401);
    assert_eq!(status(ws, &without("Host", &["Host: localhost:8081"])), 401);
}

#[test]
fn credentials_decide_what_comes_next() {
    let session = |line: &str| judge_text(line, &BASE, Door::Client).expect("accepted").session;
    let bearer = format!("GET /api/v1/ws?token={}&device=d1", token("bob", 60));
    let Session::Ready { identity, wishes, encoding } = session(&bearer) else { panic!("not ready") };
    assert_eq!((identity.uid.as_str(), wishes.device.as_deref()), ("bob", Some("d1")));
    assert!(identity.expires_at_ms.is_some());
    assert_eq!(encoding, Encoding::Json);
    assert!(matches!(session("GET /api/v1/ws"), Session::AwaitsConnect { identity: None, .. }));
    let deferred = session("GET /api/v1/ws?uid=alice&defer=1");
    assert!(matches!(deferred, Session::AwaitsConnect { identity: Some(_), .. }));
}

#[test]
fn the_answer_names_what_was_agreed() {
    let fields = with(&[
        "Sec-WebSocket-Protocol: unknown, tidegate.v1.proto",
        "Sec-WebSocket-Protocol: tidegate.v1.json",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    ]);
    let upgrade = judge_text("GET /api/v1/ws", &fields, Door::Client).expect("accepted");
    let text = String::from_utf8(upgrade.response).expect("text");
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    assert!(text.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
    assert!(text.contains("\r\nSec-WebSocket-Protocol: tidegate.v1.proto\r\n"), "{text}");
    assert!(text.contains("\r\nSec-WebSocket-Extensions: permessage-deflate"), "{text}");
    assert!(text.ends_with("\r\n\r\n"));
    assert!(upgrade.params.is_some());
    let plain = judge_text("GET /api/v1/ws", &BASE, Door::Client).expect("accepted");
    let text = String::from_utf8(plain.response).expect("text");
    assert!(!text.contains("Sec-WebSocket-Protocol") && !text.contains("Sec-WebSocket-Extensions"), "{text}");
}

#[test]
fn the_echo_door_has_one_path_and_no_auth() {
    assert!(matches!(judge_text("GET /", &BASE, Door::Echo).expect("accepted").session, Session::Echo));
    let refused = judge_text("GET /api/v1/ws", &BASE, Door::Echo).expect_err("refused");
    assert_eq!(refused.status, 404);
}
