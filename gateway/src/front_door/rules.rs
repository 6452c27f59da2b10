//! What a front door goes by: frozen at start, shared by its threads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_auth::Verifier;
use tidegate_auth::dev::{DevRules, RequestFacts};
use tidegate_gateway_core::ws::Limits;

use crate::config::{Origins, Proxies};
use crate::platforms::PlatformTable;

/// Pings, pongs and closes per second before the `connect` frame.
const CONTROL_PER_SECOND_MAX: u32 = 20;
/// Frames of one message before the `connect` frame is complete.
const FRAGMENTS_MAX: u32 = 64;

/// Which listener a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Client,
    /// `--dev-echo`: no auth, promotes to the echo session.
    Echo,
}

/// The rules of the handshake.
#[derive(Debug)]
pub struct Rules {
    pub deadline: Duration,
    pub first_frame: Duration,
    pub verifier: Verifier,
    pub origins: Origins,
    pub proxies: Proxies,
    /// Development auth, if it is on.
    pub dev: Option<DevRules>,
    pub platforms: Arc<PlatformTable>,
    pub ping_interval_ms: u32,
    pub message_bytes_max: usize,
    /// Whether permessage-deflate is negotiated.
    pub compression: bool,
    /// `None`: the kernel's own.
    pub send_buffer_bytes: Option<u32>,
}

impl Rules {
    /// Whether a page of this origin may connect. Without the header it is no browser.
    pub fn origin_ok(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        self.origins.allow(origin) || self.dev.as_ref().is_some_and(|dev| local_page(dev, origin))
    }

    /// Limits of what comes before the `connect` frame is complete.
    pub fn first_frame_limits(&self) -> Limits {
        Limits {
            message_bytes_max: self.message_bytes_max,
            fragments_max: FRAGMENTS_MAX,
            control_per_second_max: CONTROL_PER_SECOND_MAX,
        }
    }
}

/// Development pages are served from this machine's own ports.
fn local_page(dev: &DevRules, origin: &str) -> bool {
    let host = own_host(dev.listener);
    dev.check(RequestFacts { host: Some(&host), origin: Some(origin), forwarded: false }).is_ok()
}

fn own_host(listener: SocketAddr) -> String {
    format!("localhost:{}", listener.port())
}

#[cfg(test)]
pub(crate) mod testing {
    use tidegate_auth::{Algorithm, Issuer, Key, VerifierConfig};

    use super::*;
    use crate::front_door::identity::wall_ms;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    /// Well formed, signed by nobody.
    pub const FORGED: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIiwiZXhwIjo5OTk5OTk5OTk5fQ.AAAA";

    /// Development auth on 127.0.0.1:8080 with pages of 8090, one HS256 key, one listed origin.
    pub fn rules() -> Rules {
        let key = Key::new(Algorithm::HS256, None, SECRET).expect("key");
        let listener = "127.0.0.1:8080".parse().expect("address");
        Rules {
            deadline: Duration::from_secs(10),
            first_frame: Duration::from_secs(5),
            verifier: Verifier::new(vec![key], &VerifierConfig::default()).expect("verifier"),
            origins: Origins::resolve(&["https://chat.example".into()]).expect("origins"),
            proxies: Proxies::default(),
            dev: Some(DevRules { listener, tls_port: None, own_ports: vec![8080, 8090] }),
            platforms: Arc::default(),
            ping_interval_ms: 60_000,
            message_bytes_max: 64 * 1024,
            compression: true,
            send_buffer_bytes: None,
        }
    }

    pub fn token(uid: &str, ttl_s: u64) -> String {
        let issuer = Issuer::new(SECRET, None).expect("issuer");
        issuer.issue(uid, None, None, wall_ms(), ttl_s).expect("token")
    }

    pub fn expired_token(uid: &str) -> String {
        let issuer = Issuer::new(SECRET, None).expect("issuer");
        issuer.issue(uid, None, None, wall_ms() - 120_000, 60).expect("token")
    }

    pub fn device_token(uid: &str, device: &str, platform: &str) -> String {
        let issuer = Issuer::new(SECRET, None).expect("issuer");
        issuer.issue(uid, Some(device), Some(platform), wall_ms(), 60).expect("token")
    }
}
