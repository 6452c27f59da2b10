use super::*;
use crate::ports::memory::Fault;
use crate::ports::{MessageStore, StoreReader};

impl Rig {
    fn attempt(&mut self, inputs: &mut Vec<Input>) -> (Result<(), StoreError>, Vec<Output>) {
        let mut out = Vec::new();
        let result = self.partition.handle(Timestamp(self.now), inputs, &mut out);
        (result, out)
    }
}

#[test]
fn a_store_that_comes_back_gets_the_batch_as_it_was_decided() {
    let mut rig = Rig::new();
    rig.attach(GATEWAY, 1 << 20);
    rig.open(LinkOpen { streams: vec![named("u:ann", None)], ..open("ann", "d") });
    for _ in 0..3 {
        rig.disk.plant(Fault::Unavailable);
    }
    let mut inputs = pushes("u:ann", 2);
    for _ in 0..3 {
        let (result, out) = rig.attempt(&mut inputs);
        assert!(matches!(result, Err(StoreError::Unavailable(_))));
        assert!(out.is_empty(), "nothing is said before it is durable");
        assert!(!rig.partition.wants_turn());
    }
    assert!(rig.disk.records().is_empty());
    inputs.extend(pushes("u:ann", 1));
    let (result, out) = rig.attempt(&mut inputs);
    result.expect("the store is back");
    assert!(inputs.is_empty());
    assert_eq!(out.iter().filter(|o| matches!(o, Output::Reply { result: Ok(_), .. })).count(), 3);
    assert_eq!(rig.disk.records().len(), 3);
    let seqs: Vec<u64> = delivers(&links(out, GATEWAY)).into_iter().flat_map(|d| d.4).collect();
    assert_eq!(seqs, [1, 2, 3]);
}

#[test]
fn a_store_that_stays_away_undoes_the_batch() {
    let mut rig = Rig::new();
    rig.attach(GATEWAY, 1 << 20);
    rig.push(push("u:ann", "before"));
    let before = rig.disk.records();
    for _ in 0..COMMIT_TRIES_MAX {
        rig.disk.plant(Fault::Unavailable);
    }
    let commands = vec![
        Command::Push(Box::new(keyed("u:ann", "lost", "k"))),
        Command::Push(Box::new(keyed("u:ann", "lost", "k"))),
        create("club", false, Some("ann"), &["bob"]),
        ack("ann", "d", "u:ann", 1),
        pull(Some("ann"), "u:ann", 0),
        Command::Heads { uid: None, streams: vec![stream("u:ann")] },
        Command::Push(Box::new(push("c:a:b", "never right"))),
    ];
    let mut inputs: Vec<Input> = commands.into_iter().map(|command| rig.command(command)).collect();
    inputs.push(Input::Open {
        gateway: GATEWAY,
        open: LinkOpen { streams: vec![named("u:ann", None)], ..open("ann", "d") },
    });
    let mut tries = 0;
    let out = loop {
        let (result, out) = rig.attempt(&mut inputs);
        tries += 1;
        match result {
            Ok(()) => break out,
            Err(_) => assert!(out.is_empty()),
        }
    };
    assert_eq!(tries, COMMIT_TRIES_MAX);
    let codes: Vec<_> = out
        .iter()
        .filter_map(|output| match output {
            Output::Reply { result, .. } => Some(result.as_ref().expect_err("not durable").code),
            _ => None,
        })
        .collect();
    assert_eq!(codes[..6], [ErrorCode::Unavailable; 6]);
    assert_eq!(codes[6..], [ErrorCode::BadRequest]);
    let items = links(out, GATEWAY);
    let [LinkItem::Opened(opened), LinkItem::OpenEnd { .. }] = &items[..] else { panic!("{items:?}") };
    assert_eq!(opened.result.as_ref().map(|s| s.head.head), Ok(Seq(1)), "an open is decided again, not refused");

    assert_eq!(rig.disk.records(), before);
    assert_eq!(rig.push(keyed("u:ann", "now", "k")), (Seq(2), false), "neither the seq nor the key was used");
    rig.ask(create("club", false, Some("eve"), &[])).expect("the gid is still free");
}

#[test]
fn a_fatal_commit_answers_nothing() {
    for fault in [Fault::DiesBefore, Fault::DiesAfter] {
        let mut rig = Rig::new();
        rig.push(push("u:ann", "1"));
        rig.disk.plant(fault);
        let mut inputs = vec![Input::Tick];
        inputs.push(rig.command(Command::Push(Box::new(keyed("u:ann", "2", "k")))));
        let (result, out) = rig.attempt(&mut inputs);
        assert!(matches!(result, Err(StoreError::Fatal(_))));
        assert!(out.is_empty());
        rig.restart();
        let survived = fault == Fault::DiesAfter;
        assert_eq!(rig.push(keyed("u:ann", "2", "k")), (Seq(2), survived), "its retry is the same message");
        assert_eq!(rig.push(push("u:ann", "3")).0, Seq(3));
    }
}

#[test]
fn a_fenced_owner_answers_nothing() {
    let mut rig = Rig::new();
    rig.push(push("u:ann", "1"));
    let newer = rig.disk.open();
    assert!(newer.owner_epoch() > rig.partition.origin().owner_epoch);
    let (result, out) = rig.attempt(&mut pushes("u:ann", 1));
    assert!(matches!(result, Err(StoreError::Fenced)));
    assert!(out.is_empty());
    assert_eq!(newer.last_lsn().0, 1);
}

#[test]
fn the_cache_of_heads_may_be_smaller_than_a_batch() {
    let mut rig = Rig::with(PartitionConfig { heads_max: 4, auto_groups: true, ..PartitionConfig::default() });
    for round in 1..=3 {
        let inputs = (0..50).flat_map(|at| pushes(&format!("u:n{at}"), 1)).collect();
        for (_, result) in rig.turn(inputs).into_iter().filter_map(reply) {
            assert!(matches!(result, Ok(Reply::Pushed { seq: Some(Seq(seq)), .. }) if seq == round));
        }
        assert_eq!(rig.partition.stats().heads, 4);
    }
}
