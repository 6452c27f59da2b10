//! Sizes of a driver and their bounds.

/// Far above any process's descriptor limit.
pub const SLOTS_MAX: u32 = 1 << 24;
pub const BUFFER_BYTES_MAX: u32 = 1 << 20;
pub const READS_PER_TURN_MAX: u32 = 1 << 20;
pub const LINGER_MS_MAX: u32 = 60_000;

/// Sizes of an [`crate::EpollDriver`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpollConfig {
    /// Most sockets; each is a descriptor of the process. The 24 bytes for each become resident with use.
    pub slots: u32,
    /// Bytes of the one receive buffer: the most that one `Event::Data` carries and one socket may bring in a turn.
    pub buffer_bytes: u32,
    /// Sockets that are read in one turn; the others come first in the next.
    pub reads_per_turn: u32,
    /// How long a gracefully closed socket waits for its peer's FIN while its input is thrown away, in milliseconds. Closing
    /// with unread input makes the kernel send RST, which destroys what is still on its way to the peer. 0: close at once.
    pub linger_ms: u32,
}

impl Default for EpollConfig {
    fn default() -> Self {
        EpollConfig { slots: 1 << 17, buffer_bytes: 16 << 10, reads_per_turn: 1024, linger_ms: 2000 }
    }
}

/// A size is out of its bounds. The text names the field and the bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {bounds}, not {value}")]
pub struct ConfigError {
    pub field: &'static str,
    pub bounds: &'static str,
    pub value: u32,
}

impl EpollConfig {
    /// Reports the first size that is out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |field, bounds, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError { field, bounds, value }) }
        };
        within("slots", "1 to 16777216", self.slots, 1, SLOTS_MAX)?;
        within("buffer_bytes", "64 to 1048576", self.buffer_bytes, 64, BUFFER_BYTES_MAX)?;
        within("reads_per_turn", "1 to 1048576", self.reads_per_turn, 1, READS_PER_TURN_MAX)?;
        within("linger_ms", "0 to 60000", self.linger_ms, 0, LINGER_MS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_bounds() {
        assert_eq!(EpollConfig::default().check(), Ok(()));
    }

    #[test]
    fn each_size_has_a_bound_and_is_named() {
        type Spoil = fn(&mut EpollConfig);
        let sizes: [(&str, Spoil); 4] = [
            ("slots", |c| c.slots = SLOTS_MAX + 1),
            ("buffer_bytes", |c| c.buffer_bytes = 1),
            ("reads_per_turn", |c| c.reads_per_turn = 0),
            ("linger_ms", |c| c.linger_ms = LINGER_MS_MAX + 1),
        ];
        for (field, spoil) in sizes {
            let mut config = EpollConfig::default();
            spoil(&mut config);
            assert_eq!(config.check().map_err(|e| e.field), Err(field));
        }
    }
}
