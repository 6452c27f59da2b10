//! What arrives is handed out whole and in order, whoever sends it and however little memory there is.

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use tidegate_gateway_core::driver::{CloseHow, Driver, Event, Token};

use crate::{Factory, Listener, PATIENCE, Rig, Seen, Shape, read_to_end};

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8 ^ seed).collect()
}

pub fn what_came_before_registration_arrives_too<F: Factory>(factory: &F) {
    let (server, mut client) = Listener::new().pair();
    client.write_all(b"early").unwrap();
    let mut rig = Rig::new(factory, Shape::default());
    rig.register(1, server);
    rig.until_seen(Seen::Data(Token(1), b"early".to_vec()));
    client.write_all(b"late").unwrap();
    rig.until_seen(Seen::Data(Token(1), b"late".to_vec()));
}

pub fn bytes_are_lent_in_place_and_may_be_changed<F: Factory>(factory: &F) {
    let (server, mut client) = Listener::new().pair();
    let mut rig = Rig::new(factory, Shape { tight: true, ..Shape::default() });
    rig.register(1, server);
    for round in 0..10u8 {
        client.write_all(&[round; 8]).unwrap();
        let mut seen = Vec::new();
        while seen.is_empty() {
            let deadline = rig.driver.now() + PATIENCE;
            rig.driver.turn(Some(deadline), &mut |event| {
                let Event::Data { bytes, .. } = event else { panic!("{event:?}") };
                bytes.iter_mut().for_each(|byte| *byte ^= 0xff);
                seen.extend_from_slice(bytes);
            });
            assert!(!seen.is_empty(), "round {round}");
        }
        assert_eq!(seen, [!round; 8]);
    }
}

/// Far more input than buffers: nobody is forgotten and nobody is closed.
pub fn many_sockets_share_little_memory<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape { tight: true, buffer_bytes: 64, ..Shape::default() });
    let listener = Listener::new();
    let mut clients = Vec::new();
    for token in 0..200 {
        let (server, mut client) = listener.pair();
        rig.register(token, server);
        client.write_all(&pattern(1000, token as u8)).unwrap();
        clients.push(client);
    }
    let bytes_in = |log: &[Seen]| -> usize {
        let len = |seen: &Seen| if let Seen::Data(_, bytes) = seen { bytes.len() } else { 0 };
        log.iter().map(len).sum()
    };
    rig.until("every byte", |log| bytes_in(log) == 200 * 1000);
    for token in 0..200 {
        assert_eq!(rig.received(token), pattern(1000, token as u8));
    }
    assert!(rig.log.iter().all(|seen| matches!(seen, Seen::Data(..))));
}

pub fn big_streams_arrive_whole_while_a_quiet_socket_is_not_starved<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let listener = Listener::new();
    let senders: Vec<_> = (0..4)
        .map(|token| {
            let (server, mut client) = listener.pair();
            rig.register(token, server);
            thread::spawn(move || {
                client.write_all(&pattern(8 << 20, token as u8)).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                client
            })
        })
        .collect();
    let (server, mut quiet) = listener.pair();
    rig.register(9, server);
    quiet.write_all(b"me too").unwrap();
    rig.until_seen(Seen::Data(Token(9), b"me too".to_vec()));
    rig.until("the end of four streams", |log| (0..4).all(|token| log.contains(&Seen::Eof(Token(token)))));
    for token in 0..4 {
        assert_eq!(rig.received(token), pattern(8 << 20, token as u8));
    }
    drop(senders);
}

/// A flood may fill `reads_per_socket` buffers in a turn, then the turn ends although there is more.
pub fn one_turn_reads_a_bounded_share_of_a_flood<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape { buffer_bytes: 1024, reads_per_socket: 3, ..Shape::default() });
    let (server, mut client) = Listener::new().pair();
    client.write_all(&pattern(64 << 10, 0)).unwrap();
    rig.register(1, server);
    let mut total = 0;
    while total < 64 << 10 {
        rig.log.clear();
        rig.turn(PATIENCE);
        let in_turn: usize = rig.received(1).len();
        assert!(in_turn <= 3 * 1024, "{in_turn} bytes in one turn");
        total += in_turn;
    }
}

pub fn a_half_closed_peer_still_gets_its_answer_and_is_closed_without_lingering<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape { linger_ms: 60_000, ..Shape::default() });
    let (server, mut client) = Listener::new().pair();
    let socket = rig.register(1, server);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    rig.until_seen(Seen::Eof(Token(1)));
    assert_eq!(rig.received(1), b"question");
    rig.log.clear();
    rig.send(1, socket, &bytes::Bytes::from_static(b"answer"));
    rig.close(1, socket, CloseHow::Graceful);
    rig.flush();
    assert_eq!(rig.log, [Seen::Closed(Token(1))]);
    assert_eq!(read_to_end(&mut client), b"answer");
}

pub fn after_the_end_of_input_not_even_a_reset_is_told<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let (server, client) = Listener::new().pair();
    rig.register(1, server);
    client.shutdown(Shutdown::Write).unwrap();
    rig.until_seen(Seen::Eof(Token(1)));
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    rig.turn(Duration::from_millis(50));
    assert_eq!(rig.log, [Seen::Eof(Token(1))]);
}

pub fn a_reset_is_one_failure_and_nothing_after_it<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let (server, client) = Listener::new().pair();
    let socket = rig.register(1, server);
    rig.flush();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    rig.until_seen(Seen::Failed(Token(1), libc::ECONNRESET));
    rig.close(1, socket, CloseHow::Graceful);
    rig.until_seen(Seen::Closed(Token(1)));
    rig.turn(Duration::from_millis(50));
    assert_eq!(rig.log, [Seen::Failed(Token(1), libc::ECONNRESET), Seen::Closed(Token(1))]);
}
