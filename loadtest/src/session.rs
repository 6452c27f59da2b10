//! One client connection: handshake, operations up, frames down, in the binary sub-protocol.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use prost::Message as _;
use tidegate_proto::v1::{ClientFrame, ServerFrame, client_frame, server_frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::ws::{self, OpCode};

/// How long a handshake may take before it counts as failed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// Where to connect and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    pub addr: SocketAddr,
    /// Path and query of the upgrade request, credentials included.
    pub path: String,
    /// `SO_RCVBUF`, so that a client that stops reading is felt soon.
    pub receive_buffer: Option<u32>,
}

impl Target {
    /// Development auth: the server takes our word for the uid.
    pub fn dev(addr: SocketAddr, uid: &str) -> Target {
        Target { addr, path: format!("/api/v1/ws?uid={uid}&defer=1"), receive_buffer: None }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the handshake was refused: {0}")]
    Refused(String),
    #[error("the server broke RFC 6455")]
    Frame(#[from] ws::FrameError),
    #[error("the server sent a frame that is no ServerFrame")]
    Decode(#[from] prost::DecodeError),
    #[error("closed by the server with {code} {reason:?}")]
    Closed { code: u16, reason: String },
    #[error("no answer in time")]
    Timeout,
}

#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    buffer: BytesMut,
    next_id: u32,
}

impl Session {
    /// Connects and upgrades; no frame has been exchanged yet.
    pub async fn open(target: &Target) -> Result<Session, SessionError> {
        tokio::time::timeout(HANDSHAKE_TIMEOUT, Session::handshake(target)).await.map_err(|_| SessionError::Timeout)?
    }

    async fn handshake(target: &Target) -> Result<Session, SessionError> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = target.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let mut stream = socket.connect(target.addr).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tidegate.v1.proto\r\n\r\n",
            target.path, target.addr
        );
        stream.write_all(request.as_bytes()).await?;
        let mut buffer = BytesMut::with_capacity(4096);
        let head_end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if buffer.len() > RESPONSE_BYTES_MAX || stream.read_buf(&mut buffer).await? == 0 {
                return Err(SessionError::Refused(String::from_utf8_lossy(&buffer).into_owned()));
            }
        };
        let head = buffer.split_to(head_end);
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(SessionError::Refused(String::from_utf8_lossy(&head).into_owned()));
        }
        Ok(Session { stream, buffer, next_id: 1 })
    }

    /// Sends an operation; its answer comes as a [`ServerFrame`] with the id that is returned.
    pub async fn send(&mut self, op: client_frame::Op) -> Result<u32, SessionError> {
        let id = self.next_id;
        self.next_id += 1;
        let frame = ClientFrame { id, op: Some(op) };
        let mut bytes = Vec::with_capacity(frame.encoded_len() + 14);
        ws::put_frame(&mut bytes, OpCode::Binary, &frame.encode_to_vec());
        self.stream.write_all(&bytes).await?;
        Ok(id)
    }

    /// The next frame. Pings are answered on the way; cancelling loses nothing.
    pub async fn next(&mut self) -> Result<ServerFrame, SessionError> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(SessionError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The answer to `id`; other frames that come before it are handed to `other`.
    pub async fn answer(&mut self, id: u32, mut other: impl FnMut(ServerFrame)) -> Result<ServerFrame, SessionError> {
        loop {
            let frame = self.next().await?;
            if frame.id == id {
                return Ok(frame);
            }
            other(frame);
        }
    }

    fn take(&mut self) -> Result<Option<ServerFrame>, SessionError> {
        while let Some(frame) = ws::take_frame(&mut self.buffer)? {
            match frame.op {
                OpCode::Binary | OpCode::Text => return Ok(Some(ServerFrame::decode(frame.payload)?)),
                OpCode::Close => {
                    let code = frame.payload.get(..2).map_or(1005, |b| u16::from_be_bytes([b[0], b[1]]));
                    let reason = frame.payload.get(2..).unwrap_or_default();
                    return Err(SessionError::Closed { code, reason: String::from_utf8_lossy(reason).into_owned() });
                }
                OpCode::Ping => {
                    let mut pong = Vec::with_capacity(frame.payload.len() + 14);
                    ws::put_frame(&mut pong, OpCode::Pong, &frame.payload);
                    // A full send buffer only means that the server is not reading; the next ping tries again.
                    let _ = self.stream.try_write(&pong);
                }
                OpCode::Pong | OpCode::Continuation => {}
            }
        }
        Ok(None)
    }
}

/// What kind of unasked frame this is, for matching on.
pub fn body(frame: ServerFrame) -> Option<server_frame::Body> {
    frame.body
}
