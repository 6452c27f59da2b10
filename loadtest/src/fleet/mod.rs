//! The clients of a run: one thread, several rings, direct descriptors, so that one process holds 100,000s of sockets.

mod crew;
mod ramp;
mod seat;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::clock::Clock;
use crate::judge::{Findings, Ledger};
use crate::latency::{Latency, histogram};
use crate::net::{Bell, NetConfig, Network};
use crate::population::{Population, StreamNo};
use crate::tls::Connector;

use crew::{Crew, Ended};

/// How often a wait looks.
const LOOK: Duration = Duration::from_millis(20);

/// How sockets are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// A receive is armed on every socket: arrival times are exact, and the wake-ups of the clients cost the server.
    Armed,
    /// Every socket is read at this interval, whatever happened on it: what the server pays is only its own.
    Timer { every: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Connect, join, follow by the client rule, judge.
    Follow,
    /// Upgrade, then only read: for the bare loops of `floor`. Same sockets, same reads, frames are split but not judged.
    Bare,
}

#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Client listeners of the gateways. Clients are spread over them; one whose connection is gone tries the next.
    pub targets: Vec<SocketAddr>,
    /// For TLS; `None`: plain.
    pub tls: Option<Connector>,
    /// Offer permessage-deflate, and insist on it.
    pub compression: bool,
    pub mode: Mode,
    pub drain: Drain,
    /// New connections per second; open loop, but never more than a bounded number of handshakes under way.
    pub ramp_per_second: f64,
    /// These clients get a small `SO_RCVBUF` and keep their latencies to themselves: they will stop reading.
    pub slow: Range<u32>,
    /// Come back after a break, with cursors. Without: a closed connection stays closed.
    pub reconnect: bool,
    /// Loads of the scenario, each with its own latencies.
    pub loads: usize,
}

impl FleetConfig {
    /// Clients over plain connections that read as fast as they can, and come back with their cursors after a break.
    pub fn following(targets: Vec<SocketAddr>, ramp_per_second: f64, loads: usize) -> FleetConfig {
        FleetConfig {
            targets,
            tls: None,
            compression: false,
            mode: Mode::Follow,
            drain: Drain::Armed,
            ramp_per_second,
            slow: 0..0,
            reconnect: true,
            loads,
        }
    }
}

/// Counters of a running fleet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Connections that stand: connected and every group joined.
    pub established: u32,
    /// Handshakes that were refused or timed out.
    pub failed: u32,
    /// Connections that the server or the network ended.
    pub closed: u64,
    pub reconnects: u64,
    /// Messages shown to clients.
    pub shown: u64,
    /// WebSocket frames with messages, and reads that returned bytes: messages per frame, frames per read.
    pub frames: u64,
    pub reads: u64,
    pub bytes: u64,
    /// Streams of clients with a hole or in a gap.
    pub behind: u32,
    pub gaps: u64,
    pub findings: u64,
}

/// How well the generator itself kept up.
#[derive(Clone, Debug)]
pub struct LoopHealth {
    /// How late each pass of the loop began (timer drain) or how long it took (armed), in µs.
    pub lag_us: Histogram<u64>,
    /// CPU time of the client thread, in µs.
    pub cpu_us: u64,
}

/// What the clients were shown, judged against the ledger.
#[derive(Debug)]
pub struct Judgement {
    pub expected: u64,
    pub received: u64,
    pub holes_healed: u64,
    pub gaps: u64,
    /// Seqs at or below the cursor because a live frame overlapped a pull's answer; the client rule passes them over.
    pub overlaps: u64,
    /// Slow clients that were told a gap.
    pub slow_with_gap: u32,
    pub findings: Findings,
    /// By load; the slow clients' apart.
    pub latency: Vec<Latency>,
    pub slow_latency: Vec<Latency>,
}

/// A running fleet. Dropping it closes every connection.
#[derive(Debug)]
pub struct Fleet {
    desk: Arc<Desk>,
    bell: Bell,
    thread: Option<JoinHandle<Outcome>>,
    population: Arc<Population>,
}

impl Fleet {
    /// Begins to connect at once, on a thread of its own.
    pub fn start(config: FleetConfig, population: Arc<Population>, clock: Clock) -> io::Result<Fleet> {
        let desk = Arc::new(Desk::default());
        let (opened, opening) = mpsc::channel();
        let (of_thread, of_clients) = (desk.clone(), population.clone());
        let thread = thread::Builder::new().name("clients".into()).spawn(move || {
            let net = NetConfig { targets: config.targets.clone(), buffers: config.drain.buffers() };
            match Network::open(net) {
                Ok(network) => {
                    let _ = opened.send(Ok(network.bell()));
                    Some(Crew::new(config, of_clients, clock).run(network, &of_thread))
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                    None
                }
            }
        })?;
        let bell = opening.recv().map_err(|_| io::Error::other("the clients' thread ended at its start"))??;
        Ok(Fleet { desk, bell, thread: Some(thread), population })
    }

    pub fn progress(&self) -> Progress {
        self.desk.notes().progress
    }

    /// Waits until every client is established; false: some are not after `patience`.
    pub fn gather(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.progress().established < self.population.connections() {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }

    /// Waits until `expected` messages are shown, or nothing more has been shown for `quiet`.
    pub fn settle(&self, expected: u64, quiet: Duration) {
        let mut last = (self.progress().shown, Instant::now());
        while last.0 < expected && last.1.elapsed() < quiet {
            thread::sleep(LOOK);
            let shown = self.progress().shown;
            if shown != last.0 {
                last = (shown, Instant::now());
            }
        }
    }

    /// Stops or resumes reading on some clients.
    pub fn pause(&self, clients: Range<u32>, paused: bool) {
        self.ask(Wish::Pause(clients, paused));
    }

    /// Closes the connections of some clients, who come back with their cursors after that time.
    pub fn away(&self, clients: Range<u32>, time: Duration) {
        self.ask(Wish::Away(clients, time));
    }

    /// The bytes of the newest batch frame of a stream (WebSocket head included), for a floor with the same frames.
    pub fn sample_frame(&self, stream: StreamNo) -> Option<Vec<u8>> {
        let (answer, answered) = mpsc::channel();
        self.ask(Wish::Sample(stream, answer));
        answered.recv().ok()?
    }

    pub fn health(&self) -> LoopHealth {
        let notes = self.desk.notes();
        LoopHealth { lag_us: notes.lag_us.clone(), cpu_us: notes.cpu_us }
    }

    /// Ends all clients and judges them. Also after Ctrl-C: what was published up to then is judged.
    pub fn judge(mut self, ledger: &Ledger) -> Judgement {
        let ended = self.end().expect("a fleet that was started and not ended has a thread");
        let ended = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).expect("its network was opened");
        ended.judge(ledger, &self.population)
    }

    fn ask(&self, wish: Wish) {
        self.desk.wishes().push(wish);
        self.bell.ring();
    }

    fn end(&mut self) -> Option<thread::Result<Outcome>> {
        let thread = self.thread.take()?;
        self.ask(Wish::End);
        Some(thread.join())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // A panic of the thread has been printed; whoever drops the fleet does not want its outcome.
        let _ = self.end();
    }
}

/// What the thread leaves behind; nothing if it could not start.
type Outcome = Option<Ended>;

/// Where a fleet's thread and its users meet.
#[derive(Debug, Default)]
struct Desk {
    wishes: Mutex<Vec<Wish>>,
    notes: Mutex<Notes>,
}

#[derive(Debug)]
enum Wish {
    Pause(Range<u32>, bool),
    Away(Range<u32>, Duration),
    Sample(StreamNo, mpsc::Sender<Option<Vec<u8>>>),
    End,
}

/// What the thread says of itself after each turn.
#[derive(Debug)]
struct Notes {
    progress: Progress,
    lag_us: Histogram<u64>,
    cpu_us: u64,
}

impl Default for Notes {
    fn default() -> Self {
        Notes { progress: Progress::default(), lag_us: histogram(), cpu_us: 0 }
    }
}

impl Desk {
    fn wishes(&self) -> MutexGuard<'_, Vec<Wish>> {
        self.wishes.lock().expect("no holder panics")
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().expect("no holder panics")
    }
}

impl Drain {
    /// What may arrive at once on armed sockets; with the timer only those in their handshake are.
    fn buffers(self) -> u16 {
        match self {
            Drain::Armed => 4096,
            Drain::Timer { .. } => 512,
        }
    }
}

#[cfg(test)]
mod tests;
