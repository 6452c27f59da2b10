//! How a handshake is refused: an HTTP status and a small JSON body, `{"error":{"code","message"}}`.

use std::borrow::Cow;
use std::fmt::Write as _;

use tidegate_gateway_core::client::errors::ErrorCode;

/// Seconds after which who was refused for being too many may try again.
const RETRY_AFTER_S: u32 = 1;

/// An answer that ends a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub code: ErrorCode,
    /// For the client. Never holds anything the client sent, apart from names of parameters.
    pub message: Cow<'static, str>,
}

impl Refusal {
    pub const LINE_TOO_LONG: Refusal = Refusal::fixed(414, ErrorCode::TooLarge, "the request line is over 8 KB");
    pub const HEAD_TOO_LARGE: Refusal =
        Refusal::fixed(431, ErrorCode::TooLarge, "the request's head is over 16 KB or has over 100 fields");
    pub const NOT_FOUND: Refusal = Refusal::fixed(404, ErrorCode::NotFound, "nothing is here");
    pub const METHOD: Refusal = Refusal::fixed(405, ErrorCode::BadRequest, "only GET is accepted here");
    pub const UPGRADE: Refusal = Refusal::fixed(426, ErrorCode::BadRequest, "this is a WebSocket endpoint, version 13");
    pub const ORIGIN: Refusal = Refusal::fixed(403, ErrorCode::Forbidden, "this Origin may not connect");
    pub const TIMEOUT: Refusal = Refusal::fixed(408, ErrorCode::BadRequest, "the request's head took too long");
    pub const TOO_MANY: Refusal = Refusal::fixed(429, ErrorCode::RateLimited, "too many connections from your address");
    pub const OVERLOADED: Refusal =
        Refusal::fixed(503, ErrorCode::Overloaded, "this gateway takes no more connections now");

    const fn fixed(status: u16, code: ErrorCode, message: &'static str) -> Refusal {
        Refusal { status, code, message: Cow::Borrowed(message) }
    }

    pub fn bad(message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { status: 400, code: ErrorCode::BadRequest, message: message.into() }
    }

    pub fn unauthenticated(message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { status: 401, code: ErrorCode::Unauthenticated, message: message.into() }
    }

    /// The complete response; the connection is closed after it.
    pub fn render(&self) -> Vec<u8> {
        let error = serde_json::json!({"error": {"code": self.code.as_str(), "message": self.message}});
        let body = error.to_string();
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let extra = match self.status {
            401 => "WWW-Authenticate: Bearer\r\n",
            405 => "Allow: GET\r\n",
            426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            _ => "",
        };
        head.push_str(extra);
        if matches!(self.status, 429 | 503) {
            let _ = write!(head, "Retry-After: {RETRY_AFTER_S}\r\n");
        }
        // A 426 must name Upgrade in Connection too (RFC 9110 §7.8).
        let connection = if self.status == 426 { "close, Upgrade" } else { "close" };
        let _ = write!(
            head,
            "Connection: {connection}\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        head.into_bytes()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_whole_response() {
        let text = String::from_utf8(Refusal::UPGRADE.render()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        assert!(head.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{head}");
        assert!(head.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{head}");
        let json: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(json["error"]["code"], "BAD_REQUEST");
    }

    #[test]
    fn quotes_in_a_message_stay_inside_it() {
        let text = String::from_utf8(Refusal::bad("a \"quoted\"\r\nname".to_owned()).render()).expect("text");
        let body = text.split_once("\r\n\r\n").expect("body").1;
        let json: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(json["error"]["message"], "a \"quoted\"\r\nname");
    }
}
