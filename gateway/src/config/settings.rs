//! What the process runs on: a checked configuration with files read and sizes derived from the machine.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tidegate_auth::service::ServiceTokens;
use tidegate_auth::{Key, Verifier, VerifierConfig};
use tidegate_gateway_tls::Acceptor;
use tidegate_registry::{Names, Registry, RegistryError};
use tonic::metadata::{Ascii, MetadataValue};

use super::check::{rules, with_source};
use super::{Config, DeliverConfig, LINK_ADDR, Origins, Problem, Proxies, TlsConfig};
use crate::addresses::AddressLimits;
use crate::deliver::door::Door;
use crate::io::{self, Backend, Io};

/// Slots of a ring where none are configured and the descriptor limit allows more.
const SLOTS_DEFAULT_MAX: u32 = 16_384;
/// Most rings of a shard.
pub const RINGS_MAX: u32 = 256;
/// Descriptors that a process needs apart from its connections' slots.
const DESCRIPTORS_ASIDE: u32 = 64;
/// With epoll, where connections are descriptors, one in so many is left to the rest of the process, and one in so many of
/// what remains to handshakes unless `half_open_max` is configured.
const EPOLL_ASIDE_DIVISOR: u32 = 16;
const EPOLL_HALF_OPEN_DIVISOR: u32 = 8;
/// The usual soft limit, taken if the real one cannot be read.
const NOFILE_FALLBACK: u32 = 1024;

/// Everything frozen.
#[derive(Debug)]
pub struct Settings {
    pub name: String,
    pub client_addr: SocketAddr,
    pub admin_addr: SocketAddr,
    pub echo_addr: Option<SocketAddr>,
    pub window_ms: u32,
    pub drain_ms: u32,
    pub origins: Origins,
    pub proxies: Proxies,
    pub tls: Option<TlsSettings>,
    pub link: LinkSettings,
    /// Owners are found there, and this gateway is entered there.
    pub registry: Option<Registry>,
    pub node: NodeSettings,
    /// Clients that are let go in a second because their place is another gateway; 0: they stay.
    pub moves_per_s: u32,
    /// Who may deliver by HTTP with a token; without it nobody.
    pub deliver: Option<ServiceTokens>,
    /// Where callers deliver that have a certificate.
    pub deliver_door: Option<(SocketAddr, Door)>,
    pub engine: EngineSettings,
    pub handshake: HandshakeSettings,
    pub verifier: Verifier,
    pub compression: super::CompressionConfig,
    pub limits: super::LimitsConfig,
}

/// The listener for `wss://`.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    pub addr: Option<SocketAddr>,
    pub echo_addr: Option<SocketAddr>,
    pub acceptor: Arc<Acceptor>,
}

/// What a registry is told.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    pub names: Names,
    pub client_url: String,
    pub weight: u32,
}

/// The way to control.
pub struct LinkSettings {
    /// At least one.
    pub addrs: Vec<String>,
    /// `authorization` metadata; marked sensitive, so that it is in no log.
    pub authorization: Option<MetadataValue<Ascii>>,
    pub credit_bytes: u64,
}

/// Threads, I/O, rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    pub shards: u16,
    /// Most rings of a shard; they are opened as they are needed. epoll: 1.
    pub rings_per_shard: u16,
    /// Connections per ring; epoll: per shard.
    pub slots: u32,
    pub front_door_threads: u16,
    pub pin: bool,
    pub io: Io,
}

/// How the descriptor limit is shared out.
struct Room {
    /// Slots of one ring or epoll instance.
    slots_max: u32,
    connections_max: u32,
    half_open_max: u32,
}

/// The first seconds of a connection.
#[derive(Clone, Debug)]
pub struct HandshakeSettings {
    pub deadline: Duration,
    pub first_frame: Duration,
    pub half_open_max: usize,
    pub per_address: AddressLimits,
    /// `?uid=` is accepted from this machine.
    pub dev: bool,
    pub dev_page_ports: Vec<u16>,
}

impl Settings {
    /// Checks, reads files and derives sizes. Every problem at once.
    pub fn resolve(config: Config) -> Result<Settings, Vec<Problem>> {
        let problems = rules(&config);
        if !problems.is_empty() {
            return Err(problems);
        }
        let verifier = verifier(&config).map_err(|problem| vec![problem])?;
        let authorization = authorization(&config).map_err(|problem| vec![problem])?;
        let io = io::choose(config.engine.io)
            .map_err(|refusal| vec![Problem { path: "gateway.engine.io".into(), message: refusal.to_string() }])?;
        let room = Room::new(io.backend, config.handshake.half_open_max, descriptor_limit());
        let tls = tls(&config.tls).map_err(|problem| vec![problem])?;
        let named = |path: &str, text: &str| vec![Problem { path: path.into(), message: format!("{text:?}") }];
        let origins = Origins::resolve(&config.origins).map_err(|text| named("gateway.origins", text))?;
        let proxies = Proxies::resolve(&config.proxies).map_err(|text| named("gateway.proxies.trusted", text))?;
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u16);
        let engine = engine(&config, cores, io, &room);
        let slots = u64::from(engine.shards) * u64::from(engine.rings_per_shard) * u64::from(engine.slots);
        let mut limits = config.limits;
        let connections_max = u32::try_from(slots).unwrap_or(u32::MAX).min(room.connections_max);
        limits.connections_max = limits.connections_max.min(connections_max);
        let addrs =
            config.link.addr.as_ref().map_or_else(|| vec![LINK_ADDR.to_owned()], |addr| addr.as_slice().to_vec());
        let failed =
            |path: &str, error: RegistryError| vec![Problem { path: path.into(), message: with_source(&error) }];
        let registry = config.registry.as_ref().map(Registry::connect).transpose();
        let registry = registry.map_err(|error| failed("gateway.registry", error))?;
        let names = Names::new(&config.cluster).map_err(|error| failed("gateway.cluster", error))?;
        let node = NodeSettings { names, client_url: config.client_url.unwrap_or_default(), weight: config.weight };
        let deliver = config.deliver.tokens_file.as_deref().map(ServiceTokens::load).transpose();
        let deliver = deliver.map_err(|error| {
            vec![Problem { path: "gateway.deliver.tokens_file".into(), message: with_source(&error) }]
        })?;
        let deliver_door = deliver_door(&config.deliver).map_err(|problem| vec![problem])?;
        Ok(Settings {
            name: config.name,
            client_addr: config.client_addr,
            admin_addr: config.admin_addr,
            echo_addr: config.echo_addr,
            window_ms: config.window_ms,
            drain_ms: config.drain_ms,
            origins,
            proxies,
            tls,
            link: LinkSettings { addrs, authorization, credit_bytes: config.link.credit_bytes },
            registry,
            node,
            moves_per_s: if config.ring.enabled { config.ring.moves_per_s } else { 0 },
            deliver,
            deliver_door,
            engine,
            handshake: HandshakeSettings {
                deadline: Duration::from_millis(config.handshake.deadline_ms.into()),
                first_frame: Duration::from_millis(config.handshake.first_frame_ms.into()),
                half_open_max: room.half_open_max as usize,
                per_address: AddressLimits {
                    half_open_max: config.handshake.half_open_per_ip_max,
                    connections_max: limits.connections_per_ip_max,
                },
                dev: config.auth.dev,
                dev_page_ports: config.auth.dev_page_ports,
            },
            verifier,
            compression: config.compression,
            limits,
        })
    }
}

impl fmt::Debug for LinkSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authorization = self.authorization.as_ref().map(|_| "…");
        f.debug_struct("LinkSettings").field("addrs", &self.addrs).field("authorization", &authorization).finish()
    }
}

impl Room {
    /// A ring's table is bounded by the limit, but its sockets are no descriptors; those of epoll are.
    fn new(backend: Backend, half_open_max: u32, nofile: u32) -> Room {
        let room = nofile.saturating_sub(DESCRIPTORS_ASIDE).max(1);
        match backend {
            Backend::Uring(_) => {
                let half_open_max = if half_open_max == 0 { (nofile / 2).max(1) } else { half_open_max };
                Room { slots_max: room, connections_max: u32::MAX, half_open_max }
            }
            Backend::Epoll => {
                let room = room.min(nofile - nofile / EPOLL_ASIDE_DIVISOR).max(2);
                let half_open = if half_open_max == 0 { room / EPOLL_HALF_OPEN_DIVISOR } else { half_open_max };
                let half_open_max = half_open.clamp(1, room / 2);
                Room { slots_max: room, connections_max: room - half_open_max, half_open_max }
            }
        }
    }
}

fn engine(config: &Config, cores: u16, io: Io, room: &Room) -> EngineSettings {
    let asked = &config.engine;
    let shards = if asked.shards == 0 { cores.saturating_sub(1).max(1) } else { asked.shards };
    let (slots_default, rings_max) = match io.backend {
        Backend::Uring(_) => (SLOTS_DEFAULT_MAX, RINGS_MAX),
        Backend::Epoll => (u32::MAX, 1),
    };
    let slots = if asked.slots == 0 { slots_default } else { asked.slots }.min(room.slots_max);
    let rings_per_shard = match asked.rings_per_shard {
        // One more than fits evenly: connections that end leave the shards uneven.
        0 => config.limits.connections_max.div_ceil(slots.saturating_mul(shards.into())) + 1,
        asked => asked.into(),
    };
    EngineSettings {
        shards,
        rings_per_shard: rings_per_shard.min(rings_max) as u16,
        slots,
        front_door_threads: asked.front_door_threads,
        pin: asked.pin && shards < cores,
        io,
    }
}

fn verifier(config: &Config) -> Result<Verifier, Problem> {
    let problem = |message: String| Problem { path: "gateway.auth.keys".into(), message };
    let mut keys = Vec::new();
    for key in &config.auth.keys {
        let name = key.file.display();
        let material = fs::read(&key.file).map_err(|error| problem(format!("cannot read {name}: {error}")))?;
        let parsed = Key::new(key.algorithm, key.id.clone(), &material);
        keys.push(parsed.map_err(|error| problem(format!("{name}: {error}")))?);
    }
    let rules = VerifierConfig {
        audiences: config.auth.audiences.clone(),
        issuers: config.auth.issuers.clone(),
        leeway_s: config.auth.leeway_s,
    };
    Verifier::new(keys, &rules).map_err(|error| problem(error.to_string()))
}

fn tls(config: &TlsConfig) -> Result<Option<TlsSettings>, Problem> {
    let problem = |message: String| Problem { path: "gateway.tls.certificates".into(), message };
    let Some(files) = config.files().map_err(|missing| problem(missing.to_owned()))? else { return Ok(None) };
    let acceptor = Arc::new(Acceptor::load(files).map_err(|error| problem(with_source(&error)))?);
    Ok(Some(TlsSettings { addr: config.addr, echo_addr: config.echo_addr, acceptor }))
}

fn deliver_door(config: &DeliverConfig) -> Result<Option<(SocketAddr, Door)>, Problem> {
    let problem = |message: String| Problem { path: "gateway.deliver.certificate".into(), message };
    let files = config.files().map_err(|missing| problem(format!("{missing} is needed with tls_addr")))?;
    let (Some(addr), Some(files)) = (config.tls_addr, files) else { return Ok(None) };
    let acceptor = Arc::new(Acceptor::load(files).map_err(|error| problem(with_source(&error)))?);
    Ok(Some((addr, Door { acceptor, clients: config.clients.clone().into() })))
}

fn authorization(config: &Config) -> Result<Option<MetadataValue<Ascii>>, Problem> {
    let Some(file) = &config.link.token_file else { return Ok(None) };
    let problem = |message: String| Problem { path: "gateway.link.token_file".into(), message };
    let text = fs::read_to_string(file).map_err(|error| problem(format!("cannot read {}: {error}", file.display())))?;
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", text.trim())
        .parse()
        .map_err(|_| problem(format!("{} does not hold a token", file.display())))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The soft limit of open descriptors. Read from `/proc`, because the call for it needs `unsafe`.
fn descriptor_limit() -> u32 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    match soft {
        Some("unlimited") => u32::MAX,
        Some(number) => number.parse().unwrap_or(NOFILE_FALLBACK),
        None => NOFILE_FALLBACK,
    }
}

#[cfg(test)]
mod tests {
    use tidegate_gateway_ring::Features;

    use super::*;
    use crate::io::Reason;

    const URING: Io =
        Io { backend: Backend::Uring(Features { can_reset: true, slots_max: u32::MAX }), reason: Reason::Available };
    const EPOLL: Io = Io { backend: Backend::Epoll, reason: Reason::Configured };

    fn sized(config: &Config, cores: u16, io: Io, nofile: u32) -> EngineSettings {
        engine(config, cores, io, &Room::new(io.backend, 0, nofile))
    }

    #[test]
    fn sizes_follow_the_machine() {
        let config = Config::default();
        let small = sized(&config, 1, URING, 1024);
        assert_eq!((small.shards, small.slots, small.rings_per_shard, small.pin), (1, 960, 256, false));
        let large = sized(&config, 8, URING, 1 << 20);
        assert_eq!((large.shards, large.slots, large.pin), (7, SLOTS_DEFAULT_MAX, true));
        assert!(
            u64::from(large.rings_per_shard) * 7 * u64::from(large.slots) >= u64::from(config.limits.connections_max)
        );
        let here = sized(&config, 2, URING, 20_000);
        assert_eq!((here.shards, here.slots, here.rings_per_shard), (1, SLOTS_DEFAULT_MAX, 63));
    }

    #[test]
    fn with_epoll_everything_fits_the_descriptor_limit() {
        for nofile in [8, 100, 1024, 20_000, 1 << 20, u32::MAX] {
            for asked in [0, 1, 1000, u32::MAX] {
                let room = Room::new(Backend::Epoll, asked, nofile);
                let all = u64::from(room.connections_max) + u64::from(room.half_open_max);
                assert!(all <= u64::from(nofile - nofile / EPOLL_ASIDE_DIVISOR), "{all} of {nofile}");
                assert!(room.connections_max > 0 && room.half_open_max > 0, "{nofile}");
            }
        }
        let here = Room::new(Backend::Epoll, 0, 20_000);
        assert_eq!((here.connections_max, here.half_open_max), (16_407, 2_343));
        let sizes = sized(&Config::default(), 4, EPOLL, 20_000);
        assert_eq!((sizes.shards, sizes.slots, sizes.rings_per_shard), (3, 18_750, 1), "each shard may hold them all");
    }

    #[test]
    fn the_descriptor_limit_is_read() {
        assert_ne!(descriptor_limit(), 0);
    }

    #[test]
    fn a_link_token_is_not_in_debug_output() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("token");
        fs::write(&file, "very-secret\n").expect("written");
        let mut config = Config::default();
        config.link.token_file = Some(file);
        let settings = Settings::resolve(config).expect("resolves");
        assert!(settings.link.authorization.is_some());
        assert!(!format!("{settings:?}").contains("very-secret"));
    }

    #[test]
    fn all_problems_of_a_config_stop_the_start() {
        let mut config = Config { name: "a b".into(), window_ms: 2000, ..Config::default() };
        config.link.token_file = Some("/nonexistent/token".into());
        let problems = Settings::resolve(config).expect_err("refused");
        assert!(problems.len() >= 3, "{problems:?}");
    }
}
