//! Facts about receiving into provided buffers and about multishot polls.

mod support;

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::{BufRingEntry, Fixed};
use support::Bare;
use tidegate_gateway_contract::pair;

const RECV: u64 = 1;
const POLL: u64 = 2;
const SIZE: usize = 16;

/// Four buffers of 16 bytes in a page each, registered by hand. Leaked: the ring may outlive the test's frame.
struct Group {
    ring: &'static mut [u8; 4096],
    memory: &'static mut [[u8; SIZE]; 4],
    tail: u16,
}

impl Group {
    fn new(bare: &Bare) -> Group {
        #[repr(align(4096))]
        struct Page([u8; 4096]);
        let page = Box::leak(Box::new(Page([0; 4096])));
        // SAFETY: the page and the buffers are leaked, so they outlive the ring.
        unsafe { bare.0.submitter().register_buf_ring_with_flags((&raw const page.0) as u64, 4, 0, 0).unwrap() };
        Group { ring: &mut page.0, memory: Box::leak(Box::new([[0; SIZE]; 4])), tail: 0 }
    }

    fn give(&mut self, id: u16) {
        let base = self.ring.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: the page holds four entries and this is one of them; only this thread writes it.
        unsafe {
            let entry = base.add(usize::from(self.tail % 4));
            (*entry).set_addr(self.memory[usize::from(id)].as_mut_ptr() as u64);
            (*entry).set_len(SIZE as u32);
            (*entry).set_bid(id);
            self.tail += 1;
            BufRingEntry::tail(base).cast_mut().write_volatile(self.tail);
        }
    }
}

fn placed() -> (Bare, Group, TcpStream) {
    let (server, client) = pair();
    let bare = Bare::new();
    let group = Group::new(&bare);
    bare.place(0, server);
    (bare, group, client)
}

fn recv() -> io_uring::squeue::Entry {
    let recv = opcode::Recv::new(Fixed(0), std::ptr::null_mut(), 0).flags(libc::MSG_DONTWAIT).buf_group(0);
    recv.build().flags(Flags::BUFFER_SELECT)
}

/// Must stay: the driver gives buffers back in the order of completions and relies on the kernel taking them in that order, so that
/// no buffer starves and the hottest are used last.
#[test]
fn buffers_are_taken_in_the_order_they_were_given() {
    let (mut bare, mut group, mut client) = placed();
    for id in [2, 0, 3, 1] {
        group.give(id);
    }
    client.write_all(&[9; 4 * SIZE]).unwrap();
    let mut taken = Vec::new();
    for _ in 0..4 {
        bare.push(recv(), RECV);
        taken.extend(bare.wait().iter().map(|cqe| (cqe.result, cqe.buffer())));
    }
    assert_eq!(taken, [2, 0, 3, 1].map(|id| (SIZE as i32, Some(id))));
}

/// Must stay: the driver puts such a socket at the end of the line. Taking it for broken would close healthy connections.
#[test]
fn a_receive_without_a_buffer_fails_with_enobufs_and_the_bytes_stay() {
    let (mut bare, mut group, mut client) = placed();
    client.write_all(b"patient").unwrap();
    bare.push(recv(), RECV);
    let cqe = bare.wait()[0];
    assert_eq!((cqe.result, cqe.buffer()), (-libc::ENOBUFS, None));
    group.give(1);
    bare.push(recv(), RECV);
    let cqe = bare.wait()[0];
    assert_eq!((cqe.result, cqe.buffer()), (7, Some(1)));
    assert_eq!(&group.memory[1][..7], b"patient");
}

/// Must stay as a warning: whoever makes chatty connections receive by a multishot RECV must re-arm it here.
#[test]
fn a_multishot_receive_ends_with_enobufs_and_goes_on_when_armed_again() {
    let (mut bare, mut group, mut client) = placed();
    group.give(0);
    bare.push(opcode::RecvMulti::new(Fixed(0), 0).build(), RECV);
    assert_eq!(bare.visit(), []);
    client.write_all(&[5; 2 * SIZE]).unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|cqe: &support::Cqe| cqe.more()) {
        seen.extend(bare.wait());
    }
    assert_eq!(seen.iter().map(|cqe| cqe.result).collect::<Vec<_>>(), [SIZE as i32, -libc::ENOBUFS]);
    group.give(0);
    bare.push(opcode::RecvMulti::new(Fixed(0), 0).build(), RECV);
    assert_eq!(bare.wait()[0].result, SIZE as i32);
}

/// Must stay: a receive that waited would hold a buffer and 867 bytes of the kernel per idle connection.
#[test]
fn a_receive_from_an_empty_socket_completes_with_eagain_and_takes_no_buffer() {
    let (mut bare, mut group, mut client) = placed();
    group.give(3);
    bare.push(recv(), RECV);
    let cqe = bare.visit()[0];
    assert_eq!((cqe.result, cqe.buffer()), (-libc::EAGAIN, None));
    client.write_all(b"x").unwrap();
    assert_eq!(bare.visit(), [], "it is not pending");
    bare.push(recv(), RECV);
    assert_eq!(bare.wait()[0].buffer(), Some(3), "the buffer was not lost");
}

/// Must stay: the driver reads to a short read and then trusts the poll to fire for what comes later, and only then.
#[test]
fn a_multishot_poll_fires_when_armed_over_input_and_once_per_arrival() {
    let (mut bare, _group, mut client) = placed();
    client.write_all(b"early").unwrap();
    bare.push(opcode::PollAdd::new(Fixed(0), libc::POLLIN as u32).multi(true).build(), POLL);
    let first = bare.wait();
    assert_eq!(first.len(), 1);
    assert!(first[0].more());
    for _ in 0..3 {
        assert_eq!(bare.visit(), [], "input that was reported is not reported again");
        client.write_all(b"late").unwrap();
        let fired = bare.wait();
        assert_eq!(fired.len(), 1);
        assert!(fired[0].more() && fired[0].result & i32::from(libc::POLLIN) != 0);
    }
}

/// Must stay: bytes and FIN may come with one firing, and the FIN is only found by reading past the bytes.
#[test]
fn one_firing_may_stand_for_bytes_and_the_end_of_input() {
    let (mut bare, mut group, mut client) = placed();
    client.write_all(b"bye").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
    bare.push(opcode::PollAdd::new(Fixed(0), events).multi(true).build(), POLL);
    let fired = bare.wait();
    assert_eq!(fired.len(), 1);
    assert!(fired[0].result & i32::from(libc::POLLRDHUP) != 0);
    group.give(0);
    group.give(1);
    bare.push(recv(), RECV);
    assert_eq!(bare.wait()[0].result, 3, "a short read");
    bare.push(recv(), RECV);
    assert_eq!(bare.wait()[0].result, 0, "and then the end, for which nothing fires again");
}
