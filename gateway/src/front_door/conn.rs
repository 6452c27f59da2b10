//! One connection's way through the front door: PROXY header, TLS, head, judgement, 101, `connect` frame if owed, promotion.

use std::cell::RefCell;
use std::error::Error as _;
use std::rc::Rc;
use std::sync::Arc;

use monoio::net::TcpStream;
use tidegate_gateway_core::messages::Encoding;
use tidegate_gateway_core::shard::{Promoted, Promotion};
use tidegate_gateway_core::ws::close::CloseCode;
use tidegate_gateway_core::ws::{DeflateParams, Inflater, close_frame};
use tidegate_gateway_ring::{Keepalive, SocketTuning, monotonic, own_stream, tune};
use tidegate_gateway_tls::{Acceptor, Incoming};
use tracing::debug;

use super::Shared;
use super::budget::Budget;
use super::caller::Caller;
use super::first_frame::{FirstFrame, Verdict};
use super::http::{HEAD_BYTES_MAX, Request, Scan};
use super::identity::{Identity, Wishes, hello};
use super::metrics::{DoorMetrics, Outcome, TlsKind};
use super::proxy_header::{self, HEADER_BYTES_MAX, Source, Start};
use super::refusal::Refusal;
use super::rules::{Door, Rules};
use super::upgrade::{Session, Upgrade, judge};
use super::wire::{Lost, Parts, Wire};
use crate::addresses::{Addresses, Seat, TooMany};
use crate::config::ProxyProtocol;
use crate::fleet::{Arriving, Fleet, Place};

/// First size of the buffer for a head; it doubles as bytes come.
const HEAD_BUFFER_BYTES: usize = 1024;
/// Read size while a `connect` frame is awaited.
const FRAME_BUFFER_BYTES: usize = 4096;

/// What the connections of one front-door thread share.
pub struct Hall {
    pub rules: Arc<Rules>,
    pub fleet: Arc<Fleet>,
    pub metrics: Arc<DoorMetrics>,
    pub addresses: Arc<Addresses>,
    pub half_open_max: usize,
    pub tuning: SocketTuning,
    /// Bytes of `connect` frames under way on this node.
    pub frame_bytes: Budget,
    inflater: RefCell<Inflater>,
}

impl Hall {
    pub fn new(shared: Shared, frame_bytes: Budget) -> Hall {
        let Shared { rules, fleet, metrics, addresses, half_open_max, backend: _ } = shared;
        let (tuning, inflater) = (tuning(rules.send_buffer_bytes), RefCell::new(Inflater::new()));
        Hall { rules, fleet, metrics, addresses, half_open_max, tuning, frame_bytes, inflater }
    }
}

/// What ended a visit before its promotion.
enum Ended {
    /// Nothing to say any more.
    Silently(Outcome),
    /// TLS failed, and what there is to say has been said.
    Unsecured(Lost),
    Refused(Refusal),
    /// After the 101: frames to write, the close frame included.
    Closed(Vec<u8>, CloseCode),
}

impl From<Lost> for Outcome {
    fn from(lost: Lost) -> Outcome {
        match lost {
            Lost::Deadline => Outcome::Timeout,
            Lost::Eof | Lost::Io(_) => Outcome::Gone,
            Lost::Tls(_) => Outcome::Tls,
        }
    }
}

impl From<Lost> for Ended {
    fn from(lost: Lost) -> Ended {
        Ended::Silently(lost.into())
    }
}

/// Serves one accepted connection to its promotion or end. With an acceptor it speaks TLS from its first byte, or from
/// where its PROXY header ends.
pub async fn serve(hall: Rc<Hall>, stream: TcpStream, mut caller: Caller, door: Door, acceptor: Option<Arc<Acceptor>>) {
    let mut wire = Wire::new(stream, hall.rules.deadline);
    let visited = visit(&hall, &mut wire, &mut caller, door, acceptor.as_deref()).await;
    let client = caller.address;
    match visited {
        Ok(promotion) => {
            debug!(%client, "accepted");
            promotion.carry_out(wire, &hall);
            hall.metrics.handshake(Outcome::Accepted);
        }
        Err(Ended::Silently(outcome)) => {
            debug!(%client, why = outcome.label(), "ended in its handshake");
            hall.metrics.handshake(outcome);
        }
        Err(Ended::Unsecured(lost)) => {
            debug!(%client, why = lost.source().map(tracing::field::display), "{lost}");
            hall.metrics.handshake(lost.into());
            wire.abandon().await;
        }
        Err(Ended::Refused(refusal)) => {
            debug!(%client, status = refusal.status, why = %refusal.message, "handshake refused");
            hall.metrics.handshake(Outcome::of_status(refusal.status));
            wire.finish(refusal.render()).await;
        }
        Err(Ended::Closed(frames, code)) => {
            debug!(%client, code = code.number(), "closed before the session began");
            hall.metrics.handshake(Outcome::of_close(code));
            wire.finish(frames).await;
        }
    }
}

/// Reads what a balancer says before the connection's own first byte, and puts back what follows it.
async fn hear_proxy(hall: &Hall, wire: &mut Wire, caller: &mut Caller, is_secure: bool) -> Result<(), Ended> {
    let proxies = &hall.rules.proxies;
    let mut buffer = Vec::with_capacity(HEADER_BYTES_MAX);
    let (source, bytes) = loop {
        match proxy_header::read(&buffer) {
            Ok(Start::Unclear) => {
                let (read, returned) = wire.read_into(buffer).await;
                buffer = returned;
                read?;
            }
            Ok(Start::Other) if caller.is_trusted() && proxies.protocol == ProxyProtocol::Required => {
                return Err(Ended::Silently(Outcome::Proxy));
            }
            Ok(Start::Other) => break (None, 0),
            Ok(Start::Header { source, bytes }) if caller.is_trusted() => break (Some(source), bytes),
            // Whoever is not trusted could name anybody.
            Ok(Start::Header { .. }) | Err(_) => return Err(Ended::Silently(Outcome::Proxy)),
        }
    };
    buffer.drain(..bytes);
    wire.put_back(buffer);
    caller.is_proxied = source.is_some();
    let Some(Source::Client(address)) = source else { return Ok(()) };
    caller.name(address, proxies).map_err(|TooMany| match is_secure {
        true => Ended::Silently(Outcome::RateLimited),
        false => Ended::Refused(Refusal::TOO_MANY),
    })
}

async fn shake_hands(hall: &Hall, wire: &mut Wire, acceptor: &Acceptor) -> Result<(), Lost> {
    let session = acceptor.session().map_err(Lost::Tls)?;
    wire.secure(session).await?;
    if let Some(session) = wire.session() {
        hall.metrics.secured(TlsKind::of(session.is_tls13(), session.is_resumed()));
    }
    Ok(())
}

/// A session that is ready, with its place on a shard.
struct Ready {
    place: Place,
    seat: Option<Seat>,
    early: Vec<u8>,
    session: Promoted,
}

impl Ready {
    fn carry_out(mut self, wire: Wire, hall: &Hall) {
        let Parts { stream, session, mut unread } = wire.into_parts();
        self.early.append(&mut unread);
        let socket = own_stream(stream);
        if let Err(error) = tune(&socket, &hall.tuning) {
            // The peer is gone already; the shard finds out by itself.
            debug!(%error, "tuning a socket failed");
        }
        let socket = Arriving { connection: Incoming { socket, session }, seat: self.seat };
        self.place.promote(Promotion { socket, early: self.early, session: self.session });
    }
}

async fn visit(
    hall: &Hall,
    wire: &mut Wire,
    caller: &mut Caller,
    door: Door,
    acceptor: Option<&Acceptor>,
) -> Result<Ready, Ended> {
    if door == Door::Client && hall.rules.proxies.protocol != ProxyProtocol::Off {
        hear_proxy(hall, wire, caller, acceptor.is_some()).await?;
    }
    if let Some(acceptor) = acceptor {
        shake_hands(hall, wire, acceptor).await.map_err(Ended::Unsecured)?;
    }
    let (buffer, head_len) = read_head(wire).await?;
    let upgrade = judge_head(&buffer[..head_len], hall, caller, door).map_err(Ended::Refused)?;
    let seat = caller.seat().map_err(|TooMany| Ended::Refused(Refusal::TOO_MANY))?;
    let early = buffer[head_len..].to_vec();
    drop(buffer);
    let Upgrade { response, params, session } = upgrade;
    match session {
        Session::Echo => {
            let place = hall.fleet.reserve().ok_or(Ended::Refused(Refusal::OVERLOADED))?;
            wire.write(response).await?;
            Ok(Ready { place, seat, early, session: Promoted::Echo { params } })
        }
        Session::Ready { encoding, identity, wishes } => {
            let hello = hello(identity, wishes, encoding, params, None, &hall.rules)
                .map_err(|why| Ended::Refused(Refusal::bad(why.to_string())))?;
            // A full node says so while it still can in HTTP.
            let place = hall.fleet.reserve().ok_or(Ended::Refused(Refusal::OVERLOADED))?;
            wire.write(response).await?;
            Ok(Ready { place, seat, early, session: Promoted::Client { hello: Box::new(hello), params } })
        }
        Session::AwaitsConnect { encoding, identity, wishes } => {
            wire.write(response).await?;
            let owed = Owed { encoding, params, identity, wishes, seat };
            await_connect(hall, wire, owed, early).await
        }
    }
}

fn judge_head(head: &[u8], hall: &Hall, caller: &mut Caller, door: Door) -> Result<Upgrade, Refusal> {
    let request = Request::parse(head)?.behind_proxy(caller.is_proxied);
    if door == Door::Client {
        caller.read_forwarded(&request, &hall.rules)?;
    }
    judge(&request, door, &hall.rules)
}

/// Reads until the head is complete. Returns everything read and the head's length.
async fn read_head(wire: &mut Wire) -> Result<(Vec<u8>, usize), Ended> {
    let mut scan = Scan::default();
    let mut buffer = Vec::with_capacity(HEAD_BUFFER_BYTES);
    loop {
        if buffer.len() == buffer.capacity() {
            let target = (buffer.capacity() * 2).min(HEAD_BYTES_MAX);
            if target <= buffer.len() {
                return Err(Ended::Refused(Refusal::HEAD_TOO_LARGE));
            }
            buffer.reserve_exact(target - buffer.len());
        }
        let (read, returned) = wire.read_into(buffer).await;
        buffer = returned;
        match read {
            Ok(_) => {}
            // Someone who began a request hears why it ends; a mere connection does not.
            Err(Lost::Deadline) if !buffer.is_empty() => return Err(Ended::Refused(Refusal::TIMEOUT)),
            Err(lost) => return Err(lost.into()),
        }
        if let Some(head_len) = scan.advance(&buffer).map_err(Ended::Refused)? {
            return Ok((buffer, head_len));
        }
    }
}

/// What is known of a client that owes its `connect` frame.
struct Owed {
    encoding: Encoding,
    params: Option<DeflateParams>,
    identity: Option<Identity>,
    wishes: Wishes,
    seat: Option<Seat>,
}

async fn await_connect(hall: &Hall, wire: &mut Wire, owed: Owed, early: Vec<u8>) -> Result<Ready, Ended> {
    wire.set_deadline(hall.rules.first_frame);
    let params = owed.params;
    let mut first = FirstFrame::new(owed.encoding, params, owed.identity, owed.wishes);
    let mut held = hall.frame_bytes.hold();
    let mut chunk = early;
    loop {
        if !held.grow(chunk.len()) {
            return Err(closed(Vec::new(), CloseCode::Overload, "too many frames under way"));
        }
        let mut out = Vec::new();
        let now = monotonic();
        let verdict = first.feed(now, &mut chunk, &mut hall.inflater.borrow_mut(), &hall.rules, &mut out);
        match verdict {
            Verdict::Wait => {}
            Verdict::End(code) => return Err(Ended::Closed(out, code)),
            Verdict::Promote(hello, consumed) => {
                let Some(place) = hall.fleet.reserve() else {
                    return Err(closed(out, CloseCode::Overload, "this gateway takes no more connections now"));
                };
                wire.write(out).await?;
                let early = chunk.split_off(consumed);
                return Ok(Ready { place, seat: owed.seat, early, session: Promoted::Client { hello, params } });
            }
        }
        wire.write(out).await?;
        chunk.clear();
        chunk.reserve(FRAME_BUFFER_BYTES);
        let (read, returned) = wire.read_into(chunk).await;
        chunk = returned;
        match read {
            Ok(_) => {}
            Err(Lost::Deadline) => {
                let (code, frame) = first.expired();
                return Err(Ended::Closed(frame.to_vec(), code));
            }
            Err(lost) => return Err(lost.into()),
        }
    }
}

fn closed(mut frames: Vec<u8>, code: CloseCode, reason: &str) -> Ended {
    frames.extend_from_slice(&close_frame(code.number(), reason));
    Ended::Closed(frames, code)
}

/// What every client socket gets. Keepalive probes an idle peer after about a heartbeat; unacknowledged data fails the
/// connection sooner than the kernel's own quarter of an hour.
fn tuning(send_buffer_bytes: Option<u32>) -> SocketTuning {
    use std::time::Duration;
    SocketTuning {
        nodelay: Some(true),
        user_timeout_ms: Some(60_000),
        keepalive: Some(Keepalive { idle: Duration::from_secs(75), interval: Duration::from_secs(15), probes: 3 }),
        send_buffer_bytes,
        ..SocketTuning::default()
    }
}
