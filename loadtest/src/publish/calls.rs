//! Publishing by single calls, several at once: gRPC `Push` over one connection, or REST.

use std::sync::Mutex;
use std::time::Duration;

use tidegate_proto::v1::push_service_client::PushServiceClient;
use tidegate_proto::v1::{PushRequest, PushResult};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::outbox::{Outbox, Step};
use super::rest::Rest;
use super::turn::Turn;

/// How long one call may take; then it is sent again.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon a stop is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// What became of a call.
#[derive(Debug)]
pub enum Called {
    Answer(Box<PushResult>),
    /// The whole call was refused, with this code.
    Refused(String),
    /// It may have been stored or not.
    Unknown,
    /// As well, and nobody is there: another place may do better.
    Lost,
}

#[derive(Clone, Debug)]
pub enum Caller {
    Unary(PushServiceClient<Channel>),
    Rest(Box<Rest>),
    /// The address is none.
    Nowhere(String),
}

impl Caller {
    pub fn unary(grpc: &str) -> Caller {
        match Endpoint::from_shared(grpc.to_owned()) {
            Ok(endpoint) => Caller::Unary(PushServiceClient::new(endpoint.connect_lazy())),
            Err(error) => Caller::Nowhere(format!("{grpc}: {error}")),
        }
    }

    pub fn rest(api: &str) -> Caller {
        Rest::new(api).map_or_else(Caller::Nowhere, |rest| Caller::Rest(Box::new(rest)))
    }

    async fn call(self, request: PushRequest) -> Called {
        match self {
            Caller::Unary(mut client) => match client.push(request).await {
                Ok(response) => match response.into_inner().results.pop() {
                    Some(answer) => Called::Answer(Box::new(answer)),
                    None => Called::Refused("no result".to_owned()),
                },
                Err(status) => match status.code() {
                    Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded => Called::Lost,
                    code => Called::Refused(format!("{code:?}")),
                },
            },
            Caller::Rest(rest) => rest.call(request).await,
            Caller::Nowhere(why) => Called::Refused(why),
        }
    }
}

/// Publishes what the outbox holds, with at most its `in_flight` calls at once.
pub async fn publish(outbox: &Mutex<Outbox>, places: Turn<Caller>) {
    let mut calls = JoinSet::new();
    loop {
        let wait = {
            let mut held = outbox.lock().expect("no holder panics");
            let now_us = held.now_us();
            match held.step(now_us, None) {
                Step::Send(request) => {
                    let number = request.corr;
                    let Some((turn, caller)) = places.now().map(|(turn, caller)| (turn, caller.clone())) else {
                        held.call_refused(number, "no address to push to");
                        continue;
                    };
                    calls.spawn(async move {
                        let called = tokio::time::timeout(CALL_TIMEOUT, caller.call(*request)).await;
                        (number, turn, called.unwrap_or(Called::Lost))
                    });
                    continue;
                }
                Step::Done => return,
                Step::Full => LOOK,
                Step::Wait(until_us) => LOOK.min(Duration::from_micros(until_us.saturating_sub(now_us))),
            }
        };
        tokio::select! {
            Some(Ok((number, turn, called))) = calls.join_next() => {
                if matches!(called, Called::Lost) {
                    places.failed(turn);
                }
                take(outbox, number, called);
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn take(outbox: &Mutex<Outbox>, number: u64, called: Called) {
    let mut outbox = outbox.lock().expect("no holder panics");
    match called {
        Called::Answer(answer) => outbox.answered(number, &answer),
        Called::Refused(code) => outbox.call_refused(number, &code),
        Called::Unknown | Called::Lost => outbox.unknown(number),
    }
}
