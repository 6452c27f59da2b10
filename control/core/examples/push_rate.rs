//! How many pushes a second the partition decides, answers and routes when the store costs nothing.
//!
//! `cargo run --release -p tidegate-control-core --example push_rate`

// A measurement outside the core: it has a clock of its own.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tidegate_control_core::domain::{
    Content, Epoch, Gid, Lsn, OwnerEpoch, PartitionId, Priority, Record, Seq, StreamKey, Timestamp, Uid,
};
use tidegate_control_core::partition::{
    Command, GatewayId, ID_EPOCH_MS, Input, Output, Partition, PartitionConfig, Push, Reply, Token,
};
use tidegate_control_core::ports::{
    DedupHit, DeviceMark, Group, Head, Member, MessageStore, Page, PageLimit, Progress, ReplayPage, StoreError,
    StoreReader,
};

const STREAMS: usize = 1_000;
const BATCH: usize = 512;
const CONTENT_BYTES: usize = 200;
const RUN: Duration = Duration::from_secs(2);

fn main() {
    println!("{STREAMS} streams, batches of {BATCH}, {CONTENT_BYTES} B");
    for (name, keyed, client, interested) in [
        ("push", false, false, false),
        ("push with a key", true, false, false),
        ("push with a key, to one gateway", true, false, true),
        ("send to a user, with a key, to one gateway", true, true, true),
    ] {
        let (rate, building) = rate(keyed, client, interested);
        println!("{name:45} {:6.0} k/s ({building:.0} ns of {:.0} ns each build the command)", rate / 1e3, 1e9 / rate);
    }
}

/// Pushes per second, and the nanoseconds of each that go into making the command.
fn rate(keyed: bool, client: bool, interested: bool) -> (f64, f64) {
    let config = PartitionConfig { auto_groups: true, ..PartitionConfig::default() };
    let mut partition = Partition::new(PartitionId(0), Null(Lsn(0)), config, 1).expect("a null store opens");
    let prefix = if client { "u" } else { "g" };
    let streams: Vec<StreamKey> =
        (0..STREAMS).map(|at| format!("{prefix}:stream-{at}").parse().expect("a valid key")).collect();
    let mut out = Vec::new();
    let mut inputs = Vec::new();
    if interested {
        let gateway = GatewayId(1);
        inputs.push(Input::LinkUp { gateway, credit_bytes: u64::MAX });
        inputs.push(Input::InterestEnd { gateway, cursor: None });
        inputs.push(Input::Interest { gateway, add: streams.clone(), remove: Vec::new() });
        partition.handle(Timestamp(ID_EPOCH_MS), &mut inputs, &mut out).expect("handled");
    }
    let sender: Option<Uid> = client.then(|| "sender".parse().expect("a valid uid"));
    let begin = Instant::now();
    let (mut count, mut building) = (0, Duration::ZERO);
    while begin.elapsed() < RUN {
        let built = Instant::now();
        for _ in 0..BATCH {
            count += 1;
            let push = push(&streams[count * 7 % STREAMS], sender.clone(), keyed.then_some(count));
            inputs.push(Input::Command { token: Token(count as u64), command: Command::Push(Box::new(push)) });
        }
        building += built.elapsed();
        let now = Timestamp(ID_EPOCH_MS + begin.elapsed().as_millis() as i64);
        partition.handle(now, &mut inputs, &mut out).expect("handled");
        assert!(out.iter().all(|output| !matches!(output, Output::Reply { result: Err(_), .. })));
        assert!(matches!(&out[0], Output::Reply { result: Ok(Reply::Pushed { .. }), .. } | Output::Link { .. }));
        out.clear();
    }
    (count as f64 / begin.elapsed().as_secs_f64(), building.as_nanos() as f64 / count as f64)
}

fn push(to: &StreamKey, sender: Option<Uid>, key: Option<usize>) -> Push {
    let key = key.map(|key| format!("message-{key}").into_boxed_str());
    let (client_msg_id, message_id) = match sender {
        Some(_) => (key.unwrap_or_default(), None),
        None => ("".into(), key),
    };
    Push {
        id: None,
        ack_durable: false,
        to: to.clone(),
        sender,
        from: "billing".into(),
        client_msg_id,
        message_id,
        kind: "text".into(),
        title: "".into(),
        content: Content::Text("x".repeat(CONTENT_BYTES).into()),
        metadata: "".into(),
        ephemeral: false,
        priority: Priority::Normal,
        ttl_s: 0,
        platforms: SmallVec::new(),
    }
}

/// Knows nothing and forgets everything at once.
struct Null(Lsn);

impl StoreReader for Null {
    fn head(&self, _: &StreamKey) -> Result<Option<Head>, StoreError> {
        Ok(None)
    }
    fn dedup(&self, _: &[u8; 16]) -> Result<Option<DedupHit>, StoreError> {
        Ok(None)
    }
    fn page(&self, _: &StreamKey, after: Seq, _: PageLimit) -> Result<Page, StoreError> {
        Ok(Page { after, upto: after, messages: Vec::new() })
    }
    fn seq_before(&self, _: &StreamKey, _: Timestamp) -> Result<Seq, StoreError> {
        Ok(Seq::ZERO)
    }
    fn group(&self, _: &Gid) -> Result<Option<Group>, StoreError> {
        Ok(None)
    }
    fn member(&self, _: &Gid, _: &Uid) -> Result<Option<Member>, StoreError> {
        Ok(None)
    }
    fn members(&self, _: &Gid, _: Option<&Uid>, _: usize) -> Result<Vec<Member>, StoreError> {
        Ok(Vec::new())
    }
    fn groups_of(&self, _: &Uid, _: usize) -> Result<Vec<Gid>, StoreError> {
        Ok(Vec::new())
    }
    fn marks(&self, _: &Uid, _: &StreamKey) -> Result<Vec<DeviceMark>, StoreError> {
        Ok(Vec::new())
    }
    fn read_cursor(&self, _: &Uid, _: &StreamKey) -> Result<Option<(Epoch, Seq)>, StoreError> {
        Ok(None)
    }
    fn last_lsn(&self) -> Lsn {
        self.0
    }
    fn replay(&self, _: Lsn, _: PageLimit) -> Result<Option<ReplayPage>, StoreError> {
        Ok(None)
    }
}

impl MessageStore for Null {
    fn owner_epoch(&self) -> OwnerEpoch {
        OwnerEpoch(1)
    }
    fn base_epoch(&self) -> Epoch {
        Epoch(77)
    }
    fn last_timestamp(&self) -> Timestamp {
        Timestamp(0)
    }
    fn commit_with(&mut self, records: &[Record], _: Progress) -> Result<Lsn, StoreError> {
        self.0.0 += records.len() as u64;
        Ok(self.0)
    }
    fn maintain(&mut self, _: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }
}
