//! One connection's TLS, without I/O.

use std::ops::DerefMut;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

/// Bytes of an incomplete record or handshake message that are kept. A record has 16 KB and a little; a client's
/// certificates may come in one message of several records.
const INCOMPLETE_BYTES_MAX: usize = 32 * 1024;
/// A record's plaintext.
const RECORD_BYTES: usize = 16 * 1024;
/// Header, explicit nonce of TLS 1.2, content type of TLS 1.3 and authentication tag.
const RECORD_OVERHEAD: usize = 5 + 8 + 1 + 16;
/// Room for a key update that goes before what is sealed.
const KEY_UPDATE_BYTES: usize = 64;

/// The server's side of a connection: some 3 KB of keys and state; no buffer unless a record is incomplete.
///
/// rustls remembers where in the buffer the parts of an unfinished handshake message are. So whenever it is called, it is
/// shown what is incomplete.
pub struct Session {
    connection: UnbufferedServerConnection,
    incomplete: Box<[u8]>,
    is_broken: bool,
}

/// How far received bytes led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// More may come.
    Open,
    /// The peer has said that nothing more comes (`close_notify`).
    Ended,
}

/// The connection is over. What [`Session::receive`] appended to the answer, an alert, should still be sent.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    #[error("a TLS message of more than {INCOMPLETE_BYTES_MAX} bytes")]
    TooLarge,
    /// It has ended, or has not begun.
    #[error("the TLS session is over")]
    NotOpen,
    #[error("the keys of the TLS session are used up")]
    Exhausted,
}

impl Session {
    pub fn new(config: Arc<ServerConfig>) -> Result<Session, TlsError> {
        Ok(Session {
            connection: UnbufferedServerConnection::new(config)?,
            incomplete: Box::default(),
            is_broken: false,
        })
    }

    /// Whether the handshake is not over.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether TLS 1.3 was agreed on.
    pub fn is_tls13(&self) -> bool {
        self.connection.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3)
    }

    /// Whether a session ticket spared a whole handshake.
    pub fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Takes what came from the peer, and uses `bytes` up. Opened bytes are appended to `plain`, what is to be sent to
    /// `answer`.
    pub fn receive(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
    ) -> Result<Received, TlsError> {
        if self.is_broken {
            return Err(TlsError::NotOpen);
        }
        let received = if self.incomplete.is_empty() {
            let (used, received) = self.process(bytes, plain, answer);
            self.incomplete = bytes[used..].into();
            received
        } else {
            let mut all = std::mem::take(&mut self.incomplete).into_vec();
            all.extend_from_slice(bytes);
            let (used, received) = self.process(&mut all, plain, answer);
            self.incomplete = all[used..].into();
            received
        };
        let bounded = match received {
            Ok(_) if self.incomplete.len() > INCOMPLETE_BYTES_MAX => Err(TlsError::TooLarge),
            received => received,
        };
        if bounded.is_err() {
            self.is_broken = true;
            self.incomplete = Box::default();
        }
        bounded
    }

    /// Returns how many of the bytes were used.
    fn process(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
    ) -> (usize, Result<Received, TlsError>) {
        let mut used = 0;
        let mut received = Received::Open;
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut bytes[used..]);
            let more = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        Some(Ok(record)) => {
                            discard += record.discard;
                            plain.extend_from_slice(record.payload);
                        }
                        Some(Err(error)) => break Err(error),
                        None => break Ok(true),
                    }
                },
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(answer, |out| data.encode(out));
                    Ok(true)
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => {
                    transmit.done();
                    Ok(true)
                }
                Ok(ConnectionState::PeerClosed) => {
                    received = Received::Ended;
                    Ok(true)
                }
                // Early data is not offered, so it does not come.
                Ok(_) => Ok(false),
                Err(error) => Err(error),
            };
            used += discard;
            match more {
                Ok(true) => {}
                Ok(false) => return (used, Ok(received)),
                Err(error) => {
                    self.alert(&mut bytes[used..], answer);
                    return (used, Err(error.into()));
                }
            }
        }
    }

    /// Appends the alert that tells the peer what was wrong, if there is one. Called once: the call after the last thing
    /// to say would look at the bytes that were wrong again.
    fn alert(&mut self, rest: &mut [u8], answer: &mut Vec<u8>) {
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = self.connection.process_tls_records(rest).state {
            append(answer, |out| data.encode(out));
        }
    }

    /// Appends `plain`, sealed, to `out`.
    pub fn seal(&mut self, plain: &[u8], out: &mut impl Sealed) -> Result<(), TlsError> {
        let records = plain.len() / RECORD_BYTES + 1;
        let room = plain.len() + records * RECORD_OVERHEAD + KEY_UPDATE_BYTES;
        self.write(out, room, |traffic, room| traffic.encrypt(plain, room))
    }

    /// Appends a sealed `close_notify` to `out`.
    pub fn seal_close(&mut self, out: &mut impl Sealed) -> Result<(), TlsError> {
        self.write(out, RECORD_OVERHEAD + KEY_UPDATE_BYTES, |traffic, room| traffic.queue_close_notify(room))
    }

    fn write(
        &mut self,
        out: &mut impl Sealed,
        room: usize,
        mut write: impl FnMut(&mut WriteTraffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), TlsError> {
        if self.is_broken {
            return Err(TlsError::NotOpen);
        }
        loop {
            match self.connection.process_tls_records(&mut self.incomplete).state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let mut room = room;
                    loop {
                        match with_room(out, room, |room| write(&mut traffic, room)) {
                            Ok(()) => return Ok(()),
                            Err(EncryptError::InsufficientSize(error)) => room = error.required_size,
                            Err(EncryptError::EncryptExhausted) => return Err(TlsError::Exhausted),
                        }
                    }
                }
                // What the session itself has to say goes first.
                ConnectionState::EncodeTlsData(mut data) => append(out, |room| data.encode(room)),
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                ConnectionState::PeerClosed => {}
                _ => return Err(TlsError::NotOpen),
            }
        }
    }
}

type WriteTraffic<'c> = rustls::unbuffered::WriteTraffic<'c, rustls::server::ServerConnectionData>;

/// Appends one message, for which there is always room in the end.
fn append(out: &mut impl Sealed, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let mut room = 0;
    while let Err(EncodeError::InsufficientSize(error)) = with_room(out, room, &mut encode) {
        room = error.required_size;
    }
}

/// Offers so many bytes behind what is there, and keeps those that were written: none after an error.
fn with_room<E>(
    out: &mut impl Sealed,
    room: usize,
    write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
) -> Result<(), E> {
    let start = out.len();
    out.resize(start + room);
    let written = write(&mut out[start..]);
    out.resize(start + written.as_ref().map_or(0, |bytes| *bytes));
    written.map(drop)
}

/// Where sealed bytes are appended.
pub trait Sealed: DerefMut<Target = [u8]> {
    /// Cuts it, or fills it up with zeros.
    fn resize(&mut self, len: usize);
}

impl Sealed for Vec<u8> {
    fn resize(&mut self, len: usize) {
        self.resize(len, 0);
    }
}

impl Sealed for bytes::BytesMut {
    fn resize(&mut self, len: usize) {
        self.resize(len, 0);
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
