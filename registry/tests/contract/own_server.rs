//! What is done to a server that nobody else uses: restarts, lost memory, passwords, compaction.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use tidegate_registry::{Claimed, EtcdOptions, Login, Names, RedisOptions, Registry, RegistryError, Secret, WorkerIds};
use xtask::servers::{Home, Server, down_in, up_in};

use crate::site::{KEPT, change, in_time, snapshot, until, until_snapshot};

/// Longer than a busy machine takes to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Stopped and removed when dropped.
struct Own {
    home: Home,
    server: Server,
    _folder: tempfile::TempDir,
}

impl Own {
    fn up(server: Server) -> (Own, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::at(folder.path().join("home")).expect("a home");
        let own = Own { home, server, _folder: folder };
        let url = own.start();
        (own, url)
    }

    /// At the address that it had before.
    fn start(&self) -> String {
        up_in(&self.home, self.server, 1).expect("a server to test against")
    }

    fn stop(&self) {
        down_in(&self.home, self.server, false).expect("it stops");
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // A test that fails leaves its own message; this one would hide it.
        let _ = down_in(&self.home, self.server, true);
    }
}

fn etcd(url: &str) -> Registry {
    Registry::etcd(EtcdOptions { timeout: TIMEOUT, ..EtcdOptions::new([url]) }).expect("options are fine")
}

fn redis(url: &str) -> Registry {
    Registry::redis(RedisOptions { timeout: TIMEOUT, ..RedisOptions::new(url) }).expect("options are fine")
}

/// etcd's API over HTTP, for what only an operator does.
fn operate(url: &str, path: &str, body: &str) -> String {
    let server = url.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(server).expect("connect");
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_everything_over_a_restart() {
    let (own, url) = Own::up(Server::Etcd);
    let registry = etcd(&url);
    registry.put("/a", "1").await.expect("put");
    let session = registry.session(KEPT).await.expect("a session");
    session.claim("/b", "mine").await.expect("claim");
    let mut watch = registry.watch("/");
    assert_eq!(snapshot(&mut watch).await.len(), 2);
    own.stop();
    own.start();
    let kept = [("/a".to_owned(), "1".to_owned()), ("/b".to_owned(), "mine".to_owned())];
    assert_eq!(snapshot(&mut watch).await, kept);
    let before = session.valid_until();
    until("a keep-alive", async || (session.valid_until() > before).then_some(())).await;
    etcd(&url).put("/c", "1").await.expect("put");
    assert_eq!(change(&mut watch).await, ("/c".into(), Some("1".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_may_lose_everything_and_sessions_notice() {
    let (own, url) = Own::up(Server::Redis);
    let registry = redis(&url);
    let names = Names::new("blue").expect("a name");
    let session = registry.session(KEPT).await.expect("a session");
    session.claim("/a", "old").await.expect("claim");
    let version = registry.get("/a").await.expect("get").expect("it is there").version;
    let worker = WorkerIds::new(&registry, &names).with_count(1).lease("old", KEPT).await.expect("the only one");
    let mut watch = registry.watch("/a");
    assert_eq!(snapshot(&mut watch).await.len(), 1);
    own.stop();
    own.start();
    assert_eq!(snapshot(&mut watch).await, []);
    let leased = in_time("an id", until("an id", async || lease(&url, &names).await)).await;
    assert!(!worker.is_alive(), "two holders of {}", leased.id());
    in_time("the loss is told", session.lost()).await;
    let next = until("a session", async || registry.session(KEPT).await.ok()).await;
    assert_eq!(next.claim("/a", "new").await.expect("claim"), Claimed::Ours);
    let entry = registry.get("/a").await.expect("get").expect("it is there");
    assert!(entry.version > version, "versions grow over a loss");
    assert_eq!(change(&mut watch).await, ("/a".into(), Some("new".into())));
}

async fn lease(url: &str, names: &Names) -> Option<tidegate_registry::WorkerId> {
    WorkerIds::new(&redis(url), names).with_count(1).lease("new", KEPT).await.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_asks_for_a_password() {
    let (_own, url) = Own::up(Server::Redis);
    let client = ::redis::Client::open(url.as_str()).expect("a URL");
    let mut operator = client.get_multiplexed_async_connection().await.expect("connect");
    let user = ["SETUSER", "node", "on", ">hunter2", "~{tidegate:registry}:*", "&{tidegate:registry}:*", "+@all"];
    for command in [&user[..], &["SETUSER", "default", "off"]] {
        ::redis::cmd("ACL").arg(command).exec_async(&mut operator).await.expect("ACL");
    }
    let with = |password: &str| {
        let login = Some(Login { username: "node".into(), password: Secret::new(password) });
        Registry::redis(RedisOptions { login, timeout: TIMEOUT, ..RedisOptions::new(&url) }).expect("options are fine")
    };
    let registry = with("hunter2");
    let mut watch = registry.watch("/");
    assert_eq!(snapshot(&mut watch).await, []);
    registry.put("/a", "1").await.expect("put");
    assert_eq!(change(&mut watch).await, ("/a".into(), Some("1".into())));
    for refused in [with("wrong"), redis(&url)] {
        let refused = refused.get("/a").await;
        assert!(matches!(refused, Err(RegistryError::Rejected(_))), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_asks_for_a_password() {
    let (_own, url) = Own::up(Server::Etcd);
    operate(&url, "/v3/auth/user/add", r#"{"name":"root","password":"hunter2"}"#);
    operate(&url, "/v3/auth/role/add", r#"{"name":"root"}"#);
    operate(&url, "/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#);
    operate(&url, "/v3/auth/enable", "{}");
    let with = |password: &str| {
        let login = Some(Login { username: "root".into(), password: Secret::new(password) });
        Registry::etcd(EtcdOptions { login, timeout: TIMEOUT, ..EtcdOptions::new([&url]) }).expect("options are fine")
    };
    let registry = with("hunter2");
    let mut watch = registry.watch("/");
    assert_eq!(snapshot(&mut watch).await, []);
    let session = registry.session(KEPT).await.expect("a session");
    session.claim("/a", "1").await.expect("claim");
    assert_eq!(change(&mut watch).await, ("/a".into(), Some("1".into())));
    for refused in [with("wrong"), etcd(&url)] {
        let refused = refused.get("/a").await;
        assert!(matches!(refused, Err(RegistryError::Rejected(_))), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlasts_compaction() {
    let (own, url) = Own::up(Server::Etcd);
    let registry = etcd(&url);
    let mut watch = registry.watch("/");
    assert_eq!(snapshot(&mut watch).await, []);
    let put = async |round: u32| registry.put("/a", &round.to_string()).await.expect("put");
    for round in 0..10 {
        put(round).await;
        assert_eq!(change(&mut watch).await, ("/a".into(), Some(round.to_string())));
    }
    let version = registry.get("/a").await.expect("get").expect("it is there").version;
    operate(&url, "/v3/kv/compaction", &format!(r#"{{"revision":"{version}","physical":true}}"#));
    put(10).await;
    assert_eq!(change(&mut watch).await, ("/a".into(), Some("10".into())));
    own.stop();
    own.start();
    assert_eq!(until_snapshot(&mut watch).await, [("/a".to_owned(), "10".to_owned())]);
}
