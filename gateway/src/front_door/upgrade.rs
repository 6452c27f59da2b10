//! The opening handshake (RFC 6455 §4.2): decides about a request, and writes the 101.
//!
//! Order of the checks: path, method, upgrade fields, Origin, sub-protocol, query, credential. So what a browser's page
//! may not do is refused before any credential is looked at.

use tidegate_gateway_core::messages::Encoding;
use tidegate_gateway_core::ws::{DeflateParams, accept_key, negotiate_deflate};

use super::http::Request;
use super::identity::{Identity, Wishes};
use super::query::ConnectQuery;
use super::refusal::Refusal;
use super::rules::{Door, Rules};

pub const JSON_PROTOCOL: &str = "tidegate.v1.json";
pub const PROTO_PROTOCOL: &str = "tidegate.v1.proto";
const CLIENT_PATHS: [&str; 2] = ["/api/v1/ws", MESSAGE_PUSH_PATH];
/// Here a client without sub-protocol means another dialect, so one of ours must be offered.
const MESSAGE_PUSH_PATH: &str = "/message-push/v1/message";
const ECHO_PATH: &str = "/";

/// An accepted request.
#[derive(Debug)]
pub struct Upgrade {
    /// The 101 response.
    pub response: Vec<u8>,
    pub params: Option<DeflateParams>,
    pub session: Session,
}

/// What the connection becomes.
#[derive(Debug)]
pub enum Session {
    Echo,
    /// The handshake said everything.
    Ready {
        encoding: Encoding,
        identity: Identity,
        wishes: Wishes,
    },
    /// A `connect` frame must come first. `identity`: already authenticated, the frame only brings cursors.
    AwaitsConnect {
        encoding: Encoding,
        identity: Option<Identity>,
        wishes: Wishes,
    },
}

/// Judges a request that came to `door`.
pub fn judge(request: &Request<'_>, door: Door, rules: &Rules) -> Result<Upgrade, Refusal> {
    let known = match door {
        Door::Client => CLIENT_PATHS.contains(&request.path),
        Door::Echo => request.path == ECHO_PATH,
    };
    if !known {
        return Err(Refusal::NOT_FOUND);
    }
    if request.method != "GET" {
        return Err(Refusal::METHOD);
    }
    let accept = websocket_accept(request)?;
    if door == Door::Client && !rules.origin_ok(request.one("origin")?) {
        return Err(Refusal::ORIGIN);
    }
    let (protocol, session) = match door {
        Door::Echo => (None, Session::Echo),
        Door::Client => {
            let (protocol, encoding) = sub_protocol(request)?;
            (protocol, client_session(request, encoding, rules)?)
        }
    };
    let offers = request.joined("sec-websocket-extensions")?;
    let deflate = if rules.compression { negotiate_deflate(&offers) } else { None };
    let (params, extension) = deflate.unzip();
    let response = switching_protocols(&accept, protocol, extension.as_deref());
    Ok(Upgrade { response, params, session })
}

/// The value of `Sec-WebSocket-Accept`.
fn websocket_accept(request: &Request<'_>) -> Result<String, Refusal> {
    let has = |field, token: &str| {
        request.list(field).map(|list| list.iter().any(|element| element.eq_ignore_ascii_case(token)))
    };
    if !has("upgrade", "websocket")? {
        return Err(Refusal::UPGRADE);
    }
    if !has("connection", "upgrade")? {
        return Err(Refusal::bad("Connection must name Upgrade"));
    }
    match request.one("sec-websocket-version")? {
        Some("13") => {}
        _ => return Err(Refusal::UPGRADE),
    }
    let key = request.one("sec-websocket-key")?;
    key.and_then(accept_key).ok_or_else(|| Refusal::bad("Sec-WebSocket-Key must be 16 bytes of base64"))
}

/// The first offered sub-protocol that is ours. None offered: JSON, and none is named in the answer.
fn sub_protocol(request: &Request<'_>) -> Result<(Option<&'static str>, Encoding), Refusal> {
    let offered = request.list("sec-websocket-protocol")?;
    let ours = offered.iter().find_map(|name| match *name {
        JSON_PROTOCOL => Some((Some(JSON_PROTOCOL), Encoding::Json)),
        PROTO_PROTOCOL => Some((Some(PROTO_PROTOCOL), Encoding::Proto)),
        _ => None,
    });
    match ours {
        Some(chosen) => Ok(chosen),
        None if offered.is_empty() && request.path != MESSAGE_PUSH_PATH => Ok((None, Encoding::Json)),
        None => Err(Refusal::bad("offer the sub-protocol tidegate.v1.json or tidegate.v1.proto")),
    }
}

fn client_session(request: &Request<'_>, encoding: Encoding, rules: &Rules) -> Result<Session, Refusal> {
    let query = ConnectQuery::parse(request.query)?;
    let identity = Identity::of_handshake(request, &query, rules)?;
    let defer = query.defer;
    let wishes = Wishes::of_query(query);
    Ok(match identity {
        Some(identity) if !defer => Session::Ready { encoding, identity, wishes },
        identity => Session::AwaitsConnect { encoding, identity, wishes },
    })
}

fn switching_protocols(accept: &str, protocol: Option<&str>, extension: Option<&str>) -> Vec<u8> {
    let mut response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
    );
    for (field, value) in [("Sec-WebSocket-Protocol", protocol), ("Sec-WebSocket-Extensions", extension)] {
        if let Some(value) = value {
            response.extend([field, ": ", value, "\r\n"]);
        }
    }
    response.push_str("\r\n");
    response.into_bytes()
}

#[cfg(test)]
#[path = "upgrade_tests.rs"]
mod tests;
