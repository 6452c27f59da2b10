//! What a node does with the bus beside the upstream topic, put together from its configuration and its roles.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tidegate_bus::port::Bus;
use tidegate_bus::settings::Settings;
use tidegate_bus::topics::{PUSH_GROUP, TASK_GROUP};
use tidegate_control_core::ports::StoreReader;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Spread;
use super::consumers::{Consumer, Membership};
use super::outbox::Tellers;
use super::outbox::away::AwayParts;
use super::outbox::history::History;
use super::routes::Routes;
use super::tasks::outlet::TaskOutlet;
use super::tasks::push::{Push, PushSink};
use super::tasks::settings::TasksConfig;
use super::tasks::webhook::{self, Webhook, WebhookError};
use super::tasks::{Fanout, Persist, Tasks};
use super::user_states::{StateHandler, UserStates};
use crate::metrics::Metrics;

pub(super) struct Parts {
    pub bus: Arc<dyn Bus>,
    pub settings: Settings,
    pub tasks: TasksConfig,
    pub partitions: u32,
    /// Whether the node has the role `task`.
    pub works: bool,
    pub routes: Arc<dyn Routes>,
    /// Of all partitions.
    pub reader: Arc<dyn StoreReader>,
    pub spread: Arc<Spread>,
    pub metrics: Arc<Metrics>,
    pub stopping: watch::Receiver<bool>,
}

pub(super) struct Beside {
    pub tellers: Tellers,
    pub states: UserStates,
    pub consumers: Vec<Arc<Consumer>>,
    /// Records told to the history, and those left out.
    pub history: Arc<[AtomicU64; 2]>,
    /// They end when the node stops.
    pub handling: Vec<JoinHandle<()>>,
    /// To be aborted at the end.
    pub tasks: Vec<JoinHandle<()>>,
}

impl Beside {
    /// Errors: what is configured for offline pushes cannot be read.
    pub fn begin(parts: Parts) -> Result<Beside, WebhookError> {
        let topics = &parts.settings.topics;
        let (publisher, format) = (parts.bus.publisher(), parts.settings.format);
        let outlet = Arc::new(TaskOutlet {
            publisher: Arc::clone(&publisher),
            topic: topics.task.name.clone(),
            key: topics.task_key,
            format,
            metrics: parts.metrics.tasks.clone(),
        });
        let counts: Arc<[AtomicU64; 2]> = Arc::default();
        let history = History {
            publisher: Arc::clone(&publisher),
            topic: topics.history.name.clone(),
            format,
            partitions: parts.partitions,
            counts: Arc::clone(&counts),
        };
        let away = AwayParts {
            routes: Arc::clone(&parts.routes),
            tasks: Arc::clone(&outlet),
            partitions: parts.partitions,
            fanout_above: parts.tasks.fanout_above,
            age_max: Duration::from_secs(parts.tasks.push_age_max_s.into()),
        };
        let tellers =
            Tellers { history: parts.tasks.history.then(|| Arc::new(history)), away: parts.tasks.away.then_some(away) };
        let topic = topics.user_state.name.clone();
        let (states, telling) = UserStates::begin(publisher, topic, format, parts.metrics.tasks.clone());
        let (consumers, handling, tasks) = (Vec::new(), Vec::new(), vec![telling]);
        let mut beside = Beside { tellers, states, consumers, history: counts, handling, tasks };
        if parts.works {
            beside.join(parts, outlet)?;
        }
        Ok(beside)
    }

    fn join(&mut self, parts: Parts, outlet: Arc<TaskOutlet>) -> Result<(), WebhookError> {
        let guard = || parts.metrics.guard("offline_push", webhook::BREAKER);
        let push = &parts.tasks.offline_push;
        let webhook = push.url.is_some().then(|| Webhook::new(push, guard())).transpose()?;
        let sink = webhook.map(|webhook| Box::new(webhook) as Box<dyn PushSink>);
        let metrics = &parts.metrics.tasks;
        let tasks = Tasks {
            persist: Persist { pushes: Box::new(parts.spread) },
            fanout: Fanout { reader: parts.reader, routes: Arc::clone(&parts.routes), tasks: outlet },
            push: Push::new(sink),
            metrics: metrics.clone(),
        };
        let states = StateHandler { routes: parts.routes, metrics: metrics.clone() };
        let topics = &parts.settings.topics;
        let member = |group, topic: &str, handler| Membership {
            bus: Arc::clone(&parts.bus),
            settings: parts.settings.clone(),
            group,
            topic: topic.to_owned(),
            handler,
            stopping: parts.stopping.clone(),
        };
        for membership in [
            member(TASK_GROUP, &topics.task.name, Arc::new(tasks)),
            member(PUSH_GROUP, &topics.user_state.name, Arc::new(states)),
        ] {
            let (consumer, [handling, lag]) = membership.begin();
            self.consumers.push(consumer);
            self.handling.push(handling);
            self.tasks.push(lag);
        }
        Ok(())
    }
}
