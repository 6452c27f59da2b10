//! Tasks into their topic.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_bus::port::{Outgoing, Publisher};
use tidegate_bus::records::{Form as _, Format, Task, TaskKey, TaskPayload, VERSION};

use super::metrics::TaskMetrics;
use crate::cluster::ingress::wall_clock_ms;
use crate::cluster::outlet;

pub(crate) struct TaskOutlet {
    pub publisher: Arc<dyn Publisher>,
    pub topic: String,
    pub key: TaskKey,
    pub format: Format,
    pub metrics: TaskMetrics,
}

impl TaskOutlet {
    /// Returns once the bus has all of them. Each comes with its id.
    pub async fn place(&self, tasks: Vec<(String, TaskPayload)>) {
        let now = wall_clock_ms();
        let outgoing: Vec<Outgoing> = tasks.into_iter().map(|(id, payload)| self.outgoing(id, payload, now)).collect();
        if !outgoing.is_empty() {
            outlet::place(&*self.publisher, &outgoing).await;
        }
    }

    fn outgoing(&self, task_id: String, payload: TaskPayload, timestamp: i64) -> Outgoing {
        self.metrics.made(payload.task_type());
        let (version, traceparent) = (VERSION, String::new());
        let task = Task { task_id, payload, timestamp, retry_count: 0, version, traceparent };
        Outgoing {
            topic: self.topic.clone().into(),
            partition: None,
            key: Some(Bytes::from(task.key(self.key))),
            headers: Vec::new(),
            value: task.encode(self.format).into(),
        }
    }
}
