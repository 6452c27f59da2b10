//! `offline_push`: handed to whoever can reach a user that is not there.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tidegate_bus::dead_letters::Failure;
use tidegate_bus::records::OfflinePush;

use super::Outcome;

/// Tasks that are known to be done. One that comes again later than that is told from others by its id, where it is sent to.
const KNOWN_MAX: usize = 65_536;

/// A service that wakes users' devices. It may be given the same task again.
pub(crate) trait PushSink: Send + Sync {
    fn send<'a>(&'a self, task_id: &'a str, push: &'a OfflinePush) -> BoxFuture<'a, Result<(), Failure>>;
}

pub(crate) struct Push {
    /// `None`: there is no such service, and nothing is left to do.
    sink: Option<Box<dyn PushSink>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    ids: HashSet<Box<str>>,
    order: VecDeque<Box<str>>,
}

impl Push {
    pub fn new(sink: Option<Box<dyn PushSink>>) -> Push {
        Push { sink, known: Mutex::default() }
    }

    pub async fn carry_out(&self, task_id: &str, push: &OfflinePush) -> Result<Outcome, Failure> {
        if push.user_id.is_empty() {
            return Err(Failure::invalid("user_id is empty"));
        }
        let Some(sink) = &self.sink else { return Ok(Outcome::Nothing) };
        if self.known().ids.contains(task_id) {
            return Ok(Outcome::Repeated);
        }
        sink.send(task_id, push).await?;
        self.known().add(task_id);
        Ok(Outcome::Done)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn add(&mut self, id: &str) {
        if self.ids.insert(id.into()) {
            self.order.push_back(id.into());
        }
        if self.order.len() > KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}
