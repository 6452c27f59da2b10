//! What a shard can be told at its start, and the bounds that nobody configures.

use crate::client::ops::{IN_FLIGHT_MAX, PAGE_BYTES_MAX};
use crate::messages::FANOUT_SLICE_MAX;
use crate::ws::{CpuClock, Limits};

/// Mailbox items that one turn takes before it looks at its sockets again.
pub(super) const INBOX_ITEMS_PER_TURN_MAX: usize = 1_024;
/// Members that one turn visits before it looks at its sockets again; a fan-out that has begun its slice ends it.
pub(super) const FANOUT_VISITS_PER_TURN: u32 = FANOUT_SLICE_MAX;
/// Sends that may wait for one flush. Frames and gathered bytes are held until then.
pub(super) const FLIGHT_SENDS_MAX: u32 = 512;
/// A fan-out that would join so many sends flushes first, so that frames of different streams for one socket do not meet in
/// one flight. Drivers enter the kernel about this often anyway.
pub(super) const FLIGHT_SENDS_JOINED_MAX: u32 = 64;
/// Bytes gathered from one connection's queue into one send.
pub(super) const GATHER_BYTES_MAX: usize = 16 * 1024;
/// Bytes gathered in one flight.
pub(super) const FLIGHT_GATHER_BYTES_MAX: usize = 256 * 1024;
/// Connections whose timer is looked at in one turn.
pub(super) const TIMERS_PER_TURN_MAX: usize = 4_096;
/// Connections that one turn lets go while it parts from all of them.
pub(super) const PARTED_PER_TURN_MAX: usize = 1_024;
/// Connections that one command to say who is here looks at.
pub(super) const PRESENT_SLICE_MAX: u32 = 512;
/// Empty backlogs kept for the next connection that has to wait.
pub(super) const SPARE_BACKLOGS_MAX: usize = 64;
/// What a queued frame costs beside its bytes: the entry in the queue.
pub(super) const QUEUED_OVERHEAD_BYTES: usize = 64;
/// Replies and notices are never dropped; past `2 × queue_bytes_max` plus this the connection is closed with 3003. It is what a
/// client that reads can have asked for: a page for each request in flight.
pub(super) const DIRECT_SLACK_BYTES: usize = IN_FLIGHT_MAX * PAGE_BYTES_MAX;

pub(super) const ECHO_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// 65,536, and the empty last one that some writers end with: Autobahn's cases 9.3.1 and 9.4.1 do.
pub(super) const ECHO_FRAGMENTS_MAX: u32 = 65_536 + 1;
/// Of zlib: what it gains does not matter there.
pub(super) const ECHO_LEVEL: u8 = 3;
pub(super) const ECHO_CONTROLS_PER_SECOND_MAX: u32 = 100_000;
/// Nothing can hold an echo peer back but its own reading, so the bound is far above one message.
pub(super) const ECHO_QUEUE_BYTES_MAX: usize = 4 * ECHO_MESSAGE_BYTES_MAX;

/// The client is told so long before its token ends.
pub(super) const EXPIRING_NOTICE_MS: u64 = 60_000;
/// A connection with `ack_mode=sent` reports at most this often.
pub(super) const SENT_REPORT_MS: u64 = 1_000;
/// With RATE_LIMITED for too many requests in flight.
pub(super) const IN_FLIGHT_RETRY_MS: u32 = 200;

const _: () = assert!(FLIGHT_GATHER_BYTES_MAX >= GATHER_BYTES_MAX);
const _: () = assert!(FLIGHT_SENDS_JOINED_MAX <= FLIGHT_SENDS_MAX);
const _: () = assert!(ECHO_QUEUE_BYTES_MAX > 2 * ECHO_MESSAGE_BYTES_MAX);
const _: () = assert!(IN_FLIGHT_MAX <= u8::MAX as usize);

/// One shard's settings, already checked.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Address space for so many connections is reserved at the start; more are refused. Memory is used as they come.
    pub connections_max: usize,
    /// Bytes that may wait for one connection before ephemeral frames and then whole streams are let go.
    pub queue_bytes_max: usize,
    /// Size of a client's message after decompression.
    pub message_bytes_max: usize,
    pub fragments_max: u32,
    /// Pings, pongs and closes of one client in a second.
    pub controls_per_second_max: u32,
    pub ping_interval_min_ms: u32,
    pub ping_interval_max_ms: u32,
    /// For clients that ask for none.
    pub ping_interval_ms: u32,
    /// How long a closing connection may take over its close frame and its last bytes.
    pub close_timeout_ms: u32,
    /// What unpacking costs is counted by it.
    pub cpu_clock: CpuClock,
    /// Unguessable; names of connections are made from it.
    pub connection_id_secret: [u8; 16],
    /// A closing client that should come back is told to wait for up to so long, at random.
    pub reconnect_spread_ms: u32,
}

impl Default for ShardConfig {
    fn default() -> Self {
        ShardConfig {
            connections_max: 1 << 20,
            queue_bytes_max: 256 * 1024,
            message_bytes_max: 64 * 1024,
            fragments_max: 128,
            controls_per_second_max: 20,
            ping_interval_min_ms: 25_000,
            ping_interval_max_ms: 300_000,
            ping_interval_ms: 60_000,
            close_timeout_ms: 2_000,
            cpu_clock: || 0,
            connection_id_secret: [0; 16],
            reconnect_spread_ms: 2_000,
        }
    }
}

impl ShardConfig {
    pub(super) fn client_limits(&self) -> Limits {
        Limits {
            message_bytes_max: self.message_bytes_max,
            fragments_max: self.fragments_max,
            control_per_second_max: self.controls_per_second_max,
        }
    }

    /// 0: not asked for.
    pub(super) fn clamp_interval(&self, asked_ms: u32) -> u32 {
        let asked = if asked_ms == 0 { self.ping_interval_ms } else { asked_ms };
        asked.max(self.ping_interval_min_ms).min(self.ping_interval_max_ms)
    }

    pub(super) fn hard_queue_bytes(&self) -> usize {
        2 * self.queue_bytes_max + DIRECT_SLACK_BYTES
    }
}

pub(super) const ECHO_LIMITS: Limits = Limits {
    message_bytes_max: ECHO_MESSAGE_BYTES_MAX,
    fragments_max: ECHO_FRAGMENTS_MAX,
    control_per_second_max: ECHO_CONTROLS_PER_SECOND_MAX,
};
