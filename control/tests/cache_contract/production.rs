//! The settings and rights in `deploy/redis/` start a real server, and are enough for the cache and for nothing else.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tidegate_control::adapters::redis::{KeySettings, RedisCache, RedisSettings};
use tidegate_control_core::breaker::BreakerState;
use tidegate_control_core::contract::cache::{head, live, offline, online, query, run, stream, uid};
use tidegate_control_core::domain::{Epoch, Fingerprint, MessageId, OwnerEpoch, Seq};
use tidegate_control_core::ports::DedupHit;
use tidegate_control_core::ports::cache::{Cache, Channel, CursorKey, Fact, Notice, Published, Queued, Ring};
use xtask::servers::{Farewell, Home, Process, redis_server};

use crate::redis_kit::{runtime, starting, until};

const EPOCH: Epoch = Epoch(0x7e57);
const OWNER: OwnerEpoch = OwnerEpoch(5);
const PASSWORD: &str = "correct horse";

struct Production {
    process: Process,
    port: u16,
    folder: tempfile::TempDir,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Plain,
    Tls,
}

impl Production {
    fn start(wire: Wire) -> Production {
        let _one_at_a_time = starting();
        let folder = tempfile::Builder::new().tempdir_in("/var/tmp").expect("a folder");
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/redis");
        let acl = std::fs::read_to_string(deploy.join("users.acl")).expect("users.acl");
        let hash: String = Sha256::digest(PASSWORD).iter().map(|byte| format!("{byte:02x}")).collect();
        let users = folder.path().join("users.acl");
        std::fs::write(&users, acl.replace("REPLACE_WITH_SHA256_OF_THE_PASSWORD", &hash)).expect("written");
        std::fs::write(folder.path().join("password"), format!("{PASSWORD}\n")).expect("written");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut command = redis_server(&Home::find().expect("a home")).expect("a Redis");
        let option = if wire == Wire::Tls { "--tls-port" } else { "--port" };
        command.arg(deploy.join("redis.conf"));
        if wire == Wire::Tls {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
            let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
            std::fs::write(&cert, made.cert.pem()).expect("written");
            std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
            command.args(["--port", "0", "--tls-auth-clients", "no"]);
            command
                .arg("--tls-cert-file")
                .arg(&cert)
                .arg("--tls-key-file")
                .arg(&key)
                .arg("--tls-ca-cert-file")
                .arg(&cert);
        }
        command.arg(option).arg(port.to_string()).arg("--dir").arg(folder.path()).arg("--aclfile").arg(&users);
        let process = Process::spawn(&mut command, &folder.path().join("log")).expect("started");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(std::time::Instant::now() < deadline, "Redis does not begin");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Production { process, port, folder }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn settings(&self) -> RedisSettings {
        RedisSettings {
            urls: vec![format!("redis://127.0.0.1:{}", self.port)],
            username: Some("tidegate".to_owned()),
            password_file: Some(self.folder.path().join("password")),
            timeout_ms: 5_000,
            keys: KeySettings { instance: "user:{uid}".to_owned(), ..KeySettings::default() },
            ..RedisSettings::default()
        }
    }
}

impl Drop for Production {
    fn drop(&mut self) {
        let _ = self.process.stop(Farewell::Terminate);
    }
}

#[test]
fn over_tls_only_a_server_that_is_trusted_is_spoken_to() {
    let server = Production::start(Wire::Tls);
    let trusting = RedisSettings {
        urls: vec![format!("rediss://localhost:{}", server.port)],
        tls_ca_file: Some(server.folder.path().join("cert.pem")),
        ..server.settings()
    };
    let suspicious = RedisSettings { tls_ca_file: None, ..trusting.clone() };
    let misled = RedisSettings { urls: vec![format!("rediss://127.0.0.1:{}", server.port)], ..trusting.clone() };
    let plain = RedisSettings { urls: vec![format!("redis://localhost:{}", server.port)], ..suspicious.clone() };
    runtime().block_on(async {
        let cache = RedisCache::open(&trusting).expect("valid settings");
        let channel = Channel::invalidation();
        let mut notices = cache.subscribe(std::slice::from_ref(&channel));
        assert_eq!(notices.next().await, Some(Notice::Gap), "{}", server.log());
        cache.write(vec![head("g:go", EPOCH, 3, OWNER)]);
        cache.settled().await;
        assert_eq!(cache.heads(&[stream("g:go")]).await, [Some((EPOCH, Seq(3)))]);
        for (why, settings) in [("who signed it?", suspicious), ("another name", misled), ("not TLS", plain)] {
            let cache = RedisCache::open(&settings).expect("valid settings");
            assert_eq!(cache.heads(&[stream("g:go")]).await, [None], "{why}");
        }
    });
}

#[test]
fn the_production_settings_and_rights_are_enough_for_the_cache_and_for_nothing_else() {
    let server = Production::start(Wire::Plain);
    let settings = server.settings();
    runtime().block_on(async {
        let cache = RedisCache::open(&settings).expect("valid settings");
        let channel = Channel::invalidation();
        let mut notices = cache.subscribe(std::slice::from_ref(&channel));
        assert_eq!(notices.next().await, Some(Notice::Gap), "{}", server.log());
        let hit = DedupHit { epoch: EPOCH, seq: Seq(1), id: MessageId(1), fingerprint: Fingerprint(1) };
        let key = CursorKey { uid: uid("ann"), device: "d".into(), stream: stream("g:go") };
        let gw = ("gw-1", 1);
        cache.write(vec![
            online("ann", gw, "1"),
            online("ann", gw, "2"),
            offline("ann", gw, "2"),
            Fact::Void(tidegate_control_core::contract::cache::gateway("gw-0", 1)),
            head("g:go", EPOCH, 3, OWNER),
            head("u:ann", EPOCH, 3, OWNER),
            Fact::Hot(run("g:go", 1..=3)),
            Fact::Hot(run("g:go", 2..=150)),
            Fact::Queue(run("u:ann", 1..=3)),
            Fact::Dedup { key: [1; 16], hit, owner: OWNER },
            Fact::Cursor { key: key.clone(), epoch: EPOCH, seq: Seq(3), owner: OWNER },
            Fact::Forget(stream("g:other")),
            Fact::Publish { channel: channel.clone(), bytes: "g go\n".into() },
        ]);
        cache.settled().await;
        let (users, living, keys) = ([uid("ann")], live(&[gw]), [key]);
        assert_eq!(cache.routes_of(&users, &living).await[0].as_ref().map(Vec::len), Some(1));
        assert_eq!(cache.route_counts(&[tidegate_control_core::contract::cache::gateway("gw-1", 1)]).await, [Some(1)]);
        assert_eq!(cache.heads(&[stream("g:go")]).await, [Some((EPOCH, Seq(3)))]);
        assert!(cache.hot(&[query("g:go", 149, 10)]).await[0].is_some());
        assert!(matches!(cache.queued(&[query("u:ann", 0, 10)]).await[0], Queued::Covers { .. }));
        assert_eq!(cache.dedup(&[[1; 16]]).await, [Some(hit)]);
        assert_eq!(cache.cursors(&keys).await, [Some((EPOCH, Seq(3)))]);
        assert_eq!(cache.publish_ring(Ring { version: 1, json: "{}".into() }).await, Published::Done);
        assert!(cache.ring().await.is_some());
        assert!(cache.sweep(&living).await.removed == 0);
        assert_eq!(notices.next().await, Some(Notice::Message { channel, bytes: "g go\n".into() }));
        let health = cache.health();
        assert_eq!((health.writes_refused, health.reads_failed, health.breaker), (0, 0, BreakerState::Closed));
        until("the markers", || cache.health().writes_done >= 13).await;
    });
    let url = format!("redis://tidegate:{}@127.0.0.1:{}", PASSWORD.replace(' ', "%20"), server.port);
    let mut connection = redis::Client::open(url).expect("a URL").get_connection().expect("connected");
    for forbidden in [
        &["FLUSHALL"][..],
        &["CONFIG", "GET", "*"],
        &["KEYS", "*"],
        &["GET", "secret"],
        &["SET", "other:1", "x"],
        &["PUBLISH", "x", "y"],
    ] {
        let mut command = redis::cmd(forbidden[0]);
        forbidden[1..].iter().for_each(|word| {
            command.arg(word);
        });
        let refused = command.exec(&mut connection).expect_err("refused");
        assert_eq!(refused.code(), Some("NOPERM"), "{forbidden:?}: {refused}");
    }
    let nobody = redis::Client::open(format!("redis://127.0.0.1:{}", server.port)).expect("a URL");
    let refused = nobody.get_connection().and_then(|mut connection| redis::cmd("PING").exec(&mut connection));
    assert!(refused.is_err(), "nobody gets in without a password");
}
