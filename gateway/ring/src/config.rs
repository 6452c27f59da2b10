//! Sizes of a driver and their bounds.

/// Rings of one driver: 256 × 20,000 slots are five million sockets in one thread.
pub const RINGS_MAX: u16 = 256;
/// The kernel's own bound of a registered file table.
pub const SLOTS_MAX: u32 = 1 << 20;
/// The kernel's bound of a provided buffer ring.
pub const BUFFERS_MAX: u16 = 1 << 15;
pub const BUFFER_BYTES_MAX: u32 = 1 << 20;
pub const SQ_ENTRIES_MAX: u32 = 1 << 15;
pub const CQ_ENTRIES_MIN: u32 = 4096;
pub const CQ_ENTRIES_MAX: u32 = 1 << 16;
pub const READS_PER_SOCKET_MAX: u16 = 1024;
pub const READS_PER_TURN_MAX: u32 = 1 << 20;
pub const LINGER_MS_MAX: u32 = 60_000;

/// Sizes of a [`crate::RingDriver`]. The defaults are for one ring per core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Most rings in the driver's thread, 1 to 256; one is opened at the start, the others when those before are full. More than
    /// one where RLIMIT_NOFILE limits a ring's table, or beyond some 100,000 sockets: each close walks one of the hash chains in which the kernel keeps a ring's armed polls.
    pub rings: u16,
    /// Sockets per ring; lowered to RLIMIT_NOFILE, which limits every registered table. The kernel allocates 8 bytes for each at
    /// once; the 16 of this side become resident with use.
    pub slots_per_ring: u32,
    /// Submission entries, rounded up to a power of two by the kernel.
    pub sq_entries: u32,
    /// Completion entries, at least 4096. From 8192 on the kernel keeps armed polls in its full 256 hash chains.
    pub cq_entries: u32,
    /// The submission queue is entered when this many entries are queued. 32 to 64 measured best.
    pub enter_every: u32,
    /// Provided receive buffers of the first ring, a power of two; further rings have an eighth of them, because all buffers of a
    /// ring become resident in time, whether much is received or little.
    pub buffers: u16,
    /// Bytes of one of them: the most that one `Event::Data` carries.
    pub buffer_bytes: u32,
    /// Buffers one socket may fill in one turn before the others come first.
    pub reads_per_socket: u16,
    /// Buffers all sockets of a ring together may fill in one turn.
    pub reads_per_turn: u32,
    /// How long a gracefully closed socket waits for its peer's FIN while its input is thrown away, in milliseconds. Closing
    /// with unread input makes the kernel send RST, which destroys what is still on its way to the peer. 0: close at once.
    pub linger_ms: u32,
}

impl Default for RingConfig {
    fn default() -> Self {
        RingConfig {
            rings: 1,
            slots_per_ring: 1 << 17,
            sq_entries: 256,
            cq_entries: 8192,
            enter_every: 64,
            buffers: 256,
            buffer_bytes: 4096,
            reads_per_socket: 4,
            reads_per_turn: 1024,
            linger_ms: 2000,
        }
    }
}

/// A size is out of its bounds. The text names the field and the bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {bounds}, not {value}")]
pub struct ConfigError {
    pub field: &'static str,
    pub bounds: &'static str,
    pub value: u64,
}

/// Rings after the first have so many times fewer buffers.
const FURTHER_BUFFERS_DIVISOR: u16 = 8;

impl RingConfig {
    pub(crate) fn further_buffers(&self) -> u16 {
        (self.buffers / FURTHER_BUFFERS_DIVISOR).max(1)
    }

    /// Reports the first size that is out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |field, bounds, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError { field, bounds, value }) }
        };
        within("rings", "1 to 256", self.rings.into(), 1, RINGS_MAX.into())?;
        within("slots_per_ring", "1 to 1048576", self.slots_per_ring.into(), 1, SLOTS_MAX.into())?;
        within("sq_entries", "8 to 32768", self.sq_entries.into(), 8, SQ_ENTRIES_MAX.into())?;
        within("cq_entries", "4096 to 65536", self.cq_entries.into(), CQ_ENTRIES_MIN.into(), CQ_ENTRIES_MAX.into())?;
        within("enter_every", "1 to sq_entries", self.enter_every.into(), 1, self.sq_entries.into())?;
        within("buffers", "1 to 32768", self.buffers.into(), 1, BUFFERS_MAX.into())?;
        within("buffer_bytes", "64 to 1048576", self.buffer_bytes.into(), 64, BUFFER_BYTES_MAX.into())?;
        within("reads_per_socket", "1 to 1024", self.reads_per_socket.into(), 1, READS_PER_SOCKET_MAX.into())?;
        within("reads_per_turn", "1 to 1048576", self.reads_per_turn.into(), 1, READS_PER_TURN_MAX.into())?;
        within("linger_ms", "0 to 60000", self.linger_ms.into(), 0, LINGER_MS_MAX.into())?;
        if !self.buffers.is_power_of_two() {
            return Err(ConfigError { field: "buffers", bounds: "a power of two", value: self.buffers.into() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_bounds() {
        assert_eq!(RingConfig::default().check(), Ok(()));
    }

    #[test]
    fn each_size_has_a_bound_and_is_named() {
        type Spoil = fn(&mut RingConfig);
        let sizes: [(&str, Spoil); 11] = [
            ("rings", |c| c.rings = 0),
            ("slots_per_ring", |c| c.slots_per_ring = SLOTS_MAX + 1),
            ("sq_entries", |c| c.sq_entries = 1),
            ("cq_entries", |c| c.cq_entries = 64),
            ("enter_every", |c| c.enter_every = c.sq_entries + 1),
            ("buffers", |c| c.buffers = 0),
            ("buffers", |c| c.buffers = 3),
            ("buffer_bytes", |c| c.buffer_bytes = 1),
            ("reads_per_socket", |c| c.reads_per_socket = 0),
            ("reads_per_turn", |c| c.reads_per_turn = 0),
            ("linger_ms", |c| c.linger_ms = LINGER_MS_MAX + 1),
        ];
        for (field, spoil) in sizes {
            let mut config = RingConfig::default();
            spoil(&mut config);
            assert_eq!(config.check().map_err(|e| e.field), Err(field));
        }
    }
}
