//! Doorbells, several rings in one thread, full tables, and sleeping.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use support::{Listener, PATIENCE, Rig, Seen, read_exactly};
use tidegate_gateway_core::driver::{CloseHow, Driver, RegisterError, Token};
use tidegate_gateway_ring::RingConfig;

fn rings(count: u16, slots: u32) -> RingConfig {
    RingConfig { rings: count, slots_per_ring: slots, ..RingConfig::default() }
}

/// A driver with so many open rings, each full with one socket, and the clients' ends.
fn open_rings(count: u16) -> (Rig, Vec<TcpStream>) {
    let mut rig = Rig::new(rings(count, 1));
    let listener = Listener::new();
    let clients = (0..count.into()).map(|token| {
        let (server, client) = listener.pair();
        rig.register(1_000 + token, server);
        client
    });
    let clients = clients.collect();
    assert_eq!(rig.driver.stats().rings, count);
    rig.flush();
    rig.log.clear();
    (rig, clients)
}

/// No wake-up is lost: each number written before a ring is seen after some Doorbell.
#[test]
fn a_doorbell_from_another_thread_wakes_the_driver_every_time() {
    for count in [1, 3] {
        let (mut rig, _clients) = open_rings(count);
        let (bell, cell) = (rig.driver.doorbell(), Arc::new(AtomicU64::new(0)));
        let (seen_by_driver, seen) = mpsc::channel();
        let ringer = thread::spawn({
            let cell = cell.clone();
            move || {
                for n in 1..=20_000 {
                    cell.store(n, Ordering::Release);
                    bell.ring();
                    while seen.recv_timeout(PATIENCE).expect("the driver wakes up") < n {}
                }
            }
        });
        let mut last = 0;
        while last < 20_000 {
            rig.log.clear();
            rig.turn(PATIENCE);
            assert_eq!(rig.log, [Seen::Doorbell], "after {last}");
            let now = cell.load(Ordering::Acquire);
            if now > last {
                last = now;
                seen_by_driver.send(now).unwrap();
            }
        }
        ringer.join().unwrap();
    }
}

#[test]
fn rings_between_two_turns_count_as_one() {
    for count in [1, 2] {
        let (mut rig, _clients) = open_rings(count);
        let bell = rig.driver.doorbell();
        for round in 1..=50 {
            for _ in 0..5 {
                bell.clone().ring();
            }
            rig.until("a doorbell", |log| log.len() >= round);
            rig.flush();
            assert_eq!(rig.log.len(), round);
        }
    }
}

#[test]
fn a_turn_without_events_ends_at_its_deadline_and_not_before() {
    for count in [1, 3] {
        let (mut rig, _clients) = open_rings(count);
        for ms in [0, 1, 20] {
            let deadline = rig.driver.now() + Duration::from_millis(ms);
            rig.driver.turn(Some(deadline), &mut |event| panic!("{event:?}"));
            assert!(rig.driver.now() >= deadline);
        }
    }
}

#[test]
fn rings_are_opened_as_they_are_needed_and_work_like_one() {
    let mut rig = Rig::new(rings(4, 25));
    let listener = Listener::new();
    let mut ends: Vec<(_, TcpStream)> = Vec::new();
    for token in 0..100 {
        let (server, client) = listener.pair();
        ends.push((rig.register(token, server), client));
        assert_eq!(u64::from(rig.driver.stats().rings), token / 25 + 1);
    }
    for ring in 0..4 {
        assert_eq!(ends.iter().filter(|(socket, _)| socket.ring == ring).count(), 25);
    }
    let frame = Bytes::from_static(b"to all rings");
    for (token, (socket, client)) in ends.iter_mut().enumerate() {
        rig.send(token as u64, *socket, &frame);
        client.write_all(&[token as u8]).unwrap();
    }
    rig.flush();
    for (_, client) in &mut ends {
        assert_eq!(read_exactly(client, 12), b"to all rings");
    }
    rig.until("a byte of each", |log| (0..100u8).all(|n| log.contains(&Seen::Data(Token(n.into()), vec![n]))));
    // Asleep in all of them, woken by the last one.
    let mut last = ends.pop().unwrap().1;
    let writer = thread::spawn(move || {
        last.write_all(b"wake").unwrap();
        last
    });
    rig.until_seen(Seen::Data(Token(99), b"wake".to_vec()));
    drop(writer);
    for (token, (socket, client)) in ends.iter_mut().enumerate() {
        rig.close(token as u64, *socket, CloseHow::Graceful);
        client.shutdown(std::net::Shutdown::Write).unwrap();
    }
    rig.until("every Closed", |log| (0..99).all(|token| log.contains(&Seen::Closed(Token(token)))));
    assert_eq!(rig.driver.stats().sockets, 1);
}

#[test]
fn a_full_table_gives_the_socket_back_and_takes_it_when_one_has_gone() {
    let mut rig = Rig::new(rings(2, 2));
    let listener = Listener::new();
    let mut ends: Vec<_> = (0..4)
        .map(|token| {
            let (server, client) = listener.pair();
            (rig.register(token, server), client)
        })
        .collect();
    let (server, mut client) = listener.pair();
    let (error, socket) = rig.driver.register(Token(9), server.into()).unwrap_err();
    assert!(matches!(error, RegisterError::Full));
    TcpStream::from(socket.try_clone().unwrap()).write_all(b"full").unwrap();
    assert_eq!(read_exactly(&mut client, 4), b"full", "the socket is whole, so that it can be told why");

    let (first, first_client) = ends.remove(0);
    drop(first_client);
    rig.until_seen(Seen::Eof(Token(0)));
    rig.close(0, first, CloseHow::Graceful);
    rig.until_seen(Seen::Closed(Token(0)));
    let again = rig.register(9, socket);
    assert_eq!(again, first, "the slot that became free");
    client.write_all(b"in").unwrap();
    rig.until_seen(Seen::Data(Token(9), b"in".to_vec()));
}

#[test]
fn what_is_no_socket_is_given_back() {
    let mut rig = Rig::new(rings(1, 4));
    let ring = io_uring::IoUring::new(4).unwrap();
    // A ring cannot be registered with a ring: the kernel refuses it with EBADF.
    let own = tidegate_gateway_ring::duplicate(&ring).unwrap();
    let result = rig.driver.register(Token(1), own);
    assert!(matches!(result, Err((RegisterError::Os(libc::EBADF), _))));
    assert_eq!(rig.driver.stats().sockets, 0, "the slot is free again");
}

/// Sockets, doorbells and closes from all sides at once, for as long as it takes to move some data.
#[test]
fn a_busy_driver_loses_nothing() {
    const CLIENTS: u64 = 50;
    const ROUNDS: usize = 200;
    let mut rig = Rig::new(rings(2, 25));
    // The second ring is opened while the bell rings.
    let (bell, stop) = (rig.driver.doorbell(), Arc::new(AtomicBool::new(false)));
    let ringer = thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(Ordering::Relaxed) {
                bell.ring();
                thread::yield_now();
            }
        }
    });
    let listener = Listener::new();
    let mut sockets = Vec::new();
    let mut clients = Vec::new();
    for token in 0..CLIENTS {
        let (server, client) = listener.pair();
        sockets.push(rig.register(token, server));
        clients.push(client);
    }
    // Every client sends a number and waits for its echo, round after round.
    let workers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            thread::spawn(move || {
                for round in 0..ROUNDS as u64 {
                    client.write_all(&round.to_le_bytes()).unwrap();
                    let mut echo = [0; 8];
                    client.read_exact(&mut echo).unwrap();
                    assert_eq!(u64::from_le_bytes(echo), round);
                }
            })
        })
        .collect();
    let mut closed = 0;
    while closed < CLIENTS {
        rig.log.clear();
        rig.turn(PATIENCE);
        for seen in std::mem::take(&mut rig.log) {
            match seen {
                Seen::Data(Token(token), bytes) => rig.send(token, sockets[token as usize], &bytes.into()),
                Seen::Eof(Token(token)) => rig.close(token, sockets[token as usize], CloseHow::Graceful),
                Seen::Closed(_) => closed += 1,
                Seen::Doorbell => {}
                other => panic!("{other:?}"),
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    ringer.join().unwrap();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}
