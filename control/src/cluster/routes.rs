//! Who is connected, anywhere in the cluster.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all, ready};
use tidegate_bus::records::UserState;
use tidegate_control_core::domain::{OwnerEpoch, PartitionId, Uid};
use tokio::time::Instant;

use super::node::Peers;
use super::seats::{Seat, Seats};
use crate::presence::Presence;

/// A partition that was just opened knows who is there once gateways have come and told: not before this.
pub(crate) const SETTLE: Duration = Duration::from_secs(10);

const NOTE_EVERY: Duration = Duration::from_secs(1);

/// It cannot be said now; later it can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RoutesError(pub String);

/// Routes of users to their connections. Nothing that is decided by them may lose a message.
pub(crate) trait Routes: Send + Sync {
    /// For each user, in order, whether they have a live connection.
    fn online<'a>(&'a self, uids: &'a [Uid]) -> BoxFuture<'a, Result<Vec<bool>, RoutesError>>;

    /// A connection went: takes its route away, if there is one and it is still of this connection and this incarnation of its
    /// gateway. Returns whether it was taken.
    fn gone<'a>(&'a self, state: &'a UserState) -> BoxFuture<'a, Result<bool, RoutesError>>;

    /// A connection came: sees to it that its inbox is delivered. Returns whether something was left to do.
    fn came<'a>(&'a self, state: &'a UserState) -> BoxFuture<'a, Result<bool, RoutesError>>;
}

/// What this node knows of the partitions that it owns.
pub(crate) struct Here {
    seats: Arc<Seats>,
    presence: Arc<Presence>,
    settle: Duration,
    /// Since when a partition is known to be ours under its present owner epoch.
    since: Mutex<HashMap<PartitionId, (OwnerEpoch, Instant)>>,
}

impl Here {
    pub fn new(seats: Arc<Seats>, presence: Arc<Presence>, settle: Duration) -> Here {
        Here { seats, presence, settle, since: Mutex::default() }
    }

    /// `None`: another node owns the partition, or it has not been ours for long enough.
    pub fn online<'a>(&self, partition: PartitionId, uids: impl Iterator<Item = &'a str>) -> Option<Vec<bool>> {
        let owner_epoch = self.seats.hosted(partition)?.origin.owner_epoch;
        if !self.is_settled(partition, owner_epoch) {
            return None;
        }
        let view = self.presence.view();
        Some(uids.map(|uid| view.connections_of(uid) > 0).collect())
    }

    /// Notes partitions as they come, so that nobody has to ask first. Runs until it is dropped.
    pub async fn note(self: Arc<Self>) {
        loop {
            for hosted in self.seats.all_hosted() {
                self.is_settled(hosted.origin.partition, hosted.origin.owner_epoch);
            }
            tokio::time::sleep(NOTE_EVERY).await;
        }
    }

    fn is_settled(&self, partition: PartitionId, owner_epoch: OwnerEpoch) -> bool {
        let mut all = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, since) = all.entry(partition).or_insert_with(|| (owner_epoch, Instant::now()));
        if *known != owner_epoch {
            (*known, *since) = (owner_epoch, Instant::now());
        }
        since.elapsed() >= self.settle
    }
}

/// Routes as the owners of inboxes know them from the gateways: memory of the nodes, and questions between them.
pub(crate) struct PresenceRoutes {
    pub here: Arc<Here>,
    pub peers: Arc<Peers>,
}

impl PresenceRoutes {
    async fn of_partition(&self, partition: PartitionId, uids: &[&Uid]) -> Result<Vec<bool>, RoutesError> {
        let unknown = || RoutesError(format!("who is there cannot be said of partition {}", partition.0));
        match self.here.seats.seat(partition) {
            Seat::Ours(_) => self.here.online(partition, uids.iter().map(|uid| uid.as_str())).ok_or_else(unknown),
            Seat::Theirs(node) => {
                let asked = uids.iter().map(|uid| uid.to_string()).collect();
                let answer = self.peers.online(&node, partition, asked).await;
                answer.filter(|answer| answer.len() == uids.len()).ok_or_else(unknown)
            }
            Seat::Vacant => Err(unknown()),
        }
    }
}

impl Routes for PresenceRoutes {
    fn online<'a>(&'a self, uids: &'a [Uid]) -> BoxFuture<'a, Result<Vec<bool>, RoutesError>> {
        Box::pin(async move {
            let mut parts: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
            for (at, uid) in uids.iter().enumerate() {
                parts.entry(self.here.seats.partition_of(&uid.stream())).or_default().push(at);
            }
            let asked = parts.iter().map(async |(partition, places)| {
                let uids: Vec<&Uid> = places.iter().map(|at| &uids[*at]).collect();
                Ok::<_, RoutesError>((places, self.of_partition(*partition, &uids).await?))
            });
            let mut online = vec![false; uids.len()];
            for answer in join_all(asked).await {
                let (places, answers) = answer?;
                places.iter().zip(answers).for_each(|(at, is)| online[*at] = is);
            }
            Ok(online)
        })
    }

    fn gone<'a>(&'a self, state: &'a UserState) -> BoxFuture<'a, Result<bool, RoutesError>> {
        // The owner that told of it has none any more; one before it may, until it hears of this.
        let incarnation = state.incarnation.parse().unwrap_or(0);
        let (uid, id, gateway) = (&state.user_id, &state.connection_id, &state.gateway_id);
        Box::pin(ready(Ok(self.here.presence.drop_connection(uid, id, gateway, incarnation))))
    }

    /// A gateway of ours opens the inbox before it says that somebody came: nothing is left to do.
    fn came<'a>(&'a self, _state: &'a UserState) -> BoxFuture<'a, Result<bool, RoutesError>> {
        Box::pin(ready(Ok(false)))
    }
}

#[cfg(test)]
mod tests {
    use tidegate_control_core::domain::Epoch;
    use tidegate_control_core::partition::Origin;
    use tidegate_proto::v1::{LinkConnection, LinkPresence};

    use super::*;
    use crate::cluster::seats::Hosted;
    use crate::runtime::Sequencer;

    fn seat(owner_epoch: u64) -> Seat {
        let (queue, _) = crossbeam_channel::bounded(1);
        let origin = Origin { partition: PartitionId(0), history: Epoch(1), owner_epoch: OwnerEpoch(owner_epoch) };
        Seat::Ours(Hosted { sequencer: Sequencer::new(queue), origin })
    }

    fn routes(seats: &Arc<Seats>, presence: &Arc<Presence>, settle: Duration) -> PresenceRoutes {
        let here = Arc::new(Here::new(Arc::clone(seats), Arc::clone(presence), settle));
        PresenceRoutes { here, peers: Arc::new(Peers::new(None)) }
    }

    #[tokio::test]
    async fn who_is_there_is_said_once_gateways_had_time_to_tell() {
        let (seats, presence) = (Arc::new(Seats::new(1)), Arc::new(Presence::default()));
        let (routes, early) = (routes(&seats, &presence, Duration::ZERO), routes(&seats, &presence, SETTLE));
        let uids: Vec<Uid> = ["ann", "bob"].map(|uid| uid.parse().expect("a uid")).into();
        assert!(routes.online(&uids).await.is_err(), "nobody owns it");
        seats.set(PartitionId(0), seat(1));
        let (gateway, _) = presence.attach("gw/0", 1);
        let ann = LinkConnection { uid: "ann".to_owned(), connection_id: "1".to_owned(), ..Default::default() };
        presence.apply(&gateway, LinkPresence { online: vec![ann], ..Default::default() });
        assert!(early.online(&uids).await.is_err(), "others may not have told yet");
        assert_eq!(routes.online(&uids).await, Ok(vec![true, false]));
    }

    #[tokio::test]
    async fn a_route_is_taken_away_by_its_own_connection_only() {
        let (seats, presence) = (Arc::new(Seats::new(1)), Arc::new(Presence::default()));
        let routes = routes(&seats, &presence, Duration::ZERO);
        let (gateway, _) = presence.attach("gw/0", 7);
        let ann = LinkConnection { uid: "ann".to_owned(), connection_id: "1".to_owned(), ..Default::default() };
        presence.apply(&gateway, LinkPresence { online: vec![ann], ..Default::default() });
        let gone = |connection: &str, incarnation: &str| UserState {
            user_id: "ann".to_owned(),
            gateway_id: "gw".to_owned(),
            connection_id: connection.to_owned(),
            incarnation: incarnation.to_owned(),
            ..UserState::default()
        };
        assert_eq!(routes.gone(&gone("1", "6")).await, Ok(false), "of an older incarnation");
        assert_eq!(routes.gone(&gone("2", "7")).await, Ok(false), "of another connection");
        assert_eq!(presence.view().connections(), 1);
        assert_eq!(routes.gone(&gone("1", "7")).await, Ok(true));
        assert_eq!(routes.gone(&gone("1", "7")).await, Ok(false), "told again");
    }
}
