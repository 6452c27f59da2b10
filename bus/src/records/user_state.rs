//! A user's device came or went.

use serde::{Deserialize, Serialize};

use super::fields;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserState {
    #[serde(deserialize_with = "fields::text")]
    pub user_id: String,
    #[serde(default)]
    pub device_id: String,
    #[serde(default)]
    pub platform: String,
    #[serde(default)]
    pub gateway_id: String,
    #[serde(default, deserialize_with = "fields::text")]
    pub connection_id: String,
    /// Of the gateway: a dead one's events say nothing about a later one.
    #[serde(default, deserialize_with = "fields::text")]
    pub incarnation: String,
    /// `online` or `offline`.
    #[serde(rename = "state", with = "state")]
    pub online: bool,
    /// Milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "fields::millis")]
    pub timestamp: i64,
    #[serde(default)]
    pub reason: String,
    #[serde(default = "fields::default_version", deserialize_with = "fields::version")]
    pub version: u32,
}

mod state {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(online: &bool, serializer: S) -> Result<S::Ok, S::Error> {
        if *online { "online" } else { "offline" }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
        match &*String::deserialize(deserializer)? {
            "online" => Ok(true),
            "offline" => Ok(false),
            other => Err(D::Error::custom(format!("{other:?} is neither online nor offline"))),
        }
    }
}
