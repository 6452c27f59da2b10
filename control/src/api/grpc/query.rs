//! QueryService.

use std::sync::Arc;

use tidegate_control_core::domain::{Seq, StreamKey, Uid};
use tidegate_control_core::partition::{Command, Reply};
use tidegate_proto::v1::query_service_server::QueryService;
use tidegate_proto::v1::{HistoryRequest, HistoryResponse, PresenceRequest, PresenceResponse, UserPresence};
use tonic::{Request, Response, Status};

use crate::api::Api;
use crate::api::error::status;
use crate::api::streams::unexpected;
use crate::link::convert::{message, page_limit};

/// Users in one presence question.
pub const UIDS_MAX: usize = 1_000;

pub struct QueryApi(pub Arc<Api>);

#[tonic::async_trait]
impl QueryService for QueryApi {
    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        let api = &self.0;
        api.access.backend_call(&request)?;
        let asked = request.into_inner();
        let stream: StreamKey =
            asked.stream.parse().map_err(|_| Status::invalid_argument("`stream` is not a stream"))?;
        let command = Command::Pull {
            uid: None,
            stream,
            epoch: None,
            after: Seq(asked.after),
            since_ts: None,
            limit: page_limit(asked.limit),
        };
        let reply = api.dispatch.ask(command, api.patience()).await.map_err(|refusal| status(&refusal))?;
        let Reply::Page { stream, page, head } = reply else { return Err(unexpected(&reply).into()) };
        let stored = page.messages.iter();
        Ok(Response::new(HistoryResponse {
            stream: stream.to_string(),
            epoch: head.epoch.to_string(),
            messages: stored.map(|stored| message(&stored.body, stored.seq, stored.conversation.as_ref())).collect(),
            next_after: page.upto.0,
            head: head.head.0,
            first: head.first.0,
        }))
    }

    async fn presence(&self, request: Request<PresenceRequest>) -> Result<Response<PresenceResponse>, Status> {
        self.0.access.backend_call(&request)?;
        let uids = request.into_inner().uids;
        if uids.len() > UIDS_MAX {
            return Err(Status::invalid_argument(format!("at most {UIDS_MAX} uids")));
        }
        let bad = |_| Status::invalid_argument("`uids` has a name that is not a valid uid");
        let uids = uids.iter().map(|uid| uid.parse::<Uid>()).collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let counts = self.0.connections_of(&uids).await;
        let user = |(uid, count): (&Uid, usize)| {
            let connections = u32::try_from(count).unwrap_or(u32::MAX);
            UserPresence { uid: uid.to_string(), online: connections > 0, connections }
        };
        Ok(Response::new(PresenceResponse { users: uids.iter().zip(counts).map(user).collect() }))
    }
}
