//! The gateway process: front door, fleet of shards, hub and link to control, admin listener, drain.
//!
//! | thread | runs | folder |
//! |---|---|---|
//! | `door-N` | monoio: accept, HTTP upgrade, credentials, first frame | [`front_door`] |
//! | `shard-N` | the core's worker loop on an io_uring or epoll driver ([`io`]); owns connections | [`fleet`] |
//! | `hub` | the core's hub, and the tonic link beside it | [`fleet`], [`link`] |
//! | `admin` | axum: health, readiness, metrics | [`admin`] |
//! | `tls-reload` | notices that certificates have changed | [`reload`] |
//!
//! Invariants: nothing here knows frames, streams or sessions beyond handing them on; threads share queues and counters
//! only; everything that can be refused is refused before a connection is promoted.

#![forbid(unsafe_code)]

mod addresses;
mod admin;
#[cfg(any(test, feature = "checks"))]
pub mod checks;
pub mod config;
mod deliver;
mod fleet;
mod front_door;
mod io;
mod link;
mod metrics;
mod platforms;
mod registry;
mod reload;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tidegate_auth::dev::DevRules;
use tidegate_gateway_core::hub::{Compression, HubConfig};
use tidegate_gateway_core::shard::ShardConfig;
use tidegate_gateway_ring::thread_cpu_ns;
use tidegate_gateway_tls::Acceptor;
use tidegate_registry::Registry;
use tidegate_registry::names::GatewayNode;
use tidegate_ring::{Loads, Ring};
use tracing::{info, warn};

pub use config::{Config, DEFAULT_CONFIG, Problem, check};
pub use io::{IoChoice, UnknownIo};
pub use link::LinkTarget;

use addresses::Addresses;
use admin::{Admin, AdminState};
use config::{NodeSettings, Settings};
use deliver::Deliverer;
use fleet::{Fleet, FleetError, HubStatus, HubThread, ShardPlan, hub_queue};
use front_door::identity::wall_ms;
use front_door::metrics::DoorMetrics;
use front_door::rules::{Door, Rules};
use front_door::{FrontDoor, Listening, Shared, bind};
use link::{Identity, LinkSet, LinkStates, Topology};
use platforms::PlatformTable;
use registry::{Fellows, Registration, RegistryThread};
use reload::TlsReload;

/// What is left after the drain's time is closed this much later.
const DRAIN_HARD_END: Duration = Duration::from_secs(5);
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// Heartbeats that clients may ask for.
const PING_INTERVAL_MS_MIN: u32 = 25_000;
const PING_INTERVAL_MS_MAX: u32 = 300_000;

/// Where a gateway listens, with the ports that were given out where 0 was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addrs {
    pub client: SocketAddr,
    /// Clients over TLS.
    pub tls: Option<SocketAddr>,
    pub admin: SocketAddr,
    /// Deliveries by certificate.
    pub deliver: Option<SocketAddr>,
    pub echo: Option<SocketAddr>,
    pub tls_echo: Option<SocketAddr>,
}

/// Why a gateway did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// All of them, to be shown one per line.
    #[error("the configuration has problems: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Config(Vec<Problem>),
    #[error("cannot listen on {addr} for {what}")]
    Bind { what: &'static str, addr: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("a thread could not be started")]
    Thread(#[source] std::io::Error),
    #[error("the kernel gives no random bytes")]
    Random,
}

/// A running gateway. Dropping it without [`Gateway::drain`] leaves its threads to the end of the process.
pub struct Gateway {
    addrs: Addrs,
    drain_ms: u32,
    draining: Arc<AtomicBool>,
    front_door: FrontDoor,
    fleet: Arc<Fleet>,
    shard_threads: Vec<JoinHandle<()>>,
    hub: HubThread,
    admin: Admin,
    registry: Option<RegistryThread>,
    /// Of clients' certificates, and of deliveries'.
    reloads: Vec<TlsReload>,
}

/// The clients' listening sockets, bound before any thread runs.
struct Bound {
    client: Vec<TcpListener>,
    tls: Vec<TcpListener>,
    echo: Option<TcpListener>,
    tls_echo: Option<TcpListener>,
    addrs: Addrs,
}

impl Gateway {
    /// Starts everything. The link connects in the background: clients are accepted at once and served as soon as it is up.
    pub fn start(config: Config, target: LinkTarget) -> Result<Gateway, StartError> {
        raise_descriptor_limit();
        let settings = Settings::resolve(config).map_err(StartError::Config)?;
        let (bound, (admin, deliver)) = Bound::bind(&settings)?;
        let addrs = bound.addrs;
        let incarnation = getrandom::u64().map_err(|_| StartError::Random)?;
        let (inbox, outlet) = hub_queue();
        let (fleet, shard_threads) = Fleet::start(&shard_plan(&settings)?, &inbox)?;
        let platforms = Arc::new(PlatformTable::default());
        let (link_states, hub_status) = (Arc::new(LinkStates::default()), Arc::new(HubStatus::default()));
        let hub_config = hub_config(&settings);
        let found_in = match &target {
            LinkTarget::InProcess(_) => None,
            LinkTarget::Configured => settings.registry.clone(),
            LinkTarget::Registry(registry) => Some(registry.clone()),
        };
        let (topology, registry) = match (target, found_in) {
            (LinkTarget::InProcess(acceptor), _) => (Topology::InProcess(acceptor), None),
            (_, None) => (Topology::fixed(&settings.link.addrs), None),
            (_, Some(registry)) => {
                let registration = registration(registry, &settings.node, &settings.name, incarnation, &addrs);
                let fellows = Arc::clone(&fleet);
                let (owners, thread) = RegistryThread::start(registration, fellows).map_err(StartError::Thread)?;
                (Topology::Registry(owners), Some(thread))
            }
        };
        let gateway: Arc<str> = settings.name.as_str().into();
        let links = LinkSet {
            topology,
            settings: settings.link,
            identity: Identity { gateway: settings.name, incarnation },
            platforms: Arc::clone(&platforms),
            states: Arc::clone(&link_states),
        };
        let (to_hub, deliveries) = deliver::queue();
        let hub = HubThread::start(hub_config, Arc::clone(&fleet), outlet, links, deliveries, Arc::clone(&hub_status))
            .map_err(StartError::Thread)?;
        let metrics = Arc::new(DoorMetrics::default());
        let draining = Arc::new(AtomicBool::new(false));
        let reload = |acceptor: &Arc<Acceptor>| TlsReload::start(Arc::clone(acceptor)).map_err(StartError::Thread);
        let of_clients = settings.tls.as_ref().map(|tls| reload(&tls.acceptor)).transpose()?;
        let tls = of_clients.as_ref().map(TlsReload::status);
        let door = settings.deliver_door.map(|(_, door)| door);
        let of_deliveries = door.as_ref().map(|door| reload(&door.acceptor)).transpose()?;
        let reloads = of_clients.into_iter().chain(of_deliveries).collect();
        let deliverer = Deliverer {
            gateway,
            tokens: settings.deliver.map(Arc::new),
            platforms: Arc::clone(&platforms),
            hub: to_hub,
        };
        let state = AdminState {
            fleet: Arc::clone(&fleet),
            door: Arc::clone(&metrics),
            tls,
            links: link_states,
            hub: hub_status,
            io: settings.engine.io,
            draining: Arc::clone(&draining),
            deliverer,
        };
        let admin = Admin::start(admin, deliver.zip(door), state).map_err(StartError::Thread)?;
        let rules = Rules {
            deadline: settings.handshake.deadline,
            first_frame: settings.handshake.first_frame,
            verifier: settings.verifier,
            origins: settings.origins,
            proxies: settings.proxies,
            dev: settings.handshake.dev.then(|| dev_rules(&addrs, settings.handshake.dev_page_ports)),
            platforms,
            ping_interval_ms: settings.limits.ping_interval_ms,
            message_bytes_max: settings.limits.message_bytes_max as usize,
            compression: settings.compression.enabled,
            send_buffer_bytes: Some(settings.limits.send_buffer_bytes).filter(|bytes| *bytes > 0),
        };
        let acceptor = settings.tls.map(|tls| tls.acceptor);
        let shared = Shared {
            rules: Arc::new(rules),
            fleet: Arc::clone(&fleet),
            metrics,
            addresses: Arc::new(Addresses::new(settings.handshake.per_address)),
            half_open_max: settings.handshake.half_open_max,
            backend: settings.engine.io.backend,
        };
        let front_door =
            FrontDoor::start(door_threads(bound, acceptor.as_ref()), shared).map_err(StartError::Thread)?;
        info!(client = %addrs.client, admin = %addrs.admin, shards = fleet.shards().len(), "gateway started");
        let drain_ms = settings.drain_ms;
        Ok(Gateway { addrs, drain_ms, draining, front_door, fleet, shard_threads, hub, admin, registry, reloads })
    }

    pub fn addrs(&self) -> &Addrs {
        &self.addrs
    }

    /// Reads certificates and keys again, in the background. Files that cannot be used change nothing.
    pub fn reload(&self) {
        self.reloads.iter().for_each(TlsReload::now);
    }

    /// Lets every client go and ends: no new ones, `bye` 3001 spread over `drain_ms`, a hard end 5 s later. Blocks.
    pub fn drain(self) {
        info!(connections = self.fleet.connections(), over_ms = self.drain_ms, "draining");
        self.draining.store(true, Ordering::Relaxed);
        // First: nobody is given this gateway as a place any more, while those who are let go are told theirs without it.
        if let Some(registry) = &self.registry {
            registry.withdraw();
        }
        self.front_door.stop();
        self.fleet.drain(self.drain_ms);
        let hard_end = Instant::now() + Duration::from_millis(self.drain_ms.into()) + DRAIN_HARD_END;
        while self.fleet.connections() > 0 && Instant::now() < hard_end {
            thread::sleep(DRAIN_POLL);
        }
        let left = self.fleet.connections();
        if left > 0 {
            warn!(left, "the drain's time is up: closing the rest");
        }
        self.fleet.stop();
        for thread in self.shard_threads {
            if thread.join().is_err() {
                warn!("a shard thread panicked");
            }
        }
        // After the shards: what they said last still goes to control.
        self.hub.stop();
        self.admin.stop();
        if let Some(registry) = self.registry {
            registry.stop();
        }
        self.reloads.into_iter().for_each(TlsReload::stop);
        info!("drained");
    }
}

impl Bound {
    /// The second listener is the admin's.
    fn bind(settings: &Settings) -> Result<(Bound, (TcpListener, Option<TcpListener>)), StartError> {
        let failed = |what, addr| move |source| StartError::Bind { what, addr, source };
        let threads = settings.engine.front_door_threads.into();
        let client = bind(settings.client_addr, threads).map_err(failed("clients", settings.client_addr))?;
        let admin = TcpListener::bind(settings.admin_addr).map_err(failed("admin", settings.admin_addr))?;
        let deliver_addr = settings.deliver_door.as_ref().map(|(addr, _)| *addr);
        let deliver =
            deliver_addr.map(|addr| TcpListener::bind(addr).map_err(failed("deliveries", addr))).transpose()?;
        let echo = |addr: Option<SocketAddr>| match addr {
            Some(addr) => bind(addr, 1).map(|mut listeners| listeners.pop()).map_err(failed("echo", addr)),
            None => Ok(None),
        };
        let (tls_addr, tls_echo_addr) = settings.tls.as_ref().map_or((None, None), |tls| (tls.addr, tls.echo_addr));
        let tls = match tls_addr {
            Some(addr) => bind(addr, threads).map_err(failed("clients over TLS", addr))?,
            None => Vec::new(),
        };
        let (echo, tls_echo) = (echo(settings.echo_addr)?, echo(tls_echo_addr)?);
        let local = |listener: &TcpListener, asked: SocketAddr| listener.local_addr().unwrap_or(asked);
        let given = |listener: Option<&TcpListener>, asked: Option<SocketAddr>| {
            listener.zip(asked).map(|(listener, asked)| local(listener, asked))
        };
        let addrs = Addrs {
            client: client.first().map_or(settings.client_addr, |listener| local(listener, settings.client_addr)),
            tls: given(tls.first(), tls_addr),
            admin: local(&admin, settings.admin_addr),
            deliver: given(deliver.as_ref(), deliver_addr),
            echo: given(echo.as_ref(), settings.echo_addr),
            tls_echo: given(tls_echo.as_ref(), tls_echo_addr),
        };
        Ok((Bound { client, tls, echo, tls_echo, addrs }, (admin, deliver)))
    }
}

/// Listeners per front-door thread; the echo listeners go to the first.
fn door_threads(bound: Bound, acceptor: Option<&Arc<Acceptor>>) -> Vec<Vec<Listening>> {
    let plain = |door| move |listener| Listening { listener, door, acceptor: None };
    let secure = |door| move |listener| Listening { listener, door, acceptor: acceptor.cloned() };
    let mut threads: Vec<Vec<Listening>> =
        bound.client.into_iter().map(|listener| vec![plain(Door::Client)(listener)]).collect();
    for (thread, listener) in threads.iter_mut().zip(bound.tls) {
        thread.push(secure(Door::Client)(listener));
    }
    if let Some(first) = threads.first_mut() {
        first.extend(bound.echo.map(plain(Door::Echo)));
        first.extend(bound.tls_echo.map(secure(Door::Echo)));
    }
    threads
}

fn registration(
    registry: Registry,
    settings: &NodeSettings,
    name: &str,
    incarnation: u64,
    addrs: &Addrs,
) -> Registration {
    let client = match settings.client_url.as_str() {
        "" => format!("ws://{}/api/v1/ws", addrs.client),
        url => url.to_owned(),
    };
    let node = GatewayNode {
        gateway: name.to_owned(),
        incarnation,
        client,
        admin: format!("http://{}", addrs.admin),
        weight: settings.weight,
        connections: 0,
    };
    Registration { registry, names: settings.names.clone(), node }
}

impl Fellows for Fleet {
    fn ring(&self, ring: Arc<Ring>) {
        Fleet::ring(self, &ring);
    }

    fn loads(&self, loads: Loads) {
        Fleet::loads(self, &loads);
    }

    fn connections(&self) -> u64 {
        Fleet::connections(self)
    }
}

fn hub_config(settings: &Settings) -> HubConfig {
    let compression = &settings.compression;
    HubConfig {
        gateway: settings.name.as_str().into(),
        window_ms: settings.window_ms,
        compression: Compression { bytes_min: compression.bytes_min as usize, level: compression.level },
        cpu_clock: thread_cpu_ns,
        ..HubConfig::default()
    }
}

fn shard_plan(settings: &Settings) -> Result<ShardPlan, StartError> {
    let mut connection_id_secret = [0; 16];
    getrandom::fill(&mut connection_id_secret).map_err(|_| StartError::Random)?;
    let (sizes, limits) = (settings.engine, &settings.limits);
    let per_shard = sizes.slots as usize * usize::from(sizes.rings_per_shard);
    let config = ShardConfig {
        connections_max: per_shard,
        queue_bytes_max: limits.queue_bytes_max as usize,
        message_bytes_max: limits.message_bytes_max as usize,
        ping_interval_ms: limits.ping_interval_ms,
        ping_interval_min_ms: PING_INTERVAL_MS_MIN.min(limits.ping_interval_ms),
        ping_interval_max_ms: PING_INTERVAL_MS_MAX.max(limits.ping_interval_ms),
        cpu_clock: thread_cpu_ns,
        wall_clock_ms: wall_ms,
        connection_id_secret,
        gateway: settings.name.as_str().into(),
        shards: sizes.shards,
        moves_per_s: settings.moves_per_s,
        ..ShardConfig::default()
    };
    Ok(ShardPlan { sizes, connections_max: limits.connections_max, config })
}

fn dev_rules(addrs: &Addrs, page_ports: Vec<u16>) -> DevRules {
    let listener = addrs.client;
    warn!(%listener, "development auth is on: anybody on this machine may connect as any user");
    let tls_port = addrs.tls.map(|addr| addr.port());
    let own_ports = page_ports.into_iter().chain([listener.port()]).chain(tls_port).collect();
    DevRules { listener, tls_port, own_ports }
}

fn raise_descriptor_limit() {
    if let Err(error) = tidegate_gateway_ring::raise_nofile() {
        warn!(%error, "the descriptor limit stays as it is");
    }
}
