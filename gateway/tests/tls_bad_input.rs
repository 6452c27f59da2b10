//! What strangers do to a TLS listener, and what operators do to its certificates: refused, counted, and felt by nobody else.

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use support::control::Control;
use support::wire::{self, Wire, shake_hands, trusted};
use support::{Client, DEADLINE, Node, http, read_to_end, within};
use tidegate_gateway::config::{CertificateConfig, KeyConfig};
use tidegate_gateway::{Config, Gateway, LinkTarget};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{ChildStdout, Command};

/// A handshake record that says it has 512 bytes, and the beginning of a hello.
const HALF_A_HELLO: [u8; 11] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
const TIMEOUTS: &str = "tidegate_gateway_handshakes_total{result=\"timeout\"}";
const GONE: &str = "tidegate_gateway_handshakes_total{result=\"gone\"}";

async fn at_least(node: &Node, metric: &str, count: f64) {
    let waiting = async {
        while node.metric(metric).await < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(metric, waiting).await;
}

async fn nobody_half_open(node: &Node) {
    let waiting = async {
        while node.metric("tidegate_gateway_half_open").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the door is empty", waiting).await;
}

async fn is_served(client: &mut Client) {
    client.send_text(r#"{"id":77,"ping":{}}"#).await;
    assert_eq!(client.json().await["id"], 77);
}

/// A pair whose certificate is valid from the beginning of one year to that of another.
fn pair_of(folder: &Path, name: &str, years: (i32, i32)) -> CertificateConfig {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("params");
    (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
    let key = KeyPair::generate().expect("a key");
    let made = params.self_signed(&key).expect("a certificate");
    let files =
        CertificateConfig { certificate: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) };
    std::fs::write(&files.certificate, made.pem()).expect("written");
    std::fs::write(&files.key, key.serialize_pem()).expect("written");
    files
}

#[tokio::test]
async fn a_gateway_does_not_start_on_certificates_that_cannot_be_used() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (good, other) = (pair_of(folder.path(), "good", (2020, 2900)), pair_of(folder.path(), "other", (2020, 2900)));
    let mixed = CertificateConfig { certificate: good.certificate.clone(), key: other.key };
    let missing = CertificateConfig { certificate: folder.path().join("nowhere.crt"), key: good.key.clone() };
    let swapped = CertificateConfig { certificate: good.key.clone(), key: good.certificate.clone() };
    for (pair, expected) in [
        (pair_of(folder.path(), "old", (2019, 2020)), "old.crt is not valid any more: it has expired"),
        (pair_of(folder.path(), "new", (2900, 2901)), "new.crt is not valid yet"),
        (mixed, "other.key is not that of the certificate"),
        (missing, "nowhere.crt: "),
        (swapped, "good.key holds no certificate"),
    ] {
        let control = Control::start();
        let any = "127.0.0.1:0".parse().expect("an address");
        let mut config = Config { client_addr: any, admin_addr: any, ..Config::default() };
        let key = folder.path().join("jwt.key");
        std::fs::write(&key, support::SECRET).expect("written");
        config.auth.keys = vec![KeyConfig { algorithm: tidegate_auth::Algorithm::HS256, id: None, file: key }];
        config.tls.addr = Some(any);
        config.tls.certificates = vec![pair];
        let refused = Gateway::start(config, LinkTarget::InProcess(control.acceptor()));
        let why = refused.err().expect("it does not start").to_string();
        assert!(why.contains("gateway.tls.certificates: ") && why.contains(expected), "{expected}: {why}");
    }
}

#[tokio::test]
async fn a_reload_of_bad_certificates_changes_nothing_and_is_counted() {
    let folder = tempfile::tempdir().expect("tempdir");
    let made = wire::make();
    let files = wire::write(folder.path(), &made);
    let node = Node::start(|config| config.tls.certificates = vec![files.clone()]).await;
    let tls = node.addrs.tls.expect("a listener");
    let bad = [pair_of(folder.path(), "old", (2019, 2020)), pair_of(folder.path(), "other", (2020, 2900))];
    for (failures, pair) in bad.iter().enumerate() {
        std::fs::copy(&pair.certificate, &files.certificate).expect("copied");
        if failures == 0 {
            // The expired pair fits together; of the other one only the certificate comes.
            std::fs::copy(&pair.key, &files.key).expect("copied");
        }
        node.gateway.as_ref().expect("runs").reload();
        at_least(&node, "tidegate_gateway_tls_reloads_total{result=\"failed\"}", (failures + 1) as f64).await;
        let stream = TcpStream::connect(tls).await.expect("connects");
        shake_hands(stream, made.cert.der().clone()).await.map(drop).expect("the good one is still in use");
    }
    assert_eq!(node.metric("tidegate_gateway_tls_reloads_total{result=\"ok\"}").await, 0.0);
}

#[tokio::test]
async fn hellos_that_end_half_way_are_reaped() {
    let node = Node::start(|config| config.handshake.deadline_ms = 500).await;
    let tls = node.addrs.tls.expect("a listener");
    let mut inside = node.join("alice").await;
    let begin = async || {
        let mut stream = TcpStream::connect(tls).await.expect("connects");
        stream.write_all(&HALF_A_HELLO).await.expect("sent");
        stream
    };
    // Silence, a byte now and then, and the end of the stream.
    let (silent, mut slow, mut ending) = (begin().await, begin().await, begin().await);
    let dribbling = tokio::spawn(async move {
        while slow.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    ending.shutdown().await.expect("its side is closed");
    for stream in [silent, ending] {
        assert_eq!(read_to_end(&mut Wire::Plain(stream)).await, b"");
    }
    within("the slow one is closed", dribbling).await.expect("no panic");
    at_least(&node, TIMEOUTS, 2.0).await;
    at_least(&node, GONE, 1.0).await;
    nobody_half_open(&node).await;
    is_served(&mut inside).await;
}

#[tokio::test]
async fn a_handshake_that_stops_before_its_end_is_reaped() {
    let node = Node::start(|config| config.handshake.deadline_ms = 500).await;
    let tls = node.addrs.tls.expect("a listener");
    // Everything of TLS and nothing of HTTP.
    let stream = TcpStream::connect(tls).await.expect("connects");
    let mut mute = Wire::Tls(Box::new(shake_hands(stream, trusted()).await.expect("a session")));
    assert_eq!(read_to_end(&mut mute).await, b"");
    // A whole hello, and no word after the answer.
    let hello = client_hello();
    let mut stream = TcpStream::connect(tls).await.expect("connects");
    stream.write_all(&hello).await.expect("sent");
    let answer = read_to_end(&mut Wire::Plain(stream)).await;
    assert_eq!(answer.first(), Some(&0x16), "the server's part of the handshake");
    at_least(&node, TIMEOUTS, 2.0).await;
    nobody_half_open(&node).await;
}

/// What a client says first.
fn client_hello() -> Vec<u8> {
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(config.into(), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("into memory");
    hello
}

#[tokio::test]
async fn records_that_are_cut_off_end_one_connection_alone() {
    let node = Node::start(|_| {}).await;
    let mut inside = node.join("alice").await;
    let tls = node.addrs.tls.expect("a listener");
    // A record that announces 16 KB, some of it, and the end of the stream; one that announces too much.
    for (record, cause) in
        [(&[0x17, 3, 3, 0x40, 0, 1, 2, 3][..], "eof"), (&[0x17, 3, 3, 0xff, 0xff], "eof"), (&[0x17, 3, 3][..], "eof")]
    {
        let metric = format!("tidegate_gateway_closes_total{{cause=\"{cause}\"}}");
        let before = node.metric(&metric).await;
        let stream = TcpStream::connect(tls).await.expect("connects");
        let mut secure = shake_hands(stream, trusted()).await.expect("a session");
        secure.write_all(http::upgrade(tls, "/api/v1/ws?uid=mallory", &[]).as_bytes()).await.expect("sent");
        let mut head = [0; 12];
        secure.read_exact(&mut head).await.expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 101");
        let (mut bare, _) = secure.into_inner();
        bare.write_all(record).await.expect("sent");
        bare.shutdown().await.expect("its side is closed");
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, bare.read_to_end(&mut rest)).await.expect("it is closed");
        at_least(&node, &metric, before + 1.0).await;
    }
    at_least(&node, "tidegate_gateway_tls_broken_total", 1.0).await;
    is_served(&mut inside).await;
}

/// `openssl s_client` is a client that can ask for what ours cannot.
struct OpenSsl {
    child: tokio::process::Child,
    said: ChildStdout,
    seen: String,
}

impl OpenSsl {
    fn connect(to: std::net::SocketAddr) -> OpenSsl {
        let mut command = Command::new("sh");
        // It says half of what it says on standard error.
        command.args(["-c", &format!("exec openssl s_client -tls1_2 -servername localhost -connect {to} 2>&1")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("openssl is installed");
        let said = child.stdout.take().expect("piped");
        OpenSsl { child, said, seen: String::new() }
    }

    async fn write(&mut self, bytes: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(bytes).await.expect("written");
        stdin.flush().await.expect("written");
    }

    /// Reads what it prints until this is there.
    async fn until(&mut self, text: &str) {
        let mut chunk = [0; 4096];
        while !self.seen.contains(text) {
            let read = within(text, self.said.read(&mut chunk)).await.expect("readable");
            assert_ne!(read, 0, "{text} is not in {}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
    }
}

#[tokio::test]
async fn nobody_shakes_hands_twice() {
    let node = Node::start(|_| {}).await;
    let mut inside = node.join("alice").await;
    let tls = node.addrs.tls.expect("a listener");
    let sessions = "tidegate_gateway_tls_sessions_total{version=\"1.2\",resumed=\"no\"}";
    for is_established in [false, true] {
        let before = node.metric(sessions).await;
        let mut mallory = OpenSsl::connect(tls);
        mallory.until("Verify return code").await;
        at_least(&node, sessions, before + 1.0).await;
        if is_established {
            mallory.write(http::upgrade(tls, "/api/v1/ws?uid=mallory", &[]).as_bytes()).await;
            mallory.until("\"welcome\"").await;
        }
        mallory.write(b"R\n").await;
        mallory.until("RENEGOTIATING").await;
        if !is_established {
            mallory.until("no renegotiation").await;
        }
        is_served(&mut inside).await;
        // Refused: the client is told and gives up, or it waits in vain until it goes.
        drop(mallory);
        assert_eq!(node.metric(sessions).await, before + 1.0);
    }
    nobody_half_open(&node).await;
    let waiting = async {
        while node.metric("tidegate_gateway_connections").await > 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("mallory is gone", waiting).await;
    is_served(&mut inside).await;
}
