//! Which users have live connections, as gateways tell it. Memory only: a gateway that attaches tells what comes and goes,
//! and what an older incarnation of it told is void.
//!
//! It is approximate by nature (`online` in push answers, the presence query) and never decides about delivery.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;
use tidegate_proto::v1::{LinkConnection, LinkPresence};

/// Connections that are listed; past it newcomers are not, and `online` falls short.
pub const CONNECTIONS_MAX: usize = 16 << 20;

#[derive(Default)]
pub struct Presence {
    table: Mutex<Table>,
}

/// One incarnation of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayRoute(u64);

/// A consistent look at the table; it locks the table, so hold one at a time, and shortly.
pub struct View<'a>(MutexGuard<'a, Table>);

#[derive(Default)]
struct Table {
    users: HashMap<Box<str>, SmallVec<[Connection; 1]>>,
    gateways: HashMap<Box<str>, Gateway>,
    connections: usize,
    next: u64,
}

struct Gateway {
    incarnation: u64,
    route: GatewayRoute,
    /// Rises with every attachment, so that the end of an old one is told from the end of the present one.
    attachment: u64,
    attached: bool,
}

struct Connection {
    route: GatewayRoute,
    id: Box<str>,
}

impl Presence {
    /// A gateway attached: the routes of its older incarnations are void. Returns its route and the attachment's number.
    pub fn attach(&self, name: &str, incarnation: u64) -> (GatewayRoute, u64) {
        let mut table = self.lock();
        table.next += 1;
        let number = table.next;
        match table.gateways.get_mut(name) {
            Some(gateway) if gateway.incarnation == incarnation => {
                (gateway.attachment, gateway.attached) = (number, true);
                (gateway.route, number)
            }
            _ => {
                let route = GatewayRoute(number);
                let gateway = Gateway { incarnation, route, attachment: number, attached: true };
                if let Some(older) = table.gateways.insert(name.into(), gateway) {
                    table.drop_route(older.route);
                }
                (route, number)
            }
        }
    }

    /// The attachment ended; its connections stay listed until [`Presence::forget`].
    pub fn detach(&self, name: &str, attachment: u64) {
        if let Some(gateway) = self.lock().gateways.get_mut(name)
            && gateway.attachment == attachment
        {
            gateway.attached = false;
        }
    }

    /// Voids the routes of a gateway that has not come back since this attachment ended.
    pub fn forget(&self, name: &str, attachment: u64) {
        let mut table = self.lock();
        if table.gateways.get(name).is_some_and(|g| g.attachment == attachment && !g.attached)
            && let Some(gone) = table.gateways.remove(name)
        {
            table.drop_route(gone.route);
        }
    }

    pub fn apply(&self, route: GatewayRoute, change: LinkPresence) {
        let mut table = self.lock();
        for gone in &change.offline {
            table.remove(route, gone);
        }
        for come in change.online {
            table.insert(route, come);
        }
    }

    pub fn view(&self) -> View<'_> {
        View(self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No code panics while it holds the lock half-way through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View<'_> {
    /// Live connections of a user.
    pub fn connections_of(&self, uid: &str) -> usize {
        self.0.users.get(uid).map_or(0, SmallVec::len)
    }

    /// Live connections of everybody.
    pub fn connections(&self) -> usize {
        self.0.connections
    }

    /// The name of the attached gateway, if there is exactly one.
    pub fn only_gateway(&self) -> Option<&str> {
        let attached = self.0.gateways.iter().filter(|(_, gateway)| gateway.attached);
        // What is attached is `gateway/partition`.
        let mut names = attached.map(|(name, _)| name.rsplit_once('/').map_or(&**name, |(gateway, _)| gateway));
        let name = names.next()?;
        names.all(|other| other == name).then_some(name)
    }
}

impl Table {
    fn insert(&mut self, route: GatewayRoute, come: LinkConnection) {
        if self.connections >= CONNECTIONS_MAX {
            return;
        }
        let of_user = self.users.entry(come.uid.into()).or_default();
        if of_user.iter().any(|c| c.route == route && *c.id == *come.connection_id) {
            return;
        }
        of_user.push(Connection { route, id: come.connection_id.into() });
        self.connections += 1;
    }

    fn remove(&mut self, route: GatewayRoute, gone: &LinkConnection) {
        let Some(of_user) = self.users.get_mut(gone.uid.as_str()) else { return };
        let Some(at) = of_user.iter().position(|c| c.route == route && *c.id == *gone.connection_id) else { return };
        of_user.swap_remove(at);
        if of_user.is_empty() {
            self.users.remove(gone.uid.as_str());
        }
        self.connections -= 1;
    }

    fn drop_route(&mut self, route: GatewayRoute) {
        let mut dropped = 0;
        self.users.retain(|_, of_user| {
            let before = of_user.len();
            of_user.retain(|c| c.route != route);
            dropped += before - of_user.len();
            !of_user.is_empty()
        });
        self.connections -= dropped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(uid: &str, id: &str) -> LinkConnection {
        LinkConnection { uid: uid.to_owned(), connection_id: id.to_owned(), ..Default::default() }
    }

    fn online(uid: &str, id: &str) -> LinkPresence {
        LinkPresence { online: vec![connection(uid, id)], offline: Vec::new() }
    }

    fn offline(uid: &str, id: &str) -> LinkPresence {
        LinkPresence { online: Vec::new(), offline: vec![connection(uid, id)] }
    }

    /// Of "a", and of everybody.
    fn counts(presence: &Presence) -> (usize, usize) {
        let view = presence.view();
        (view.connections_of("a"), view.connections())
    }

    #[test]
    fn connections_come_and_go_once() {
        let presence = Presence::default();
        let (route, _) = presence.attach("gw", 1);
        for change in [online("a", "1"), online("a", "2"), online("a", "2"), online("b", "3"), offline("a", "9")] {
            presence.apply(route, change);
        }
        assert_eq!(counts(&presence), (2, 3));
        presence.apply(route, offline("a", "1"));
        presence.apply(route, offline("a", "1"));
        assert_eq!(counts(&presence), (1, 2));
    }

    #[test]
    fn a_new_incarnation_voids_the_old_ones_routes_and_no_other() {
        let presence = Presence::default();
        let (old, _) = presence.attach("gw", 1);
        let (other, _) = presence.attach("other", 1);
        presence.apply(old, online("a", "1"));
        presence.apply(other, online("a", "1"));
        let (again, _) = presence.attach("gw", 1);
        assert_eq!((again, presence.view().connections_of("a")), (old, 2));
        let (new, _) = presence.attach("gw", 2);
        assert_ne!(new, old);
        assert_eq!(presence.view().connections_of("a"), 1);
    }

    #[test]
    fn a_gateway_that_stays_away_is_forgotten_and_one_that_came_back_is_not() {
        let presence = Presence::default();
        let (route, first) = presence.attach("gw", 1);
        presence.apply(route, online("a", "1"));
        presence.detach("gw", first);
        let (_, second) = presence.attach("gw", 1);
        presence.forget("gw", first);
        assert_eq!(presence.view().connections(), 1);
        presence.detach("gw", second);
        presence.forget("gw", second);
        assert_eq!(presence.view().connections(), 0);
    }
}
