//! How many connections each gateway has, as somebody counted a moment ago.

use std::collections::BTreeMap;

/// Connections by gateway. One that nobody has counted has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads(BTreeMap<Box<str>, u64>);

impl Loads {
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
