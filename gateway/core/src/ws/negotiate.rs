//! The two computations of the opening handshake: permessage-deflate's parameters (RFC 7692 §7.1) and the accept key
//! (RFC 6455 §4.2.2). Pure; HTTP itself is the front door's.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest as _, Sha1};

use crate::ws::deflate::{WINDOW_BITS_MAX, WINDOW_BITS_MIN};

/// What was agreed. Both sides always work without context takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateParams {
    /// Window of what we send, 9…15.
    pub server_max_window_bits: u8,
    /// Window of what the client sends, 8…15. The [`Inflater`](crate::ws::Inflater) takes any.
    pub client_max_window_bits: u8,
}

/// Offers looked at in one header; a client that needs more is not one.
const OFFERS_MAX: usize = 16;
const WINDOW_BITS_OFFERED_MIN: u8 = 8;
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Takes the first acceptable permessage-deflate offer of a `Sec-WebSocket-Extensions` header (several headers joined by
/// commas) and returns its parameters with the value of the response header. `None`: no compression.
///
/// An offer with an unknown, repeated or malformed parameter is declined, as is `server_max_window_bits=8`.
pub fn negotiate_deflate(extensions_header: &str) -> Option<(DeflateParams, String)> {
    split_unquoted(extensions_header, ',').take(OFFERS_MAX).find_map(accept_offer)
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`, or `None` if the key is not 16 bytes of base64.
pub fn accept_key(sec_websocket_key: &str) -> Option<String> {
    // Some clients make up the text rather than the bytes, so that unused bits of the last symbol are set.
    const KEY: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
    );
    let key = sec_websocket_key.trim_matches([' ', '\t']);
    if key.len() != 24 || KEY.decode(key).ok()?.len() != 16 {
        return None;
    }
    let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize();
    Some(STANDARD.encode(digest))
}

#[derive(Default)]
struct Offer {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_bits: Option<u8>,
    /// Outer: the parameter is there; inner: with a value.
    client_bits: Option<Option<u8>>,
}

fn accept_offer(text: &str) -> Option<(DeflateParams, String)> {
    let offer = parse_offer(text)?;
    if offer.server_bits.is_some_and(|bits| bits < WINDOW_BITS_MIN) {
        return None;
    }
    let client_bits = offer.client_bits.flatten();
    let mut response = "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
    for (name, bits) in [("server_max_window_bits", offer.server_bits), ("client_max_window_bits", client_bits)] {
        if let Some(bits) = bits {
            let _ = write!(response, "; {name}={bits}");
        }
    }
    let params = DeflateParams {
        server_max_window_bits: offer.server_bits.unwrap_or(WINDOW_BITS_MAX),
        client_max_window_bits: client_bits.unwrap_or(WINDOW_BITS_MAX),
    };
    Some((params, response))
}

fn parse_offer(text: &str) -> Option<Offer> {
    let mut parts = split_unquoted(text, ';').map(|part| part.trim_matches([' ', '\t']));
    if parts.next() != Some("permessage-deflate") {
        return None;
    }
    let mut offer = Offer::default();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end_matches([' ', '\t']), Some(value.trim_start_matches([' ', '\t']))),
            None => (part, None),
        };
        let once = match (name, value) {
            ("server_no_context_takeover", None) => !std::mem::replace(&mut offer.server_no_context_takeover, true),
            ("client_no_context_takeover", None) => !std::mem::replace(&mut offer.client_no_context_takeover, true),
            ("server_max_window_bits", Some(value)) => offer.server_bits.replace(parse_bits(value)?).is_none(),
            ("client_max_window_bits", Some(value)) => offer.client_bits.replace(Some(parse_bits(value)?)).is_none(),
            ("client_max_window_bits", None) => offer.client_bits.replace(None).is_none(),
            _ => false,
        };
        if !once {
            return None;
        }
    }
    Some(offer)
}

/// `8` … `15` without leading zeros, as a token or a quoted string.
fn parse_bits(value: &str) -> Option<u8> {
    let digits = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => value,
    };
    let plain = matches!(digits.as_bytes(), [b'8' | b'9'] | [b'1', b'0'..=b'5']);
    digits.parse().ok().filter(|bits| plain && (WINDOW_BITS_OFFERED_MIN..=WINDOW_BITS_MAX).contains(bits))
}

/// Splits a header at a separator that stands outside quoted strings.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return c == separator && !quoted,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn response(header: &str) -> Option<String> {
        negotiate_deflate(header).map(|(_, response)| response)
    }

    #[test]
    fn a_plain_offer_is_taken_without_takeover() {
        let params = DeflateParams { server_max_window_bits: 15, client_max_window_bits: 15 };
        assert_eq!(negotiate_deflate("permessage-deflate"), Some((params, BASE.to_owned())));
        assert_eq!(response("permessage-deflate; client_max_window_bits").as_deref(), Some(BASE));
        assert_eq!(
            response("x-webkit, foo;a=\"b,c\" , permessage-deflate;client_no_context_takeover").as_deref(),
            Some(BASE)
        );
    }

    #[test]
    fn window_sizes_are_honoured() {
        let (params, response) =
            negotiate_deflate("permessage-deflate; server_max_window_bits=10; client_max_window_bits=\"9\"").unwrap();
        assert_eq!(params, DeflateParams { server_max_window_bits: 10, client_max_window_bits: 9 });
        assert_eq!(response, format!("{BASE}; server_max_window_bits=10; client_max_window_bits=9"));
    }

    #[test]
    fn the_first_acceptable_offer_wins() {
        let header = "permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=9, permessage-deflate";
        assert_eq!(negotiate_deflate(header).unwrap().0.server_max_window_bits, 9);
    }

    #[test]
    fn malformed_offers_are_declined() {
        for parameters in [
            "server_max_window_bits",
            "server_max_window_bits=",
            "server_max_window_bits=7",
            "server_max_window_bits=8",
            "server_max_window_bits=16",
            "server_max_window_bits=09",
            "server_max_window_bits=+9",
            "server_max_window_bits=\"9",
            "server_max_window_bits=9; server_max_window_bits=9",
            "client_max_window_bits=7",
            "client_max_window_bits; client_max_window_bits",
            "server_no_context_takeover=1",
            "client_no_context_takeover; client_no_context_takeover",
            "unheard_of",
            "",
        ] {
            assert_eq!(negotiate_deflate(&format!("permessage-deflate; {parameters}")), None, "{parameters}");
        }
        for header in ["", ",", "permessage-deflatex", "permessage-deflate-x; a", "\"permessage-deflate"] {
            assert_eq!(negotiate_deflate(header), None, "{header}");
        }
    }

    #[test]
    fn accept_key_is_that_of_rfc_6455() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ==").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(accept_key(" dGhlIHNhbXBsZSBub25jZQ== ").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn keys_that_are_not_16_bytes_are_refused() {
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25j",
            "dGhlIHNhbXBsZSBub25jZWVlZQ==",
            "dGhlIHNhbXBsZSBub25jZ!==",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZWVl",
        ] {
            assert_eq!(accept_key(key), None, "{key}");
        }
    }
}
