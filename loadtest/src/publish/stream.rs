//! Publishing through `PushStream`: requests are made when the connection asks for them, so that they need no queue.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_proto::v1::push_service_client::PushServiceClient;
use tidegate_proto::v1::{PushRequest, PushResult};
use tokio::time::{Instant, Sleep};
use tokio_stream::Stream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::PublishError;
use super::outbox::{Outbox, Step};
use super::turn::Turn;

/// Pause between attempts to reach the server again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How soon a stop is noticed, and patience is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Answers that are taken in before requests get their turn.
const ANSWERS_MAX: usize = 1_024;

/// Publishes what the outbox holds; broken connections are made again and what was unanswered is sent again.
pub async fn publish(outbox: &Arc<Mutex<Outbox>>, places: &Turn<String>) {
    loop {
        let Some((turn, grpc)) = places.now() else {
            outbox.lock().expect("no holder panics").fail(|| "no address to push to".to_owned());
            return;
        };
        let ended = attempt(outbox, grpc).await;
        places.failed(turn);
        if ended.is_ok() || !goes_on(&mut outbox.lock().expect("no holder panics"), &ended) {
            return;
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Whether another connection can help.
fn goes_on(outbox: &mut Outbox, ended: &Result<(), PublishError>) -> bool {
    if let Err(PublishError::Status(status)) = ended
        && is_final(status)
    {
        outbox.fail(|| format!("the push stream was refused: {} {}", status.code(), status.message()));
        return false;
    }
    outbox.broken();
    !gave_up(outbox)
}

fn gave_up(outbox: &mut Outbox) -> bool {
    let now_us = outbox.now_us();
    outbox.gave_up(now_us)
}

/// Asking again would be answered the same.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::InvalidArgument
    )
}

/// One connection's worth. `Ok`: nothing is left to wait for.
async fn attempt(outbox: &Arc<Mutex<Outbox>>, grpc: &str) -> Result<(), PublishError> {
    let mut client = PushServiceClient::<Channel>::connect(grpc.to_owned()).await?;
    let requests = Requests { outbox: Arc::clone(outbox), timer: Box::pin(tokio::time::sleep(Duration::ZERO)) };
    let mut answers = client.push_stream(requests).await?.into_inner();
    loop {
        let ended = tokio::select! {
            ended = std::future::poll_fn(|cx| take_answers(outbox, &mut answers, cx)) => Some(ended),
            () = tokio::time::sleep(LOOK) => None,
        };
        let mut held = outbox.lock().expect("no holder panics");
        match ended {
            Some(Err(status)) => return Err(status.into()),
            Some(Ok(())) if held.is_empty() => return Ok(()),
            Some(Ok(())) => return Err(Status::unavailable("the server ended the stream").into()),
            None if gave_up(&mut held) => return Ok(()),
            None => {}
        }
    }
}

/// Takes in answers until there are none or the stream ends.
fn take_answers(
    outbox: &Mutex<Outbox>,
    answers: &mut Streaming<PushResult>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Status>> {
    for _ in 0..ANSWERS_MAX {
        match Pin::new(&mut *answers).poll_next(cx) {
            Poll::Ready(Some(Ok(answer))) => {
                outbox.lock().expect("no holder panics").answered(answer.corr, &answer);
            }
            Poll::Ready(Some(Err(status))) => return Poll::Ready(Err(status)),
            Poll::Ready(None) => return Poll::Ready(Ok(())),
            Poll::Pending => return Poll::Pending,
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// The outbox as the body of a call.
struct Requests {
    outbox: Arc<Mutex<Outbox>>,
    timer: Pin<Box<Sleep>>,
}

impl Stream for Requests {
    type Item = PushRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PushRequest>> {
        loop {
            let wait = {
                let mut outbox = self.outbox.lock().expect("no holder panics");
                let now_us = outbox.now_us();
                match outbox.step(now_us, Some(cx.waker())) {
                    Step::Send(request) => return Poll::Ready(Some(*request)),
                    Step::Done => return Poll::Ready(None),
                    Step::Full => LOOK,
                    Step::Wait(until_us) => LOOK.min(Duration::from_micros(until_us.saturating_sub(now_us))),
                }
            };
            self.timer.as_mut().reset(Instant::now() + wait);
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
