//! Reads and writes of a connection that has not been promoted, with deadlines, through its TLS if it has one.
//!
//! Invariant: when a call returns, no monoio operation of the stream is in flight. A read that is out of time is cancelled
//! and its result awaited, because taking the descriptor of a stream with an operation in flight panics, and because bytes
//! that such an operation would still take from the socket would be lost.

use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use monoio::buf::IoBufMut as _;
use monoio::io::{AsyncWriteRent as _, CancelableAsyncReadRent as _, CancelableAsyncWriteRent as _, Canceller};
use monoio::net::TcpStream;
use monoio::time::{Instant, Sleep, sleep_until};
use tidegate_gateway_tls::{Received, Session, TlsError};

/// Bytes of an answer to a refused client that are thrown away before the socket is closed.
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// Time for the peer to read a refusal and close.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READ_BYTES: usize = 4096;
/// Read size of sealed bytes: a usual hello fits.
const SEALED_READ_BYTES: usize = 2048;

// The first read of a TLS session takes all that was put back, so that nothing sealed is ever left unread.
const _: () = assert!(super::proxy_header::HEADER_BYTES_MAX <= SEALED_READ_BYTES);

/// How a read or write ended other than well.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("out of time")]
    Deadline,
    #[error("the peer closed")]
    Eof,
    #[error("the socket failed")]
    Io(#[source] io::Error),
    /// The peer has been told.
    #[error("TLS failed")]
    Tls(#[source] TlsError),
}

/// A connection of the front door.
pub struct Wire {
    socket: Socket,
    secure: Option<Secure>,
}

/// The bare connection.
struct Socket {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    /// Read and put back.
    unread: Vec<u8>,
}

/// What TLS needs beside the socket.
struct Secure {
    session: Box<Session>,
    /// Opened and not read yet.
    opened: Vec<u8>,
    /// The peer has closed its side.
    ended: bool,
}

/// What a promoted connection takes with it.
pub struct Parts {
    pub stream: TcpStream,
    pub session: Option<Box<Session>>,
    /// Came from the peer and was not read.
    pub unread: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream, deadline: Duration) -> Wire {
        let deadline = Box::pin(sleep_until(Instant::now() + deadline));
        Wire { socket: Socket { stream, deadline, unread: Vec::new() }, secure: None }
    }

    /// The next reads bring these bytes once more.
    pub fn put_back(&mut self, bytes: Vec<u8>) {
        debug_assert!(self.socket.unread.is_empty() && self.secure.is_none());
        self.socket.unread = bytes;
    }

    /// Shakes hands. From here on everything read and written is sealed.
    pub async fn secure(&mut self, session: Session) -> Result<(), Lost> {
        let mut secure = Secure { session: Box::new(session), opened: Vec::new(), ended: false };
        while secure.session.is_handshaking() {
            secure.read(&mut self.socket).await?;
        }
        self.secure = Some(secure);
        Ok(())
    }

    /// The TLS session, once there is one.
    pub fn session(&self) -> Option<&Session> {
        self.secure.as_ref().map(|secure| &*secure.session)
    }

    /// Starts a new deadline from now.
    pub fn set_deadline(&mut self, span: Duration) {
        self.socket.set_deadline(span);
    }

    /// Appends what has come to `buffer`, at most `capacity - len` bytes, which must not be 0.
    pub async fn read_into(&mut self, mut buffer: Vec<u8>) -> (Result<usize, Lost>, Vec<u8>) {
        let Some(secure) = &mut self.secure else { return self.socket.read_into(buffer).await };
        while secure.opened.is_empty() {
            if secure.ended {
                return (Err(Lost::Eof), buffer);
            }
            if let Err(lost) = secure.read(&mut self.socket).await {
                return (Err(lost), buffer);
            }
        }
        let fits = secure.opened.len().min(buffer.capacity() - buffer.len());
        buffer.extend(secure.opened.drain(..fits));
        (Ok(fits), buffer)
    }

    /// Writes all of `bytes`.
    pub async fn write(&mut self, bytes: Vec<u8>) -> Result<(), Lost> {
        let Some(secure) = &mut self.secure else { return self.socket.write(bytes).await };
        let mut sealed = Vec::new();
        if !bytes.is_empty() {
            secure.session.seal(&bytes, &mut sealed).map_err(Lost::Tls)?;
        }
        self.socket.write(sealed).await
    }

    /// Writes a last answer and closes so that the peer can read it: closing with unread input would make the kernel send
    /// RST, which destroys what is still on its way.
    pub async fn finish(mut self, answer: Vec<u8>) {
        self.set_deadline(LINGER);
        if self.write(answer).await.is_err() {
            return;
        }
        if let Some(secure) = &mut self.secure {
            let mut goodbye = Vec::new();
            // A session that cannot speak any more just ends.
            if secure.session.seal_close(&mut goodbye).is_ok() && self.socket.write(goodbye).await.is_err() {
                return;
            }
        }
        self.socket.drain().await;
    }

    /// Closes so that the peer can read what was written last.
    pub async fn abandon(mut self) {
        self.set_deadline(LINGER);
        self.socket.drain().await;
    }

    /// Everything, with nothing in flight.
    pub fn into_parts(self) -> Parts {
        let stream = self.socket.stream;
        match self.secure {
            None => Parts { stream, session: None, unread: self.socket.unread },
            Some(secure) => Parts { stream, session: Some(secure.session), unread: secure.opened },
        }
    }
}

impl Secure {
    /// Reads once, answers what must be answered.
    async fn read(&mut self, socket: &mut Socket) -> Result<(), Lost> {
        let (read, mut sealed) = socket.read_into(Vec::with_capacity(SEALED_READ_BYTES)).await;
        read?;
        let mut answer = Vec::new();
        let received = self.session.receive(&mut sealed, &mut self.opened, &mut answer);
        let written = socket.write(answer).await;
        match received {
            Err(error) => Err(Lost::Tls(error)),
            Ok(Received::Ended) if self.session.is_handshaking() => Err(Lost::Eof),
            Ok(received) => {
                self.ended = received == Received::Ended;
                written
            }
        }
    }
}

impl Socket {
    fn set_deadline(&mut self, span: Duration) {
        self.deadline.as_mut().reset(Instant::now() + span);
    }

    async fn read_into(&mut self, mut buffer: Vec<u8>) -> (Result<usize, Lost>, Vec<u8>) {
        let (start, end) = (buffer.len(), buffer.capacity());
        debug_assert!(start < end, "no room to read into");
        if !self.unread.is_empty() {
            let fits = self.unread.len().min(end - start);
            buffer.extend(self.unread.drain(..fits));
            if self.unread.is_empty() {
                self.unread = Vec::new();
            }
            return (Ok(fits), buffer);
        }
        let canceller = Canceller::new();
        let reading = self.stream.cancelable_read(buffer.slice_mut(start..end), canceller.handle());
        let mut reading = pin!(reading);
        let (result, late, slice) = tokio::select! {
            biased;
            (result, slice) = &mut reading => (result, false, slice),
            () = self.deadline.as_mut() => {
                canceller.cancel();
                let (result, slice) = reading.await;
                (result, true, slice)
            }
        };
        let ended = match result {
            _ if late => Err(Lost::Deadline),
            Ok(0) => Err(Lost::Eof),
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(Lost::Io(error)),
        };
        (ended, slice.into_inner())
    }

    async fn write(&mut self, bytes: Vec<u8>) -> Result<(), Lost> {
        use monoio::buf::IoBuf as _;
        let (mut bytes, mut from) = (bytes, 0);
        while from < bytes.len() {
            let canceller = Canceller::new();
            let end = bytes.len();
            let mut writing = pin!(self.stream.cancelable_write(bytes.slice(from..end), canceller.handle()));
            let (result, slice) = tokio::select! {
                biased;
                done = &mut writing => done,
                () = self.deadline.as_mut() => {
                    canceller.cancel();
                    let (_, slice) = writing.await;
                    (Err(io::ErrorKind::TimedOut.into()), slice)
                }
            };
            bytes = slice.into_inner();
            match result {
                Ok(0) => return Err(Lost::Eof),
                Ok(written) => from += written,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(Lost::Deadline),
                Err(error) => return Err(Lost::Io(error)),
            }
        }
        Ok(())
    }

    /// Closes our side, and throws away for a while what the peer still sends.
    async fn drain(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let (mut thrown_away, mut buffer) = (0, Vec::with_capacity(LINGER_READ_BYTES));
        while thrown_away < LINGER_BYTES_MAX {
            buffer.clear();
            let (read, returned) = self.read_into(buffer).await;
            buffer = returned;
            match read {
                Ok(bytes) => thrown_away += bytes,
                Err(_) => return,
            }
        }
    }
}
