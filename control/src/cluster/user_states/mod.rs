//! `user_state`: which users' connections come and go, by uid. Told by the node to which their gateways tell it, and heard by
//! nodes of the role `task` as `push-group`.
//!
//! What is told waits in a bounded queue while the bus is away, and what finds no room there is counted and left out: links
//! must not wait for the bus. Told events may come twice, and those of one user come in order.

mod consumer;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use tidegate_bus::port::{Outgoing, Publisher};
use tidegate_bus::records::{Form as _, Format, UserState, VERSION};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub(crate) use consumer::StateHandler;

use super::ingress::wall_clock_ms;
use super::outlet;
use super::tasks::metrics::TaskMetrics;
use crate::presence::Change;

/// Events that wait for the bus.
const QUEUE_MAX: usize = 262_144;
/// Published together.
const BATCH_MAX: usize = 1_024;

/// Where changes are handed in; cheap to clone.
#[derive(Clone)]
pub struct UserStates {
    queue: mpsc::Sender<UserState>,
    metrics: TaskMetrics,
}

impl UserStates {
    pub(crate) fn begin(
        publisher: Arc<dyn Publisher>,
        topic: String,
        format: Format,
        metrics: TaskMetrics,
    ) -> (UserStates, JoinHandle<()>) {
        UserStates::with_room(QUEUE_MAX, publisher, topic, format, metrics)
    }

    fn with_room(
        room: usize,
        publisher: Arc<dyn Publisher>,
        topic: String,
        format: Format,
        metrics: TaskMetrics,
    ) -> (UserStates, JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(room);
        let telling = tokio::spawn(tell(waiting, publisher, topic, format, metrics.clone()));
        (UserStates { queue, metrics }, telling)
    }

    /// Never waits.
    pub(crate) fn tell(&self, changes: Vec<Change>) {
        let now = wall_clock_ms();
        for change in changes {
            if self.queue.try_send(state(change, now)).is_err() {
                self.metrics.states_dropped.inc();
            }
        }
    }
}

fn state(change: Change, timestamp: i64) -> UserState {
    UserState {
        user_id: change.uid.into(),
        device_id: change.device.into(),
        platform: change.platform.into(),
        gateway_id: change.gateway.into(),
        connection_id: change.connection_id.into(),
        incarnation: change.incarnation.to_string(),
        online: change.online,
        timestamp,
        reason: change.reason.into(),
        version: VERSION,
    }
}

async fn tell(
    mut waiting: mpsc::Receiver<UserState>,
    publisher: Arc<dyn Publisher>,
    topic: String,
    format: Format,
    metrics: TaskMetrics,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let outgoing = |state: &UserState| Outgoing {
            topic: topic.clone().into(),
            partition: None,
            key: Some(Bytes::copy_from_slice(state.user_id.as_bytes())),
            headers: Vec::new(),
            value: state.encode(format).into(),
        };
        let records: Vec<Outgoing> = batch.iter().map(outgoing).collect();
        outlet::place(&*publisher, &records).await;
        batch.drain(..).for_each(|state| metrics.told(state.online));
    }
}
