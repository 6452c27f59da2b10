//! A client as a state machine: bytes in, bytes out. No sockets, no clock.
//!
//! It upgrades, connects (with its cursors after a break), joins its groups, answers pings, and follows its streams by the
//! client rule (`follow.rs`): pulls after a gap or at a hole, page after page. Everything that it is shown is judged on the
//! spot or left for the ledger (`crate::judge`). It is small, because there are 100,000s: a stream costs 40 bytes, and what only
//! some clients need is boxed.

mod batch;
mod epochs;
mod follow;
mod http;
mod inflate;
mod memo;
mod ranges;
mod track;

use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message as _;
use tidegate_proto::v1::{ClientFrame, ConnectOp, Cursor, JoinOp, client_frame};

use crate::fleet::Mode;
use crate::judge::{Evidence, Kind, Standing, Tally};
use crate::population::{ClientNo, Population};
use crate::ws::{self, OpCode};

pub use batch::{Batch, Decoded, Item, ItemState, Page};
pub use epochs::{EpochNo, Epochs};
pub use memo::Memo;
pub use ranges::Ranges;
pub use track::Track;

use batch::Decoder;
pub(crate) use http::{Answer as Upgrade, answer as upgrade_answer, request as upgrade_request};

use http::Answer;
use inflate::Inflater;

/// Ids of a connection's first requests; the join of track n has `JOIN_ID + n`, pulls come after those.
const CONNECT_ID: u32 = 1;
const JOIN_ID: u32 = 2;

/// What all clients share.
#[derive(Debug)]
pub struct Shared {
    pub population: Arc<Population>,
    pub mode: Mode,
    pub epochs: Epochs,
    pub evidence: Evidence,
    pub tally: Tally,
    pub memo: Memo,
    /// Clients offer permessage-deflate, and take no server that does not accept it.
    pub compression: bool,
    inflater: Inflater,
    loads: usize,
}

impl Shared {
    pub fn new(population: Arc<Population>, mode: Mode, loads: usize) -> Shared {
        Shared {
            population,
            mode,
            epochs: Epochs::default(),
            evidence: Evidence::default(),
            tally: Tally::new(loads),
            memo: Memo::default(),
            compression: false,
            inflater: Inflater::default(),
            loads,
        }
    }

    pub fn over_compression(self, compression: bool) -> Shared {
        Shared { compression, ..self }
    }

    fn decode(&mut self, head: ws::Head, frame: &[u8]) -> Result<Decoded, Unreadable> {
        let Shared { population, epochs, evidence, loads, inflater, .. } = self;
        let mut payload = &frame[head.head_bytes..];
        if head.compressed {
            payload = inflater.inflate(payload)?;
        }
        Ok(Decoder { population, epochs, evidence, loads: *loads }.decode(payload)?)
    }
}

/// Why a frame cannot be decoded.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("{0}")]
    Frame(#[from] prost::DecodeError),
    #[error("{0}")]
    Compression(#[from] inflate::InflateError),
}

/// What a call of a client works with.
#[derive(Debug)]
pub struct Context<'a> {
    pub shared: &'a mut Shared,
    pub client: ClientNo,
    pub is_slow: bool,
    pub now_us: u64,
    /// Bytes for the server are appended here.
    pub out: &'a mut Vec<u8>,
}

/// Why a connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The handshake or the `connect` frame was refused, for now.
    Refused,
    /// The server closed; `after_ms`: its wish for when to come back.
    Closed { after_ms: u32 },
    /// For good: the server does not want to see it again, or it broke the protocol beyond use.
    Final,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Down,
    /// Waits for the answer to the upgrade.
    Upgrade,
    /// Waits for the answers to `connect` and the joins.
    Opening,
    Established,
}

#[derive(Debug)]
pub struct Client {
    tracks: Box<[Track]>,
    /// The beginning of a frame whose end has not come.
    carry: Vec<u8>,
    phase: Phase,
    had_gap: bool,
    is_connected: bool,
    joins_left: u16,
    next_id: u32,
    /// Of the `bye` before a close.
    come_back_after_ms: u32,
}

impl Client {
    pub fn new(client: ClientNo, population: &Population) -> Client {
        let streams = std::iter::once(population.inbox(client)).chain(population.groups_of(client));
        Client {
            tracks: streams.map(Track::new).collect(),
            carry: Vec::new(),
            phase: Phase::Down,
            had_gap: false,
            is_connected: false,
            joins_left: 0,
            next_id: 0,
            come_back_after_ms: 0,
        }
    }

    /// Connected and every group joined.
    pub fn is_established(&self) -> bool {
        self.phase == Phase::Established
    }

    pub fn had_gap(&self) -> bool {
        self.had_gap
    }

    /// The transport stands: asks for the upgrade.
    pub fn open(&mut self, host: SocketAddr, cx: &mut Context<'_>) {
        http::request(cx.out, host, &cx.shared.population.uid(cx.client), cx.shared.compression);
        (self.phase, self.is_connected, self.come_back_after_ms) = (Phase::Upgrade, false, 0);
    }

    /// Bytes came. With an error the connection is to be closed.
    pub fn input(&mut self, mut bytes: &[u8], cx: &mut Context<'_>) -> Result<(), Ending> {
        if self.phase == Phase::Upgrade {
            self.carry.extend_from_slice(bytes);
            match http::answer(&self.carry) {
                Answer::Partial => return Ok(()),
                Answer::Refused(_) => return Err(Ending::Refused),
                Answer::Upgraded(end) => {
                    if cx.shared.compression && !http::accepts_compression(&self.carry[..end]) {
                        return Err(self.broken(cx, "it does not accept permessage-deflate"));
                    }
                    let rest = std::mem::take(&mut self.carry).split_off(end);
                    self.upgraded(cx);
                    return self.input(&rest, cx);
                }
            }
        }
        while !self.carry.is_empty() && !bytes.is_empty() {
            let taken = self.fill_carry(bytes, cx)?;
            bytes = &bytes[taken..];
        }
        while let Some(head) = self.head(bytes, cx)?.filter(|head| head.frame_bytes() <= bytes.len()) {
            let (frame, rest) = bytes.split_at(head.frame_bytes());
            self.frame(head, frame, cx)?;
            bytes = rest;
        }
        if !bytes.is_empty() {
            self.carry = bytes.to_vec();
        }
        Ok(())
    }

    /// Does what is due.
    pub fn timeout(&mut self, cx: &mut Context<'_>) {
        self.pull_what_is_due(cx);
        self.join_what_is_due(cx);
    }

    /// When [`Client::timeout`] is to be called; asked for after every other call.
    pub fn next_timeout_us(&self) -> Option<u64> {
        let due = |track: &Track| {
            let rare = track.rare.as_ref()?;
            let pull = rare.behind.filter(|behind| behind.request.is_none()).map(|behind| behind.not_before_us);
            pull.into_iter().chain(rare.join_at_us).min()
        };
        self.tracks.iter().filter_map(due).min()
    }

    /// The transport ended.
    pub fn disconnected(&mut self, tally: &mut Tally) {
        for track in &mut self.tracks {
            tally.behind -= u32::from(track.behind().is_some());
            track.disconnected();
        }
        self.carry = Vec::new();
        self.phase = Phase::Down;
    }

    /// Where it stands in each of its streams.
    pub fn standings(&self, client: ClientNo, is_slow: bool) -> impl Iterator<Item = Standing<'_>> {
        self.tracks.iter().map(move |track| Standing {
            client,
            is_slow,
            stream: track.stream,
            start: track.start,
            last: track.last,
            absent: track.absent(),
            is_behind: track.behind().is_some(),
        })
    }

    /// Completes the carried frame; how many bytes it took for that.
    fn fill_carry(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Result<usize, Ending> {
        let carried = self.carry.len();
        let carry = std::mem::take(&mut self.carry);
        let head = self.head(&carry, cx);
        self.carry = carry;
        // Until the length is known byte by byte, so that nothing of a next frame is taken.
        let wanted = head?.map_or(1, |head| head.frame_bytes() - carried);
        let taken = wanted.min(bytes.len());
        self.carry.extend_from_slice(&bytes[..taken]);
        let carry = std::mem::take(&mut self.carry);
        match self.head(&carry, cx)?.filter(|head| head.frame_bytes() == carry.len()) {
            Some(head) => self.frame(head, &carry, cx)?,
            None => self.carry = carry,
        }
        Ok(taken)
    }

    fn head(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Result<Option<ws::Head>, Ending> {
        ws::head(bytes).map_err(|error| self.broken(cx, &error.to_string()))
    }

    /// The server cannot be understood any more.
    pub fn broken(&self, cx: &mut Context<'_>, what: &str) -> Ending {
        let uid = cx.shared.population.uid(cx.client);
        cx.shared.tally.find(Kind::Protocol, || format!("{uid} (connection): {what}"));
        Ending::Final
    }

    fn frame(&mut self, head: ws::Head, frame: &[u8], cx: &mut Context<'_>) -> Result<(), Ending> {
        let payload = &frame[head.head_bytes..];
        if head.compressed && !cx.shared.compression {
            return Err(self.broken(cx, "a compressed frame that nobody asked for"));
        }
        match head.op {
            OpCode::Binary if cx.shared.mode == Mode::Bare => {
                cx.shared.tally.frames += 1;
                if cx.shared.memo.find(frame).is_none() {
                    cx.shared.memo.insert(frame, None, &mut cx.shared.tally);
                }
                Ok(())
            }
            OpCode::Binary => self.message(head, frame, cx),
            OpCode::Ping => {
                ws::put_frame(cx.out, OpCode::Pong, payload);
                Ok(())
            }
            OpCode::Pong => Ok(()),
            OpCode::Close => Err(self.closed(payload, cx)),
            OpCode::Text | OpCode::Continuation => Err(self.broken(cx, "a text frame in the binary sub-protocol")),
        }
    }

    fn closed(&mut self, payload: &[u8], cx: &mut Context<'_>) -> Ending {
        let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
        match code {
            1000 | 1001 | 3000..=3499 => Ending::Closed { after_ms: self.come_back_after_ms },
            _ => {
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                self.broken(cx, &format!("closed by the server with {code} {reason:?}"))
            }
        }
    }

    fn upgraded(&mut self, cx: &mut Context<'_>) {
        if cx.shared.mode == Mode::Bare {
            self.phase = Phase::Established;
            return;
        }
        self.phase = Phase::Opening;
        self.next_id = JOIN_ID + self.tracks.len() as u32;
        let population = cx.shared.population.clone();
        let uid = population.uid(cx.client);
        let known = self.tracks.iter().filter(|track| track.epoch != EpochNo::NONE);
        let cursor = |track: &Track| Cursor { epoch: cx.shared.epochs.text(track.epoch).to_owned(), seq: track.last };
        let connect = ConnectOp {
            device: format!("{uid}-device"),
            platform: "web".into(),
            cursors: known.map(|track| (population.name(track.stream), cursor(track))).collect(),
            ..ConnectOp::default()
        };
        put(cx.out, CONNECT_ID, client_frame::Op::Connect(connect));
        self.joins_left = 0;
        for number in 1..self.tracks.len() {
            if self.tracks[number].epoch == EpochNo::NONE {
                self.joins_left += 1;
                self.join(number, cx);
            }
        }
    }

    fn join(&mut self, number: usize, cx: &mut Context<'_>) {
        let stream = cx.shared.population.name(self.tracks[number].stream);
        put(cx.out, JOIN_ID + number as u32, client_frame::Op::Join(JoinOp { stream, cursor: None }));
    }

    fn join_what_is_due(&mut self, cx: &mut Context<'_>) {
        for number in 0..self.tracks.len() {
            let Some(rare) = &mut self.tracks[number].rare else { continue };
            if rare.join_at_us.is_some_and(|at| at <= cx.now_us) {
                rare.join_at_us = None;
                self.join(number, cx);
            }
        }
    }

    fn check_established(&mut self) {
        if self.phase == Phase::Opening && self.is_connected && self.joins_left == 0 {
            self.phase = Phase::Established;
        }
    }
}

fn put(out: &mut Vec<u8>, id: u32, op: client_frame::Op) {
    ws::put_frame(out, OpCode::Binary, &ClientFrame { id, op: Some(op) }.encode_to_vec());
}

#[cfg(test)]
mod tests;
