//! The gateway in a registry: where partitions' owners are, and this node's own entry, which lives as long as it does.
//!
//! On a thread of its own: a registry that is slow, or a hub that is busy, delays neither deliveries nor keep-alives.

use std::collections::BTreeMap;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tidegate_gateway_core::link::{PartitionId, Partitions};
use tidegate_registry::names::{GatewayNode, Owner, name_of};
use tidegate_registry::{Entry, Names, Registry, RegistryError, Session};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use crate::link::{OwnerAt, Owners};

/// A gateway that died is gone from the registry after this time.
const SESSION_TTL: Duration = Duration::from_secs(10);
/// Between two attempts to be there.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// At the end, the registry gets so long to take the last word.
const FAREWELL: Duration = Duration::from_millis(500);

/// What it takes to be in a registry.
pub struct Registration {
    pub registry: Registry,
    pub names: Names,
    pub node: GatewayNode,
}

/// The running thread.
pub struct RegistryThread {
    withdraw: watch::Sender<bool>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl RegistryThread {
    pub fn start(registration: Registration) -> io::Result<(watch::Receiver<Owners>, RegistryThread)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tell, owners) = watch::channel(Owners::default());
        let (withdraw, withdrawn) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            runtime.block_on(async move {
                let Registration { registry, names, node } = registration;
                let own = names.gateway(&node.gateway);
                let register = tokio::spawn(stay_registered(registry.clone(), own, node, withdrawn));
                tokio::select! {
                    () = follow_owners(&registry, &names, &tell) => {}
                    _ = stopped => {}
                }
                // Whoever stops without a drain has not withdrawn.
                register.abort();
                let _ = register.await;
            });
            runtime.shutdown_timeout(FAREWELL);
        };
        let thread = thread::Builder::new().name("registry".into()).spawn(work)?;
        Ok((owners, RegistryThread { withdraw, stop, thread }))
    }

    /// Nobody is sent to this gateway any more.
    pub fn withdraw(&self) {
        self.withdraw.send_replace(true);
    }

    pub fn stop(self) {
        self.withdraw();
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            warn!("the registry thread panicked");
        }
    }
}

/// Tells every change of what the registry says of partitions. While it is away, what it said last stays.
async fn follow_owners(registry: &Registry, names: &Names, tell: &watch::Sender<Owners>) {
    let mut owners = registry.watch(&names.owner_prefix()).into_table();
    let mut count = registry.watch(&names.partitions()).into_table();
    let (mut at, mut partitions) = (BTreeMap::new(), None);
    loop {
        tokio::select! {
            entries = owners.changed() => at = entries.values().filter_map(owner).collect(),
            entries = count.changed() => {
                let told = entries.get(&names.partitions()).and_then(|entry| entry.value.trim().parse().ok());
                partitions = told.and_then(Partitions::new).or(partitions);
            }
        }
        let now = Owners { partitions, at: at.clone() };
        tell.send_if_modified(|told| {
            let is_new = *told != now;
            *told = now;
            is_new
        });
    }
}

fn owner(entry: &Entry) -> Option<(PartitionId, OwnerAt)> {
    let partition = name_of(&entry.key).parse().ok()?;
    match entry.parse::<Owner>() {
        Ok(Owner { grpc, incarnation, owner_epoch, .. }) => {
            let address = if grpc.contains("://") { grpc } else { format!("http://{grpc}") };
            Some((PartitionId(partition), OwnerAt { address, incarnation, owner_epoch }))
        }
        Err(error) => {
            warn!(partition, %error, "the registry's entry of an owner cannot be read");
            None
        }
    }
}

/// Is there until it is withdrawn, and again whenever it was lost.
async fn stay_registered(
    registry: Registry,
    key: Result<String, RegistryError>,
    node: GatewayNode,
    mut withdrawn: watch::Receiver<bool>,
) {
    let entry = key.and_then(|key| {
        let value = serde_json::to_string(&node);
        value
            .map(|value| (key.clone(), value))
            .map_err(|source| RegistryError::InvalidValue { key, source: source.into() })
    });
    let (key, value) = match entry {
        Ok(entry) => entry,
        Err(error) => return warn!(%error, "this gateway cannot be in the registry"),
    };
    let staying = async {
        loop {
            match register(&registry, &key, &value).await {
                Ok(session) => {
                    info!(%key, "in the registry");
                    // Dropped if it is withdrawn meanwhile, which ends it there too.
                    session.lost().await;
                    warn!("the registry has lost this gateway; it comes back");
                }
                Err(error) => {
                    warn!(%error, "this gateway is not in the registry");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = staying => {}
        _ = withdrawn.wait_for(|withdrawn| *withdrawn) => {}
    }
}

async fn register(registry: &Registry, key: &str, value: &str) -> Result<Session, RegistryError> {
    let session = registry.session(SESSION_TTL).await?;
    session.hold(key, value).await?;
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> GatewayNode {
        GatewayNode {
            gateway: "gateway-1".into(),
            incarnation: 7,
            client: "wss://chat.example.com".into(),
            admin: "http://10.0.0.1:8081".into(),
            weight: 1,
        }
    }

    fn started() -> (Registry, Names, watch::Receiver<Owners>, RegistryThread) {
        let (registry, names) = (Registry::memory(), Names::new("blue").expect("a name"));
        let registration = Registration { registry: registry.clone(), names: names.clone(), node: node() };
        let (owners, thread) = RegistryThread::start(registration).expect("a thread");
        (registry, names, owners, thread)
    }

    async fn eventually(registry: &Registry, key: &str, is_there: bool) {
        let waiting = async {
            while registry.get(key).await.expect("answers").is_some() != is_there {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time");
    }

    #[tokio::test]
    async fn owners_and_their_changes_are_told() {
        let (registry, names, mut owners, thread) = started();
        registry.put(&names.partitions(), "20").await.expect("put");
        let owned = r#"{"node":"a","incarnation":1,"grpc":"10.0.0.2:9090","owner_epoch":4}"#;
        registry.put(&names.owner(3), owned).await.expect("put");
        registry.put(&names.owner(4), "nonsense").await.expect("put");
        let known = |owners: &Owners| owners.partitions.is_some() && owners.at.contains_key(&PartitionId(3));
        let told = owners.wait_for(known).await.expect("told").clone();
        let address = "http://10.0.0.2:9090".to_owned();
        assert_eq!(told.partitions, Partitions::new(20));
        assert_eq!(told.at[&PartitionId(3)], OwnerAt { address, incarnation: 1, owner_epoch: Some(4) });
        assert_eq!(told.at.len(), 1, "what cannot be read is nobody");
        registry.delete(&names.owner(3)).await.expect("deleted");
        owners.wait_for(|owners| owners.at.is_empty()).await.expect("told");
        tokio::task::spawn_blocking(move || thread.stop()).await.expect("stopped");
    }

    #[tokio::test]
    async fn a_gateway_is_in_the_registry_until_it_withdraws() {
        let (registry, names, _owners, thread) = started();
        let key = names.gateway("gateway-1").expect("a name");
        eventually(&registry, &key, true).await;
        let entry = registry.get(&key).await.expect("answers").expect("it is there");
        assert_eq!(entry.parse::<GatewayNode>().expect("a node"), node());
        thread.withdraw();
        eventually(&registry, &key, false).await;
        tokio::task::spawn_blocking(move || thread.stop()).await.expect("stopped");
    }
}
