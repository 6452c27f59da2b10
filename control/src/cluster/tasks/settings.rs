//! `[control.tasks]`: what a node does with the bus beside the upstream topic.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

pub(crate) const SECRET_BYTES_MIN: usize = 32;
const FANOUT_ABOVE_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TasksConfig {
    /// Owners keep every message in `message-history` as well.
    pub history: bool,
    /// Owners make tasks for users who are away.
    pub away: bool,
    /// Groups of more members get one `group_fanout`; in smaller ones the owner looks for who is away itself.
    pub fanout_above: usize,
    /// Nobody is woken for a message that is older.
    pub push_age_max_s: u32,
    pub offline_push: PushSettings,
}

/// Where offline pushes go.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushSettings {
    /// Of a webhook; absent: tasks are counted, and done.
    pub url: Option<String>,
    /// Shared with the webhook; at least 32 bytes.
    pub secret_file: Option<PathBuf>,
    /// Certificates (PEM) that vouch for it; absent: those of the usual public authorities.
    pub ca_file: Option<PathBuf>,
    /// For one request.
    pub timeout_ms: u32,
}

impl Default for TasksConfig {
    fn default() -> TasksConfig {
        TasksConfig {
            history: true,
            away: true,
            fanout_above: 100,
            push_age_max_s: 3_600,
            offline_push: PushSettings::default(),
        }
    }
}

impl Default for PushSettings {
    fn default() -> PushSettings {
        PushSettings { url: None, secret_file: None, ca_file: None, timeout_ms: 3_000 }
    }
}

/// Its URL may hold a token.
impl fmt::Debug for PushSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushSettings")
            .field("url", &self.url.as_ref().map(|_| "(given)"))
            .field("secret_file", &self.secret_file)
            .field("ca_file", &self.ca_file)
            .field("timeout_ms", &self.timeout_ms)
            .finish()
    }
}

impl TasksConfig {
    /// Keys with what is wrong about them.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let bounded = [
            ("fanout_above", self.fanout_above as u64, 1, FANOUT_ABOVE_MAX as u64),
            ("push_age_max_s", u64::from(self.push_age_max_s), 1, 7 * 86_400),
            ("offline_push.timeout_ms", u64::from(self.offline_push.timeout_ms), 10, 60_000),
        ];
        for (key, value, least, most) in bounded {
            if !(least..=most).contains(&value) {
                problems.push((key, format!("{value} is not in {least}..={most}")));
            }
        }
        let push = &self.offline_push;
        if let Some(url) = &push.url {
            if !url.starts_with("https://") && !url.starts_with("http://") {
                problems.push(("offline_push.url", "begins with https:// or http://".to_owned()));
            }
            if push.secret_file.is_none() {
                problems.push(("offline_push.secret_file", "is needed beside url".to_owned()));
            }
        } else if push.secret_file.is_some() || push.ca_file.is_some() {
            problems.push(("offline_push.url", "is needed beside secret_file and ca_file".to_owned()));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<&'static str> {
        let config: TasksConfig = toml::from_str(text).expect("settings");
        config.problems().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn good_settings_have_no_problems_and_bad_ones_all_of_theirs() {
        let good = "history = false\n[offline_push]\nurl = \"https://push.example/t\"\nsecret_file = \"/run/s\"";
        assert_eq!(keys(""), Vec::<&str>::new());
        assert_eq!(keys(good), Vec::<&str>::new());
        assert_eq!(keys("[offline_push]\nsecret_file = \"/run/s\""), ["offline_push.url"]);
        assert_eq!(
            keys("fanout_above = 0\npush_age_max_s = 0\n[offline_push]\nurl = \"ftp://x\"\ntimeout_ms = 1"),
            [
                "fanout_above",
                "push_age_max_s",
                "offline_push.timeout_ms",
                "offline_push.url",
                "offline_push.secret_file"
            ]
        );
        assert!(toml::from_str::<TasksConfig>("historie = true").is_err());
    }

    #[test]
    fn a_token_in_the_url_is_not_shown() {
        let config: TasksConfig =
            toml::from_str("[offline_push]\nurl = \"https://push.example/?token=s3cret\"").expect("settings");
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
