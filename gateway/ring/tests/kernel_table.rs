//! Facts about registered file tables, eventfds of several rings, and hosts that forbid io_uring.

mod support;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use io_uring::types::Fixed;
use io_uring::{IoUring, opcode};
use support::{Bare, features};
use tidegate_gateway_contract::pair;
use tidegate_gateway_ring::{Unsupported, probe};

/// Must stay: it is why there are `rings_per_shard` at all, and why a ring's slots are cut to the limit.
#[test]
fn a_table_is_limited_by_the_descriptor_limit_of_the_process_and_each_ring_has_its_own() {
    let limit = features().slots_max;
    let rings: Vec<IoUring> = (0..3).map(|_| IoUring::new(8).unwrap()).collect();
    if limit < 1 << 20 {
        let refused = rings[0].submitter().register_files_sparse(limit + 1).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMFILE));
    }
    for ring in &rings {
        ring.submitter().register_files_sparse(limit.min(1 << 20)).unwrap();
    }
}

/// Must stay: a visit runs a bounded share of the deferred work (20 at a time). The ring's flags say that there is more, which is all
/// that the driver looks at before it sleeps; the eventfd is not signalled again.
#[test]
fn deferred_work_that_one_visit_leaves_over_shows_in_the_flags() {
    let mut bare = Bare::new();
    bare.0.submitter().unregister_files().unwrap();
    bare.0.submitter().register_files_sparse(500).unwrap();
    let mut clients: Vec<_> = (0..500)
        .map(|slot| {
            let (server, client) = pair();
            bare.place(slot, server);
            if bare.0.submission().is_full() {
                bare.visit();
            }
            bare.push(opcode::PollAdd::new(Fixed(slot), libc::POLLIN as u32).multi(true).build(), slot.into());
            client
        })
        .collect();
    assert_eq!(bare.visit(), []);
    for client in &mut clients {
        client.write_all(b"x").unwrap();
    }
    let mut fired = Vec::new();
    while bare.0.submission().taskrun() {
        fired.extend(bare.visit().iter().map(|cqe| cqe.id));
    }
    fired.sort_unstable();
    assert!(fired.into_iter().eq(0..500));
}

/// Must stay: promotion closes the ordinary descriptor as soon as the slot has the socket.
#[test]
fn a_registered_socket_outlives_its_descriptor() {
    let (server, mut client) = pair();
    let mut bare = Bare::new();
    bare.place(5, server);
    client.write_all(b"hello").unwrap();
    let mut bytes = [0u8; 5];
    bare.push(opcode::Recv::new(Fixed(5), bytes.as_mut_ptr(), 5).build(), 1);
    assert_eq!(bare.wait()[0].result, 5);
    assert_eq!(&bytes, b"hello");
    bare.push(opcode::Close::new(Fixed(5)).build(), 2);
    bare.wait();
    assert_eq!(client.read(&mut bytes).unwrap(), 0);
}

/// Must stay: a thread with several rings sleeps on this eventfd alone.
#[test]
fn an_eventfd_is_signalled_by_deferred_work_of_every_ring_it_is_registered_with() {
    // SAFETY: no pointers.
    let eventfd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) };
    let mut rings = [Bare::new(), Bare::new(), Bare::new()];
    let mut clients = Vec::new();
    for bare in &mut rings {
        let (server, client) = pair();
        bare.place(0, server);
        clients.push(client);
        bare.0.submitter().register_eventfd(eventfd).unwrap();
        bare.push(opcode::PollAdd::new(Fixed(0), libc::POLLIN as u32).multi(true).build(), 1);
        assert_eq!(bare.visit(), []);
    }
    for (bare, client) in rings.iter_mut().zip(&mut clients) {
        let mut count = 0u64;
        // SAFETY: eight bytes of a local.
        let mut read = || unsafe { libc::read(eventfd, (&raw mut count).cast(), 8) };
        assert_eq!(read(), -1, "nothing has happened yet");
        client.write_all(b"x").unwrap();
        assert_eq!(read(), 8, "the work is deferred, but signalled");
        assert!(bare.0.submission().taskrun(), "and shows in the ring's flags");
        assert_eq!(bare.visit().len(), 1);
        read();
    }
    // SAFETY: no pointers; the descriptor is the test's own.
    unsafe { libc::close(eventfd) };
}

/// Must stay: this is how Docker's and containerd's default profiles answer, and the process must then choose epoll.
#[test]
fn a_host_that_forbids_io_uring_is_told_apart() {
    let refused = std::thread::spawn(|| {
        forbid_io_uring();
        probe()
    });
    assert!(matches!(refused.join().unwrap(), Err(Unsupported::Forbidden)));
    assert!(probe().is_ok(), "the filter holds for its thread only");
}

/// A seccomp filter for the calling thread that answers EPERM to io_uring_setup.
fn forbid_io_uring() {
    let number = libc::SYS_io_uring_setup as u32;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program points to a local that lives through the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

/// Must stay: the doorbell and the listener side keep using ordinary descriptors beside the table.
#[test]
fn ordinary_descriptors_work_in_a_ring_with_a_table() {
    let (server, mut client) = pair();
    let mut bare = Bare::new();
    let fd = io_uring::types::Fd(server.as_raw_fd());
    bare.push(opcode::PollAdd::new(fd, libc::POLLIN as u32).build(), 1);
    client.write_all(b"x").unwrap();
    assert!(bare.wait()[0].result & i32::from(libc::POLLIN) != 0);
}

/// Must stay: "no completion" means "sent", so the driver must get overflown completions back, all of them, before it says so.
#[test]
fn overflown_completions_come_back_in_order() {
    const COUNT: u64 = 10_000;
    let mut bare = Bare::new();
    let capacity = bare.0.completion().capacity() as u64;
    assert!(capacity < COUNT);
    for id in 0..COUNT {
        if bare.0.submission().is_full() {
            bare.0.submit().unwrap();
        }
        bare.push(opcode::Nop::new().build(), id);
    }
    bare.0.submit().unwrap();
    assert!(bare.0.submission().cq_overflow());
    let mut ids = Vec::new();
    while bare.0.submission().cq_overflow() {
        ids.extend(bare.visit().iter().map(|cqe| cqe.id));
    }
    ids.extend(bare.visit().iter().map(|cqe| cqe.id));
    assert!(ids.iter().copied().eq(0..COUNT));
    assert_eq!(bare.0.completion().overflow(), 0, "none was dropped");
}
