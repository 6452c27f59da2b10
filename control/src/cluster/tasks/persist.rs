//! `persist_message`: a message of an outside producer takes the way of every push.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tidegate_bus::dead_letters::Failure;
use tidegate_bus::records::Upstream;
use tidegate_control_core::partition::{Command, Push, Reply};

use super::Outcome;
use crate::cluster::Spread;
use crate::cluster::forms::{self, NoPush};
use crate::message::KEY_BYTES_MAX;
use crate::runtime::Answer;

/// How long a message may take to its seq; then it is asked again, under the same key.
const PATIENCE: Duration = Duration::from_secs(10);

/// The way of a push.
pub(crate) trait Pushes: Send + Sync {
    fn push(&self, push: Push) -> BoxFuture<'_, Answer>;
}

impl Pushes for Arc<Spread> {
    fn push(&self, push: Push) -> BoxFuture<'_, Answer> {
        Box::pin(async move {
            let pending = self.submit_with_patience(vec![Command::Push(Box::new(push))], PATIENCE).await?;
            pending.within(PATIENCE).await?.pop().unwrap_or_else(|| Err(crate::runtime::late()))
        })
    }
}

pub(crate) struct Persist {
    pub pushes: Box<dyn Pushes>,
}

impl Persist {
    /// Idempotent: without a key of its producer, the message is known by the task's id.
    pub async fn carry_out(&self, task_id: &str, upstream: Upstream) -> Result<Outcome, Failure> {
        let mut push = forms::push_of(upstream, None).map_err(|bad| match bad {
            NoPush::Undecodable(error) => Failure::undecodable(&error),
            NoPush::Invalid(reason) => Failure::invalid(reason),
        })?;
        let key = format!("task:{task_id}");
        if push.message_id.is_none() && push.client_msg_id.is_empty() {
            if key.len() > KEY_BYTES_MAX || key.contains(char::is_control) {
                return Err(Failure::invalid("neither the message nor its task has an id that can be a key"));
            }
            match push.sender.is_some() {
                true => push.client_msg_id = key.into(),
                false => push.message_id = Some(key.into()),
            }
        }
        match self.pushes.push(push).await {
            Ok(Reply::Pushed { duplicate: true, .. }) => Ok(Outcome::Repeated),
            // Also when it is only known to be durable: its sequencer does the rest.
            Ok(_) => Ok(Outcome::Done),
            Err(refusal) if refusal.code.retry() => Err(Failure::Dependency(refusal.to_string())),
            Err(refusal) => Err(Failure::refused(refusal.to_string())),
        }
    }
}
