//! The gateway in a registry: where partitions' owners are, who is whose place, and this node's own entry, which lives as long
//! as it does.
//!
//! On a thread of its own: a registry that is slow, or a hub that is busy, delays neither deliveries nor keep-alives.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tidegate_gateway_core::link::{PartitionId, Partitions};
use tidegate_registry::names::{GatewayNode, Owner, name_of};
use tidegate_registry::{Entry, Names, Registry, RegistryError, Session, Table};
use tidegate_ring::document::RingDocument;
use tidegate_ring::{Loads, Ring};
use tokio::sync::{oneshot, watch};
use tracing::{debug, error, info, warn};

use crate::link::{OwnerAt, Owners};

/// A gateway that died is gone from the registry after this time.
const SESSION_TTL: Duration = Duration::from_secs(10);
/// Between two attempts to be there.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// At the end, the registry gets so long to take the last word.
const FAREWELL: Duration = Duration::from_millis(500);
/// How often the number of connections is looked at, and told if it has changed by a fiftieth of itself.
const COUNT_EVERY: Duration = Duration::from_secs(5);
const COUNT_CHANGE_SHARE: u64 = 50;
/// Of fewer connections than this, a change is not worth telling.
const COUNT_CHANGE_MIN: u64 = 20;

/// What it takes to be in a registry.
pub struct Registration {
    pub registry: Registry,
    pub names: Names,
    pub node: GatewayNode,
}

/// What the thread tells of the other gateways, and asks of this one.
pub trait Fellows: Send + Sync + 'static {
    fn ring(&self, ring: Arc<Ring>);
    fn loads(&self, loads: Loads);
    /// How many clients this gateway has.
    fn connections(&self) -> u64;
}

/// The running thread.
pub struct RegistryThread {
    withdraw: watch::Sender<bool>,
    withdrawn: mpsc::Receiver<()>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl RegistryThread {
    pub fn start(
        registration: Registration,
        fellows: Arc<dyn Fellows>,
    ) -> io::Result<(watch::Receiver<Owners>, RegistryThread)> {
        let key = registration.names.gateway(&registration.node.gateway).map_err(io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tell, owners) = watch::channel(Owners::default());
        let (withdraw, to_withdraw) = watch::channel(false);
        let (gone, withdrawn) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            runtime.block_on(async move {
                let Registration { registry, names, node } = registration;
                let own = Own { registry: registry.clone(), key, node };
                let register = tokio::spawn(own.stay(Arc::clone(&fellows), to_withdraw, gone));
                tokio::select! {
                    () = follow_owners(&registry, &names, &tell) => {}
                    () = follow_ring(&registry, &names, &*fellows) => {}
                    () = follow_loads(&registry, &names, &*fellows) => {}
                    _ = stopped => {}
                }
                // Whoever stops without a drain has not withdrawn.
                register.abort();
                let _ = register.await;
            });
            runtime.shutdown_timeout(FAREWELL);
        };
        let thread = thread::Builder::new().name("registry".into()).spawn(work)?;
        Ok((owners, RegistryThread { withdraw, withdrawn, stop, thread }))
    }

    /// Nobody is sent to this gateway any more. Waits a moment for the registry to hear of it.
    pub fn withdraw(&self) {
        self.withdraw.send_replace(true);
        // An error: it has said so before, or takes too long, and then the session's end says it.
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.withdrawn.recv_timeout(FAREWELL) {
            warn!("the registry has not heard that this gateway goes");
        }
    }

    pub fn stop(self) {
        self.withdraw.send_replace(true);
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

/// Tells each ring that can be read. While the registry is away, or has nonsense, the last one stays.
async fn follow_ring(registry: &Registry, names: &Names, fellows: &dyn Fellows) {
    let key = names.ring();
    let mut rings = registry.watch(&key).into_table();
    loop {
        let entries = rings.changed().await;
        let Some(entry) = entries.get(&key) else { continue };
        let parsed = entry.parse::<RingDocument>().map_err(|error| error.to_string());
        match parsed.and_then(|document| Ring::try_from(document).map_err(|error| error.to_string())) {
            Ok(ring) => {
                info!(version = ring.version().0, gateways = ring.members().len(), "the endpoint ring");
                fellows.ring(Arc::new(ring));
            }
            Err(why) => error!(%key, why, "the endpoint ring cannot be read; the last one stays"),
        }
    }
}

/// Tells how many clients the gateways have, each time that somebody says another number.
async fn follow_loads(registry: &Registry, names: &Names, fellows: &dyn Fellows) {
    let mut gateways = registry.watch(&names.gateway_prefix()).into_table();
    let mut told = Loads::default();
    loop {
        gateways.changed().await;
        let loads = loads(&gateways);
        if loads != told {
            fellows.loads(loads.clone());
            told = loads;
        }
    }
}

fn loads(gateways: &Table) -> Loads {
    let entries = gateways.current();
    let nodes: Vec<GatewayNode> = entries.values().filter_map(|entry| entry.parse().ok()).collect();
    Loads::told(nodes.iter().map(|node| (node.gateway.as_str(), node.connections)))
}

/// This gateway's entry.
struct Own {
    registry: Registry,
    key: String,
    node: GatewayNode,
}

impl Own {
    /// Is there until it is withdrawn, and again whenever it was lost.
    async fn stay(
        mut self,
        fellows: Arc<dyn Fellows>,
        mut to_withdraw: watch::Receiver<bool>,
        withdrawn: mpsc::Sender<()>,
    ) {
        let mut session: Option<Session> = None;
        tokio::select! {
            () = self.be_there(&*fellows, &mut session) => {}
            _ = to_withdraw.wait_for(|withdraw| *withdraw) => {}
        }
        if let Some(session) = session.take()
            && let Err(error) = session.end().await
        {
            debug!(%error, "this gateway's session ends by its term");
        }
        // Nobody may be waiting for it.
        let _ = withdrawn.send(());
    }

    async fn be_there(&mut self, fellows: &dyn Fellows, session: &mut Option<Session>) {
        loop {
            match self.register(fellows, session).await {
                Ok(session) => {
                    info!(gateway = self.node.gateway, "in the registry");
                    self.keep_count(fellows, session).await;
                    warn!("the registry has lost this gateway; it comes back");
                }
                Err(error) => {
                    warn!(%error, "this gateway is not in the registry");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn register<'a>(
        &mut self,
        fellows: &dyn Fellows,
        session: &'a mut Option<Session>,
    ) -> Result<&'a Session, RegistryError> {
        // The one before is over.
        *session = None;
        self.node.connections = fellows.connections();
        let session = session.insert(self.registry.session(SESSION_TTL).await?);
        self.tell(session).await?;
        Ok(session)
    }

    async fn tell(&self, session: &Session) -> Result<(), RegistryError> {
        let value = serde_json::to_string(&self.node)
            .map_err(|source| RegistryError::InvalidValue { key: self.key.clone(), source: source.into() })?;
        session.hold(&self.key, &value).await
    }

    /// Until the session is lost.
    async fn keep_count(&mut self, fellows: &dyn Fellows, session: &Session) {
        loop {
            tokio::select! {
                () = session.lost() => return,
                () = tokio::time::sleep(COUNT_EVERY) => {}
            }
            let (told, now) = (self.node.connections, fellows.connections());
            let change = told.abs_diff(now);
            if change >= COUNT_CHANGE_MIN.max(told.max(now) / COUNT_CHANGE_SHARE) {
                self.node.connections = now;
                if let Err(error) = self.tell(session).await {
                    debug!(%error, "the number of connections is told later");
                    self.node.connections = told;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn node() -> GatewayNode {
        GatewayNode {
            gateway: "gateway-1".into(),
            incarnation: 7,
            client: "wss://chat.example.com".into(),
            admin: "http://10.0.0.1:8081".into(),
            weight: 1,
            connections: 0,
        }
    }

    /// What was told, and 30,000 clients that have come.
    #[derive(Default)]
    struct Heard {
        rings: Mutex<Vec<Arc<Ring>>>,
        loads: Mutex<Vec<Loads>>,
    }

    impl Fellows for Heard {
        fn ring(&self, ring: Arc<Ring>) {
            self.rings.lock().expect("no panic").push(ring);
        }

        fn loads(&self, loads: Loads) {
            self.loads.lock().expect("no panic").push(loads);
        }

        fn connections(&self) -> u64 {
            30_000
        }
    }

    fn started() -> (Registry, Names, watch::Receiver<Owners>, RegistryThread) {
        started_with(Arc::default())
    }

    fn started_with(heard: Arc<Heard>) -> (Registry, Names, watch::Receiver<Owners>, RegistryThread) {
        let (registry, names) = (Registry::memory(), Names::new("blue").expect("a name"));
        let registration = Registration { registry: registry.clone(), names: names.clone(), node: node() };
        let (owners, thread) = RegistryThread::start(registration, heard).expect("a thread");
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
        let told = GatewayNode { connections: 30_000, ..node() };
        assert_eq!(entry.parse::<GatewayNode>().expect("a node"), told);
        let thread = tokio::task::spawn_blocking(move || {
            thread.withdraw();
            thread
        });
        let thread = thread.await.expect("withdrawn");
        assert_eq!(registry.get(&key).await.expect("answers"), None, "it is gone when that returns");
        tokio::task::spawn_blocking(move || thread.stop()).await.expect("stopped");
    }
    #[tokio::test]
    async fn rings_and_loads_are_told_and_nonsense_is_passed_over() {
        let heard = Arc::new(Heard::default());
        let (registry, names, _owners, thread) = started_with(Arc::clone(&heard));
        assert_eq!(names.ring(), tidegate_ring::document::registry_key("blue"));
        let ring = |version: u64| {
            format!(r#"{{"version":{version},"members":[{{"gateway":"gateway-1","url":"wss://a/ws","weight":1}}]}}"#)
        };
        let versions = || heard.rings.lock().expect("no panic").iter().map(|ring| ring.version().0).collect::<Vec<_>>();
        let until = async |version: u64| {
            let waiting = async {
                while versions().last() != Some(&version) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time");
        };
        registry.put(&names.ring(), &ring(3)).await.expect("put");
        until(3).await;
        registry.put(&names.ring(), r#"{"version":4,"members":[{"gateway":"","url":"x"}]}"#).await.expect("put");
        registry.put(&names.ring(), &ring(5)).await.expect("put");
        until(5).await;
        assert!(!versions().contains(&4));
        let other = GatewayNode { gateway: "gateway-2".into(), connections: 7, ..node() };
        let text = serde_json::to_string(&other).expect("JSON");
        registry.put(&names.gateway("gateway-2").expect("a name"), &text).await.expect("put");
        let expected: Loads = [("gateway-1", 30_000), ("gateway-2", 7)].into_iter().collect();
        let waiting = async {
            while heard.loads.lock().expect("no panic").last() != Some(&expected) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time");
        tokio::task::spawn_blocking(move || thread.stop()).await.expect("stopped");
    }
}
