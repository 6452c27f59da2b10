//! The child's side: the hidden command `floor-serve`. It says `listening ADDR`, accepts, says `connected N` as sockets
//! come to stand, and for `broadcast ROUNDS SPACING_NS HEX` on its standard input sends that frame to all of them in each
//! round, then says `sent SENDS SHORT`. It ends with its standard input, so with its parent.

use std::io::{self, BufRead as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::door::Door;
use super::epoll::Epoll;
use super::uring::Uring;
use super::{FloorError, Loop, limits};

/// Sockets that one frame goes to.
pub trait FanOut {
    fn admit(&mut self, stream: TcpStream) -> io::Result<()>;
    fn sockets(&self) -> usize;
    /// One send per socket; how many did not take the whole frame.
    fn send_all(&mut self, frame: &[u8]) -> io::Result<u64>;
}

/// Serves until standard input ends. At most `sockets` clients are let in; further ones are dropped.
pub fn serve(which: Loop, sockets: usize) -> Result<(), FloorError> {
    which.can_hold(sockets)?;
    let descriptors = limits::raise()?;
    let mut fan_out: Box<dyn FanOut> = match which {
        Loop::Epoll => Box::new(Epoll::default()),
        Loop::Uring => Box::new(Uring::new(sockets, descriptors)),
    };
    let mut door = Door::open()?;
    say(&format!("listening {}", door.addr()?))?;
    loop {
        let before = fan_out.sockets();
        let spoken_to = door.turn(|stream| match fan_out.sockets() < sockets {
            true => fan_out.admit(stream),
            false => Ok(()),
        })?;
        if fan_out.sockets() > before {
            say(&format!("connected {}", fan_out.sockets()))?;
        }
        if !spoken_to {
            continue;
        }
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        let Some(command) = Broadcast::parse(&line) else {
            return Err(FloorError::Unexpected { name: which.name(), expected: "broadcast", said: line });
        };
        match command.run(fan_out.as_mut())? {
            Some(short) => say(&format!("sent {} {short}", command.rounds * fan_out.sockets() as u64))?,
            None => return Ok(()),
        }
    }
}

struct Broadcast {
    rounds: u64,
    spacing: Duration,
    frame: Vec<u8>,
}

impl Broadcast {
    fn parse(line: &str) -> Option<Broadcast> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["broadcast", rounds, spacing_ns, hex] = words.as_slice() else { return None };
        let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        Some(Broadcast {
            rounds: rounds.parse().ok()?,
            spacing: Duration::from_nanos(spacing_ns.parse().ok()?),
            frame: (0..hex.len()).step_by(2).map(byte).collect::<Option<_>>()?,
        })
    }

    /// Rounds begin at fixed times, however long the one before took. Sends that were short, or `None` if standard
    /// input ended meanwhile.
    fn run(&self, fan_out: &mut dyn FanOut) -> io::Result<Option<u64>> {
        let begin = Instant::now();
        let mut short = 0;
        for round in 0..self.rounds {
            short += fan_out.send_all(&self.frame)?;
            let next = self.spacing.as_nanos() as u64 * (round + 1);
            if parent_is_gone(Duration::from_nanos(next).saturating_sub(begin.elapsed()))? {
                return Ok(None);
            }
        }
        Ok(Some(short))
    }
}

/// Sleeps for so long, or until standard input ends.
fn parent_is_gone(sleep: Duration) -> io::Result<bool> {
    let mut stdin = libc::pollfd { fd: 0, events: libc::POLLRDHUP, revents: 0 };
    let time = libc::timespec { tv_sec: sleep.as_secs() as i64, tv_nsec: sleep.subsec_nanos().into() };
    // SAFETY: INV-1; standard input is open as long as the process.
    let ready = unsafe { libc::ppoll(&raw mut stdin, 1, &raw const time, std::ptr::null()) };
    match (ready, io::Error::last_os_error()) {
        (0, _) => Ok(false),
        (-1, error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        (-1, error) => Err(error),
        _ => Ok(true),
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broadcast_is_read_from_a_line() {
        let broadcast = Broadcast::parse("broadcast 12 5000000 82ff00\n").expect("well formed");
        assert_eq!((broadcast.rounds, broadcast.spacing), (12, Duration::from_millis(5)));
        assert_eq!(broadcast.frame, [0x82, 0xff, 0]);
        for bad in ["", "broadcast 1 2", "broadcast 1 2 8", "broadcast 1 2 8z", "broadcast x 2 82", "stop 1 2 82"] {
            assert!(Broadcast::parse(bad).is_none(), "{bad:?}");
        }
    }
}
