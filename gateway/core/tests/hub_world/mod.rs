//! A world around the hub: scripted shards, a scripted control, clients that judge. Everything happens in single steps
//! whose order the caller chooses, so a failure replays from its seed.

#![allow(dead_code)]

pub mod bench;
pub mod client;
pub mod control;
pub mod frames;
pub mod shard;

use std::time::Duration;

use client::{Asked, Client};
use control::Control;
use shard::Shard;
use tidegate_gateway_core::client::ops::{AckMode, Op};
use tidegate_gateway_core::hub::{Hub, HubConfig};
use tidegate_gateway_core::ids::{ConnId, Now, StreamKey, Uid};
use tidegate_gateway_core::link::{FromLink, PartitionId};
use tidegate_gateway_core::messages::{ConnClass, Encoding, Hello, PlatformId};

pub struct World {
    pub now: Now,
    pub hub: Hub,
    pub shards: Vec<Shard>,
    pub control: Control,
    pub clients: Vec<Client>,
    pub can_reset: bool,
    pub random: u64,
    generation: u32,
}

pub fn config() -> HubConfig {
    HubConfig {
        gateway: "g1".into(),
        hot_tail_messages: 10,
        hot_tail_bytes_max: 8_000,
        fanout_slice: 3,
        ..HubConfig::default()
    }
}

impl World {
    /// One partition, whose link is up from the start.
    pub fn new(seed: u64, shards: u16, config: HubConfig) -> World {
        World::with_partitions(seed, shards, config, 1)
    }

    pub fn with_partitions(seed: u64, shards: u16, config: HubConfig, partitions: u32) -> World {
        let slice = config.fanout_slice as usize;
        let mut world = World {
            now: Now(1_000_000_000),
            hub: Hub::new(config, seed),
            shards: (0..shards).map(|id| Shard::new(id, slice)).collect(),
            control: Control::new(partitions),
            clients: Vec::new(),
            can_reset: false,
            random: seed,
            generation: 0,
        };
        world.hub.set_partitions(world.now, world.control.count).expect("told once");
        for partition in 0..world.control.partitions.len() {
            world.control.attach(partition);
            world.link_step_of(partition);
        }
        world
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    pub fn client(&mut self, uid: &str) -> usize {
        self.clients.push(Client::new(uid.parse().expect("a uid")));
        self.clients.len() - 1
    }

    /// Connects with what the client remembers. The class follows from the client's number, so that all kinds occur.
    pub fn connect(&mut self, who: usize, auto_join: bool) {
        self.connect_with(who, auto_join, None);
    }

    pub fn connect_with(&mut self, who: usize, auto_join: bool, reply_to: Option<u32>) {
        assert!(self.clients[who].at.is_none());
        self.generation += 1;
        let id = ConnId { index: who as u32, generation: self.generation };
        let client = &mut self.clients[who];
        if !auto_join {
            client.streams.retain(|_, follow| follow.last.is_some());
        }
        let class = ConnClass {
            encoding: if who.is_multiple_of(2) { Encoding::Proto } else { Encoding::Json },
            deflate: who.is_multiple_of(3),
            platform: PlatformId(who as u8 % 3),
        };
        let hello = Hello {
            uid: client.uid.clone(),
            device: format!("d{who}").into(),
            class,
            reply_to,
            cursors: client.cursors(),
            auto_join,
            ack_mode: AckMode::Client,
            ping_interval_ms: 60_000,
            expires_in_ms: None,
            expires_at_ms: None,
            platform_name: "web".into(),
        };
        let shard = who % self.shards.len();
        client.history.push(format!("connects with {:?}", hello.cursors));
        client.at = Some((shard, id));
        // What it knows without a place begins with the first frame.
        client.streams.retain(|_, follow| follow.last.is_some());
        self.shards[shard].connect(id, hello);
    }

    pub fn disconnect(&mut self, who: usize) {
        if let Some((shard, id)) = self.clients[who].at {
            self.shards[shard].close(id.index);
            self.clients[who].disconnected();
        }
    }

    pub fn request(&mut self, who: usize, op: Op) -> u32 {
        let client = &mut self.clients[who];
        let (shard, conn) = client.at.expect("connected");
        let id = client.next_id;
        client.next_id += 1;
        let asked = match &op {
            Op::Join { stream, cursor } => Some(Asked::Join(stream.clone(), cursor.is_some())),
            Op::Leave { stream } => Some(Asked::Leave(stream.clone())),
            Op::Pull { stream, .. } => Some(Asked::Pull(stream.clone())),
            _ => None,
        };
        client.history.push(format!("asks {id}: {op:?}"));
        if let Some(asked) = asked {
            client.requests.insert(id, asked);
        }
        self.shards[shard].request(conn.index, id, op);
        id
    }

    pub fn join(&mut self, who: usize, stream: &StreamKey) {
        let cursors = self.clients[who].cursors();
        let cursor = cursors.into_iter().find(|(key, _)| key == stream).map(|(_, cursor)| cursor);
        self.request(who, Op::Join { stream: stream.clone(), cursor });
    }

    /// One item of some partition to the hub.
    pub fn link_step(&mut self) -> bool {
        let partition = self.some_partition();
        self.link_step_of(partition)
    }

    pub fn link_step_of(&mut self, at: usize) -> bool {
        let partition = &mut self.control.partitions[at];
        let Some(item) = partition.down.pop_front() else { return false };
        if matches!(item, FromLink::Up) {
            partition.heard = true;
        }
        self.hub.handle_link(self.now, PartitionId(at as u32), item);
        self.drain_hub();
        true
    }

    pub fn control_step(&mut self) -> bool {
        let partition = self.some_partition();
        self.control_step_of(partition)
    }

    pub fn control_step_of(&mut self, partition: usize) -> bool {
        let can_reset = self.can_reset && self.below(2) == 0;
        self.control.partitions[partition].attached && self.control.work(partition, can_reset)
    }

    pub fn some_partition(&mut self) -> usize {
        match self.control.partitions.len() {
            1 => 0,
            count => self.below(count as u64) as usize,
        }
    }

    /// One command for the shard, or one slice of its running fan-out.
    pub fn shard_step(&mut self, shard: usize) -> bool {
        let busy = self.shards[shard].step();
        for client in &mut self.clients {
            let closed = |(of, id): (usize, ConnId)| of == shard && !self.shards[of].conns.contains_key(&id.index);
            if client.at.is_some_and(closed) {
                client.disconnected();
            }
        }
        busy
    }

    /// One item of the shard to the hub.
    pub fn hub_step(&mut self, shard: usize) -> bool {
        let Some(item) = self.shards[shard].out.pop_front() else { return false };
        self.hub.handle_shard(self.now, item);
        self.drain_hub();
        true
    }

    pub fn advance(&mut self, span: Duration) {
        self.now = self.now + span;
        self.fire();
    }

    pub fn fire(&mut self) {
        while self.hub.poll_timeout().is_some_and(|at| at <= self.now) {
            self.hub.handle_timeout(self.now);
            self.drain_hub();
        }
    }

    fn drain_hub(&mut self) {
        while let Some((shard, command)) = self.hub.poll_shard() {
            self.shards[usize::from(shard.0)].accept(command);
        }
        while let Some((partition, item)) = self.hub.poll_link() {
            let partition = &mut self.control.partitions[partition.0 as usize];
            // What the hub says before it knows of a new attachment belongs to the old one and is lost with it.
            match partition.heard {
                true => partition.up.push_back(item),
                false => partition.presence(&item),
            }
        }
    }

    /// The client reads what is on its wire and sends what it wants to.
    pub fn client_step(&mut self, who: usize) -> bool {
        let Some((shard, id)) = self.clients[who].at else { return false };
        let Some(conn) = self.shards[shard].conns.get_mut(&id.index).filter(|conn| conn.id == id) else {
            self.clients[who].disconnected();
            return true;
        };
        let encoding = conn.hello.class.encoding;
        let frames: Vec<_> = conn.wire.drain(..).collect();
        let client = &mut self.clients[who];
        for frame in &frames {
            client.receive(frames::decode(encoding, frame));
        }
        let wants = std::mem::take(&mut client.wants);
        let busy = !frames.is_empty() || !wants.is_empty();
        for op in wants {
            self.request(who, op);
        }
        busy
    }

    /// Everything that can happen without time passing happens, in a fixed order.
    pub fn run(&mut self) {
        for _ in 0..1_000_000 {
            let mut busy = false;
            for partition in 0..self.control.partitions.len() {
                busy |= self.link_step_of(partition) | self.control_step_of(partition);
            }
            for shard in 0..self.shards.len() {
                busy |= self.shard_step(shard) | self.hub_step(shard);
            }
            for who in 0..self.clients.len() {
                busy |= self.client_step(who);
            }
            if !busy {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Runs until nothing happens for two seconds, which is longer than any window or retry and shorter than lingering.
    pub fn settle(&mut self) {
        for who in 0..self.clients.len() {
            if let Some((shard, id)) = self.clients[who].at {
                self.shards[shard].set_slow(id.index, false);
            }
        }
        for _ in 0..40 {
            self.run();
            self.advance(Duration::from_millis(50));
        }
        self.run();
    }

    /// At rest: every member has everything, exactly once, and nothing is left over anywhere.
    pub fn check(&self) {
        for client in self.clients.iter().filter(|client| client.at.is_some()) {
            assert!(client.welcomed, "{} waits for its session object", client.uid);
            assert!(client.requests.is_empty(), "{} waits for {:?}", client.uid, client.requests);
            for (key, follow) in client.streams.iter().filter(|(_, follow)| follow.member) {
                self.check_follow(client, key, follow);
            }
        }
        self.check_counts();
    }

    fn check_follow(&self, client: &Client, key: &StreamKey, follow: &client::Follow) {
        let (shard, id) = client.at.expect("connected");
        let platform = self.shards[shard].conns[&id.index].hello.class.platform;
        let log = &self.control.streams[key];
        let uid = &client.uid;
        assert!(!follow.gapped, "{uid} still has a gap in {key}");
        assert_eq!(follow.epoch.as_ref(), Some(&control::epoch(key, log.epoch)), "{uid} in {key}");
        let Some(last) = follow.last else { return };
        assert_eq!(last, log.head, "{uid} stands elsewhere in {key}");
        let visible = |message: &&tidegate_gateway_core::link::Message| {
            message.platforms.is_empty() || message.platforms.contains(&platform)
        };
        let stored = log.messages.iter().filter(|message| message.seq.0 > follow.start).filter(visible);
        let stored: Vec<u64> = stored.map(|message| message.seq.0).collect();
        // What was trimmed after it had been delivered is in the client's log alone.
        let seen: Vec<u64> = follow.seen.iter().copied().filter(|seq| *seq >= log.first).collect();
        assert_eq!(seen, stored, "{uid} (from {}) in {key}", follow.start);
        assert!(follow.seen.is_sorted_by(|a, b| a < b), "{uid} in {key}: {:?}", follow.seen);
    }

    /// The hub's count of memberships is the shards' count.
    fn check_counts(&self) {
        let members: usize =
            self.shards.iter().flat_map(|shard| shard.conns.values()).map(|conn| conn.members.len()).sum();
        let stats = self.hub.stats();
        assert_eq!(stats.memberships, members as u64);
        let here = self.shards.iter().flat_map(|shard| shard.conns.values()).map(|conn| shard::connection_id(conn.id));
        assert_eq!(self.control.online(), here.map(String::from).collect());
        assert_eq!((stats.opens_pending, stats.requests_pending), (0, 0));
    }

    /// With everybody gone for longer than streams linger, nothing is left.
    pub fn check_forgets(&mut self) {
        for who in 0..self.clients.len() {
            self.disconnect(who);
        }
        for _ in 0..3 {
            self.run();
            self.advance(Duration::from_secs(20));
        }
        self.run();
        let stats = self.hub.stats();
        assert_eq!((stats.streams, stats.memberships, stats.hot_tail_bytes), (0, 0, 0));
        for partition in &self.control.partitions {
            assert!(partition.interest.is_empty(), "an interest that nobody has: {:?}", partition.interest);
            assert!(partition.online.is_empty(), "routes of closed connections: {:?}", partition.online);
        }
        assert_eq!(self.hub.poll_timeout(), None, "a timer without a purpose");
    }
}

pub fn uid(text: &str) -> Uid {
    text.parse().expect("a uid")
}

pub fn key(text: &str) -> StreamKey {
    text.parse().expect("a stream key")
}

/// Two users with two connections each, and a closed group without members.
pub fn world_with_group() -> (World, StreamKey) {
    with_group(1)
}

pub fn with_group(partitions: u32) -> (World, StreamKey) {
    let mut world = World::with_partitions(3, 2, config(), partitions);
    for user in ["alice", "bob"] {
        world.control.create(&format!("u:{user}"), false);
        for _ in 0..2 {
            let who = world.client(user);
            world.connect(who, true);
        }
    }
    let group = world.control.create("g:closed", false);
    world.settle();
    (world, group)
}
