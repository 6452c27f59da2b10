//! The parent's side of a bare server.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::{FloorError, Loop};
use crate::measure::process::{Probe, Watched};

/// How long the child may take to listen, and to answer beyond the time that a broadcast lasts.
const GRACE: Duration = Duration::from_secs(20);
/// How long clients may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(300);
/// No send takes longer on average.
const SEND_MAX: Duration = Duration::from_micros(100);
/// Lines of the child that nobody has read: it says one per turn of its door.
const LINES_MAX: usize = 65_536;

/// What one broadcast of some rounds cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    pub sends: u64,
    /// Of the serving process.
    pub cpu_us: u64,
    /// Sends that did not take the whole frame: the clients do not read fast enough, or are gone.
    pub short: u64,
}

/// A running bare server; killed when dropped. Its calls block.
#[derive(Debug)]
pub struct Bare {
    which: Loop,
    sockets: usize,
    connected: usize,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    addr: SocketAddr,
    probe: Probe,
}

impl Bare {
    /// `binary`: a `tidegate-load`, started as `floor-serve LOOP SOCKETS`. It serves at most so many sockets.
    pub fn start(binary: &Path, which: Loop, sockets: usize) -> Result<Bare, FloorError> {
        which.can_hold(sockets)?;
        let mut child = Command::new(binary)
            .args(["floor-serve", which.name(), &sockets.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the child has no pipes").into());
        };
        let (told, lines) = mpsc::sync_channel(LINES_MAX);
        // It ends with the child's output.
        thread::Builder::new().name("floor-lines".into()).spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    return;
                }
            }
        })?;
        let probe = Probe::new(Watched { name: format!("floor-{}", which.name()), pid: child.id() });
        let mut bare = Bare {
            which,
            sockets,
            connected: 0,
            child,
            stdin,
            lines,
            addr: SocketAddr::from(([0, 0, 0, 0], 0)),
            probe,
        };
        let addr = bare.expect("listening", Instant::now() + GRACE)?;
        bare.addr = addr.parse().map_err(|_| bare.unexpected("listening", addr))?;
        Ok(bare)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `n` clients have been upgraded.
    pub fn wait_connected(&mut self, n: usize) -> Result<(), FloorError> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        while self.connected < n {
            let connected = self.expect("connected", deadline)?;
            self.connected = connected.parse().map_err(|_| self.unexpected("connected", connected))?;
        }
        Ok(())
    }

    /// Sends `frame` to every socket once per round; rounds begin `spacing` apart. Blocks until the last has ended.
    pub fn broadcast(&mut self, frame: &[u8], rounds: u64, spacing: Duration) -> Result<Slice, FloorError> {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let rounds_max = u32::try_from(rounds).map_err(io::Error::other)?;
        let deadline = Instant::now() + (spacing + SEND_MAX * self.sockets as u32) * rounds_max + GRACE;
        let before = self.probe.usage()?;
        writeln!(self.stdin, "broadcast {rounds} {} {hex}", spacing.as_nanos())?;
        let sent = self.expect("sent", deadline)?;
        let cpu_us = self.probe.usage()?.cpu_us - before.cpu_us;
        let numbers: Vec<u64> = sent.split(' ').map_while(|number| number.parse().ok()).collect();
        match numbers.as_slice() {
            [sends, short] => Ok(Slice { sends: *sends, cpu_us, short: *short }),
            _ => Err(self.unexpected("sent", sent)),
        }
    }

    /// The rest of the next line that begins with `word`; more clients may connect meanwhile.
    fn expect(&mut self, word: &'static str, deadline: Instant) -> Result<String, FloorError> {
        let name = self.which.name();
        loop {
            let within = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(within).map_err(|error| match error {
                RecvTimeoutError::Timeout => FloorError::Silent { name, expected: word },
                RecvTimeoutError::Disconnected => FloorError::Ended(name),
            })?;
            match line.split_once(' ') {
                Some((first, rest)) if first == word => return Ok(rest.to_owned()),
                Some(("connected", _)) => {}
                _ => return Err(self.unexpected(word, line)),
            }
        }
    }

    fn unexpected(&self, expected: &'static str, said: String) -> FloorError {
        FloorError::Unexpected { name: self.which.name(), expected, said }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
