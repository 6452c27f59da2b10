//! The first promise: connect, push, receive; in order, with seqs, with nothing missing after being away.

mod support;

use serde_json::{Value, json};
use support::Dev;

fn seqs(messages: &[Value]) -> Vec<u64> {
    messages.iter().map(|m| m["seq"].as_u64().expect("seq")).collect()
}

#[test]
fn a_rest_push_arrives_with_its_seq() {
    let dev = Dev::start();
    let mut alice = dev.client("alice");
    let welcome = alice.until(|f| f.get("welcome").is_some());
    assert_eq!(welcome["welcome"]["uid"], "alice");
    let result = dev.push("u:alice", "hi");
    assert_eq!((&result["status"], &result["seq"]), (&json!("accepted"), &json!(1)));
    let message = &alice.messages("u:alice", 1)[0];
    assert_eq!((&message["seq"], &message["content"]), (&json!(1), &json!("hi")));
    assert_eq!(message["id"], result["message_id"]);
}

#[test]
fn a_hundred_messages_come_in_order() {
    let dev = Dev::start();
    let mut alice = dev.client("alice");
    alice.ok("join", json!({"stream": "g:room"}));
    for n in 1..=100 {
        dev.push("g:room", &n.to_string());
    }
    let messages = alice.messages("g:room", 100);
    assert_eq!(seqs(&messages), (1..=100).collect::<Vec<_>>());
    let contents: Vec<String> = messages.iter().map(|m| m["content"].as_str().expect("text").to_owned()).collect();
    assert_eq!(contents, (1..=100).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn what_was_missed_comes_first_without_hole_or_twin() {
    let dev = Dev::start();
    let mut alice = dev.client("alice");
    alice.until(|f| f.get("welcome").is_some());
    for n in 1..=3 {
        dev.push("u:alice", &n.to_string());
    }
    let batch = alice.until(|f| f.get("batch").is_some());
    let epoch = batch["batch"]["epoch"].as_str().expect("epoch").to_owned();
    drop(alice);
    for n in 4..=8 {
        dev.push("u:alice", &n.to_string());
    }
    let cursors = format!("%7B%22u:alice%22:%7B%22epoch%22:%22{epoch}%22,%22seq%22:3%7D%7D");
    let mut alice = support::Client::open(dev.addrs.client, &format!("/api/v1/ws?uid=alice&cursors={cursors}"));
    let welcome = alice.until(|f| f.get("welcome").is_some());
    assert_eq!(welcome["welcome"]["streams"][0]["recovered"], "full", "{welcome}");
    dev.push("u:alice", "9");
    assert_eq!(seqs(&alice.messages("u:alice", 6)), [4, 5, 6, 7, 8, 9]);
}

#[test]
fn a_device_without_cursors_starts_at_its_mark() {
    let dev = Dev::start();
    for n in 1..=5 {
        dev.push("u:alice", &n.to_string());
    }
    let mut alice = support::Client::open(dev.addrs.client, "/api/v1/ws?uid=alice&device=d1");
    assert_eq!(seqs(&alice.messages("u:alice", 5)), [1, 2, 3, 4, 5]);
    alice.ok("ack", json!({"stream": "u:alice", "seq": 4}));
    drop(alice);
    let mut again = support::Client::open(dev.addrs.client, "/api/v1/ws?uid=alice&device=d1");
    assert_eq!(seqs(&again.messages("u:alice", 1)), [5]);
    let mut other = support::Client::open(dev.addrs.client, "/api/v1/ws?uid=alice&device=d2");
    assert_eq!(seqs(&other.messages("u:alice", 1)), [5], "a new device starts at the highest mark");
}

#[test]
fn far_behind_is_told_a_gap_and_pulls() {
    let dev = Dev::start();
    for n in 1..=250 {
        dev.push("u:alice", &n.to_string());
    }
    let mut alice = dev.client("alice");
    let gap = alice.until(|f| f.get("gap").is_some())["gap"].clone();
    assert_eq!((&gap["from"], &gap["to"]), (&json!(1), &json!(250)), "{gap}");
    let mut after = 0;
    let mut pulled = Vec::new();
    while after < 250 {
        let page = alice.ok("pull", json!({"stream": "u:alice", "after": after, "limit": 100}));
        pulled.extend(seqs(page["messages"].as_array().expect("messages")));
        assert_eq!(page["next_after"], page["upto"]);
        after = page["next_after"].as_u64().expect("next_after");
    }
    assert_eq!(pulled, (1..=250).collect::<Vec<_>>());
    dev.push("u:alice", "live again");
    assert_eq!(seqs(&alice.messages("u:alice", 1)), [251]);
}

#[test]
fn ephemeral_messages_have_no_seq_and_leave_no_trace() {
    let dev = Dev::start();
    let mut alice = dev.client("alice");
    alice.ok("join", json!({"stream": "g:room"}));
    let body = json!({"to": ["g:room"], "class": "ephemeral", "message": {"type": "typing", "content": ""}});
    let answer = dev.push_json(&body).json();
    assert_eq!(answer["results"][0]["status"], "accepted", "{answer}");
    assert!(answer["results"][0].get("seq").is_none());
    let batch = alice.until(|f| f.get("batch").is_some())["batch"].clone();
    assert!(batch.get("after").is_none() && batch["messages"][0].get("seq").is_none(), "{batch}");
    assert_eq!(alice.ok("head", json!({"stream": "g:room"}))["head"], 0);
}

#[test]
fn everybody_is_reached() {
    let dev = Dev::start();
    let mut clients = [dev.client("alice"), dev.client("bob")];
    for client in &mut clients {
        client.until(|f| f.get("welcome").is_some());
    }
    let answer = dev.push_json(&json!({"to": {"all": true}, "message": {"type": "text", "content": "all"}}));
    assert_eq!(answer.json()["results"][0]["status"], "accepted", "{}", answer.body);
    for client in &mut clients {
        assert_eq!(client.messages("g:_all", 1)[0]["content"], "all");
    }
}

#[test]
fn a_repeated_push_is_one_message() {
    let dev = Dev::start();
    let body = json!({"to": ["u:alice", "g:x"], "message_id": "k-1", "message": {"type": "text", "content": "once"}});
    let first = dev.push_json(&body).json();
    let second = dev.push_json(&body).json();
    for at in 0..2 {
        let (a, b) = (&first["results"][at], &second["results"][at]);
        assert_eq!((&a["duplicate"], &b["duplicate"]), (&json!(false), &json!(true)), "{a} {b}");
        assert_eq!((&a["seq"], &a["message_id"], &a["epoch"]), (&b["seq"], &b["message_id"], &b["epoch"]));
    }
    let other = json!({"to": ["u:alice"], "message_id": "k-1", "message": {"type": "text", "content": "different"}});
    assert_eq!(dev.push_json(&other).json()["results"][0]["error"]["code"], "BAD_REQUEST");
}
