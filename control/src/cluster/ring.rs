//! The endpoint ring of the cluster: one node, holding the lock, makes a new version when gateways come or go; all nodes answer
//! by the newest that they have seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_control_core::ports::cache::{Published, SharedCache};
use tidegate_registry::names::GatewayNode;
use tidegate_registry::{Claimed, Entry, Names, Registry, RegistryError, Session, Table};
use tidegate_ring::document::{RingDocument, registry_key};
use tidegate_ring::{Layout, Loads, Member, Ring, Version};

use crate::endpoints::Endpoints;

/// A gateway that only restarts must not move anybody: changes are waited out for so long.
const CALM: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_secs(1);
/// A keeper that died is followed after this.
const LOCK_TTL: Duration = Duration::from_secs(5);

pub(crate) struct RingKeeper {
    pub registry: Registry,
    pub names: Names,
    pub cluster: String,
    pub node: String,
    pub endpoints: Arc<Endpoints>,
    /// Where the ring is published as well, for those who do not know the registry.
    pub cache: Option<SharedCache>,
}

impl RingKeeper {
    /// For as long as the process lives.
    pub async fn run(self) {
        let key = registry_key(&self.cluster);
        let mut gateways = self.registry.watch(&self.names.gateway_prefix()).into_table();
        let mut rings = self.registry.watch(&key).into_table();
        gateways.ready().await;
        let mut session = None;
        let mut told = None;
        loop {
            let known = current(&rings, &key);
            if let Some(ring) = &known {
                self.endpoints.set_ring(Arc::new(ring.clone()));
            }
            self.endpoints.set_loads(loads(&gateways.current()));
            match self.holds_lock(&mut session).await {
                Ok(true) => {
                    if let Err(error) = self.publish(&key, &gateways.current()).await {
                        tracing::warn!(%error, "the endpoint ring is not published");
                    }
                    self.tell(known.as_ref(), &mut told).await;
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "who keeps the endpoint ring cannot be told"),
            }
            tokio::select! {
                _ = gateways.changed() => tokio::time::sleep(CALM).await,
                _ = rings.changed() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Publishes the ring that stands in the registry, once for each version, and again when the cache has lost something.
    async fn tell(&self, ring: Option<&Ring>, told: &mut Option<(u64, u64)>) {
        let (Some(cache), Some(ring)) = (&self.cache, ring) else { return };
        let (version, generation) = (ring.version().0, cache.generation());
        if *told == Some((version, generation)) {
            return;
        }
        let json = serde_json::to_string(&RingDocument::from(ring)).unwrap_or_default().into();
        match cache.publish_ring(tidegate_control_core::ports::cache::Ring { version, json }).await {
            Published::Away => return,
            Published::Stands(newer) if newer > version => {
                tracing::warn!(version, newer, "the cache holds the ring of another life of this cluster");
            }
            Published::Done | Published::Stands(_) => {}
        }
        *told = Some((version, generation));
    }

    async fn holds_lock(&self, session: &mut Option<Session>) -> Result<bool, RegistryError> {
        if session.as_ref().is_none_or(|session| !session.is_alive()) {
            *session = Some(self.registry.session(LOCK_TTL).await?);
        }
        let Some(session) = session else { return Ok(false) };
        Ok(session.claim(&self.names.lock("ring")?, &self.node).await? == Claimed::Ours)
    }

    /// Compare and set: of two who both think that they hold the lock, one finds that the ring has changed.
    async fn publish(&self, key: &str, gateways: &BTreeMap<String, Entry>) -> Result<(), RegistryError> {
        let members: Vec<Member> = gateways.values().filter_map(member).collect();
        let entry = self.registry.get(key).await?;
        let known = entry.as_ref().and_then(parse);
        let next = match &known {
            Some(ring) => ring.succeeded_by(members),
            None => Ring::with(Version(1), Layout::default(), members).map(Some),
        };
        let next = match next {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::error!(%error, "the gateways make no ring");
                return Ok(());
            }
        };
        let text = serde_json::to_string(&RingDocument::from(&next)).unwrap_or_default();
        let written = match entry {
            Some(entry) => self.registry.replace(key, entry.version, &text).await?,
            None => self.registry.create(key, &text).await?,
        };
        if written {
            let gateways = next.members().len();
            tracing::info!(version = next.version().0, gateways, "a new endpoint ring");
            self.endpoints.set_ring(Arc::new(next));
        }
        Ok(())
    }
}

fn current(rings: &Table, key: &str) -> Option<Ring> {
    rings.current().get(key).and_then(parse)
}

fn parse(entry: &Entry) -> Option<Ring> {
    Ring::try_from(entry.parse::<RingDocument>().ok()?).ok()
}

fn loads(gateways: &BTreeMap<String, Entry>) -> Loads {
    let nodes: Vec<GatewayNode> = gateways.values().filter_map(|entry| entry.parse().ok()).collect();
    Loads::told(nodes.iter().map(|node| (node.gateway.as_str(), node.connections)))
}

fn member(entry: &Entry) -> Option<Member> {
    let node: GatewayNode = entry.parse().ok()?;
    let weight = u16::try_from(node.weight).ok()?;
    Some(Member { gateway: node.gateway.into(), url: node.client.into(), weight })
}
