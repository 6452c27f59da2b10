//! Publishing as a client of the gateways does: `send` operations over one connection, pipelined.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use hashbrown::HashMap;
use prost::Message as _;
use tidegate_proto::v1::{
    ClientFrame, ConnectOp, PushError, PushRequest, PushResult, PushStatus, SendOp, SendResult, ServerFrame,
    client_frame, ok, server_frame,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::outbox::{Outbox, Step};
use super::turn::Turn;
use crate::client::{Upgrade, upgrade_answer, upgrade_request};
use crate::ws::{self, OpCode};

/// Pause between attempts to reach a gateway again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How soon a stop is noticed, and patience is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long a gateway may take until it has answered `connect`.
const OPENING_TIMEOUT: Duration = Duration::from_secs(20);
/// Requests that are handed over before answers get their turn.
const SENDS_MAX: usize = 256;
const CONNECT_ID: u32 = 1;
/// The protocol's.
const ID_MAX: u32 = i32::MAX as u32;

#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Frame(#[from] ws::FrameError),
    #[error("{0}")]
    Undecodable(#[from] prost::DecodeError),
    #[error("the gateway did not answer in time")]
    Opening(#[from] tokio::time::error::Elapsed),
    #[error("the gateway refused or closed")]
    Closed,
}

/// Publishes what the outbox holds; after a broken connection the next gateway is asked the same again.
pub async fn publish(outbox: &Arc<Mutex<Outbox>>, places: &Turn<SocketAddr>) {
    loop {
        let Some((turn, gateway)) = places.now() else {
            outbox.lock().expect("no holder panics").fail(|| "no gateway to send through".to_owned());
            return;
        };
        if attempt(outbox, *gateway).await.is_ok() {
            return;
        }
        places.failed(turn);
        {
            let mut held = outbox.lock().expect("no holder panics");
            held.broken();
            let now_us = held.now_us();
            if held.gave_up(now_us) {
                return;
            }
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// One connection's worth. `Ok`: nothing is left to wait for.
async fn attempt(outbox: &Mutex<Outbox>, gateway: SocketAddr) -> Result<(), Lost> {
    let uid = outbox.lock().expect("no holder panics").sender();
    let mut link = tokio::time::timeout(OPENING_TIMEOUT, Link::open(gateway, &uid)).await??;
    loop {
        let wait = {
            let mut held = outbox.lock().expect("no holder panics");
            let now_us = held.now_us();
            if held.gave_up(now_us) {
                return Ok(());
            }
            link.ask(&mut held, now_us)
        };
        let Some(wait) = wait else { return Ok(()) };
        link.flush().await?;
        tokio::select! {
            read = link.stream.read_buf(&mut link.incoming) => {
                if read? == 0 {
                    return Err(Lost::Closed);
                }
                link.take(&mut outbox.lock().expect("no holder panics"))?;
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

struct Link {
    stream: TcpStream,
    incoming: BytesMut,
    outgoing: Vec<u8>,
    /// Numbers of messages by the ids of the requests that carried them.
    asked: HashMap<u32, u64>,
    next_id: u32,
}

impl Link {
    async fn open(gateway: SocketAddr, uid: &str) -> Result<Link, Lost> {
        let stream = TcpStream::connect(gateway).await?;
        stream.set_nodelay(true)?;
        let (incoming, outgoing) = (BytesMut::with_capacity(64 * 1024), Vec::new());
        let mut link = Link { stream, incoming, outgoing, asked: HashMap::new(), next_id: CONNECT_ID + 1 };
        upgrade_request(&mut link.outgoing, gateway, uid, false);
        link.flush().await?;
        loop {
            match upgrade_answer(&link.incoming) {
                Upgrade::Upgraded(end) => {
                    drop(link.incoming.split_to(end));
                    break;
                }
                Upgrade::Refused(_) => return Err(Lost::Closed),
                Upgrade::Partial => link.read().await?,
            }
        }
        let (device, platform) = (format!("{uid}-device"), "web".to_owned());
        link.put(CONNECT_ID, client_frame::Op::Connect(ConnectOp { device, platform, ..ConnectOp::default() }));
        link.flush().await?;
        loop {
            while let Some(frame) = link.frame()? {
                match frame.body {
                    Some(server_frame::Body::Ok(_)) if frame.id == CONNECT_ID => return Ok(link),
                    Some(server_frame::Body::Error(_)) if frame.id == CONNECT_ID => return Err(Lost::Closed),
                    _ => {}
                }
            }
            link.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Lost> {
        self.flush().await?;
        if self.stream.read_buf(&mut self.incoming).await? == 0 { Err(Lost::Closed) } else { Ok(()) }
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.outgoing).await?;
        self.outgoing.clear();
        Ok(())
    }

    fn put(&mut self, id: u32, op: client_frame::Op) {
        ws::put_frame(&mut self.outgoing, OpCode::Binary, &ClientFrame { id, op: Some(op) }.encode_to_vec());
    }

    /// Takes from the outbox what is due; how long nothing more will be. `None`: all is done.
    fn ask(&mut self, outbox: &mut Outbox, now_us: u64) -> Option<Duration> {
        for _ in 0..SENDS_MAX {
            match outbox.step(now_us, None) {
                Step::Send(request) => self.send(*request),
                Step::Done => return None,
                Step::Full => return Some(LOOK),
                Step::Wait(until_us) => {
                    return Some(LOOK.min(Duration::from_micros(until_us.saturating_sub(now_us))));
                }
            }
        }
        Some(Duration::ZERO)
    }

    fn send(&mut self, request: PushRequest) {
        let PushRequest { mut to, message, message_id, corr, .. } = request;
        let message = message.unwrap_or_default();
        let id = self.next_id;
        self.next_id = if id == ID_MAX { CONNECT_ID + 1 } else { id + 1 };
        self.asked.insert(id, corr);
        let send = SendOp {
            to: to.pop().unwrap_or_default(),
            client_msg_id: message_id,
            r#type: message.r#type,
            content: message.content,
            ..SendOp::default()
        };
        self.put(id, client_frame::Op::Send(send));
    }

    /// Tells the outbox the answers that have come.
    fn take(&mut self, outbox: &mut Outbox) -> Result<(), Lost> {
        while let Some(frame) = self.frame()? {
            let result = match frame.body {
                Some(server_frame::Body::Ok(answer)) => match answer.result {
                    Some(ok::Result::Send(sent)) => accepted(sent),
                    _ => continue,
                },
                Some(server_frame::Body::Error(error)) => {
                    let error = PushError { code: error.code, ..PushError::default() };
                    PushResult { status: PushStatus::Error.into(), error: Some(error), ..PushResult::default() }
                }
                _ => continue,
            };
            if let Some(number) = self.asked.remove(&frame.id) {
                outbox.answered(number, &result);
            }
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<Option<ServerFrame>, Lost> {
        while let Some(frame) = ws::take_frame(&mut self.incoming)? {
            match frame.op {
                OpCode::Binary => return Ok(Some(ServerFrame::decode(frame.payload)?)),
                OpCode::Ping => ws::put_frame(&mut self.outgoing, OpCode::Pong, &frame.payload),
                OpCode::Close => return Err(Lost::Closed),
                OpCode::Pong | OpCode::Text | OpCode::Continuation => {}
            }
        }
        Ok(None)
    }
}

fn accepted(sent: SendResult) -> PushResult {
    let status = if sent.seq.is_some() { PushStatus::Accepted } else { PushStatus::Queued };
    PushResult {
        to: sent.stream,
        status: status.into(),
        message_id: sent.message_id,
        epoch: sent.epoch,
        seq: sent.seq,
        duplicate: sent.duplicate,
        ..PushResult::default()
    }
}
