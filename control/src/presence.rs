//! Which users have live connections, as gateways tell it. Memory only: a gateway that attaches tells what comes and goes,
//! and what an older incarnation of it told is void.
//!
//! It is approximate by nature (`online` in push answers, the presence query) and never decides about delivery.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use smallvec::SmallVec;
use tidegate_control_core::domain::{Timestamp, Uid};
use tidegate_control_core::ports::cache::{Connection as Route, Fact, Incarnation};
use tidegate_proto::v1::{LinkConnection, LinkPresence};

use crate::api::auth::now_ms;
use crate::cache::routes::{self, Routes};

/// Connections that are listed; past it newcomers are not, and `online` falls short.
pub const CONNECTIONS_MAX: usize = 16 << 20;

#[derive(Default)]
pub struct Presence {
    table: Mutex<Table>,
    /// Told of every change, so that other nodes can ask.
    told: OnceLock<Arc<Routes>>,
}

/// One incarnation of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GatewayRoute(u64);

/// A consistent look at the table; it locks the table, so hold one at a time, and shortly.
pub struct View<'a> {
    table: MutexGuard<'a, Table>,
    everywhere: Option<u64>,
}

#[derive(Default)]
struct Table {
    users: HashMap<Box<str>, SmallVec<[Connection; 1]>>,
    gateways: HashMap<Box<str>, Gateway>,
    lives: HashMap<GatewayRoute, Incarnation>,
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
    /// What a route has beside; kept where routes are told.
    about: Option<Box<About>>,
}

struct About {
    device: Box<str>,
    platform: Box<str>,
    since: Timestamp,
}

impl Presence {
    /// From now on changes are told to `routes`; the first to be named stays.
    pub fn tell(&self, routes: Arc<Routes>) {
        let _ = self.told.set(routes);
    }

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
                // What attaches is `gateway/partition`.
                let gateway_name = name.rsplit_once('/').map_or(name, |(gateway, _)| gateway);
                let life = Incarnation { gateway: gateway_name.into(), number: incarnation };
                table.lives.insert(route, life);
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
        let (told, now) = (self.told.get(), Timestamp(now_ms()));
        let mut table = self.lock();
        let facts = match (told, table.lives.get(&route)) {
            (Some(_), Some(at)) => routes::facts_of(at, &change, now),
            _ => Vec::new(),
        };
        for gone in &change.offline {
            table.remove(route, gone);
        }
        for come in change.online {
            table.insert(route, come, told.is_some().then_some(now));
        }
        if let (Some(told), false) = (told, facts.is_empty()) {
            // Before anybody else may look at the table, so that nothing older is told after it.
            told.changed(facts);
        }
    }

    /// Who has connections listed.
    pub fn users(&self) -> Vec<Box<str>> {
        self.lock().users.keys().cloned().collect()
    }

    /// Tells again which connections these users have at gateways that are attached now.
    pub fn tell_again(&self, users: &[Box<str>]) {
        let Some(routes) = self.told.get() else { return };
        let table = self.lock();
        let attached: HashSet<GatewayRoute> =
            table.gateways.values().filter(|gateway| gateway.attached).map(|gateway| gateway.route).collect();
        let listed = users.iter().filter_map(|uid| Some((uid.parse().ok()?, table.users.get(uid)?)));
        let all = listed.flat_map(|(uid, connections): (Uid, _)| connections.iter().map(move |c| (uid.clone(), c)));
        let told = |(uid, connection): (Uid, &Connection)| {
            let about = connection.about.as_ref()?;
            let connection = Route {
                at: table.lives.get(&connection.route)?.clone(),
                id: connection.id.clone(),
                device: about.device.clone(),
                platform: about.platform.clone(),
                since: about.since,
            };
            Some(Fact::Online { uid, connection })
        };
        let facts: Vec<Fact> = all.filter(|(_, c)| attached.contains(&c.route)).filter_map(told).collect();
        routes.changed(facts);
    }

    pub fn view(&self) -> View<'_> {
        let everywhere = self.told.get().and_then(|routes| routes.everywhere());
        View { table: self.lock(), everywhere }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No code panics while it holds the lock half-way through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View<'_> {
    /// Live connections of a user.
    pub fn connections_of(&self, uid: &str) -> usize {
        self.table.users.get(uid).map_or(0, SmallVec::len)
    }

    /// Live connections of everybody that are listed here.
    pub fn connections(&self) -> usize {
        self.table.connections
    }

    /// Of the whole cluster, where that is known; otherwise those that are listed here.
    pub fn connections_everywhere(&self) -> usize {
        let everywhere = self.everywhere.and_then(|count| usize::try_from(count).ok());
        everywhere.map_or(self.table.connections, |count| count.max(self.table.connections))
    }

    /// The name of the attached gateway, if there is exactly one.
    pub fn only_gateway(&self) -> Option<&str> {
        let attached = self.table.gateways.iter().filter(|(_, gateway)| gateway.attached);
        // What is attached is `gateway/partition`.
        let mut names = attached.map(|(name, _)| name.rsplit_once('/').map_or(&**name, |(gateway, _)| gateway));
        let name = names.next()?;
        names.all(|other| other == name).then_some(name)
    }
}

impl Table {
    /// `since`: what a route has beside is kept.
    fn insert(&mut self, route: GatewayRoute, come: LinkConnection, since: Option<Timestamp>) {
        if self.connections >= CONNECTIONS_MAX {
            return;
        }
        let of_user = self.users.entry(come.uid.into()).or_default();
        if of_user.iter().any(|c| c.route == route && *c.id == *come.connection_id) {
            return;
        }
        let (device, platform) = (come.device.into(), come.platform.into());
        let about = since.map(|since| Box::new(About { device, platform, since }));
        of_user.push(Connection { route, id: come.connection_id.into(), about });
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
        self.lives.remove(&route);
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
