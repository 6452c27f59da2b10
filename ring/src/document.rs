//! The ring as JSON, as it stands in the registry (`/tidegate/<cluster>/ring`) and in Redis (`ring:{cluster}`):
//!
//! ```json
//! {"version":7,"members":[{"gateway":"gw-1","url":"wss://gw-1.example.com/api/v1/ws","weight":1}],
//!  "virtual_nodes":160,"load_factor":1.25}
//! ```
//!
//! Fields that this version does not know are ignored.

use serde::{Deserialize, Serialize};

use crate::ring::{Layout, LoadFactor, Member, Ring, RingError, Version};
use crate::{LOAD_FACTOR_DEFAULT, VIRTUAL_NODES_DEFAULT};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingDocument {
    pub version: u64,
    pub members: Vec<MemberDocument>,
    #[serde(default = "virtual_nodes")]
    pub virtual_nodes: u16,
    /// Times the even share.
    #[serde(default = "load_factor")]
    pub load_factor: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberDocument {
    pub gateway: Box<str>,
    pub url: Box<str>,
    #[serde(default = "weight")]
    pub weight: u16,
}

/// Where the registry has the ring of a cluster.
pub fn registry_key(cluster: &str) -> String {
    format!("/tidegate/{cluster}/ring")
}

/// Where Redis has it, for programs that do not speak to the registry.
pub fn redis_key(cluster: &str) -> String {
    format!("ring:{cluster}")
}

fn virtual_nodes() -> u16 {
    VIRTUAL_NODES_DEFAULT
}

fn load_factor() -> f64 {
    f64::from(LOAD_FACTOR_DEFAULT) / 1_000.0
}

fn weight() -> u16 {
    1
}

impl From<&Ring> for RingDocument {
    fn from(ring: &Ring) -> RingDocument {
        let member = |member: &Member| MemberDocument {
            gateway: member.gateway.clone(),
            url: member.url.clone(),
            weight: member.weight,
        };
        let Layout { virtual_nodes, load_factor } = ring.layout();
        RingDocument {
            version: ring.version().0,
            members: ring.members().iter().map(member).collect(),
            virtual_nodes,
            load_factor: f64::from(load_factor.0) / 1_000.0,
        }
    }
}

impl TryFrom<RingDocument> for Ring {
    type Error = RingError;

    fn try_from(document: RingDocument) -> Result<Ring, RingError> {
        let thousandths = (document.load_factor * 1_000.0).round();
        // A number that does not fit becomes one that is refused.
        let load_factor = LoadFactor(if thousandths.is_finite() { thousandths as u32 } else { 0 });
        let layout = Layout { virtual_nodes: document.virtual_nodes, load_factor };
        let member = |row: MemberDocument| Member { gateway: row.gateway, url: row.url, weight: row.weight };
        Ring::with(Version(document.version), layout, document.members.into_iter().map(member).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_what_others_read() {
        let text = r#"{"version":7,"members":[{"gateway":"gw-1","url":"wss://a/ws","weight":2}],"virtual_nodes":160,"load_factor":1.25}"#;
        let document: RingDocument = serde_json::from_str(text).expect("a document");
        let ring = Ring::try_from(document).expect("a ring");
        assert_eq!(serde_json::to_string(&RingDocument::from(&ring)).expect("JSON"), text);
    }

    #[test]
    fn defaults_and_fields_of_later_versions_are_borne() {
        let text = r#"{"version":1,"members":[{"gateway":"gw-1","url":"ws://a","zone":"b"}],"hash":"fnv"}"#;
        let ring = Ring::try_from(serde_json::from_str::<RingDocument>(text).expect("a document")).expect("a ring");
        assert_eq!((ring.layout(), ring.members()[0].weight), (Layout::default(), 1));
    }

    #[test]
    fn what_is_no_ring_is_refused() {
        for factor in ["1.0", "0.0", "-3", "1e300", "11"] {
            let text = format!(r#"{{"version":1,"members":[],"load_factor":{factor}}}"#);
            let document: RingDocument = serde_json::from_str(&text).expect("a document");
            assert_eq!(Ring::try_from(document), Err(RingError::BadLoadFactor), "{factor}");
        }
    }
}
