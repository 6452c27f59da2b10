//! Ephemeral messages by HTTP: to whoever is connected to this gateway, from whoever has a token.

mod support;

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use support::{Node, http, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

async fn node() -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("tempdir");
    let file = folder.path().join("tokens");
    std::fs::write(&file, format!("# backends\n{}\n{TOKEN}\n", "x".repeat(40))).expect("written");
    let node = Node::start(|config| config.deliver.tokens_file = Some(file)).await;
    (node, folder)
}

async fn post(node: &Node, authorization: &str, body: &str) -> (u16, Value) {
    let request = format!(
        "POST /internal/v1/deliver HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{authorization}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        node.addrs.admin,
        body.len()
    );
    let answer = http::exchange(node.addrs.admin, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a response");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}")))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[tokio::test]
async fn whoever_is_here_gets_it_and_the_answer_says_how_many_these_are() {
    let (node, _folder) = node().await;
    let (mut phone, mut laptop, mut bob) = (node.join("alice").await, node.join("alice").await, node.join("bob").await);
    bob.send_text(&json!({"id": 1, "join": {"stream": "g:42"}}).to_string()).await;
    bob.await_key("ok").await;
    let body = json!({"to": ["u:alice", "g:42", "u:nobody"], "from": "billing",
        "message": {"type": "typing", "content": "…", "metadata": {"n": 1}}});
    let (status, answer) = post(&node, &bearer(TOKEN), &body.to_string()).await;
    let each = |to: &str, connections: u32| json!({"to": to, "connections": connections});
    let results = json!([each("u:alice", 2), each("g:42", 1), each("u:nobody", 0)]);
    assert_eq!((status, answer), (200, json!({"gateway": "dev", "connections": 3, "results": results})));
    for (client, stream) in [(&mut phone, "u:alice"), (&mut laptop, "u:alice"), (&mut bob, "g:42")] {
        let batch = client.await_key("batch").await;
        assert_eq!((&batch["stream"], &batch["upto"]), (&json!(stream), &Value::Null), "{batch}");
        let message = &batch["messages"][0];
        assert_eq!((&message["type"], &message["from"]), (&json!("typing"), &json!("billing")), "{batch}");
        assert_eq!((&message["content"], &message["metadata"]), (&json!("…"), &json!({"n": 1})), "{batch}");
        assert!(message["id"].as_str().is_some_and(|id| !id.is_empty()) && message["seq"].is_null(), "{batch}");
    }
    // A durable message comes behind it in its place, as if nothing had been between.
    node.control.push("u:alice", &["hi"]);
    let batch = phone.await_key("batch").await;
    assert_eq!((&batch["after"], &batch["upto"]), (&json!(0), &json!(1)), "{batch}");
    assert_eq!(node.metric("tidegate_gateway_delivered_here_total").await, 2.0);
}

#[tokio::test]
async fn who_has_no_token_or_asks_for_more_is_refused() {
    let (node, _folder) = node().await;
    let good = r#"{"to":["u:alice"],"message":{"content":"x"}}"#;
    let large = format!(r#"{{"to":["u:alice"],"message":{{"content":"{}"}}}}"#, "x".repeat(300 * 1024));
    for (authorization, body, status, code) in [
        (String::new(), good, 401, "UNAUTHENTICATED"),
        (bearer("wrong"), good, 401, "UNAUTHENTICATED"),
        (format!("{0}{0}", bearer(TOKEN)), good, 401, "UNAUTHENTICATED"),
        (bearer(TOKEN), "{", 400, "BAD_REQUEST"),
        (bearer(TOKEN), r#"{"to":["u:a"],"message":{},"class":"durable"}"#, 400, "BAD_REQUEST"),
        (bearer(TOKEN), &large, 413, "TOO_LARGE"),
    ] {
        let (answered, answer) = post(&node, &authorization, body).await;
        assert_eq!((answered, &answer["error"]["code"]), (status, &json!(code)), "{answer}");
        assert_eq!(answer["error"]["retry"], false, "{answer}");
        assert!(!answer.to_string().contains(TOKEN));
    }
    assert_eq!(post(&node, &bearer(TOKEN), good).await.0, 200, "nobody is here, and that is an answer");
}

#[tokio::test]
async fn without_tokens_there_is_no_such_endpoint() {
    let node = Node::start(|_| {}).await;
    let (status, answer) = post(&node, &bearer(TOKEN), "{}").await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("NOT_FOUND")));
    assert_eq!(http::get(node.addrs.admin, "/internal/v1/deliver").await.0, 405);
}

/// The first batch of all is in the sample.
#[tokio::test]
async fn the_time_from_push_to_socket_is_sampled() {
    let (node, _folder) = node().await;
    let mut client = node.join("alice").await;
    assert_eq!(node.metric("tidegate_gateway_delivery_seconds_count").await, 0.0);
    post(&node, &bearer(TOKEN), r#"{"to":["u:alice"],"message":{"content":"x"}}"#).await;
    client.await_key("batch").await;
    node.metric_becomes("tidegate_gateway_delivery_seconds_count", 1.0).await;
    assert_eq!(node.metric("tidegate_gateway_delivery_seconds_bucket{le=\"+Inf\"}").await, 1.0);
    assert!(node.metric("tidegate_gateway_delivery_seconds_bucket{le=\"5.0\"}").await <= 1.0);
}

/// Backends' certificates, and a gateway that takes some of them.
struct Backends {
    authority: CertifiedIssuer<'static, KeyPair>,
    node: Node,
    server: rcgen::CertifiedKey<KeyPair>,
    _folder: tempfile::TempDir,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

impl Backends {
    async fn start(clients: &[&str]) -> Backends {
        let (folder, authority, server) = (tempfile::tempdir().expect("tempdir"), authority(), wire::make());
        let authorities = folder.path().join("authorities.pem");
        std::fs::write(&authorities, authority.pem()).expect("written");
        let files = wire::write(folder.path(), &server);
        let node = Node::start(|config| {
            config.deliver.tls_addr = Some(([127, 0, 0, 1], 0).into());
            config.deliver.certificate = Some(files.certificate);
            config.deliver.key = Some(files.key);
            config.deliver.client_authorities = Some(authorities);
            config.deliver.clients = clients.iter().map(|name| (*name).to_owned()).collect();
        })
        .await;
        Backends { authority, node, server, _folder: folder }
    }

    /// The answer to a delivery by whoever has this certificate; `Err`: there is no session.
    async fn deliver(&self, by: Option<(&str, &CertifiedIssuer<'static, KeyPair>)>) -> std::io::Result<(u16, Value)> {
        let mut roots = RootCertStore::empty();
        roots.add(self.server.cert.der().clone()).expect("a root");
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match by {
            None => config.with_no_client_auth(),
            Some((name, authority)) => {
                let mut params = CertificateParams::new([format!("{name}.backend.test")]).expect("names");
                params.distinguished_name.push(DnType::CommonName, name);
                let key = KeyPair::generate().expect("a key");
                let certificate = params.signed_by(&key, authority).expect("a certificate");
                let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
                config.with_client_auth_cert(vec![certificate.der().clone()], key).expect("a client's certificate")
            }
        };
        let addr = self.node.addrs.deliver.expect("a listener");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TcpStream::connect(addr).await?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let body = r#"{"to":["u:alice"],"message":{"content":"x"}}"#;
        let request = format!(
            "POST /internal/v1/deliver HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        Ok((status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"))))
    }
}

#[tokio::test]
async fn a_certificate_stands_for_a_token() {
    let backends = Backends::start(&["billing", "crm.backend.test"]).await;
    let mut alice = backends.node.join("alice").await;
    for name in ["billing", "crm"] {
        let (status, answer) = backends.deliver(Some((name, &backends.authority))).await.expect("a session");
        assert_eq!((status, &answer["connections"]), (200, &json!(1)), "{name}: {answer}");
        let batch = alice.await_key("batch").await;
        assert_eq!(batch["messages"][0]["content"], "x", "{batch}");
    }
    let (status, answer) = backends.deliver(Some(("shop", &backends.authority))).await.expect("a session");
    assert_eq!((status, &answer["error"]["code"]), (403, &json!("FORBIDDEN")), "{answer}");
    // On the admin listener a token is needed, and there is none.
    assert_eq!(post(&backends.node, &bearer(TOKEN), "{}").await.0, 404);
}

#[tokio::test]
async fn without_a_good_certificate_there_is_no_session() {
    let backends = Backends::start(&[]).await;
    assert!(backends.deliver(None).await.is_err());
    assert!(backends.deliver(Some(("billing", &authority()))).await.is_err(), "of another authority");
    let (status, _) = backends.deliver(Some(("anybody", &backends.authority))).await.expect("a session");
    assert_eq!(status, 200, "whoever the authority vouches for");
}
