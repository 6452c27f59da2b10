//! Reads and writes of a connection that has not been promoted, with deadlines.
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

/// Bytes of an answer to a refused client that are thrown away before the socket is closed.
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// Time for the peer to read a refusal and close.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READ_BYTES: usize = 4096;

/// How a read or write ended other than well.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("out of time")]
    Deadline,
    #[error("the peer closed")]
    Eof,
    #[error("the socket failed")]
    Io(#[source] io::Error),
}

/// A connection of the front door.
pub struct Wire {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
}

impl Wire {
    pub fn new(stream: TcpStream, deadline: Duration) -> Wire {
        Wire { stream, deadline: Box::pin(sleep_until(Instant::now() + deadline)) }
    }

    /// Starts a new deadline from now.
    pub fn set_deadline(&mut self, span: Duration) {
        self.deadline.as_mut().reset(Instant::now() + span);
    }

    /// Appends what has come to `buffer`, at most `capacity - len` bytes, which must not be 0.
    pub async fn read_into(&mut self, buffer: Vec<u8>) -> (Result<usize, Lost>, Vec<u8>) {
        let (start, end) = (buffer.len(), buffer.capacity());
        debug_assert!(start < end, "no room to read into");
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

    /// Writes all of `bytes`.
    pub async fn write(&mut self, bytes: Vec<u8>) -> Result<(), Lost> {
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

    /// Writes a last answer and closes so that the peer can read it: closing with unread input would make the kernel send
    /// RST, which destroys what is still on its way.
    pub async fn finish(mut self, answer: Vec<u8>) {
        self.set_deadline(LINGER);
        if self.write(answer).await.is_err() || self.stream.shutdown().await.is_err() {
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

    /// The stream, with nothing in flight.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}
