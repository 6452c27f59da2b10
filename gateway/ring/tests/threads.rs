//! Several rings in one thread, and what a ring refuses.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::thread;

use bytes::Bytes;
use support::{Rings, features};
use tidegate_gateway_contract::{Factory, Listener, Rig, Seen, Shape, read_exactly, wake};
use tidegate_gateway_core::driver::{CloseHow, Driver, RegisterError, Token};
use tidegate_gateway_ring::{RingConfig, RingDriver};

/// Drivers with so many rings of so many slots.
struct Several(u16, u32);

impl Factory for Several {
    type Driver = RingDriver;

    fn open(&self, shape: &Shape) -> RingDriver {
        let config = RingConfig { rings: self.0, slots_per_ring: self.1, ..Rings::config(shape) };
        RingDriver::open(&config, features()).expect("rings")
    }

    fn bell(driver: &RingDriver) -> impl Fn() + Clone + Send + 'static {
        Rings::bell(driver)
    }

    fn sockets(driver: &RingDriver) -> u32 {
        Rings::sockets(driver)
    }
}

fn several(rings: u16, slots: u32) -> Rig<Several> {
    Rig::new(&Several(rings, slots), Shape::default())
}

/// A driver with three open rings, each full with one socket, and the clients' ends.
fn three_open() -> (Rig<Several>, Vec<TcpStream>) {
    let mut rig = several(3, 1);
    let listener = Listener::new();
    let clients = (0..3).map(|token| {
        let (server, client) = listener.pair();
        rig.register(1_000 + token, server);
        client
    });
    let clients = clients.collect();
    assert_eq!(rig.driver.stats().rings, 3);
    rig.flush();
    rig.log.clear();
    (rig, clients)
}

#[test]
fn several_rings_have_one_doorbell() {
    let (rig, _clients) = three_open();
    wake::doorbells_wake(rig);
    let (rig, _clients) = three_open();
    wake::doorbells_coalesce(rig);
    let (rig, _clients) = three_open();
    wake::deadlines_hold(rig);
}

/// The second ring is opened while the bell rings.
#[test]
fn two_busy_rings_lose_nothing() {
    wake::a_busy_driver_loses_nothing(&Several(2, 25));
}

#[test]
fn a_full_table_of_two_rings_gives_the_socket_back() {
    wake::a_full_table_gives_the_socket_back_and_takes_it_when_one_has_gone(&Several(2, 2));
}

#[test]
fn rings_are_opened_as_they_are_needed_and_work_like_one() {
    let mut rig = several(4, 25);
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
fn what_is_no_socket_is_given_back() {
    let mut rig = several(1, 4);
    let ring = io_uring::IoUring::new(4).unwrap();
    // A ring cannot be registered with a ring: the kernel refuses it with EBADF.
    let own = tidegate_gateway_ring::duplicate(&ring).unwrap();
    let result = rig.driver.register(Token(1), own);
    assert!(matches!(result, Err((RegisterError::Os(libc::EBADF), _))));
    assert_eq!(rig.driver.stats().sockets, 0, "the slot is free again");
}
