//! Names of connections for the outside: 128 bits that nobody can guess, in hex.
//!
//! They are worked out from the connection's place and a secret of the process, so that they need no memory: what would be
//! 32 bytes for each of a million idle connections is a hash when one of them comes or goes.

use sha1::{Digest as _, Sha1};

use crate::ids::ConnRef;

const ID_BYTES: usize = 16;

/// Makes the names. The input has a fixed length and the output is cut, so that a plain hash behind a secret is enough.
#[derive(Clone)]
pub(super) struct ConnectionIds {
    secret: [u8; 16],
}

impl ConnectionIds {
    pub(super) fn new(secret: [u8; 16]) -> Self {
        ConnectionIds { secret }
    }

    /// The same for the same connection, and different for every other until its slot has been used 16 million times.
    pub(super) fn of(&self, conn: ConnRef) -> Box<str> {
        let mut hash = Sha1::new();
        hash.update(self.secret);
        hash.update(conn.shard.0.to_le_bytes());
        hash.update(conn.conn.index.to_le_bytes());
        hash.update(conn.conn.generation.to_le_bytes());
        let hash = hash.finalize();
        let mut text = String::with_capacity(2 * ID_BYTES);
        for byte in &hash[..ID_BYTES] {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(digit.into(), 16).unwrap_or_default());
            }
        }
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::ids::{ConnId, ShardId};

    #[test]
    fn ids_are_stable_distinct_and_depend_on_the_secret() {
        let conn = |shard, index, generation| ConnRef { shard: ShardId(shard), conn: ConnId { index, generation } };
        let (one, other) = (ConnectionIds::new([1; 16]), ConnectionIds::new([2; 16]));
        let mut seen = HashSet::new();
        for conn in [conn(0, 0, 0), conn(1, 0, 0), conn(0, 1, 0), conn(0, 0, 1)] {
            let id = one.of(conn);
            assert_eq!((id.len(), &id), (32, &one.of(conn)));
            assert!(id.bytes().all(|b| b.is_ascii_hexdigit()));
            assert!(seen.insert(id));
            assert!(seen.insert(other.of(conn)));
        }
    }
}
