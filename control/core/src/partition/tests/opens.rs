use super::*;

/// The one stream's answer.
fn opened(items: &[LinkItem]) -> &Opened {
    let [LinkItem::Opened(opened), LinkItem::OpenEnd { corr: 7 }] = items else { panic!("{items:?}") };
    assert_eq!(opened.corr, 7);
    opened
}

/// `(start, head, recovered, page)`.
fn start(rig: &mut Rig, open: LinkOpen) -> (u64, u64, Recovered, Option<Vec<u64>>) {
    let items = rig.open(open);
    let stream = opened(&items).result.as_ref().expect("may open");
    (stream.start.0, stream.head.head.0, stream.recovered, stream.page.as_deref().map(seqs))
}

fn one(who: &str, device: &str, name: &str, cursor: Option<(Epoch, u64)>) -> LinkOpen {
    LinkOpen { streams: vec![named(name, cursor)], ..open(who, device) }
}

fn attached() -> Rig {
    let mut rig = Rig::new();
    rig.attach(GATEWAY, 1 << 24);
    rig
}

#[test]
fn a_cursor_decides_where_to_start() {
    let mut rig = attached();
    rig.turn(pushes("u:ann", 150));
    let at = |cursor| one("ann", "d", "u:ann", Some(cursor));
    assert_eq!(start(&mut rig, at((BASE, 148))), (148, 150, Recovered::Full, Some(vec![149, 150])));
    assert_eq!(start(&mut rig, at((BASE, 150))), (150, 150, Recovered::Full, Some(vec![])));
    assert_eq!(start(&mut rig, at((BASE, 49))), (49, 150, Recovered::Partial, None));
    assert_eq!(start(&mut rig, at((BASE, 0))), (0, 150, Recovered::Partial, None));
    assert_eq!(start(&mut rig, at((BASE, 151))), (0, 150, Recovered::Expired, None));
    assert_eq!(start(&mut rig, at((Epoch(1), 150))), (0, 150, Recovered::Expired, None));
    let unreadable = LinkOpenStream { stream: stream("u:ann"), cursor: Some(("Ü".into(), Seq(150))), auto: false };
    let open = LinkOpen { streams: vec![unreadable], ..open("ann", "d") };
    assert_eq!(start(&mut rig, open).2, Recovered::Expired);
}

#[test]
fn a_page_too_big_is_to_be_pulled() {
    let mut rig = attached();
    let big = || Push { content: Content::Text("x".repeat(40_000).into()), ..push("u:ann", "") };
    rig.push(big());
    rig.push(big());
    assert_eq!(start(&mut rig, one("ann", "d", "u:ann", Some((BASE, 1)))).2, Recovered::Full);
    assert_eq!(start(&mut rig, one("ann", "d", "u:ann", Some((BASE, 0)))), (0, 2, Recovered::Partial, None));
}

#[test]
fn what_retention_took_is_expired() {
    let mut rig = attached();
    rig.turn(pushes("u:ann", 10));
    rig.trim(6);
    rig.attach(GATEWAY, 1 << 24);
    assert_eq!(start(&mut rig, one("ann", "d", "u:ann", Some((BASE, 6)))).2, Recovered::Full);
    let rest = Some(vec![7, 8, 9, 10]);
    assert_eq!(start(&mut rig, one("ann", "d", "u:ann", Some((BASE, 5)))), (6, 10, Recovered::Expired, rest.clone()));
    assert_eq!(start(&mut rig, one("ann", "d", "u:ann", None)), (6, 10, Recovered::Full, rest));
}

#[test]
fn without_a_cursor_an_inbox_starts_at_a_mark() {
    let mut rig = attached();
    rig.config.offline_max = 20;
    rig.restart();
    rig.attach(GATEWAY, 1 << 24);
    rig.turn(pushes("u:ann", 10));
    assert_eq!(start(&mut rig, one("ann", "new", "u:ann", None)).0, 0, "no mark at all");
    rig.ask(ack("ann", "ios", "u:ann", 4)).expect("acked");
    rig.ask(ack("ann", "web", "u:ann", 7)).expect("acked");
    assert_eq!(start(&mut rig, one("ann", "ios", "u:ann", None)).0, 4, "its own mark");
    assert_eq!(start(&mut rig, one("ann", "new", "u:ann", None)).0, 7, "the user's furthest");
    rig.turn(pushes("u:ann", 20));
    assert_eq!(start(&mut rig, one("ann", "ios", "u:ann", None)).0, 10, "not more than 20 before the head");
    assert_eq!(start(&mut rig, one("ann", "ios", "u:ann", Some((BASE, 2)))).0, 2, "a cursor always wins");
    rig.now += rig.config.mark_age_max_ms + 1;
    rig.config.offline_max = 1_000;
    rig.restart();
    rig.attach(GATEWAY, 1 << 24);
    assert_eq!(start(&mut rig, one("ann", "ios", "u:ann", None)).0, 0, "marks are forgotten in time");
}

#[test]
fn without_a_cursor_a_group_starts_at_the_head_or_the_mark() {
    let mut rig = attached();
    rig.turn(pushes("g:go", 5));
    assert_eq!(start(&mut rig, one("ann", "d", "g:go", None)), (5, 5, Recovered::Full, Some(vec![])));
    rig.ask(ack("ann", "d", "g:go", 3)).expect("acked");
    assert_eq!(start(&mut rig, one("ann", "d", "g:go", None)).0, 3);
    assert_eq!(start(&mut rig, one("ann", "other", "g:go", None)).0, 5);
}

#[test]
fn a_join_begins_an_open_group_where_that_is_wanted() {
    let mut rig = attached();
    let items = rig.open(one("ann", "d", "g:fresh", None));
    assert!(opened(&items).result.as_ref().is_ok_and(|s| s.open_group && s.listed && s.head.head == Seq(0)));
    assert_eq!(rig.disk.records().len(), 1);
    let mut strict = Rig::with(PartitionConfig::default());
    strict.attach(GATEWAY, 1 << 24);
    let items = strict.open(one("ann", "d", "g:fresh", None));
    assert!(opened(&items).result.as_ref().is_err_and(|refusal| refusal.code == ErrorCode::NotFound));
    assert!(strict.disk.records().is_empty());
}

#[test]
fn each_stream_is_authorised_by_itself() {
    let mut rig = attached();
    rig.ask(create("club", false, Some("ann"), &["eve"])).expect("created");
    rig.ask(Command::RemoveMember { gid: gid("club"), uid: uid("eve"), by: None }).expect("removed");
    let streams = ["u:eve", "u:ann", "g:club", "c:ann:eve", "u:eve", "g:_all"].map(|name| named(name, None)).into();
    let items = rig.open(LinkOpen { streams, ..open("eve", "d") });
    let answers: Vec<_> = items
        .iter()
        .filter_map(|item| match item {
            LinkItem::Opened(opened) => Some((opened.stream.as_str(), opened.result.as_ref().err().map(|e| e.code))),
            _ => None,
        })
        .collect();
    let (forbidden, bad) = (Some(ErrorCode::Forbidden), Some(ErrorCode::BadRequest));
    assert_eq!(
        answers,
        [("u:eve", None), ("u:ann", forbidden), ("g:club", forbidden), ("c:ann:eve", bad), ("g:_all", None)],
        "and one named twice is answered once"
    );
    assert!(matches!(items.last(), Some(LinkItem::OpenEnd { corr: 7 })));
    let items = links(
        rig.turn([pushes("u:ann", 1), pushes("g:club", 1), pushes("u:eve", 1)].into_iter().flatten().collect()),
        GATEWAY,
    );
    assert_eq!(delivers(&items).iter().map(|d| &*d.1).collect::<Vec<_>>(), ["u:eve"]);
}

#[test]
fn auto_join_brings_inbox_everybody_and_member_groups() {
    let mut rig = attached();
    for name in ["g1", "g2", "g3"] {
        rig.ask(create(name, false, Some("ann"), &["bob"])).expect("created");
    }
    rig.turn(pushes("g:g1", 1));
    rig.ask(Command::RemoveMember { gid: gid("g3"), uid: uid("bob"), by: None }).expect("removed");
    rig.ask(ack("bob", "d", "g:g2", 1)).expect("acked");
    let streams = vec![named("g:g1", Some((BASE, 2)))];
    let items = rig.open(LinkOpen { streams, auto_join: true, ..open("bob", "d") });
    let listed: Vec<_> = items
        .iter()
        .filter_map(|item| match item {
            LinkItem::Opened(o) => Some((o.stream.as_str(), o.result.as_ref().expect("may open").listed)),
            _ => None,
        })
        .collect();
    assert_eq!(listed, [("g:g1", true), ("u:bob", false), ("g:_all", false), ("g:g2", true)]);
}

#[test]
fn an_open_stands_at_its_place_in_the_order() {
    let mut rig = attached();
    let mut inputs = pushes("u:ann", 2);
    inputs.push(Input::Open { gateway: GATEWAY, open: one("ann", "d", "u:ann", Some((BASE, 0))) });
    inputs.extend(pushes("u:ann", 2));
    let items = links(rig.turn(inputs), GATEWAY);
    let [LinkItem::Opened(opened), LinkItem::OpenEnd { .. }, LinkItem::Deliver { after, upto, .. }] = &items[..] else {
        panic!("{items:?}")
    };
    let stream = opened.result.as_ref().expect("may open");
    assert_eq!((stream.head.head, stream.page.as_deref().map(seqs)), (Seq(2), Some(vec![1, 2])));
    assert_eq!((*after, *upto), (Seq(2), Seq(4)));
}
