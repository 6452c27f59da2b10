use super::*;

fn template() -> Template {
    Template {
        ack_durable: false,
        from: "billing".into(),
        kind: "text".into(),
        title: Box::default(),
        content: Content::Text("hi".into()),
        metadata: "{}".into(),
        message_id: Some("k-1".into()),
        ephemeral: false,
        priority: Priority::Normal,
        ttl_s: 0,
        platforms: SmallVec::new(),
    }
}

fn named(streams: &[&str]) -> Named {
    Named { streams: streams.iter().map(|s| (*s).to_owned()).collect(), ..Named::default() }
}

#[test]
fn a_wrong_target_touches_no_other() {
    let targets = named(&["u:alice", "nobody", "c:alice:bob", "g:1", "u:alice"]).into_targets();
    let mut batch = Batch::default();
    batch.add(9, Draft { targets, message: template() });
    let to: Vec<&str> = batch
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::Push(push) => Some(push.to.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(to, ["u:alice", "g:1"]);
    let refused: Vec<(&str, bool)> = batch.slots.iter().map(|s| (s.name.as_str(), s.refusal.is_some())).collect();
    assert_eq!(
        refused,
        [("u:alice", false), ("nobody", true), ("c:alice:bob", true), ("g:1", false), ("u:alice", true)]
    );
}

#[test]
fn every_target_gets_the_whole_message() {
    let mut batch = Batch::default();
    batch.add(0, Draft { targets: named(&["u:a", "u:b", "bad"]).into_targets(), message: template() });
    assert_eq!(batch.commands.len(), 2);
    for command in &batch.commands {
        let Command::Push(push) = command else { panic!("a push") };
        assert_eq!((&*push.from, push.message_id.as_deref()), ("billing", Some("k-1")));
        assert_eq!(push.content, Content::Text("hi".into()));
        assert!(push.sender.is_none());
    }
}

#[test]
fn everybody_is_one_group_and_unknown_ways_are_told_apart() {
    let named = Named { aliases: vec!["a1".into()], client_ids: vec!["d1".into()], all: true, ..Named::default() };
    let codes: Vec<Option<ErrorCode>> = named
        .into_targets()
        .iter()
        .map(|target| match target {
            Target::Stream { key, .. } => {
                assert_eq!(key.as_str(), "g:_all");
                None
            }
            Target::Refused { refusal, .. } => Some(refusal.code),
        })
        .collect();
    assert_eq!(codes, [Some(ErrorCode::Unimplemented), Some(ErrorCode::Unimplemented), None]);
}

#[test]
fn all_problems_of_a_template_are_listed() {
    let bad = Template {
        kind: "two words".into(),
        metadata: "[]".into(),
        message_id: Some("a\nb".into()),
        platforms: SmallVec::from_elem("".into(), limits::PLATFORMS_MAX + 1),
        ..template()
    };
    let fields: Vec<String> = bad.problems().into_iter().map(|problem| problem.field).collect();
    assert_eq!(fields, ["message.type", "message.metadata", "message_id", "platforms", "platforms"]);
    assert_eq!(template().problems(), []);
    assert_eq!(template().check_size(1, 1).expect_err("too large").code, ErrorCode::TooLarge);
    assert_eq!(template().check_size(1_000, 2), Ok(()));
    let large = Template { content: Content::Text("x".repeat(60_000).into()), ..template() };
    assert_eq!(large.check_size(100, 65_536), Ok(()));
    assert_eq!(large.check_size(1_000, 65_536).expect_err("too much").code, ErrorCode::TooLarge);
}
