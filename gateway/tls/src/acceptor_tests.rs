use std::io::Write as _;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::*;
use crate::testing::{Client, VERSIONS, write_pair};

fn files(pairs: Vec<PairFiles>) -> TlsFiles {
    TlsFiles { pairs, client_certificates: ClientCertificates::NotAsked }
}

fn refused(pairs: Vec<PairFiles>) -> String {
    Acceptor::load(files(pairs)).expect_err("refused").to_string()
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (good, _) = write_pair(folder.path(), "good", &["a.example"]);
    let (other, _) = write_pair(folder.path(), "other", &["b.example"]);
    let at = |name: &str| folder.path().join(name);
    assert!(refused(vec![]).contains("no certificate"));
    let mixed = PairFiles { certificate: good.certificate.clone(), key: other.key.clone() };
    assert!(refused(vec![good.clone(), mixed]).contains("other.key is not that of the certificate"));
    let missing = PairFiles { certificate: at("nowhere.crt"), key: good.key.clone() };
    assert!(refused(vec![missing]).contains("cannot read"));
    fs::write(at("empty.crt"), "").expect("written");
    let empty = PairFiles { certificate: at("empty.crt"), key: good.key.clone() };
    assert!(refused(vec![empty]).contains("holds no certificate"));
    let swapped = PairFiles { certificate: good.certificate.clone(), key: good.certificate.clone() };
    assert!(refused(vec![swapped]).contains("cannot read"));
    for (name, begins, ends, expected) in
        [("old", (2020, 1, 1), (2021, 1, 1), "expired"), ("new", (2990, 1, 1), (2999, 1, 1), "not valid yet")]
    {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).expect("params");
        params.not_before = date_time_ymd(begins.0, begins.1, begins.2);
        params.not_after = date_time_ymd(ends.0, ends.1, ends.2);
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        let pair = PairFiles { certificate: at(&format!("{name}.crt")), key: at(&format!("{name}.key")) };
        fs::write(&pair.certificate, made.pem()).expect("written");
        fs::write(&pair.key, key.serialize_pem()).expect("written");
        let why = refused(vec![pair]);
        assert!(why.contains(expected), "{why}");
    }
}

/// The certificate that a client is shown which asks for `host`.
fn shown(acceptor: &Acceptor, config: &Arc<ClientConfig>, host: &'static str) -> Vec<u8> {
    let name = ServerName::try_from(host).expect("a name");
    let mut client = ClientConnection::new(Arc::clone(config), name).expect("a client");
    let mut session = acceptor.session().expect("a session");
    let (mut hello, mut answer) = (Vec::new(), Vec::new());
    client.write_tls(&mut hello).expect("into memory");
    session.receive(&mut hello, &mut Vec::new(), &mut answer).expect("a hello");
    client.read_tls(&mut answer.as_slice()).expect("from memory");
    // Whether the client trusts it is its own affair.
    let _ = client.process_new_packets();
    client.peer_certificates().expect("shown")[0].to_vec()
}

#[test]
fn the_host_name_picks_the_certificate() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (first, first_cert) = write_pair(folder.path(), "first", &["a.example"]);
    let (wild, wild_cert) = write_pair(folder.path(), "wild", &["*.b.example"]);
    let acceptor = Acceptor::load(files(vec![first, wild])).expect("loads");
    let config = trusting(&[&first_cert, &wild_cert]);
    let der = |of: &rcgen::CertifiedKey<KeyPair>| of.cert.der().to_vec();
    assert_eq!(shown(&acceptor, &config, "a.example"), der(&first_cert));
    assert_eq!(shown(&acceptor, &config, "x.b.example"), der(&wild_cert));
}

fn trusting(certificates: &[&rcgen::CertifiedKey<KeyPair>]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.cert.der().clone()).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&VERSIONS).expect("versions");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[test]
fn names_match_as_browsers_match_them() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (pair, _) = write_pair(folder.path(), "pair", &["A.example", "*.b.example"]);
    let named = Named::load(&pair, &rustls::crypto::ring::default_provider()).expect("loads");
    assert!(named.is_for("a.example") && named.is_for("x.b.example"));
    for host in ["b.example", "x.y.b.example", "xb.example", "c.example", ""] {
        assert!(!named.is_for(host), "{host}");
    }
}

#[test]
fn a_reload_is_for_who_comes_next_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (pair, old) = write_pair(folder.path(), "server", &["localhost"]);
    let acceptor = Acceptor::load(files(vec![pair.clone()])).expect("loads");
    let before = acceptor.stamp();
    let config = trusting(&[&old]);
    let mut standing = Client::new(Arc::clone(&config));
    let mut session = acceptor.session().expect("a session");
    standing.shake_hands(&mut session);
    let mut file = fs::OpenOptions::new().append(true).open(&pair.key).expect("opens");
    file.write_all(b"\n").expect("written");
    assert_ne!(acceptor.stamp(), before);
    fs::write(&pair.key, "no key").expect("written");
    acceptor.reload().expect_err("no key");
    assert_eq!(shown(&acceptor, &config, "localhost"), old.cert.der().to_vec());
    let (_, new) = write_pair(folder.path(), "server", &["localhost"]);
    acceptor.reload().expect("loads");
    assert_eq!(shown(&acceptor, &trusting(&[&new]), "localhost"), new.cert.der().to_vec());
    let mut sealed = Vec::new();
    session.seal(b"still here", &mut sealed).expect("sealed");
    assert_eq!(standing.hear(&sealed).0, b"still here");
    let expires = acceptor.expires_at();
    assert!(expires > 4_000_000_000, "{expires}");
}

#[test]
fn client_certificates_are_asked_for_and_checked() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (pair, server) = write_pair(folder.path(), "server", &["localhost"]);
    let (authority, _) = write_pair(folder.path(), "authority", &["authority"]);
    let config = trusting(&[&server]);
    let files = |client_certificates| TlsFiles { pairs: vec![pair.clone()], client_certificates };
    let met = |acceptor: &Acceptor| {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::clone(&config), name).expect("a client");
        let mut session = acceptor.session().expect("a session");
        for _ in 0..4 {
            let (mut said, mut answer) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut said).expect("into memory");
            }
            session.receive(&mut said, &mut Vec::new(), &mut answer).map_err(|error| error.to_string())?;
            client.read_tls(&mut answer.as_slice()).expect("from memory");
            client.process_new_packets().map_err(|error| error.to_string())?;
        }
        Ok::<bool, String>(session.is_handshaking())
    };
    let optional = ClientCertificates::Optional(authority.certificate.clone());
    assert_eq!(met(&Acceptor::load(files(optional)).expect("loads")), Ok(false));
    let required = ClientCertificates::Required(authority.certificate);
    let refused = met(&Acceptor::load(files(required)).expect("loads")).expect_err("no certificate was shown");
    assert!(refused.contains("no certificates"), "{refused}");
    let nobody = ClientCertificates::Required(folder.path().join("nowhere"));
    Acceptor::load(files(nobody)).expect_err("no authorities");
}
