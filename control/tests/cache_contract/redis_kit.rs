//! A real Redis for tests: that of `TIDEGATE_TEST_REDIS` or `TIDEGATE_TEST_REDIS_CLUSTER`, otherwise the one of `cargo xtask
//! servers`, which is started if need be. No server is a failure, never a reason to skip.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_control::adapters::redis::{BoundSettings, BreakerSettings, KeySettings, RedisCache, RedisSettings};
use tidegate_control_core::contract::cache::CacheFactory;
use tidegate_control_core::ports::cache::{Cache as _, Pending};
use tokio::runtime::Runtime;
use xtask::servers::{self, Server};

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// A port that is found free is not ours before the server listens on it: of this process, one starts at a time.
pub fn starting() -> Turn {
    static STARTING: Mutex<()> = Mutex::new(());
    Turn(STARTING.lock().unwrap_or_else(PoisonError::into_inner))
}

pub struct Turn(#[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Buckets,
    Users,
}

pub fn urls(list: &str) -> Vec<String> {
    list.split(',').map(str::to_owned).collect()
}

/// Small bounds, and time enough for a machine that is busy with other tests.
pub fn settings(urls: Vec<String>, cluster: bool) -> RedisSettings {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis();
    RedisSettings {
        urls,
        cluster,
        timeout_ms: 5_000,
        prefix: format!("test:{}:{number}:{now}:", std::process::id()),
        bounds: BoundSettings {
            route_buckets: 64,
            queue_messages_max: 20,
            message_bytes_max: 1_000,
            ..Default::default()
        },
        breaker: BreakerSettings { cool_down_ms: 50, ..BreakerSettings::default() },
        ..RedisSettings::default()
    }
}

/// Makes caches with a prefix of their own; their keys go with it.
pub struct Factory {
    runtime: Runtime,
    settings: Option<RedisSettings>,
    layout: Layout,
    cluster: bool,
}

impl Factory {
    pub fn new(layout: Layout, cluster: bool) -> Factory {
        Factory { runtime: runtime(), settings: None, layout, cluster }
    }

    fn opened(&self) -> RedisSettings {
        self.settings.clone().expect("open comes first")
    }
}

impl CacheFactory for Factory {
    type Cache = RedisCache;

    fn open(&mut self) -> RedisCache {
        let server = if self.cluster { Server::RedisCluster } else { Server::Redis };
        let url = servers::url(server).expect("a Redis to test against");
        let mut settings = settings(urls(&url), self.cluster);
        if self.layout == Layout::Users {
            let text = str::to_owned;
            settings.keys =
                KeySettings { routes: text("User:Connect:{uid}"), instance: text("user:{uid}"), ..Default::default() };
        }
        let _inside = self.runtime.enter();
        let cache = RedisCache::open(&settings).expect("valid settings");
        self.settings = Some(settings);
        cache
    }

    fn beside(&mut self, _cache: &RedisCache) -> RedisCache {
        let _inside = self.runtime.enter();
        RedisCache::open(&self.opened()).expect("valid settings")
    }

    fn flush(&mut self, cache: &RedisCache) {
        let before = cache.generation();
        // Until it has seen the servers once, it cannot know that they were emptied.
        self.runtime.block_on(until("the first marker", || !keys(&self.opened()).is_empty()));
        delete_all(&self.opened());
        self.runtime.block_on(until("the flush is noticed", || cache.generation() > before));
    }

    fn wait<T>(&mut self, pending: Pending<'_, T>) -> T {
        self.runtime.block_on(pending)
    }
}

impl Drop for Factory {
    fn drop(&mut self) {
        if let Some(settings) = &self.settings {
            delete_all(settings);
        }
    }
}

/// Waits for a condition, with a generous deadline.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it does not come: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Of every node: a shared server is never flushed, only what a test wrote goes.
pub fn keys(settings: &RedisSettings) -> Vec<Vec<u8>> {
    settings.urls.iter().flat_map(|url| keys_at(url, &settings.prefix).1).collect()
}

fn keys_at(url: &str, prefix: &str) -> (redis::Connection, Vec<Vec<u8>>) {
    let mut connection = redis::Client::open(url).expect("a URL").get_connection().expect("a connection");
    let (mut found, mut cursor) = (Vec::new(), 0u64);
    loop {
        let scan: (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{prefix}*"))
            .arg("COUNT")
            .arg(10_000)
            .query(&mut connection)
            .expect("an answer");
        found.extend(scan.1);
        cursor = scan.0;
        if cursor == 0 {
            return (connection, found);
        }
    }
}

pub fn delete_all(settings: &RedisSettings) {
    for url in &settings.urls {
        let (mut connection, keys) = keys_at(url, &settings.prefix);
        for key in keys {
            redis::cmd("DEL").arg(key).exec(&mut connection).expect("deleted");
        }
    }
}
