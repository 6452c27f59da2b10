//! What is particular about ordinary descriptors: others may hold them too, and not all can be watched.

use std::fs::File;
use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use bytes::Bytes;
use tidegate_gateway_contract::{PATIENCE, pair, read_exactly, read_to_end};
use tidegate_gateway_core::driver::{CloseHow, Driver, Event, RegisterError, Token};
use tidegate_gateway_epoll::{EpollConfig, EpollDriver};

#[test]
fn what_cannot_be_watched_is_given_back() {
    let mut driver = EpollDriver::open(&EpollConfig::default()).expect("an epoll instance");
    let file = File::open("/proc/self/exe").expect("a file");
    let result = driver.register(Token(1), file.into());
    assert!(matches!(result, Err((RegisterError::Os(libc::EPERM), _))), "{result:?}");
    assert_eq!(driver.sockets(), 0, "the slot is free again");
}

/// The kernel watches the open file, not the descriptor: as long as somebody holds a duplicate, it tells of the old socket under
/// the name of its old use, also when another socket has the slot.
#[test]
fn events_of_a_closed_socket_that_lives_on_reach_nobody() {
    let config = EpollConfig { slots: 1, linger_ms: 0, ..EpollConfig::default() };
    let mut driver = EpollDriver::open(&config).expect("an epoll instance");
    let (server, mut client) = pair();
    let mut duplicate = server.try_clone().expect("a duplicate");
    let old = driver.register(Token(1), server.into()).expect("room");
    driver.close(Token(1), old, CloseHow::Graceful);
    let mut seen = Vec::new();
    driver.flush(&mut |event| seen.push(matches!(event, Event::Closed { token: Token(1) })));
    assert_eq!(seen, [true]);
    let (server, mut other) = pair();
    let new = driver.register(Token(2), server.into()).expect("room again");
    assert_eq!(new.slot, old.slot);
    client.write_all(b"late").expect("the old connection lives");
    client.shutdown(Shutdown::Write).expect("and ends");
    for _ in 0..3 {
        let deadline = driver.now() + Duration::from_millis(5);
        driver.turn(Some(deadline), &mut |event| panic!("{event:?}"));
    }
    assert_eq!(read_to_end(&mut duplicate), b"late", "and was read by nobody");
    other.write_all(b"mine").expect("written");
    let mut seen = Vec::new();
    let deadline = driver.now() + PATIENCE;
    driver.turn(Some(deadline), &mut |event| match event {
        Event::Data { token: Token(2), bytes } => seen.extend_from_slice(bytes),
        other => panic!("{other:?}"),
    });
    assert_eq!(seen, b"mine");
    driver.send(Token(2), new, &Bytes::from_static(b"yours"), 0);
    driver.flush(&mut |event| panic!("{event:?}"));
    assert_eq!(read_exactly(&mut other, 5), b"yours");
}
