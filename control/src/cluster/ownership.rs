//! Which partitions this node owns: claimed in the registry, opened in the store, let go when others should have them.
//!
//! Invariants:
//! * The claim decides who *should* write; the store's owner epoch decides who *can*. A node that lost its session goes on
//!   with what it owns, since whoever claims a partition raises its epoch, and then our commits are refused.
//! * A partition that is let go is closed before its claim is released.
//! * A partition is let go for a node that takes it, never for one that still waits: nobody would have it meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tidegate_control_core::domain::PartitionId;
use tidegate_control_core::ports::StoreError;
use tidegate_registry::names::{ControlNode, Owner};
use tidegate_registry::{Claimed, Entry, Names, Registry, RegistryError, Session, Table};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::node::{Address, Peers};
use super::opening::{OpenPartition, Opener, OpeningError};
use super::seats::{Seat, Seats};

/// The node looks around at least so often.
const TICK: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(300);
/// Partitions that are let go for others in one turn: each pauses for a moment.
const RELEASES_MAX: usize = 4;
/// A node that has just met the registry waits so long before it takes anything, so that those who come with it have met it
/// too, and shares are right.
const CALM: Duration = Duration::from_millis(700);
/// Partitions that are opened side by side.
const OPENINGS_MAX: usize = 8;
/// A partition that could not be opened is not tried again before this.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

pub(crate) struct Ownership {
    pub registry: Registry,
    pub names: Names,
    pub me: ControlNode,
    pub ttl: Duration,
    /// Whether this node sequences.
    pub logic: bool,
    pub seats: Arc<Seats>,
    pub peers: Arc<Peers>,
    pub opener: Arc<Opener>,
    pub stopping: watch::Receiver<bool>,
    /// Whether the node is known to the others.
    pub registered: watch::Sender<bool>,
}

/// What the task works with.
struct Work {
    own: Ownership,
    session: Option<Session>,
    controls: Table,
    owners: Table,
    held: BTreeMap<PartitionId, OpenPartition>,
    /// Open, and the registry does not say so yet.
    unsaid: BTreeSet<PartitionId>,
    /// Partitions whose thread has ended by itself, and why.
    ended: mpsc::UnboundedReceiver<(PartitionId, bool)>,
    ended_sender: mpsc::UnboundedSender<(PartitionId, bool)>,
    not_before: HashMap<PartitionId, tokio::time::Instant>,
    /// Until then nothing is taken that was not ours. `None`: the others know that it is over.
    calm_until: Option<tokio::time::Instant>,
}

impl Ownership {
    pub fn spawn(self) -> JoinHandle<()> {
        let controls = self.registry.watch(&self.names.control_prefix()).into_table();
        let owners = self.registry.watch(&self.names.owner_prefix()).into_table();
        let (ended_sender, ended) = mpsc::unbounded_channel();
        let work = Work {
            own: self,
            session: None,
            controls,
            owners,
            held: BTreeMap::new(),
            unsaid: BTreeSet::new(),
            ended,
            ended_sender,
            not_before: HashMap::new(),
            calm_until: None,
        };
        tokio::spawn(work.run())
    }
}

impl Work {
    async fn run(mut self) {
        let mut stopping = self.own.stopping.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !*stopping.borrow() {
            if let Err(error) = self.turn().await {
                tracing::warn!(%error, "the registry does not answer as it should; owned partitions go on");
                tokio::time::sleep(RETRY).await;
            }
            tokio::select! {
                _ = tick.tick() => {}
                _ = self.controls.changed() => {}
                _ = self.owners.changed() => {}
                Some((partition, fenced)) = self.ended.recv() => self.close_ended(partition, fenced).await,
                _ = stopping.changed() => {}
            }
        }
        self.leave().await;
    }

    async fn turn(&mut self) -> Result<(), RegistryError> {
        self.meet_peers();
        if self.session.as_ref().is_none_or(|session| !session.is_alive()) {
            self.begin_session().await?;
        }
        self.seat_others();
        self.say_the_rest().await?;
        if self.own.logic { self.balance().await } else { Ok(()) }
    }

    /// A new session claims again what is owned; what somebody else has by now is closed.
    async fn begin_session(&mut self) -> Result<(), RegistryError> {
        self.session = None;
        // A registry that was away may have forgotten everybody: whoever owned something is about to claim it again.
        let calm = if self.held.is_empty() { CALM } else { 2 * self.own.ttl };
        self.calm_until = Some(tokio::time::Instant::now() + calm);
        self.own.me.waits = true;
        let session = self.own.registry.session(self.own.ttl).await?;
        self.introduce(&session).await?;
        let held: Vec<PartitionId> = self.held.keys().copied().collect();
        for partition in held {
            let key = self.own.names.owner(partition.0);
            match session.claim(&key, &self.owner_value(partition)).await? {
                Claimed::Ours => {}
                Claimed::Theirs(_) => {
                    // It has forgotten nothing: it was we who were away.
                    self.calm_until = Some(tokio::time::Instant::now() + CALM);
                    self.close(partition, false).await;
                }
            }
        }
        self.session = Some(session);
        self.own.registered.send_replace(true);
        Ok(())
    }

    async fn introduce(&self, session: &Session) -> Result<(), RegistryError> {
        let value = serde_json::to_string(&self.own.me).unwrap_or_default();
        session.hold(&self.own.names.control(&self.own.me.node)?, &value).await
    }

    /// Whether this node may take what was not its own.
    async fn is_settled(&mut self) -> Result<bool, RegistryError> {
        let Some(until) = self.calm_until else { return Ok(true) };
        let Some(session) = self.session.as_ref().filter(|_| tokio::time::Instant::now() >= until) else {
            return Ok(false);
        };
        self.own.me.waits = false;
        self.introduce(session).await?;
        self.calm_until = None;
        Ok(true)
    }

    fn owner_value(&self, partition: PartitionId) -> String {
        let owner_epoch = self.held.get(&partition).map(|held| held.hosted.origin.owner_epoch.0);
        let (node, incarnation, grpc) = (self.own.me.node.clone(), self.own.me.incarnation, self.own.me.grpc.clone());
        serde_json::to_string(&Owner { node, incarnation, grpc, owner_epoch }).unwrap_or_default()
    }

    fn meet_peers(&self) {
        let mut nodes = BTreeMap::new();
        for entry in self.controls.current().values() {
            let Ok(node) = entry.parse::<ControlNode>() else { continue };
            if node.node != self.own.me.node {
                nodes.insert(Arc::from(node.node), Address { grpc: node.grpc, incarnation: node.incarnation });
            }
        }
        self.own.peers.set(&nodes);
    }

    /// Those of others, and those of nobody; ours are seated when they are opened.
    fn seat_others(&self) {
        let owners = self.owners.current();
        for partition in (0..self.own.seats.count()).map(PartitionId) {
            if self.held.contains_key(&partition) {
                continue;
            }
            let owner = owners.get(&self.own.names.owner(partition.0)).and_then(|entry| entry.parse::<Owner>().ok());
            let seat = match owner {
                Some(owner) if owner.node != self.own.me.node && owner.owner_epoch.is_some() => {
                    Seat::Theirs(owner.node.into())
                }
                _ => Seat::Vacant,
            };
            self.own.seats.set(partition, seat);
        }
    }

    /// Takes what nobody has, up to our share; lets go of what is above it, if somebody has less than theirs.
    async fn balance(&mut self) -> Result<(), RegistryError> {
        if !self.is_settled().await? {
            return Ok(());
        }
        let owners = self.owners.current();
        let logic = self.logic_nodes();
        let share = share(&logic, &self.own.me.node, self.own.seats.count());
        let ours = self.held.len() as u32;
        if ours < share {
            let free: Vec<PartitionId> = self.free(&owners);
            // Nodes begin at different places, so that they seldom want the same.
            let at = logic.iter().position(|node| *node == self.own.me.node).unwrap_or(0);
            let begin = if free.is_empty() { 0 } else { at * free.len() / logic.len().max(1) };
            let wanted: Vec<PartitionId> = free[begin..].iter().chain(&free[..begin]).copied().collect();
            for together in wanted[..wanted.len().min((share - ours) as usize)].chunks(OPENINGS_MAX) {
                self.take(together).await?;
            }
        } else if ours > share && self.somebody_lacks(&logic, &owners) {
            let mut above: Vec<PartitionId> = self.held.keys().copied().collect();
            self.by_source(&mut above);
            above.reverse();
            above.truncate(((ours - share) as usize).min(RELEASES_MAX));
            for partition in above {
                tracing::info!(partition = partition.0, "let go for another node");
                self.let_go(partition).await?;
            }
        }
        Ok(())
    }

    fn logic_nodes(&self) -> BTreeSet<String> {
        let mut nodes: BTreeSet<String> = BTreeSet::from([self.own.me.node.clone()]);
        for entry in self.controls.current().values() {
            if let Ok(node) = entry.parse::<ControlNode>()
                && node.roles.iter().any(|role| role == "logic")
            {
                nodes.insert(node.node);
            }
        }
        nodes
    }

    fn free(&self, owners: &BTreeMap<String, Entry>) -> Vec<PartitionId> {
        let now = tokio::time::Instant::now();
        let all = (0..self.own.seats.count()).map(PartitionId);
        // A claim whose answer was lost is ours all the same, and may be repeated.
        let is_ours = |entry: &Entry| {
            let owner = entry.parse::<Owner>();
            owner.is_ok_and(|owner| owner.node == self.own.me.node && owner.incarnation == self.own.me.incarnation)
        };
        let is_free = |partition: &PartitionId| {
            owners.get(&self.own.names.owner(partition.0)).is_none_or(is_ours)
                && !self.held.contains_key(partition)
                && self.not_before.get(partition).is_none_or(|at| *at <= now)
        };
        let mut free: Vec<PartitionId> = all.filter(is_free).collect();
        self.by_source(&mut free);
        free
    }

    /// Partitions whose messages stand together stand together: every node that owns one of them reads them all.
    fn by_source(&self, partitions: &mut [PartitionId]) {
        partitions.sort_by_key(|partition| (self.own.opener.upstream.source_of(*partition), *partition));
    }

    fn somebody_lacks(&self, logic: &BTreeSet<String>, owners: &BTreeMap<String, Entry>) -> bool {
        let mut counts: HashMap<String, u32> = HashMap::new();
        for entry in owners.values() {
            if let Ok(owner) = entry.parse::<Owner>() {
                *counts.entry(owner.node).or_default() += 1;
            }
        }
        let controls = self.controls.current();
        let nodes = controls.values().filter_map(|entry| entry.parse::<ControlNode>().ok());
        let waiting = nodes.filter(|node| node.waits).map(|node| node.node).collect();
        somebody_lacks(logic, &waiting, &counts, self.own.seats.count())
    }

    /// Claims these, opens what is ours now side by side, and says of each that it is open as soon as it is: gateways wait for
    /// that word.
    async fn take(&mut self, partitions: &[PartitionId]) -> Result<(), RegistryError> {
        let mut opening = JoinSet::new();
        for &partition in partitions {
            let key = self.own.names.owner(partition.0);
            let Some(session) = &self.session else { break };
            match session.claim(&key, &self.owner_value(partition)).await {
                Ok(Claimed::Ours) => {}
                Ok(Claimed::Theirs(_)) => continue,
                // What was claimed before is opened first; the next turn meets the registry again.
                Err(error) => {
                    tracing::debug!(partition = partition.0, %error, "a claim failed");
                    break;
                }
            }
            let ended = self.ended_sender.clone();
            let on_end = Box::new(move |error: &StoreError| {
                // The task may have ended first.
                let _ = ended.send((partition, matches!(error, StoreError::Fenced)));
            });
            let opener = Arc::clone(&self.own.opener);
            let background = opener.background.handle().clone();
            opening.spawn_on(async move { (partition, opener.open(partition, on_end).await) }, &background);
        }
        let mut failed = Ok(());
        while let Some(opened) = opening.join_next().await {
            let Ok((partition, opened)) = opened else { continue };
            if let Err(error) = self.opened(partition, opened).await {
                failed = Err(error);
            }
        }
        failed
    }

    /// Until the registry says of a partition that it is open, nobody asks for it here.
    async fn say_the_rest(&mut self) -> Result<(), RegistryError> {
        while let Some(&partition) = self.unsaid.first() {
            let value = self.owner_value(partition);
            if let Some(session) = &self.session
                && let Claimed::Theirs(_) = session.claim(&self.own.names.owner(partition.0), &value).await?
            {
                self.close(partition, false).await;
            }
            self.unsaid.remove(&partition);
        }
        Ok(())
    }

    async fn opened(
        &mut self,
        partition: PartitionId,
        opened: Result<OpenPartition, OpeningError>,
    ) -> Result<(), RegistryError> {
        let key = self.own.names.owner(partition.0);
        match opened {
            Ok(open) => {
                tracing::info!(partition = partition.0, owner_epoch = open.hosted.origin.owner_epoch.0, "owned");
                self.held.insert(partition, open);
                self.unsaid.insert(partition);
                self.say_the_rest().await
            }
            Err(error) => {
                tracing::warn!(partition = partition.0, %error, "a partition cannot be opened");
                self.not_before.insert(partition, tokio::time::Instant::now() + REOPEN_AFTER);
                match &self.session {
                    Some(session) => session.release(&key).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Finishes what it has taken in, and leaves it to others.
    async fn let_go(&mut self, partition: PartitionId) -> Result<(), RegistryError> {
        self.close(partition, true).await;
        self.not_before.insert(partition, tokio::time::Instant::now() + REOPEN_AFTER);
        match &self.session {
            Some(session) => session.release(&self.own.names.owner(partition.0)).await,
            None => Ok(()),
        }
    }

    async fn close(&mut self, partition: PartitionId, gracefully: bool) {
        self.unsaid.remove(&partition);
        if let Some(open) = self.held.remove(&partition) {
            self.own.seats.set(partition, Seat::Vacant);
            open.close(gracefully).await;
            self.own.opener.metrics.partition_gone(partition);
        }
    }

    /// Its store failed, or another owner has it.
    async fn close_ended(&mut self, partition: PartitionId, fenced: bool) {
        tracing::warn!(partition = partition.0, fenced, "a partition ended here");
        self.close(partition, false).await;
        self.not_before.insert(partition, tokio::time::Instant::now() + REOPEN_AFTER);
        if let Some(session) = &self.session
            && let Err(error) = session.release(&self.own.names.owner(partition.0)).await
        {
            tracing::debug!(%error, "a claim ends with its session");
        }
    }

    /// In peace: others find everything free at once.
    async fn leave(mut self) {
        self.own.registered.send_replace(false);
        let held: Vec<PartitionId> = self.held.keys().copied().collect();
        for partition in held {
            if let Err(error) = self.let_go(partition).await {
                tracing::debug!(%error, "a claim ends with its session");
            }
        }
        if let Some(session) = self.session.take()
            && let Err(error) = session.end().await
        {
            tracing::debug!(%error, "the session ends by its term");
        }
    }
}

/// How many partitions a node is to own: the first ones, by name, have one more.
fn share(nodes: &BTreeSet<String>, node: &str, partitions: u32) -> u32 {
    let count = nodes.len().max(1) as u32;
    let at = nodes.iter().position(|name| name == node).unwrap_or(0) as u32;
    partitions / count + u32::from(at < partitions % count)
}

/// Whether a node that takes partitions has fewer than its share.
fn somebody_lacks(
    logic: &BTreeSet<String>,
    waiting: &BTreeSet<String>,
    counts: &HashMap<String, u32>,
    partitions: u32,
) -> bool {
    let lacks = |node: &String| counts.get(node).copied().unwrap_or(0) < share(logic, node, partitions);
    logic.difference(waiting).any(lacks)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that came, or came back, waits at first; what was let go for it at once was nobody's meanwhile.
    #[test]
    fn nobody_lets_a_partition_go_for_a_node_that_does_not_take_it_yet() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
        let logic = names(&["a", "b", "c"]);
        let counts = HashMap::from([("a".to_owned(), 10), ("b".to_owned(), 10)]);
        assert!(!somebody_lacks(&logic, &names(&["c"]), &counts, 20));
        assert!(somebody_lacks(&logic, &names(&[]), &counts, 20));
        assert!(somebody_lacks(&logic, &names(&["a"]), &counts, 20), "c takes");
    }

    #[test]
    fn shares_add_up_to_all_partitions() {
        for count in 1..6 {
            let nodes: BTreeSet<String> = (0..count).map(|at| format!("control-{at}")).collect();
            for partitions in [1, 7, 20] {
                let shares: Vec<u32> = nodes.iter().map(|node| share(&nodes, node, partitions)).collect();
                assert_eq!(shares.iter().sum::<u32>(), partitions);
                assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            }
        }
    }
}
