//! Facts about ending a registered socket: who holds it, what the peer sees, and what is destroyed.

mod support;

use std::io::{ErrorKind, Read, Write};

use io_uring::opcode;
use io_uring::types::{CancelBuilder, Fixed};
use support::{Bare, Cqe};
use tidegate_gateway_contract::{pair, read_now, read_to_end};

const POLL: u64 = 1;
const CLOSE: u64 = 2;
const CANCEL: u64 = 3;
const OTHER: u64 = 4;

fn armed() -> (Bare, std::net::TcpStream) {
    let (server, client) = pair();
    let mut bare = Bare::new();
    bare.place(0, server);
    bare.push(opcode::PollAdd::new(Fixed(0), libc::POLLIN as u32).multi(true).build(), POLL);
    assert_eq!(bare.visit(), []);
    (bare, client)
}

fn result_of(cqes: &[Cqe], id: u64) -> Option<i32> {
    cqes.iter().find(|cqe| cqe.id == id).map(|cqe| cqe.result)
}

/// Must stay: this is why the driver never closes a slot without cancelling its polls. The slot is free, yet the peer believes
/// that the connection lives.
#[test]
fn closing_a_slot_with_a_poll_armed_tells_the_peer_nothing() {
    let (mut bare, mut client) = armed();
    bare.push(opcode::Close::new(Fixed(0)).build(), CLOSE);
    assert_eq!(result_of(&bare.wait(), CLOSE), Some(0), "the slot is free");
    assert_eq!(read_now(&mut client), None, "but no FIN was sent");
    bare.push(opcode::AsyncCancel2::new(CancelBuilder::user_data(POLL)).build(), CANCEL);
    bare.visit();
    assert_eq!(read_to_end(&mut client), b"", "the end of the poll is the end of the socket");
}

/// Must stay: the driver's close is exactly this, in one submission.
#[test]
fn cancelling_the_poll_by_user_data_and_closing_sends_fin() {
    let (mut bare, mut client) = armed();
    bare.push(opcode::AsyncCancel2::new(CancelBuilder::user_data(POLL)).build(), CANCEL);
    bare.push(opcode::Close::new(Fixed(0)).build(), CLOSE);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(bare.wait());
    }
    assert_eq!(result_of(&seen, CANCEL), Some(0));
    assert_eq!(result_of(&seen, CLOSE), Some(0));
    assert_eq!(result_of(&seen, POLL), Some(-libc::ECANCELED));
    assert_eq!(read_to_end(&mut client), b"");
}

/// Must stay: a poll that fires while it is being cancelled still ends, with a completion that is its last. POLL_REMOVE would give
/// up with EALREADY, and the slot would never become quiet.
#[test]
fn a_poll_that_is_just_firing_still_ends_by_a_cancel() {
    let (mut bare, mut client) = armed();
    client.write_all(b"wake").unwrap();
    bare.push(opcode::AsyncCancel2::new(CancelBuilder::user_data(POLL)).build(), CANCEL);
    bare.push(opcode::Close::new(Fixed(0)).build(), CLOSE);
    let mut last = None;
    while last.is_none() {
        last = bare.wait().into_iter().find(|cqe| cqe.id == POLL && !cqe.more());
    }
    assert!(last.is_some_and(|cqe| cqe.result == -libc::ECANCELED || cqe.result > 0));
}

/// Must stay: an abort is SO_LINGER 0 by a socket command, because a slot has no descriptor for setsockopt(2).
#[test]
fn a_registered_socket_is_reset_by_linger_zero_and_close() {
    let (mut bare, mut client) = armed();
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let bytes = size_of::<libc::linger>() as u32;
    let (level, name) = (libc::SOL_SOCKET as u32, libc::SO_LINGER as u32);
    let option = opcode::SetSockOpt::new(Fixed(0), level, name, (&raw const linger).cast(), bytes).build();
    bare.push(opcode::AsyncCancel2::new(CancelBuilder::user_data(POLL)).build(), CANCEL);
    bare.push(option.flags(io_uring::squeue::Flags::IO_HARDLINK), OTHER);
    bare.push(opcode::Close::new(Fixed(0)).build(), CLOSE);
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.extend(bare.wait());
    }
    assert_eq!(result_of(&seen, OTHER), Some(0));
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Must stay: it is why a graceful close reads on until the peer's FIN before it closes.
#[test]
fn closing_with_unread_input_destroys_what_is_on_its_way_to_the_peer() {
    let (server, mut client) = pair();
    let mut bare = Bare::new();
    bare.place(0, server);
    client.write_all(b"unread").unwrap();
    // More than a peer that does not read takes, so that most of it waits in the sender.
    let bytes = vec![7u8; 1 << 20];
    let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL;
    bare.push(opcode::Send::new(Fixed(0), bytes.as_ptr(), 1 << 20).flags(flags).build(), OTHER);
    let sent = usize::try_from(result_of(&bare.wait(), OTHER).unwrap()).unwrap();
    bare.push(opcode::Close::new(Fixed(0)).build(), CLOSE);
    assert_eq!(result_of(&bare.wait(), CLOSE), Some(0));
    let mut arrived = Vec::new();
    let error = client.read_to_end(&mut arrived).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(arrived.len() < sent, "{} of {sent} bytes arrived", arrived.len());
}

/// Must stay: SHUTDOWN of a slot leaves its poll armed and its input readable; the graceful close goes on from there.
#[test]
fn shutdown_sends_fin_and_the_poll_sees_the_peers() {
    let (mut bare, mut client) = armed();
    bare.push(opcode::Shutdown::new(Fixed(0), libc::SHUT_WR).build(), OTHER);
    assert_eq!(bare.wait().iter().map(|cqe| (cqe.id, cqe.result)).collect::<Vec<_>>(), [(OTHER, 0)]);
    assert_eq!(read_to_end(&mut client), b"");
    client.write_all(b"last words").unwrap();
    drop(client);
    let fired = bare.wait()[0];
    assert_eq!(fired.id, POLL);
    assert!(fired.result & i32::from(libc::POLLIN) != 0);
}
