use tidegate_control_core::domain::{Body, Joined, Place};

use super::*;

fn body() -> Arc<Body> {
    Arc::new(Body {
        id: MessageId(7),
        from: "ann".into(),
        to: "bob".into(),
        client_msg_id: "c1".into(),
        kind: "text".into(),
        title: "t".into(),
        content: Content::Binary(vec![0, 255].into()),
        metadata: "{}".into(),
        ts: Timestamp(9),
        priority: Priority::High,
        expires: Some(Timestamp(99)),
        platforms: ["web".into()].into_iter().collect(),
    })
}

fn stream(name: &str) -> StreamKey {
    name.parse().expect("a stream")
}

fn uid(name: &str) -> Uid {
    name.parse().expect("a uid")
}

#[test]
fn every_command_arrives_as_it_was_asked() {
    let gid: Gid = "go".parse().expect("a gid");
    let push = Push {
        id: Some(MessageId(3)),
        to: stream("g:go"),
        sender: Some(uid("ann")),
        from: "x".into(),
        client_msg_id: "k".into(),
        message_id: Some("m".into()),
        kind: "text".into(),
        title: "t".into(),
        content: Content::Text("hi".into()),
        metadata: "{}".into(),
        ephemeral: true,
        priority: Priority::Low,
        ttl_s: 5,
        platforms: ["web".into()].into_iter().collect(),
        ack_durable: false,
    };
    let place = Place { stream: stream("c:ann:bob"), epoch: Epoch(5), seq: Seq(6) };
    let joined = Joined { uid: uid("ann"), gid: gid.clone(), epoch: Epoch(1), seq: Seq(2), ts: Timestamp(3) };
    let commands = [
        Command::Push(Box::new(push)),
        Command::CreateGroup {
            gid: gid.clone(),
            name: "n".into(),
            open: false,
            creator: Some(uid("ann")),
            members: vec![uid("bob")],
        },
        Command::AddMember { gid: gid.clone(), uid: uid("ann"), by: None },
        Command::RemoveMember { gid: gid.clone(), uid: uid("ann"), by: Some(uid("bob")) },
        Command::DismissGroup { gid, by: None },
        Command::Ack {
            uid: uid("ann"),
            device: "d".into(),
            stream: stream("u:ann"),
            epoch: Some(Epoch(4)),
            seq: Seq(1),
        },
        Command::Read { uid: uid("ann"), stream: stream("g:go"), epoch: None, seq: Seq(2) },
        Command::Pull {
            uid: None,
            stream: stream("g:go"),
            epoch: Some(Epoch(0)),
            after: Seq(3),
            since_ts: Some(-1),
            limit: 7,
        },
        Command::Heads { uid: Some(uid("ann")), streams: vec![stream("u:ann"), stream("g:go")] },
        Command::Errand(Errand::Entry { inbox: uid("bob"), place, body: body() }),
        Command::Errand(Errand::Joined(joined)),
    ];
    for command in commands {
        let said = format!("{command:?}");
        let (corr, partition, heard) = asked(ask(8, PartitionId(3), command)).expect("heard");
        assert_eq!((corr, partition, format!("{heard:?}")), (8, PartitionId(3), said));
    }
}

#[test]
fn every_answer_arrives_as_it_was_given() {
    let head = Head { epoch: Epoch(3), head: Seq(9), first: Seq(2) };
    let stored = |seq, conversation| Stored { seq: Seq(seq), body: body(), conversation };
    let page = Page {
        after: Seq(1),
        upto: Seq(3),
        messages: vec![stored(2, None), stored(3, Some((stream("c:ann:bob"), Seq(8))))],
    };
    let mut late = Refusal::new(ErrorCode::RateLimited, "slowly");
    late.retry_after_ms = Some(7);
    let stands = tidegate_control_core::domain::errors::Stands { epoch: Epoch(0), head: Seq(0), first: Seq(1) };
    let group = Group {
        gid: "go".parse().expect("a gid"),
        epoch: Epoch(6),
        open: true,
        name: "n".into(),
        creator: "ann".into(),
        created: Timestamp(5),
        dismissed: true,
    };
    let answers: Vec<Answer> = vec![
        Ok(Reply::Pushed {
            stream: stream("u:bob"),
            epoch: Epoch(1),
            seq: Some(Seq(2)),
            id: MessageId(3),
            duplicate: true,
            online: Some(4),
        }),
        Ok(Reply::Group(group)),
        Ok(Reply::Done { seq: None }),
        Ok(Reply::Page { stream: stream("u:bob"), page, head }),
        Ok(Reply::Heads(vec![(stream("u:bob"), Ok(head)), (stream("g:go"), Err(late.clone()))])),
        Err(late),
        Err(Refusal::expired(stands)),
    ];
    for given in answers {
        let said = format!("{given:?}");
        let (corr, heard) = answered(answer(5, given)).expect("heard");
        assert_eq!((corr, format!("{heard:?}")), (5, said));
    }
}
