//! Commands for many partitions, which are here, on other nodes, or behind the upstream topic.
//!
//! Invariant: a command is asked again only if it was certainly not carried out.

use std::sync::Arc;
use std::time::Duration;

use tidegate_control_core::domain::{PartitionId, Refusal};
use tidegate_control_core::partition::{Command, Errand, Reply, homes_of};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};
use tokio::time::Instant;

use super::ingress::Ingress;
use super::node::{AskError, NOT_THE_OWNER, Peers, not_the_owner};
use super::older::{Asked, Older};
use super::seats::{Seat, Seats};
use crate::cache::recent::{Ask, Recent};
use crate::runtime::{Answer, Gather, Pending, SLOTS_MAX, late, overloaded, slots_of_submission, stopped};

/// Between two tries while a partition has no owner.
const RETRY: Duration = Duration::from_millis(50);
/// How long a question waits for a partition that changes its owner.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Spread {
    pub seats: Arc<Seats>,
    pub peers: Arc<Peers>,
    pub ingress: Arc<Ingress>,
    /// What need not be asked of a store.
    recent: Option<Recent>,
    /// What a store has no more; `None`: nobody keeps it.
    older: Option<Older>,
    room: Arc<Semaphore>,
}

impl Ask for Spread {
    async fn ask(&self, command: Command) -> Answer {
        self.ask_owner(command).await
    }
}

impl Spread {
    pub fn new(
        seats: Arc<Seats>,
        peers: Arc<Peers>,
        ingress: Arc<Ingress>,
        recent: Option<Recent>,
        older: Option<Older>,
    ) -> Spread {
        Spread { seats, peers, ingress, recent, older, room: Arc::new(Semaphore::new(SLOTS_MAX)) }
    }

    pub fn depth(&self) -> usize {
        SLOTS_MAX.saturating_sub(self.room.available_permits())
    }

    pub fn submit(self: &Arc<Self>, commands: Vec<Command>) -> Result<Pending, Refusal> {
        let slots = slots_of_submission(&commands)?;
        match Arc::clone(&self.room).try_acquire_many_owned(slots as u32) {
            Ok(permit) => Ok(self.distribute(commands, permit)),
            Err(TryAcquireError::NoPermits) => Err(overloaded()),
            Err(TryAcquireError::Closed) => Err(stopped()),
        }
    }

    pub async fn submit_with_patience(
        self: &Arc<Self>,
        commands: Vec<Command>,
        patience: Duration,
    ) -> Result<Pending, Refusal> {
        let slots = slots_of_submission(&commands)?;
        match tokio::time::timeout(patience, Arc::clone(&self.room).acquire_many_owned(slots as u32)).await {
            Ok(Ok(permit)) => Ok(self.distribute(commands, permit)),
            Ok(Err(_closed)) => Err(stopped()),
            Err(_elapsed) => Err(overloaded()),
        }
    }

    fn distribute(self: &Arc<Self>, commands: Vec<Command>, room: OwnedSemaphorePermit) -> Pending {
        let (done, answers) = oneshot::channel();
        let gather = Arc::new(Gather::new(commands.len(), done, Some(room)));
        let mut appended = Vec::new();
        for (place, command) in commands.into_iter().enumerate() {
            match command {
                Command::Push(push) if !push.ephemeral => appended.push((place, push)),
                command => self.ask_for(place, command, &gather),
            }
        }
        if !appended.is_empty() {
            // Appended here and now, or a later submission could overtake this one.
            if self.ingress.mapping.borrow().draining {
                let (ingress, gather) = (Arc::clone(&self.ingress), Arc::clone(&gather));
                tokio::spawn(async move { ingress.take(&gather, appended).await });
            } else {
                self.ingress.append(&gather, appended);
            }
        }
        Pending::gathered(answers, gather)
    }

    fn ask_for(self: &Arc<Self>, place: usize, command: Command, gather: &Arc<Gather>) {
        let (spread, gather) = (Arc::clone(self), Arc::clone(gather));
        tokio::spawn(async move { gather.answer(place, spread.ask_everywhere(command).await) });
    }

    /// The cache, the owner's store, and the long history.
    async fn ask_everywhere(&self, command: Command) -> Answer {
        let Some((older, asked)) = self.older.as_ref().and_then(|older| Some((older, Asked::of(&command)?))) else {
            return self.ask_near(command).await;
        };
        let answer = self.ask_near(command).await;
        older.complete(&asked, answer).await
    }

    async fn ask_near(&self, command: Command) -> Answer {
        if let Some(recent) = &self.recent
            && let Some(answer) = recent.pull(self, &command).await
        {
            return answer;
        }
        self.ask_owner(command).await
    }

    /// Asks the owner of a command's partition, whoever that is and will be.
    pub async fn ask_owner(&self, command: Command) -> Answer {
        if let Command::Heads { uid, streams } = command {
            return self.heads(uid, streams).await;
        }
        let homes = homes_of(&command);
        let Some(home) = homes.first() else { return Err(not_the_owner()) };
        self.ask_partition(self.seats.partition_of(home), command).await
    }

    async fn heads(
        &self,
        uid: Option<tidegate_control_core::domain::Uid>,
        streams: Vec<tidegate_control_core::domain::StreamKey>,
    ) -> Answer {
        let mut found = Vec::with_capacity(streams.len());
        let mut parts: std::collections::BTreeMap<PartitionId, Vec<_>> = std::collections::BTreeMap::new();
        for stream in streams {
            parts.entry(self.seats.partition_of(&stream)).or_default().push(stream);
        }
        for (partition, streams) in parts {
            match self.ask_partition(partition, Command::Heads { uid: uid.clone(), streams }).await? {
                Reply::Heads(heads) => found.extend(heads),
                _ => return Err(Refusal::new(tidegate_control_core::domain::ErrorCode::Internal, "no heads")),
            }
        }
        Ok(Reply::Heads(found))
    }

    async fn ask_partition(&self, partition: PartitionId, command: Command) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // It may have to be asked again.
            let asked = command.clone();
            let answer = match self.seats.seat(partition) {
                Seat::Ours(hosted) => match hosted.sequencer.submit(vec![asked]) {
                    Ok(pending) => match pending.await {
                        Ok(mut answers) => answers.pop().unwrap_or_else(|| Err(stopped())),
                        // The thread ended with it, and may have carried it out.
                        Err(_) => Err(late()),
                    },
                    Err(refusal) if refusal == stopped() => Err(not_the_owner()),
                    Err(refusal) => Err(refusal),
                },
                Seat::Theirs(node) => match self.peers.ask(&node, partition, asked).await {
                    Ok(answer) => answer,
                    Err(AskError::NotSent) => Err(not_the_owner()),
                    Err(AskError::Unknown) => Err(late()),
                },
                Seat::Vacant => Err(not_the_owner()),
            };
            let not_asked = matches!(&answer, Err(refusal) if &*refusal.message == NOT_THE_OWNER);
            if !not_asked || Instant::now() >= deadline {
                return answer;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Hands a run of errands to the partition that they are for: all of them or none.
    pub async fn errands(&self, partition: PartitionId, run: &[Errand]) -> Arrival {
        let command = Command::Errands(run.to_vec());
        let answer = match self.seats.seat(partition) {
            Seat::Ours(hosted) => match hosted.sequencer.submit_with_patience(vec![command], PATIENCE).await {
                Ok(pending) => {
                    pending.within(PATIENCE).await.and_then(|mut all| all.pop().unwrap_or_else(|| Err(stopped())))
                }
                Err(refusal) => Err(refusal),
            },
            Seat::Theirs(node) => self.peers.ask(&node, partition, command).await.unwrap_or_else(|_| Err(late())),
            Seat::Vacant => Err(not_the_owner()),
        };
        match answer {
            Ok(_) => Arrival::Arrived,
            Err(refusal) if refusal.code.retry() => Arrival::NotYet,
            Err(refusal) => Arrival::Refused(refusal),
        }
    }
}

/// What became of a run of errands.
#[derive(Debug)]
pub(crate) enum Arrival {
    Arrived,
    /// As far as is known: ask again.
    NotYet,
    /// For good.
    Refused(Refusal),
}
