//! The topics, as data.

use serde::{Deserialize, Serialize};

use crate::records::TaskKey;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Kafka allows no longer name.
pub const TOPIC_BYTES_MAX: usize = 249;
pub const PARTITIONS_MAX: i32 = 1000;
/// From so many replicas on a write waits for two of them.
const REPLICAS_FOR_TWO_IN_SYNC: i32 = 3;

/// One topic as it is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    pub replicas: i32,
    pub retention_ms: i64,
    /// More topic settings of the broker.
    pub config: Vec<(String, String)>,
}

impl TopicSpec {
    /// The broker's settings. Compression is the producer's: brokers that compress again cost CPU and gain nothing. A replica
    /// that missed writes never becomes leader: it would lose what was acknowledged.
    pub fn broker_settings(&self) -> Vec<(&str, String)> {
        let in_sync = if self.replicas >= REPLICAS_FOR_TWO_IN_SYNC { 2 } else { 1 };
        let mut settings = vec![
            ("retention.ms", self.retention_ms.to_string()),
            ("compression.type", "producer".to_owned()),
            ("min.insync.replicas", in_sync.to_string()),
            ("unclean.leader.election.enable", "false".to_owned()),
        ];
        settings.extend(self.config.iter().map(|(key, value)| (&**key, value.clone())));
        settings
    }
}

/// `[bus.topics]`: names, partitions, replicas and retention of each topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Parts")]
pub struct Topics {
    /// Messages on their way to their sequencer, by stream key. `chat_input` is another common name for it.
    pub upstream: Topic,
    /// One for each gateway: `{gateway_id}` stands for its id.
    pub downstream: Topic,
    pub task: Topic,
    /// Users come and go.
    pub user_state: Topic,
    pub dead_letter: Topic,
    /// Sequenced messages, read by offset. 7 days, or 30.
    pub history: Topic,
    /// What tasks are keyed by: `type+id` spreads them, `type` keeps those of one type in order.
    pub task_key: TaskKey,
}

impl Default for Topics {
    fn default() -> Topics {
        let topic = |name: &str, partitions, replicas, days| Topic {
            name: name.to_owned(),
            partitions,
            replicas,
            retention_ms: days * DAY_MS,
        };
        Topics {
            upstream: topic("im-upstream-topic", 10, 3, 7),
            downstream: topic("im-downstream-topic-{gateway_id}", 3, 2, 1),
            task: topic("im-task-topic", 5, 3, 3),
            user_state: topic("user_state", 10, 3, 1),
            dead_letter: topic("dead-letter-topic", 3, 3, 14),
            history: topic("message-history", 10, 3, 7),
            task_key: TaskKey::TypeAndId,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    pub replicas: i32,
    pub retention_ms: i64,
}

impl Topic {
    pub fn spec(&self) -> TopicSpec {
        TopicSpec {
            name: self.name.clone(),
            partitions: self.partitions,
            replicas: self.replicas,
            retention_ms: self.retention_ms,
            config: Vec::new(),
        }
    }

    fn check(&self, problems: &mut Vec<String>) {
        let name = self.name.replace("{gateway_id}", "x");
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > TOPIC_BYTES_MAX || !name.bytes().all(ok) || name == "." || name == ".." {
            problems.push(format!("{:?} is no name of a topic", self.name));
        }
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            problems.push(format!("{}: partitions are 1 to {PARTITIONS_MAX}", self.name));
        }
        if self.replicas < 1 || self.retention_ms < 1 {
            problems.push(format!("{}: replicas and retention_ms are at least 1", self.name));
        }
    }
}

/// The groups of the topics, and how each reads.
pub const LOGIC_GROUP: &str = "im-logic-group";
pub const TASK_GROUP: &str = "im-task-group";
pub const PUSH_GROUP: &str = "push-group";

pub fn gateway_group(gateway_id: &str) -> String {
    format!("gateway-{gateway_id}-group")
}

impl Topics {
    pub fn downstream_of(&self, gateway_id: &str) -> TopicSpec {
        let mut spec = self.downstream.spec();
        spec.name = spec.name.replace("{gateway_id}", gateway_id);
        spec
    }

    /// All but the gateways' own, which are created when a gateway is seen.
    pub fn specs(&self) -> Vec<TopicSpec> {
        [&self.upstream, &self.task, &self.user_state, &self.dead_letter, &self.history].map(Topic::spec).into()
    }

    pub(crate) fn check(&self, problems: &mut Vec<String>) {
        let all = [&self.upstream, &self.downstream, &self.task, &self.user_state, &self.dead_letter, &self.history];
        for (at, topic) in all.iter().enumerate() {
            topic.check(problems);
            if all[..at].iter().any(|other| other.name == topic.name) {
                problems.push(format!("two topics are named {:?}", topic.name));
            }
        }
        if !self.downstream.name.contains("{gateway_id}") {
            problems.push("the name of the downstream topic holds {gateway_id}".to_owned());
        }
    }
}

/// The partition of a key, as the Java clients choose it (murmur2), so that other producers agree.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    let positive = (murmur2(key) & 0x7fff_ffff) as i32;
    positive % partitions.max(1)
}

/// Austin Appleby's MurmurHash2, 32 bit, with Kafka's seed.
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// A topic's table in the configuration names only what differs from the default.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Part {
    name: Option<String>,
    partitions: Option<i32>,
    replicas: Option<i32>,
    retention_ms: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parts {
    upstream: Part,
    downstream: Part,
    task: Part,
    user_state: Part,
    dead_letter: Part,
    history: Part,
    task_key: TaskKey,
}

impl From<Parts> for Topics {
    fn from(parts: Parts) -> Topics {
        let mut topics = Topics { task_key: parts.task_key, ..Topics::default() };
        for (topic, part) in [
            (&mut topics.upstream, parts.upstream),
            (&mut topics.downstream, parts.downstream),
            (&mut topics.task, parts.task),
            (&mut topics.user_state, parts.user_state),
            (&mut topics.dead_letter, parts.dead_letter),
            (&mut topics.history, parts.history),
        ] {
            if let Some(name) = part.name {
                topic.name = name;
            }
            topic.partitions = part.partitions.unwrap_or(topic.partitions);
            topic.replicas = part.replicas.unwrap_or(topic.replicas);
            topic.retention_ms = part.retention_ms.unwrap_or(topic.retention_ms);
        }
        topics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known values of the Java client's own test: a topic keyed by somebody else must find the same partition.
    #[test]
    fn keys_are_hashed_as_the_java_client_does() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
        assert_eq!(partition_of(b"anything", 1), 0);
    }

    #[test]
    fn two_in_sync_replicas_are_asked_for_where_there_are_three() {
        let in_sync = |topic: TopicSpec| {
            let found = topic.broker_settings().into_iter().find(|(key, _)| *key == "min.insync.replicas");
            found.map(|(_, value)| value)
        };
        let topics = Topics::default();
        assert_eq!(in_sync(topics.upstream.spec()).as_deref(), Some("2"));
        assert_eq!(in_sync(topics.downstream_of("gw-1")).as_deref(), Some("1"));
        assert_eq!(topics.downstream_of("gw-1").name, "im-downstream-topic-gw-1");
    }

    #[test]
    fn what_the_configuration_leaves_out_stays_as_it_is() {
        let topics: Topics =
            serde_json::from_str(r#"{"upstream": {"name": "chat_input"}, "history": {"retention_ms": 2592000000}}"#)
                .expect("topics");
        assert_eq!((&*topics.upstream.name, topics.upstream.partitions), ("chat_input", 10));
        assert_eq!((&*topics.history.name, topics.history.retention_ms), ("message-history", 30 * DAY_MS));
        assert!(serde_json::from_str::<Topics>(r#"{"upstream": {"partition": 3}}"#).is_err());
    }

    #[test]
    fn topics_that_cannot_be_are_named() {
        let mut topics = Topics::default();
        topics.task.name = "a b".to_owned();
        topics.history.partitions = 0;
        topics.user_state.name = topics.upstream.name.clone();
        topics.downstream.name = "down".to_owned();
        let mut problems = Vec::new();
        topics.check(&mut problems);
        assert_eq!(problems.len(), 4, "{problems:?}");
    }
}
