//! Look-ups: one batch, one answer for each of its items, `None` for whatever is not known or could not be asked.

use std::sync::atomic::Ordering;

use redis::Value;
use tidegate_control_core::domain::{Epoch, Seq, StreamKey, Uid};
use tidegate_control_core::ports::DedupHit;
use tidegate_control_core::ports::cache::{
    Connection, CursorKey, Entry, HOT_MESSAGES_MAX, Incarnation, IncarnationTag, Live, Published, Queued, Ring,
    RunQuery, Sweep,
};

use super::calls::Call;
use super::codec;
use super::keys::Key;
use super::link::Answer;
use super::shared::{Shared, now_s};

/// Buckets that one sweep looks at.
const SWEEP_BUCKETS: u32 = 256;

impl Shared {
    pub async fn routes_of(&self, users: &[Uid], live: &Live) -> Vec<Option<Vec<Connection>>> {
        let call = |uid: &Uid| Call::command("HGET", self.speaker.keys.routes(uid).routes).arg(uid.as_str());
        let answers = self.read(users.iter().map(call).collect()).await;
        let (now_s, mut dead) = (now_s(), Vec::new());
        let connections = users.iter().zip(answers).map(|(uid, answer)| match answer? {
            Value::BulkString(field) => Some(self.resolve(uid, &field, live, now_s, &mut dead)),
            Value::Nil => Some(Vec::new()),
            _ => None,
        });
        let connections = connections.collect();
        self.sweep_later(dead);
        connections
    }

    fn resolve(
        &self,
        uid: &Uid,
        field: &[u8],
        live: &Live,
        now_s: u32,
        dead: &mut Vec<(Uid, IncarnationTag)>,
    ) -> Vec<Connection> {
        let listed = codec::listed(field).filter(|listed| !listed.is_over(now_s));
        let resolve = |listed: codec::Listed<'_>| {
            let connection = listed.resolve(live);
            if connection.is_none() && self.is_dead(listed.tag, live) {
                dead.push((uid.clone(), listed.tag));
            }
            connection
        };
        listed.filter_map(resolve).collect()
    }

    pub async fn route_counts(&self, gateways: &[Incarnation]) -> Vec<Option<u64>> {
        let tags: Vec<Vec<u8>> = gateways.iter().map(|at| IncarnationTag::of(at).0.to_vec()).collect();
        if tags.is_empty() {
            return Vec::new();
        }
        let calls = self.speaker.keys.route_counts().into_iter();
        let answers = self.read(calls.map(|key| Call::command("HMGET", key).args(tags.clone())).collect()).await;
        let mut sums = vec![Some(0); gateways.len()];
        for answer in answers {
            let Some(Value::Array(counts)) = answer else { return vec![None; gateways.len()] };
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum = sum.map(|sum| sum + number(&count).unwrap_or(0));
            }
        }
        sums
    }

    pub async fn heads(&self, streams: &[StreamKey]) -> Vec<Option<(Epoch, Seq)>> {
        let values = self.get_many(streams.iter().map(|stream| self.speaker.keys.head(stream))).await;
        let backlog = self.backlog();
        let heads = streams.iter().zip(values);
        heads.map(|(stream, value)| codec::decode_head(&value?).filter(|_| !backlog.owes(stream))).collect()
    }

    pub async fn dedup(&self, keys: &[[u8; 16]]) -> Vec<Option<DedupHit>> {
        let values = self.get_many(keys.iter().map(|key| self.speaker.keys.dedup(key))).await;
        values.into_iter().map(|value| codec::decode_dedup(&value?)).collect()
    }

    pub async fn hot(&self, places: &[RunQuery]) -> Vec<Option<Vec<Entry>>> {
        let call = |place: &RunQuery| {
            let most = place.limit.saturating_add(1).min(HOT_MESSAGES_MAX);
            // The place itself shows that the list reaches back to it, even when nothing follows.
            let range = Call::command("ZRANGEBYSCORE", self.speaker.keys.hot(&place.stream)).number(place.after);
            range.arg("+inf").arg("LIMIT").arg("0").number(most)
        };
        let answers = self.read(places.iter().map(call).collect()).await;
        let answers: Vec<_> = places.iter().zip(answers).map(|(place, answer)| contiguous(place, answer?)).collect();
        let backlog = self.backlog();
        places.iter().zip(answers).map(|(place, run)| run.filter(|_| !backlog.owes(&place.stream))).collect()
    }

    pub async fn queued(&self, places: &[RunQuery]) -> Vec<Queued> {
        let call = |place: &RunQuery| {
            let call = Call::script(&self.speaker.scripts.queue_read, self.speaker.keys.queue(&place.stream), None);
            call.arg(place.epoch.0.to_be_bytes()).number(place.after).number(place.limit)
        };
        let answers = self.read(places.iter().map(call).collect()).await;
        let backlog = self.backlog();
        let answer = |(place, answer): (&RunQuery, Option<Value>)| match answer {
            Some(value) if !backlog.owes(&place.stream) => short_queue(place, value).unwrap_or(Queued::Unknown),
            _ => Queued::Unknown,
        };
        places.iter().zip(answers).map(answer).collect()
    }

    pub async fn cursors(&self, keys: &[CursorKey]) -> Vec<Option<(Epoch, Seq)>> {
        let call = |key: &CursorKey| {
            Call::command("HGET", self.speaker.keys.cursor(&key.uid, &key.device)).arg(key.stream.as_str())
        };
        let answers = self.read(keys.iter().map(call).collect()).await;
        answers.into_iter().map(|answer| codec::decode_head(&bulk(answer?)?)).collect()
    }

    pub async fn ring(&self) -> Option<Ring> {
        let call = Call::command("HMGET", self.speaker.keys.ring()).arg("version").arg("json");
        let Value::Array(fields) = self.read(vec![call]).await.pop()?? else { return None };
        let [version, json] = <[Value; 2]>::try_from(fields).ok()?;
        Some(Ring { version: number(&version)?, json: String::from_utf8(bulk(json)?).ok()?.into() })
    }

    pub async fn publish_ring(&self, ring: Ring) -> Published {
        let call = Call::script(&self.speaker.scripts.ring, self.speaker.keys.ring(), None);
        let call = call.number(ring.version).arg(ring.json.as_bytes());
        match self.read(vec![call]).await.pop().flatten() {
            Some(Value::Int(0)) => Published::Done,
            Some(Value::Int(stands)) => Published::Stands(stands.unsigned_abs()),
            _ => Published::Away,
        }
    }

    /// Walks the buckets, some at a time. Without buckets there is nothing to walk: routes with names of their own go when they
    /// are met, or with `ttl.routes_s`.
    pub async fn sweep(&self, live: &Live) -> Sweep {
        let buckets = self.speaker.keys.buckets();
        let from = self.swept.load(Ordering::Relaxed);
        let upto = from.saturating_add(SWEEP_BUCKETS).min(buckets);
        let places: Vec<_> = (from..upto).filter_map(|bucket| self.speaker.keys.bucket(bucket)).collect();
        let calls = places.into_iter().map(|place| Call::command("HGETALL", place.routes)).collect();
        let (now_s, mut drops) = (now_s(), Vec::new());
        for answer in self.read(calls).await {
            // Away: this part is walked again.
            let Some(value) = answer else { return Sweep::default() };
            for (uid, field) in pairs(value) {
                let gone = |listed: &codec::Listed<'_>| listed.is_over(now_s) || self.is_dead(listed.tag, live);
                let prefixes: Vec<Vec<u8>> =
                    codec::listed(&field).filter(gone).map(|listed| listed.identity.to_vec()).collect();
                if let (false, Ok(uid)) = (prefixes.is_empty(), uid.parse::<Uid>()) {
                    drops.push(self.speaker.drop_routes(&uid, prefixes));
                }
            }
        }
        let done = upto >= buckets;
        self.swept.store(if done { 0 } else { upto }, Ordering::Relaxed);
        let removed = match drops.is_empty() {
            true => 0,
            false => self.read(drops).await.iter().flatten().filter_map(number).sum(),
        };
        Sweep { removed, done }
    }

    /// The values of many keys, with one request for each slot.
    async fn get_many(&self, keys: impl Iterator<Item = Key>) -> Vec<Option<Vec<u8>>> {
        let mut groups: Vec<(u16, Vec<usize>, Vec<Vec<u8>>)> = Vec::new();
        let mut by_slot = std::collections::BTreeMap::new();
        let mut count = 0;
        for (at, key) in keys.enumerate() {
            count = at + 1;
            let group = *by_slot.entry(key.slot).or_insert_with(|| {
                groups.push((key.slot, Vec::new(), Vec::new()));
                groups.len() - 1
            });
            groups[group].1.push(at);
            groups[group].2.push(key.name);
        }
        let mut found: Vec<Option<Vec<u8>>> = vec![None; count];
        let (mut places, mut calls) = (Vec::new(), Vec::new());
        for (slot, members, mut names) in groups {
            places.push(members);
            let first = names.remove(0);
            calls.push(Call::command("MGET", Key { slot, name: first }).args(names));
        }
        for (members, answer) in places.into_iter().zip(self.read(calls).await) {
            let Some(Value::Array(values)) = answer else { continue };
            members.into_iter().zip(values).for_each(|(at, value)| found[at] = bulk(value));
        }
        found
    }

    async fn read(&self, calls: Vec<Call<'_>>) -> Vec<Option<Value>> {
        if calls.is_empty() {
            return Vec::new();
        }
        let count = calls.len();
        let answers = self.ask(&self.reading, &calls).await;
        let answers = answers.unwrap_or_else(|| (0..count).map(|_| Answer::Away).collect());
        let mut failed = 0;
        let values = answers.into_iter().map(|answer| match answer {
            Answer::Value(Value::ServerError(error)) => {
                tracing::debug!(code = error.code(), "Redis refused a look-up");
                failed += 1;
                None
            }
            Answer::Value(value) => Some(value),
            Answer::Away => {
                failed += 1;
                None
            }
        });
        let values = values.collect();
        self.counters.reads_failed.fetch_add(failed, Ordering::Relaxed);
        values
    }
}

fn contiguous(place: &RunQuery, answer: Value) -> Option<Vec<Entry>> {
    let Value::Array(members) = answer else { return None };
    let mut entries = Vec::with_capacity(members.len());
    for member in members {
        entries.push(codec::decode_entry(bulk(member)?, place.epoch)?);
    }
    let first = entries.first()?.seq;
    let follow = entries.windows(2).all(|pair| pair[1].seq == pair[0].seq.next());
    if first == place.after {
        entries.remove(0);
    } else if first != place.after.next() {
        return None;
    }
    entries.truncate(place.limit);
    follow.then_some(entries)
}

fn short_queue(place: &RunQuery, value: Value) -> Option<Queued> {
    let Value::Array(parts) = value else { return None };
    let mut parts = parts.into_iter();
    let (kind, seq) = (number(&parts.next()?)?, Seq(number(&parts.next()?)?));
    if kind == 0 {
        return Some(Queued::Trimmed { oldest: seq });
    }
    let mut entries = Vec::new();
    for element in parts.rev() {
        entries.push(codec::decode_entry(bulk(element)?, place.epoch)?);
    }
    let expected = (place.after.0 + 1..).zip(&entries).all(|(seq, entry)| entry.seq.0 == seq);
    // A page that was cut short covers up to its end.
    let upto = entries.last().map_or(place.after, |last| last.seq);
    expected.then_some(Queued::Covers { upto, entries })
}

fn bulk(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

fn pairs(value: Value) -> Vec<(String, Vec<u8>)> {
    let pair = |(name, value)| Some((String::from_utf8(bulk(name)?).ok()?, bulk(value)?));
    match value {
        Value::Map(pairs) => pairs.into_iter().filter_map(pair).collect(),
        Value::Array(flat) => {
            let mut flat = flat.into_iter();
            std::iter::from_fn(|| Some((flat.next()?, flat.next()?))).filter_map(pair).collect()
        }
        _ => Vec::new(),
    }
}
