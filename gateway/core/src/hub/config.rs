//! The hub's settings, bounds and counters.

use crate::client::ops::{PAGE_BYTES_MAX, PULL_MESSAGES_MAX};
use crate::messages::FANOUT_SLICE_MAX;
use crate::ws::CpuClock;

/// Widest batch window.
pub const WINDOW_MS_MAX: u32 = 1_000;
/// Most bytes of messages in one durable or ephemeral frame; a larger window leaves as consecutive frames.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Past this many waiting bytes a window leaves early. While a fan-out runs nothing can leave, so further deliveries are
/// not taken: the stream counts as having a hole, which is pulled once there is room again.
pub const WINDOW_BYTES_MAX: usize = 512 * 1024;
/// The same bound in messages.
pub const WINDOW_MESSAGES_MAX: usize = 4_096;
/// Most ephemeral messages that wait in a window; the oldest is dropped and counted.
pub const EPHEMERAL_MAX: usize = 256;
/// Most live streams of a node; an open beyond it is answered OVERLOADED.
pub const STREAMS_MAX: usize = 8 << 20;
/// Most connects, joins and invitations that wait for control; beyond it a connect is closed with 3004 and a join is
/// answered OVERLOADED.
pub const OPENS_MAX: usize = 256 * 1024;
/// Most opens that control is asked at once, over all partitions: each may bring pages, and a storm must not hold them all in
/// memory.
pub const OPENS_ASKED_MAX: usize = 2_048;
/// However many partitions there are, each is asked so many at once.
pub const OPENS_ASKED_MIN: usize = 16;
/// Most bytes of pages kept for opens that are not finished yet. Beyond it pages are not kept, and the connection pulls.
pub const OPEN_PAGES_BYTES_MAX: usize = OPENS_ASKED_MAX * PAGE_BYTES_MAX;
/// Most streams in other partitions that one open is told of; the client learns of others at its next connect.
pub const ALSO_STREAMS_MAX: usize = 10_000;
/// Most group invitations remembered for a connect that is still being answered; the client learns of others at its next connect.
pub const LATE_JOINS_MAX: usize = 512;
/// Bytes of missed messages that one connect gets as batches, over all its streams; what does not fit is a gap to pull.
pub const RECOVERY_BYTES_MAX: usize = 4 * PAGE_BYTES_MAX;
/// Most requests of clients that wait for control; beyond it they are answered OVERLOADED.
pub const REQUESTS_MAX: usize = 64 * 1024;
/// Most holes that are pulled at once, over all partitions; the others wait their turn.
pub const HEALS_ASKED_MAX: usize = 64;
/// However many partitions there are, of each so many are pulled at once.
pub const HEALS_ASKED_MIN: usize = 4;
/// A stream that is further behind than this is not caught up by the node: its members are told a gap.
pub const HEAL_DISTANCE_MAX: u64 = 4_000;
/// Pause before a hole is asked for again after an error or an answer that brought nothing.
pub const HEAL_RETRY_MS: u64 = 200;
/// Most changed streams in one answer to `sync`.
pub const SYNC_STREAMS_MAX: usize = 1_000;
/// Most presence changes kept while links are down, over all partitions; the oldest are dropped (whoever is here is told of
/// again, and routes of a dead incarnation are void).
pub const PRESENCE_MAX: usize = 256 * 1024;
/// Pause between two slices of those who are here, when a partition that came up is told of them: the others have their turn.
pub const PRESENT_PAUSE_MS: u64 = 2;
/// Deliveries are credited back to control in chunks of so many bytes.
pub const CREDIT_BYTES: u64 = 64 * 1024;
/// Most timers that one call of `handle_timeout` works off, so that its output stays bounded.
pub const TIMERS_PER_CALL_MAX: usize = 1_024;

const _: () = assert!(FRAME_BYTES_MAX <= WINDOW_BYTES_MAX);
const _: () = assert!(2 * PAGE_BYTES_MAX <= WINDOW_BYTES_MAX);
const _: () = assert!(2 * PULL_MESSAGES_MAX as usize <= WINDOW_MESSAGES_MAX);
const _: () = assert!(OPENS_ASKED_MAX <= OPENS_MAX);
const _: () = assert!(OPENS_ASKED_MIN <= OPENS_ASKED_MAX && HEALS_ASKED_MIN <= HEALS_ASKED_MAX);

/// What an operator sets.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// Name of this gateway, told to clients.
    pub gateway: Box<str>,
    /// Length of a stream's batch window, 0–1,000.
    pub window_ms: u32,
    /// How long a stream without members stays live.
    pub linger_ms: u32,
    /// Most messages in a stream's hot tail.
    pub hot_tail_messages: u32,
    /// Most bytes of all hot tails together; the least recently used go first.
    pub hot_tail_bytes_max: u64,
    /// Most members on one shard for which a fan-out is a single slice of the shard's.
    pub fanout_slice: u32,
    /// Clients with a gap pull at a random moment within this span.
    pub gap_jitter_ms: u32,
    /// For connections that negotiated it.
    pub compression: Compression,
    /// What compression costs is counted by it.
    pub cpu_clock: CpuClock,
}

/// When and how frames are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// Smaller payloads stay plain.
    pub bytes_min: usize,
    /// From 1, fast, to 9, small. Every stream of the node waits while one is compressed.
    pub level: u8,
}

impl Default for Compression {
    fn default() -> Self {
        Compression { bytes_min: 1024, level: 3 }
    }
}

impl Default for HubConfig {
    fn default() -> Self {
        HubConfig {
            gateway: "gateway".into(),
            window_ms: 50,
            linger_ms: 5_000,
            hot_tail_messages: 100,
            hot_tail_bytes_max: 64 << 20,
            fanout_slice: FANOUT_SLICE_MAX,
            gap_jitter_ms: 500,
            compression: Compression::default(),
            cpu_clock: || 0,
        }
    }
}

/// Counters since the start, and a few gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Gauge: live streams.
    pub streams: u64,
    /// Gauge: memberships over all shards.
    pub memberships: u64,
    /// Gauge: bytes in hot tails.
    pub hot_tail_bytes: u64,
    /// Gauge: connects, joins and invitations that wait.
    pub opens_pending: u64,
    /// Gauge: requests and hole pulls that wait.
    pub requests_pending: u64,
    /// Gauge: partitions, and those of them that are attached.
    pub partitions: u64,
    pub partitions_up: u64,
    /// Durable messages taken into streams.
    pub messages_received: u64,
    pub ephemeral_received: u64,
    /// Ephemeral messages that a full window pushed out.
    pub ephemeral_dropped: u64,
    /// Deliveries of an owner that has a successor.
    pub stale_owner_dropped: u64,
    /// Attachments that spoke of another history than the one before.
    pub histories_lost: u64,
    /// Batches that left, durable and ephemeral.
    pub batches: u64,
    /// Messages in those batches.
    pub batch_messages: u64,
    /// Frames encoded for batches, over all classes.
    pub frames_encoded: u64,
    pub deflate: DeflateStats,
    pub connects: u64,
    pub joins: u64,
    /// Joins and pulls answered without asking control.
    pub joins_local: u64,
    pub pulls_local: u64,
    /// Connections told a gap at their recovery, or after having been slow.
    pub gaps: u64,
    /// Pulls for holes of the node itself.
    pub heals: u64,
    /// Times that every member of a stream was told a gap.
    pub gap_alls: u64,
    /// Times that a live stream began a new epoch.
    pub new_epochs: u64,
    /// Opens and requests refused at a bound.
    pub overloaded: u64,
}

/// What became of payloads that some connection wanted compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeflateStats {
    pub compressed: u64,
    /// The compressed frame of the same payload was still at hand.
    pub reused: u64,
    /// Compressed, and sent plain because it hardly shrank.
    pub unpaid: u64,
    /// Too small to be tried.
    pub small: u64,
    /// Of those that were compressed: before and after.
    pub plain_bytes: u64,
    pub packed_bytes: u64,
    pub cpu_ns: u64,
}
