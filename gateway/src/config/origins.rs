//! `gateway.origins`: pages that may connect, as browsers name them (RFC 6454).
//!
//! Two spellings of one origin are the same: case of scheme and host, a default port that is named, an IPv6 address. There
//! are no patterns but `*`, which is everybody.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

/// Most origins of the list.
pub const ORIGINS_MAX: usize = 256;

const ANY: &str = "*";
/// What browsers name for pages of files and of sandboxed frames, so for pages of anybody.
const OPAQUE: &str = "null";
/// Ports that browsers leave out.
const DEFAULT_PORTS: [(&str, u16); 4] = [("http", 80), ("https", 443), ("ws", 80), ("wss", 443)];

/// The list, resolved.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    any: bool,
    /// In their normal form.
    listed: BTreeSet<String>,
}

impl Origins {
    /// The first element that is no origin is the error.
    pub fn resolve(list: &[String]) -> Result<Origins, &str> {
        let any = list.iter().any(|text| text == ANY);
        let named = list.iter().filter(|text| *text != ANY);
        let listed = named.map(|text| normal(text).ok_or(text.as_str())).collect::<Result<_, _>>()?;
        Ok(Origins { any, listed })
    }

    /// Takes the value of an `Origin` header.
    pub fn allow(&self, origin: &str) -> bool {
        self.any || normal(origin).is_some_and(|origin| self.listed.contains(&origin))
    }
}

/// The one spelling of an origin; `None` if it is none.
pub fn normal(text: &str) -> Option<String> {
    if text == OPAQUE {
        return Some(OPAQUE.to_owned());
    }
    let (scheme, authority) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let letters = |of: &str, more: &str| of.bytes().all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b));
    if !scheme.starts_with(|first: char| first.is_ascii_lowercase()) || !letters(&scheme, "+-.") {
        return None;
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => format!("[{}]", v6.parse::<Ipv6Addr>().ok()?),
        None if !host.is_empty() && letters(host, ".-_~") => host.to_ascii_lowercase(),
        None => return None,
    };
    let port = match port {
        None => None,
        Some(digits) if !digits.is_empty() && letters(digits, "") => Some(digits.parse::<u16>().ok()?),
        Some(_) => return None,
    };
    let named = port.filter(|port| !DEFAULT_PORTS.contains(&(scheme.as_str(), *port)));
    Some(named.map_or_else(|| format!("{scheme}://{host}"), |port| format!("{scheme}://{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(list: &[&str], origin: &str) -> bool {
        let list: Vec<String> = list.iter().map(|text| (*text).to_owned()).collect();
        Origins::resolve(&list).expect("origins").allow(origin)
    }

    #[test]
    fn one_origin_in_its_spellings() {
        let list = ["https://Chat.example", "http://[::1]:3000", "capacitor://localhost", "https://alt.example:8443"];
        for good in [
            "https://chat.example",
            "HTTPS://CHAT.EXAMPLE",
            "https://chat.example:443",
            "http://[0:0:0:0:0:0:0:1]:3000",
            "capacitor://localhost",
            "https://alt.example:8443",
        ] {
            assert!(allowed(&list, good), "{good}");
        }
        for bad in [
            "http://chat.example",
            "https://chat.example:80",
            "https://chat.example:8443",
            "https://chat.example.evil.example",
            "https://evil.example/https://chat.example",
            "https://evilchat.example",
            "https://user@chat.example",
            "https://chat.example/",
            "https://chat.example, https://evil.example",
            "http://[::1]",
            "https://alt.example",
            "capacitor://evil",
            "null",
            "*",
            "",
        ] {
            assert!(!allowed(&list, bad), "{bad}");
        }
    }

    #[test]
    fn any_and_null_must_be_listed() {
        for origin in ["https://a.example", "null", "anything at all"] {
            assert!(allowed(&["*"], origin), "{origin}");
            assert!(!allowed(&[], origin), "{origin}");
        }
        assert!(allowed(&["null"], "null"));
        assert!(!allowed(&["null"], "https://a.example"));
    }

    #[test]
    fn what_is_no_origin_is_named() {
        for bad in [
            "chat.example",
            "https://",
            "https://chat.example/",
            "https://chat.example/path",
            "https://*.chat.example",
            "https://chat.example:",
            "https://chat.example:x",
            "https://chat.example:+80",
            "https://chat.example:65536",
            "https://[::1",
            "https://::1",
            "https://bücher.example",
            "://chat.example",
            "1http://chat.example",
            "Null",
            "",
        ] {
            assert_eq!(Origins::resolve(&["*".to_owned(), bad.to_owned()]).err(), Some(bad));
        }
    }
}
