//! Every operation of the client protocol, and every refusal that this version can give.

mod support;

use serde_json::{Value, json};
use support::{Client, Dev, http};

#[test]
fn connect_in_band_with_cursors() {
    let dev = Dev::start();
    dev.push("u:alice", "one");
    let mut alice = Client::open(dev.addrs.client, "/api/v1/ws?uid=alice&defer=1");
    let session = alice.ok("connect", json!({"device": "ios-1", "platform": "mobile", "auto_join": true}));
    assert_eq!((&session["uid"], &session["ping_interval_ms"]), (&json!("alice"), &json!(60_000)), "{session}");
    let inbox = session["streams"].as_array().expect("streams").iter().find(|s| s["stream"] == "u:alice");
    assert_eq!(inbox.expect("there is news")["head"], 1);
    assert_eq!(alice.messages("u:alice", 1)[0]["content"], "one");
    assert_eq!(alice.refused("connect", json!({"device": "again"})), "BAD_REQUEST");
}

#[test]
fn a_token_of_the_development_key_is_accepted_in_every_place() {
    let dev = Dev::start();
    let data = dev.data();
    let output = std::process::Command::new(support::binary())
        .args(["token", "--uid", "carol", "--device", "d9", "--data-dir"])
        .arg(&data)
        .output()
        .expect("runs");
    let token = String::from_utf8(output.stdout).expect("text").trim().to_owned();
    let welcome = |client: &mut Client| client.until(|f| f.get("welcome").is_some())["welcome"]["uid"].clone();
    let mut by_query = Client::open(dev.addrs.client, &format!("/api/v1/ws?token={token}"));
    assert_eq!(welcome(&mut by_query), "carol");
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let mut by_header = Client::try_open(dev.addrs.client, "/api/v1/ws", &headers).expect("accepted");
    assert_eq!(welcome(&mut by_header), "carol");
    let mut in_band = Client::open(dev.addrs.client, "/api/v1/ws");
    assert_eq!(in_band.ok("connect", json!({"token": token}))["uid"], "carol");
    let forged = Client::try_open(dev.addrs.client, &format!("/api/v1/ws?token={token}x"), &[]);
    assert_eq!(forged.err().expect("refused").status, 401);
}

#[test]
fn join_leave_and_head() {
    let dev = Dev::start();
    let mut alice = dev.client("alice");
    let state = alice.ok("join", json!({"stream": "g:room"}));
    assert_eq!((&state["stream"], &state["head"]), (&json!("g:room"), &json!(0)), "{state}");
    dev.push("g:room", "one");
    assert_eq!(alice.messages("g:room", 1)[0]["seq"], 1);
    let again = alice.ok("join", json!({"stream": "g:room"}));
    assert_eq!(again["head"], 1);
    assert_eq!(alice.ok("head", json!({"stream": "g:room"}))["head"], 1);
    assert_eq!(alice.ok("leave", json!({"stream": "g:room"})), json!({}));
    dev.push("g:room", "two");
    assert_eq!(alice.ok("head", json!({"stream": "g:room"}))["head"], 2);
    alice.ok("ping", json!({}));
    assert!(!alice.aside.iter().any(|f| f.get("batch").is_some()), "left means left: {:?}", alice.aside);
    let cursor = json!({"epoch": state["epoch"], "seq": 1});
    let back = alice.ok("join", json!({"stream": "g:room", "cursor": cursor}));
    assert_eq!(back["recovered"], "full", "{back}");
    assert_eq!(alice.messages("g:room", 1)[0]["content"], "two");
}

#[test]
fn one_to_one_messages_reach_both_inboxes_in_one_order() {
    let dev = Dev::start();
    let (mut alice, mut bob) = (dev.client("alice"), dev.client("bob"));
    for client in [&mut alice, &mut bob] {
        client.until(|f| f.get("welcome").is_some());
    }
    let send = json!({"to": "u:bob", "client_msg_id": "c-1", "type": "text", "content": "hi", "metadata": {"k": 1}});
    let sent = alice.ok("send", send.clone());
    assert_eq!((&sent["stream"], &sent["seq"]), (&json!("c:alice:bob"), &json!(1)), "{sent}");
    for (client, stream) in [(&mut alice, "u:alice"), (&mut bob, "u:bob")] {
        let message = &client.messages(stream, 1)[0];
        assert_eq!((&message["conv"], &message["conv_seq"]), (&json!("c:alice:bob"), &json!(1)), "{message}");
        assert_eq!((&message["from"], &message["to"]), (&json!("alice"), &json!("bob")));
        assert_eq!((&message["metadata"]["k"], &message["client_msg_id"]), (&json!(1), &json!("c-1")));
    }
    let again = alice.ok("send", send);
    assert_eq!((&again["duplicate"], &again["seq"]), (&json!(true), &json!(1)));
    let answer = bob.ok("send", json!({"to": "u:alice", "client_msg_id": "b-1", "type": "text", "content": "yo"}));
    assert_eq!(answer["seq"], 2);
    let page = alice.ok("pull", json!({"stream": "c:alice:bob", "after": 0, "limit": 10}));
    assert_eq!(page["messages"].as_array().expect("messages").len(), 2, "{page}");
}

#[test]
fn sync_tells_changed_streams_only() {
    let dev = Dev::start();
    let mut alice = dev.client("alice");
    let epoch = |client: &mut Client, stream: &str| client.ok("join", json!({"stream": stream}))["epoch"].clone();
    let (quiet, busy) = (epoch(&mut alice, "g:quiet"), epoch(&mut alice, "g:busy"));
    dev.push("g:busy", "news");
    let cursors = json!({"g:quiet": {"epoch": quiet, "seq": 0}, "g:busy": {"epoch": busy, "seq": 0}});
    let answer = alice.ok("sync", json!({"cursors": cursors}));
    let streams = answer["streams"].as_array().expect("streams");
    assert_eq!(streams.len(), 1, "{answer}");
    assert_eq!((&streams[0]["stream"], &streams[0]["head"]), (&json!("g:busy"), &json!(1)));
}

#[test]
fn reads_and_acks_are_checked() {
    let dev = Dev::start();
    dev.push("u:alice", "one");
    let mut alice = dev.client("alice");
    alice.messages("u:alice", 1);
    assert_eq!(alice.ok("ack", json!({"stream": "u:alice", "seq": 1})), json!({}));
    assert_eq!(alice.ok("read", json!({"stream": "u:alice", "seq": 1})), json!({}));
    assert_eq!(alice.refused("ack", json!({"stream": "u:alice", "seq": 2})), "BAD_REQUEST");
    assert_eq!(alice.refused("ack", json!({"stream": "u:bob", "seq": 0})), "FORBIDDEN");
    let expired = alice.ask("ack", json!({"stream": "u:alice", "epoch": "zzzz", "seq": 1}));
    assert_eq!(expired["error"]["code"], "EXPIRED", "{expired}");
    assert_eq!((&expired["error"]["head"], &expired["error"]["first"]), (&json!(1), &json!(1)));
}

#[test]
fn foreign_streams_are_closed_to_others() {
    let dev = Dev::start();
    let mut alice = dev.client("alice");
    for stream in ["u:bob", "c:bob:carol"] {
        assert_eq!(alice.refused("pull", json!({"stream": stream, "after": 0})), "FORBIDDEN", "{stream}");
        assert_eq!(alice.refused("head", json!({"stream": stream})), "FORBIDDEN", "{stream}");
    }
    assert_eq!(alice.refused("join", json!({"stream": "u:bob"})), "FORBIDDEN");
    assert_eq!(
        alice.refused("join", json!({"stream": "c:alice:bob"})),
        "BAD_REQUEST",
        "conversations come by the inbox"
    );
    assert_eq!(alice.refused("send", json!({"to": "g:_all", "type": "text", "content": "x"})), "FORBIDDEN");
}

#[test]
fn members_only_means_members_only() {
    let dev = Dev::start();
    let body = json!({"gid": "team", "name": "Team", "mode": "members", "members": ["alice", "bob"]});
    let made = http(dev.addrs.http, "POST", "/api/v1/groups", &[], Some(&body));
    assert_eq!(made.status, 201, "{}", made.body);
    let mut mallory = dev.client("mallory");
    assert_eq!(mallory.refused("join", json!({"stream": "g:team"})), "FORBIDDEN");
    assert_eq!(mallory.refused("send", json!({"to": "g:team", "type": "text", "content": "x"})), "FORBIDDEN");
    assert_eq!(mallory.refused("pull", json!({"stream": "g:team", "after": 0})), "FORBIDDEN");
    let mut bob = dev.client("bob");
    bob.until(|f| f.get("welcome").is_some());
    dev.push("g:team", "before");
    let is_text = |message: &Value, text: &str| message["content"] == text;
    assert!(bob.messages("g:team", 1).iter().any(|m| is_text(m, "before")));
    let kicked = http(dev.addrs.http, "DELETE", "/api/v1/groups/team/members/bob", &[], None);
    assert_eq!(kicked.status / 100, 2, "{}", kicked.body);
    dev.push("g:team", "after the kick");
    let left = bob.until(|f| f.get("left").is_some());
    assert_eq!((&left["left"]["stream"], &left["left"]["reason"]), (&json!("g:team"), &json!("removed")), "{left}");
    bob.ok("ping", json!({}));
    let later = bob.aside.iter().any(|f| f.to_string().contains("after the kick"));
    assert!(!later, "{:?}", bob.aside);
    assert_eq!(bob.refused("send", json!({"to": "g:team", "type": "text", "content": "x"})), "FORBIDDEN");
}

#[test]
fn an_added_member_is_joined_while_connected() {
    let dev = Dev::start();
    let body = json!({"gid": "team", "name": "Team", "mode": "members", "members": ["alice"]});
    assert_eq!(http(dev.addrs.http, "POST", "/api/v1/groups", &[], Some(&body)).status, 201);
    let mut bob = dev.client("bob");
    bob.until(|f| f.get("welcome").is_some());
    let added = http(dev.addrs.http, "POST", "/api/v1/groups/team/members", &[], Some(&json!({"uids": ["bob"]})));
    assert_eq!(added.status / 100, 2, "{}", added.body);
    let joined = bob.until(|f| f.get("joined").is_some());
    assert_eq!(joined["joined"]["stream"], "g:team", "{joined}");
    dev.push("g:team", "hello bob");
    loop {
        if bob.messages("g:team", 1).iter().any(|m| m["content"] == "hello bob") {
            break;
        }
    }
}

#[test]
fn operations_of_later_versions_say_so() {
    let dev = Dev::start();
    let mut alice = dev.client("alice");
    let later = [
        ("presence", json!({"uids": ["bob"], "subscribe": true})),
        ("focus", json!({"stream": "g:x"})),
        ("refresh", json!({"token": "x"})),
        ("report", json!({"topic": "gps", "data": {}})),
        ("logout", json!({"all": false})),
        ("frobnicate", json!({})),
    ];
    for (op, arguments) in later {
        assert_eq!(alice.refused(op, arguments), "UNIMPLEMENTED", "{op}");
    }
}

#[test]
fn bad_requests_are_refused_and_change_nothing() {
    let dev = Dev::start();
    let mut alice = dev.client("alice");
    let bad = [
        ("join", json!({"stream": "room"})),
        ("join", json!({"stream": "g:"})),
        ("join", json!({"stream": 7})),
        ("join", json!({"stream": "g:x", "cursor": {"epoch": "e", "seq": -1}})),
        ("pull", json!({"stream": "u:alice", "after": "x"})),
        ("pull", json!({"stream": "u:alice", "after": 9_007_199_254_740_993_u64})),
        ("send", json!({"to": "c:alice:bob", "type": "text", "content": "x"})),
        ("send", json!({"to": "u:bob", "type": "text", "content": "x", "metadata": []})),
        ("send", json!({"to": "u:bob", "type": "text", "content": "x", "content_b64": "eA=="})),
        ("send", json!({"to": "u:bob", "type": "text", "content": "x", "class": "eternal"})),
        ("ack", json!({"stream": "u:alice"})),
    ];
    for (op, arguments) in bad {
        assert_eq!(alice.refused(op, arguments.clone()), "BAD_REQUEST", "{op} {arguments}");
    }
    alice.text(r#"{"id":900,"ping":{},"head":{"stream":"u:alice"}}"#);
    assert_eq!(alice.until(|f| f["id"] == 900)["error"]["code"], "BAD_REQUEST");
    assert_eq!(alice.ok("head", json!({"stream": "u:alice"}))["head"], 0);
    let huge = "x".repeat(60 * 1024);
    let text = json!({"to": "u:alice", "client_msg_id": "h", "type": "text", "content": huge});
    assert_eq!(alice.refused("send", text), "TOO_LARGE", "a text has at most 2,000 characters");
    alice.ok("send", json!({"to": "u:alice", "client_msg_id": "h", "type": "blob", "content": huge}));
    assert_eq!(alice.ok("head", json!({"stream": "u:alice"}))["head"], 1);
}
