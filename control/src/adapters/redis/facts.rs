//! From facts to requests.

use tidegate_control_core::domain::Uid;
use tidegate_control_core::domain::{Epoch, OwnerEpoch, Seq};
use tidegate_control_core::ports::cache::{
    CONNECTIONS_PER_USER_MAX, Connection, Fact, HOT_MESSAGES_MAX, IncarnationTag, OwnedRun, RouteKey,
};

use super::calls::{Call, Script, Scripts};
use super::codec;
use super::keys::{Key, Keys};
use super::settings::{BoundSettings, TtlSettings};

/// What is needed to speak of facts.
#[derive(Debug)]
pub struct Speaker {
    pub keys: Keys,
    pub scripts: Scripts,
    pub ttl: TtlSettings,
    pub bounds: BoundSettings,
}

impl Speaker {
    /// Requests that write one fact. None at all: there is nothing to be said (an entry that is too long to be listed).
    pub fn say<'a>(&'a self, fact: &Fact, now_s: u32) -> Vec<Call<'a>> {
        match fact {
            Fact::Online { uid, connection } => self.online(uid, connection, now_s),
            Fact::Offline(route) => self.offline(route),
            Fact::Void(incarnation) => {
                let tag = IncarnationTag::of(incarnation);
                let counts = self.keys.route_counts().into_iter();
                counts.map(|key| Call::command("HDEL", key).arg(tag.0)).collect()
            }
            Fact::Head { stream, epoch, seq, owner } => {
                let call = Call::script(&self.scripts.head, self.keys.head(stream), None);
                vec![place(call, *epoch, *seq, *owner).number(ms(self.ttl.heads_s))]
            }
            Fact::Dedup { key, hit, owner } => {
                let call = Call::script(&self.scripts.dedup, self.keys.dedup(key), None);
                vec![call.arg(codec::encode_dedup(hit, *owner)).number(ms(self.ttl.dedup_s))]
            }
            Fact::Hot(run) => {
                let keep = HOT_MESSAGES_MAX;
                vec![self.run(run, &self.scripts.hot_put, self.keys.hot(&run.stream), keep, self.ttl.hot_s)]
            }
            Fact::Queue(run) => {
                let keep = self.bounds.queue_messages_max as usize;
                vec![self.run(run, &self.scripts.queue_put, self.keys.queue(&run.stream), keep, self.ttl.queue_s)]
            }
            Fact::Cursor { key, epoch, seq, owner } => {
                let name = self.keys.cursor(&key.uid, &key.device);
                let call = place(Call::script(&self.scripts.cursor, name, None), *epoch, *seq, *owner);
                let call = call.number(ms(self.ttl.cursors_s)).arg(key.stream.as_str());
                vec![call.number(self.bounds.cursor_streams_max)]
            }
            Fact::Forget(stream) => {
                let others = [self.keys.hot(stream).name, self.keys.queue(stream).name];
                vec![Call::command("DEL", self.keys.head(stream)).args(others)]
            }
            Fact::Publish { channel, bytes } => {
                vec![Call::command("PUBLISH", self.keys.channel(channel)).arg(&bytes[..])]
            }
        }
    }

    fn online<'a>(&'a self, uid: &Uid, connection: &Connection, now_s: u32) -> Vec<Call<'a>> {
        let ttl = self.ttl.routes_s;
        let until = if ttl == 0 { 0 } else { now_s.saturating_add(ttl) };
        let Some(entry) = codec::encode_connection(connection, until) else { return Vec::new() };
        let Some(identity) = codec::identity(&connection.at, &connection.id) else { return Vec::new() };
        let place = self.keys.routes(uid);
        let call = Call::script(&self.scripts.route_put, place.routes, Some(place.counts));
        let call = call.arg(uid.as_str()).arg(identity).arg(entry).number(CONNECTIONS_PER_USER_MAX).number(ttl);
        let instance = self.keys.instance(uid).map(|key| {
            let call = Call::command("SET", key).arg(connection.at.gateway.as_bytes());
            if ttl == 0 { call } else { call.arg("EX").number(ttl) }
        });
        [Some(call), instance].into_iter().flatten().collect()
    }

    fn offline<'a>(&'a self, route: &RouteKey) -> Vec<Call<'a>> {
        let Some(identity) = codec::identity(&route.at, &route.id) else { return Vec::new() };
        let instance = self
            .keys
            .instance(&route.uid)
            .map(|key| Call::script(&self.scripts.instance_drop, key, None).arg(route.at.gateway.as_bytes()));
        [Some(self.drop_routes(&route.uid, [identity])), instance].into_iter().flatten().collect()
    }

    /// Removes the connections of a user that begin so.
    pub fn drop_routes<'a>(&'a self, uid: &Uid, prefixes: impl IntoIterator<Item = Vec<u8>>) -> Call<'a> {
        let place = self.keys.routes(uid);
        Call::script(&self.scripts.route_drop, place.routes, Some(place.counts)).arg(uid.as_str()).args(prefixes)
    }

    /// Messages that are too large end a list: what follows them begins it anew.
    fn run<'a>(&'a self, run: &OwnedRun, script: &'a Script, key: Key, keep: usize, ttl_s: u32) -> Call<'a> {
        let entries = run.kept(keep, self.bounds.message_bytes_max as usize);
        let Some(first) = entries.first() else { return Call::command("DEL", key) };
        let call = Call::script(script, key, None).arg(run.owner.0.to_be_bytes()).arg(run.epoch.0.to_be_bytes());
        let elements = entries.iter().map(|entry| codec::encode_entry(entry, run.epoch, run.owner));
        call.number(keep).number(ms(ttl_s)).number(first.seq).args(elements)
    }
}

fn place<'a>(call: Call<'a>, epoch: Epoch, seq: Seq, owner: OwnerEpoch) -> Call<'a> {
    call.number(seq).number(epoch).number(owner.0)
}

fn ms(seconds: u32) -> u64 {
    u64::from(seconds) * 1_000
}
