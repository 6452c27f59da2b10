//! The double's gateway side: upgrade, frames of RFC 6455 as a server, operations of clients.

use std::collections::HashMap;

use base64::Engine as _;
use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;
use sha1::{Digest as _, Sha1};
use tidegate_proto::v1::{
    ClientFrame, ConnectOp, Error, JoinOp, Ok as Answer, PullOp, PullResult, ServerFrame, Session, client_frame::Op,
    ok, server_frame::Body,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::fault::{Fault, How, Pulls};
use super::hub::Hub;
use super::sequencer::{ConnectionNo, EPOCH, OUTBOX_MAX, Out, Sequencer};

const HEAD_BYTES_MAX: usize = 16 * 1024;
const PAGE_MESSAGES_MAX: usize = 1_000;
const PULL_RETRY_AFTER_MS: u32 = 50;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, hub: Hub) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, hub) = (tls.clone(), hub.clone());
        tokio::spawn(async move {
            // A client that goes away in the middle of anything is its own affair.
            let _ = accepted(stream, tls, hub).await;
        });
    }
}

/// A frame of the sub-protocol, ready for the wire.
pub fn encode(id: u32, body: Body) -> Bytes {
    binary(&ServerFrame { id, body: Some(body) }.encode_to_vec())
}

pub fn binary(payload: &[u8]) -> Bytes {
    frame(BINARY, payload)
}

fn frame(op: u8, payload: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(payload.len() + 10);
    bytes.push(0x80 | op);
    match payload.len() {
        len @ 0..=125 => bytes.push(len as u8),
        len @ 126..=0xffff => {
            bytes.push(126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes.into()
}

async fn accepted(stream: TcpStream, tls: Option<TlsAcceptor>, hub: Hub) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        Some(tls) => connection(tls.accept(stream).await?, hub).await,
        None => connection(stream, hub).await,
    }
}

async fn connection<S>(mut stream: S, hub: Hub) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut buffer = BytesMut::with_capacity(4096);
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if buffer.len() > HEAD_BYTES_MAX || stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    };
    let head = buffer.split_to(head_end);
    let fault = hub.lock().fault;
    match upgrade(&String::from_utf8_lossy(&head), fault) {
        Err(refusal) => stream.write_all(refusal.as_bytes()).await,
        Ok((uid, response)) => {
            stream.write_all(response.as_bytes()).await?;
            let (outbox, queue) = mpsc::channel(OUTBOX_MAX);
            let number = hub.lock().enter(uid, outbox);
            let (reader, mut writer) = split(stream);
            let of_writer = hub.clone();
            let writing = tokio::spawn(async move {
                let written = write(&mut writer, queue, of_writer).await;
                // The client hears of the end although the other half still reads.
                writer.shutdown().await.and(written)
            });
            let read = read(reader, buffer, number, &hub).await;
            hub.lock().leave(number);
            // Its queue ends with the connection's entry.
            let _ = writing.await;
            read
        }
    }
}

/// The uid and the answer to an upgrade, or the refusal.
fn upgrade(head: &str, fault: Fault) -> Result<(String, String), String> {
    let refusal = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let mut lines = head.split("\r\n");
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let headers: HashMap<String, &str> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let (Some(uid), Some("1")) = (parameter("uid"), parameter("defer")) else { return Err(refusal("400 Bad Request")) };
    let protocol = headers.get("sec-websocket-protocol").copied();
    let (Some(key), Some("tidegate.v1.proto"), Some("13")) =
        (headers.get("sec-websocket-key"), protocol, headers.get("sec-websocket-version").copied())
    else {
        return Err(refusal("400 Bad Request"));
    };
    if let Fault::RefusedUpgrade { client } = fault
        && uid.rsplit('-').next() == Some(&client.to_string())
    {
        return Err(refusal("503 Service Unavailable"));
    }
    let digest = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: tidegate.v1.proto\r\n\r\n"
    );
    Ok((uid.to_owned(), response))
}

async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    mut queue: mpsc::Receiver<Out>,
    hub: Hub,
) -> std::io::Result<()> {
    writer.write_all(&frame(PING, b"?")).await?;
    while let Some(out) = queue.recv().await {
        hub.moving().await;
        match out {
            Out::Frame(bytes) => writer.write_all(&bytes).await?,
            Out::End(How::Frame(code)) => return writer.write_all(&frame(CLOSE, &code.to_be_bytes())).await,
            Out::End(How::Cut) => return Ok(()),
        }
    }
    Ok(())
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    mut buffer: BytesMut,
    number: ConnectionNo,
    hub: &Hub,
) -> std::io::Result<()> {
    loop {
        while let Some((op, payload)) = take_frame(&mut buffer) {
            hub.moving().await;
            let mut sequencer = hub.lock();
            match op {
                BINARY => match ClientFrame::decode(payload) {
                    Ok(frame) => operation(&mut sequencer, number, frame),
                    Err(_) => return Ok(()),
                },
                PING => sequencer.send(number, frame(PONG, &payload)),
                PONG => sequencer.pongs += 1,
                CLOSE | TEXT => return Ok(()),
                _ => {}
            }
        }
        if reader.read_buf(&mut buffer).await? == 0 || !hub.lock().connections.contains_key(&number) {
            return Ok(());
        }
    }
}

/// Takes one masked frame off the front.
fn take_frame(buffer: &mut BytesMut) -> Option<(u8, Bytes)> {
    let [first, second] = buffer.first_chunk::<2>().copied()?;
    let (len, head) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?), 10),
        len => (u64::from(len), 2),
    };
    let mask: [u8; 4] = buffer.get(head..head + 4)?.try_into().ok()?;
    let whole = head + 4 + len as usize;
    if buffer.len() < whole {
        return None;
    }
    let mut frame = buffer.split_to(whole);
    frame.advance(head + 4);
    frame.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= mask[at % 4]);
    Some((first & 0x0f, frame.freeze()))
}

fn operation(sequencer: &mut Sequencer, number: ConnectionNo, frame: ClientFrame) {
    let id = frame.id;
    let ok = |result| Body::Ok(Answer { result });
    let answer = match frame.op {
        Some(Op::Connect(op)) => return connect(sequencer, number, id, &op),
        Some(Op::Join(op)) => return join(sequencer, number, id, &op),
        Some(Op::Pull(op)) => match pull(sequencer, number, &op) {
            Some(answer) => answer,
            None => return,
        },
        Some(Op::Head(op)) => {
            let state = sequencer.streams.entry(op.stream.clone()).or_default().state(&op.stream);
            ok(Some(ok::Result::Head(state)))
        }
        Some(Op::Ping(_) | Op::Ack(_) | Op::Leave(_)) => ok(None),
        _ => Body::Error(Error { code: "UNIMPLEMENTED".into(), ..Error::default() }),
    };
    sequencer.send(number, encode(id, answer));
}

fn connect(sequencer: &mut Sequencer, number: ConnectionNo, id: u32, op: &ConnectOp) {
    let Some(uid) = sequencer.connections.get(&number).map(|connection| connection.uid.clone()) else { return };
    let inbox = format!("u:{uid}");
    let mut streams = vec![sequencer.join(number, &inbox)];
    for name in op.cursors.keys().filter(|name| **name != inbox) {
        streams.push(sequencer.join(number, name));
    }
    let connection_id = number.to_string();
    let session = Session {
        connection_id,
        uid,
        gateway: "double".into(),
        ping_interval_ms: 60_000,
        streams,
        ..Session::default()
    };
    sequencer.send(number, encode(id, Body::Ok(Answer { result: Some(ok::Result::Connect(session)) })));
    for (name, cursor) in &op.cursors {
        send_missed(sequencer, number, name, cursor.seq);
    }
}

fn join(sequencer: &mut Sequencer, number: ConnectionNo, id: u32, op: &JoinOp) {
    let mut state = sequencer.join(number, &op.stream);
    if let Fault::JoinsAhead { by } = sequencer.fault {
        state.head += by;
    }
    let id = if sequencer.fault == Fault::WrongAnswerId { id + 1_000 } else { id };
    sequencer.send(number, encode(id, Body::Ok(Answer { result: Some(ok::Result::Join(state)) })));
    if let Some(cursor) = &op.cursor {
        send_missed(sequencer, number, &op.stream, cursor.seq);
    }
}

fn send_missed(sequencer: &mut Sequencer, number: ConnectionNo, name: &str, after: u64) {
    for batch in sequencer.missed(name, after) {
        sequencer.send(number, encode(0, Body::Batch(batch)));
    }
}

fn pull(sequencer: &mut Sequencer, number: ConnectionNo, op: &PullOp) -> Option<Body> {
    let helps = !sequencer.planted.iter().any(|planted| planted.stream == op.stream);
    let stream = sequencer.streams.entry(op.stream.clone()).or_default();
    let (head, after) = (stream.head, op.after);
    let mut page = PullResult {
        stream: op.stream.clone(),
        epoch: EPOCH.into(),
        after,
        upto: after,
        messages: Vec::new(),
        next_after: after,
        head,
        first: 1,
    };
    match sequencer.fault {
        Fault::UnhealedHole { pulls: Pulls::Never, .. } if !helps => return None,
        Fault::UnhealedHole { pulls: Pulls::Error, .. } if !helps => {
            let retry_after_ms = Some(PULL_RETRY_AFTER_MS);
            let code = "UNAVAILABLE".to_owned();
            return Some(Body::Error(Error { code, retry: true, retry_after_ms, ..Error::default() }));
        }
        Fault::UnhealedHole { pulls: Pulls::Empty, .. } if !helps => {}
        _ => {
            let limit = if op.limit == 0 { PAGE_MESSAGES_MAX } else { PAGE_MESSAGES_MAX.min(op.limit as usize) };
            page.messages = stream.history.range(after + 1..).take(limit).map(|(_, m)| m.clone()).collect();
            let more = page.messages.len() == limit;
            page.next_after = page.messages.last().filter(|_| more).map_or(head.max(after), |last| last.seq);
            page.upto = page.next_after;
        }
    }
    if page.next_after >= head
        && let Some(connection) = sequencer.connections.get_mut(&number)
    {
        connection.in_gap.remove(&op.stream);
    }
    Some(Body::Ok(Answer { result: Some(ok::Result::Pull(page)) }))
}
