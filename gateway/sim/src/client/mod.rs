//! A client that follows the protocol to the letter: connects, reads at its own pace, keeps its places, pulls what it was
//! told that it missed, and comes back.

mod answers;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_gateway_core::client::ops::AckMode;
use tidegate_gateway_core::ids::Cursor as CoreCursor;
use tidegate_gateway_core::messages::{ConnClass, Encoding, Hello, PlatformId};
use tidegate_proto::v1::{self, client_frame::Op, server_frame::Body};

pub use self::view::{Log, Reader, View};
use crate::bus::PLATFORMS;
use crate::frames;
use crate::rng::Rng;
use crate::script::{ClientDoes, Cursors, MS};
use crate::truth::{Life, Truth};
use crate::wire;

/// Requests that wait for their answers; the server bears 64.
const IN_FLIGHT_MAX: usize = 32;
/// A connection without a session is given up after this.
const PATIENCE_NS: u64 = 3_000 * MS;
/// Pause before a pull that was refused for the moment.
const RETRY_NS: u64 = 100 * MS;

pub struct Client {
    pub number: usize,
    pub reader: Reader,
    pub habits: Habits,
    pub conn: Option<Conn>,
    pub views: BTreeMap<String, View>,
    pub log: Log,
    /// Groups whose live feed it wants.
    pub wanted: BTreeSet<String>,
    pub pace: Pace,
    /// Sends, by their number in the world's list, that have no answer yet.
    pub outbox: VecDeque<usize>,
    pub answers: Vec<(usize, Answer)>,
    /// Frames as lines, if a trace is kept.
    pub heard: Vec<String>,
    traced: bool,
    pub rng: Rng,
}

/// What does not change.
#[derive(Clone, Debug)]
pub struct Habits {
    pub device: String,
    pub json: bool,
    pub deflate: bool,
    pub platform: u8,
    pub sent_acks: bool,
    /// Most bytes of one read, and the pause after it.
    pub read: (usize, u64),
}

/// One connection.
pub struct Conn {
    pub gateway: usize,
    pub life: u32,
    pub shard: usize,
    pub sock: u32,
    pub begun: u64,
    pub welcomed: bool,
    buffer: Vec<u8>,
    next_id: u32,
    asked: BTreeMap<u32, Asked>,
    /// Groups that it joined here.
    joined: BTreeSet<String>,
    /// The server said that this is the end.
    over: Option<u32>,
    /// Its close frame came.
    closed: bool,
}

/// When it does what.
#[derive(Debug, Default)]
pub struct Pace {
    pub connects_at: u64,
    pub stalled_until: u64,
    /// The next connect brings these places.
    pub brings: Option<Cursors>,
}

#[derive(Clone, Debug)]
pub enum Asked {
    Pull {
        life: Life,
        after: u64,
    },
    Look {
        stream: String,
    },
    Join {
        stream: String,
    },
    Leave {
        stream: String,
    },
    Send {
        push: usize,
    },
    /// It should be refused.
    Daring,
    Other,
}

/// What became of a send.
#[derive(Clone, Debug)]
pub enum Answer {
    Ok {
        life: Life,
        seq: Option<u64>,
        id: String,
        duplicate: bool,
    },
    Refused,
    /// Nobody knows; it is said again.
    Unknown,
}

/// A frame's fate is decided with what is true.
pub type Judged = Result<(), String>;

impl Client {
    pub fn new(number: usize, uid: String, habits: Habits, rng: Rng) -> Client {
        Client {
            number,
            reader: Reader { uid, platform: PLATFORMS[usize::from(habits.platform)] },
            habits,
            conn: None,
            views: BTreeMap::new(),
            log: Log::default(),
            wanted: BTreeSet::new(),
            pace: Pace::default(),
            outbox: VecDeque::new(),
            answers: Vec::new(),
            heard: Vec::new(),
            traced: false,
            rng,
        }
    }

    pub fn trace_frames(&mut self, on: bool) {
        self.traced = on;
    }

    pub fn hello(&mut self) -> Hello {
        self.change_places();
        let alive = self.views.values().filter(|view| !view.left);
        let cursors = alive.filter_map(|view| {
            let epoch = tidegate_gateway_core::ids::Epoch::from(view.life.1.as_str());
            let seq = tidegate_gateway_core::ids::Seq(view.last);
            Some((view.life.0.parse().ok()?, CoreCursor { epoch, seq }))
        });
        let encoding = if self.habits.json { Encoding::Json } else { Encoding::Proto };
        let platform = PlatformId(self.habits.platform);
        Hello {
            uid: self.reader.uid.parse().expect("a uid"),
            device: self.habits.device.as_str().into(),
            class: ConnClass { encoding, deflate: self.habits.deflate, platform },
            reply_to: self.rng.chance(300).then_some(1),
            cursors: cursors.collect(),
            auto_join: true,
            ack_mode: if self.habits.sent_acks { AckMode::Sent } else { AckMode::Client },
            ping_interval_ms: 0,
            expires_in_ms: None,
            expires_at_ms: None,
            platform_name: self.reader.platform.into(),
        }
    }

    /// A new connection begins: what was said on an older one is void.
    pub fn connected(&mut self, conn: Conn) {
        self.conn = Some(conn);
        self.views.retain(|_, view| !view.left);
        for view in self.views.values_mut() {
            (view.gapped, view.pull, view.pull_at, view.on_conn) = (false, None, None, None);
        }
    }

    /// Whatever place a device might bring: of a backup, of another cluster, of a life to come.
    fn change_places(&mut self) {
        let Some(brings) = self.pace.brings.take() else { return };
        if brings == Cursors::None {
            self.views.clear();
            return;
        }
        let names: Vec<String> = self.views.keys().cloned().collect();
        for name in names {
            let Some(view) = self.views.get(&name).filter(|view| !view.left) else { continue };
            let (epoch, last) = (view.life.1.clone(), view.last);
            let (epoch, last) = match brings {
                Cursors::Old | Cursors::None => (epoch, self.rng.below(last + 1)),
                Cursors::Future => (epoch, last + 1 + self.rng.below(50)),
                Cursors::Foreign => ((*self.rng.pick(&["zzzz", "7", "no-epoch!"])).to_owned(), self.rng.below(20)),
            };
            self.views.insert(name.clone(), View::begin(&mut self.log, (name, epoch), last));
        }
    }

    /// The connection is gone. Sends without an answer are said again on the next one.
    pub fn lost(&mut self, now: u64) {
        let Some(conn) = self.conn.take() else { return };
        for asked in conn.asked.into_values() {
            if let Asked::Send { push } = asked {
                self.answers.push((push, Answer::Unknown));
            }
        }
        let pause = conn.over.map_or(0, |ms| u64::from(ms) * MS).min(1_000 * MS);
        self.pace.connects_at = now + pause + self.rng.between(MS, 100 * MS);
        for view in self.views.values_mut() {
            (view.pull, view.pull_at) = (None, None);
        }
    }

    /// Frames that are due, as bytes; and when to come again.
    pub fn speak(&mut self, now: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.conn.as_ref().is_none_or(|conn| !conn.welcomed) {
            return bytes;
        }
        let due: Vec<String> = self
            .views
            .iter()
            .filter(|(_, view)| view.pull.is_none() && view.pull_at.is_some_and(|at| at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            let Some(view) = self.views.get(&name) else { continue };
            let (life, after) = (view.life.clone(), view.last);
            let limit = *self.rng.pick(&[0, 1, 3, 10]);
            let pull = v1::PullOp { stream: name.clone(), epoch: life.1.clone(), after, limit, since_ts: None };
            let id = self.ask(Op::Pull(pull), Asked::Pull { life, after }, &mut bytes);
            if let (Some(view), Some(id)) = (self.views.get_mut(&name), id) {
                (view.pull, view.pull_at) = (Some(id), None);
            }
        }
        bytes
    }

    /// Sends a request; `None` without a session, or with too many under way.
    pub fn ask(&mut self, op: Op, asked: Asked, bytes: &mut Vec<u8>) -> Option<u32> {
        let json = self.habits.json;
        let conn = self.conn.as_mut().filter(|conn| conn.welcomed && conn.asked.len() < IN_FLIGHT_MAX)?;
        let id = conn.next_id;
        conn.next_id += 1;
        conn.asked.insert(id, asked);
        let opcode = if json { wire::TEXT } else { wire::BINARY };
        bytes.extend(wire::masked(opcode, &frames::encode(json, id, &op)));
        Some(id)
    }

    /// Bytes from the server. What is to be answered at once is put into `out`.
    pub fn hears(&mut self, now: u64, bytes: &[u8], truth: &Truth, out: &mut Vec<u8>) -> Judged {
        let Some(conn) = &mut self.conn else { return Ok(()) };
        conn.buffer.extend_from_slice(bytes);
        let mut buffer = std::mem::take(&mut conn.buffer);
        let mut closed = conn.closed;
        while let Some(frame) = wire::take(&mut buffer)? {
            if closed {
                return Err("a frame after the close".to_owned());
            }
            closed = frame.opcode == wire::CLOSE;
            match frame.opcode {
                wire::PING => out.extend(wire::masked(wire::PONG, &frame.payload)),
                wire::CLOSE => out.extend(wire::masked(wire::CLOSE, &frame.payload)),
                wire::TEXT | wire::BINARY => {
                    let payload = match frame.compressed {
                        true => inflate(&frame.payload)?,
                        false => frame.payload,
                    };
                    let frame = frames::decode(self.habits.json, &payload)?;
                    if self.traced {
                        self.heard.push(brief(&frame));
                    }
                    self.on_frame(now, frame, truth)?;
                }
                _ => {}
            }
        }
        if let Some(conn) = &mut self.conn {
            (conn.buffer, conn.closed) = (buffer, closed);
        }
        Ok(())
    }

    fn on_frame(&mut self, now: u64, frame: v1::ServerFrame, truth: &Truth) -> Judged {
        let welcomed = self.conn.as_ref().is_some_and(|conn| conn.welcomed);
        match frame.body.ok_or("a frame without content")? {
            Body::Welcome(session) => self.on_session(session),
            Body::Ok(v1::Ok { result: Some(v1::ok::Result::Connect(session)) }) => self.on_session(session),
            Body::Bye(bye) => {
                if let Some(conn) = &mut self.conn {
                    conn.over = Some(bye.reconnect_after_ms.unwrap_or(0));
                }
                Ok(())
            }
            _ if !welcomed => Err("a frame before the session".to_owned()),
            Body::Ok(ok) => self.on_ok(now, frame.id, ok, truth),
            Body::Error(error) => self.on_error(now, frame.id, error),
            Body::Batch(batch) => self.on_batch(batch, truth),
            Body::Gap(gap) => self.on_gap(now, gap),
            Body::Joined(joined) => self.on_joined(joined),
            Body::Left(left) => {
                self.views.remove(&left.stream);
                if let Some(conn) = &mut self.conn {
                    conn.joined.remove(&left.stream);
                }
                Ok(())
            }
            Body::Expiring(_) | Body::Presence(_) => Ok(()),
        }
    }

    /// What it asks without any consequence but the answer.
    pub fn asks(&mut self, does: &ClientDoes, bytes: &mut Vec<u8>) {
        let followed = self.views.values().filter(|view| !view.left);
        let places: Vec<(Life, u64)> = followed.map(|view| (view.life.clone(), view.last)).collect();
        // A place that it brought, and that nobody has confirmed yet, may be wrong.
        let confirmed = |stream: &str| self.views.get(stream).is_some_and(|view| view.on_conn.is_some());
        if *does == ClientDoes::Ping || places.is_empty() {
            self.ask(Op::Ping(v1::PingOp {}), Asked::Other, bytes);
            return;
        }
        let ((stream, epoch), last) = self.rng.pick(&places).clone();
        let sure = if confirmed(&stream) { Asked::Other } else { Asked::Daring };
        match does {
            ClientDoes::Head => drop(self.ask(Op::Head(v1::HeadOp { stream }), Asked::Other, bytes)),
            ClientDoes::Sync => {
                let cursor = |((stream, epoch), seq): (Life, u64)| (stream, v1::Cursor { epoch, seq });
                let cursors = places.into_iter().map(cursor).collect();
                self.ask(Op::Sync(v1::SyncOp { cursors }), Asked::Other, bytes);
            }
            ClientDoes::Read => {
                let read = v1::ReadOp { stream, epoch, seq: last };
                self.ask(Op::Read(read), sure, bytes);
            }
            _ => {
                // Now and then one that never was.
                let beyond = self.rng.chance(150);
                let seq = if beyond { last + 1 + self.rng.below(20) } else { last };
                let asked = if beyond { Asked::Daring } else { sure };
                self.ask(Op::Ack(v1::AckOp { stream, epoch, seq }), asked, bytes);
            }
        }
    }

    /// When something is due without anybody's doing.
    pub fn wakes_at(&self) -> Option<u64> {
        match &self.conn {
            None => Some(self.pace.connects_at),
            Some(conn) if !conn.welcomed => Some(conn.begun + PATIENCE_NS),
            Some(_) => self.views.values().filter(|view| view.pull.is_none()).filter_map(|view| view.pull_at).min(),
        }
    }

    pub fn impatient(&self, now: u64) -> bool {
        self.conn.as_ref().is_some_and(|conn| !conn.welcomed && now >= conn.begun + PATIENCE_NS)
    }

    /// Nothing is under way and nothing is missing, as far as it knows.
    pub fn is_calm(&self) -> bool {
        let calm = |view: &View| !view.gapped && view.pull.is_none() && view.pull_at.is_none();
        self.conn.as_ref().is_some_and(|conn| conn.welcomed && conn.asked.is_empty())
            && self.views.values().all(calm)
            && self.outbox.is_empty()
            && self.answers.is_empty()
    }
}

impl Conn {
    pub fn new((gateway, life, shard, sock): (usize, u32, usize, u32), now: u64) -> Conn {
        Conn {
            gateway,
            life,
            shard,
            sock,
            begun: now,
            welcomed: false,
            buffer: Vec::new(),
            // The first may be the connect frame's.
            next_id: 2,
            asked: BTreeMap::new(),
            joined: BTreeSet::new(),
            over: None,
            closed: false,
        }
    }
}

/// A frame in a line: bodies of messages are left out.
fn brief(frame: &v1::ServerFrame) -> String {
    let seqs = |messages: &[v1::Message]| messages.iter().map(|message| message.seq).collect::<Vec<_>>();
    match &frame.body {
        Some(Body::Batch(b)) => {
            format!("batch {} {} ({:?}, {:?}] {:?}", b.stream, b.epoch, b.after, b.upto, seqs(&b.messages))
        }
        Some(Body::Ok(v1::Ok { result: Some(v1::ok::Result::Pull(p)) })) => {
            let (id, messages) = (frame.id, seqs(&p.messages));
            format!("ok {id} pull {} {} ({}, {}] of {} {messages:?}", p.stream, p.epoch, p.after, p.upto, p.head)
        }
        body => format!("{} {body:?}", frame.id),
    }
}

fn inflate(packed: &[u8]) -> Result<Vec<u8>, String> {
    let mut whole = packed.to_vec();
    whole.extend_from_slice(&[0, 0, 0xff, 0xff]);
    let mut out = Vec::with_capacity(packed.len() * 8 + 1024);
    let mut inflater = flate2::Decompress::new(false);
    loop {
        let (taken, made) = (inflater.total_in() as usize, out.len());
        out.reserve(1024);
        inflater
            .decompress_vec(&whole[taken..], &mut out, flate2::FlushDecompress::Sync)
            .map_err(|error| error.to_string())?;
        if inflater.total_in() as usize == whole.len() && out.len() < out.capacity() {
            return Ok(out);
        }
        if inflater.total_in() as usize == taken && out.len() == made {
            return Err("a compressed frame that does not end".to_owned());
        }
    }
}
