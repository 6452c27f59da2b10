//! What a node of a cluster remembers in the cache and near itself, put together.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_control_core::ports::cache::{Channel, Incarnation, SharedCache};
use tidegate_registry::names::GatewayNode;
use tidegate_registry::{Entry, Names, Registry};
use tokio::task::JoinHandle;

use crate::cache::committed::Memory;
use crate::cache::recent::Recent;
use crate::cache::routes::Routes;
use crate::cache::{CacheBounds, Caches};
use crate::metrics::Metrics;
use crate::presence::Presence;

pub(super) struct Near {
    /// For what partitions commit.
    pub memory: Memory,
    pub recent: Recent,
    pub routes: Arc<Routes>,
}

impl Near {
    pub fn new(cache: SharedCache, metrics: &Metrics, presence: &Arc<Presence>) -> Near {
        let caches = Arc::new(Caches::new(&CacheBounds::default(), |name| metrics.tally(name)));
        let routes = Arc::new(Routes::new(Arc::clone(&cache), Arc::clone(&caches)));
        presence.tell(Arc::clone(&routes));
        let recent = Recent::new(Arc::clone(&cache), |name| metrics.tally(name));
        let (presence, dropped) = (Arc::clone(presence), metrics.cache_passed_over());
        Near { memory: Memory { cache, caches, presence, dropped }, recent, routes }
    }

    /// Listens for what other nodes change, and keeps routes true to the registry.
    pub fn keep(self, registry: &Registry, names: &Names) -> [JoinHandle<()>; 2] {
        let Memory { cache, caches, presence, .. } = self.memory;
        let notices = cache.subscribe(&[Channel::invalidation()]);
        let following = tokio::spawn(async move { caches.follow(notices).await });
        let mut gateways = registry.watch(&names.gateway_prefix()).into_table();
        let keeping = tokio::spawn(async move {
            gateways.ready().await;
            let alive = move || gateways.current().values().filter_map(incarnation).collect::<BTreeSet<_>>();
            self.routes.keep(presence, alive).await;
        });
        [following, keeping]
    }
}

fn incarnation(entry: &Entry) -> Option<Incarnation> {
    let node: GatewayNode = entry.parse().ok()?;
    Some(Incarnation { gateway: node.gateway.into(), number: node.incarnation })
}
