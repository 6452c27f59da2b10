//! How connections end, and that nothing of an old one touches a new one in its slot.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tidegate_gateway_core::driver::{CloseHow, Driver, Socket, Token};

use crate::{Factory, Listener, Rig, Seen, Shape, narrow, read_to_end};

fn open<F: Factory>(rig: &mut Rig<F>, token: u64) -> (Socket, TcpStream) {
    let (server, client) = Listener::new().pair();
    (rig.register(token, server), client)
}

pub fn a_graceful_close_delivers_everything_and_then_fin<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let (socket, mut client) = open(&mut rig, 1);
    let frame = Bytes::from(vec![5; 100_000]);
    rig.send(1, socket, &frame);
    rig.close(1, socket, CloseHow::Graceful);
    rig.flush();
    let reader = thread::spawn(move || read_to_end(&mut client));
    rig.until_seen(Seen::Closed(Token(1)));
    assert_eq!(reader.join().unwrap(), frame);
    assert_eq!(rig.log, [Seen::Closed(Token(1))]);
}

/// A peer that keeps talking while it is being closed would turn a plain close into RST, which destroys what it has not read.
pub fn a_graceful_close_survives_a_peer_that_talks_on<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let (server, client) = Listener::new().pair();
    let socket = rig.register(1, server);
    // More than a peer that does not read takes, so that most of it waits in the sender.
    let frame = Bytes::from(vec![5; 1 << 20]);
    rig.send(1, socket, &frame);
    rig.flush();
    let taken = match rig.log[..] {
        [] => frame.len(),
        [Seen::Sent(Token(1), Ok(taken))] => taken,
        _ => panic!("{:?}", rig.log),
    };
    let talker = thread::spawn({
        let mut client = client.try_clone().unwrap();
        move || {
            for _ in 0..200 {
                client.write_all(&[1; 100]).unwrap();
            }
            client
        }
    });
    rig.close(1, socket, CloseHow::Graceful);
    let reader = thread::spawn(move || {
        let mut client = talker.join().unwrap();
        let bytes = read_to_end(&mut client);
        client.shutdown(Shutdown::Write).unwrap();
        bytes.len()
    });
    rig.until_seen(Seen::Closed(Token(1)));
    assert_eq!(reader.join().unwrap(), taken, "all that was in the socket arrived");
    assert!(!rig.log.iter().any(|seen| matches!(seen, Seen::Data(..) | Seen::Eof(_))), "and nothing more was told");
}

pub fn a_peer_that_never_finishes_is_closed_when_its_time_is_over<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape { linger_ms: 50, ..Shape::default() });
    let (socket, mut client) = open(&mut rig, 1);
    rig.close(1, socket, CloseHow::Graceful);
    rig.until_seen(Seen::Closed(Token(1)));
    assert_eq!(read_to_end(&mut client), b"");
    assert_eq!(F::sockets(&rig.driver), 0);
}

pub fn without_linger_a_close_is_at_once<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape { linger_ms: 0, ..Shape::default() });
    let (socket, mut client) = open(&mut rig, 1);
    rig.send(1, socket, &Bytes::from_static(b"bye"));
    rig.close(1, socket, CloseHow::Graceful);
    rig.flush();
    assert_eq!(rig.log, [Seen::Closed(Token(1))]);
    assert_eq!(read_to_end(&mut client), b"bye");
}

pub fn an_abort_resets_the_peer_whatever_is_armed<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let (server, mut client) = Listener::new().pair();
    narrow(&server, &client);
    let socket = rig.register(1, server);
    rig.send(1, socket, &Bytes::from(vec![1; 1 << 20]));
    rig.flush();
    rig.driver.watch_writable(Token(1), socket);
    rig.flush();
    rig.log.clear();
    rig.close(1, socket, CloseHow::Abort);
    rig.flush();
    assert_eq!(rig.log, [Seen::Closed(Token(1))]);
    let error = loop {
        match client.read(&mut [0; 4096]) {
            Ok(0) => panic!("an abort is not an orderly end"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// Input that is already wanted, polled or buffered when the socket is closed is not told any more.
pub fn after_close_nothing_is_told_but_closed<F: Factory>(factory: &F) {
    for how in [CloseHow::Graceful, CloseHow::Abort] {
        let mut rig = Rig::new(factory, Shape::default());
        let (socket, mut client) = open(&mut rig, 1);
        rig.flush();
        client.write_all(&[1; 10_000]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        rig.driver.watch_writable(Token(1), socket);
        rig.close(1, socket, how);
        rig.until_seen(Seen::Closed(Token(1)));
        rig.turn(Duration::from_millis(20));
        assert_eq!(rig.log, [Seen::Closed(Token(1))], "{how:?}");
    }
}

/// F20: whatever is in flight when a socket is closed, no byte of it reaches the socket that gets the slot next.
pub fn ten_thousand_closes_with_sends_in_flight_mix_nothing_up<F: Factory>(factory: &F) {
    const ROUNDS: u64 = 10_000;
    const SLOTS: u64 = 4;
    let mut rig = Rig::new(factory, Shape { slots: SLOTS as u32, tight: true, ..Shape::default() });
    let listener = Listener::new();
    let mut live = std::collections::VecDeque::new();
    let mut reused = std::collections::HashSet::new();
    for round in 0..ROUNDS {
        if live.len() as u64 == SLOTS {
            let (token, socket, client, mut sent): (u64, _, TcpStream, u64) = live.pop_front().unwrap();
            // The last frame may be in the queue, in the socket, or cut short by the abort.
            if token % 3 != 0 {
                rig.send(token, socket, &frame_of(token));
                sent += 1;
            }
            let how = if token % 2 == 0 { CloseHow::Abort } else { CloseHow::Graceful };
            if token % 5 == 0 {
                (&client).write_all(b"crossing").unwrap();
            }
            rig.close(token, socket, how);
            if how == CloseHow::Graceful {
                client.shutdown(Shutdown::Write).unwrap();
            }
            rig.until_seen(Seen::Closed(Token(token)));
            check_only_own(&client, token, how, sent);
            rig.log.clear();
        }
        let (server, client) = listener.pair();
        let socket = rig.register(round, server);
        reused.insert(socket);
        // No flush after every second send: it is still queued when other sockets are closed.
        rig.send(round, socket, &frame_of(round));
        if round % 2 == 0 {
            rig.flush();
        }
        live.push_back((round, socket, client, 1));
    }
    assert!(reused.len() as u64 <= SLOTS, "the slots were used again and again");
}

fn frame_of(token: u64) -> Bytes {
    Bytes::from(token.to_le_bytes().repeat(16))
}

/// Everything the client got is its own; after a graceful close it is also all that was sent.
fn check_only_own(client: &TcpStream, token: u64, how: CloseHow, sent: u64) {
    let mut bytes = Vec::new();
    let result = (&mut &*client).read_to_end(&mut bytes);
    let own = token.to_le_bytes();
    assert!(bytes.chunks(8).all(|chunk| chunk == &own[..chunk.len()]), "client {token} got bytes of another");
    if how == CloseHow::Graceful {
        result.unwrap();
        assert_eq!(bytes.len() as u64, sent * 128, "client {token} got all");
    }
}

pub fn a_dropped_driver_ends_its_connections<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let mut clients: Vec<TcpStream> = (0..10).map(|token| open(&mut rig, token).1).collect();
    rig.flush();
    drop(rig);
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"");
    }
}

/// The kernel brings 20 ends of cancelled polls per visit and does not say that there are more.
pub fn one_flush_ends_all_that_were_aborted<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let ends: Vec<_> = (0..500).map(|token| open(&mut rig, token)).collect();
    rig.flush();
    for (token, (socket, _)) in ends.iter().enumerate() {
        rig.close(token as u64, *socket, CloseHow::Abort);
    }
    rig.flush();
    assert_eq!(rig.log.len(), 500);
}

/// Sockets closed by the thousand, none of them quiet, end exactly once each and leave an empty table.
pub fn a_mass_close_ends_each_socket_once<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let listener = Listener::new();
    let mut ends = Vec::new();
    for token in 0..1000 {
        let (server, mut client) = listener.pair();
        let socket = rig.register(token, server);
        client.write_all(b"noise").unwrap();
        ends.push((token, socket, client));
    }
    rig.flush();
    for (token, socket, client) in &ends {
        let how = if token % 2 == 0 { CloseHow::Abort } else { CloseHow::Graceful };
        rig.close(*token, *socket, how);
        client.shutdown(Shutdown::Write).unwrap();
    }
    let closed = |log: &[Seen]| log.iter().filter(|seen| matches!(seen, Seen::Closed(_))).count();
    rig.until("every Closed", |log| closed(log) >= 1000);
    rig.turn(Duration::from_millis(20));
    for token in 0..1000 {
        assert_eq!(rig.count(&Seen::Closed(Token(token))), 1);
    }
    assert_eq!(F::sockets(&rig.driver), 0);
}
