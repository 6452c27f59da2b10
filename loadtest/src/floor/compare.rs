//! Both bare servers beside the measured one, in interleaved slices: whatever else the machine does meanwhile, it does
//! to all of them.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::stats::interval;
use super::{Bare, FloorError, Loop};
use crate::clock::Clock;
use crate::fleet::{Drain, Fleet, FleetConfig, Mode};
use crate::population::Population;
use crate::result::{Floor, Pair};

/// Of a slice's sends; with more the clients were the bottleneck and it measures nothing.
const SHORT_SHARE_MAX: f64 = 0.001;
const RAMP_PER_SECOND: f64 = 5_000.0;

/// One broadcast that is compared.
#[derive(Clone, Debug)]
pub struct Broadcast {
    /// WebSocket head included.
    pub frame: Vec<u8>,
    pub rounds: u64,
    pub spacing: Duration,
}

/// Clients of a bare server, gone when dropped.
pub trait Clients {
    /// Whether they leave their `sockets` sockets alone: those of the loop that is not measured should cost nothing.
    fn rest(&self, sockets: usize, resting: bool);
}

impl Clients for Fleet {
    fn rest(&self, sockets: usize, resting: bool) {
        self.pause(0..sockets as u32, resting);
    }
}

/// Both bare servers, each with its clients.
#[derive(Debug)]
pub struct Floors<C> {
    sockets: usize,
    loops: Vec<(Loop, Bare, C)>,
    /// Why epoll is missing, if it is: beyond the descriptor limit there is only io_uring.
    pub left_out: Option<FloorError>,
    slices: usize,
}

impl Floors<Fleet> {
    /// Starts both servers from `binary` (a `tidegate-load`) and connects a fleet of so many sockets to each. Blocks.
    pub fn stand(binary: &Path, sockets: usize, drain: Drain) -> Result<Floors<Fleet>, FloorError> {
        Floors::with(binary, sockets, |target| {
            let config = FleetConfig {
                targets: vec![target],
                // The loops are bare of TLS too.
                tls: None,
                compression: false,
                mode: Mode::Bare,
                drain,
                ramp_per_second: RAMP_PER_SECOND,
                slow: 0..0,
                reconnect: false,
                loads: 0,
            };
            Fleet::start(config, Arc::new(Population::new("floor", sockets as u32, Vec::new(), 0)), Clock::start())
        })
    }
}

impl<C: Clients> Floors<C> {
    /// The same with clients of the caller's.
    pub fn with(
        binary: &Path,
        sockets: usize,
        mut connect: impl FnMut(SocketAddr) -> io::Result<C>,
    ) -> Result<Floors<C>, FloorError> {
        let mut floors = Floors { sockets, loops: Vec::new(), left_out: None, slices: 0 };
        for which in Loop::BOTH {
            let mut bare = match Bare::start(binary, which, sockets) {
                Err(error @ FloorError::TooManySockets { .. }) => {
                    floors.left_out = Some(error);
                    continue;
                }
                bare => bare?,
            };
            let clients = connect(bare.addr())?;
            bare.wait_connected(sockets)?;
            clients.rest(sockets, true);
            floors.loops.push((which, bare, clients));
        }
        Ok(floors)
    }

    pub fn sockets(&self) -> usize {
        self.sockets
    }

    /// One slice of each loop, the other one first each time; `server` is left for the caller. Blocks for both.
    pub fn slice(&mut self, broadcast: &Broadcast) -> Result<Pair, FloorError> {
        let mut pair = Pair::default();
        let count = self.loops.len();
        for nth in 0..count {
            let (which, bare, clients) = &mut self.loops[(nth + self.slices) % count];
            clients.rest(self.sockets, false);
            let slice = bare.broadcast(&broadcast.frame, broadcast.rounds, broadcast.spacing)?;
            clients.rest(self.sockets, true);
            if slice.short as f64 > slice.sends as f64 * SHORT_SHARE_MAX {
                return Err(FloorError::Short { name: which.name(), short: slice.short, sends: slice.sends });
            }
            let cost = (slice.sends > 0).then(|| slice.cpu_us as f64 / slice.sends as f64);
            match which {
                Loop::Epoll => pair.epoll = cost,
                Loop::Uring => pair.io_uring = cost,
            }
        }
        self.slices += 1;
        Ok(pair)
    }

    /// So many slices of each loop without a server; `told` hears of each.
    pub fn compare(
        &mut self,
        broadcast: &Broadcast,
        slices: usize,
        mut told: impl FnMut(usize, &Pair),
    ) -> Result<Vec<Pair>, FloorError> {
        // Sockets that never sent anything have no route and no buffers yet.
        self.slice(&Broadcast { rounds: broadcast.rounds.min(3), ..broadcast.clone() })?;
        let mut pairs = Vec::with_capacity(slices);
        for number in 1..=slices {
            let pair = self.slice(broadcast)?;
            told(number, &pair);
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// What the pairs say: the cheaper loop, its cost, and how many times that the server costs. `None` without pairs.
pub fn summarize(pairs: &[Pair], frame_bytes: usize, sockets: u64, seed: u64) -> Option<Floor> {
    let cost_of = |which: Loop| -> Option<f64> {
        let costs: Vec<f64> = pairs.iter().filter_map(|pair| of(which, pair)).collect();
        (!costs.is_empty()).then(|| interval(&costs, seed).median)
    };
    let (cheaper, cost) = Loop::BOTH
        .into_iter()
        .filter_map(|which| Some((which, cost_of(which)?)))
        .min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let ratios: Vec<f64> = pairs.iter().filter_map(|pair| Some(pair.server? / of(cheaper, pair)?)).collect();
    let ratio = (!ratios.is_empty()).then(|| interval(&ratios, seed));
    Some(Floor {
        loop_name: cheaper.name().to_owned(),
        cpu_us_per_send: cost,
        ratio: ratio.map(|ratio| ratio.median),
        ratio_low: ratio.map(|ratio| ratio.low),
        ratio_high: ratio.map(|ratio| ratio.high),
        frame_bytes,
        sockets,
        pairs: pairs.to_vec(),
    })
}

fn of(which: Loop, pair: &Pair) -> Option<f64> {
    match which {
        Loop::Epoll => pair.epoll,
        Loop::Uring => pair.io_uring,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(server: f64, epoll: f64, io_uring: f64) -> Pair {
        Pair { server: Some(server), epoll: Some(epoll), io_uring: Some(io_uring) }
    }

    #[test]
    fn the_cheaper_loop_is_the_floor() {
        let pairs = [pair(6.0, 5.0, 5.5), pair(9.0, 7.5, 8.0), pair(6.6, 5.5, 5.4)];
        let floor = summarize(&pairs, 132, 500, 7).expect("pairs");
        assert_eq!((floor.loop_name.as_str(), floor.cpu_us_per_send), ("epoll", 5.5));
        let ratio = floor.ratio.expect("a server was measured");
        assert!((ratio - 1.2).abs() < 1e-9, "a machine that slows down slows all of them: {floor:?}");
        assert!(floor.ratio_low <= floor.ratio && floor.ratio <= floor.ratio_high);
    }

    #[test]
    fn what_was_not_measured_is_absent() {
        assert!(summarize(&[], 132, 500, 7).is_none());
        let alone = [Pair { io_uring: Some(5.0), ..Pair::default() }];
        let floor = summarize(&alone, 132, 500, 7).expect("a pair");
        assert_eq!((floor.loop_name.as_str(), floor.ratio), ("io_uring", None));
    }
}
