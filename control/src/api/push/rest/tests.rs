use tidegate_control_core::domain::ErrorCode;

use super::super::Target;
use super::*;

fn read(body: &str) -> Result<Draft, Malformed> {
    draft(&Bytes::copy_from_slice(body.as_bytes()), &LimitsConfig::default())
}

fn problems(body: &str) -> Vec<String> {
    match read(body) {
        Err(Malformed::Problems(problems)) => problems.into_iter().map(|problem| problem.field).collect(),
        other => panic!("{body} is not malformed: {other:?}"),
    }
}

#[test]
fn a_whole_body_is_read() {
    let draft = read(
        r#"{"to":["u:alice","g:42"],"message":{"type":"order","content":"hi","metadata":{ "n": 1e2 },"title":"t"},
            "message_id":"k","class":"ephemeral","priority":"low","ttl_s":60,"platforms":["mobile"],"from":"billing",
            "ack":"durable","something":"new"}"#,
    )
    .expect("a draft");
    assert_eq!(draft.targets.len(), 2);
    let m = draft.message;
    assert_eq!((&*m.kind, &*m.title, &*m.from, m.message_id.as_deref()), ("order", "t", "billing", Some("k")));
    assert_eq!((m.ephemeral, m.priority, m.ttl_s), (true, Priority::Low, 60));
    // Numbers keep their spelling: the object is carried as it came.
    assert_eq!(&*m.metadata, r#"{ "n": 1e2 }"#);
    assert_eq!(m.content, Content::Text("hi".into()));
}

#[test]
fn defaults_are_a_durable_text_of_normal_priority() {
    let draft = read(r#"{"to":{"all":true},"message":{"content_b64":"AAE=","metadata":null},"message_id":null}"#);
    let Draft { targets, message: m } = draft.expect("a draft");
    assert!(matches!(&targets[..], [Target::Stream { name, .. }] if name == "g:_all"));
    assert_eq!((&*m.kind, m.ephemeral, m.priority, m.message_id), ("text", false, Priority::Normal, None));
    assert_eq!(m.content, Content::Binary(Bytes::from_static(&[0, 1])));
}

#[test]
fn every_problem_of_a_body_is_found() {
    let body = r#"{"to":"u:alice","message":{"type":7,"content":"a","content_b64":"?","metadata":[1]},"class":"x",
        "priority":2,"ttl_s":-1,"platforms":"all","from":{},"message_id":5,"ack":"routed"}"#;
    let mut found = problems(body);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "ack",
            "class",
            "from",
            "message.content_b64",
            "message.metadata",
            "message.type",
            "message_id",
            "platforms",
            "priority",
            "to",
            "ttl_s"
        ]
    );
}

#[test]
fn bodies_that_are_no_push() {
    assert_eq!(problems("[]"), ["body"]);
    assert_eq!(problems(r#"{"to":["u:a"]} x"#), ["body"]);
    assert_eq!(problems("{}"), ["to", "message"]);
    assert_eq!(problems(r#"{"to":[ ],"message":{}}"#), ["to"]);
    assert_eq!(problems(r#"{"to":{},"message":{}}"#), ["to"]);
    assert_eq!(problems(r#"{"to":{"alias":"a1","all":1},"message":{}}"#), ["to.alias", "to.all"]);
    assert_eq!(problems(r#"{"to":["u:a",1],"message":3}"#), ["to", "message"]);
    assert_eq!(problems(r#"{"to":["u:a"],"message":{"content":"a","content_b64":"AAE="}}"#), ["message.content_b64"]);
}

#[test]
fn sizes_are_bounded() {
    let many = serde_json::json!({"to": (0..1001).map(|n| format!("u:{n}")).collect::<Vec<_>>(), "message": {}});
    assert_eq!(problems(&many.to_string()), ["to"]);
    let large = serde_json::json!({"to": ["u:a"], "message": {"content": "x".repeat(65_537)}});
    match read(&large.to_string()) {
        Err(Malformed::Refused(refusal)) => assert_eq!(refusal.code, ErrorCode::TooLarge),
        other => panic!("accepted: {other:?}"),
    }
}
