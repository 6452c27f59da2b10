//! A client's side of one connection, without I/O.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use super::TlsError;

/// Bytes of an incomplete record or handshake message that are kept. A record has 16 KB and a little; a server's
/// certificates may come in one message of several records.
pub(super) const INCOMPLETE_BYTES_MAX: usize = 64 * 1024;
/// A record's plaintext.
const RECORD_BYTES: usize = 16 * 1024;
/// Header, explicit nonce of TLS 1.2, content type of TLS 1.3 and authentication tag.
const RECORD_OVERHEAD: usize = 5 + 8 + 1 + 16;

/// Keys and state; it owns no buffer unless a record is incomplete or it has something to say.
pub struct Session {
    connection: UnbufferedClientConnection,
    /// rustls remembers where in the buffer the parts of an unfinished handshake message are: it is shown this in every call.
    pub(super) incomplete: Vec<u8>,
    /// What TLS itself has to say.
    words: Vec<u8>,
    is_broken: bool,
}

/// How far received bytes led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// More may come.
    Open,
    /// The server has said that nothing more comes (`close_notify`).
    Ended,
}

/// Why not all of the bytes were used.
#[derive(Debug)]
pub enum Stopped<E> {
    Tls(TlsError),
    /// Whoever reads what was opened wants no more.
    Reader(E),
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("is_handshaking", &self.is_handshaking()).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Session, TlsError> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        let mut session = Session { connection, incomplete: Vec::new(), words: Vec::new(), is_broken: false };
        match session.receive(&mut [], |_| Ok::<(), TlsError>(())) {
            Ok(_) => Ok(session),
            Err(Stopped::Tls(error) | Stopped::Reader(error)) => Err(error),
        }
    }

    /// Until then nothing of ours can be sealed.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Takes what came from the server and opens it where it lies, which uses `bytes` up; `read` is given what was opened,
    /// record by record. [`Session::transmit`] afterwards, also after an error: there may be an alert to send.
    pub fn receive<E>(
        &mut self,
        bytes: &mut [u8],
        mut read: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Received, Stopped<E>> {
        if self.is_broken {
            return Err(Stopped::Tls(TlsError::NotOpen));
        }
        let received = if self.incomplete.is_empty() {
            let (used, received) = self.process(bytes, &mut read);
            self.incomplete.extend_from_slice(&bytes[used..]);
            received
        } else {
            let mut all = std::mem::take(&mut self.incomplete);
            all.extend_from_slice(bytes);
            let (used, received) = self.process(&mut all, &mut read);
            if used < all.len() {
                all.drain(..used);
                self.incomplete = all;
            }
            received
        };
        let bounded = match received {
            Ok(_) if self.incomplete.len() > INCOMPLETE_BYTES_MAX => Err(Stopped::Tls(TlsError::TooLarge)),
            received => received,
        };
        if bounded.is_err() {
            self.is_broken = true;
            self.incomplete = Vec::new();
        }
        bounded
    }

    /// What is to be sent: first what TLS itself has to say, then `plain`, sealed.
    pub fn transmit(&mut self, plain: &[u8]) -> Result<Vec<u8>, TlsError> {
        let mut out = std::mem::take(&mut self.words);
        if !plain.is_empty() {
            self.seal(plain, &mut out)?;
        }
        Ok(out)
    }

    /// Returns how many of the bytes were used.
    fn process<E>(
        &mut self,
        bytes: &mut [u8],
        read: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> (usize, Result<Received, Stopped<E>>) {
        let mut used = 0;
        let mut received = Received::Open;
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut bytes[used..]);
            let more = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        Some(Ok(record)) => {
                            discard += record.discard;
                            if let Err(error) = read(record.payload) {
                                return (used + discard, Err(Stopped::Reader(error)));
                            }
                        }
                        Some(Err(error)) => break Err(error),
                        None => break Ok(true),
                    }
                },
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(&mut self.words, |room| data.encode(room));
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
                Ok(_) => Ok(false),
                Err(error) => Err(error),
            };
            used += discard;
            match more {
                Ok(true) => {}
                Ok(false) => return (used, Ok(received)),
                Err(error) => {
                    self.alert(&mut bytes[used..]);
                    return (used, Err(Stopped::Tls(error.into())));
                }
            }
        }
    }

    /// Keeps the alert that tells the server what was wrong, if there is one. Called once: the call after the last thing to
    /// say would look at the bytes that were wrong again.
    fn alert(&mut self, rest: &mut [u8]) {
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = self.connection.process_tls_records(rest).state {
            append(&mut self.words, |room| data.encode(room));
        }
    }

    fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.is_broken {
            return Err(TlsError::NotOpen);
        }
        let mut room = plain.len() + (plain.len() / RECORD_BYTES + 1) * RECORD_OVERHEAD;
        loop {
            match self.connection.process_tls_records(&mut self.incomplete).state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let start = out.len();
                    out.resize(start + room, 0);
                    let written = traffic.encrypt(plain, &mut out[start..]);
                    out.truncate(start + *written.as_ref().unwrap_or(&0));
                    match written {
                        Ok(_) => return Ok(()),
                        Err(EncryptError::InsufficientSize(error)) => room = error.required_size,
                        Err(EncryptError::EncryptExhausted) => return Err(TlsError::Exhausted),
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => append(out, |room| data.encode(room)),
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                ConnectionState::PeerClosed => {}
                _ => return Err(TlsError::NotOpen),
            }
        }
    }
}

/// Appends one message, for which there is always room in the end.
fn append(out: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = out.len();
    loop {
        match encode(&mut out[start..]) {
            Ok(written) => return out.truncate(start + written),
            Err(EncodeError::InsufficientSize(error)) => out.resize(start + error.required_size, 0),
            Err(EncodeError::AlreadyEncoded) => return out.truncate(start),
        }
    }
}
