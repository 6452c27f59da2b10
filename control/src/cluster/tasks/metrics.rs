//! What tasks and users' states count.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct TaskMetrics {
    handled: Family<Handled, Counter>,
    made: Family<Made, Counter>,
    states: Family<Told, Counter>,
    /// States that could not wait for the bus any more.
    pub states_dropped: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    r#type: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Made {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Told {
    state: &'static str,
}

impl TaskMetrics {
    pub fn register(&self, r: &mut Registry) {
        r.register("tasks", "Tasks that were handled, by type and outcome", self.handled.clone());
        r.register("tasks_made", "Tasks that were put into their topic", self.made.clone());
        r.register("user_states", "Connections that came and went, as told to the bus", self.states.clone());
        r.register(
            "user_states_dropped",
            "States that found no room while the bus was away",
            self.states_dropped.clone(),
        );
    }

    pub fn handled(&self, r#type: &'static str, outcome: &'static str) {
        self.handled.get_or_create(&Handled { r#type, outcome }).inc();
    }

    pub fn made(&self, r#type: &'static str) {
        self.made.get_or_create(&Made { r#type }).inc();
    }

    pub fn told(&self, online: bool) {
        let state = if online { "online" } else { "offline" };
        self.states.get_or_create(&Told { state }).inc();
    }

    /// For tests: how many tasks of a type had this outcome.
    #[cfg(test)]
    pub fn count(&self, r#type: &'static str, outcome: &'static str) -> u64 {
        self.handled.get_or_create(&Handled { r#type, outcome }).get()
    }
}
