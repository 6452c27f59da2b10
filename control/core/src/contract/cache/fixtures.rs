//! Facts to put into a cache under test.

use crate::domain::{Epoch, OwnerEpoch, Seq, StreamKey, Timestamp, Uid};
use crate::ports::cache::{Connection, Entry, Fact, Incarnation, Live, OwnedRun, RouteKey, RunQuery};

pub const EPOCH: Epoch = Epoch(0x7e57);
pub const OWNER: OwnerEpoch = OwnerEpoch(5);

/// Within the bounds of every adapter under test, which keeps at most [`QUEUE_MAX`] messages of at most [`MESSAGE_BYTES_MAX`].
pub const QUEUE_MAX: u64 = 20;
pub const MESSAGE_BYTES_MAX: usize = 1_000;

pub fn uid(name: &str) -> Uid {
    name.parse().expect("a uid")
}

pub fn stream(name: &str) -> StreamKey {
    name.parse().expect("a stream")
}

pub fn gateway(name: &str, number: u64) -> Incarnation {
    Incarnation { gateway: name.into(), number }
}

pub fn live(gateways: &[(&str, u64)]) -> Live {
    gateways.iter().map(|(name, number)| gateway(name, *number)).collect()
}

pub fn connection(at: (&str, u64), id: &str) -> Connection {
    Connection {
        at: gateway(at.0, at.1),
        id: id.into(),
        device: format!("device of {id}").into(),
        platform: "web".into(),
        since: Timestamp(1_790_000_000_000),
    }
}

pub fn online(name: &str, at: (&str, u64), id: &str) -> Fact {
    Fact::Online { uid: uid(name), connection: connection(at, id) }
}

pub fn offline(name: &str, at: (&str, u64), id: &str) -> Fact {
    Fact::Offline(RouteKey { uid: uid(name), at: gateway(at.0, at.1), id: id.into() })
}

pub fn head(name: &str, epoch: Epoch, seq: u64, owner: OwnerEpoch) -> Fact {
    Fact::Head { stream: stream(name), epoch, seq: Seq(seq), owner }
}

/// Its bytes say its seq, and have what would split a line or a protocol's field.
pub fn entry(seq: u64) -> Entry {
    Entry { seq: Seq(seq), bytes: format!("message {seq}\r\n\0$3").into_bytes().into() }
}

pub fn entries(seqs: impl IntoIterator<Item = u64>) -> Vec<Entry> {
    seqs.into_iter().map(entry).collect()
}

pub fn run(name: &str, seqs: impl IntoIterator<Item = u64>) -> OwnedRun {
    OwnedRun { stream: stream(name), epoch: EPOCH, owner: OWNER, entries: entries(seqs) }
}

pub fn query(name: &str, after: u64, limit: usize) -> RunQuery {
    RunQuery { stream: stream(name), epoch: EPOCH, after: Seq(after), limit }
}
