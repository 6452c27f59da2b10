//! Whose a connection is: the address that its limits and its log lines go by.
//!
//! It begins with the socket's peer. A hop that we trust may name another one, in a PROXY header and then in
//! `X-Forwarded-For`; each counts only if the address that is known before is trusted. Nobody is limited by the address of
//! a trusted hop, because whole sites come from there.

use std::net::IpAddr;
use std::sync::Arc;

use super::forwarded::client_of;
use super::http::Request;
use super::refusal::Refusal;
use super::rules::Rules;
use crate::addresses::{Addresses, HalfOpen, Seat, TooMany};
use crate::config::Proxies;

/// Who is at the other end.
#[derive(Debug)]
pub struct Caller {
    pub address: IpAddr,
    is_trusted: bool,
    /// A PROXY header came, whatever it said.
    pub is_proxied: bool,
    /// Counts him while he is in his handshake.
    half_open: Option<HalfOpen>,
    addresses: Arc<Addresses>,
}

impl Caller {
    pub fn accepted(peer: IpAddr, proxies: &Proxies, addresses: &Arc<Addresses>) -> Result<Caller, TooMany> {
        let address = peer.to_canonical();
        let addresses = Arc::clone(addresses);
        let mut caller = Caller { address, is_trusted: false, is_proxied: false, half_open: None, addresses };
        caller.name(address, proxies)?;
        Ok(caller)
    }

    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// What a hop that we trust has said in a PROXY header.
    pub fn name(&mut self, address: IpAddr, proxies: &Proxies) -> Result<(), TooMany> {
        (self.address, self.is_trusted) = (address, proxies.trust(address));
        self.half_open = if self.is_trusted { None } else { self.addresses.enter(address)? };
        Ok(())
    }

    /// What a hop that we trust has said in the request.
    pub fn read_forwarded(&mut self, request: &Request<'_>, rules: &Rules) -> Result<(), Refusal> {
        if !self.is_trusted {
            return Ok(());
        }
        let list = request.list("x-forwarded-for")?;
        let client = client_of(self.address, &list, |address| rules.proxies.trust(address));
        if client != self.address {
            self.name(client, &rules.proxies).map_err(|TooMany| Refusal::TOO_MANY)?;
        }
        Ok(())
    }

    /// Counts him as established.
    pub fn seat(&self) -> Result<Option<Seat>, TooMany> {
        if self.is_trusted { Ok(None) } else { self.addresses.seat(self.address) }
    }
}
