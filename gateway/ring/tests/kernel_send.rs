//! Facts about SEND that the driver's contract rests on: "no completion" means that all bytes are in the socket.

mod support;

use std::io::Read;
use std::net::TcpStream;

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::Fixed;
use support::Bare;
use tidegate_gateway_contract::{narrow, pair, read_now};

const QUIET: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
const FRAME: usize = 10_000;

/// Sends frames into a socket that nobody reads until one completes; returns how many vanished without completion, and
/// the completion.
fn fill(bare: &mut Bare, frame: &[u8], flags: i32, sends: usize) -> (usize, Option<i32>) {
    for n in 0..sends {
        let send = opcode::Send::new(Fixed(0), frame.as_ptr(), frame.len() as u32).flags(flags);
        bare.push(send.build().flags(Flags::SKIP_SUCCESS), n as u64);
        if let Some(cqe) = bare.visit().first() {
            return (n, Some(cqe.result));
        }
    }
    (sends, None)
}

fn drain(bare: &mut Bare, client: &mut TcpStream) -> usize {
    bare.push(opcode::Close::new(Fixed(0)).build(), u64::MAX);
    bare.wait();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap()
}

/// Must stay: without it a socket that took half a frame would be taken for one that took all of it, and the stream after
/// that is garbage.
#[test]
fn a_short_send_with_waitall_completes_with_the_bytes_taken_although_success_is_skipped() {
    let (server, mut client) = pair();
    narrow(&server, &client);
    let mut bare = Bare::new();
    bare.place(0, server);
    let frame = vec![7u8; FRAME];
    let (whole, result) = fill(&mut bare, &frame, QUIET | libc::MSG_WAITALL, 1000);
    let result = result.expect("a socket that nobody reads becomes full");
    let taken = if result == -libc::EAGAIN { 0 } else { usize::try_from(result).unwrap() };
    assert!(taken < FRAME, "the send that completed was not whole");
    assert_eq!(drain(&mut bare, &mut client), whole * FRAME + taken, "every byte is accounted for");
}

/// Must stay: it shows what MSG_WAITALL is for. If this fails one day the kernel has become safer and the flag costs nothing.
#[test]
fn a_short_send_without_waitall_vanishes() {
    let mut lost = 0;
    // Whether the last send that fits is cut depends on where the buffer's limit falls, so several sizes are tried.
    for frame in [10_000, 100_000, 300_000, 1_000_000].map(|len| vec![7u8; len]) {
        let (server, mut client) = pair();
        narrow(&server, &client);
        let mut bare = Bare::new();
        bare.place(0, server);
        let (silent, result) = fill(&mut bare, &frame, QUIET, 1000);
        assert_eq!(result, Some(-libc::EAGAIN), "only a socket that takes nothing at all is heard of");
        lost += silent * frame.len() - drain(&mut bare, &mut client);
    }
    assert!(lost > 0, "some send without a completion was not whole");
}

/// Must stay: a SEND that the kernel armed a poll for would read its frame after the driver has let go of it.
#[test]
fn a_send_to_a_full_socket_completes_with_eagain_at_once_and_sends_nothing_later() {
    let (server, mut client) = pair();
    narrow(&server, &client);
    let mut bare = Bare::new();
    bare.place(0, server);
    let frame = vec![7u8; FRAME];
    let full = QUIET | libc::MSG_WAITALL;
    while fill(&mut bare, &frame, full, 1000).1 != Some(-libc::EAGAIN) {}
    let before = read_all_now(&mut bare, &mut client);
    assert!(before > 0);
    let mark = *b"the next bytes";
    let send = opcode::Send::new(Fixed(0), mark.as_ptr(), mark.len() as u32).flags(full);
    bare.push(send.build().flags(Flags::SKIP_SUCCESS), 1);
    assert_eq!(bare.visit(), [], "there is room again");
    let mut bytes = [0; 14];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, &mark, "the refused send did not come after all");
}

/// Reads until the socket's both buffers are empty.
fn read_all_now(bare: &mut Bare, client: &mut TcpStream) -> usize {
    let mut total = 0;
    let mut empty = 0;
    while empty < 3 {
        match read_now(client) {
            Some(bytes) => total += bytes.len(),
            None => {
                empty += 1;
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
        assert_eq!(bare.visit(), []);
    }
    total
}

/// Must stay: the driver unpins a frame when the enter that submitted its SEND has returned.
#[test]
fn the_bytes_are_copied_when_enter_returns() {
    let (server, mut client) = pair();
    let mut bare = Bare::new();
    bare.place(0, server);
    let mut frame = vec![b'a'; 5000];
    let send = opcode::Send::new(Fixed(0), frame.as_ptr(), 5000).flags(QUIET | libc::MSG_WAITALL);
    bare.push(send.build().flags(Flags::SKIP_SUCCESS), 1);
    assert_eq!(bare.visit(), []);
    frame.fill(b'b');
    let mut bytes = vec![0; 5000];
    client.read_exact(&mut bytes).unwrap();
    assert!(bytes.iter().all(|b| *b == b'a'));
}

/// Must stay: a failure is never skipped, so a send to a broken connection is heard of, and does not raise SIGPIPE.
#[test]
fn a_send_to_a_broken_connection_completes_with_its_error() {
    let (server, client) = pair();
    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    let mut bare = Bare::new();
    bare.place(0, server);
    let frame = [1u8; 10];
    let mut errors = Vec::new();
    for _ in 0..2 {
        let send = opcode::Send::new(Fixed(0), frame.as_ptr(), 10).flags(QUIET | libc::MSG_WAITALL);
        bare.push(send.build().flags(Flags::SKIP_SUCCESS), 1);
        errors.extend(bare.visit().iter().map(|cqe| -cqe.result));
    }
    assert_eq!(errors, [libc::ECONNRESET, libc::EPIPE]);
}
