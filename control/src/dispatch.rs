//! Where the API and the links hand their commands in: to the one partition of this process, or to those of a cluster.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_control_core::domain::Refusal;
use tidegate_control_core::partition::Command;

use crate::cluster::{ClusterState, Spread};
use crate::runtime::{Answer, Pending, Sequencer, stopped};

/// Cheap to clone.
#[derive(Clone)]
pub struct Dispatch(Kind);

#[derive(Clone)]
enum Kind {
    One(Sequencer),
    Many { spread: Arc<Spread>, state: Arc<ClusterState> },
}

impl Dispatch {
    pub fn one(sequencer: Sequencer) -> Dispatch {
        Dispatch(Kind::One(sequencer))
    }

    pub(crate) fn many(spread: Arc<Spread>, state: Arc<ClusterState>) -> Dispatch {
        Dispatch(Kind::Many { spread, state })
    }

    /// As [`Sequencer::submit`].
    pub fn submit(&self, commands: Vec<Command>) -> Result<Pending, Refusal> {
        match &self.0 {
            Kind::One(sequencer) => sequencer.submit(commands),
            Kind::Many { spread, .. } => spread.submit(commands),
        }
    }

    /// As [`Sequencer::submit_with_patience`].
    pub async fn submit_with_patience(&self, commands: Vec<Command>, patience: Duration) -> Result<Pending, Refusal> {
        match &self.0 {
            Kind::One(sequencer) => sequencer.submit_with_patience(commands, patience).await,
            Kind::Many { spread, .. } => spread.submit_with_patience(commands, patience).await,
        }
    }

    /// One command, one answer; `UNAVAILABLE` after `patience`, and then the outcome is unknown.
    pub async fn ask(&self, command: Command, patience: Duration) -> Answer {
        let pending = self.submit(vec![command])?;
        pending.within(patience).await?.pop().unwrap_or_else(|| Err(stopped()))
    }

    /// What waits for answers, in slots.
    pub fn depth(&self) -> usize {
        match &self.0 {
            Kind::One(sequencer) => sequencer.depth(),
            Kind::Many { spread, .. } => spread.depth(),
        }
    }

    /// Whether pushes can be made durable now.
    pub fn is_ready(&self) -> bool {
        match &self.0 {
            Kind::One(sequencer) => sequencer.is_ready(),
            Kind::Many { state, .. } => state.is_ready(),
        }
    }

    /// Whether a link's partition takes this command itself. Pushes are appended to the upstream topic first, and what is not
    /// sequenced goes to where its recipients are.
    pub(crate) fn takes_from_link(&self, command: &Command) -> bool {
        matches!(self.0, Kind::Many { .. }) && matches!(command, Command::Push(_))
    }

    pub(crate) fn cluster(&self) -> Option<&Arc<ClusterState>> {
        match &self.0 {
            Kind::One(_) => None,
            Kind::Many { state, .. } => Some(state),
        }
    }
}

/// Figures of a cluster's node that are read when somebody asks.
pub(crate) fn figures(state: &ClusterState) -> crate::metrics::ClusterFigures {
    crate::metrics::ClusterFigures {
        owned: state.owned(),
        groups: state.groups(),
        history: state.history(),
        rekeyed: state.lag.rekeyed.load(Ordering::Relaxed),
        producer: state.bus.publisher().stats(),
        cache: state.cache.as_ref().map(|cache| cache.health()),
    }
}
