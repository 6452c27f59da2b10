//! How many connections each gateway has, as somebody counted a moment ago.

use std::collections::BTreeMap;

/// Connections by gateway. One that nobody has counted has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads(BTreeMap<Box<str>, u64>);

/// With fewer connections in the whole cluster nobody's load is bounded: shares of so few say nothing.
pub const BOUNDED_FROM: u64 = 10_000;

impl Loads {
    /// What gateways say of themselves, where that is enough to bound them by; otherwise nothing.
    pub fn told<'a>(rows: impl IntoIterator<Item = (&'a str, u64)>) -> Loads {
        let loads: Loads = rows.into_iter().collect();
        let total = loads.0.values().fold(0u64, |total, load| total.saturating_add(*load));
        if total < BOUNDED_FROM { Loads::default() } else { loads }
    }

    pub fn set(&mut self, gateway: &str, connections: u64) {
        self.0.insert(gateway.into(), connections);
    }

    pub fn of(&self, gateway: &str) -> u64 {
        self.0.get(gateway).copied().unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One connection more.
    pub fn came(&mut self, gateway: &str) {
        self.add(gateway, 1);
    }

    /// One connection fewer.
    pub fn went(&mut self, gateway: &str) {
        if let Some(load) = self.0.get_mut(gateway) {
            *load = load.saturating_sub(1);
        }
    }

    fn add(&mut self, gateway: &str, connections: u64) {
        match self.0.get_mut(gateway) {
            Some(load) => *load = load.saturating_add(connections),
            None => self.set(gateway, connections),
        }
    }
}

impl<'a> FromIterator<(&'a str, u64)> for Loads {
    fn from_iter<T: IntoIterator<Item = (&'a str, u64)>>(rows: T) -> Loads {
        Loads(rows.into_iter().map(|(gateway, load)| (gateway.into(), load)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_connections_bound_nobody() {
        assert!(Loads::told([("a", BOUNDED_FROM - 2), ("b", 1)]).is_empty());
        let loads = Loads::told([("a", BOUNDED_FROM - 1), ("b", 1)]);
        assert_eq!((loads.of("a"), loads.of("b")), (BOUNDED_FROM - 1, 1));
        assert!(!Loads::told([("a", u64::MAX), ("b", u64::MAX)]).is_empty());
    }
}
