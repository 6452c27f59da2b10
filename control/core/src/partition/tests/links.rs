use super::*;
use crate::domain::{Lsn, OwnerEpoch};

fn interest(gateway: GatewayId, names: &[&str]) -> Input {
    Input::Interest { gateway, add: names.iter().map(|name| stream(name)).collect(), remove: Vec::new() }
}

/// A gateway comes back with this interest and cursor, or comes for the first time and then wants something.
fn arrive(gateway: GatewayId, credit_bytes: u64, names: &[&str], cursor: Option<(OwnerEpoch, Lsn)>) -> Vec<Input> {
    let mut inputs =
        vec![Input::LinkUp { gateway, credit_bytes }, interest(gateway, names), Input::InterestEnd { gateway, cursor }];
    if cursor.is_none() {
        inputs.swap(1, 2);
    }
    inputs
}

fn position(items: &[LinkItem]) -> Option<u64> {
    items.iter().rev().find_map(|item| match item {
        LinkItem::Position { lsn } => Some(lsn.0),
        _ => None,
    })
}

#[test]
fn only_who_is_interested_gets_it_and_a_burst_is_one_item() {
    let mut rig = Rig::new();
    let (one, two) = (GatewayId(1), GatewayId(2));
    rig.turn(arrive(one, 1 << 20, &["u:ann", "g:go"], None));
    rig.turn(arrive(two, 1 << 20, &["g:go"], None));
    let mut inputs = pushes("g:go", 3);
    inputs.extend(pushes("u:ann", 1));
    inputs.extend(pushes("g:go", 1));
    let out = rig.turn(inputs);
    let (ones, twos): (Vec<_>, Vec<_>) = out
        .into_iter()
        .filter(|output| matches!(output, Output::Link { .. }))
        .partition(|output| matches!(output, Output::Link { gateway, .. } if *gateway == one));
    let go = |lsn, after, upto: u64| (lsn, "g:go".to_owned(), after, upto, (after + 1..=upto).collect::<Vec<_>>());
    // The group's beginning is record 1.
    let ann = (5, "u:ann".to_owned(), 0, 1, vec![1]);
    assert_eq!(delivers(&links(ones, one)), [go(4, 0, 3), ann, go(6, 3, 4)]);
    assert_eq!(delivers(&links(twos, two)), [go(6, 0, 4)]);

    rig.turn(vec![Input::Interest { gateway: one, add: vec![], remove: vec![stream("g:go")] }]);
    rig.turn(vec![Input::LinkDown { gateway: two }]);
    let out = rig.turn(pushes("g:go", 1));
    assert!(!out.iter().any(|output| matches!(output, Output::Link { .. })));
    assert_eq!((rig.partition.stats().links, rig.partition.stats().interest), (1, 1));
}

#[test]
fn one_record_in_two_inboxes_of_one_gateway_is_complete_with_the_last() {
    let mut rig = Rig::new();
    rig.turn(arrive(GATEWAY, 1 << 20, &["u:ann", "u:bob"], None));
    let input = rig.command(Command::Push(Box::new(send("ann", "u:bob", "hi"))));
    let items = links(rig.turn(vec![input]), GATEWAY);
    let lsns: Vec<_> = delivers(&items).into_iter().map(|(lsn, name, ..)| (lsn, name)).collect();
    assert_eq!(lsns, [(0, "u:ann".to_owned()), (1, "u:bob".to_owned())]);
}

#[test]
fn a_link_that_comes_back_gets_what_it_missed() {
    let mut rig = Rig::new();
    rig.turn(arrive(GATEWAY, 1 << 20, &["u:ann"], None));
    let owner = rig.partition.origin().owner_epoch;
    rig.turn(pushes("u:ann", 2));
    rig.turn(vec![Input::LinkDown { gateway: GATEWAY }]);
    rig.turn(pushes("u:ann", 2));
    rig.turn(pushes("u:bob", 2));
    for restart in [false, true] {
        if restart {
            rig.restart();
        }
        let again = GatewayId(10 + u64::from(restart));
        let items = links(rig.turn(arrive(again, 1 << 20, &["u:ann"], Some((owner, Lsn(2))))), again);
        assert_eq!(delivers(&items), [(4, "u:ann".to_owned(), 2, 4, vec![3, 4])]);
        assert_eq!(position(&items), Some(6), "and then it knows that it has everything");
    }
}

#[test]
fn messages_between_attaching_and_the_end_of_the_announcement_are_not_lost() {
    let mut rig = Rig::new();
    let mut inputs = vec![Input::LinkUp { gateway: GATEWAY, credit_bytes: 1 << 20 }, interest(GATEWAY, &["u:ann"])];
    inputs.extend(pushes("u:ann", 2));
    assert!(links(rig.turn(inputs), GATEWAY).is_empty());
    let cursor = Some((OwnerEpoch(1), Lsn(0)));
    let items = links(rig.turn(vec![Input::InterestEnd { gateway: GATEWAY, cursor }]), GATEWAY);
    assert_eq!(delivers(&items), [(2, "u:ann".to_owned(), 0, 2, vec![1, 2])]);
}

#[test]
fn without_credit_nothing_is_queued_and_the_log_keeps_it() {
    let mut rig = Rig::new();
    rig.turn(arrive(GATEWAY, 100, &["u:ann"], None));
    let mut got = Vec::new();
    let mut sent = 0;
    for _ in 0..20 {
        let mut inputs = pushes("u:ann", 7);
        let ephemeral = Push { ephemeral: true, ..push("u:ann", "") };
        inputs.push(rig.command(Command::Push(Box::new(ephemeral))));
        let items = links(rig.turn(inputs), GATEWAY);
        sent += delivers(&items).iter().map(|d| d.4.len()).sum::<usize>();
        got.extend(delivers(&items));
    }
    assert!(sent < 10, "100 bytes hold fewer than ten messages, not {sent}");
    assert!(!rig.partition.wants_turn(), "without credit there is nothing to do");
    let stats = rig.partition.stats();
    assert_eq!((stats.catch_ups, stats.ephemeral_drops + stats.ephemeral_deliveries), (1, 20));
    assert!(stats.ephemeral_drops >= 18);
    let mut turns = 0;
    while got.last().is_none_or(|(_, _, _, upto, _)| *upto < 140) {
        let items = links(rig.turn(vec![Input::Credit { gateway: GATEWAY, bytes: 1_000 }]), GATEWAY);
        got.extend(delivers(&items));
        turns += 1;
        assert!(turns < 140);
    }
    assert!(turns > 5, "the window of 100 bytes bounds each turn, whatever was paid back");
    let all: Vec<u64> = got.iter().flat_map(|d| d.4.clone()).collect();
    assert_eq!(all, (1..=140).collect::<Vec<_>>());
    let items = links(rig.turn(vec![Input::Credit { gateway: GATEWAY, bytes: 1_000 }]), GATEWAY);
    assert!(position(&items).is_some() || !rig.partition.wants_turn());
    let items = links(rig.turn(pushes("u:ann", 1)), GATEWAY);
    assert_eq!(delivers(&items)[0].4, [141], "live again");
}

#[test]
fn opens_wait_until_their_link_is_up_to_date() {
    let mut rig = Rig::new();
    rig.turn(arrive(GATEWAY, 60, &["u:ann"], None));
    rig.turn(pushes("u:ann", 10));
    let asked = LinkOpen { streams: vec![named("u:ann", None)], ..open("ann", "d") };
    assert!(rig.open(asked).is_empty());
    assert_eq!(rig.partition.stats().opens_deferred, 1);
    let mut items = Vec::new();
    for _ in 0..20 {
        items.extend(links(rig.turn(vec![Input::Credit { gateway: GATEWAY, bytes: 60 }]), GATEWAY));
    }
    let at = items.iter().position(|item| matches!(item, LinkItem::Opened(_))).expect("answered in the end");
    let upto = delivers(&items[..at]).last().map(|d| d.3);
    assert_eq!(upto, Some(10), "everything below the head it names came before");
    let LinkItem::Opened(opened) = &items[at] else { panic!() };
    assert_eq!(opened.result.as_ref().map(|s| s.head.head.0).ok(), Some(10));
}

#[test]
fn a_place_that_cannot_be_replayed_is_reset() {
    // The last one's place was in another log.
    for (cursor, trim) in [(Some((1, 3)), 5), (Some((1, 999)), 0), (Some((99, 1)), 0), (None, 0)] {
        let mut rig = Rig::new();
        rig.turn(pushes("u:ann", 8));
        rig.turn(pushes("g:go", 2));
        if trim > 0 {
            rig.trim(trim);
        }
        let cursor = cursor.map(|(epoch, lsn)| (OwnerEpoch(epoch), Lsn(lsn)));
        let names = ["u:ann", "g:go", "u:quiet", "g:none"];
        let gateway = GATEWAY;
        let (up, end) = (Input::LinkUp { gateway, credit_bytes: 1 << 20 }, Input::InterestEnd { gateway, cursor });
        let items = links(rig.turn(vec![up, interest(gateway, &names), end]), gateway);
        assert!(matches!(items[0], LinkItem::Reset { lsn: Lsn(11) }), "{items:?}");
        let mut items = items;
        while rig.partition.wants_turn() {
            items.extend(links(rig.turn(Vec::new()), GATEWAY));
        }
        let heads: Vec<_> = items
            .iter()
            .filter_map(|item| match item {
                LinkItem::Opened(o) => Some((o.corr, o.stream.as_str(), o.result.as_ref().ok().map(|s| s.head.head.0))),
                _ => None,
            })
            .collect();
        let mut sorted = heads.clone();
        sorted.sort();
        assert_eq!(sorted, [(0, "g:go", Some(2)), (0, "g:none", None), (0, "u:ann", Some(8)), (0, "u:quiet", Some(0))]);
        assert_eq!(position(&items), Some(11));
        let items = links(rig.turn(pushes("u:ann", 1)), GATEWAY);
        assert_eq!(delivers(&items)[0].4, [9]);
    }
}

#[test]
fn a_great_reset_takes_several_turns_and_misses_nothing() {
    let mut rig = Rig::new();
    let names: Vec<String> = (0..3_000).map(|at| format!("u:n{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut items = links(rig.turn(arrive(GATEWAY, 1 << 20, &names, Some((OwnerEpoch(99), Lsn(1))))), GATEWAY);
    let mut pushed = 0;
    while rig.partition.wants_turn() {
        items.extend(links(rig.turn(pushes("u:n7", 1)), GATEWAY));
        pushed += 1;
    }
    assert!(pushed >= 2, "3,000 heads are more than one turn's");
    let opened = items.iter().filter(|item| matches!(item, LinkItem::Opened(_))).count();
    assert_eq!(opened, 3_000);
    let all: Vec<u64> = delivers(&items).into_iter().flat_map(|d| d.4).collect();
    assert_eq!(all, (1..=pushed).collect::<Vec<_>>());
}

#[test]
fn replay_leaves_out_what_has_expired_but_covers_it() {
    let mut rig = Rig::new();
    for ttl_s in [0, 1, 1] {
        rig.push(Push { ttl_s, ..push("u:ann", "") });
    }
    rig.now += 5_000;
    let owner = rig.partition.origin().owner_epoch;
    let items = links(rig.turn(arrive(GATEWAY, 1 << 20, &["u:ann"], Some((owner, Lsn(0))))), GATEWAY);
    assert_eq!(delivers(&items), [(3, "u:ann".to_owned(), 0, 3, vec![1])]);
}

#[test]
fn replay_tells_of_memberships_and_dismissals() {
    let mut rig = Rig::new();
    rig.ask(create("club", false, Some("ann"), &["bob"])).expect("created");
    rig.ask(Command::RemoveMember { gid: gid("club"), uid: uid("bob"), by: None }).expect("removed");
    rig.ask(Command::DismissGroup { gid: gid("club"), by: None }).expect("dismissed");
    let owner = rig.partition.origin().owner_epoch;
    let (inbox, group) = (GatewayId(1), GatewayId(2));
    let items = links(rig.turn(arrive(inbox, 1 << 20, &["u:bob"], Some((owner, Lsn(0))))), inbox);
    let told: Vec<_> = items
        .iter()
        .filter_map(|item| match item {
            LinkItem::Membership { lsn, uid, seq, joined, .. } => Some((lsn.0, uid.as_str(), seq.0, *joined)),
            _ => None,
        })
        .collect();
    assert_eq!(told, [(3, "bob", 2, true), (4, "bob", 3, false)]);
    let items = links(rig.turn(arrive(group, 1 << 20, &["g:club"], Some((owner, Lsn(3))))), group);
    assert_eq!(delivers(&items).iter().map(|d| d.3).collect::<Vec<_>>(), [3, 4]);
    assert!(items.iter().any(|item| matches!(item, LinkItem::Opened(o) if o.corr == 0 && o.result.is_err())));
}

#[test]
fn live_links_hear_of_their_position() {
    let mut rig = Rig::new();
    rig.turn(arrive(GATEWAY, 1 << 20, &["u:ann"], None));
    rig.turn(pushes("u:bob", 3));
    let mut heard = 0;
    for _ in 0..20 {
        rig.now += 100;
        let items = links(rig.turn(vec![Input::Tick]), GATEWAY);
        assert!(position(&items).is_none_or(|lsn| lsn == 3));
        heard += u32::from(position(&items).is_some());
    }
    assert!((2..=5).contains(&heard), "{heard} times in 2 s");
    rig.now -= 3_600_000;
    let items = links(rig.turn(vec![Input::Tick]), GATEWAY);
    assert_eq!(position(&items), Some(3), "a clock that jumped back stops nothing");
}

#[test]
fn what_breaks_the_protocol_is_detached() {
    let mut rig = Rig::with(PartitionConfig { interest_max: 3, ..PartitionConfig::default() });
    let detached = |out: Vec<Output>| out.iter().filter(|o| matches!(o, Output::Detach { .. })).count();
    rig.attach(GATEWAY, 1);
    assert_eq!(detached(rig.turn(vec![Input::InterestEnd { gateway: GATEWAY, cursor: None }])), 1);
    rig.attach(GATEWAY, 1);
    assert_eq!(detached(rig.turn(vec![Input::LinkUp { gateway: GATEWAY, credit_bytes: 1 }])), 1);
    rig.attach(GATEWAY, 1);
    assert_eq!(detached(rig.turn(vec![interest(GATEWAY, &["u:a", "u:b", "u:c", "u:d"])])), 1);
    assert_eq!(rig.partition.stats().interest, 0);
    let late = vec![interest(GATEWAY, &["u:a"]), Input::Credit { gateway: GATEWAY, bytes: 1 }];
    assert_eq!(detached(rig.turn(late)), 0, "what comes after the end goes nowhere");
    assert!(rig.open(LinkOpen { streams: vec![named("u:a", None)], ..open("a", "d") }).is_empty());
}

#[test]
fn opens_that_wait_are_bounded() {
    let mut rig = Rig::new();
    rig.turn(arrive(GATEWAY, 60, &["u:ann"], None));
    rig.turn(pushes("u:ann", 10));
    let opens = |count| (0..count).map(|_| LinkOpen { streams: vec![named("u:ann", None)], ..open("ann", "d") });
    let asked = |open| Input::Open { gateway: GATEWAY, open };
    let items = links(rig.turn(opens(OPENS_DEFERRED_MAX + 1).map(asked).collect()), GATEWAY);
    let [LinkItem::Opened(opened), LinkItem::OpenEnd { .. }] = &items[..] else { panic!("{items:?}") };
    let refusal = opened.result.as_ref().expect_err("one too many");
    assert_eq!((refusal.code, refusal.retry_after_ms.is_some()), (ErrorCode::Overloaded, true));
}
