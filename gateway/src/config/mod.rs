//! The `[gateway]` section of the configuration file: parse → resolve → freeze.
//!
//! [`Config`] is what was written, [`check`] reports every problem of a file at once, and [`Settings`] is what the process
//! runs on: files read, keys parsed, sizes derived from the machine, units converted. Nothing reads [`Config`] after boot.

mod check;
mod origins;
mod proxies;
mod settings;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_auth::Algorithm;
use tidegate_gateway_tls::{ClientCertificates, PairFiles, TlsFiles};
use tidegate_ring::mover::RATE_DEFAULT;

use crate::io::IoChoice;

pub use check::{Problem, check};
pub use origins::{ORIGINS_MAX, Origins};
pub use proxies::{Proxies, ProxiesConfig, ProxyProtocol};
pub use settings::{EngineSettings, HandshakeSettings, LinkSettings, NodeSettings, Settings};

/// The annotated default of this section, as `tidegate default-config` prints it.
pub const DEFAULT_CONFIG: &str = include_str!("default.toml");

/// Where control is unless something is configured.
pub const LINK_ADDR: &str = "http://127.0.0.1:9090";

/// The `[gateway]` section as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This node's name, `[A-Za-z0-9_.@-]{1,64}`, unique in a cluster.
    pub name: String,
    /// Where clients connect.
    pub client_addr: SocketAddr,
    /// Health, readiness, metrics.
    pub admin_addr: SocketAddr,
    /// The cluster's name in the registry, which several may share.
    pub cluster: String,
    /// The URL that clients are sent to, as the registry tells it; needed there alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_url: Option<String>,
    /// This gateway's share of clients beside the others on the endpoint ring, 1 to 100.
    pub weight: u32,
    /// Where owners of partitions are found, and this gateway by others. Instead of `link.addr`.
    #[serde(skip_serializing)]
    pub registry: Option<tidegate_registry::Settings>,
    /// Echo listener for conformance suites; loopback only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo_addr: Option<SocketAddr>,
    /// Batch window of a stream, 0–1000.
    pub window_ms: u32,
    /// Over how long a drain spreads its goodbyes.
    pub drain_ms: u32,
    /// `Origin` values that may open a connection; `*` is any.
    pub origins: Vec<String>,
    pub proxies: ProxiesConfig,
    pub tls: TlsConfig,
    pub link: LinkConfig,
    pub ring: RingMovesConfig,
    pub deliver: DeliverConfig,
    pub engine: EngineConfig,
    pub handshake: HandshakeConfig,
    pub auth: AuthConfig,
    pub compression: CompressionConfig,
    pub limits: LimitsConfig,
}

/// `[gateway.tls]`: a listener for `wss://` beside the plain one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Where clients connect over TLS. Without it there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<SocketAddr>,
    /// Echo listener over TLS for conformance suites; loopback only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo_addr: Option<SocketAddr>,
    /// Chosen by the host that a client names; the first if it names none, or another one.
    pub certificates: Vec<CertificateConfig>,
    pub client_certificates: ClientCertificateConfig,
    /// PEM file of the authorities that client certificates must come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_authorities: Option<PathBuf>,
}

/// One `[[gateway.tls.certificates]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// PEM, the server's own certificate first.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificateConfig {
    #[default]
    None,
    /// A client may have none; one that it shows must be good.
    Optional,
    Required,
}

impl TlsConfig {
    /// The files, if there is a listener. `Err`: what is missing.
    pub fn files(&self) -> Result<Option<TlsFiles>, &'static str> {
        if self.addr.is_none() && self.echo_addr.is_none() {
            return Ok(None);
        }
        let client_certificates = match (self.client_certificates, &self.client_authorities) {
            (ClientCertificateConfig::None, _) => ClientCertificates::NotAsked,
            (ClientCertificateConfig::Optional, Some(file)) => ClientCertificates::Optional(file.clone()),
            (ClientCertificateConfig::Required, Some(file)) => ClientCertificates::Required(file.clone()),
            (_, None) => return Err("client certificates need client_authorities"),
        };
        let pair = |of: &CertificateConfig| PairFiles { certificate: of.certificate.clone(), key: of.key.clone() };
        Ok(Some(TlsFiles { pairs: self.certificates.iter().map(pair).collect(), client_certificates }))
    }
}

/// `[gateway.link]`: the way to control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkConfig {
    /// `http://host:port` of control's gRPC listener, or of several nodes' that own the partitions between them. Not used by a
    /// gateway that runs in control's process, nor with a `registry`. None: [`LINK_ADDR`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<OneOrMany>,
    /// File with the service token that is shown to control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Bytes of deliveries that control may have under way, over all partitions.
    pub credit_bytes: u64,
}

/// `[gateway.ring]`: clients whose place is another gateway, where a registry tells of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RingMovesConfig {
    /// Whether they are let go at all.
    pub enabled: bool,
    /// How many at most in a second.
    pub moves_per_s: u32,
}

/// `[gateway.deliver]`: `POST /internal/v1/deliver`, for callers with a token on the admin listener, for callers with a certificate
/// on a listener of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeliverConfig {
    /// File with the service tokens that callers may show, one a line. Without it there is no such endpoint there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_file: Option<PathBuf>,
    /// Where callers connect that show a certificate. The three files below are needed with it, all PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_addr: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Authorities that callers' certificates must come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_authorities: Option<PathBuf>,
    /// Names of certificates that may deliver (an alternative name of kind DNS or URI, or the common name); none: all.
    pub clients: Vec<String>,
}

impl DeliverConfig {
    /// The files, if there is such a listener. `Err`: which is missing.
    pub fn files(&self) -> Result<Option<TlsFiles>, &'static str> {
        if self.tls_addr.is_none() {
            return Ok(None);
        }
        let certificate = self.certificate.clone().ok_or("certificate")?;
        let key = self.key.clone().ok_or("key")?;
        let authorities = self.client_authorities.clone().ok_or("client_authorities")?;
        let client_certificates = ClientCertificates::Required(authorities);
        Ok(Some(TlsFiles { pairs: vec![PairFiles { certificate, key }], client_certificates }))
    }
}

/// A value where most write one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn as_slice(&self) -> &[String] {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}

/// `[gateway.engine]`: threads, I/O, rings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// 0: one per core, less one for the hub.
    pub shards: u16,
    /// Most rings of a shard, opened as they are needed; 0: as many as `limits.connections_max` asks for. epoll has no rings.
    pub rings_per_shard: u16,
    /// Connections per ring, with epoll per shard; 0: what the descriptor limit allows, at most 16,384 per ring.
    pub slots: u32,
    pub front_door_threads: u16,
    /// Pin shard threads to cores if there are more cores than shards.
    pub pin: bool,
    /// `auto`: io_uring where it works, else epoll. `uring`: no start without it.
    pub io: IoChoice,
}

/// `[gateway.handshake]`: the messy first seconds of a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandshakeConfig {
    /// From accept to the last byte of the request's head.
    pub deadline_ms: u32,
    /// From the upgrade to a complete `connect` frame, where one is needed.
    pub first_frame_ms: u32,
    /// Connections that may be in their handshake at once; 0: half the descriptor limit, with epoll an eighth.
    pub half_open_max: u32,
    /// The same for one client address, with IPv6 for one /64; 0: no bound. Trusted hops have none.
    pub half_open_per_ip_max: u32,
}

/// `[gateway.auth]`: who may connect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    pub keys: Vec<KeyConfig>,
    /// If not empty, a token's `aud` must name one of them.
    pub audiences: Vec<String>,
    /// If not empty, a token's `iss` must be one of them.
    pub issuers: Vec<String>,
    /// Clock difference that is forgiven, at most 60.
    pub leeway_s: u64,
    /// Accept `?uid=` without a token from this very machine. Refused unless `client_addr` is a loopback address.
    pub dev: bool,
    /// With `dev`: further ports of this machine whose pages may connect (control's HTTP port).
    pub dev_page_ports: Vec<u16>,
}

/// One `[[gateway.auth.keys]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    pub algorithm: Algorithm,
    /// If given, tokens that carry a `kid` use this key only if it is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The secret's bytes (HS256, taken as they are) or a PEM public key.
    pub file: PathBuf,
}

/// `[gateway.compression]`: permessage-deflate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompressionConfig {
    /// Whether it is negotiated.
    pub enabled: bool,
    /// Frames with less payload are sent plain.
    pub bytes_min: u32,
    /// Of zlib, 1 to 9.
    pub level: u8,
}

/// `[gateway.limits]`: bounds per connection and node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Established connections of this node, at most as many as its rings have slots, or as epoll has descriptors.
    pub connections_max: u32,
    /// The same for one client address, with IPv6 for one /64; 0: no bound. Trusted hops have none.
    pub connections_per_ip_max: u32,
    /// Queued bytes of one connection before its streams go to `gap`.
    pub queue_bytes_max: u32,
    /// Kernel send buffer asked for each connection; 0: the kernel adapts it. What a slow reader can hold beside its queue.
    pub send_buffer_bytes: u32,
    /// Largest message from a client.
    pub message_bytes_max: u32,
    /// Silence after which a connection is pinged, unless the client asked for another.
    pub ping_interval_ms: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            name: "gateway-1".into(),
            client_addr: loopback(8080),
            admin_addr: loopback(8081),
            cluster: "tidegate".into(),
            client_url: None,
            weight: 1,
            registry: None,
            echo_addr: None,
            window_ms: 50,
            drain_ms: 30_000,
            origins: Vec::new(),
            proxies: ProxiesConfig::default(),
            tls: TlsConfig::default(),
            link: LinkConfig::default(),
            ring: RingMovesConfig::default(),
            deliver: DeliverConfig::default(),
            engine: EngineConfig::default(),
            handshake: HandshakeConfig::default(),
            auth: AuthConfig::default(),
            compression: CompressionConfig::default(),
            limits: LimitsConfig::default(),
        }
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        LinkConfig { addr: None, token_file: None, credit_bytes: 8 << 20 }
    }
}

impl Default for RingMovesConfig {
    fn default() -> Self {
        RingMovesConfig { enabled: true, moves_per_s: RATE_DEFAULT }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig { shards: 0, rings_per_shard: 0, slots: 0, front_door_threads: 1, pin: true, io: IoChoice::Auto }
    }
}

impl Default for CompressionConfig {
    fn default() -> Self {
        CompressionConfig { enabled: true, bytes_min: 1024, level: 3 }
    }
}

impl Default for HandshakeConfig {
    fn default() -> Self {
        HandshakeConfig { deadline_ms: 10_000, first_frame_ms: 5_000, half_open_max: 0, half_open_per_ip_max: 0 }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            connections_max: 1_000_000,
            connections_per_ip_max: 0,
            queue_bytes_max: 256 * 1024,
            send_buffer_bytes: 32 * 1024,
            message_bytes_max: 64 * 1024,
            ping_interval_ms: 60_000,
        }
    }
}

impl Config {
    /// What `tidegate dev` starts from: development auth, pages of control's HTTP port welcome, a quick drain. The
    /// caller adds the key of the data folder to `auth.keys`.
    pub fn dev() -> Config {
        Config {
            name: "dev".into(),
            drain_ms: 3_000,
            auth: AuthConfig { dev: true, dev_page_ports: vec![8090], ..AuthConfig::default() },
            ..Config::default()
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}
