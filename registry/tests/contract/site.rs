//! A registry to test, in a corner of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use tidegate_registry::{Entry, EtcdOptions, Names, RedisOptions, Registry, Watch, WatchEvent};
use xtask::servers::{self, Server};

use crate::proxy::Proxy;

/// Of a session that is to end by itself.
pub const SHORT: Duration = Duration::from_secs(4);
/// Of a session that is to be kept alive for longer than this, also on a busy machine.
pub const KEPT: Duration = Duration::from_secs(10);
/// Of a session that is not to end, however busy the machine.
pub const LONG: Duration = Duration::from_secs(120);
/// For whatever must happen some time.
const PATIENCE: Duration = Duration::from_secs(90);
/// Of a request that is to be answered, and of one that may be in vain.
const ANSWERED: Duration = Duration::from_secs(20);
const IN_VAIN: Duration = Duration::from_secs(2);

#[derive(Clone, Copy)]
pub enum Backing {
    Memory,
    Etcd,
    Redis,
    RedisCluster,
}

pub struct Site {
    backing: Backing,
    url: String,
    pub registry: Registry,
    pub names: Names,
    root: String,
}

impl Site {
    pub async fn open(backing: Backing) -> Site {
        let server = match backing {
            Backing::Memory => None,
            Backing::Etcd => Some(Server::Etcd),
            Backing::Redis => Some(Server::Redis),
            Backing::RedisCluster => Some(Server::RedisCluster),
        };
        let url = match server {
            None => String::new(),
            Some(server) => {
                let url = tokio::task::spawn_blocking(move || servers::url(server));
                url.await.expect("no panic").expect("a server to test against")
            }
        };
        let cluster = unique("test");
        let names = Names::new(&cluster).expect("a name");
        let root = format!("/tidegate/{cluster}/");
        Site { backing, registry: registry(backing, &url, ANSWERED), url, names, root }
    }

    /// Another client of the same registry. That in memory has no other.
    pub fn other(&self) -> Registry {
        match self.backing {
            Backing::Memory => self.registry.clone(),
            _ => registry(self.backing, &self.url, ANSWERED),
        }
    }

    /// Another client, whose way to the server can be broken.
    pub async fn through_proxy(&self) -> (Registry, Proxy) {
        let (scheme, server) = self.url.split_once("://").expect("a URL");
        let proxy = Proxy::before(server).await;
        (registry(self.backing, &format!("{scheme}://{}", proxy.address), IN_VAIN), proxy)
    }

    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    pub async fn put(&self, name: &str, value: &str) {
        self.registry.put(&self.key(name), value).await.expect("put");
    }

    pub async fn value(&self, name: &str) -> Option<String> {
        self.registry.get(&self.key(name)).await.expect("get").map(|entry| entry.value)
    }

    /// Permanent keys would stay in a server that others use.
    pub async fn clean(&self) {
        for entry in self.registry.list(&self.root).await.expect("list") {
            self.registry.delete(&entry.key).await.expect("delete");
        }
    }
}

fn registry(backing: Backing, url: &str, timeout: Duration) -> Registry {
    match backing {
        Backing::Memory => Ok(Registry::memory()),
        Backing::Etcd => Registry::etcd(EtcdOptions { timeout, ..EtcdOptions::new([url]) }),
        Backing::Redis => Registry::redis(RedisOptions { timeout, ..RedisOptions::new(url) }),
        Backing::RedisCluster => Registry::redis(RedisOptions { timeout, ..RedisOptions::cluster(url.split(',')) }),
    }
    .expect("options are fine")
}

pub fn unique(what: &str) -> String {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let now = UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis();
    format!("{what}-{}-{number}-{now}", std::process::id())
}

pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: it never came"))
}

/// Asks again and again until there is an answer.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(what, asked).await
}

pub async fn snapshot(watch: &mut Watch) -> Vec<(String, String)> {
    match in_time("a snapshot", watch.next()).await {
        WatchEvent::Snapshot(entries) => entries.into_iter().map(|Entry { key, value, .. }| (key, value)).collect(),
        event => panic!("a snapshot was due, not {event:?}"),
    }
}

/// The one after a break; what was on its way before the break may still come before it.
pub async fn until_snapshot(watch: &mut Watch) -> Vec<(String, String)> {
    in_time("a snapshot", async {
        loop {
            if let WatchEvent::Snapshot(entries) = watch.next().await {
                return entries.into_iter().map(|Entry { key, value, .. }| (key, value)).collect();
            }
        }
    })
    .await
}

/// The next change, of which the version is left out.
pub async fn change(watch: &mut Watch) -> (String, Option<String>) {
    match in_time("a change", watch.next()).await {
        WatchEvent::Put(entry) => (entry.key, Some(entry.value)),
        WatchEvent::Gone { key } => (key, None),
        event => panic!("a change was due, not {event:?}"),
    }
}
