//! The side that is dialled.

use std::sync::Arc;

use tidegate_control_core::domain::{ErrorCode, PartitionId, Refusal};
use tidegate_control_core::partition::Command;
use tidegate_proto::v1::node_link_server::NodeLink;
use tidegate_proto::v1::{
    NodeAnswer, NodeDown, NodeHeard, NodeOnline, NodeOnlineAnswer, NodeUp, node_answer, node_ask,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::wire;
use crate::api::auth::ServiceTokens;
use crate::cluster::ingress::Results;
use crate::cluster::routes::Here;
use crate::cluster::seats::Seats;
use crate::runtime::Answer;

/// Answers that may be ahead of the connection's own flow control.
const MESSAGES_MAX: usize = 16;
const BATCH_MAX: usize = 1_024;
/// Answers on their way to one caller's connection.
const ANSWERS_MAX: usize = 65_536;

#[derive(Clone)]
pub(crate) struct NodeService {
    pub seats: Arc<Seats>,
    pub results: Arc<Results>,
    pub here: Arc<Here>,
    pub tokens: Option<Arc<ServiceTokens>>,
    pub stopping: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl NodeLink for NodeService {
    type ConverseStream = ReceiverStream<Result<NodeDown, Status>>;

    async fn converse(&self, request: Request<Streaming<NodeUp>>) -> Result<Response<Self::ConverseStream>, Status> {
        if let Some(tokens) = &self.tokens {
            tokens.check_metadata(request.metadata())?;
        }
        let (down, stream) = mpsc::channel(MESSAGES_MAX);
        let (answers, answered) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(write(answered, down.clone()));
        let service = self.clone();
        let mut up = request.into_inner();
        tokio::spawn(async move {
            let mut stopping = service.stopping.clone();
            let end = tokio::select! {
                end = service.read(&mut up, &answers) => end,
                _ = stopping.wait_for(|stopping| *stopping) => Ok(()),
            };
            if let Err(status) = end {
                let _ = down.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl NodeService {
    async fn read(&self, up: &mut Streaming<NodeUp>, answers: &mpsc::Sender<NodeAnswer>) -> Result<(), Status> {
        while let Some(message) = up.message().await? {
            for result in message.results {
                match wire::resulted(&result) {
                    Ok(answer) => drop(self.results.take(result.corr, answer)),
                    Err(bad) => return Err(Status::invalid_argument(bad.to_string())),
                }
            }
            for ask in message.asks {
                if let Some(node_ask::Command::Online(online)) = &ask.command {
                    let answer = self.online(ask.corr, PartitionId(ask.partition), online);
                    // The caller's connection may have ended.
                    let _ = answers.send(answer).await;
                    continue;
                }
                if let Some(node_ask::Command::Refused(result)) = &ask.command {
                    let answer = wire::resulted(result).map_err(|bad| Status::invalid_argument(bad.to_string()))?;
                    let heard = NodeHeard { by_somebody: self.results.take(result.corr, answer) };
                    let ok = Some(node_answer::Ok::Heard(heard));
                    let _ = answers.send(NodeAnswer { corr: ask.corr, error: None, ok }).await;
                    continue;
                }
                let (corr, partition, command) =
                    wire::asked(ask).map_err(|bad| Status::invalid_argument(bad.to_string()))?;
                self.ask(corr, partition, command, answers.clone());
            }
        }
        Ok(())
    }

    fn online(&self, corr: u64, partition: PartitionId, asked: &NodeOnline) -> NodeAnswer {
        match self.here.online(partition, asked.uids.iter().map(String::as_str)) {
            Some(online) => {
                NodeAnswer { corr, error: None, ok: Some(node_answer::Ok::Online(NodeOnlineAnswer { online })) }
            }
            None => wire::answer(corr, Err(not_the_owner())),
        }
    }

    /// Handed over at once, so that a caller's commands keep their order; answered when the partition answers.
    fn ask(&self, corr: u64, partition: PartitionId, command: Command, answers: mpsc::Sender<NodeAnswer>) {
        let pending = match self.seats.hosted(partition) {
            Some(hosted) => hosted.sequencer.submit(vec![command]),
            None => Err(not_the_owner()),
        };
        tokio::spawn(async move {
            let answer: Answer = match pending {
                Ok(pending) => match pending.await {
                    Ok(mut answers) => answers.pop().unwrap_or_else(|| Err(crate::runtime::stopped())),
                    Err(refusal) => Err(refusal),
                },
                Err(refusal) => Err(refusal),
            };
            // The caller's connection may have ended.
            let _ = answers.send(wire::answer(corr, answer)).await;
        });
    }
}

/// Said by a node that is asked for what it does not own: nothing was done, and the caller asks the owner.
pub(crate) fn not_the_owner() -> Refusal {
    let mut refusal = Refusal::new(ErrorCode::Unavailable, NOT_THE_OWNER);
    refusal.retry_after_ms = Some(500);
    refusal
}

pub(crate) const NOT_THE_OWNER: &str = "this node does not own the partition";

async fn write(mut answered: mpsc::Receiver<NodeAnswer>, down: mpsc::Sender<Result<NodeDown, Status>>) {
    loop {
        let mut answers = Vec::new();
        if answered.recv_many(&mut answers, BATCH_MAX).await == 0 {
            return;
        }
        if down.send(Ok(NodeDown { answers })).await.is_err() {
            return;
        }
    }
}
