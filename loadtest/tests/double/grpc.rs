//! The double's `PushService`.

use tidegate_proto::v1::push_service_server::{PushService, PushServiceServer};
use tidegate_proto::v1::{PushBatchRequest, PushBatchResponse, PushRequest, PushResponse, PushResult};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::hub::{Answer, Hub};

const ANSWERS_MAX: usize = 4_096;

pub async fn serve(listener: TcpListener, hub: Hub) {
    let service = PushServiceServer::new(Pushes { hub });
    let served = tonic::transport::Server::builder().add_service(service);
    let _ = served.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))).await;
}

struct Pushes {
    hub: Hub,
}

impl Pushes {
    async fn response(&self, request: &PushRequest) -> Result<PushResponse, Status> {
        match self.hub.push(request).await {
            Answer::Results(results) => Ok(PushResponse { results }),
            Answer::Broken => Err(Status::unavailable("planted")),
            Answer::Nothing => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl PushService for Pushes {
    type PushStreamStream = ReceiverStream<Result<PushResult, Status>>;

    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushResponse>, Status> {
        self.response(request.get_ref()).await.map(Response::new)
    }

    async fn push_batch(&self, request: Request<PushBatchRequest>) -> Result<Response<PushBatchResponse>, Status> {
        let mut responses = Vec::new();
        for request in &request.get_ref().requests {
            responses.push(self.response(request).await?);
        }
        Ok(Response::new(PushBatchResponse { responses }))
    }

    async fn push_stream(
        &self,
        requests: Request<Streaming<PushRequest>>,
    ) -> Result<Response<Self::PushStreamStream>, Status> {
        let (answers, results) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(answer(requests.into_inner(), answers, self.hub.clone()));
        Ok(Response::new(ReceiverStream::new(results)))
    }
}

async fn answer(mut requests: Streaming<PushRequest>, answers: mpsc::Sender<Result<PushResult, Status>>, hub: Hub) {
    while let Ok(Some(request)) = requests.message().await {
        match hub.push(&request).await {
            Answer::Results(results) => {
                for result in results {
                    if answers.send(Ok(result)).await.is_err() {
                        return;
                    }
                }
            }
            Answer::Broken => {
                let _ = answers.send(Err(Status::unavailable("planted"))).await;
                return;
            }
            Answer::Nothing => {}
        }
    }
}
