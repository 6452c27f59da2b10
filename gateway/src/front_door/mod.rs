//! The messy first seconds of a connection: accept, PROXY header, TLS, HTTP upgrade, credentials, the first frame. Ordinary
//! async tasks on monoio threads of their own, at a lower priority, so that a flood of handshakes delays no delivery (R-GW-5).
//!
//! Invariants: what is half open is bounded in number and bytes, and has a deadline; nothing of a stream is in flight when
//! its descriptor moves to a shard; a token appears in no log line.
//!
//! What it does not do: SSE, long polling.

mod budget;
mod caller;
mod conn;
mod first_frame;
pub mod forwarded;
pub mod http;
pub mod identity;
pub mod metrics;
pub mod proxy_header;
pub mod query;
mod refusal;
pub mod rules;
mod upgrade;
mod wire;

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use monoio::io::Canceller;
use monoio::net::TcpStream;
use monoio::time::TimeDriver;
use monoio::{FusionRuntime, IoUringDriver, LegacyDriver, RuntimeBuilder};
use socket2::{Domain, Protocol, Socket, Type};
use tidegate_gateway_ring::{lower_priority, own_stream};
use tidegate_gateway_tls::Acceptor;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::addresses::{Addresses, TooMany};
use crate::fleet::Fleet;
use crate::io::Backend;
use budget::{Budget, FIRST_FRAME_BYTES_MAX};
use caller::Caller;
use conn::{Hall, serve};
use metrics::{DoorMetrics, Outcome};
use refusal::Refusal;
use rules::{Door, Rules};

/// Connections that wait in the kernel to be accepted; `net.core.somaxconn` bounds it too.
const BACKLOG: i32 = 4096;
/// Pause after an accept failed, so that a node without descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Handshakes under way get so long to finish when the front door stops.
const STOP_GRACE: Duration = Duration::from_millis(500);
const RING_ENTRIES: u32 = 1024;

/// Its threads.
pub struct FrontDoor {
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// A listening socket and what it serves.
pub struct Listening {
    pub listener: TcpListener,
    pub door: Door,
    /// With one it speaks TLS.
    pub acceptor: Option<Arc<Acceptor>>,
}

/// What the threads share.
#[derive(Clone)]
pub struct Shared {
    pub rules: Arc<Rules>,
    pub fleet: Arc<Fleet>,
    pub metrics: Arc<DoorMetrics>,
    pub addresses: Arc<Addresses>,
    pub half_open_max: usize,
    /// What the shards run on; the front door runs on the same.
    pub backend: Backend,
}

impl FrontDoor {
    /// Starts one thread per element of `threads`, each with listeners of its own. Returns once all of them can accept.
    pub fn start(threads: Vec<Vec<Listening>>, shared: Shared) -> io::Result<FrontDoor> {
        let (stop, stopped) = watch::channel(false);
        let budget = Budget::new(FIRST_FRAME_BYTES_MAX);
        let mut door = FrontDoor { stop, threads: Vec::new() };
        let (started, starts) = mpsc::channel();
        for (index, listeners) in threads.into_iter().enumerate() {
            let (shared, stopped, budget) = (shared.clone(), stopped.clone(), budget.clone());
            let started = started.clone();
            let builder = thread::Builder::new().name(format!("door-{index}"));
            door.threads.push(builder.spawn(move || run(listeners, shared, budget, stopped, started))?);
        }
        // A thread that ends without a word drops the last sender, and is no start either.
        drop(started);
        for _ in &door.threads {
            starts.recv().map_err(io::Error::other)??;
        }
        Ok(door)
    }

    /// Stops accepting, gives handshakes under way a moment, joins the threads.
    pub fn stop(self) {
        self.stop.send_replace(true);
        for thread in self.threads {
            if thread.join().is_err() {
                warn!("a front-door thread panicked");
            }
        }
    }
}

/// One listening socket per thread. Only with several threads do they share the port by SO_REUSEPORT, because it also lets
/// another process take the same port without an error.
pub fn bind(addr: SocketAddr, threads: usize) -> io::Result<Vec<TcpListener>> {
    let first = listen(addr, false)?;
    if threads <= 1 {
        return Ok(vec![first]);
    }
    let addr = first.local_addr()?;
    drop(first);
    (0..threads).map(|_| listen(addr, true)).collect()
}

fn listen(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn run(
    listeners: Vec<Listening>,
    shared: Shared,
    budget: Budget,
    stopped: watch::Receiver<bool>,
    started: mpsc::Sender<io::Result<()>>,
) {
    if let Err(error) = lower_priority() {
        warn!(%error, "the front door runs at the shards' priority");
    }
    let mut runtime = match runtime(shared.backend) {
        Ok(runtime) => runtime,
        Err(error) => {
            // The receiver waits for one word of each thread.
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(()));
    drop(started);
    // io_uring wants a blocking listener (a non-blocking one is answered EAGAIN), epoll a non-blocking one.
    let nonblocking = shared.backend == Backend::Epoll;
    runtime.block_on(async move {
        let hall = Rc::new(Hall::new(shared, budget));
        let accepting = listeners.into_iter().map(|listening| {
            let (hall, stopped) = (Rc::clone(&hall), stopped.clone());
            monoio::spawn(accept_all(listening, nonblocking, hall, stopped))
        });
        for task in accepting.collect::<Vec<_>>() {
            task.await;
        }
        let give_up = monoio::time::Instant::now() + STOP_GRACE;
        while Rc::strong_count(&hall) > 1 && monoio::time::Instant::now() < give_up {
            monoio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

type Runtime = FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>;

/// Not monoio's own choice (`FusionDriver`), which tries io_uring also where epoll was asked for.
fn runtime(backend: Backend) -> io::Result<Runtime> {
    Ok(match backend {
        Backend::Uring(_) => {
            RuntimeBuilder::<IoUringDriver>::new().with_entries(RING_ENTRIES).enable_timer().build()?.into()
        }
        Backend::Epoll => {
            RuntimeBuilder::<LegacyDriver>::new().with_entries(RING_ENTRIES).enable_timer().build()?.into()
        }
    })
}

async fn accept_all(listening: Listening, nonblocking: bool, hall: Rc<Hall>, mut stopped: watch::Receiver<bool>) {
    let (door, acceptor) = (listening.door, listening.acceptor);
    let opened = listening
        .listener
        .set_nonblocking(nonblocking)
        .and_then(|()| monoio::net::TcpListener::from_std(listening.listener));
    let listener = match opened {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listener cannot be used");
            return;
        }
    };
    loop {
        let canceller = Canceller::new();
        let mut accepting = std::pin::pin!(listener.cancelable_accept(canceller.handle()));
        let accepted = tokio::select! {
            biased;
            accepted = &mut accepting => accepted,
            _ = stopped.wait_for(|stop| *stop) => {
                // What the kernel hands over in this moment is closed, not leaked.
                canceller.cancel();
                drop(accepting.await);
                return;
            }
        };
        match accepted {
            Ok((stream, peer)) => match admit(&hall, peer.ip()) {
                Ok((visit, caller)) => {
                    let acceptor = acceptor.clone();
                    monoio::spawn(async move {
                        let hall = Rc::clone(&visit.hall);
                        serve(hall, stream, caller, door, acceptor).await;
                        drop(visit);
                    });
                }
                Err(refusal) => {
                    debug!(client = %peer.ip(), status = refusal.status, "turned away");
                    hall.metrics.handshake(Outcome::of_status(refusal.status));
                    // Over TLS nothing can be said before a handshake, and there is no time for one.
                    if acceptor.is_none() {
                        turn_away(stream, &refusal);
                    }
                }
            },
            Err(error) => {
                hall.metrics.accept_failed();
                debug!(%error, "accept failed");
                monoio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Counts a half-open connection until it is promoted or gone.
struct Visit {
    hall: Rc<Hall>,
}

fn admit(hall: &Rc<Hall>, peer: IpAddr) -> Result<(Visit, Caller), Refusal> {
    if !hall.metrics.enter(hall.half_open_max) {
        return Err(Refusal::OVERLOADED);
    }
    let visit = Visit { hall: Rc::clone(hall) };
    let caller = Caller::accepted(peer, &hall.rules.proxies, &hall.addresses).map_err(|TooMany| Refusal::TOO_MANY)?;
    Ok((visit, caller))
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.hall.metrics.leave();
    }
}

/// Answers without reading and without waiting: the answer fits an empty socket buffer, or is not worth it.
fn turn_away(stream: TcpStream, refusal: &Refusal) {
    let mut stream = std::net::TcpStream::from(own_stream(stream));
    let answered = stream.set_nonblocking(true).and_then(|()| stream.write_all(&refusal.render()));
    if answered.is_ok() {
        // A failure means that the peer is gone, which is what we want of it.
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}
