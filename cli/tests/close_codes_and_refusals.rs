//! Malformed, hostile and mistaken input: the documented status or close code, and the next client is served as before.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;
use support::{Client, Dev, Ended, http, raw_http};
use tidegate_load::ws::OpCode;

/// Opens a client, lets it misbehave, and returns how that ended.
fn ended_after(dev: &Dev, misbehave: impl FnOnce(&mut Client)) -> (Ended, Option<serde_json::Value>) {
    let mut client = dev.client("mallory");
    client.until(|f| f.get("welcome").is_some());
    misbehave(&mut client);
    client.ended()
}

#[test]
fn protocol_errors_close_with_their_code() {
    let dev = Dev::start();
    let close = |code| Ended::Close(code);
    assert_eq!(ended_after(&dev, |c| c.raw(&[0x81, 0x01, b'x'])).0, close(1002), "unmasked");
    assert_eq!(ended_after(&dev, |c| c.raw(&[0xf1, 0x80, 0, 0, 0, 0])).0, close(1002), "reserved bits");
    assert_eq!(ended_after(&dev, |c| c.raw(&[0x83, 0x80, 0, 0, 0, 0])).0, close(1002), "reserved opcode");
    assert_eq!(ended_after(&dev, |c| c.raw(&[0x09, 0x80, 0, 0, 0, 0])).0, close(1002), "fragmented ping");
    assert_eq!(ended_after(&dev, |c| c.raw(&[0x80, 0x80, 0, 0, 0, 0])).0, close(1002), "orphan continuation");
    assert_eq!(ended_after(&dev, |c| c.frame(OpCode::Text, &[0xff, 0xfe])).0, close(1007), "bad UTF-8");
    assert_eq!(ended_after(&dev, |c| c.frame(OpCode::Binary, b"{}")).0, close(1003), "binary to JSON");
    let endless = [0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(ended_after(&dev, |c| c.raw(&endless)).0, close(1009), "a 2^63 length");
    assert_eq!(ended_after(&dev, |c| c.text(&"x".repeat(1 << 20))).0, close(1009), "too big");
    let fragments = |c: &mut Client| {
        c.raw(&[0x01, 0x80, 0, 0, 0, 0]);
        (0..100_000).for_each(|_| c.raw(&[0x00, 0x80, 0, 0, 0, 0]));
    };
    assert_eq!(ended_after(&dev, fragments).0, close(1008), "endless fragments");
    assert_eq!(ended_after(&dev, |c| c.frame(OpCode::Close, &1000u16.to_be_bytes())).0, close(1000));
    assert_eq!(ended_after(&dev, |c| c.frame(OpCode::Close, &[3])).0, close(1002), "half a close code");
    dev.client("alice").until(|f| f.get("welcome").is_some());
}

#[test]
fn undecodable_frames_close_3504_with_a_bye() {
    let dev = Dev::start();
    for text in [
        "",
        "{",
        "[]",
        "7",
        r#"{"ping":{}}"#,
        r#"{"id":0,"ping":{}}"#,
        r#"{"id":"x","ping":{}}"#,
        r#"{"id":2147483648,"ping":{}}"#,
    ] {
        let (ended, bye) = ended_after(&dev, |c| c.text(text));
        assert_eq!(ended, Ended::Close(3504), "{text}");
        let bye = bye.unwrap_or_else(|| panic!("no bye after {text}"));
        assert_eq!((&bye["code"], &bye["reconnect"]), (&json!(3504), &json!(false)), "{bye}");
    }
}

#[test]
fn a_first_frame_that_is_no_connect_is_refused() {
    let dev = Dev::start();
    let mut client = Client::open(dev.addrs.client, "/api/v1/ws");
    client.send("ping", json!({}));
    assert_eq!(client.ended().0, Ended::Close(3500));
    let mut client = Client::open(dev.addrs.client, "/api/v1/ws");
    client.send("connect", json!({"token": "a.b.c"}));
    assert_eq!(client.ended().0, Ended::Close(3500));
}

#[test]
fn bad_handshakes_are_answered_by_http() {
    let dev = Dev::start();
    let addr = dev.addrs.client;
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let get = |path: &str, headers: &str| {
        raw_http(addr, format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n{headers}\r\n").as_bytes()).status
    };
    let ws = "/api/v1/ws?uid=alice";
    assert_eq!(get(ws, ""), 426, "no upgrade");
    assert_eq!(get("/nowhere", upgrade), 404);
    assert_eq!(get(ws, &upgrade.replace("13", "12")), 426, "version");
    assert_eq!(get(ws, &upgrade.replace("dGhlIHNhbXBsZSBub25jZQ==", "short")), 400, "key");
    assert_eq!(get(ws, &format!("{upgrade}Sec-WebSocket-Protocol: other\r\n")), 400, "sub-protocol");
    assert_eq!(get(ws, &format!("{upgrade}Origin: http://evil.example\r\n")), 403, "origin");
    assert_eq!(get(ws, &format!("{upgrade}X-Forwarded-For: 1.2.3.4\r\n")), 401, "dev auth through a proxy");
    assert_eq!(get(ws, &format!("{upgrade}Content-Length: 3\r\n")), 400, "a body");
    assert_eq!(get(ws, &format!("{upgrade}X: {}\r\n", "y".repeat(20_000))) / 100, 4, "large headers");
    assert_eq!(get(&format!("/api/v1/ws?uid={}", "y".repeat(9_000)), upgrade) / 100, 4, "long request line");
    assert_eq!(get("/api/v1/ws?uid=a%20b", upgrade), 400, "not a uid");
    assert_eq!(get("/api/v1/ws?uid=alice&cursors=%7Bx", upgrade), 400, "bad cursors");
    let post = raw_http(addr, format!("POST {ws} HTTP/1.1\r\nHost: {addr}\r\n{upgrade}\r\n").as_bytes());
    assert_eq!(post.status, 405);
    let two_hosts = format!("GET {ws} HTTP/1.1\r\nHost: {addr}\r\nHost: other\r\n{upgrade}\r\n");
    assert_eq!(raw_http(addr, two_hosts.as_bytes()).status, 400);
    let bare_lf = format!("GET {ws} HTTP/1.1\nHost: {addr}\n\n");
    assert_eq!(raw_http(addr, bare_lf.as_bytes()).status, 400);
    assert_eq!(raw_http(addr, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS to a plain port\r\n\r\n").status, 400);
    dev.client("alice").until(|f| f.get("welcome").is_some());
}

#[test]
fn half_open_handshakes_do_not_hold_up_anybody() {
    let dev = Dev::start();
    let mut alice = dev.client("alice");
    alice.until(|f| f.get("welcome").is_some());
    let mut half_open: Vec<TcpStream> = (0..500)
        .map(|_| {
            let mut stream = TcpStream::connect(dev.addrs.client).expect("connected");
            stream.write_all(b"GET /api/v1/ws?uid=x HTTP/1.1\r\nHost:").expect("sent");
            stream
        })
        .collect();
    dev.push("u:alice", "through");
    assert_eq!(alice.messages("u:alice", 1)[0]["content"], "through");
    dev.client("bob").until(|f| f.get("welcome").is_some());
    let mut rest = Vec::new();
    half_open[0].set_read_timeout(Some(support::PATIENCE)).expect("time-out");
    let reaped = half_open[0].read_to_end(&mut rest);
    assert!(reaped.is_ok() || reaped.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
}

#[test]
fn pushes_that_are_wrong_say_what_is_wrong() {
    let dev = Dev::start();
    let message = json!({"type": "text", "content": "x"});
    let mixed = dev.push_json(&json!({"to": ["u:alice", "nonsense", "u:a b"], "message": message}));
    assert_eq!(mixed.status, 200, "{}", mixed.body);
    let results = mixed.json()["results"].clone();
    assert_eq!(results[0]["status"], "accepted");
    assert_eq!((&results[1]["status"], &results[1]["error"]["code"]), (&json!("error"), &json!("BAD_REQUEST")));
    assert_eq!(results[2]["status"], "error");
    let bad = dev.push_json(&json!({"to": 7, "message": {"type": 1}, "class": "x", "ttl_s": -1}));
    assert_eq!((bad.status, &bad.json()["error"]["code"]), (400, &json!("BAD_REQUEST")));
    for part in ["to", "type", "class", "ttl_s"] {
        assert!(bad.body.contains(part), "{part}: {}", bad.body);
    }
    let http_addr = dev.addrs.http;
    let origin = [("Origin", "http://evil.example")];
    let body = json!({"to": ["u:alice"], "message": {"type": "text", "content": "x"}});
    let foreign = http(http_addr, "POST", "/api/v1/push", &origin, Some(&body));
    assert!(foreign.status == 401 || foreign.status == 403, "{}", foreign.status);
    let text = format!(
        "POST /api/v1/push HTTP/1.1\r\nHost: {http_addr}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    );
    assert_eq!(raw_http(http_addr, text.as_bytes()).status, 415);
    assert_eq!(http(http_addr, "GET", "/api/v1/push", &[], None).status, 405);
    assert_eq!(http(http_addr, "GET", "/api/v1/nowhere", &[], None).status, 404);
}

#[test]
fn the_sixty_fifth_request_waits_its_turn() {
    let dev = Dev::start();
    let mut alice = dev.client("alice");
    alice.until(|f| f.get("welcome").is_some());
    let mut burst = Vec::new();
    for id in 1..=200u64 {
        let op = json!({"id": id, "send": {"to": "u:bob", "client_msg_id": format!("m{id}"), "type": "text", "content": "x"}});
        tidegate_load::ws::put_frame(&mut burst, OpCode::Text, op.to_string().as_bytes());
    }
    alice.raw(&burst);
    let (mut ok, mut limited) = (0, 0);
    for id in 1..=200u64 {
        let answer = alice.until(|f| f["id"] == id);
        match answer["error"]["code"].as_str() {
            None => ok += 1,
            Some("RATE_LIMITED") => limited += 1,
            Some(other) => panic!("{other}: {answer}"),
        }
    }
    assert_eq!(ok + limited, 200);
    assert!(ok >= 64, "{ok}");
}
