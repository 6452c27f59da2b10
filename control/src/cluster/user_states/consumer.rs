//! `push-group`: keeps routes in step with who comes and goes. Idempotent, and of events of a user in whatever order those of
//! one connection decide nothing about another's.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tidegate_bus::dead_letters::{Failure, Handler};
use tidegate_bus::port::Record;
use tidegate_bus::records::{Form as _, UserState};
use tidegate_control_core::domain::Uid;

use crate::cluster::routes::Routes;
use crate::cluster::tasks::metrics::TaskMetrics;
use crate::cluster::tasks::{Outcome, outcome};

pub(crate) struct StateHandler {
    pub routes: Arc<dyn Routes>,
    pub metrics: TaskMetrics,
}

impl Handler for StateHandler {
    fn handle<'a>(&'a self, record: &'a Record) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let result = match UserState::decode(&record.value) {
                Ok(state) => self.follow(&state).await,
                Err(error) => Err(Failure::undecodable(&error)),
            };
            self.metrics.handled("user_state", outcome(&result));
            result.map(drop)
        })
    }
}

impl StateHandler {
    async fn follow(&self, state: &UserState) -> Result<Outcome, Failure> {
        if state.user_id.parse::<Uid>().is_err() {
            return Err(Failure::invalid("user_id is no uid"));
        }
        let changed = match state.online {
            true => self.routes.came(state).await,
            false => self.routes.gone(state).await,
        };
        match changed {
            Ok(true) => Ok(Outcome::Done),
            Ok(false) => Ok(Outcome::Nothing),
            Err(error) => Err(Failure::Dependency(error.to_string())),
        }
    }
}
