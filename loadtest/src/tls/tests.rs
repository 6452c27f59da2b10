//! Sessions and trust against rustls' own server.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::thread;

use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};

use super::*;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A server's side over no network.
struct Server(ServerConnection);

impl Server {
    fn config(pair: &Pair, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
        let folder = tempfile::tempdir().expect("a folder");
        let files = PairFiles { certificate: folder.path().join("a.crt"), key: folder.path().join("a.key") };
        pair.write(&files).expect("written");
        let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
        let certificate = CertificateDer::from_pem_file(&files.certificate).expect("a certificate");
        assert_eq!(certificate, *pair.certificate());
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(&[version]).expect("a version").with_no_client_auth();
        Arc::new(builder.with_single_cert(vec![certificate], key).expect("a pair"))
    }

    fn new(pair: &Pair, version: &'static SupportedProtocolVersion) -> Server {
        Server(ServerConnection::new(Server::config(pair, version)).expect("a server"))
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.0.read_tls(&mut bytes).expect("room");
            self.0.process_new_packets().expect("lawful");
        }
    }

    fn heard(&mut self) -> Vec<u8> {
        let mut plain = Vec::new();
        match self.0.reader().read_to_end(&mut plain) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => plain,
            ended => ended.map(|_| plain).expect("readable"),
        }
    }

    fn say(&mut self, plain: &[u8]) -> Vec<u8> {
        self.0.writer().write_all(plain).expect("room");
        let mut sealed = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut sealed).expect("a Vec takes everything");
        }
        sealed
    }
}

fn connector(trusted: &Pair) -> Connector {
    let trust = Trust::Certificates(vec![trusted.certificate().clone()]);
    Connector::new(&trust, &HOST.to_string()).expect("a connector")
}

fn receive(session: &mut Session, bytes: &[u8]) -> Result<(Received, Vec<u8>), TlsError> {
    let (mut bytes, mut plain) = (bytes.to_vec(), Vec::new());
    let received = session.receive(&mut bytes, |opened| {
        plain.extend_from_slice(opened);
        Ok::<(), TlsError>(())
    });
    match received {
        Ok(received) => Ok((received, plain)),
        Err(Stopped::Tls(error) | Stopped::Reader(error)) => Err(error),
    }
}

/// Bytes come in chunks of this size.
fn shake_hands(session: &mut Session, server: &mut Server, chunk: usize) {
    for _ in 0..10 {
        server.hear(&session.transmit(&[]).expect("open"));
        for bytes in server.say(&[]).chunks(chunk) {
            receive(session, bytes).expect("lawful");
        }
    }
    assert!(!session.is_handshaking() && !server.0.is_handshaking());
}

#[test]
fn what_is_said_comes_over_whatever_the_pieces() {
    let pair = Pair::self_signed(HOST).expect("a pair");
    let plain: Vec<u8> = (0..50_000u32).map(|n| n as u8).collect();
    for version in VERSIONS {
        for chunk in [1, 7, 4096, 100_000] {
            let (mut session, mut server) =
                (connector(&pair).session().expect("a session"), Server::new(&pair, version));
            shake_hands(&mut session, &mut server, chunk);
            let sealed = session.transmit(&plain).expect("open");
            let mut up = Vec::new();
            for bytes in sealed.chunks(4096) {
                server.hear(bytes);
                up.extend(server.heard());
            }
            assert_eq!(up, plain);
            let mut down = Vec::new();
            for bytes in server.say(&plain).chunks(chunk.max(64)) {
                down.extend(receive(&mut session, bytes).expect("lawful").1);
            }
            assert_eq!(down, plain);
            assert_eq!(session.incomplete.capacity(), 0, "an idle session keeps no buffer");
        }
    }
}

#[test]
fn the_end_is_told_and_a_forged_record_is_an_error() {
    let pair = Pair::self_signed(HOST).expect("a pair");
    let (mut session, mut server) = (connector(&pair).session().expect("a session"), Server::new(&pair, &TLS13));
    shake_hands(&mut session, &mut server, 4096);
    let mut forged = server.say(b"hello");
    *forged.last_mut().expect("bytes") ^= 1;
    assert!(matches!(receive(&mut session, &forged), Err(TlsError::Rustls(rustls::Error::DecryptError))));
    assert!(matches!(receive(&mut session, b"more"), Err(TlsError::NotOpen)));

    let (mut session, mut server) = (connector(&pair).session().expect("a session"), Server::new(&pair, &TLS13));
    shake_hands(&mut session, &mut server, 4096);
    server.0.send_close_notify();
    let last = server.say(&[]);
    assert_eq!(receive(&mut session, &last).expect("lawful"), (Received::Ended, Vec::new()));
}

#[test]
fn a_reader_that_has_enough_stops_it() {
    let pair = Pair::self_signed(HOST).expect("a pair");
    let (mut session, mut server) = (connector(&pair).session().expect("a session"), Server::new(&pair, &TLS13));
    shake_hands(&mut session, &mut server, 4096);
    let mut bytes = [server.say(b"first"), server.say(b"second")].concat();
    let mut read = Vec::new();
    let stopped = session.receive(&mut bytes, |opened| {
        read.push(opened.to_vec());
        Err("enough")
    });
    assert!(matches!(stopped, Err(Stopped::Reader("enough"))), "{stopped:?}");
    assert_eq!(read, [b"first"]);
}

#[test]
fn only_a_trusted_certificate_for_the_host_is_accepted() {
    let [ours, other] = [(); 2].map(|()| Pair::self_signed(HOST).expect("a pair"));
    let elsewhere = Pair::self_signed(IpAddr::from([127, 0, 0, 9])).expect("a pair");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("its address");
    let config = Server::config(&ours, &TLS13);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut connection = ServerConnection::new(Arc::clone(&config)).expect("a server");
            // Clients that refuse it go away.
            let _ = connection.complete_io(&mut stream.expect("accepted"));
        }
    });
    assert_eq!(connector(&ours).shown(addr).expect("trusted"), *ours.certificate());
    let anyone = Connector::new(&Trust::Anyone, &HOST.to_string()).expect("a connector");
    assert_eq!(anyone.shown(addr).expect("whatever it is"), *ours.certificate());
    for trusted in [&other, &elsewhere] {
        let refused = connector(trusted).shown(addr).expect_err("not trusted");
        assert!(matches!(refused, TlsError::Rustls(rustls::Error::InvalidCertificate(_))), "{refused}");
    }
    let trust = Trust::Certificates(vec![ours.certificate().clone()]);
    let misnamed = Connector::new(&trust, "localhost").expect("a connector").shown(addr).expect_err("another name");
    assert!(matches!(misnamed, TlsError::Rustls(rustls::Error::InvalidCertificate(_))), "{misnamed}");
}

#[test]
fn authorities_come_from_a_file_that_has_some() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = PairFiles { certificate: folder.path().join("a.crt"), key: folder.path().join("a.key") };
    Pair::self_signed(HOST).expect("a pair").write(&files).expect("written");
    Connector::new(&Trust::File(files.certificate), "localhost").expect("one authority");
    for file in [files.key, folder.path().join("none.crt")] {
        let error = Connector::new(&Trust::File(file), "localhost").expect_err("no authority");
        assert!(matches!(error, TlsError::File { .. }), "{error}");
    }
    let error = Connector::new(&Trust::Anyone, "not a host").expect_err("no name");
    assert!(matches!(error, TlsError::Host(_)), "{error}");
}
