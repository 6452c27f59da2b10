use super::*;
use crate::partition::limits;

fn read(who: &str, name: &str, epoch: Option<Epoch>, seq: u64) -> Command {
    Command::Read { uid: uid(who), stream: stream(name), epoch, seq: Seq(seq) }
}

#[test]
fn a_pull_is_bounded_and_says_how_far_it_got() {
    let mut rig = Rig::new();
    rig.turn(pushes("u:ann", 1_200));
    let mut after = 0;
    let mut got = Vec::new();
    while after < 1_200 {
        let (page, head) = rig.pull(Some("ann"), "u:ann", after).expect("own inbox");
        assert_eq!((page.after, head.head, head.first), (Seq(after), Seq(1_200), Seq(1)));
        assert!(page.messages.len() <= 100 && page.upto > page.after);
        got.extend(seqs(&page.messages));
        after = page.upto.0;
    }
    assert_eq!(got, (1..=1_200).collect::<Vec<_>>());
    let unbounded = Command::Pull {
        uid: None,
        stream: stream("u:ann"),
        epoch: Some(BASE),
        after: Seq(0),
        since_ts: None,
        limit: usize::MAX,
    };
    let Ok(Reply::Page { page, .. }) = rig.ask(unbounded) else { panic!("refused") };
    assert_eq!(page.messages.len(), limits::PULL_MESSAGES_MAX);
    let (page, _) = rig.pull(None, "u:ann", 1_200).expect("at the head");
    assert_eq!((page.after, page.upto, page.messages.len()), (Seq(1_200), Seq(1_200), 0));
}

#[test]
fn another_epoch_or_a_place_beyond_the_head_is_expired() {
    let mut rig = Rig::new();
    rig.turn(pushes("u:ann", 3));
    let foreign = Command::Pull {
        uid: Some(uid("ann")),
        stream: stream("u:ann"),
        epoch: Some(Epoch(1)),
        after: Seq(1),
        since_ts: None,
        limit: 10,
    };
    for command in [foreign, pull(Some("ann"), "u:ann", 4)] {
        let refusal = rig.ask(command).expect_err("expired");
        assert_eq!(refusal.code, ErrorCode::Expired);
        let stands = refusal.stands.expect("it says where the stream stands");
        assert_eq!((stands.epoch, stands.head, stands.first), (BASE, Seq(3), Seq(1)));
    }
}

#[test]
fn nobody_reads_what_is_not_his() {
    let mut rig = Rig::new();
    rig.push(send("ann", "u:bob", "psst"));
    rig.ask(create("club", false, Some("ann"), &[])).expect("created");
    for name in ["u:ann", "c:ann:bob", "g:club"] {
        assert_eq!(rig.refusal(pull(Some("eve"), name, 0)), ErrorCode::Forbidden, "{name}");
        assert_eq!(rig.refusal(ack("eve", "d", name, 1)), ErrorCode::Forbidden, "{name}");
        assert_eq!(rig.refusal(read("eve", name, None, 1)), ErrorCode::Forbidden, "{name}");
        rig.pull(None, name, 0).expect("a backend may");
    }
    assert_eq!(rig.refusal(pull(Some("eve"), "g:none", 0)), ErrorCode::NotFound);
    let streams = ["u:eve", "u:ann", "g:none", "g:_all"].map(stream).to_vec();
    let Ok(Reply::Heads(heads)) = rig.ask(Command::Heads { uid: Some(uid("eve")), streams }) else { panic!("refused") };
    let codes: Vec<_> = heads.iter().map(|(_, head)| head.as_ref().err().map(|e| e.code)).collect();
    assert_eq!(codes, [None, Some(ErrorCode::Forbidden), Some(ErrorCode::NotFound), None]);
    assert_eq!(heads[0].1, Ok(Head { epoch: BASE, head: Seq(0), first: Seq(1) }));
}

#[test]
fn a_member_reads_inside_the_interval() {
    let mut rig = Rig::new();
    rig.ask(create("club", false, Some("ann"), &[])).expect("created");
    rig.turn(pushes("g:club", 3));
    let join = |who: &str| Command::AddMember { gid: gid("club"), uid: uid(who), by: None };
    rig.ask(join("bob")).expect("added at 5");
    rig.turn(pushes("g:club", 2));
    rig.ask(Command::RemoveMember { gid: gid("club"), uid: uid("bob"), by: None }).expect("removed at 8");
    rig.turn(pushes("g:club", 2));

    let (page, head) = rig.pull(Some("bob"), "g:club", 0).expect("inside his interval");
    assert_eq!((head.first, head.head), (Seq(5), Seq(8)));
    assert_eq!((page.after, page.upto, seqs(&page.messages)), (Seq(0), Seq(8), vec![5, 6, 7, 8]));
    assert_eq!(rig.refusal(pull(Some("bob"), "g:club", 9)), ErrorCode::Expired);
    rig.ask(join("bob")).expect("added again at 11");
    let (page, _) = rig.pull(Some("bob"), "g:club", 0).expect("a member again");
    assert_eq!(seqs(&page.messages), [11]);

    rig.config.group_history = GroupHistory::All;
    rig.restart();
    let (page, _) = rig.pull(Some("bob"), "g:club", 0).expect("everything");
    assert_eq!(seqs(&page.messages), (1..=11).collect::<Vec<_>>());
}

#[test]
fn expired_and_trimmed_messages_are_left_out_but_covered() {
    let mut rig = Rig::new();
    let short = |ttl_s| Push { ttl_s, ..push("u:ann", "") };
    for ttl_s in [0, 1, 0, 1, 1] {
        rig.push(short(ttl_s));
    }
    rig.now += 1_000;
    let (page, _) = rig.pull(Some("ann"), "u:ann", 0).expect("own inbox");
    assert_eq!((page.after, page.upto, seqs(&page.messages)), (Seq(0), Seq(5), vec![1, 3]));
    rig.trim(2);
    let (page, head) = rig.pull(Some("ann"), "u:ann", 0).expect("own inbox");
    assert_eq!((page.after, page.upto, seqs(&page.messages), head.first), (Seq(0), Seq(5), vec![3], Seq(3)));
    rig.trim(5);
    let (page, head) = rig.pull(Some("ann"), "u:ann", 0).expect("own inbox");
    assert_eq!((page.upto, page.messages.len(), head.first), (Seq(5), 0, Seq(6)));
}

#[test]
fn a_pull_since_a_time_begins_there() {
    let mut rig = Rig::new();
    let mut times = Vec::new();
    for _ in 0..4 {
        rig.now += 1_000;
        times.push(rig.now);
        rig.push(push("u:ann", ""));
    }
    let since = |ts, after| Command::Pull {
        uid: None,
        stream: stream("u:ann"),
        epoch: None,
        after: Seq(after),
        since_ts: Some(ts),
        limit: 10,
    };
    let Ok(Reply::Page { page, .. }) = rig.ask(since(times[2], 0)) else { panic!("refused") };
    assert_eq!((page.after, page.upto, seqs(&page.messages)), (Seq(2), Seq(4), vec![3, 4]));
    let Ok(Reply::Page { page, .. }) = rig.ask(since(times[0], 3)) else { panic!("refused") };
    assert_eq!(seqs(&page.messages), [4]);
}

#[test]
fn marks_only_move_forward() {
    let mut rig = Rig::new();
    rig.turn(pushes("u:ann", 5));
    assert_eq!(rig.refusal(ack("ann", "ios", "u:ann", 6)), ErrorCode::BadRequest);
    let wrong = Command::Ack {
        uid: uid("ann"),
        device: "ios".into(),
        stream: stream("u:ann"),
        epoch: Some(Epoch(9)),
        seq: Seq(1),
    };
    assert_eq!(rig.refusal(wrong), ErrorCode::Expired);
    let records = rig.disk.records().len();
    let inputs = [3, 2, 4, 4].map(|seq| rig.command(ack("ann", "ios", "u:ann", seq))).into();
    rig.turn(inputs);
    assert_eq!(rig.disk.records().len(), records + 2, "only 3 and 4 moved it");
    rig.ask(ack("ann", "ios", "u:ann", 1)).expect("not an error");
    rig.ask(ack("ann", "web", "u:ann", 1)).expect("another device");
    rig.ask(read("ann", "u:ann", Some(BASE), 5)).expect("read");
    rig.ask(read("ann", "u:ann", None, 2)).expect("not an error");
    assert_eq!(rig.refusal(read("ann", "u:ann", None, 6)), ErrorCode::BadRequest);
    assert_eq!(rig.disk.records().len(), records + 4);
    let store = rig.disk.open();
    use crate::ports::StoreReader;
    let mut marks = store.marks(&uid("ann"), &stream("u:ann")).expect("marks");
    marks.sort_by(|a, b| a.device.cmp(&b.device));
    assert_eq!(marks.iter().map(|m| (&*m.device, m.seq.0)).collect::<Vec<_>>(), [("ios", 4), ("web", 1)]);
    assert_eq!(store.read_cursor(&uid("ann"), &stream("u:ann")).expect("read_cursor"), Some((BASE, Seq(5))));
}
