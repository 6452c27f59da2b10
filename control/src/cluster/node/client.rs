//! The dialling side: one task for each other node.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_control_core::domain::{PartitionId, Refusal};
use tidegate_control_core::partition::Command;
use tidegate_proto::v1::node_link_client::NodeLinkClient;
use tidegate_proto::v1::{NodeAsk, NodeDown, NodeOnline, NodeResult, NodeUp, node_answer, node_ask};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;

use super::wire;
use crate::runtime::Answer;

/// Items that wait for one peer; questions beyond are not asked, results beyond are dropped.
const QUEUE_MAX: usize = 8_192;
/// Items of one message.
const BATCH_MAX: usize = 1_024;
const MESSAGES_MAX: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);
const DOWN_BYTES_MAX: usize = 64 << 20;

/// How long the owner of a partition waits to hear whether a refusal was heard.
const HEARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Every other node that is known to live.
pub(crate) struct Peers {
    authorization: Option<MetadataValue<Ascii>>,
    peers: Mutex<HashMap<Arc<str>, Peer>>,
}

struct Peer {
    grpc: String,
    incarnation: u64,
    queue: mpsc::Sender<Item>,
}

enum Item {
    Ask { partition: PartitionId, command: Command, answer: oneshot::Sender<Answer> },
    Online { partition: PartitionId, uids: Vec<String>, answer: oneshot::Sender<Vec<bool>> },
    Result(NodeResult),
    Refused { result: NodeResult, heard: oneshot::Sender<bool> },
}

/// Who waits for an answer.
enum Waiting {
    Command(oneshot::Sender<Answer>),
    Online(oneshot::Sender<Vec<bool>>),
    Refused(oneshot::Sender<bool>),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskError {
    /// It was not asked: ask again, perhaps somebody else.
    NotSent,
    /// It may have been carried out.
    Unknown,
}

/// Where one node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub grpc: String,
    pub incarnation: u64,
}

impl Peers {
    pub fn new(authorization: Option<MetadataValue<Ascii>>) -> Peers {
        Peers { authorization, peers: Mutex::default() }
    }

    /// Those who live now, without ourselves. Calls to others end.
    pub fn set(&self, nodes: &BTreeMap<Arc<str>, Address>) {
        let mut peers = self.lock();
        peers.retain(|node, peer| {
            nodes.get(node).is_some_and(|at| at.grpc == peer.grpc && at.incarnation == peer.incarnation)
        });
        for (node, at) in nodes {
            if !peers.contains_key(node) {
                let (queue, items) = mpsc::channel(QUEUE_MAX);
                tokio::spawn(keep_calling(at.grpc.clone(), self.authorization.clone(), items));
                let peer = Peer { grpc: at.grpc.clone(), incarnation: at.incarnation, queue };
                peers.insert(Arc::clone(node), peer);
            }
        }
    }

    pub async fn ask(&self, node: &str, partition: PartitionId, command: Command) -> Result<Answer, AskError> {
        let queue = self.lock().get(node).map(|peer| peer.queue.clone()).ok_or(AskError::NotSent)?;
        let (answer, answered) = oneshot::channel();
        queue.try_send(Item::Ask { partition, command, answer }).map_err(|_| AskError::NotSent)?;
        answered.await.map_err(|_| AskError::Unknown)
    }

    /// For each user, in order, whether the node, which owns the partition of their inboxes, knows of a live connection. `None`:
    /// it cannot say.
    pub async fn online(&self, node: &str, partition: PartitionId, uids: Vec<String>) -> Option<Vec<bool>> {
        let queue = self.lock().get(node).map(|peer| peer.queue.clone())?;
        let (answer, answered) = oneshot::channel();
        queue.try_send(Item::Online { partition, uids, answer }).ok()?;
        answered.await.ok()
    }

    /// `to` names the incarnation that took the message in; another one waits for nothing.
    pub fn result(&self, to: &str, incarnation: u64, corr: u64, answer: Answer) {
        if let Some(queue) = self.queue(to, incarnation) {
            // Who does not hear of it asks again with the same key.
            let _ = queue.try_send(Item::Result(wire::result(corr, answer)));
        }
    }

    /// As [`Peers::result`]. Whether somebody waited for it and has heard of it, as far as is known: of one that was heard it may
    /// seem that it was not.
    pub async fn refused(&self, to: &str, incarnation: u64, corr: u64, refusal: Refusal) -> bool {
        let Some(queue) = self.queue(to, incarnation) else { return false };
        let (heard, answered) = oneshot::channel();
        if queue.try_send(Item::Refused { result: wire::result(corr, Err(refusal)), heard }).is_err() {
            return false;
        }
        matches!(tokio::time::timeout(HEARD_TIMEOUT, answered).await, Ok(Ok(true)))
    }

    fn queue(&self, to: &str, incarnation: u64) -> Option<mpsc::Sender<Item>> {
        self.lock().get(to).filter(|peer| peer.incarnation == incarnation).map(|peer| peer.queue.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Peer>> {
        // Nothing panics half-way through a change.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls until nobody can ask any more.
async fn keep_calling(grpc: String, authorization: Option<MetadataValue<Ascii>>, mut items: mpsc::Receiver<Item>) {
    loop {
        match call(&grpc, authorization.clone(), &mut items).await {
            Ok(()) => return,
            Err(why) => tracing::debug!(node = grpc, why, "no call to the other node"),
        }
        // What is asked while there is no call is not kept: the caller may do better.
        let pause = tokio::time::sleep(RETRY);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                item = items.recv() => if item.is_none() { return },
            }
        }
    }
}

/// `Ok`: nobody asks any more.
async fn call(
    grpc: &str,
    authorization: Option<MetadataValue<Ascii>>,
    items: &mut mpsc::Receiver<Item>,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let address = if grpc.contains("://") { grpc.to_owned() } else { format!("http://{grpc}") };
    let endpoint = Endpoint::from_shared(address).map_err(|error| text(&error))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    let endpoint = endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
    let channel = endpoint.keep_alive_while_idle(true).connect().await.map_err(|error| text(&error))?;
    let mut client = NodeLinkClient::new(channel).max_decoding_message_size(DOWN_BYTES_MAX);
    let (up, stream) = mpsc::channel(MESSAGES_MAX);
    let mut request = tonic::Request::new(ReceiverStream::new(stream));
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization);
    }
    let mut down = client.converse(request).await.map_err(|status| text(&status))?.into_inner();
    // Dropped with the call: then their askers learn that the outcome is unknown.
    let mut waiting: HashMap<u64, Waiting> = HashMap::new();
    let mut next_corr = 1;
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        tokio::select! {
            count = items.recv_many(&mut batch, BATCH_MAX) => {
                if count == 0 {
                    return Ok(());
                }
                let message = gather(&mut batch, &mut waiting, &mut next_corr);
                up.send(message).await.map_err(|_| "the call ended".to_owned())?;
            }
            answers = down.message() => match answers.map_err(|status| text(&status))? {
                Some(answers) => take(answers, &mut waiting)?,
                None => return Err("the other node ended the call".to_owned()),
            },
        }
    }
}

fn gather(batch: &mut Vec<Item>, waiting: &mut HashMap<u64, Waiting>, next_corr: &mut u64) -> NodeUp {
    let (mut asks, mut results): (Vec<NodeAsk>, Vec<NodeResult>) = (Vec::new(), Vec::new());
    for item in batch.drain(..) {
        match item {
            Item::Ask { partition, command, answer } => {
                asks.push(wire::ask(*next_corr, partition, command));
                waiting.insert(*next_corr, Waiting::Command(answer));
                *next_corr += 1;
            }
            Item::Online { partition, uids, answer } => {
                let command = Some(node_ask::Command::Online(NodeOnline { uids }));
                asks.push(NodeAsk { corr: *next_corr, partition: partition.0, command });
                waiting.insert(*next_corr, Waiting::Online(answer));
                *next_corr += 1;
            }
            Item::Result(result) => results.push(result),
            Item::Refused { result, heard } => {
                let command = Some(node_ask::Command::Refused(result));
                asks.push(NodeAsk { corr: *next_corr, partition: 0, command });
                waiting.insert(*next_corr, Waiting::Refused(heard));
                *next_corr += 1;
            }
        }
    }
    NodeUp { asks, results }
}

fn take(answers: NodeDown, waiting: &mut HashMap<u64, Waiting>) -> Result<(), String> {
    for answer in answers.answers {
        // The asker may have lost its patience.
        match waiting.remove(&answer.corr) {
            Some(Waiting::Command(asker)) => {
                let (_, answer) = wire::answered(answer).map_err(|bad| bad.to_string())?;
                let _ = asker.send(answer);
            }
            Some(Waiting::Online(asker)) => {
                // Of a refusal the asker learns by the end of its channel.
                if let Some(node_answer::Ok::Online(answer)) = answer.ok {
                    let _ = asker.send(answer.online);
                }
            }
            Some(Waiting::Refused(asker)) => {
                let _ = asker.send(matches!(answer.ok, Some(node_answer::Ok::Heard(heard)) if heard.by_somebody));
            }
            None => {}
        }
    }
    Ok(())
}
