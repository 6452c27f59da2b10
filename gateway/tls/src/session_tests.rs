use super::*;
use crate::testing::{Client, Pki, VERSIONS};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn bytes_survive_any_split_both_ways() {
    let pki = Pki::new();
    for version in VERSIONS {
        for piece in [1, 2, 7, 100, 5_000, 70_000] {
            let (mut session, mut client) = pki.connect(version);
            let said = pattern(40_000);
            let (mut plain, mut answer) = (Vec::new(), Vec::new());
            for chunk in client.say(&said).chunks_mut(piece) {
                session.receive(chunk, &mut plain, &mut answer).expect("well-formed records");
            }
            assert_eq!((plain, answer.len(), session.incomplete.len()), (said, 0, 0), "pieces of {piece}");
            let mut sealed = Vec::new();
            let sent = pattern(50_000);
            for chunk in sent.chunks(piece.max(50)) {
                session.seal(chunk, &mut sealed).expect("sealed");
            }
            assert_eq!(client.hear(&sealed).0, sent, "pieces of {piece}");
        }
    }
}

#[test]
fn both_sides_hear_a_goodbye() {
    let pki = Pki::new();
    for version in VERSIONS {
        let (mut session, mut client) = pki.connect(version);
        let mut last = client.say(b"last words");
        last.extend(client.say_goodbye());
        let (mut plain, mut answer) = (Vec::new(), Vec::new());
        assert_eq!(session.receive(&mut last, &mut plain, &mut answer).expect("well formed"), Received::Ended);
        assert_eq!(plain, b"last words");
        let mut sealed = Vec::new();
        session.seal(b"and ours", &mut sealed).expect("one side may go on");
        session.seal_close(&mut sealed).expect("sealed");
        assert_eq!(client.hear(&sealed), (b"and ours".to_vec(), true));
    }
}

#[test]
fn garbage_ends_it_with_an_alert() {
    let pki = Pki::new();
    let mut session = pki.acceptor.session().expect("a session");
    let (mut plain, mut answer) = (Vec::new(), Vec::new());
    let mut request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    session.receive(&mut request, &mut plain, &mut answer).expect_err("plain HTTP");
    assert_eq!((plain.len(), answer.first()), (0, Some(&21)), "an alert record: {answer:?}");
    let (mut session, mut client) = pki.connect(VERSIONS[1]);
    let mut forged = client.say(b"true words");
    *forged.last_mut().expect("bytes") ^= 1;
    answer.clear();
    session.receive(&mut forged, &mut plain, &mut answer).expect_err("a forged record");
    assert!(plain.is_empty() && !answer.is_empty());
    session.receive(&mut client.say(b"more"), &mut plain, &mut answer).expect_err("it is over");
    assert!(plain.is_empty());
}

#[test]
fn an_endless_hello_is_cut_off() {
    let pki = Pki::new();
    let mut session = pki.acceptor.session().expect("a session");
    // A handshake message of 60,000 bytes in records of 16,000: type, length of 3 bytes.
    let mut failed = false;
    for at in 0..4 {
        let mut record = vec![22, 3, 1, 0x3e, 0x80];
        let mut body = vec![0; 16_000];
        if at == 0 {
            body[..4].copy_from_slice(&[1, 0, 0xea, 0x60]);
        }
        record.extend(body);
        failed |= session.receive(&mut record, &mut Vec::new(), &mut Vec::new()).is_err();
    }
    assert!(failed, "{} bytes are kept", session.incomplete.len());
}

#[test]
fn a_new_key_of_the_client_is_answered_with_what_is_sealed_next() {
    let pki = Pki::new();
    let (mut session, mut client) = pki.connect(VERSIONS[1]);
    client.connection().refresh_traffic_keys().expect("TLS 1.3");
    let (mut plain, mut answer) = (Vec::new(), Vec::new());
    let mut said = client.say(b"under the new key");
    session.receive(&mut said, &mut plain, &mut answer).expect("well formed");
    assert_eq!(plain, b"under the new key");
    session.seal(b"answer", &mut answer).expect("sealed");
    assert_eq!(client.hear(&answer).0, b"answer");
}

#[test]
fn who_comes_back_with_a_ticket_is_spared_the_handshake() {
    let pki = Pki::new();
    for version in VERSIONS {
        let config = pki.client_config(version);
        for round in 0..3 {
            let mut client = Client::new(config.clone());
            let mut session = pki.acceptor.session().expect("a session");
            client.shake_hands(&mut session);
            let mut sealed = Vec::new();
            session.seal(b"x", &mut sealed).expect("sealed");
            client.hear(&sealed);
            assert_eq!(session.is_resumed(), round > 0, "round {round}");
            assert_eq!(session.is_tls13(), version.version == rustls::ProtocolVersion::TLSv1_3);
        }
    }
}

/// Whatever a stranger sends, and whenever we seal meanwhile, nothing panics.
#[test]
fn wrong_bytes_are_an_error_and_no_more() {
    let pki = Pki::new();
    let mut random = 88_172_645_463_325_252_u64;
    let mut below = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % bound as u64) as usize
    };
    let mut ends = [0; 2];
    for round in 0..600 {
        let version = VERSIONS[round % 2];
        let mut client = Client::new(pki.client_config(version));
        let mut session = pki.acceptor.session().expect("a session");
        let wrong_from = below(3);
        let mut broken = false;
        for flight in 0..6 {
            let mut said = if session.is_handshaking() { client.sealed() } else { client.say(&pattern(below(3_000))) };
            if flight == 3 && version.version == rustls::ProtocolVersion::TLSv1_3 && !session.is_handshaking() {
                client.connection().refresh_traffic_keys().expect("TLS 1.3");
            }
            if flight >= wrong_from && !said.is_empty() {
                match below(4) {
                    0 => {
                        let at = below(said.len());
                        said[at] ^= 1 << below(8);
                    }
                    1 => said.truncate(below(said.len()) + 1),
                    2 => said.extend((0..below(200)).map(|_| below(256) as u8).collect::<Vec<_>>()),
                    _ => {}
                }
            }
            let mut answer = Vec::new();
            while !said.is_empty() {
                let piece = said.split_off((below(said.len()) + 1).min(said.len()));
                broken |= session.receive(&mut said, &mut Vec::new(), &mut answer).is_err();
                said = piece;
                if below(4) == 0 {
                    let _ = session.seal(b"meanwhile", &mut answer);
                }
            }
            if broken || client.connection().read_tls(&mut answer.as_slice()).is_err() {
                break;
            }
            let _ = client.connection().process_new_packets();
        }
        ends[usize::from(broken)] += 1;
    }
    assert!(ends.iter().all(|count| *count > 50), "{ends:?}");
}
