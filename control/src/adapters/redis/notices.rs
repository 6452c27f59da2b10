//! Subscriptions: a task each, which connects again for as long as somebody listens.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use redis::RedisError;
use tidegate_control_core::ports::cache::{Channel, Notice, Pending, Subscription};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::shared::Shared;

/// Notices that wait for their listener; past that they are dropped, and a gap is told.
const WAITING_MAX: usize = 4_096;
/// Between attempts to connect.
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// A silent connection is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(5);

pub struct Listener(mpsc::Receiver<Notice>);

impl Subscription for Listener {
    fn next(&mut self) -> Pending<'_, Option<Notice>> {
        Box::pin(self.0.recv())
    }
}

pub fn subscribe(shared: &Arc<Shared>, channels: &[Channel]) -> Listener {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let names = channels.iter().map(|channel| shared.speaker.keys.channel(channel).name).collect();
    shared.runtime.spawn(run(Arc::downgrade(shared), names, Outlet { sender, gap: true }));
    Listener(receiver)
}

async fn run(shared: Weak<Shared>, names: Vec<Vec<u8>>, mut outlet: Outlet) {
    let (mut back_off, mut node) = (BACK_OFF, 0);
    loop {
        let Some(shared) = shared.upgrade() else { return };
        if shared.is_closed() || outlet.sender.is_closed() {
            return;
        }
        let ended = listen(&shared, node, &names, &mut outlet, &mut back_off).await;
        if let Err(error) = ended {
            tracing::debug!(%error, "a subscription is made again");
        }
        outlet.gap = true;
        // Another node of the cluster may be there.
        node += 1;
        drop(shared);
        tokio::time::sleep(back_off).await;
        back_off = (back_off * 2).min(BACK_OFF_MAX);
    }
}

/// Until the connection or the listener ends.
async fn listen(
    shared: &Shared,
    node: usize,
    names: &[Vec<u8>],
    outlet: &mut Outlet,
    back_off: &mut Duration,
) -> Result<(), RedisError> {
    let nodes = &shared.endpoints.nodes;
    let limit = shared.endpoints.timeout;
    let connecting = async {
        let mut connection = nodes[node % nodes.len()].get_async_pubsub().await?;
        connection.subscribe(names).await?;
        Ok::<_, RedisError>(connection)
    };
    let connection = tokio::time::timeout(limit * 4, connecting).await.map_err(timed_out)??;
    *back_off = BACK_OFF;
    outlet.tell_gap();
    let (mut sink, mut stream) = connection.split();
    loop {
        match tokio::time::timeout(PING_EVERY, next_or_closed(&mut stream, &outlet.sender)).await {
            Ok(Some(message)) => {
                if let Some(channel) = shared.speaker.keys.channel_of(message.get_channel_name()) {
                    let bytes = Bytes::copy_from_slice(message.get_payload_bytes());
                    outlet.tell(Notice::Message { channel, bytes });
                }
            }
            Ok(None) => return Ok(()),
            Err(_) if shared.is_closed() => return Ok(()),
            Err(_) => {
                tokio::time::timeout(limit * 4, sink.ping::<redis::Value>()).await.map_err(timed_out)??;
            }
        }
    }
}

/// `None`: the connection ended, or nobody listens any more.
async fn next_or_closed(stream: &mut redis::aio::PubSubStream, sender: &mpsc::Sender<Notice>) -> Option<redis::Msg> {
    tokio::select! {
        message = stream.next() => message,
        () = sender.closed() => None,
    }
}

fn timed_out(_: tokio::time::error::Elapsed) -> RedisError {
    (redis::ErrorKind::Io, "no answer in time").into()
}

struct Outlet {
    sender: mpsc::Sender<Notice>,
    /// To be told before the next message.
    gap: bool,
}

impl Outlet {
    fn tell_gap(&mut self) {
        if self.gap && self.sender.try_send(Notice::Gap).is_ok() {
            self.gap = false;
        }
    }

    fn tell(&mut self, notice: Notice) {
        self.tell_gap();
        if self.gap {
            return;
        }
        if let Err(TrySendError::Full(_)) = self.sender.try_send(notice) {
            self.gap = true;
        }
    }
}
