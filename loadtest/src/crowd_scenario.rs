//! Scenario files: what a run does and what it must keep. Unknown keys and impossible numbers are refused, all at once.

use serde::Deserialize;

/// Most connections of one agent in this form of the harness (ordinary descriptors).
pub const CONNECTIONS_MAX: usize = 18_000;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    #[serde(default)]
    pub connections: Connections,
    #[serde(default)]
    pub publish: Publish,
    pub slow: Option<Slow>,
    /// Unary pushes one after the other, before everything else, for their latency.
    #[serde(default)]
    pub unary_pushes: u64,
    #[serde(default)]
    pub thresholds: Thresholds,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    pub count: usize,
    /// New connections per second.
    pub ramp_per_second: f64,
    /// Groups that connections are spread over in turn; 0: none, only inboxes.
    pub groups: usize,
}

impl Default for Connections {
    fn default() -> Self {
        Connections { count: 0, ramp_per_second: 2_000.0, groups: 1 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum To {
    /// The groups of the connections, in turn.
    Groups,
    /// The inboxes of the connections, in turn.
    Inboxes,
    /// `publish.streams` group streams that nobody follows (ingestion only).
    Streams,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Publish {
    pub to: To,
    /// With `to = "streams"`: how many.
    pub streams: usize,
    /// Messages per second over all targets; 0: as fast as the window allows.
    pub per_second: f64,
    pub messages: u64,
    pub payload_bytes: usize,
    /// Most unanswered messages.
    pub in_flight: usize,
}

impl Default for Publish {
    fn default() -> Self {
        Publish {
            to: To::Groups,
            streams: 0,
            per_second: 100.0,
            messages: 1_000,
            payload_bytes: 128,
            in_flight: 10_000,
        }
    }
}

/// A share of the clients stops reading for a while.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    pub count: usize,
    /// Seconds after the first publish.
    pub after_s: f64,
    pub for_s: f64,
}

/// What must hold for a pass; absent: not asked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub published_per_second: Option<f64>,
    pub unary_p50_ms: Option<f64>,
    /// Each slow client must have been told a `gap`.
    pub slow_clients_get_a_gap: bool,
}

impl Scenario {
    /// Parses and checks; every problem is named.
    pub fn parse(text: &str) -> Result<Scenario, Vec<String>> {
        let scenario: Scenario = toml::from_str(text).map_err(|e| vec![e.to_string()])?;
        let problems = scenario.problems();
        if problems.is_empty() { Ok(scenario) } else { Err(problems) }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut must = |ok: bool, text: &str| {
            if !ok {
                problems.push(text.to_owned());
            }
        };
        let (connections, publish) = (&self.connections, &self.publish);
        must(!self.name.is_empty(), "name must not be empty");
        must(connections.count <= CONNECTIONS_MAX, "connections.count is above 18,000");
        must(connections.ramp_per_second > 0.0, "connections.ramp_per_second must be positive");
        must(publish.per_second >= 0.0, "publish.per_second must not be negative");
        must((1..=64 * 1024).contains(&publish.payload_bytes), "publish.payload_bytes must be 1 to 65,536");
        must((1..=1_000_000).contains(&publish.in_flight), "publish.in_flight must be 1 to 1,000,000");
        match publish.to {
            To::Groups => must(connections.groups > 0, "publish.to = \"groups\" needs connections.groups"),
            To::Inboxes => must(connections.count > 0, "publish.to = \"inboxes\" needs connections.count"),
            To::Streams => must(publish.streams > 0, "publish.to = \"streams\" needs publish.streams"),
        }
        if let Some(slow) = &self.slow {
            must(slow.count <= connections.count, "slow.count is above connections.count");
            must(slow.after_s >= 0.0 && slow.for_s > 0.0, "slow.after_s and slow.for_s must be positive");
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_named_at_once() {
        let text = "name = \"\"\n[connections]\ncount = 99999\ngroups = 0\nramp_per_second = 0.0\n[publish]\npayload_bytes = 0\n";
        assert_eq!(Scenario::parse(text).expect_err("refused").len(), 5);
        assert!(Scenario::parse("name = \"x\"\ncolour = 1").expect_err("refused")[0].contains("colour"));
    }
}
