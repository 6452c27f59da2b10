//! What the driver adds to a bare io_uring loop: one frame to many sockets, both ways, on the same sockets, in alternating rounds.
//!
//! `fanout [sockets=10000] [bytes=128] [rounds=20] [repeats=5] [interval_ms=250] [slice=512]`
//!
//! A child process holds the other ends and drains them on a timer of 100 ms, without armed reads, so that its wake-ups are
//! not charged to the sender. Figures are CPU time of the sending thread per send; over loopback they include the receiver's TCP
//! path. Then it closes everything and shows what cancelling a poll by user data costs against cancelling by file.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use io_uring::squeue::Flags;
use io_uring::types::{CancelBuilder, Fixed};
use io_uring::{EnterFlags, IoUring, opcode, squeue};
use tidegate_gateway_core::driver::{CloseHow, Driver, Event, Socket, Token};
use tidegate_gateway_ring::{RingConfig, RingDriver, probe, raise_nofile};

const DRAIN: Duration = Duration::from_millis(100);
const ENTER_EVERY: u32 = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    raise_nofile()?;
    if let [role, address, sockets] = arguments.as_slice()
        && role == "drain"
    {
        return Ok(drain(address.parse()?, sockets.parse()?)?);
    }
    let options: HashMap<&str, u64> = arguments
        .iter()
        .filter_map(|argument| argument.split_once('='))
        .map(|(name, value)| Ok::<_, std::num::ParseIntError>((name, value.parse()?)))
        .collect::<Result<_, _>>()?;
    let option = |name, default| options.get(name).copied().unwrap_or(default);
    let mut bench = Bench::open(option("sockets", 10_000) as usize, option("slice", 512) as usize)?;
    let frame = Bytes::from(vec![b'x'; option("bytes", 128) as usize]);
    bench.fan_out(
        &frame,
        option("repeats", 5),
        option("rounds", 20),
        Duration::from_millis(option("interval_ms", 250)),
    );
    bench.close()
}

struct Bench {
    driver: RingDriver,
    bare: Bare,
    sockets: Vec<Socket>,
    slice: usize,
    child: Child,
    _child_output: BufReader<ChildStdout>,
}

impl Bench {
    /// Every socket is in the table of the bare ring and in the driver's, in the same order.
    fn open(count: usize, slice: usize) -> Result<Bench, Box<dyn std::error::Error>> {
        let features = probe()?;
        let mut driver = RingDriver::open(&RingConfig::default(), features)?;
        let bare = Bare::open(count as u32)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["drain", &listener.local_addr()?.to_string(), &count.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut sockets = Vec::with_capacity(count);
        for token in 0..count {
            let (socket, _) = listener.accept()?;
            socket.set_nodelay(true)?;
            bare.ring.submitter().register_files_update(token as u32, &[socket.as_raw_fd()])?;
            sockets.push(driver.register(Token(token as u64), socket.into()).map_err(|(error, _)| error)?);
        }
        driver.flush(&mut |event| panic!("{event:?}"));
        let mut output = BufReader::new(child.stdout.take().expect("its output is piped"));
        output.read_line(&mut String::new())?;
        Ok(Bench { driver, bare, sockets, slice, child, _child_output: output })
    }

    fn fan_out(&mut self, frame: &Bytes, repeats: u64, rounds: u64, interval: Duration) {
        let sends = (rounds * self.sockets.len() as u64) as f64;
        let (mut of_bare, mut of_driver) = (Vec::new(), Vec::new());
        for repeat in 0..=repeats {
            let (mut bare, mut driver) = (Duration::ZERO, Duration::ZERO);
            for round in 0..2 * rounds {
                let begin = Instant::now();
                let before = cpu_time();
                if round % 2 == 0 {
                    self.bare.fan_out(self.sockets.len() as u32, frame);
                    bare += cpu_time() - before;
                } else {
                    self.by_driver(frame);
                    driver += cpu_time() - before;
                }
                thread::sleep(interval.saturating_sub(begin.elapsed()));
            }
            let micros = |spent: Duration| spent.as_secs_f64() * 1e6 / sends;
            let (bare, driver) = (micros(bare), micros(driver));
            println!("repeat {repeat}: bare {bare:.2} µs, driver {driver:.2} µs, ratio {:.3}", driver / bare);
            // The first warms up.
            if repeat > 0 {
                of_bare.push(bare);
                of_driver.push(driver);
            }
        }
        let ratio = of_bare.iter().zip(&of_driver).map(|(bare, driver)| driver / bare).collect();
        println!("{} sockets, {} bytes, {rounds} rounds each:", self.sockets.len(), frame.len());
        println!("  bare   {}", spread(of_bare));
        println!("  driver {}", spread(of_driver));
        println!("  ratio  {}", spread(ratio));
    }

    fn by_driver(&mut self, frame: &Bytes) {
        for (nth, slice) in self.sockets.chunks(self.slice).enumerate() {
            for (offset, socket) in slice.iter().enumerate() {
                self.driver.send(Token((nth * self.slice + offset) as u64), *socket, frame, 0);
            }
            self.driver.flush(&mut |event| panic!("{event:?}"));
        }
    }

    fn close(mut self) -> Result<(), Box<dyn std::error::Error>> {
        let count = self.sockets.len();
        let (half, per) = (count / 2, |spent: Duration, of: usize| spent.as_secs_f64() * 1e6 / of as f64);
        self.bare.arm(0..count as u32);
        let by_file = self.bare.cancel(0..half as u32, |slot| CancelBuilder::fd(Fixed(slot)).all());
        self.bare.arm(0..half as u32);
        let by_data = self.bare.cancel(half as u32..count as u32, |slot| CancelBuilder::user_data(slot.into()));
        println!("cancel by file {:.2} µs, by user data {:.2} µs", per(by_file, half), per(by_data, count - half));
        drop(self.bare);
        // The kernel lets go of a dropped ring's sockets in the background; whoever holds one last pays for its end.
        thread::sleep(Duration::from_secs(2));
        let before = cpu_time();
        for (token, socket) in self.sockets.iter().enumerate() {
            self.driver.close(Token(token as u64), *socket, CloseHow::Abort);
        }
        let mut closed = 0;
        while closed < count {
            self.driver.turn(None, &mut |event| closed += usize::from(matches!(event, Event::Closed { .. })));
        }
        println!("abort {:.2} µs", per(cpu_time() - before, count));
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let (Some(min), Some(max)) = (values.first(), values.last()) else {
        return "no repeats".into();
    };
    format!("min {min:.3}, median {:.3}, max {max:.3}", values[values.len() / 2])
}

/// The least that a fan-out by io_uring can be: push, enter every 64, look at completions once.
struct Bare {
    ring: IoUring,
    queued: u32,
}

impl Bare {
    fn open(slots: u32) -> io::Result<Bare> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(32_768)
            .build(256)?;
        ring.submitter().register_files_sparse(slots)?;
        Ok(Bare { ring, queued: 0 })
    }

    fn fan_out(&mut self, slots: u32, frame: &Bytes) {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL;
        for slot in 0..slots {
            let send = opcode::Send::new(Fixed(slot), frame.as_ptr(), frame.len() as u32).flags(flags).build();
            self.push(&send.flags(Flags::SKIP_SUCCESS).user_data(slot.into()));
        }
        self.enter();
        assert_eq!(self.ring.completion().count(), 0, "the clients drain in time");
    }

    fn arm(&mut self, slots: std::ops::Range<u32>) {
        for slot in slots {
            let poll = opcode::PollAdd::new(Fixed(slot), libc::POLLIN as u32).multi(true).build();
            self.push(&poll.user_data(slot.into()));
        }
        self.enter();
    }

    /// CPU time of cancelling one poll of each slot while the others stay armed.
    fn cancel(&mut self, slots: std::ops::Range<u32>, target: impl Fn(u32) -> CancelBuilder) -> Duration {
        let mut left = slots.len() * 2;
        let before = cpu_time();
        for slot in slots {
            self.push(&opcode::AsyncCancel2::new(target(slot)).build().user_data(u64::MAX));
        }
        while left > 0 {
            self.enter();
            left -= self.ring.completion().count();
        }
        cpu_time() - before
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the frame outlives the fan-out, whose last enter consumes every entry; other entries point to nothing.
        unsafe { self.ring.submission().push(entry) }.expect("the queue is emptied every 64 entries");
        self.queued += 1;
        if self.queued == ENTER_EVERY {
            self.submit(0);
        }
    }

    fn enter(&mut self) {
        self.submit(EnterFlags::GETEVENTS.bits());
    }

    fn submit(&mut self, flags: u32) {
        // SAFETY: no argument is passed; entries as in `push`.
        let entered = unsafe { self.ring.submitter().enter::<()>(self.queued, 0, flags, None) };
        assert_eq!(entered.ok(), Some(self.queued as usize), "every entry was consumed");
        self.queued = 0;
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the expected type.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every thread has a CPU clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The child: opens the sockets, says so, and empties them every 100 ms until it is killed.
fn drain(address: SocketAddr, sockets: usize) -> io::Result<()> {
    let mut streams = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    println!("ready");
    io::stdout().flush()?;
    let mut scratch = vec![0; 1 << 16];
    loop {
        let begin = Instant::now();
        for stream in &mut streams {
            let _ = stream.read(&mut scratch);
        }
        thread::sleep(DRAIN.saturating_sub(begin.elapsed()));
    }
}
