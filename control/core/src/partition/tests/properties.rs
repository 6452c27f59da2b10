//! Whatever is asked and whatever fails: what was promised holds.

use proptest::prelude::*;

use super::world::{USERS, World};
use super::*;
use crate::ports::memory::Fault;

const STREAMS: [&str; 7] = ["u:ann", "u:bob", "u:cat", "g:open", "g:club", "g:_all", "c:ann:bob"];

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<Op>, Planted),
    Crash,
    BreakLink(usize),
    Credit(usize, u64),
    Open(usize, usize),
    JumpClock(i64),
}

#[derive(Clone, Copy, Debug)]
enum Planted {
    Nothing,
    Unavailable,
    DiesBefore,
    DiesAfter,
}

#[derive(Clone, Debug)]
enum Op {
    Push { to: usize, sender: Option<usize>, key: Option<u8>, text: u8, ephemeral: bool },
    Create { club: bool, creator: Option<usize> },
    Add { club: bool, who: usize, by: Option<usize> },
    Remove { club: bool, who: usize, by: Option<usize> },
    Dismiss { club: bool },
    Ack { who: usize, of: usize, seq: u64 },
    Read { who: usize, of: usize, seq: u64 },
    Pull { who: Option<usize>, of: usize, after: u64 },
}

fn group(club: bool) -> Gid {
    gid(if club { "club" } else { "open" })
}

fn command(op: Op) -> Command {
    let user = |at: usize| uid(USERS[at]);
    match op {
        Op::Push { to, sender, key, text, ephemeral } => {
            let key: Option<Box<str>> = key.map(|key| format!("k{key}").into());
            let mut push = Push { ephemeral, ..push(STREAMS[to], &format!("text {text}")) };
            match sender {
                Some(sender) => (push.sender, push.client_msg_id) = (Some(user(sender)), key.unwrap_or_default()),
                None => push.message_id = key,
            }
            Command::Push(Box::new(push))
        }
        Op::Create { club, creator } => Command::CreateGroup {
            gid: group(club),
            name: "".into(),
            open: !club,
            creator: creator.map(user),
            members: if club { vec![user(1)] } else { Vec::new() },
        },
        Op::Add { club, who, by } => Command::AddMember { gid: group(club), uid: user(who), by: by.map(user) },
        Op::Remove { club, who, by } => Command::RemoveMember { gid: group(club), uid: user(who), by: by.map(user) },
        Op::Dismiss { club } => Command::DismissGroup { gid: group(club), by: None },
        Op::Ack { who, of, seq } => ack(USERS[who], "d", STREAMS[of], seq),
        Op::Read { who, of, seq } => {
            Command::Read { uid: user(who), stream: stream(STREAMS[of]), epoch: None, seq: Seq(seq) }
        }
        Op::Pull { who, of, after } => pull(who.map(|who| USERS[who]), STREAMS[of], after),
    }
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..USERS.len();
    let by = prop::option::of(0..USERS.len());
    let of = 0..STREAMS.len();
    let push = (of.clone(), by.clone(), prop::option::of(0_u8..6), 0_u8..2, prop::bool::weighted(0.1));
    prop_oneof![
        12 => push.prop_map(|(to, sender, key, text, ephemeral)| Op::Push { to, sender, key, text, ephemeral }),
        1 => (any::<bool>(), by.clone()).prop_map(|(club, creator)| Op::Create { club, creator }),
        2 => (any::<bool>(), who.clone(), by.clone()).prop_map(|(club, who, by)| Op::Add { club, who, by }),
        2 => (any::<bool>(), who.clone(), by.clone()).prop_map(|(club, who, by)| Op::Remove { club, who, by }),
        1 => any::<bool>().prop_map(|club| Op::Dismiss { club }),
        2 => (who.clone(), of.clone(), 0_u64..20).prop_map(|(who, of, seq)| Op::Ack { who, of, seq }),
        1 => (who, of.clone(), 0_u64..20).prop_map(|(who, of, seq)| Op::Read { who, of, seq }),
        2 => (by, of, 0_u64..20).prop_map(|(who, of, after)| Op::Pull { who, of, after }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let planted = prop_oneof![
        8 => Just(Planted::Nothing),
        1 => Just(Planted::Unavailable),
        1 => Just(Planted::DiesBefore),
        1 => Just(Planted::DiesAfter),
    ];
    prop_oneof![
        10 => (prop::collection::vec(op(), 0..14), planted).prop_map(|(ops, planted)| Step::Batch(ops, planted)),
        1 => Just(Step::Crash),
        2 => (0_usize..3).prop_map(Step::BreakLink),
        4 => (0_usize..3, 0_u64..800).prop_map(|(gateway, bytes)| Step::Credit(gateway, bytes)),
        3 => (0_usize..3, 0_usize..8).prop_map(|(gateway, which)| Step::Open(gateway, which)),
        1 => (-5_000_000_i64..5_000_000).prop_map(Step::JumpClock),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_was_promised_holds(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new(&[&["u:ann", "g:open", "g:club"], &["u:ann", "u:bob", "g:_all"], &["u:cat", "g:club"]]);
        for step in steps {
            match step {
                Step::Batch(ops, planted) => {
                    let fault = match planted {
                        Planted::Nothing => Fault::None,
                        Planted::Unavailable => Fault::Unavailable,
                        Planted::DiesBefore => Fault::DiesBefore,
                        Planted::DiesAfter => Fault::DiesAfter,
                    };
                    world.batch(ops.into_iter().map(command).collect(), fault);
                }
                Step::Crash => world.crash(),
                Step::BreakLink(gateway) => world.break_link(gateway),
                Step::Credit(gateway, bytes) => world.credit(gateway, bytes),
                Step::Open(gateway, which) => world.open(gateway, which),
                Step::JumpClock(ms) => world.jump_clock(ms),
            }
        }
        world.settle();
    }

    /// Hash seeds and the order of look-ups must not show.
    #[test]
    fn the_same_inputs_give_the_same_outputs(batches in prop::collection::vec(prop::collection::vec(op(), 0..10), 1..8)) {
        let run = |seed: u64| {
            let mut rig = Rig::new();
            rig.partition = Partition::new(PartitionId(0), rig.disk.open(), rig.config.clone(), seed).expect("opens");
            rig.attach(GATEWAY, 2_000);
            let add = STREAMS.map(stream).to_vec();
            let mut said = format!("{:?}", rig.turn(vec![Input::Interest { gateway: GATEWAY, add, remove: Vec::new() }]));
            for batch in &batches {
                let inputs = batch.iter().cloned().map(|op| rig.command(command(op))).collect();
                said += &format!("{:?}", rig.turn(inputs));
            }
            said
        };
        prop_assert_eq!(run(1), run(0xfeed));
    }
}
