use super::*;
use crate::domain::LeaveReason;

fn add(group: &str, who: &str, by: Option<&str>) -> Command {
    Command::AddMember { gid: gid(group), uid: uid(who), by: by.map(uid) }
}

fn remove(group: &str, who: &str, by: Option<&str>) -> Command {
    Command::RemoveMember { gid: gid(group), uid: uid(who), by: by.map(uid) }
}

fn dismiss(group: &str, by: Option<&str>) -> Command {
    Command::DismissGroup { gid: gid(group), by: by.map(uid) }
}

fn place(reply: Result<Reply, Refusal>) -> Option<u64> {
    match reply {
        Ok(Reply::Done { seq }) => seq.map(|seq| seq.0),
        other => panic!("{other:?}"),
    }
}

/// Owner ann, members bob and cat, at places 1 to 3.
fn club(rig: &mut Rig) {
    let reply = rig.ask(create("club", false, Some("ann"), &["bob", "cat", "bob", "ann"]));
    assert!(matches!(reply, Ok(Reply::Group(group)) if !group.open && !group.dismissed && &*group.creator == "ann"));
}

#[test]
fn first_members_are_sequenced_messages() {
    let mut rig = Rig::new();
    club(&mut rig);
    let (page, head) = rig.pull(Some("ann"), "g:club", 0).expect("a member");
    assert_eq!(head.head, Seq(3));
    assert!(page.messages.iter().all(|m| &*m.body.kind == SYSTEM_GROUP && &*m.body.from == "ann"));
    let said: Vec<&str> = page.messages.iter().map(|m| &*m.body.metadata).collect();
    assert_eq!(said[0], r#"{"action":"create","group_id":"club","inviter_id":"ann","invitee_id":"ann"}"#);
    assert_eq!(said[2], r#"{"action":"create","group_id":"club","inviter_id":"ann","invitee_id":"cat"}"#);
    assert_eq!(rig.refusal(create("club", false, None, &[])), ErrorCode::BadRequest);
    assert_eq!(rig.refusal(create("_all", true, None, &[])), ErrorCode::BadRequest);
    assert_eq!(rig.refusal(create("room", true, None, &["ann"])), ErrorCode::BadRequest);
}

#[test]
fn an_open_group_begins_without_a_message() {
    let mut rig = Rig::with(PartitionConfig::default());
    rig.ask(create("room", true, Some("ann"), &[])).expect("created");
    assert_eq!(rig.push(send("anyone", "g:room", "hi")).0, Seq(1));
    assert_eq!(rig.refusal(dismiss("room", Some("anyone"))), ErrorCode::Forbidden);
    rig.ask(dismiss("room", Some("ann"))).expect("its creator may");
}

#[test]
fn members_write_and_others_do_not() {
    let mut rig = Rig::new();
    club(&mut rig);
    assert_eq!(rig.push(send("bob", "g:club", "hi")).0, Seq(4));
    assert_eq!(rig.push(push("g:club", "from a backend")).0, Seq(5));
    assert_eq!(rig.refusal(Command::Push(Box::new(send("eve", "g:club", "hi")))), ErrorCode::Forbidden);
    assert_eq!(place(rig.ask(remove("club", "bob", Some("ann")))), Some(6));
    assert_eq!(rig.refusal(Command::Push(Box::new(send("bob", "g:club", "hi")))), ErrorCode::Forbidden);
}

#[test]
fn ranks_decide_about_members() {
    let mut rig = Rig::new();
    club(&mut rig);
    assert_eq!(rig.refusal(add("club", "dan", Some("bob"))), ErrorCode::Forbidden);
    assert_eq!(rig.refusal(add("club", "dan", Some("dan"))), ErrorCode::Forbidden);
    assert_eq!(rig.refusal(remove("club", "cat", Some("bob"))), ErrorCode::Forbidden);
    assert_eq!(rig.refusal(remove("club", "ann", Some("ann"))), ErrorCode::Forbidden);
    assert_eq!(rig.refusal(dismiss("club", Some("bob"))), ErrorCode::Forbidden);
    assert_eq!(rig.refusal(add("none", "dan", Some("ann"))), ErrorCode::NotFound);
    assert_eq!(place(rig.ask(add("club", "dan", Some("ann")))), Some(4));
    assert_eq!(place(rig.ask(add("club", "dan", Some("ann")))), None, "asked twice, done once");
    assert_eq!(place(rig.ask(remove("club", "bob", Some("bob")))), Some(5));
    assert_eq!(place(rig.ask(remove("club", "bob", None))), None);
    assert_eq!(place(rig.ask(remove("club", "ann", None))), Some(6), "a backend may all");
}

#[test]
fn joining_an_open_group_needs_nobody() {
    let mut rig = Rig::new();
    assert_eq!(place(rig.ask(add("fresh", "ann", Some("ann")))), Some(1), "it begins by being joined");
    assert_eq!(rig.refusal(add("fresh", "bob", Some("eve"))), ErrorCode::Forbidden);
    assert_eq!(rig.refusal(add("unknown", "bob", Some("eve"))), ErrorCode::NotFound);
    let mut strict = Rig::with(PartitionConfig::default());
    assert_eq!(strict.refusal(add("fresh", "ann", Some("ann"))), ErrorCode::NotFound);
    assert!(strict.disk.records().is_empty());
}

#[test]
fn a_dismissed_group_is_gone_and_begins_anew_in_another_epoch() {
    let mut rig = Rig::new();
    club(&mut rig);
    let (_, before) = rig.pull(None, "g:club", 0).expect("readable");
    rig.ask(dismiss("club", Some("ann"))).expect("the owner may");
    for restarted in [false, true] {
        if restarted {
            rig.restart();
        }
        assert_eq!(rig.refusal(Command::Push(Box::new(push("g:club", "")))), ErrorCode::NotFound);
        assert_eq!(rig.refusal(pull(Some("ann"), "g:club", 0)), ErrorCode::NotFound);
        assert_eq!(rig.refusal(add("club", "ann", None)), ErrorCode::NotFound);
        assert_eq!(rig.refusal(dismiss("club", None)), ErrorCode::NotFound);
    }
    let (page, _) = rig.pull(None, "g:club", 0).expect("a backend reads on until retention");
    assert_eq!(page.messages.len(), 4);

    rig.ask(create("club", false, Some("eve"), &[])).expect("the gid is free");
    let (page, after) = rig.pull(None, "g:club", 0).expect("readable");
    assert_ne!(after.epoch, before.epoch);
    assert_eq!((after.head, page.messages.len()), (Seq(1), 1));
    assert_eq!(rig.refusal(Command::Push(Box::new(send("bob", "g:club", "")))), ErrorCode::Forbidden);
    assert_eq!(rig.push(send("eve", "g:club", "")).0, Seq(2));
}

#[test]
fn a_life_of_a_group_in_one_batch() {
    let mut rig = Rig::new();
    let commands = vec![
        create("g", false, Some("ann"), &["bob"]),
        Command::Push(Box::new(send("bob", "g:g", "1"))),
        remove("g", "bob", Some("ann")),
        Command::Push(Box::new(send("bob", "g:g", "no"))),
        pull(Some("bob"), "g:g", 0),
        dismiss("g", Some("ann")),
        Command::Push(Box::new(send("ann", "g:g", "no"))),
        create("g", false, Some("bob"), &[]),
        Command::Push(Box::new(send("ann", "g:g", "no"))),
        Command::Push(Box::new(send("bob", "g:g", "2"))),
    ];
    let inputs = commands.into_iter().map(|command| rig.command(command)).collect();
    let replies: Vec<_> = rig.turn(inputs).into_iter().filter_map(reply).map(|(_, result)| result).collect();
    let codes: Vec<Option<ErrorCode>> = replies.iter().map(|r| r.as_ref().err().map(|e| e.code)).collect();
    let (forbidden, gone) = (Some(ErrorCode::Forbidden), Some(ErrorCode::NotFound));
    assert_eq!(codes, [None, None, None, forbidden, None, None, gone, None, forbidden, None]);
    let Ok(Reply::Page { page, head, .. }) = &replies[4] else { panic!("{replies:?}") };
    assert_eq!((head.head, head.first), (Seq(4), Seq(5)), "bob left at 4, and the stream began anew in the same batch");
    assert!(page.messages.is_empty());
    let Ok(Reply::Pushed { epoch, seq, .. }) = &replies[9] else { panic!("{replies:?}") };
    assert_eq!(*seq, Some(Seq(2)));
    assert_ne!(*epoch, head.epoch);
}

#[test]
fn membership_follows_its_own_message() {
    let mut rig = Rig::new();
    club(&mut rig);
    rig.attach(GATEWAY, 1 << 20);
    rig.open(LinkOpen { streams: vec![named("g:club", None), named("u:bob", None)], ..open("bob", "d") });
    let input = rig.command(remove("club", "bob", Some("ann")));
    let items = links(rig.turn(vec![input]), GATEWAY);
    let [LinkItem::Deliver { lsn: said, upto, .. }, LinkItem::Membership { lsn, uid: who, seq, joined, reason, .. }] =
        &items[..]
    else {
        panic!("{items:?}")
    };
    assert_eq!((said.0 + 1, *upto, who.as_str()), (lsn.0, *seq, "bob"));
    assert_eq!((*joined, *reason), (false, LeaveReason::Removed));

    let inbox_only = GatewayId(2);
    rig.attach(inbox_only, 1 << 20);
    rig.turn(vec![Input::Interest { gateway: inbox_only, add: vec![stream("u:dan")], remove: vec![] }]);
    let input = rig.command(add("club", "dan", Some("ann")));
    let items = links(rig.turn(vec![input]), inbox_only);
    assert!(matches!(&items[..], [LinkItem::Membership { joined: true, .. }]), "{items:?}");
}

#[test]
fn a_dismissal_reaches_members_and_onlookers() {
    let mut rig = Rig::new();
    club(&mut rig);
    rig.attach(GATEWAY, 1 << 20);
    rig.turn(vec![Input::Interest { gateway: GATEWAY, add: vec![stream("g:club")], remove: vec![] }]);
    let input = rig.command(dismiss("club", None));
    let items = links(rig.turn(vec![input]), GATEWAY);
    let told: Vec<&str> = items
        .iter()
        .filter_map(|item| match item {
            LinkItem::Membership { uid, reason: LeaveReason::Dismissed, joined: false, .. } => Some(uid.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["ann", "bob", "cat"]);
    assert!(matches!(items.first(), Some(LinkItem::Deliver { .. })));
    assert!(matches!(items.last(), Some(LinkItem::Opened(opened)) if opened.corr == 0 && opened.result.is_err()));
}
