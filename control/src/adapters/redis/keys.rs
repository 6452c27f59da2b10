//! Names of keys, and where in a cluster they stand.
//!
//! A cluster takes a pipeline for one slot only, so everything is spread over a few hash tags, which are chosen so that their
//! slots stand at even distances: a batch falls into one pipeline per tag, and every master gets its share. What belongs together
//! (a bucket of routes and its counts; head, hot list and short queue of a stream) has one tag. A single server needs none of
//! it, and its keys have no tag.

use tidegate_control_core::domain::{StreamKey, StreamKind, Uid};
use tidegate_control_core::ports::cache::Channel;

use super::settings::RedisSettings;

const SLOTS: u32 = 16_384;
/// Longest text of a device in a key; a longer one is there as its hash.
const DEVICE_BYTES_MAX: usize = 64;

/// A key and the slot that it stands in; 0 on a single server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub slot: u16,
    pub name: Vec<u8>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadTemplate {
    #[error("at most 128 visible ASCII characters")]
    Text,
    #[error("`{{{0}}}` is not known here")]
    Unknown(String),
    #[error("`{{{0}}}` is missing")]
    Missing(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(&'static str),
}

/// A name with places for fields, such as `Group:{gid}:Seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl Template {
    pub fn parse(text: &str, fields: &'static [&'static str]) -> Result<Template, BadTemplate> {
        if text.len() > 128 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(BadTemplate::Text);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(BadTemplate::Text)?;
            let unknown = || BadTemplate::Unknown(name.to_owned());
            let field = fields.iter().find(|field| **field == name).ok_or_else(unknown)?;
            parts.extend([Part::Text(before.to_owned()), Part::Field(field)]);
            rest = after;
        }
        if rest.contains('}') {
            return Err(BadTemplate::Text);
        }
        parts.push(Part::Text(rest.to_owned()));
        match fields.iter().find(|field| !parts.contains(&Part::Field(field))) {
            Some(missing) => Err(BadTemplate::Missing(missing)),
            None => Ok(Template(parts)),
        }
    }

    fn render(&self, name: &mut Vec<u8>, fields: &[(&str, &str)]) {
        for part in &self.0 {
            match part {
                Part::Text(text) => name.extend_from_slice(text.as_bytes()),
                Part::Field(field) => {
                    let value = fields.iter().find(|(key, _)| key == field).map_or("", |(_, value)| value);
                    name.extend_from_slice(value.as_bytes());
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
    cluster_name: String,
    /// With their slots; empty on a single server.
    tags: Vec<(String, u16)>,
    buckets: u32,
    routes: Routes,
    route_counts: Template,
    instance: Option<Template>,
    group_head: Template,
    stream_head: Template,
    dedup: Template,
    hot: Template,
    queue: Template,
    cursor: Template,
    ring: Template,
    marker: Template,
}

#[derive(Clone, Debug)]
enum Routes {
    Buckets(Template),
    Users(Template),
}

/// Where a user's routes stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePlace {
    pub routes: Key,
    pub counts: Vec<u8>,
}

impl Keys {
    pub fn new(settings: &RedisSettings) -> Result<Keys, BadTemplate> {
        let names = &settings.keys;
        let tags = match settings.cluster {
            true => (0..settings.bounds.tags).map(|at| tag(at, settings.bounds.tags)).collect(),
            false => Vec::new(),
        };
        let routes = match names.routes.contains("{uid}") {
            true => Routes::Users(Template::parse(&names.routes, &["uid"])?),
            false => Routes::Buckets(Template::parse(&names.routes, &["bucket"])?),
        };
        let instance = match names.instance.is_empty() {
            true => None,
            false => Some(Template::parse(&names.instance, &["uid"])?),
        };
        Ok(Keys {
            prefix: settings.prefix.clone(),
            cluster_name: settings.cluster_name.clone(),
            tags,
            buckets: settings.bounds.route_buckets.max(1),
            routes,
            instance,
            route_counts: Template::parse(&names.route_counts, &[])?,
            group_head: Template::parse(&names.group_head, &["gid"])?,
            stream_head: Template::parse(&names.stream_head, &["stream"])?,
            dedup: Template::parse(&names.dedup, &["key"])?,
            hot: Template::parse(&names.hot, &["stream"])?,
            queue: Template::parse(&names.queue, &["uid"])?,
            cursor: Template::parse(&names.cursor, &["uid", "device"])?,
            ring: Template::parse(&names.ring, &["cluster"])?,
            marker: Template::parse(&names.marker, &[])?,
        })
    }

    pub fn routes(&self, uid: &Uid) -> RoutePlace {
        let hash = crc32fast::hash(uid.as_str().as_bytes());
        match &self.routes {
            Routes::Buckets(_) => self.bucket(hash % self.buckets).unwrap_or_else(|| self.user_routes(hash, uid)),
            Routes::Users(_) => self.user_routes(hash, uid),
        }
    }

    fn user_routes(&self, hash: u32, uid: &Uid) -> RoutePlace {
        let (Routes::Users(template) | Routes::Buckets(template)) = &self.routes;
        self.route_place(hash, template, &[("uid", uid.as_str())])
    }

    /// `None`: routes do not stand in buckets.
    pub fn bucket(&self, bucket: u32) -> Option<RoutePlace> {
        match &self.routes {
            Routes::Buckets(template) => {
                let number = bucket.to_string();
                Some(self.route_place(bucket, template, &[("bucket", number.as_str())]))
            }
            Routes::Users(_) => None,
        }
    }

    pub fn buckets(&self) -> u32 {
        match &self.routes {
            Routes::Buckets(_) => self.buckets,
            Routes::Users(_) => 0,
        }
    }

    fn route_place(&self, hash: u32, template: &Template, fields: &[(&str, &str)]) -> RoutePlace {
        let routes = self.key(hash, template, fields);
        RoutePlace { routes, counts: self.key(hash, &self.route_counts, &[]).name }
    }

    /// Of every tag.
    pub fn route_counts(&self) -> Vec<Key> {
        self.everywhere(&self.route_counts)
    }

    pub fn markers(&self) -> Vec<Key> {
        self.everywhere(&self.marker)
    }

    pub fn instance(&self, uid: &Uid) -> Option<Key> {
        let template = self.instance.as_ref()?;
        Some(self.key(crc32fast::hash(uid.as_str().as_bytes()), template, &[("uid", uid.as_str())]))
    }

    pub fn head(&self, stream: &StreamKey) -> Key {
        match stream.kind() {
            StreamKind::Group => self.of_stream(stream, &self.group_head, &[("gid", stream.name())]),
            _ => self.of_stream(stream, &self.stream_head, &[("stream", stream.as_str())]),
        }
    }

    pub fn hot(&self, stream: &StreamKey) -> Key {
        self.of_stream(stream, &self.hot, &[("stream", stream.as_str())])
    }

    /// For an inbox `u:<uid>`.
    pub fn queue(&self, inbox: &StreamKey) -> Key {
        self.of_stream(inbox, &self.queue, &[("uid", inbox.name())])
    }

    pub fn dedup(&self, key: &[u8; 16]) -> Key {
        let hash = u32::from_le_bytes([key[0], key[1], key[2], key[3]]);
        self.key(hash, &self.dedup, &[("key", hex(key).as_str())])
    }

    pub fn cursor(&self, uid: &Uid, device: &str) -> Key {
        let device = plain(device);
        let fields = [("uid", uid.as_str()), ("device", device.as_str())];
        self.key(crc32fast::hash(uid.as_str().as_bytes()), &self.cursor, &fields)
    }

    /// One for the whole cluster, so it needs no tag.
    pub fn ring(&self) -> Key {
        let mut name = self.prefix.clone().into_bytes();
        self.ring.render(&mut name, &[("cluster", &self.cluster_name)]);
        self.untagged(name)
    }

    pub fn channel(&self, channel: &Channel) -> Key {
        self.untagged(format!("{}{}", self.prefix, channel.as_str()).into_bytes())
    }

    /// The channel of a name that a server sent.
    pub fn channel_of(&self, name: &str) -> Option<Channel> {
        name.strip_prefix(&self.prefix)?.parse().ok()
    }

    fn untagged(&self, name: Vec<u8>) -> Key {
        let slot = if self.tags.is_empty() { 0 } else { slot(&name) };
        Key { slot, name }
    }

    fn everywhere(&self, template: &Template) -> Vec<Key> {
        (0..self.tags.len().max(1)).map(|at| self.key(at as u32, template, &[])).collect()
    }

    fn of_stream(&self, stream: &StreamKey, template: &Template, fields: &[(&str, &str)]) -> Key {
        self.key(crc32fast::hash(stream.as_str().as_bytes()), template, fields)
    }

    fn key(&self, hash: u32, template: &Template, fields: &[(&str, &str)]) -> Key {
        let mut name = Vec::with_capacity(64);
        name.extend_from_slice(self.prefix.as_bytes());
        let slot = match self.tags.get(hash as usize % self.tags.len().max(1)) {
            Some((tag, slot)) => {
                name.extend_from_slice(tag.as_bytes());
                *slot
            }
            None => 0,
        };
        template.render(&mut name, fields);
        Key { slot, name }
    }
}

/// The first number whose slot stands in the tag's own part of all slots.
fn tag(at: u16, of: u16) -> (String, u16) {
    let part = |at: u16| u32::from(at) * SLOTS / u32::from(of);
    let wanted = part(at)..part(at + 1);
    let mut number = 0u32;
    loop {
        let text = number.to_string();
        let slot = slot(text.as_bytes());
        if wanted.contains(&u32::from(slot)) {
            return (format!("{{{text}}}"), slot);
        }
        number += 1;
    }
}

/// CRC-16/XMODEM, as the Redis Cluster specification says; of a name without braces.
fn slot(name: &[u8]) -> u16 {
    let mut crc = 0u16;
    for byte in name {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        }
    }
    crc % SLOTS as u16
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whatever a client called its device, the key has one line, no separator of ours, and a bound.
fn plain(device: &str) -> String {
    use sha2::Digest as _;
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"_.@-".contains(&b);
    match device.len() <= DEVICE_BYTES_MAX && device.bytes().all(ok) {
        true => device.to_owned(),
        false => format!("#{}", hex(&sha2::Sha256::digest(device.as_bytes())[..16])),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use redis::cluster_routing::{Route, SlotAddr};

    use super::super::settings::KeySettings;
    use super::*;

    fn keys(cluster: bool) -> Keys {
        Keys::new(&RedisSettings { cluster, ..RedisSettings::default() }).expect("valid templates")
    }

    fn text(key: &Key) -> &str {
        std::str::from_utf8(&key.name).expect("ASCII")
    }

    #[test]
    fn a_single_server_has_the_names_that_the_templates_say() {
        let keys = keys(false);
        let (uid, group): (Uid, StreamKey) = ("ann".parse().expect("uid"), "g:go".parse().expect("stream"));
        assert_eq!(text(&keys.head(&group)), "Group:go:Seq");
        assert_eq!(text(&keys.head(&uid.stream())), "Stream:u:ann:Seq");
        assert_eq!(text(&keys.queue(&uid.stream())), "Offline:ann");
        assert_eq!(text(&keys.ring()), "ring:tidegate");
        assert_eq!(keys.head(&group).slot, 0);
        let users =
            KeySettings { routes: "User:Connect:{uid}".into(), instance: "user:{uid}".into(), ..Default::default() };
        let keys = Keys::new(&RedisSettings { keys: users, prefix: "p:".into(), ..Default::default() }).expect("valid");
        assert_eq!(text(&keys.routes(&uid).routes), "p:User:Connect:ann");
        assert_eq!(keys.instance(&uid).as_ref().map(text), Some("p:user:ann"));
    }

    #[test]
    fn in_a_cluster_every_key_stands_in_the_slot_that_it_is_sent_to() {
        let keys = keys(true);
        let uid: Uid = "ann".parse().expect("uid");
        let place = keys.routes(&uid);
        let mut all = vec![place.routes.clone(), keys.ring(), keys.dedup(&[7; 16]), keys.cursor(&uid, "a b")];
        all.extend([keys.hot(&uid.stream()), keys.head(&uid.stream()), keys.queue(&uid.stream())]);
        all.extend(keys.markers());
        all.push(Key { slot: place.routes.slot, name: place.counts });
        for key in all {
            let routed = Route::with_key(&key.name, SlotAddr::Master);
            assert_eq!(Route::new(key.slot, SlotAddr::Master), routed, "{}", text(&key));
        }
    }

    #[test]
    fn tags_spread_evenly_over_the_slots() {
        let slots: BTreeSet<u16> = keys(true).markers().iter().map(|key| key.slot).collect();
        assert_eq!(slots.len(), 24);
        for master in 0..3u16 {
            let own = |slot: &&u16| **slot / 5_462 == master;
            assert_eq!(slots.iter().filter(own).count(), 8);
        }
    }

    #[test]
    fn no_device_splits_a_key() {
        let keys = keys(false);
        let uid: Uid = "ann".parse().expect("uid");
        let long = "x".repeat(10_000);
        for device in ["a\r\nDEL", "a:b", "{x}", "", "ä", &long, "\0"] {
            let key = keys.cursor(&uid, device);
            assert!(key.name.len() < 200 && key.name.iter().all(u8::is_ascii_graphic), "{}", text(&key));
            assert_eq!(text(&key).matches(':').count(), 2);
        }
        assert_ne!(keys.cursor(&uid, "a:b"), keys.cursor(&uid, "a_b"));
    }
}
