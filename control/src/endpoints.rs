//! Which gateway a user should connect to, by the newest ring and count of connections that this node has heard of.

use std::sync::{Arc, PoisonError, RwLock};

use tidegate_control_core::domain::Uid;
use tidegate_ring::{Loads, Ring, UserHash, Version};

/// Whoever watches the registry tells it; the API asks it.
#[derive(Debug, Default)]
pub struct Endpoints {
    heard: RwLock<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    ring: Option<Arc<Ring>>,
    loads: Loads,
}

/// A user's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub gateway: Box<str>,
    /// `wss://…`, to connect to.
    pub url: Box<str>,
    pub ring_version: Version,
}

impl Endpoints {
    /// Takes a newer ring; false if it is not newer than the one in use.
    pub fn set_ring(&self, ring: Arc<Ring>) -> bool {
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        let is_newer = heard.ring.as_ref().is_none_or(|known| ring.version() > known.version());
        if is_newer {
            heard.ring = Some(ring);
        }
        is_newer
    }

    /// How many connections each gateway has. Without it the load is not bounded.
    pub fn set_loads(&self, loads: Loads) {
        self.heard.write().unwrap_or_else(PoisonError::into_inner).loads = loads;
    }

    /// `None` while there is no ring, or nobody on it.
    pub fn of(&self, uid: &Uid) -> Option<Endpoint> {
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        let ring = heard.ring.as_ref()?;
        let member = ring.place_within(UserHash::of(uid.as_str()), &heard.loads)?;
        Some(Endpoint { gateway: member.gateway.clone(), url: member.url.clone(), ring_version: ring.version() })
    }
}

#[cfg(test)]
mod tests {
    use tidegate_ring::{Layout, Member};

    use super::*;

    fn ring(version: u64, names: &[&str]) -> Arc<Ring> {
        let member = |name: &&str| Member { gateway: (*name).into(), url: format!("wss://{name}/").into(), weight: 1 };
        let members = names.iter().map(member).collect();
        Arc::new(Ring::with(Version(version), Layout::default(), members).expect("a ring"))
    }

    #[test]
    fn the_newest_ring_decides_and_a_full_gateway_is_passed_over() {
        let endpoints = Endpoints::default();
        let uid: Uid = "alice".parse().expect("a uid");
        assert_eq!(endpoints.of(&uid), None);
        assert!(endpoints.set_ring(ring(2, &["a", "b"])));
        assert!(!endpoints.set_ring(ring(1, &["c"])), "an older one");
        let home = endpoints.of(&uid).expect("a place");
        assert_eq!((home.url, home.ring_version), (format!("wss://{}/", home.gateway).into(), Version(2)));
        let other = if *home.gateway == *"a" { "b" } else { "a" };
        endpoints.set_loads([(&*home.gateway, 100), (other, 10)].into_iter().collect());
        assert_eq!(&*endpoints.of(&uid).expect("a place").gateway, other);
    }
}
