//! Which key means what, for one cluster, and what stands in it. The table of who writes and reads what is docs/registry.md.

use serde::{Deserialize, Serialize};

use crate::error::RegistryError;

pub const NAME_BYTES_MAX: usize = 128;

/// The keys of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    root: String,
}

impl Names {
    pub fn new(cluster: &str) -> Result<Names, RegistryError> {
        Ok(Names { root: format!("/tidegate/{}", check(cluster)?) })
    }

    /// [`ControlNode`], held.
    pub fn control(&self, node: &str) -> Result<String, RegistryError> {
        Ok(self.control_prefix() + check(node)?)
    }

    pub fn control_prefix(&self) -> String {
        self.below("control")
    }

    /// [`GatewayNode`], held.
    pub fn gateway(&self, name: &str) -> Result<String, RegistryError> {
        Ok(self.gateway_prefix() + check(name)?)
    }

    pub fn gateway_prefix(&self) -> String {
        self.below("gateway")
    }

    /// [`Owner`], claimed.
    pub fn owner(&self, partition: u32) -> String {
        format!("{}{partition}", self.owner_prefix())
    }

    pub fn owner_prefix(&self) -> String {
        self.below("owner")
    }

    /// How many partitions the cluster has: one number, permanent.
    pub fn partitions(&self) -> String {
        format!("{}/partitions", self.root)
    }

    /// A section of [`crate::LiveConfig`], permanent.
    pub fn config(&self, name: &str) -> Result<String, RegistryError> {
        Ok(self.config_prefix() + check(name)?)
    }

    pub fn config_prefix(&self) -> String {
        self.below("config")
    }

    /// The node that leases this worker id, claimed.
    pub fn worker(&self, id: u16) -> String {
        format!("{}{id}", self.worker_prefix())
    }

    pub fn worker_prefix(&self) -> String {
        self.below("worker")
    }

    /// Until when this worker id may have been used, permanent.
    pub fn worker_until(&self, id: u16) -> String {
        format!("{}{id}", self.worker_until_prefix())
    }

    pub fn worker_until_prefix(&self) -> String {
        self.below("worker-until")
    }

    /// Since when the registry remembers worker ids, permanent.
    pub fn worker_since(&self) -> String {
        format!("{}/worker-since", self.root)
    }

    /// The endpoint ring as JSON (`tidegate_ring::document`), permanent.
    pub fn ring(&self) -> String {
        format!("{}/ring", self.root)
    }

    /// For [`crate::Session::lock`].
    pub fn lock(&self, name: &str) -> Result<String, RegistryError> {
        Ok(self.below("lock") + check(name)?)
    }

    fn below(&self, kind: &str) -> String {
        format!("{}/{kind}/", self.root)
    }
}

/// The last part of a key: the name that it was made with.
pub fn name_of(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

fn check(name: &str) -> Result<&str, RegistryError> {
    let refuse = |reason| Err(RegistryError::InvalidName { name: name.to_owned(), reason });
    if name.is_empty() {
        refuse("it is empty")
    } else if name.len() > NAME_BYTES_MAX {
        refuse("it is longer than 128 bytes")
    } else if name.contains('/') {
        refuse("it has a slash")
    } else if name.chars().any(char::is_control) {
        refuse("it has a control character")
    } else {
        Ok(name)
    }
}

/// A control node that is alive. Readers pass over fields that they do not know, so that nodes of two versions may share a
/// registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlNode {
    pub node: String,
    /// Another one each time the process begins.
    pub incarnation: u64,
    /// `host:port` or URL of its gRPC.
    pub grpc: String,
    pub http: String,
    pub roles: Vec<String>,
    /// It has just come and takes no partition yet, so nobody lets one go for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
}

/// A gateway that is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayNode {
    pub gateway: String,
    /// Another one each time the process begins.
    pub incarnation: u64,
    /// The URL that clients are given.
    pub client: String,
    pub admin: String,
    /// Its share of new clients, beside those of the others.
    pub weight: u32,
    /// How many clients it had a moment ago; told again when that has changed much.
    #[serde(default)]
    pub connections: u64,
}

/// Who owns a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub node: String,
    pub incarnation: u64,
    pub grpc: String,
    /// Not yet there while the owner takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_epoch: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_below_their_cluster_and_kind() {
        let names = Names::new("blue").expect("a name");
        assert_eq!(names.control("a").expect("a name"), "/tidegate/blue/control/a");
        assert_eq!(names.owner(7), "/tidegate/blue/owner/7");
        assert_eq!(names.partitions(), "/tidegate/blue/partitions");
        assert_eq!(name_of(&names.lock("move 7").expect("a name")), "move 7");
        assert!(!names.worker_until(1).starts_with(&names.worker_prefix()));
    }

    #[test]
    fn a_name_cannot_leave_its_place() {
        let names = Names::new("blue").expect("a name");
        for name in ["", "a/b", "a\nb", "a\0", "\u{85}", &"x".repeat(129)] {
            assert!(names.gateway(name).is_err(), "{name:?}");
        }
        for name in ["a b", "gw-1:8080", "Überseeknoten", "..", "{x}", &"x".repeat(128)] {
            names.gateway(name).expect("odd but fine");
        }
    }

    #[test]
    fn an_owner_without_an_epoch_is_read_and_newer_fields_are_passed_over() {
        let json = r#"{"node":"a","incarnation":3,"grpc":"http://a","of_the_future":1}"#;
        let owner: Owner = serde_json::from_str(json).expect("an owner");
        assert_eq!(owner.owner_epoch, None);
        assert!(!serde_json::to_string(&owner).expect("JSON").contains("owner_epoch"));
    }
}
