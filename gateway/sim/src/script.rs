//! The script of a run: what users, backends, operators and bad luck do, and when. Drawn before the run, so that any part
//! of it can be left out.

use crate::plan::{Feature, Features, Shape};
use crate::rng::Rng;

/// The scripted part of a run; what follows is its settling.
pub const SCRIPT_NS: u64 = 4_000 * MS;
pub const MS: u64 = 1_000_000;
/// Steps of one script.
const STEPS_MIN: u64 = 30;
const STEPS_MAX: u64 = 90;

/// Numbers are taken modulo what exists, so an action means something in every world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A backend pushes so many messages, to an inbox or a group, with a key or without.
    Push {
        to: Target,
        count: u32,
        bytes: usize,
        keyed: bool,
        ephemeral: bool,
        platform: Option<u8>,
        ttl_s: u32,
    },
    CreateGroup {
        group: usize,
        open: bool,
        members: u32,
    },
    AddMember {
        group: usize,
        user: usize,
    },
    RemoveMember {
        group: usize,
        user: usize,
    },
    Dismiss {
        group: usize,
    },
    Client {
        client: usize,
        does: ClientDoes,
    },
    CrashGateway {
        gateway: usize,
    },
    DrainGateway {
        gateway: usize,
    },
    CrashControl,
    /// The next commit but so many dies, having made some records durable.
    StoreDies {
        after: u32,
        kept: u32,
    },
    StoreAway {
        commits: u32,
    },
    Trim {
        keep: u64,
    },
    LoseDisk,
    /// A new owner begins while the old one lives on.
    TakeOver,
    BreakLink {
        gateway: usize,
    },
    JumpClock {
        ms: i64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    User(usize),
    Group(usize),
    Everybody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientDoes {
    Send {
        to: Target,
        bytes: usize,
        ephemeral: bool,
    },
    /// With a place that it has, or without.
    Join {
        group: usize,
        cursor: bool,
    },
    Leave {
        group: usize,
    },
    Ack,
    Read,
    Head,
    Sync,
    /// A page of history, for looking only.
    Look {
        group: bool,
    },
    Ping,
    /// Goes with a close frame and comes back.
    Close,
    Reset,
    /// Falls silent without a word, and comes back on another connection.
    Vanish,
    Stall {
        ms: u64,
    },
    /// Comes back with these places.
    Forget(Cursors),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursors {
    /// Loses everything that it knew.
    None,
    Old,
    Future,
    Foreign,
}

pub fn write(rng: &mut Rng, features: Features, shape: Shape) -> Vec<(u64, Action)> {
    let mut weights: Vec<(u64, Kind)> = vec![(30, Kind::PushInbox), (6, Kind::Reconnect), (4, Kind::PushAll)];
    let mut add = |feature: Feature, weight: u64, kind: Kind| {
        if features.has(feature) {
            weights.push((weight, kind));
        }
    };
    add(Feature::OpenGroups, 20, Kind::PushGroup);
    add(Feature::OpenGroups, 10, Kind::Join);
    add(Feature::MemberGroups, 20, Kind::PushGroup);
    add(Feature::MemberGroups, 12, Kind::Member);
    add(Feature::Dismissals, 3, Kind::Dismiss);
    add(Feature::Sends, 15, Kind::Send);
    add(Feature::Acks, 8, Kind::Ack);
    add(Feature::Queries, 8, Kind::Query);
    add(Feature::Ephemeral, 8, Kind::Ephemeral);
    add(Feature::SlowReaders, 8, Kind::Stall);
    add(Feature::Resets, 5, Kind::Reset);
    add(Feature::HalfOpen, 4, Kind::Vanish);
    add(Feature::OldCursor, 4, Kind::Forget(Cursors::Old));
    add(Feature::OldCursor, 2, Kind::Forget(Cursors::None));
    add(Feature::FutureCursor, 3, Kind::Forget(Cursors::Future));
    add(Feature::ForeignCursor, 3, Kind::Forget(Cursors::Foreign));
    add(Feature::GatewayCrash, 3, Kind::GatewayCrash);
    add(Feature::Drain, 2, Kind::Drain);
    add(Feature::ControlCrash, 4, Kind::ControlCrash);
    add(Feature::StoreDies, 5, Kind::StoreDies);
    add(Feature::StoreAway, 4, Kind::StoreAway);
    add(Feature::Trim, 4, Kind::Trim);
    add(Feature::LostDisk, 1, Kind::LoseDisk);
    add(Feature::ZombieOwner, 3, Kind::TakeOver);
    add(Feature::LinkBreak, 6, Kind::LinkBreak);
    add(Feature::ClockJump, 4, Kind::ClockJump);
    let total: u64 = weights.iter().map(|(weight, _)| weight).sum();
    let modes: Vec<bool> = (0..shape.groups).map(|_| open_mode(rng, features)).collect();
    let found = |(group, open): (usize, &bool)| Action::CreateGroup { group, open: *open, members: 0b1011 };
    let mut script: Vec<(u64, Action)> = modes.iter().enumerate().map(|group| (MS, found(group))).collect();
    for _ in 0..rng.between(STEPS_MIN, STEPS_MAX) {
        let mut at = rng.below(total);
        let kind = weights.iter().find(|(weight, _)| match at.checked_sub(*weight) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        });
        let kind = kind.map_or(Kind::PushInbox, |(_, kind)| *kind);
        script.push((rng.between(10 * MS, SCRIPT_NS), action(rng, features, (shape, &modes), kind)));
    }
    found_again(rng, shape, &mut script);
    script.sort_by_key(|(at, _)| *at);
    script
}

/// Who loses the disk loses the groups, and makes them anew.
fn found_again(rng: &mut Rng, shape: Shape, script: &mut Vec<(u64, Action)>) {
    let lost: Vec<u64> = script.iter().filter(|(_, action)| *action == Action::LoseDisk).map(|(at, _)| *at).collect();
    for at in lost {
        for group in 0..shape.groups {
            let (open, members) = (rng.chance(400), rng.next() as u32);
            script.push((at + rng.between(MS, 800 * MS), Action::CreateGroup { group, open, members }));
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    PushInbox,
    PushGroup,
    PushAll,
    Ephemeral,
    Join,
    Member,
    Dismiss,
    Send,
    Ack,
    Query,
    Stall,
    Reconnect,
    Reset,
    Vanish,
    Forget(Cursors),
    GatewayCrash,
    Drain,
    ControlCrash,
    StoreDies,
    StoreAway,
    Trim,
    LoseDisk,
    TakeOver,
    LinkBreak,
    ClockJump,
}

fn open_mode(rng: &mut Rng, features: Features) -> bool {
    match (features.has(Feature::OpenGroups), features.has(Feature::MemberGroups)) {
        (true, false) => true,
        (false, true) => false,
        _ => rng.chance(500),
    }
}

fn action(rng: &mut Rng, features: Features, (shape, modes): (Shape, &[bool]), kind: Kind) -> Action {
    let client = rng.index(shape.clients);
    let group = rng.index(shape.groups);
    let user = rng.index(shape.users);
    let does = |does| Action::Client { client, does };
    match kind {
        Kind::PushInbox => push(rng, features, Target::User(user), false),
        Kind::PushGroup => push(rng, features, Target::Group(group), false),
        Kind::PushAll => push(rng, features, Target::Everybody, false),
        Kind::Ephemeral => {
            let to = *rng.pick(&[Target::User(user), Target::Group(group)]);
            push(rng, features, to, true)
        }
        Kind::Join if rng.chance(300) => does(ClientDoes::Leave { group }),
        Kind::Join => does(ClientDoes::Join { group, cursor: rng.chance(600) }),
        Kind::Member if rng.chance(450) => Action::RemoveMember { group, user },
        Kind::Member => Action::AddMember { group, user },
        Kind::Dismiss if rng.chance(600) => {
            let open = if features.has(Feature::ChangedMode) { rng.chance(500) } else { modes[group] };
            Action::CreateGroup { group, open, members: rng.next() as u32 }
        }
        Kind::Dismiss => Action::Dismiss { group },
        Kind::Send => {
            let to = *rng.pick(&[Target::User(user), Target::Group(group)]);
            let ephemeral = features.has(Feature::Ephemeral) && rng.chance(200);
            does(ClientDoes::Send { to, bytes: size(rng, features), ephemeral })
        }
        Kind::Ack if rng.chance(300) => does(ClientDoes::Read),
        Kind::Ack => does(ClientDoes::Ack),
        Kind::Query => {
            let group = rng.chance(500);
            does(rng.pick(&[ClientDoes::Head, ClientDoes::Sync, ClientDoes::Look { group }, ClientDoes::Ping]).clone())
        }
        Kind::Stall => does(ClientDoes::Stall { ms: rng.between(50, 2_500) }),
        Kind::Reconnect => does(ClientDoes::Close),
        Kind::Reset => does(ClientDoes::Reset),
        Kind::Vanish => does(ClientDoes::Vanish),
        Kind::Forget(cursors) => does(ClientDoes::Forget(cursors)),
        Kind::GatewayCrash => Action::CrashGateway { gateway: rng.index(shape.gateways) },
        Kind::Drain => Action::DrainGateway { gateway: rng.index(shape.gateways) },
        Kind::ControlCrash => Action::CrashControl,
        Kind::StoreDies => Action::StoreDies { after: rng.below(4) as u32, kept: rng.below(4) as u32 },
        Kind::StoreAway => Action::StoreAway { commits: *rng.pick(&[1, 2, 5, 25]) },
        Kind::Trim => Action::Trim { keep: rng.below(20) },
        Kind::LoseDisk => Action::LoseDisk,
        Kind::TakeOver => Action::TakeOver,
        Kind::LinkBreak => Action::BreakLink { gateway: rng.index(shape.gateways) },
        Kind::ClockJump => {
            let ms = rng.between(1, 90_000) as i64;
            Action::JumpClock { ms: if rng.chance(500) { ms } else { -ms } }
        }
    }
}

fn push(rng: &mut Rng, features: Features, to: Target, ephemeral: bool) -> Action {
    let most = if features.has(Feature::Bursts) { *rng.pick(&[1, 3, 12, 40]) } else { 2 };
    let platform = (features.has(Feature::Platforms) && rng.chance(300)).then(|| rng.below(3) as u8);
    let ttl_s = if features.has(Feature::Expiry) && rng.chance(300) { 1 } else { 0 };
    let count = rng.between(1, most) as u32;
    Action::Push { to, count, bytes: size(rng, features), keyed: rng.chance(600), ephemeral, platform, ttl_s }
}

fn size(rng: &mut Rng, features: Features) -> usize {
    match features.has(Feature::BigMessages) && rng.chance(300) {
        true => rng.between(800, 9_000) as usize,
        false => rng.between(1, 60) as usize,
    }
}
