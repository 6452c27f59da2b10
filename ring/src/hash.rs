//! A hash that is the same on every node and in every version: FNV-1a over the bytes, then the finaliser of MurmurHash3.

/// Where a user stands on the circle. Kept in place of the uid by those who have many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserHash(pub(crate) u64);

impl UserHash {
    pub fn of(uid: &str) -> UserHash {
        UserHash(mix(fnv1a(OFFSET, uid.as_bytes())))
    }

    /// A number of `0..=most` for this user, another with another seed.
    pub(crate) fn spread(self, seed: u64, most: u32) -> u32 {
        (mix(self.0 ^ seed) % (u64::from(most) + 1)) as u32
    }
}

/// Where a member's `index`-th virtual node stands. It depends on nothing else, so members come and go without moving others'
/// points, and a larger weight only adds some.
pub fn point(gateway: &str, index: u32) -> u64 {
    let state = fnv1a(OFFSET, gateway.as_bytes());
    // `#` is in no name, so that no name's points are another's.
    let state = fnv1a(state, b"#");
    mix(fnv1a(state, &index.to_le_bytes()))
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

fn fnv1a(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// FNV alone leaves the high bits of similar short texts alike, and the circle is ordered by the high bits.
fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes of two versions must agree while a cluster is upgraded: these numbers may never change.
    #[test]
    fn the_hash_stays_what_it_is() {
        assert_eq!(fnv1a(OFFSET, b""), OFFSET);
        assert_eq!(fnv1a(OFFSET, b"a"), 0xaf63_dc4c_8601_ec8c, "FNV-1a's published test vector");
        assert_eq!(fnv1a(OFFSET, b"foobar"), 0x8594_4171_f739_67e8, "FNV-1a's published test vector");
        assert_eq!(mix(0), 0);
        assert_eq!(mix(1), 0xb456_bcfc_34c2_cb2c, "fmix64(1)");
        assert_eq!(UserHash::of("alice").0, mix(fnv1a(OFFSET, b"alice")));
    }
}
