//! One attachment, from its hello to its end.

use std::time::Duration;

use tidegate_control_core::domain::PartitionId;
use tidegate_control_core::partition::{Command, GatewayId, Origin};
use tidegate_proto::v1::{LinkAttached, LinkDown, LinkDownItem, LinkHello, LinkHistory, LinkUp, LinkUpItem};
use tidegate_proto::v1::{link_down_item, link_up_item};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::Links;
use super::convert::{self, BadItem, Up};
use crate::presence::GatewayRoute;
use crate::runtime::{Attachment, Inbox, LinkOut, LinkWork};

/// A message down is closed at this size, give or take one item.
const DOWN_BYTES_TARGET: usize = 64 << 10;
/// Items that are handed to the partition at once.
const UP_ITEMS_MAX: usize = 4_096;
/// Refusals that need no partition, waiting to be sent.
const REFUSALS_MAX: usize = 1_024;
/// A dialled link without a hello is closed after this.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client's message may take to its seq; then the client is told that the outcome is unknown.
const SEND_PATIENCE: Duration = Duration::from_secs(10);
/// Said to a gateway whose partition another node is to have.
const GOES_ELSEWHERE: &str = "the partition goes to another node";
/// Longest gateway name.
const NAME_BYTES_MAX: usize = 128;

type Down = mpsc::Sender<Result<LinkDown, Status>>;

/// Serves the attachment until the gateway goes, errs, is replaced, or control stops. An `Err` is told to the gateway.
pub(super) async fn run(
    links: &Links,
    gateway: GatewayId,
    mut up: Streaming<LinkUp>,
    down: &Down,
) -> Result<(), Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, up.message());
    let first = first.await.map_err(|_| Status::deadline_exceeded("no hello"))??;
    let Some(first) = first else { return Ok(()) };
    let mut items = first.items.into_iter();
    let hello = hello(items.next())?;
    let partition = PartitionId(hello.partition);
    let Some(hosted) = links.seats.hosted(partition) else {
        return Err(Status::failed_precondition("this node does not own the partition"));
    };
    // A gateway attaches to each partition by itself.
    let name = format!("{}/{}", hello.gateway, partition.0);
    let replaced = links.enter(&name, gateway)?;
    let Some((attachment, inbox)) = hosted.sequencer.attach(gateway, hello.credit_bytes).await else {
        links.leave(&name, gateway);
        return Err(Status::unavailable("the server is stopping"));
    };
    let (route, number) = links.presence.attach(&name, hello.incarnation);
    links.metrics.links.inc();
    let (gateway_name, incarnation) = (&hello.gateway, hello.incarnation);
    tracing::info!(gateway = %gateway_name, incarnation, partition = partition.0, "a gateway attached");
    let origin = hosted.origin;

    let (refusals, refused) = mpsc::channel(REFUSALS_MAX);
    let reader = Reader { links, gateway, origin, route, attachment: &attachment, refusals };
    let mut stopping = links.stopping.clone();
    let end = tokio::select! {
        end = reader.run(items.collect(), &mut up) => end,
        end = write(links, origin, inbox, refused, down) => end,
        _ = replaced => Err(Status::aborted("a newer attachment of this gateway took over")),
        _ = stopping.wait_for(|stopping| *stopping) => Err(Status::unavailable("the server is stopping")),
    };

    links.metrics.links.dec();
    links.leave(&name, gateway);
    links.forget_later(name, number);
    match &end {
        Ok(()) => tracing::info!(gateway = %hello.gateway, "a gateway went"),
        Err(status) if status.message() == GOES_ELSEWHERE => {
            tracing::info!(gateway = %hello.gateway, partition = partition.0, "a gateway's partition goes to another node");
        }
        Err(status) => tracing::warn!(gateway = %hello.gateway, why = status.message(), "a gateway's link ended"),
    }
    end
}

fn hello(first: Option<LinkUpItem>) -> Result<LinkHello, Status> {
    match first.and_then(|item| item.item) {
        Some(link_up_item::Item::Hello(hello))
            if !hello.gateway.is_empty()
                && hello.gateway.len() <= NAME_BYTES_MAX
                && !hello.gateway.contains(char::is_control) =>
        {
            Ok(hello)
        }
        Some(link_up_item::Item::Hello(_)) => Err(Status::invalid_argument("the gateway's name is empty or too long")),
        _ => Err(broken(BadItem::Hello)),
    }
}

fn broken(bad: BadItem) -> Status {
    Status::invalid_argument(bad.to_string())
}

struct Reader<'a> {
    links: &'a Links,
    gateway: GatewayId,
    origin: Origin,
    route: GatewayRoute,
    attachment: &'a Attachment,
    refusals: mpsc::Sender<LinkDownItem>,
}

impl Reader<'_> {
    /// `Ok`: the gateway closed its side.
    async fn run(&self, rest_of_first: Vec<LinkUpItem>, up: &mut Streaming<LinkUp>) -> Result<(), Status> {
        self.take(rest_of_first).await?;
        loop {
            match up.message().await {
                Ok(Some(message)) => self.take(message.items).await?,
                Ok(None) => return Ok(()),
                // The connection broke: there is nobody left to tell.
                Err(_) => return Ok(()),
            }
        }
    }

    async fn take(&self, items: Vec<LinkUpItem>) -> Result<(), Status> {
        let mut work = Vec::with_capacity(items.len().min(UP_ITEMS_MAX));
        for item in items {
            match convert::up(self.gateway, self.origin, item).map_err(broken)? {
                Up::Work(LinkWork::Request { corr, command }) if self.links.dispatch.takes_from_link(&command) => {
                    self.hand_over(std::mem::take(&mut work)).await?;
                    self.dispatch(corr, command).await;
                }
                Up::Work(item) => work.push(item),
                Up::Presence(change) => self.links.presence.apply(self.route, change),
                Up::Refused { corr, refusal } => {
                    let _ = self.refusals.send(convert::refused(corr, &refusal)).await;
                }
            }
            if work.len() >= UP_ITEMS_MAX {
                self.hand_over(std::mem::take(&mut work)).await?;
            }
        }
        self.hand_over(work).await
    }

    /// A client's message, by way of the cluster; its answer comes back among the refusals.
    async fn dispatch(&self, corr: u64, command: Command) {
        let pending = match self.links.dispatch.submit(vec![command]) {
            Ok(pending) => pending,
            Err(refusal) => {
                let _ = self.refusals.send(convert::refused(corr, &refusal)).await;
                return;
            }
        };
        let answers = self.refusals.clone();
        tokio::spawn(async move {
            let answer = match pending.within(SEND_PATIENCE).await {
                Ok(mut answers) => answers.pop().unwrap_or_else(|| Err(crate::runtime::late())),
                Err(refusal) => Err(refusal),
            };
            // The attachment may have ended.
            let _ = answers.send(convert::answered(corr, answer)).await;
        });
    }

    async fn hand_over(&self, work: Vec<LinkWork>) -> Result<(), Status> {
        if work.is_empty() || self.attachment.send(work).await {
            return Ok(());
        }
        Err(Status::unavailable("the server is stopping"))
    }
}

/// Sends what the partition has for this gateway, as much in one message as is there, up to the target size.
async fn write(
    links: &Links,
    origin: Origin,
    mut inbox: Inbox,
    mut refused: mpsc::Receiver<LinkDownItem>,
    down: &Down,
) -> Result<(), Status> {
    let history = LinkHistory { partition: origin.partition.0, history: origin.history.0 };
    let partitions = links.seats.count();
    let attached = link_down_item::Item::Attached(LinkAttached { partitions, histories: vec![history] });
    let mut message = Message { items: vec![LinkDownItem { item: Some(attached) }], bytes: 0 };
    message.send(down).await?;
    loop {
        let mut batch = tokio::select! {
            batch = inbox.next() => Some(batch.ok_or_else(|| let_go(links, origin))?),
            Some(item) = refused.recv() => {
                message.push(item, DOWN_BYTES_TARGET);
                None
            }
        };
        while let Some(items) = batch {
            for out in items {
                message.add(origin, out, down).await?;
            }
            batch = inbox.next_now();
        }
        message.send(down).await?;
    }
}

/// The partition has dropped its end of the attachment.
fn let_go(links: &Links, origin: Origin) -> Status {
    match links.seats.hosted(origin.partition) {
        Some(hosted) if hosted.origin == origin => Status::resource_exhausted("the link is too far behind"),
        _ => Status::unavailable(GOES_ELSEWHERE),
    }
}

/// A message down in the making.
#[derive(Default)]
struct Message {
    items: Vec<LinkDownItem>,
    bytes: usize,
}

impl Message {
    async fn add(&mut self, origin: Origin, out: LinkOut, down: &Down) -> Result<(), Status> {
        if let LinkOut::End(why) = out {
            self.send(down).await?;
            return Err(Status::aborted(why));
        }
        let bytes = out.bytes();
        if let Some(item) = convert::down(origin, out) {
            self.push(item, bytes);
        }
        if self.bytes >= DOWN_BYTES_TARGET { self.send(down).await } else { Ok(()) }
    }

    fn push(&mut self, item: LinkDownItem, bytes: usize) {
        self.bytes += bytes;
        self.items.push(item);
    }

    /// Waits while the connection's flow control says so; the credit bounds what gathers meanwhile.
    async fn send(&mut self, down: &Down) -> Result<(), Status> {
        self.bytes = 0;
        if self.items.is_empty() {
            return Ok(());
        }
        let items = std::mem::take(&mut self.items);
        down.send(Ok(LinkDown { items })).await.map_err(|_| Status::cancelled("the gateway is gone"))
    }
}
