//! `im-task-topic`: work that is not the sequencer's, done by nodes of the role `task`.
//!
//! Invariants:
//! * A task is committed only when its effect stands; one that comes again does no harm.
//! * A dependency that is away uses up no retry: its partition waits ([`tidegate_bus::dead_letters`]). What fails by itself is
//!   tried a few times more and becomes a dead letter with its reason.
//! * A task takes a bounded time: a fan-out over many members goes on in another task.

mod fanout;
pub(crate) mod forms;
pub(crate) mod metrics;
pub(crate) mod outlet;
mod persist;
pub(crate) mod push;
pub(crate) mod settings;
#[cfg(test)]
mod tests;
pub(crate) mod webhook;

use futures_util::future::BoxFuture;
use tidegate_bus::dead_letters::{Failure, Handler};
use tidegate_bus::port::Record;
use tidegate_bus::records::{Form as _, Task, TaskPayload};

pub(crate) use fanout::Fanout;
use metrics::TaskMetrics;
pub(crate) use persist::Persist;
use push::Push;

/// What became of a task that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// It had been done before.
    Repeated,
    /// Nothing was left to do, or there is nobody to do it for.
    Nothing,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Repeated => "repeated",
            Outcome::Nothing => "nothing",
        }
    }
}

/// Of a failure, for metrics.
pub(crate) fn outcome(result: &Result<Outcome, Failure>) -> &'static str {
    match result {
        Ok(done) => done.as_str(),
        Err(Failure::Dependency(_)) => "waits",
        Err(Failure::Record { .. }) => "failed",
    }
}

pub(crate) struct Tasks {
    pub persist: Persist,
    pub fanout: Fanout,
    pub push: Push,
    pub metrics: TaskMetrics,
}

impl Handler for Tasks {
    fn handle<'a>(&'a self, record: &'a Record) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let (r#type, result) = match Task::decode(&record.value) {
                Ok(task) => (task.payload.task_type(), self.carry_out(task, record).await),
                Err(error) => ("unknown", Err(Failure::undecodable(&error))),
            };
            self.metrics.handled(r#type, outcome(&result));
            result.map(drop)
        })
    }
}

impl Tasks {
    async fn carry_out(&self, task: Task, record: &Record) -> Result<Outcome, Failure> {
        // Tasks of others may have no id; where they stand is one.
        let id = match task.task_id.is_empty() {
            true => format!("{}/{}/{}", record.topic, record.partition, record.offset),
            false => task.task_id,
        };
        match task.payload {
            TaskPayload::PersistMessage(upstream) => self.persist.carry_out(&id, *upstream).await,
            TaskPayload::GroupFanout(fanout) => self.fanout.carry_out(fanout).await,
            TaskPayload::OfflinePush(push) => self.push.carry_out(&id, &push).await,
        }
    }
}
