//! A Redis that is flushed, killed, paused, or in part away. Each test has servers of its own.

use std::time::Duration;

use tidegate_control::adapters::redis::{BoundSettings, BreakerSettings, RedisCache, RedisSettings};
use tidegate_control_core::breaker::BreakerState;
use tidegate_control_core::contract::cache::{gateway, head, live, offline, online, query, run, stream, uid};
use tidegate_control_core::domain::{Epoch, OwnerEpoch, Seq};
use tidegate_control_core::ports::cache::{Bell, Cache, Channel, Fact, Notice, Queued};
use xtask::servers::{Home, Process, Server, down_in, kill_in, revive_in, up_in};

use crate::redis_kit::{Turn, runtime, settings, starting, until, urls};

const EPOCH: Epoch = Epoch(0x7e57);
const OWNER: OwnerEpoch = OwnerEpoch(5);
const GW: (&str, u64) = ("gw-1", 7);

/// Ended and removed with the test, whatever becomes of it.
struct OwnServer {
    home: Home,
    server: Server,
    _folder: tempfile::TempDir,
}

impl OwnServer {
    fn new(server: Server) -> OwnServer {
        let folder = tempfile::Builder::new().tempdir_in("/var/tmp").expect("a folder");
        OwnServer { home: Home::at(folder.path().join("servers")).expect("a home"), server, _folder: folder }
    }

    fn up(&self) -> Vec<String> {
        let _one_at_a_time = starting();
        urls(&up_in(&self.home, self.server, 1).expect("a Redis of our own"))
    }

    fn processes(&self) -> Vec<Process> {
        self.home.load().expect("state").servers[self.server.name()].processes.clone()
    }

    /// All of it, or one of its nodes.
    fn kill(&self, node: Option<usize>) -> Dead<'_> {
        let turn = starting();
        kill_in(&self.home, self.server, node).expect("killed");
        Dead { server: self, _turn: turn }
    }

    fn signal(&self, signal: &str) {
        for process in self.processes() {
            let mut kill = std::process::Command::new("kill");
            assert!(kill.arg(signal).arg(process.pid.to_string()).status().expect("run kill").success());
        }
    }
}

/// For as long as this is held no other test begins a server, which could find these ports free.
struct Dead<'a> {
    server: &'a OwnServer,
    _turn: Turn,
}

impl Dead<'_> {
    fn revive(self) {
        revive_in(&self.server.home, self.server.server).expect("started again");
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        if let Err(error) = down_in(&self.home, self.server, true) {
            eprintln!("a Redis was left behind: {error:#}");
        }
    }
}

/// An outage is felt soon, and a machine that is busy with other tests is not taken for one.
fn impatient(urls: Vec<String>, cluster: bool) -> RedisSettings {
    RedisSettings { timeout_ms: 1_000, ..settings(urls, cluster) }
}

async fn head_of(cache: &RedisCache, name: &str) -> Option<u64> {
    cache.heads(&[stream(name)]).await.remove(0).map(|(_, seq)| seq.0)
}

async fn is_online(cache: &RedisCache, name: &str) -> bool {
    let (users, live) = ([uid(name)], live(&[GW]));
    cache.routes_of(&users, &live).await.remove(0).is_some_and(|connections| !connections.is_empty())
}

/// Reads until the breaker is in this state: it changes with requests.
async fn reads_until(cache: &RedisCache, state: BreakerState) {
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while cache.health().breaker != state {
        assert!(std::time::Instant::now() < deadline, "the breaker is {:?}", cache.health().breaker);
        let _ = head_of(cache, "g:any").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_killed_server_is_a_miss_and_what_is_written_meanwhile_is_there_when_it_is_back() {
    let server = OwnServer::new(Server::Redis);
    let settings = impatient(server.up(), false);
    runtime().block_on(async {
        let cache = RedisCache::open(&settings).expect("valid settings");
        cache.write(vec![head("g:go", EPOCH, 5, OWNER), online("ann", GW, "1")]);
        cache.settled().await;
        assert_eq!((head_of(&cache, "g:go").await, is_online(&cache, "ann").await), (Some(5), true));
        let generation = cache.generation();

        let dead = server.kill(None);
        reads_until(&cache, BreakerState::Open).await;
        let (users, living) = ([uid("ann"), uid("bob")], live(&[GW]));
        assert_eq!(cache.routes_of(&users, &living).await, [None, None], "not known, which is not offline");
        assert_eq!(cache.queued(&[query("u:ann", 0, 10)]).await, [Queued::Unknown]);
        assert_eq!(cache.ring().await, None);
        cache.write(vec![head("g:go", EPOCH, 6, OWNER), online("bob", GW, "2")]);
        let health = cache.health();
        assert!(health.reads_failed > 3 && health.queued == 2 && health.breaker_opened >= 1, "{health:?}");

        dead.revive();
        cache.settled().await;
        reads_until(&cache, BreakerState::Closed).await;
        assert_eq!((head_of(&cache, "g:go").await, is_online(&cache, "bob").await), (Some(6), true));
        until("the loss is told", || cache.generation() > generation).await;
        cache.write(vec![online("ann", GW, "1")]);
        cache.settled().await;
        assert!(is_online(&cache, "ann").await, "it fills again");
        assert_eq!(cache.health().owed, 0);
    });
}

#[test]
fn a_flushed_server_is_noticed_and_fills_again() {
    for kind in [Server::Redis, Server::RedisCluster] {
        let server = OwnServer::new(kind);
        let urls = server.up();
        let settings = settings(urls.clone(), kind == Server::RedisCluster);
        runtime().block_on(async {
            let cache = RedisCache::open(&settings).expect("valid settings");
            let facts =
                || vec![head("g:go", EPOCH, 5, OWNER), online("ann", GW, "1"), Fact::Queue(run("u:ann", 1..=3))];
            cache.write(facts());
            cache.settled().await;
            until("the first marker", || !crate::redis_kit::keys(&settings).is_empty()).await;
            let generation = cache.generation();
            for url in &urls {
                let mut connection =
                    redis::Client::open(url.as_str()).expect("a URL").get_connection().expect("connected");
                redis::cmd("FLUSHALL").exec(&mut connection).expect("flushed");
            }
            assert_eq!((head_of(&cache, "g:go").await, is_online(&cache, "ann").await), (None, false));
            until("the flush is noticed", || cache.generation() > generation).await;
            cache.write(facts());
            cache.settled().await;
            assert_eq!((head_of(&cache, "g:go").await, is_online(&cache, "ann").await), (Some(5), true));
            let queued = cache.queued(&[query("u:ann", 1, 10)]).await.remove(0);
            assert!(matches!(queued, Queued::Covers { upto: Seq(3), .. }), "{queued:?}");
            assert_eq!(cache.health().breaker, BreakerState::Closed);
        });
    }
}

/// It answers that it has no memory for what it is told.
#[test]
fn a_full_server_hears_who_came_and_went_once_it_has_room() {
    let server = OwnServer::new(Server::Redis);
    let settings = impatient(server.up(), false);
    runtime().block_on(async {
        let cache = RedisCache::open(&settings).expect("valid settings");
        cache.write(vec![online("ann", GW, "1"), online("bob", GW, "2")]);
        cache.settled().await;
        let client = redis::Client::open(settings.urls[0].as_str()).expect("a URL");
        let mut connection = client.get_connection().expect("connected");
        let mut set = |name: &str, value: &str| {
            redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut connection).expect("set");
        };
        set("maxmemory-policy", "noeviction");
        set("maxmemory", "1");
        cache.write(vec![offline("ann", GW, "1"), online("cyd", GW, "3")]);
        until("both are refused", || cache.health().writes_refused >= 2).await;
        assert_eq!((is_online(&cache, "ann").await, is_online(&cache, "cyd").await), (true, false));
        set("maxmemory", "0");
        cache.settled().await;
        let all = ["ann", "bob", "cyd"];
        let mut there = Vec::new();
        for name in all {
            there.push(is_online(&cache, name).await);
        }
        assert_eq!(there, [false, true, true], "{all:?}");
        assert_eq!(cache.health().breaker, BreakerState::Closed);
    });
}

/// The server keeps its data while it cannot be reached: what stands there is older than what was dropped meanwhile, and must
/// not pass for new.
#[test]
fn what_was_dropped_does_not_leave_an_older_value_behind() {
    let server = OwnServer::new(Server::Redis);
    let bounds = BoundSettings { writes_max: 50, ..BoundSettings::default() };
    let settings = RedisSettings { bounds, ..impatient(server.up(), false) };
    runtime().block_on(async {
        let cache = RedisCache::open(&settings).expect("valid settings");
        let facts = |seq: u64| {
            [head("g:go", EPOCH, seq, OWNER), Fact::Hot(run("g:go", [seq])), Fact::Queue(run("u:ann", [seq]))]
        };
        cache.write((1..=5).flat_map(facts).collect());
        cache.write(vec![online("ann", GW, "1")]);
        cache.settled().await;

        server.signal("-STOP");
        reads_until(&cache, BreakerState::Open).await;
        // Facts of these streams, and that ann left, fall out of the bounded backlog.
        cache.write((6..=8).flat_map(facts).collect());
        let left = tidegate_control_core::contract::cache::offline("ann", GW, "1");
        cache.write(vec![left]);
        for n in 0..2_000 {
            cache.write(vec![head(&format!("g:other{n}"), EPOCH, 1, OWNER)]);
            let health = cache.health();
            assert!(health.queued <= 50, "{health:?}");
        }
        assert!(cache.health().writes_dropped >= 1_950, "{:?}", cache.health());
        server.signal("-CONT");

        cache.settled().await;
        reads_until(&cache, BreakerState::Closed).await;
        assert_eq!(head_of(&cache, "g:go").await, None, "a miss, not 5");
        assert_eq!(cache.hot(&[query("g:go", 4, 10)]).await, [None]);
        assert_eq!(cache.queued(&[query("u:ann", 4, 10)]).await, [Queued::Unknown]);
        assert!(!is_online(&cache, "ann").await, "she left");
        cache.write(facts(9).into());
        cache.settled().await;
        assert_eq!(head_of(&cache, "g:go").await, Some(9));
        let hot = cache.hot(&[query("g:go", 8, 10)]).await.remove(0);
        assert!(hot.is_some_and(|entries| entries.len() == 1));
    });
}

#[test]
fn with_one_master_away_the_others_answer() {
    let server = OwnServer::new(Server::RedisCluster);
    let settings = RedisSettings {
        timeout_ms: 1_000,
        breaker: BreakerSettings { cool_down_ms: 50, ..BreakerSettings::default() },
        ..settings(server.up(), true)
    };
    runtime().block_on(async {
        let cache = RedisCache::open(&settings).expect("valid settings");
        let names: Vec<String> = (0..60).map(|n| format!("user{n}")).collect();
        cache.write(names.iter().map(|name| online(name, GW, "1")).collect());
        cache.settled().await;
        let (users, living): (Vec<_>, _) = (names.iter().map(|name| uid(name)).collect(), live(&[GW]));
        let found = |routes: &[Option<Vec<_>>]| routes.iter().flatten().filter(|list| !list.is_empty()).count();
        assert_eq!(found(&cache.routes_of(&users, &living).await), 60);

        let dead = server.kill(Some(1));
        let deadline = std::time::Instant::now() + Duration::from_secs(120);
        loop {
            let routes = cache.routes_of(&users, &living).await;
            let (known, there) = (routes.iter().flatten().count(), found(&routes));
            assert_eq!(known, there, "what is known is right");
            if (20..60).contains(&there) {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{there} of 60 are found");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }

        dead.revive();
        cache.write(names.iter().map(|name| online(name, GW, "1")).collect());
        let deadline = std::time::Instant::now() + Duration::from_secs(120);
        while found(&cache.routes_of(&users, &living).await) < 60 {
            assert!(std::time::Instant::now() < deadline, "{:?}", cache.health());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cache.settled().await;
        let counts = cache.route_counts(&[gateway("gw-1", 7)]).await;
        assert_eq!(counts, [Some(60)]);
    });
}

#[test]
fn a_subscription_tells_a_gap_after_its_server_was_away_and_goes_on() {
    let server = OwnServer::new(Server::Redis);
    let settings = impatient(server.up(), false);
    runtime().block_on(async {
        let cache = RedisCache::open(&settings).expect("valid settings");
        let channel = Channel::downstream(Bell::Gateway("gw-1")).expect("a channel");
        let mut notices = cache.subscribe(std::slice::from_ref(&channel));
        assert_eq!(notices.next().await, Some(Notice::Gap));
        let say =
            |text: &'static str| cache.write(vec![Fact::Publish { channel: channel.clone(), bytes: text.into() }]);
        let heard = |text: &'static str| Some(Notice::Message { channel: channel.clone(), bytes: text.into() });
        say("one");
        assert_eq!(notices.next().await, heard("one"));

        server.kill(None).revive();
        assert_eq!(notices.next().await, Some(Notice::Gap));
        reads_until(&cache, BreakerState::Closed).await;
        say("two");
        assert_eq!(notices.next().await, heard("two"));
        drop(cache);
        assert_eq!(notices.next().await, None, "closed");
    });
}

#[test]
fn a_cache_opens_without_a_server() {
    let settings = impatient(vec!["redis://127.0.0.1:1".to_owned()], false);
    runtime().block_on(async {
        let cache = RedisCache::open(&settings).expect("no server is needed");
        assert_eq!(head_of(&cache, "g:go").await, None);
        cache.write(vec![head("g:go", EPOCH, 1, OWNER)]);
        reads_until(&cache, BreakerState::Open).await;
        assert_eq!(cache.generation(), 0);
    });
}
