//! Who a connection is, and the [`Hello`] it is promoted with.

use std::time::{SystemTime, UNIX_EPOCH};

use tidegate_auth::dev::{NotLocal, RequestFacts, is_name};
use tidegate_auth::{Claims, TokenError};
use tidegate_gateway_core::client::ops::{AckMode, Connect};
use tidegate_gateway_core::ids::{Cursor, StreamKey, Uid};
use tidegate_gateway_core::messages::{ConnClass, Encoding, Hello};
use tidegate_gateway_core::ws::{DeflateParams, WINDOW_BITS_MAX};

use super::http::Request;
use super::query::ConnectQuery;
use super::refusal::Refusal;
use super::rules::Rules;
use crate::platforms::is_platform;

/// What clients may ask for as their heartbeat; the configured default may lie outside.
const PING_INTERVAL_MS_MIN: u32 = 25_000;
const PING_INTERVAL_MS_MAX: u32 = 300_000;

/// An authenticated user, as the credential tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: Uid,
    pub device: Option<String>,
    pub platform: Option<String>,
    /// Milliseconds since the Unix epoch; `None`: development auth, which does not expire.
    pub expires_at_ms: Option<i64>,
}

/// What the handshake or the `connect` frame asks for, besides the credential.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    pub device: Option<String>,
    pub platform: Option<String>,
    pub cursors: Vec<(StreamKey, Cursor)>,
    pub auto_join: bool,
    pub ack_mode: AckMode,
    pub ping_interval_ms: Option<u32>,
}

/// A name that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWish {
    #[error("a device is 1 to 64 letters, digits and _ . @ -")]
    Device,
    #[error("a platform is 1 to 32 letters, digits and _ . @ -")]
    Platform,
}

impl Identity {
    /// The credential of the handshake, if it carries one. `Ok(None)`: the first frame must.
    pub fn of_handshake(
        request: &Request<'_>,
        query: &ConnectQuery,
        rules: &Rules,
    ) -> Result<Option<Identity>, Refusal> {
        let header = request.one("authorization")?.map(bearer).transpose()?;
        match (header, query.token.as_deref(), query.uid.as_deref()) {
            (None, None, None) => Ok(None),
            (Some(token), None, None) | (None, Some(token), None) => {
                Identity::of_token(token, rules).map(Some).map_err(|why| Refusal::unauthenticated(why.to_string()))
            }
            (None, None, Some(uid)) => Identity::of_dev(uid, request, rules).map(Some),
            _ => Err(Refusal::bad("more than one credential")),
        }
    }

    pub fn of_token(token: &str, rules: &Rules) -> Result<Identity, TokenError> {
        let Claims { uid, device, platform, expires_at_ms } = rules.verifier.verify(token, wall_ms())?;
        let uid = uid.parse().map_err(|_| TokenError::Subject)?;
        Ok(Identity { uid, device, platform, expires_at_ms: Some(expires_at_ms) })
    }

    fn of_dev(uid: &str, request: &Request<'_>, rules: &Rules) -> Result<Identity, Refusal> {
        let Some(dev) = &rules.dev else {
            return Err(Refusal::unauthenticated("a uid without a token is accepted in development only"));
        };
        let facts =
            RequestFacts { host: request.one("host")?, origin: request.one("origin")?, forwarded: request.forwarded() };
        match dev.check(facts) {
            Ok(()) => {}
            Err(NotLocal::Origin) => return Err(Refusal::ORIGIN),
            Err(why) => return Err(Refusal::unauthenticated(why.to_string())),
        }
        let uid = uid.parse().map_err(|_| Refusal::bad("a uid is 1 to 64 letters, digits and _ . @ -"))?;
        Ok(Identity { uid, device: None, platform: None, expires_at_ms: None })
    }
}

impl Wishes {
    pub fn of_query(query: ConnectQuery) -> Wishes {
        Wishes {
            device: query.device,
            platform: query.platform,
            cursors: query.cursors,
            auto_join: query.auto_join.unwrap_or(true),
            ack_mode: query.ack_mode,
            ping_interval_ms: query.ping_interval_ms,
        }
    }

    /// What the frame says wins; where it is silent, the query's device and platform hold.
    pub fn of_frame(frame: Connect, query: &Wishes) -> Wishes {
        let or = |text: Box<str>, other: &Option<String>| {
            if text.is_empty() { other.clone() } else { Some(text.into()) }
        };
        Wishes {
            device: or(frame.device, &query.device),
            platform: or(frame.platform, &query.platform),
            cursors: frame.cursors,
            auto_join: frame.auto_join,
            ack_mode: frame.ack_mode,
            ping_interval_ms: frame.ping_interval_ms,
        }
    }
}

/// The session of a connection. A device or platform in the credential wins over what the client says.
pub fn hello(
    identity: Identity,
    wishes: Wishes,
    encoding: Encoding,
    params: Option<DeflateParams>,
    reply_to: Option<u32>,
    rules: &Rules,
) -> Result<Hello, BadWish> {
    let device = identity.device.or(wishes.device).unwrap_or_default();
    let platform = identity.platform.or(wishes.platform).unwrap_or_default();
    if !device.is_empty() && !is_name(&device) {
        return Err(BadWish::Device);
    }
    if !platform.is_empty() && !is_platform(&platform) {
        return Err(BadWish::Platform);
    }
    // Shared frames are compressed with the full window; a client that asked for a smaller one gets them plain.
    let deflate = params.is_some_and(|params| params.server_max_window_bits == WINDOW_BITS_MAX);
    let class = ConnClass { encoding, deflate, platform: rules.platforms.intern(&platform) };
    let expires_in_ms = identity.expires_at_ms.map(|at| u64::try_from(at - wall_ms()).unwrap_or(0));
    Ok(Hello {
        uid: identity.uid,
        device: device.into(),
        class,
        reply_to,
        cursors: wishes.cursors,
        auto_join: wishes.auto_join,
        ack_mode: wishes.ack_mode,
        ping_interval_ms: ping_interval_ms(wishes.ping_interval_ms, rules.ping_interval_ms),
        expires_in_ms,
        expires_at_ms: identity.expires_at_ms,
        platform_name: platform.into(),
    })
}

/// Milliseconds since the Unix epoch.
pub fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn ping_interval_ms(asked: Option<u32>, default: u32) -> u32 {
    match asked {
        None | Some(0) => default,
        Some(asked) => asked.clamp(PING_INTERVAL_MS_MIN.min(default), PING_INTERVAL_MS_MAX.max(default)),
    }
}

fn bearer(header: &str) -> Result<&str, Refusal> {
    let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Refusal::unauthenticated("Authorization must be a Bearer token"));
    }
    Ok(token)
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
