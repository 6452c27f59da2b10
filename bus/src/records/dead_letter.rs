//! A record that could not be handled, whole, with where it stood and why it was given up.

use serde::{Deserialize, Serialize};

use super::fields;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub value: Vec<u8>,
    /// Of the consumers that gave it up.
    pub group: String,
    pub reason: String,
    pub class: ErrorClass,
    pub attempts: u32,
    /// Milliseconds since the Unix epoch: when the record was produced, and when it was given up.
    pub produced_at: i64,
    pub failed_at: i64,
    pub version: u32,
}

/// Only what will fail again for the same reason ends as a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorClass {
    /// The bytes are no record.
    Undecodable,
    /// A record, but not one that can be meant.
    Invalid,
    /// Understood, and refused by a rule.
    Refused,
}

impl ErrorClass {
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorClass::Undecodable => "undecodable",
            ErrorClass::Invalid => "invalid",
            ErrorClass::Refused => "refused",
        }
    }
}

/// The JSON form: keys are text where they can be, so that people can search for them.
#[derive(Serialize, Deserialize)]
pub(super) struct Json {
    topic: String,
    partition: i32,
    offset: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, with = "fields::bytes", skip_serializing_if = "Option::is_none")]
    key_b64: Option<Vec<u8>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<Header>,
    #[serde(default, with = "fields::bytes")]
    value_b64: Option<Vec<u8>>,
    #[serde(default)]
    group: String,
    reason: String,
    error_class: ErrorClass,
    #[serde(default)]
    attempts: u32,
    #[serde(default)]
    produced_at: i64,
    failed_at: i64,
    #[serde(default = "fields::default_version")]
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Header {
    name: String,
    #[serde(default, with = "fields::bytes")]
    value_b64: Option<Vec<u8>>,
}

impl From<DeadLetter> for Json {
    fn from(letter: DeadLetter) -> Json {
        let (key, key_b64) = match letter.key.map(String::from_utf8) {
            None => (None, None),
            Some(Ok(text)) => (Some(text), None),
            Some(Err(bytes)) => (None, Some(bytes.into_bytes())),
        };
        let headers = letter.headers.into_iter();
        Json {
            topic: letter.topic,
            partition: letter.partition,
            offset: letter.offset,
            key,
            key_b64,
            headers: headers.map(|(name, value)| Header { name, value_b64: Some(value) }).collect(),
            value_b64: Some(letter.value),
            group: letter.group,
            reason: letter.reason,
            error_class: letter.class,
            attempts: letter.attempts,
            produced_at: letter.produced_at,
            failed_at: letter.failed_at,
            version: letter.version,
        }
    }
}

impl From<Json> for DeadLetter {
    fn from(json: Json) -> DeadLetter {
        let headers = json.headers.into_iter();
        DeadLetter {
            topic: json.topic,
            partition: json.partition,
            offset: json.offset,
            key: json.key.map(String::into_bytes).or(json.key_b64),
            headers: headers.map(|header| (header.name, header.value_b64.unwrap_or_default())).collect(),
            value: json.value_b64.unwrap_or_default(),
            group: json.group,
            reason: json.reason,
            class: json.error_class,
            attempts: json.attempts,
            produced_at: json.produced_at,
            failed_at: json.failed_at,
            version: json.version,
        }
    }
}
