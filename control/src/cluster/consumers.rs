//! The groups that nodes of the role `task` are members of, and how far behind they are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_bus::dead_letters::{self, Handler, HandlingCounters, Policy};
use tidegate_bus::port::{Begin, Bus, BusError, Commit, GroupOptions};
use tidegate_bus::settings::Settings;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::metrics::GroupFigures;

/// So often a group's lag is asked for.
const LAG_EVERY: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);

/// One group of this node, for metrics.
pub(crate) struct Consumer {
    pub group: &'static str,
    pub topic: String,
    pub counters: HandlingCounters,
    /// Of each partition of the topic.
    pub lag: Mutex<HashMap<i32, u64>>,
}

impl Consumer {
    pub fn figures(&self) -> GroupFigures {
        let lag = self.lag.lock().unwrap_or_else(PoisonError::into_inner);
        GroupFigures {
            group: self.group,
            topic: self.topic.clone(),
            behind: lag.iter().map(|(partition, behind)| (*partition as u32, *behind)).collect(),
            handling: self.counters.stats(),
        }
    }
}

/// What it takes to be a member.
pub(crate) struct Membership {
    pub bus: Arc<dyn Bus>,
    pub settings: Settings,
    pub group: &'static str,
    pub topic: String,
    pub handler: Arc<dyn Handler>,
    pub stopping: watch::Receiver<bool>,
}

impl Membership {
    /// Joins, and handles what comes until the node stops.
    pub fn begin(self) -> (Arc<Consumer>, [JoinHandle<()>; 2]) {
        let (group, topic) = (self.group, self.topic.clone());
        let consumer =
            Arc::new(Consumer { group, topic, counters: HandlingCounters::default(), lag: Mutex::default() });
        let (bus, lagging) = (Arc::clone(&self.bus), Arc::clone(&consumer));
        let tasks = [tokio::spawn(self.run(Arc::clone(&consumer))), tokio::spawn(follow_lag(bus, lagging))];
        (consumer, tasks)
    }

    async fn run(self, consumer: Arc<Consumer>) {
        let policy = Policy::new(&self.settings, self.group, self.bus.publisher());
        let options = GroupOptions {
            group: self.group.to_owned(),
            topics: vec![self.topic.clone()],
            begin: Begin::Earliest,
            commit: Commit::Manual,
            batch_max: self.settings.consumer.task_batch.max(1),
        };
        let mut stopping = self.stopping.clone();
        let reader = loop {
            match self.bus.join(options.clone()) {
                Ok(reader) => break reader,
                Err(error) => tracing::warn!(%error, group = self.group, "the group cannot be joined"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        };
        let stop = async move {
            // An error means that the whole process state is gone: stop as well.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        dead_letters::run(reader, &*self.handler, &policy, &consumer.counters, stop).await;
    }
}

async fn follow_lag(bus: Arc<dyn Bus>, consumer: Arc<Consumer>) {
    loop {
        match ask_lag(&*bus, &consumer).await {
            Ok(lag) => *consumer.lag.lock().unwrap_or_else(PoisonError::into_inner) = lag,
            Err(error) => tracing::debug!(%error, group = consumer.group, "the lag cannot be asked for"),
        }
        tokio::time::sleep(LAG_EVERY).await;
    }
}

async fn ask_lag(bus: &dyn Bus, consumer: &Consumer) -> Result<HashMap<i32, u64>, BusError> {
    let lag = bus.admin().lag(consumer.group, &consumer.topic).await?;
    Ok(lag.into_iter().map(|lag| (lag.partition, lag.behind)).collect())
}
