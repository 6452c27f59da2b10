//! `[gateway.proxies]`: whose word about a client's address counts.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Most networks of the list.
pub const TRUSTED_MAX: usize = 256;

/// The section as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxiesConfig {
    /// Addresses and networks of proxies and balancers that clients come through.
    pub trusted: Vec<String>,
    pub proxy_protocol: ProxyProtocol,
}

/// Whether connections of trusted hops begin with a PROXY header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// A header is bad input from anybody.
    #[default]
    Off,
    /// A trusted hop may send one.
    Optional,
    /// A trusted hop must send one.
    Required,
}

/// The section, resolved.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    pub protocol: ProxyProtocol,
}

impl Proxies {
    /// The first element of the list that is neither an address nor a network is the error.
    pub fn resolve(config: &ProxiesConfig) -> Result<Proxies, &str> {
        let networks = config.trusted.iter().map(|text| network(text).ok_or(text.as_str()));
        Ok(Proxies { trusted: networks.collect::<Result<_, _>>()?, protocol: config.proxy_protocol })
    }

    /// Whether a hop of this address is believed. Takes addresses in their canonical form.
    pub fn trust(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// `10.0.0.0/8` or `::1`. IPv4 within IPv6 is none, because addresses are compared in their canonical form.
pub fn network(text: &str) -> Option<IpNet> {
    let network = text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| IpNet::from(address)))?;
    (network.addr().to_canonical() == network.addr()).then_some(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_are_trusted() {
        let trusted = ["10.0.0.0/8", "192.0.2.7", "::1", "2001:db8::/32"].map(str::to_owned).to_vec();
        let config = ProxiesConfig { trusted, ..ProxiesConfig::default() };
        let proxies = Proxies::resolve(&config).expect("resolves");
        for (address, expected) in [
            ("10.1.2.3", true),
            ("11.0.0.0", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::1", true),
            ("::2", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(proxies.trust(address.parse().expect("an address")), expected, "{address}");
        }
        assert!(!Proxies::default().trust("127.0.0.1".parse().expect("an address")));
    }

    #[test]
    fn what_is_no_network_is_named() {
        for bad in
            ["10.0.0.0/33", "::/129", "10.0.0", "localhost", "", "10.0.0.0/8 ", "::ffff:10.0.0.1", "::ffff:0:0/96"]
        {
            let config = ProxiesConfig { trusted: vec!["::1".into(), bad.into()], ..ProxiesConfig::default() };
            assert_eq!(Proxies::resolve(&config).err(), Some(bad));
        }
    }
}
