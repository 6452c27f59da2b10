//! Doorbells, deadlines, full tables, and all of it at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tidegate_gateway_core::driver::{CloseHow, Driver, RegisterError, Token};

use crate::{Factory, Listener, PATIENCE, Rig, Seen, Shape, read_exactly};

pub fn a_doorbell_from_another_thread_wakes_the_driver_every_time<F: Factory>(factory: &F) {
    doorbells_wake(Rig::new(factory, Shape::default()));
}

pub fn rings_between_two_turns_count_as_one<F: Factory>(factory: &F) {
    doorbells_coalesce(Rig::new(factory, Shape::default()));
}

pub fn a_turn_without_events_ends_at_its_deadline_and_not_before<F: Factory>(factory: &F) {
    deadlines_hold(Rig::new(factory, Shape::default()));
}

/// No wake-up is lost: each number written before a ring is seen after some Doorbell.
pub fn doorbells_wake<F: Factory>(mut rig: Rig<F>) {
    let (ring, cell) = (F::bell(&rig.driver), Arc::new(AtomicU64::new(0)));
    let (seen_by_driver, seen) = mpsc::channel();
    let ringer = thread::spawn({
        let cell = cell.clone();
        move || {
            for n in 1..=20_000 {
                cell.store(n, Ordering::Release);
                ring();
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

/// Rings that were not answered yet are one.
pub fn doorbells_coalesce<F: Factory>(mut rig: Rig<F>) {
    let ring = F::bell(&rig.driver);
    for round in 1..=50 {
        for _ in 0..5 {
            ring();
        }
        rig.until("a doorbell", |log| log.len() >= round);
        rig.flush();
        assert_eq!(rig.log.len(), round);
    }
}

/// A turn of a driver that has nothing to say lasts as long as it was told.
pub fn deadlines_hold<F: Factory>(mut rig: Rig<F>) {
    for ms in [0, 1, 20] {
        let deadline = rig.driver.now() + Duration::from_millis(ms);
        rig.driver.turn(Some(deadline), &mut |event| panic!("{event:?}"));
        assert!(rig.driver.now() >= deadline);
    }
}

pub fn a_full_table_gives_the_socket_back_and_takes_it_when_one_has_gone<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape { slots: 4, ..Shape::default() });
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

/// Sockets, doorbells and closes from all sides at once, for as long as it takes to move some data.
pub fn a_busy_driver_loses_nothing<F: Factory>(factory: &F) {
    const CLIENTS: u64 = 50;
    const ROUNDS: usize = 200;
    let mut rig = Rig::new(factory, Shape::default());
    let (ring, stop) = (F::bell(&rig.driver), Arc::new(AtomicBool::new(false)));
    let ringer = thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(Ordering::Relaxed) {
                ring();
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
