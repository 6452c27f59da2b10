//! `X-Forwarded-For`: each proxy appends the address that it was spoken to from. So only what stands right of the first
//! address that we do not trust is worth anything, and that address is the client's. Pure; no I/O.
//!
//! `Forwarded` (RFC 7239) is not read: nobody must be able to choose which of two headers we believe.

use std::net::{IpAddr, SocketAddr};

/// Most elements that are looked at.
pub const HOPS_MAX: usize = 32;

/// Whose request it is that `hop` passes on, with the elements of its `X-Forwarded-For`. The list ends at an element that
/// is no address: what stands left of it was written by nobody who can be told.
pub fn client_of(hop: IpAddr, list: &[&str], trusts: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut client = hop;
    for element in list.iter().rev().take(HOPS_MAX) {
        if !trusts(client) {
            break;
        }
        let Some(address) = address(element) else { break };
        client = address;
    }
    client
}

/// `192.0.2.7`, `192.0.2.7:80`, `2001:db8::7`, `[2001:db8::7]` or `[2001:db8::7]:80`.
fn address(element: &str) -> Option<IpAddr> {
    let bare = element.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let parsed = match bare {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => element.parse().ok().or_else(|| element.parse().ok().map(|with_port: SocketAddr| with_port.ip())),
    };
    parsed.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(list: &str) -> String {
        let list: Vec<&str> = list.split(',').map(str::trim).collect();
        let trusts = |address: IpAddr| address.to_string().starts_with("10.") || address.is_loopback();
        client_of("127.0.0.1".parse().expect("an address"), &list, trusts).to_string()
    }

    #[test]
    fn the_first_untrusted_from_the_right_is_the_client() {
        for (list, client) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7, 10.0.0.1, 10.0.0.2", "192.0.2.7"),
            ("203.0.113.9, 192.0.2.7, 10.0.0.1", "192.0.2.7"),
            ("10.0.0.9, 192.0.2.7", "192.0.2.7"),
            ("10.0.0.3, 10.0.0.1", "10.0.0.3"),
            ("2001:db8::7, ::1", "2001:db8::7"),
            ("[2001:db8::7]:4711, [::1]", "2001:db8::7"),
            ("192.0.2.7:4711, 10.0.0.1:80", "192.0.2.7"),
            ("192.0.2.7, ::ffff:10.0.0.1", "192.0.2.7"),
            ("::ffff:192.0.2.7, 10.0.0.1", "192.0.2.7"),
        ] {
            assert_eq!(found(list), client, "{list}");
        }
    }

    #[test]
    fn nothing_is_believed_beyond_what_is_no_address() {
        for garbage in
            ["unknown", "_hidden", "10.0.0", "1.2.3.4.5", "10.0.0.1:port", "[10.0.0.1]", "::1:", "fe80::1%eth0"]
        {
            assert_eq!(found(&format!("192.0.2.7, {garbage}, 10.0.0.1")), "10.0.0.1", "{garbage}");
            assert_eq!(found(garbage), "127.0.0.1", "{garbage}");
        }
    }

    #[test]
    fn without_trust_the_header_says_nothing() {
        let stranger = "192.0.2.7".parse().expect("an address");
        assert_eq!(client_of(stranger, &["203.0.113.9"], |_| false), stranger);
    }

    #[test]
    fn the_walk_is_bounded() {
        let list = ["192.0.2.7"].into_iter().chain(["10.0.0.1"; HOPS_MAX]).collect::<Vec<_>>();
        let trusts = |address: IpAddr| address.to_string().starts_with("10.");
        assert_eq!(client_of(list[1].parse().expect("an address"), &list, trusts).to_string(), "10.0.0.1");
        assert_eq!(client_of(list[1].parse().expect("an address"), &list[..HOPS_MAX], trusts).to_string(), "192.0.2.7");
    }
}
