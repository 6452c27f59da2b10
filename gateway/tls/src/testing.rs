//! Certificates and clients of tests.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use crate::acceptor::{Acceptor, ClientCertificates, PairFiles, TlsFiles};
use crate::session::{Received, Session};

pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A self-signed pair in files.
pub fn write_pair(folder: &Path, name: &str, hosts: &[&str]) -> (PairFiles, CertifiedKey<KeyPair>) {
    let made = rcgen::generate_simple_self_signed(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>())
        .expect("a certificate");
    let pair = PairFiles { certificate: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) };
    std::fs::write(&pair.certificate, made.cert.pem()).expect("written");
    std::fs::write(&pair.key, made.signing_key.serialize_pem()).expect("written");
    (pair, made)
}

/// An acceptor for `localhost` and clients that trust it.
pub struct Pki {
    pub acceptor: Acceptor,
    roots: Arc<RootCertStore>,
    _folder: tempfile::TempDir,
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

impl Pki {
    pub fn new() -> Pki {
        let folder = tempfile::tempdir().expect("tempdir");
        let (pair, made) = write_pair(folder.path(), "server", &["localhost"]);
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let files = TlsFiles { pairs: vec![pair], client_certificates: ClientCertificates::NotAsked };
        let acceptor = Acceptor::load(files).expect("loads");
        Pki { acceptor, roots: Arc::new(roots), _folder: folder }
    }

    pub fn client_config(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        Arc::new(config)
    }

    /// Both sides of a connection whose handshake is over.
    pub fn connect(&self, version: &'static SupportedProtocolVersion) -> (Session, Client) {
        let mut client = Client::new(self.client_config(version));
        let mut session = self.acceptor.session().expect("a session");
        client.shake_hands(&mut session);
        (session, client)
    }
}

/// A client over no network.
#[derive(Debug)]
pub struct Client(ClientConnection);

impl Client {
    pub fn new(config: Arc<ClientConfig>) -> Client {
        let name = ServerName::try_from("localhost").expect("a name");
        Client(ClientConnection::new(config, name).expect("a client"))
    }

    pub fn shake_hands(&mut self, session: &mut Session) {
        for _ in 0..10 {
            let (mut plain, mut answer) = (Vec::new(), Vec::new());
            let mut said = self.sealed();
            let received = session.receive(&mut said, &mut plain, &mut answer).expect("a handshake");
            assert_eq!((received, plain.len()), (Received::Open, 0));
            self.hear(&answer);
            if !session.is_handshaking() && !self.0.is_handshaking() {
                return;
            }
        }
        panic!("the handshake does not end");
    }

    /// What it has to say, sealed.
    pub fn sealed(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut said).expect("into memory");
        }
        said
    }

    pub fn say(&mut self, plain: &[u8]) -> Vec<u8> {
        self.0.writer().write_all(plain).expect("into memory");
        self.sealed()
    }

    pub fn say_goodbye(&mut self) -> Vec<u8> {
        self.0.send_close_notify();
        self.sealed()
    }

    /// Takes sealed bytes; returns what they say and whether the other side said goodbye.
    pub fn hear(&mut self, mut sealed: &[u8]) -> (Vec<u8>, bool) {
        let mut plain = Vec::new();
        let mut goodbye = false;
        while !sealed.is_empty() {
            self.0.read_tls(&mut sealed).expect("from memory");
            goodbye |= self.0.process_new_packets().expect("well-formed records").peer_has_closed();
            // Ends with an error of kind WouldBlock when there is nothing more now.
            let _ = self.0.reader().read_to_end(&mut plain);
        }
        (plain, goodbye)
    }

    pub fn connection(&mut self) -> &mut ClientConnection {
        &mut self.0
    }
}
