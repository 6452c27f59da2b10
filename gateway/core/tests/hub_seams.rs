//! Random joins, leaves, deliveries, slow readers, breaks of the link, new epochs and new owners, in every order: no hole,
//! no duplicate at a seam, nothing to those who are no members, and in the end everybody has everything.

mod hub_world;

use std::time::Duration;

use hub_world::World;
use hub_world::client::Asked;
use proptest::prelude::*;
use tidegate_gateway_core::client::ops::Op;
use tidegate_gateway_core::ids::StreamKey;

/// What may happen in a run beside the ordinary.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    /// Pulls that no gap asked for: their answers may run ahead of the fan-outs.
    pulls: bool,
    slow: bool,
    link: bool,
    epochs: bool,
    members: bool,
    partitions: u32,
}

struct Run {
    world: World,
    streams: Vec<StreamKey>,
    trouble: Trouble,
}

const USERS: [&str; 4] = ["alice", "bob", "carol", "dan"];

impl Run {
    fn new(seed: u64, trouble: Trouble) -> Run {
        let mut world = World::with_partitions(seed, 2, hub_world::config(), trouble.partitions);
        world.can_reset = trouble.link;
        let mut streams = Vec::new();
        for user in USERS {
            streams.push(world.control.create(&format!("u:{user}"), false));
        }
        streams.push(world.control.create("g:open", true));
        streams.push(world.control.create("g:busy", true));
        streams.push(world.control.create("g:closed", false));
        world.control.set_member(&hub_world::uid("alice"), &streams[6], true);
        for who in 0..12 {
            let who = world.client(USERS[who % USERS.len()]);
            world.clients[who].strict = !trouble.pulls;
        }
        Run { world, streams, trouble }
    }

    fn step(&mut self) {
        let world = &mut self.world;
        match world.below(100) {
            0..=29 => self.traffic(),
            30..=44 => self.client_act(),
            45..=54 => {
                let who = world.below(world.clients.len() as u64) as usize;
                world.client_step(who);
            }
            55..=64 => {
                world.link_step();
            }
            65..=74 => {
                world.control_step();
            }
            75..=89 => {
                let shard = world.below(2) as usize;
                world.shard_step(shard);
                world.hub_step(shard);
            }
            90..=95 => {
                let ms = world.below(60);
                world.advance(Duration::from_millis(ms));
            }
            _ => self.trouble(),
        }
    }

    fn traffic(&mut self) {
        let world = &mut self.world;
        let stream = match world.below(3) {
            0 => self.streams[5].clone(),
            _ => self.streams[world.below(self.streams.len() as u64) as usize].clone(),
        };
        match world.below(12) {
            0 => world.control.ephemeral(&stream, &[]),
            1 => world.control.ephemeral(&stream, &[1]),
            2 => {
                let platform = world.below(3) as u8;
                world.control.publish(&stream, 0, &[platform], "for some");
            }
            3 => {
                let skip = world.below(3);
                world.control.publish(&stream, skip, &[], "after a trimmed one");
            }
            4 => {
                for _ in 0..world.below(30) {
                    world.control.publish(&stream, 0, &[], "burst");
                }
            }
            5 => {
                world.control.publish(&stream, 0, &[], &"large ".repeat(4_000));
            }
            _ => {
                world.control.publish(&stream, 0, &[], "hello");
            }
        }
    }

    fn client_act(&mut self) {
        let world = &mut self.world;
        let who = world.below(world.clients.len() as u64) as usize;
        let Some((shard, id)) = world.clients[who].at else {
            let auto_join = world.below(4) > 0;
            let reply_to = (world.below(2) == 0).then_some(1_000_000);
            return world.connect_with(who, auto_join, reply_to);
        };
        let group = self.streams[4 + world.below(3) as usize].clone();
        let leaving = world.clients[who].requests.values().any(|asked| matches!(asked, Asked::Leave(_)));
        if leaving && !self.trouble.pulls {
            // A cursor sent behind a leave is older than what is still on its way.
            return;
        }
        match world.below(12) {
            0 => world.disconnect(who),
            1..=5 => world.join(who, &group),
            6 => {
                world.request(who, Op::Leave { stream: group });
            }
            7 if self.trouble.pulls && world.clients[who].streams.contains_key(&group) => {
                let cursors = world.clients[who].cursors();
                if let Some((stream, cursor)) = cursors.into_iter().find(|(key, _)| *key == group) {
                    let (epoch, after) = (Some(cursor.epoch), cursor.seq);
                    world.request(who, Op::Pull { stream, epoch, after, since_ts: None, limit: Some(7) });
                }
            }
            8..=9 if self.trouble.slow => world.shards[shard].set_slow(id.index, true),
            10..=11 => world.shards[shard].set_slow(id.index, false),
            _ => {}
        }
    }

    fn trouble(&mut self) {
        let world = &mut self.world;
        let at = world.below(self.streams.len() as u64) as usize;
        let stream = self.streams[at].clone();
        match world.below(8) {
            0..=2 if self.trouble.link => {
                let partition = world.some_partition();
                match world.control.partitions[partition].attached {
                    true => world.control.break_link(partition),
                    false => world.control.attach(partition),
                }
            }
            3 if self.trouble.epochs && world.below(3) == 0 => {
                world.control.new_epoch(&stream);
                // The hub hears of it by what is published next.
                world.control.publish(&stream, 0, &[], "anew");
            }
            4 if self.trouble.epochs => {
                let first = world.control.streams[&stream].head.saturating_sub(world.below(20));
                world.control.trim(&stream, first);
            }
            5..=6 if self.trouble.members => {
                let user = hub_world::uid(USERS[world.below(4) as usize]);
                let closed = self.streams[6].clone();
                let member = world.control.streams[&closed].members.contains_key(user.as_str());
                world.control.set_member(&user, &closed, !member);
            }
            7 if self.trouble.link => {
                let partition = world.some_partition();
                world.control.new_owner(partition);
            }
            _ => {}
        }
    }

    fn finish(mut self) -> World {
        self.world.control.attach_all();
        self.world.settle();
        for stream in &self.streams {
            self.world.control.publish(stream, 0, &[], "the end");
        }
        self.world.settle();
        self.world.check();
        self.world
    }
}

fn run(seed: u64, steps: u32, trouble: Trouble) -> World {
    let mut run = Run::new(seed, trouble);
    for _ in 0..steps {
        run.step();
    }
    run.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Without trouble no frame ever covers what a connection already has.
    #[test]
    fn seams_are_exact_while_all_is_well(seed in any::<u64>(), steps in 50..800_u32, partitions in prop::sample::select(vec![1, 3])) {
        let trouble = Trouble { pulls: false, slow: false, link: false, epochs: false, members: false, partitions };
        let mut world = run(seed, steps, trouble);
        world.check_forgets();
    }

    #[test]
    fn slow_readers_and_memberships_lose_nothing(seed in any::<u64>(), steps in 50..1_200_u32, partitions in prop::sample::select(vec![1, 3])) {
        let trouble = Trouble { pulls: true, slow: true, link: false, epochs: false, members: true, partitions };
        run(seed, steps, trouble).check_forgets();
    }

    #[test]
    fn broken_links_and_new_epochs_lose_nothing(seed in any::<u64>(), steps in 50..1_500_u32, partitions in prop::sample::select(vec![1, 3])) {
        let trouble = Trouble { pulls: true, slow: true, link: true, epochs: true, members: true, partitions };
        run(seed, steps, trouble).check_forgets();
    }
}
