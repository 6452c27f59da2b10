//! One partition's attachment: found, kept, and found again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tidegate_gateway_core::hub::PartitionsChanged;
use tidegate_gateway_core::link::{PartitionId, Partitions};
use tidegate_proto::v1;
use tidegate_proto::v1::gateway_link_client::GatewayLinkClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use tracing::{debug, error, info, warn};

use super::backoff::Backoff;
use super::channels::{Channels, DialError, Dialled};
use super::convert::{InvalidItem, Place, attached, from_wire};
use super::states::{LinkState, LinkStates};
use super::topology::{Seeker, Topology};
use super::{Attached, Identity, LinkEvent};
use crate::config::LinkSettings;
use crate::platforms::PlatformTable;

/// Batches to control that wait for the network; beyond, [`UpQueues`](super::UpQueues) holds items.
const UP_BATCHES_MAX: usize = 16;
/// Largest message from control: a page of 64 KB per stream, many streams in one batch.
const DOWN_MESSAGE_BYTES_MAX: usize = 64 << 20;
/// A node that says neither yes nor no is given up after this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// However many partitions share the credit, each has so much. Several chunks, or its deliveries would wait for each other.
const CREDIT_BYTES_MIN: u64 = 256 << 10;

/// What all partitions' tasks share.
pub(super) struct Attaching {
    pub channels: Channels,
    pub settings: LinkSettings,
    pub identity: Identity,
    pub platforms: Arc<PlatformTable>,
}

/// The task of one partition.
pub(super) struct Link {
    shared: Arc<Attaching>,
    partition: PartitionId,
    seeker: Seeker,
    states: Arc<LinkStates>,
    state: Arc<LinkState>,
}

/// Why an attachment ended or did not begin.
#[derive(Debug, thiserror::Error)]
enum LinkFailure {
    #[error("control's address is not valid")]
    Address(#[source] tonic::transport::Error),
    #[error("connecting to control failed")]
    Connect(#[source] tonic::transport::Error),
    #[error("this node does not own the partition")]
    NotOwner,
    #[error("control refused the attachment: {0:?}")]
    Refused(Code),
    #[error("control does not answer the attachment")]
    Silent,
    #[error("the attachment broke: {0:?}")]
    Broken(Code),
    #[error("control closed the attachment")]
    Closed,
    #[error("control sent an invalid item")]
    Invalid(#[from] InvalidItem),
    #[error(transparent)]
    Partitions(#[from] PartitionsChanged),
    #[error("control does not read the attachment")]
    NotRead,
    #[error("another node owns the partition now")]
    Moved,
    #[error("the hub is gone")]
    HubGone,
}

impl From<DialError> for LinkFailure {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Address(source) => LinkFailure::Address(source),
            DialError::Connect(source) => LinkFailure::Connect(source),
        }
    }
}

impl LinkFailure {
    /// The connection may be as broken as the attachment was.
    fn is_of_connection(&self) -> bool {
        let codes = [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled, Code::DeadlineExceeded];
        match self {
            LinkFailure::Refused(code) | LinkFailure::Broken(code) => codes.contains(code),
            LinkFailure::Silent | LinkFailure::NotRead => true,
            _ => false,
        }
    }

    fn log(&self, partition: u32) {
        match self {
            LinkFailure::Invalid(why) => {
                error!(partition, %why, "control sent an invalid item; the attachment ends");
            }
            LinkFailure::Partitions(why) => {
                error!(partition, %why, "control's number of partitions changed, which it never may");
            }
            LinkFailure::NotOwner | LinkFailure::Moved => debug!(partition, why = %self, "link down"),
            other => {
                let source = std::error::Error::source(other).map(ToString::to_string);
                warn!(partition, why = %other, source, "link down");
            }
        }
    }
}

impl Link {
    pub fn new(shared: Arc<Attaching>, topology: Topology, partition: PartitionId, states: Arc<LinkStates>) -> Link {
        let state = states.of(partition);
        Link { shared, partition, seeker: Seeker::new(topology, partition), states, state }
    }

    pub async fn run(mut self, events: mpsc::Sender<LinkEvent>) {
        let mut backoff = Backoff::default();
        loop {
            let address = tokio::select! {
                address = self.seeker.address() => address,
                () = events.closed() => return,
            };
            let ended = self.attach(address, &events, &mut backoff).await;
            if matches!(ended, LinkFailure::HubGone) {
                return;
            }
            ended.log(self.partition.0);
            let was_up = self.state.set_down();
            if was_up && events.send(LinkEvent::Down(self.partition)).await.is_err() {
                return;
            }
            let at_once = matches!(ended, LinkFailure::Moved) || (!was_up && self.seeker.missed());
            if at_once {
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = self.seeker.moved() => backoff.reset(),
                () = events.closed() => return,
            }
        }
    }

    /// One attachment from dial to end.
    async fn attach(
        &mut self,
        address: String,
        events: &mpsc::Sender<LinkEvent>,
        backoff: &mut Backoff,
    ) -> LinkFailure {
        let mut dialled = None;
        let (state, shared) = (Arc::clone(&self.state), Arc::clone(&self.shared));
        let attempt = Attempt { shared: &shared, states: &self.states, state: &state, partition: self.partition };
        let mut began = false;
        let ended = tokio::select! {
            ended = attempt.run(address, events, &mut dialled, &mut began) => match ended {
                Ok(never) => match never {},
                Err(failure) => failure,
            },
            () = state.give_up.notified() => LinkFailure::NotRead,
            () = self.seeker.moved() => LinkFailure::Moved,
        };
        if began {
            backoff.reset();
            self.seeker.found();
        }
        if let Some(dialled) = dialled.filter(|_| ended.is_of_connection()) {
            shared.channels.forget(&dialled);
        }
        ended
    }
}

/// One try.
struct Attempt<'a> {
    shared: &'a Attaching,
    states: &'a LinkStates,
    state: &'a LinkState,
    partition: PartitionId,
}

impl Attempt<'_> {
    async fn run(
        &self,
        address: String,
        events: &mpsc::Sender<LinkEvent>,
        dialled: &mut Option<Dialled>,
        began: &mut bool,
    ) -> Result<Infallible, LinkFailure> {
        let channel = dialled.insert(self.shared.channels.to(address, self.partition).await?).channel.clone();
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.ask(channel)).await;
        let (up, mut down, first) = asked.map_err(|_| LinkFailure::Silent)??;
        let mut items = first.items.into_iter();
        let (partitions, history) = attached(items.next(), self.partition)?;
        self.states.agree(partitions)?;
        *began = true;
        self.states.set_up(self.state);
        info!(partition = self.partition.0, "link up");
        let place = Place { partition: self.partition, partitions };
        let attached = Attached { partition: self.partition, partitions, history, up };
        events.send(LinkEvent::Up(attached)).await.map_err(|_| LinkFailure::HubGone)?;
        loop {
            self.pass_on(items, place, events).await?;
            items = next(&mut down).await?.items.into_iter();
        }
    }

    /// The way up, the way down, and the first message on it.
    async fn ask(
        &self,
        channel: tonic::transport::Channel,
    ) -> Result<(mpsc::Sender<v1::LinkUp>, Streaming<v1::LinkDown>, v1::LinkDown), LinkFailure> {
        let mut client = GatewayLinkClient::new(channel).max_decoding_message_size(DOWN_MESSAGE_BYTES_MAX);
        let (up, up_stream) = mpsc::channel(UP_BATCHES_MAX);
        up.try_send(self.hello()).map_err(|_| LinkFailure::Closed)?;
        let mut request = tonic::Request::new(ReceiverStream::new(up_stream));
        if let Some(authorization) = &self.shared.settings.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        let refused = |status: tonic::Status| match status.code() {
            Code::FailedPrecondition => LinkFailure::NotOwner,
            code => LinkFailure::Refused(code),
        };
        let mut down = client.attach(request).await.map_err(refused)?.into_inner();
        loop {
            match down.message().await.map_err(refused)? {
                None => return Err(LinkFailure::Closed),
                Some(first) if first.items.is_empty() => {}
                Some(first) => return Ok((up, down, first)),
            }
        }
    }

    async fn pass_on(
        &self,
        items: std::vec::IntoIter<v1::LinkDownItem>,
        place: Place,
        events: &mpsc::Sender<LinkEvent>,
    ) -> Result<(), LinkFailure> {
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            from_wire(item, place, &self.shared.platforms, &mut values)?;
        }
        if values.is_empty() {
            return Ok(());
        }
        let event = LinkEvent::Items(self.partition, values);
        events.send(event).await.map_err(|_| LinkFailure::HubGone)
    }

    fn hello(&self) -> v1::LinkUp {
        let Attaching { settings, identity, .. } = self.shared;
        let hello = v1::LinkHello {
            gateway: identity.gateway.clone(),
            incarnation: identity.incarnation,
            credit_bytes: share(settings.credit_bytes, self.states.known()),
            partition: self.partition.0,
        };
        v1::LinkUp { items: vec![v1::LinkUpItem { item: Some(v1::link_up_item::Item::Hello(hello)) }] }
    }
}

async fn next(down: &mut Streaming<v1::LinkDown>) -> Result<v1::LinkDown, LinkFailure> {
    let message = down.message().await.map_err(|status| match status.code() {
        Code::FailedPrecondition => LinkFailure::NotOwner,
        code => LinkFailure::Broken(code),
    })?;
    message.ok_or(LinkFailure::Closed)
}

/// One attachment's part of the credit, which is for all of them together.
fn share(credit_bytes: u64, partitions: Option<Partitions>) -> u64 {
    let share = credit_bytes / partitions.map_or(1, |of| of.count().into());
    share.max(CREDIT_BYTES_MIN.min(credit_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_share_the_credit_and_none_is_starved() {
        let of = |count| Partitions::new(count);
        assert_eq!(share(8 << 20, None), 8 << 20);
        assert_eq!(share(8 << 20, of(1)), 8 << 20);
        assert_eq!(share(8 << 20, of(4)), 2 << 20);
        assert_eq!(share(8 << 20, of(1_024)), CREDIT_BYTES_MIN);
        assert_eq!(share(64 << 10, of(20)), 64 << 10);
    }
}
