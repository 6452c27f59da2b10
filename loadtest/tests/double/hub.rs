//! The sequencer as its listeners share it, and the stall that holds all of them.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tidegate_proto::v1::{PushRequest, PushResult};

use super::fault::Fault;
use super::sequencer::Sequencer;

#[derive(Clone)]
pub struct Hub {
    sequencer: Arc<Mutex<Sequencer>>,
}

/// What became of a push.
pub enum Answer {
    Results(Vec<PushResult>),
    /// It was stored, and the connection that brought it breaks.
    Broken,
    /// It was stored, and nobody says so.
    Nothing,
}

impl Hub {
    pub fn new(fault: Fault) -> Hub {
        Hub { sequencer: Arc::new(Mutex::new(Sequencer::new(fault))) }
    }

    pub fn lock(&self) -> MutexGuard<'_, Sequencer> {
        self.sequencer.lock().expect("no holder panics")
    }

    /// Returns once the server does not stand still.
    pub async fn moving(&self) {
        loop {
            let until = self.lock().stalled_until;
            match until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until.into()).await,
                _ => return,
            }
        }
    }

    pub async fn push(&self, request: &PushRequest) -> Answer {
        loop {
            self.moving().await;
            let mut sequencer = self.lock();
            if !sequencer.stalls_now() {
                return sequencer.push(request);
            }
        }
    }
}
