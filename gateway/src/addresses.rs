//! How many connections there are from each client address, where that is bounded.
//!
//! Front-door threads look addresses up under a lock. A shard never does: it only lets a [`Seat`] go, which counts down. So
//! a front door that is interrupted while it holds the lock delays no delivery.
//!
//! Invariants: nobody is let in beyond a bound; what was taken is given back once, whatever becomes of the connection; the
//! table has at most twice as many rows as there are connections, and [`ROWS_MIN`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_gateway_threads::Bound;

/// With so many rows the table is looked through for those that nobody needs any more.
const ROWS_MIN: usize = 1024;
/// Whoever has one address of IPv6 has as many as he wants below this prefix.
const V6_PREFIX_BITS: u32 = 64;

/// Bounds for one address; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressLimits {
    pub half_open_max: u32,
    pub connections_max: u32,
}

/// One address has too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many connections from one address")]
pub struct TooMany;

/// Counts by address, shared by the threads of a front door.
#[derive(Debug)]
pub struct Addresses {
    limits: AddressLimits,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    rows: HashMap<IpAddr, Arc<Row>>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Row {
    half_open: Bound,
    connections: Bound,
}

/// One half-open connection of an address; given back when dropped.
#[derive(Debug)]
pub struct HalfOpen(Arc<Row>);

/// One connection of an address; given back when dropped. Goes with the connection to its shard.
#[derive(Debug)]
pub struct Seat(Arc<Row>);

impl Addresses {
    pub fn new(limits: AddressLimits) -> Addresses {
        Addresses { limits, table: Mutex::new(Table { rows: HashMap::new(), sweep_at: ROWS_MIN }) }
    }

    /// Counts one more connection in its handshake. `Ok(None)`: they are not bounded.
    pub fn enter(&self, address: IpAddr) -> Result<Option<HalfOpen>, TooMany> {
        if self.limits.half_open_max == 0 {
            return Ok(None);
        }
        let row = self.row(address);
        if row.half_open.take(1) { Ok(Some(HalfOpen(row))) } else { Err(TooMany) }
    }

    /// Counts one more connection. `Ok(None)`: they are not bounded.
    pub fn seat(&self, address: IpAddr) -> Result<Option<Seat>, TooMany> {
        if self.limits.connections_max == 0 {
            return Ok(None);
        }
        let row = self.row(address);
        if row.connections.take(1) { Ok(Some(Seat(row))) } else { Err(TooMany) }
    }

    fn row(&self, address: IpAddr) -> Arc<Row> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.sweep();
        let row = table.rows.entry(prefix(address)).or_insert_with(|| Arc::new(Row::new(self.limits)));
        Arc::clone(row)
    }
}

impl Table {
    /// Rows are handed out under the lock only, so one that nobody else has stays so meanwhile.
    fn sweep(&mut self) {
        if self.rows.len() >= self.sweep_at {
            self.rows.retain(|_, row| Arc::strong_count(row) > 1);
            self.sweep_at = (self.rows.len() * 2).max(ROWS_MIN);
            self.rows.shrink_to(self.sweep_at);
        }
    }
}

impl Row {
    fn new(limits: AddressLimits) -> Row {
        let bound = |max| Bound::new(if max == 0 { usize::MAX } else { max as usize });
        Row { half_open: bound(limits.half_open_max), connections: bound(limits.connections_max) }
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.half_open.give_back(1);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.give_back(1);
    }
}

/// What counts as one address.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & u128::MAX << (128 - V6_PREFIX_BITS)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounded() -> Addresses {
        Addresses::new(AddressLimits { half_open_max: 2, connections_max: 3 })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_bound_is_exact_and_what_is_dropped_is_free_again() {
        let (addresses, one, other) = (bounded(), ip("192.0.2.1"), ip("192.0.2.2"));
        let mut held: Vec<_> = (0..3).map(|_| addresses.seat(one).expect("within the bound")).collect();
        assert!(held.iter().all(Option::is_some));
        assert_eq!(addresses.seat(one).err(), Some(TooMany));
        let entered = [addresses.enter(one), addresses.enter(one)];
        assert!(entered.iter().all(Result::is_ok), "half-open ones have a bound of their own");
        assert_eq!(addresses.enter(one).err(), Some(TooMany));
        drop(addresses.seat(other).expect("another address"));
        held.pop();
        held.push(addresses.seat(one).expect("a place is free"));
        assert_eq!(addresses.seat(one).err(), Some(TooMany));
    }

    #[test]
    fn a_subnet_of_ipv6_is_one_address() {
        let addresses = bounded();
        let _first = [addresses.enter(ip("2001:db8::1")), addresses.enter(ip("2001:db8:0:0:ffff::2"))];
        assert_eq!(addresses.enter(ip("2001:db8::3")).err(), Some(TooMany));
        assert!(addresses.enter(ip("2001:db8:0:1::1")).is_ok());
        let _mapped = [addresses.enter(ip("::ffff:192.0.2.1")), addresses.enter(ip("192.0.2.1"))];
        assert_eq!(addresses.enter(ip("192.0.2.1")).err(), Some(TooMany));
        assert!(addresses.enter(ip("192.0.2.2")).is_ok());
    }

    #[test]
    fn without_bounds_nothing_is_kept() {
        let addresses = Addresses::new(AddressLimits::default());
        assert!(matches!(addresses.enter(ip("::1")), Ok(None)));
        assert!(matches!(addresses.seat(ip("::1")), Ok(None)));
        assert_eq!(addresses.table.lock().expect("no panic").rows.len(), 0);
    }

    #[test]
    fn addresses_that_came_and_went_take_no_room() {
        let addresses = bounded();
        let kept: Vec<_> = (0..10).map(|at| addresses.seat(IpAddr::from([10, 1, 0, at])).expect("a seat")).collect();
        for at in 0..100_000_u32 {
            drop(addresses.seat(IpAddr::from(at.to_be_bytes())).expect("a seat"));
        }
        assert!(addresses.table.lock().expect("no panic").rows.len() <= ROWS_MIN);
        let _more = [addresses.seat(IpAddr::from([10, 1, 0, 3])), addresses.seat(IpAddr::from([10, 1, 0, 3]))];
        assert_eq!(addresses.seat(IpAddr::from([10, 1, 0, 3])).err(), Some(TooMany), "who is here stays counted");
        drop(kept);
    }
}
