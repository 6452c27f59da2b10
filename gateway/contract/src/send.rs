//! One frame to many sockets.

use std::collections::HashSet;
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use bytes::Bytes;
use tidegate_gateway_core::driver::{Driver, Socket, Token};

use crate::{Factory, Listener, Rig, Seen, Shape, narrow, read_exactly};

fn connect<F: Factory>(rig: &mut Rig<F>, count: u64) -> (Vec<Socket>, Vec<TcpStream>) {
    let listener = Listener::new();
    (0..count)
        .map(|n| {
            let (server, client) = listener.pair();
            (rig.register(n, server), client)
        })
        .unzip()
}

pub fn two_thousand_sockets_get_every_frame_in_order<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let (sockets, mut clients) = connect(&mut rig, 2000);
    let frames: Vec<Bytes> = (0..5u8).map(|n| Bytes::from(vec![n; 130])).collect();
    for frame in &frames {
        for (token, socket) in sockets.iter().enumerate() {
            rig.send(token as u64, *socket, frame);
        }
        rig.flush();
    }
    assert_eq!(rig.log, [], "a healthy socket leaves no trace of a send");
    assert!(frames.iter().all(Bytes::is_unique), "the driver holds no frame after the flush");
    let expected = frames.concat();
    for client in &mut clients {
        assert_eq!(read_exactly(client, expected.len()), expected);
    }
}

pub fn a_send_begins_where_it_was_told_to<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let (sockets, mut clients) = connect(&mut rig, 1);
    let frame = Bytes::from_static(b"skip this, not this");
    rig.driver.send(Token(0), sockets[0], &frame, 11);
    rig.flush();
    rig.driver.send(Token(0), sockets[0], &frame, frame.len());
    rig.flush();
    rig.send(0, sockets[0], &Bytes::from_static(b"!"));
    rig.flush();
    assert_eq!(read_exactly(&mut clients[0], 9), b"not this!");
    assert_eq!(rig.log, []);
}

/// More failures in one go than a completion queue has entries, and nothing but their overflow left to visit the kernel for: each
/// is heard of, once.
pub fn every_one_of_many_refused_sends_is_told<F: Factory>(factory: &F) {
    const REFUSED: u64 = 100 * 64;
    let mut rig = Rig::new(factory, Shape::default());
    // Unix sockets: no acknowledgement comes later and leaves deferred work.
    let (sockets, _clients): (Vec<Socket>, Vec<UnixStream>) = (0..REFUSED)
        .map(|token| {
            let (server, client) = UnixStream::pair().unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            (rig.register(token, server), client)
        })
        .unzip();
    rig.flush();
    let frame = Bytes::from_static(b"too late");
    for (token, socket) in sockets.iter().enumerate() {
        rig.send(token as u64, *socket, &frame);
    }
    rig.flush();
    assert_eq!(rig.log.len() as u64, REFUSED);
    let token_of = |seen: &Seen| match seen {
        Seen::Sent(Token(token), Err(libc::EPIPE)) => *token,
        other => panic!("{other:?}"),
    };
    let told: HashSet<u64> = rig.log.iter().map(token_of).collect();
    assert_eq!(told.len() as u64, REFUSED);
}

pub fn a_slow_reader_gets_every_byte_by_short_sends_and_writable<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let (server, mut client) = Listener::new().pair();
    narrow(&server, &client);
    let socket = rig.register(7, server);
    let frame: Bytes = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let expected = frame.clone();
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; expected.len()];
        client.read_exact(&mut bytes).unwrap();
        (bytes == expected, client)
    });
    let (mut offset, mut shorts) = (0, 0);
    while offset < frame.len() {
        rig.log.clear();
        rig.driver.send(Token(7), socket, &frame, offset);
        rig.flush();
        match rig.log.as_slice() {
            [] => offset = frame.len(),
            [Seen::Sent(Token(7), Ok(taken))] => {
                offset += taken;
                shorts += 1;
                rig.driver.watch_writable(Token(7), socket);
                rig.driver.watch_writable(Token(7), socket);
                rig.until_seen(Seen::Writable(Token(7)));
                assert_eq!(rig.count(&Seen::Writable(Token(7))), 1, "asked twice, answered once");
            }
            other => panic!("a send yields at most one Sent, not {other:?}"),
        }
    }
    assert!(shorts > 0, "the socket was full now and then");
    assert!(reader.join().unwrap().0, "the reader got the bytes that were sent");
}

/// A slow socket does not keep the frames of others alive, nor its own.
pub fn the_driver_holds_nothing_of_a_refused_send<F: Factory>(factory: &F) {
    let mut rig = Rig::new(factory, Shape::default());
    let (server, client) = Listener::new().pair();
    narrow(&server, &client);
    let socket = rig.register(1, server);
    let frame = Bytes::from(vec![1; 4 << 20]);
    rig.send(1, socket, &frame);
    rig.flush();
    assert!(matches!(rig.log.as_slice(), [Seen::Sent(Token(1), Ok(taken))] if *taken < frame.len()));
    assert!(frame.is_unique());
}
