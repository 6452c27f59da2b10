//! TLS with certificates on both sides, before the real servers, as the settings name them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tidegate_registry::{Claimed, Kind, Registry, RegistryError, Settings, TlsFiles};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::site::{Backing, LONG, Site};

type Pair = CertifiedKey<KeyPair>;

fn pair(name: &str) -> Pair {
    rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate")
}

/// Takes TLS from those that show the client's certificate, and carries what is in it.
async fn terminator(server: &str, ours: &Pair, client: &Pair) -> SocketAddr {
    let mut roots = RootCertStore::empty();
    roots.add(client.cert.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = PrivateKeyDer::Pkcs8(ours.signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(vec![ours.cert.der().clone()], key)
        .expect("a key");
    // gRPC insists on it; who does not ask for it is served all the same.
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let server = server.to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let Ok(mut server) = TcpStream::connect(server).await else { return };
                // Whichever side ends it, the test is told by its own requests.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

fn write(folder: &Path, name: &str, text: &str) -> Option<std::path::PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("write");
    Some(path)
}

async fn both_sides_show_who_they_are(backing: Backing, kind: Kind, scheme: &str) {
    let site = Site::open(backing).await;
    let (server, client, stranger) = (pair("127.0.0.1"), pair("node"), pair("127.0.0.1"));
    let address = terminator(site.address(), &server, &client).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| write(folder.path(), name, text);
    let tls = TlsFiles {
        ca_file: file("ca.pem", &server.cert.pem()),
        cert_file: file("node.pem", &client.cert.pem()),
        key_file: file("node.key", &client.signing_key.serialize_pem()),
    };
    let endpoints = vec![format!("{scheme}://{address}")];
    let with = |tls: TlsFiles| Settings {
        kind,
        endpoints: endpoints.clone(),
        username: None,
        password_file: None,
        tls,
        timeout_ms: 20_000,
    };
    let registry = Registry::connect(&with(tls.clone())).expect("settings");
    let session = registry.session(LONG).await.expect("a session");
    assert_eq!(session.claim(&site.key("a"), "1").await.expect("claim"), Claimed::Ours);
    assert_eq!(site.value("a").await.as_deref(), Some("1"));

    let nameless = TlsFiles { cert_file: None, key_file: None, ..tls.clone() };
    let deceived = TlsFiles { ca_file: file("stranger.pem", &stranger.cert.pem()), ..tls.clone() };
    for refused in [nameless, deceived, TlsFiles::default()] {
        let refused = Registry::connect(&with(refused)).expect("settings").get(&site.key("a")).await;
        assert!(matches!(refused, Err(RegistryError::Unavailable(_))), "{refused:?}");
    }
    let missing = TlsFiles { ca_file: Some(folder.path().join("missing")), ..tls };
    assert!(matches!(Registry::connect(&with(missing)), Err(RegistryError::InvalidSettings(_))));
    session.end().await.expect("end");
    site.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_over_tls() {
    both_sides_show_who_they_are(Backing::Etcd, Kind::Etcd, "https").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_over_tls() {
    both_sides_show_who_they_are(Backing::Redis, Kind::Redis, "rediss").await;
}
