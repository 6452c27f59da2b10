//! The upgrade request and its answer (RFC 6455 §4.1).

use std::io::Write as _;
use std::net::SocketAddr;

/// Largest head of an answer.
pub(super) const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Development auth: the server takes our word for the uid. The key is the RFC's example; it guards against caches only.
pub(crate) fn request(out: &mut Vec<u8>, host: SocketAddr, uid: &str, compression: bool) {
    let offer = if compression { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
    let written = write!(
        out,
        "GET /api/v1/ws?uid={uid}&defer=1 HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: tidegate.v1.proto\r\n{offer}\r\n"
    );
    written.expect("a Vec takes everything");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The head is not all there.
    Partial,
    /// The connection is a WebSocket from this byte on.
    Upgraded(usize),
    /// With this status; 0 if it is no HTTP.
    Refused(u16),
}

/// Whether an answer accepts what was offered.
pub(super) fn accepts_compression(answer: &[u8]) -> bool {
    let lines = answer.split(|byte| *byte == b'\n');
    let value = lines.filter_map(|line| {
        let (name, value) = str::from_utf8(line).ok()?.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-extensions").then_some(value)
    });
    value.into_iter().any(|value| value.trim_start().starts_with("permessage-deflate"))
}

pub(crate) fn answer(bytes: &[u8]) -> Answer {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() < ANSWER_BYTES_MAX { Answer::Partial } else { Answer::Refused(0) };
    };
    let digits = bytes.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let status = digits.and_then(|digits| str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0);
    if status == 101 { Answer::Upgraded(end + 4) } else { Answer::Refused(status) }
}
