//! Which users have live connections, as gateways tell it. Memory only: a gateway that attaches tells what comes and goes,
//! and what an older incarnation of it told is void.
//!
//! It is approximate by nature (`online` in push answers, the presence query) and never decides about delivery. What changes
//! is returned to the caller, once for each connection that comes and goes: what a gateway tells again is no change. A change
//! can be missed only if a link breaks with it on its way and the partition has another owner by the time it is mended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use smallvec::SmallVec;
use tidegate_control_core::domain::{Timestamp, Uid};
use tidegate_control_core::ports::cache::{Connection as Route, Fact, Incarnation, RouteKey};
use tidegate_proto::v1::{LinkConnection, LinkPresence};

use crate::api::auth::now_ms;
use crate::cache::routes::{self, Routes};

/// Connections that are listed; past it newcomers are not, and `online` falls short.
pub const CONNECTIONS_MAX: usize = 16 << 20;
/// Gateways that are remembered after they were given up, so that their return is told.
const LOST_MAX: usize = 65_536;

/// Why a connection came.
pub const CONNECTED: &str = "connected";
/// Why connections went of which their gateway did not say so: it is not heard of any more; it was started anew; it told
/// everybody who is there, and not these.
pub const GATEWAY_LOST: &str = "gateway_lost";
pub const GATEWAY_RESTARTED: &str = "gateway_restarted";
pub const UNHEARD: &str = "unheard";

#[derive(Default)]
pub struct Presence {
    table: Mutex<Table>,
    /// Told of every change, so that other nodes can ask.
    told: OnceLock<Arc<Routes>>,
}

/// One attachment of one incarnation of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    route: GatewayRoute,
    name: Box<str>,
    incarnation: u64,
    /// Rises with every attachment, so that the end of an old one is told from the end of the present one.
    number: u64,
    /// This table had heard of all its connections before.
    known: bool,
}

/// One incarnation of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct GatewayRoute(u64);

/// A connection came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub uid: Box<str>,
    pub device: Box<str>,
    pub platform: Box<str>,
    pub connection_id: Box<str>,
    /// The gateway's name, and its incarnation.
    pub gateway: Box<str>,
    pub incarnation: u64,
    pub online: bool,
    pub reason: Box<str>,
}

/// A consistent look at the table; it locks the table, so hold one at a time, and shortly.
pub struct View<'a> {
    table: MutexGuard<'a, Table>,
    everywhere: Option<u64>,
}

#[derive(Default)]
struct Table {
    users: HashMap<Box<str>, SmallVec<[Connection; 1]>>,
    /// By `gateway/partition`.
    gateways: HashMap<Box<str>, Gateway>,
    connections: usize,
    next: u64,
    lost: usize,
}

struct Gateway {
    incarnation: u64,
    route: GatewayRoute,
    attachment: u64,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Attached,
    Away,
    /// Given up; its connections are listed no more.
    Lost,
}

struct Connection {
    route: GatewayRoute,
    /// The attachment that told of it last.
    told: u64,
    id: Box<str>,
    /// Device and platform.
    what: Box<str>,
    /// When it was told of first.
    since: Timestamp,
}

/// Neither holds it: names of devices and platforms have no control characters.
const BETWEEN: char = '\n';

impl Presence {
    /// From now on changes are told to `routes`; the first to be named stays.
    pub fn tell(&self, routes: Arc<Routes>) {
        let _ = self.told.set(routes);
    }

    /// A gateway attached: the routes of its older incarnations are void, and these changes.
    pub fn attach(&self, name: &str, incarnation: u64) -> (Attached, Vec<Change>) {
        let mut table = self.lock();
        table.next += 1;
        let number = table.next;
        let attached = |route, known| Attached { route, name: name.into(), incarnation, number, known };
        match table.gateways.get_mut(name) {
            Some(gateway) if gateway.incarnation == incarnation => {
                let route = gateway.route;
                let before = std::mem::replace(&mut gateway.standing, Standing::Attached);
                gateway.attachment = number;
                if before == Standing::Lost {
                    table.lost -= 1;
                }
                (attached(route, true), Vec::new())
            }
            _ => {
                let route = GatewayRoute(number);
                let gateway = Gateway { incarnation, route, attachment: number, standing: Standing::Attached };
                let older = table.gateways.insert(name.into(), gateway);
                if older.as_ref().is_some_and(|older| older.standing == Standing::Lost) {
                    table.lost -= 1;
                }
                let gone = older.map_or_else(Vec::new, |older| table.end(name, &older, GATEWAY_RESTARTED));
                (attached(route, false), gone)
            }
        }
    }

    /// The attachment ended; its connections stay listed until [`Presence::forget`].
    pub fn detach(&self, attached: &Attached) {
        if let Some(gateway) = self.lock().gateways.get_mut(&attached.name)
            && gateway.attachment == attached.number
        {
            gateway.standing = Standing::Away;
        }
    }

    /// Gives up a gateway that has not come back since this attachment ended.
    pub fn forget(&self, attached: &Attached) -> Vec<Change> {
        let mut table = self.lock();
        let away = |gateway: &Gateway| gateway.attachment == attached.number && gateway.standing == Standing::Away;
        let Some(gateway) = table.gateways.get(&attached.name).filter(|gateway| away(gateway)) else {
            return Vec::new();
        };
        let lost = Gateway { standing: Standing::Lost, ..*gateway };
        let gone = table.end(&attached.name, &lost, GATEWAY_LOST);
        if table.lost < LOST_MAX {
            table.lost += 1;
            table.gateways.insert(attached.name.clone(), lost);
        } else {
            table.gateways.remove(&attached.name);
        }
        gone
    }

    /// The partition is another node's: whoever is there tells it, and nothing changes by that.
    pub fn hand_over(&self, attached: &Attached) {
        let mut table = self.lock();
        if table.gateways.get(&attached.name).is_some_and(|gateway| gateway.attachment == attached.number)
            && let Some(gone) = table.gateways.remove(&attached.name)
        {
            table.drop_route(gone.route, |_, _| {});
        }
    }

    /// What a gateway told, in the order in which it told it.
    pub fn apply(&self, by: &Attached, told: LinkPresence) -> Vec<Change> {
        let now = Timestamp(now_ms());
        let mut table = self.lock();
        let mut changes = Vec::new();
        // Who tells nobody makes no facts.
        let at = self.told.get().map(|_| by.life());
        let mut facts = at.as_ref().map_or_else(Vec::new, |at| routes::facts_of(at, &told, now));
        for gone in told.offline {
            let reason = gone.reason.clone();
            let listed = table.remove(by.route, &gone.uid, &gone.connection_id);
            // One that is not listed may have been told to the owner before us.
            changes.push(by.change(gone.uid.into(), gone.connection_id.into(), listed, false, &reason));
        }
        for come in told.online {
            if let Some(what) = table.insert(by, &come, now) {
                changes.push(by.change(come.uid.into(), come.connection_id.into(), Some(what), true, CONNECTED));
            }
        }
        for here in told.present {
            if let Some(what) = table.insert(by, &here, now)
                && by.known
            {
                changes.push(by.change(here.uid.into(), here.connection_id.into(), Some(what), true, CONNECTED));
            }
        }
        // What a table has heard anew, it has heard on this attachment: nothing older is there to be looked for.
        if told.all && by.known {
            let unheard = |connection: &Connection| connection.route == by.route && connection.told < by.number;
            table.drop_where(unheard, |uid, connection| {
                if let (Some(at), Ok(uid)) = (&at, uid.parse()) {
                    facts.push(Fact::Offline(RouteKey { uid, at: at.clone(), id: connection.id.clone() }));
                }
                changes.push(by.change(uid.into(), connection.id, Some(connection.what), false, UNHEARD));
            });
        }
        if let (Some(told), false) = (self.told.get(), facts.is_empty()) {
            // Before anybody else may look at the table, so that nothing older is told after it.
            told.changed(facts);
        }
        changes
    }

    /// Takes out this very connection of this incarnation of its gateway, if it is listed. Returns whether it was.
    pub fn drop_connection(&self, uid: &str, connection_id: &str, gateway: &str, incarnation: u64) -> bool {
        let mut table = self.lock();
        let routes: SmallVec<[GatewayRoute; 8]> = table.routes_of(gateway, incarnation).collect();
        routes.into_iter().any(|route| table.remove(route, uid, connection_id).is_some())
    }

    /// Who has connections listed.
    pub fn users(&self) -> Vec<Box<str>> {
        self.lock().users.keys().cloned().collect()
    }

    /// Tells again which connections these users have at gateways that are attached now.
    pub fn tell_again(&self, users: &[Box<str>]) {
        let Some(routes) = self.told.get() else { return };
        let table = self.lock();
        let attached: HashMap<GatewayRoute, Incarnation> = table
            .gateways
            .iter()
            .filter(|(_, gateway)| gateway.standing == Standing::Attached)
            .map(|(name, gateway)| (gateway.route, life(name, gateway.incarnation)))
            .collect();
        let listed = users.iter().filter_map(|uid| Some((uid.parse().ok()?, table.users.get(uid)?)));
        let all = listed.flat_map(|(uid, connections): (Uid, _)| connections.iter().map(move |c| (uid.clone(), c)));
        let told = |(uid, connection): (Uid, &Connection)| {
            let (device, platform) = connection.what.split_once(BETWEEN)?;
            let connection = Route {
                at: attached.get(&connection.route)?.clone(),
                id: connection.id.clone(),
                device: device.into(),
                platform: platform.into(),
                since: connection.since,
            };
            Some(Fact::Online { uid, connection })
        };
        routes.changed(all.filter_map(told).collect());
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

impl Attached {
    fn life(&self) -> Incarnation {
        life(&self.name, self.incarnation)
    }

    fn change(
        &self,
        uid: Box<str>,
        connection_id: Box<str>,
        what: Option<Box<str>>,
        online: bool,
        reason: &str,
    ) -> Change {
        change(&self.name, self.incarnation, (uid, connection_id), what.as_deref(), (online, reason))
    }
}

fn change(
    name: &str,
    incarnation: u64,
    (uid, connection_id): (Box<str>, Box<str>),
    what: Option<&str>,
    (online, reason): (bool, &str),
) -> Change {
    let (device, platform) = what.and_then(|what| what.split_once(BETWEEN)).unwrap_or_default();
    Change {
        uid,
        device: device.into(),
        platform: platform.into(),
        connection_id,
        gateway: gateway_of(name).into(),
        incarnation,
        online,
        reason: reason.into(),
    }
}

fn life(name: &str, incarnation: u64) -> Incarnation {
    Incarnation { gateway: gateway_of(name).into(), number: incarnation }
}

/// What is attached is `gateway/partition`.
fn gateway_of(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(gateway, _)| gateway)
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
        let attached = self.table.gateways.iter().filter(|(_, gateway)| gateway.standing == Standing::Attached);
        let mut names = attached.map(|(name, _)| gateway_of(name));
        let name = names.next()?;
        names.all(|other| other == name).then_some(name)
    }
}

impl Table {
    fn routes_of<'a>(&'a self, gateway: &'a str, incarnation: u64) -> impl Iterator<Item = GatewayRoute> + 'a {
        let all = self.gateways.iter().filter(move |(_, known)| known.incarnation == incarnation);
        all.filter(move |(name, _)| gateway_of(name) == gateway).map(|(_, known)| known.route)
    }

    /// Device and platform of one that was not listed.
    fn insert(&mut self, by: &Attached, come: &LinkConnection, since: Timestamp) -> Option<Box<str>> {
        let of_user = self.users.entry(come.uid.as_str().into()).or_default();
        if let Some(listed) = of_user.iter_mut().find(|c| c.route == by.route && *c.id == *come.connection_id) {
            listed.told = by.number;
            return None;
        }
        if self.connections >= CONNECTIONS_MAX {
            if of_user.is_empty() {
                self.users.remove(come.uid.as_str());
            }
            return None;
        }
        let what: Box<str> = format!("{}{BETWEEN}{}", come.device, come.platform).into();
        let id = come.connection_id.as_str().into();
        of_user.push(Connection { route: by.route, told: by.number, id, what: what.clone(), since });
        self.connections += 1;
        Some(what)
    }

    fn remove(&mut self, route: GatewayRoute, uid: &str, id: &str) -> Option<Box<str>> {
        let of_user = self.users.get_mut(uid)?;
        let at = of_user.iter().position(|c| c.route == route && *c.id == *id)?;
        let gone = of_user.swap_remove(at);
        if of_user.is_empty() {
            self.users.remove(uid);
        }
        self.connections -= 1;
        Some(gone.what)
    }

    /// All connections of a gateway's incarnation go.
    fn end(&mut self, name: &str, gateway: &Gateway, reason: &str) -> Vec<Change> {
        let mut gone = Vec::new();
        self.drop_route(gateway.route, |uid, connection| {
            let who = (uid.into(), connection.id);
            gone.push(change(name, gateway.incarnation, who, Some(&connection.what), (false, reason)));
        });
        gone
    }

    fn drop_route(&mut self, route: GatewayRoute, tell: impl FnMut(&str, Connection)) {
        self.drop_where(|connection| connection.route == route, tell);
    }

    fn drop_where(&mut self, goes: impl Fn(&Connection) -> bool, mut tell: impl FnMut(&str, Connection)) {
        let mut dropped = 0;
        self.users.retain(|uid, of_user| {
            let mut at = 0;
            while at < of_user.len() {
                if goes(&of_user[at]) {
                    tell(uid, of_user.swap_remove(at));
                    dropped += 1;
                } else {
                    at += 1;
                }
            }
            !of_user.is_empty()
        });
        self.connections -= dropped;
    }
}

#[cfg(test)]
mod tests;
