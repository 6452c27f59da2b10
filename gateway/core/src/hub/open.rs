//! Connects, joins and invitations: from the question to control until the connection is a member.
//!
//! All three are one thing: streams are opened, each with a place where the connection starts; when all are there and
//! every stream stands at or beyond its start, the answer, the recovery and the memberships leave together.

use smallvec::SmallVec;
use tidegate_proto::v1::{self, server_frame::Body};

use super::encode::notice;
use super::parts::Part;
use super::{Hub, LATE_JOINS_MAX, OPENS_MAX, RECOVERY_BYTES_MAX};
use crate::client::errors::ErrorCode;
use crate::client::{link_error_frame, ok_frame, session_frame, stream_state};
use crate::ids::{ConnRef, Cursor, Epoch, Now, Seq, StreamIdx, StreamKey, StreamKind, Uid};
use crate::link::{Corr, Head, LinkError, Message, Recovered, ToLink};
use crate::messages::{Direct, Hello, Requester, ToShard};
use crate::ws::close::CloseCode;

#[derive(Debug)]
pub(super) struct PendingOpen {
    pub uid: Uid,
    pub kind: OpenKind,
    /// What is asked where. None: it is not known yet where.
    pub parts: SmallVec<[Part; 1]>,
    pub entries: Vec<Entry>,
    /// With the part that was answered so.
    pub errors: Vec<(Corr, StreamKey, LinkError)>,
    /// Groups that the user came into since control was asked.
    pub late: Vec<Late>,
    /// Joins of a connection whose session object has not gone out yet: it comes first.
    pub followers: Vec<Corr>,
    /// The connection has closed: streams that were opened for it are let go.
    pub gone: bool,
}

#[derive(Debug)]
pub(super) enum OpenKind {
    Connect {
        conn: ConnRef,
        connection_id: Box<str>,
        hello: Box<Hello>,
    },
    Join {
        conn: ConnRef,
        id: u32,
        who: Box<Requester>,
        stream: StreamKey,
        cursor: Option<Cursor>,
        /// The connection seems to be a member: its recovery will probably be dropped.
        rejoins: bool,
    },
    /// The user became a member of the group: its live connections are to be, too.
    Invite {
        stream: StreamKey,
    },
}

/// The user became a member of a group by the record at `seq` of it.
#[derive(Clone, Debug)]
pub(super) struct Late {
    pub stream: StreamKey,
    pub epoch: Epoch,
    pub seq: Seq,
    /// Another partition than the group's own said so.
    pub elsewhere: bool,
}

/// Of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In its partition's queue of opens.
    Waiting,
    Asked,
    /// All answers are here.
    Ended,
}

/// A stream of an open that control granted. Holds the stream live.
#[derive(Debug)]
pub(super) struct Entry {
    /// The part that was answered so.
    pub part: Corr,
    pub idx: StreamIdx,
    pub epoch: Epoch,
    /// Where `page` ends.
    pub head: Seq,
    pub start: Seq,
    pub recovered: Recovered,
    pub page: Option<Vec<Message>>,
    /// What the page counts for among all that are held.
    pub page_bytes: usize,
    pub listed: bool,
    /// The client has no place of its own and anyone may read: it begins wherever F is when the open finishes, so that
    /// a storm of newcomers does not flush the window once for each.
    pub floats: bool,
}

impl Entry {
    /// A connection that starts where the stream stands.
    pub fn at(idx: StreamIdx, epoch: Epoch, head: Seq) -> Entry {
        Entry {
            part: 0,
            idx,
            epoch,
            head,
            start: head,
            recovered: Recovered::Full,
            page: None,
            page_bytes: 0,
            listed: true,
            floats: false,
        }
    }
}

impl PendingOpen {
    pub fn new(uid: Uid, kind: OpenKind) -> PendingOpen {
        PendingOpen {
            uid,
            kind,
            parts: SmallVec::new(),
            entries: Vec::new(),
            errors: Vec::new(),
            late: Vec::new(),
            followers: Vec::new(),
            gone: false,
        }
    }

    pub fn conn(&self) -> Option<ConnRef> {
        match &self.kind {
            OpenKind::Connect { conn, .. } | OpenKind::Join { conn, .. } => Some(*conn),
            OpenKind::Invite { .. } => None,
        }
    }

    /// Whether the client brought a cursor for the stream.
    pub fn names(&self, key: &str) -> bool {
        match &self.kind {
            OpenKind::Connect { hello, .. } => hello.cursors.iter().any(|(named, _)| named.as_str() == key),
            OpenKind::Join { cursor, .. } => cursor.is_some(),
            OpenKind::Invite { .. } => false,
        }
    }
}

impl Hub {
    pub(super) fn connected(&mut self, conn: ConnRef, connection_id: Box<str>, hello: Box<Hello>) {
        self.stats.connects += 1;
        self.encoder.note_platform(hello.class.platform);
        self.telling.note(conn.shard, hello.class.platform, &hello.platform_name);
        if self.opens.len() >= OPENS_MAX {
            self.stats.overloaded += 1;
            self.send(conn.shard, ToShard::Close { conn: conn.conn, code: CloseCode::Overload, reason: "overload" });
            return;
        }
        let uid = hello.uid.clone();
        let kind = OpenKind::Connect { conn, connection_id, hello };
        self.begin_open(PendingOpen::new(uid, kind));
    }

    pub(super) fn disconnected(&mut self, conn: ConnRef, uid: Uid, connection_id: Box<str>) {
        let mut was_online = true;
        for corr in self.opens_of.get(&uid).cloned().unwrap_or_default() {
            let Some(open) = self.opens.get_mut(&corr).filter(|open| open.conn() == Some(conn)) else { continue };
            open.gone = true;
            was_online &= !matches!(open.kind, OpenKind::Connect { .. });
            self.retries.push_back(corr);
        }
        if was_online {
            let change = ToLink::Offline { uid: uid.clone(), connection_id };
            self.presence(&uid, change);
        }
    }

    pub(super) fn join(
        &mut self,
        conn: ConnRef,
        id: u32,
        who: Box<Requester>,
        stream: StreamKey,
        cursor: Option<Cursor>,
        memberships: &[StreamIdx],
    ) {
        self.stats.joins += 1;
        let live = self.streams.find(&stream);
        if self.opens.len() >= OPENS_MAX {
            let error = self.overloaded();
            self.reply_frame(conn, id, who.class, &link_error_frame(id, &error), None);
            return;
        }
        let uid = who.uid.clone();
        let entry = live.and_then(|idx| self.local_entry(idx, &uid, cursor.as_ref()));
        // A hint, not a fact: a leave may be on its way to the shard. The shard drops what a member must not get again.
        let rejoins = live.is_some_and(|idx| memberships.contains(&idx));
        let kind = OpenKind::Join { conn, id, who, stream, cursor, rejoins };
        match entry {
            Some(entry) => {
                self.stats.joins_local += 1;
                self.begin_local(PendingOpen::new(uid, kind), entry);
            }
            None => self.begin_open(PendingOpen::new(uid, kind)),
        }
    }

    /// What control would answer, if this node knows it.
    fn local_entry(&self, idx: StreamIdx, uid: &Uid, cursor: Option<&Cursor>) -> Option<Entry> {
        let stream = self.streams.at(idx).filter(|_| self.speaks_for(idx, uid))?;
        let is_inbox = self.streams.key(idx).is_some_and(|key| key.kind() == StreamKind::Inbox);
        let start = match cursor {
            // Without a cursor an inbox starts at the device's mark, which control knows.
            None if is_inbox => return None,
            None => stream.received,
            Some(cursor) if cursor.epoch == stream.epoch && stream.tail_covers(cursor.seq) => cursor.seq,
            Some(_) => return None,
        };
        let (epoch, head) = (stream.epoch.clone(), stream.received);
        let floats = cursor.is_none();
        Some(Entry { start, floats, ..Entry::at(idx, epoch, head) })
    }

    pub(super) fn begin_open(&mut self, open: PendingOpen) {
        let corr = self.register(open);
        self.route(corr);
    }

    pub(super) fn begin_local(&mut self, open: PendingOpen, entry: Entry) {
        if let Some(stream) = self.streams.at_mut(entry.idx) {
            stream.holds += 1;
        }
        let corr = self.register(open);
        self.route_answered(corr, entry);
        self.retries.push_back(corr);
    }

    fn register(&mut self, open: PendingOpen) -> Corr {
        let corr = self.corr();
        self.opens_of.entry(open.uid.clone()).or_default().push(corr);
        self.opens.insert(corr, open);
        corr
    }

    pub(super) fn release(&mut self, now: Now, entries: Vec<Entry>) {
        for entry in entries {
            self.pages_held = self.pages_held.saturating_sub(entry.page_bytes);
            self.release_hold(now, entry.idx);
        }
    }

    fn release_hold(&mut self, now: Now, idx: StreamIdx) {
        if let Some(stream) = self.streams.at_mut(idx) {
            stream.holds = stream.holds.saturating_sub(1);
            self.linger_if_idle(now, idx);
        }
    }

    /// Finishes an open that has all its answers, unless one of its streams has not reached the connection's start: then
    /// the open waits for that stream.
    pub(super) fn try_finish(&mut self, now: Now, corr: Corr) {
        let Some(open) = self.opens.get(&corr) else { return };
        let finished = open.is_answered() || (open.gone && !open.is_asked());
        if !finished || self.follows_connect(corr) {
            return;
        }
        let Some(open) = self.opens.get(&corr) else { return };
        let starts: SmallVec<[(StreamIdx, Seq); 8]> = match open.gone {
            true => SmallVec::new(),
            false => open.entries.iter().map(|entry| (entry.idx, self.start(entry))).collect(),
        };
        if starts.into_iter().any(|(idx, start)| self.waits_for(now, idx, start, corr)) {
            return;
        }
        let Some(open) = self.opens.remove(&corr) else { return };
        for part in &open.parts {
            self.parts.remove(&part.corr);
        }
        if let Some(corrs) = self.opens_of.get_mut(&open.uid) {
            corrs.retain(|other| *other != corr);
            if corrs.is_empty() {
                self.opens_of.remove(&open.uid);
            }
        }
        self.finish(now, open);
    }

    /// Whether this is a join that has to wait for its connection's session object.
    fn follows_connect(&mut self, corr: Corr) -> bool {
        let Some(open) = self.opens.get(&corr).filter(|open| !open.gone) else { return false };
        let (OpenKind::Join { conn, .. }, Some(others)) = (&open.kind, self.opens_of.get(&open.uid)) else {
            return false;
        };
        let is_connect = |other: &&Corr| {
            let open = self.opens.get(*other).filter(|open| !open.gone);
            open.is_some_and(|open| matches!(&open.kind, OpenKind::Connect { conn: at, .. } if at == conn))
        };
        let Some(connect) = others.iter().find(is_connect).copied() else { return false };
        if let Some(connect) = self.opens.get_mut(&connect) {
            connect.followers.push(corr);
        }
        true
    }

    /// Of an epoch that has ended meanwhile nothing is left to wait for.
    fn start(&self, entry: &Entry) -> Seq {
        let same = self.streams.at(entry.idx).is_some_and(|stream| stream.epoch == entry.epoch);
        if same && !entry.floats { entry.start } else { Seq::ZERO }
    }

    fn waits_for(&mut self, now: Now, idx: StreamIdx, start: Seq, corr: Corr) -> bool {
        if self.streams.at(idx).is_some_and(|stream| start > stream.flushed) {
            self.flush(now, idx);
        }
        let Some(stream) = self.streams.at_mut(idx) else { return false };
        // Behind a gap for all the shards do not stand at F yet.
        let gap_waits = stream.pending().is_some_and(|pending| pending.gap_all.is_some());
        let below = start > stream.flushed && (stream.is_running() || stream.healing());
        if gap_waits || below {
            stream.make_pending().blocked.push(corr);
        }
        gap_waits || below
    }

    fn finish(&mut self, now: Now, open: PendingOpen) {
        let PendingOpen { uid, kind, entries, errors, late, followers, gone, .. } = open;
        self.retries.extend(followers);
        let page_bytes = entries.iter().map(|entry| entry.page_bytes).sum();
        self.pages_held = self.pages_held.saturating_sub(page_bytes);
        let held: SmallVec<[StreamIdx; 8]> = entries.iter().map(|entry| entry.idx).collect();
        match kind {
            _ if gone => {}
            OpenKind::Connect { conn, connection_id, hello } => {
                self.finish_connect(conn, connection_id, *hello, entries, errors);
            }
            OpenKind::Join { conn, id, who, rejoins, .. } => {
                self.finish_join(conn, id, &who, rejoins, entries, errors);
            }
            OpenKind::Invite { .. } => {
                for entry in &entries {
                    self.invite(&uid, entry.idx);
                }
            }
        }
        if !gone {
            for joined in late {
                if !held.iter().any(|idx| self.streams.key_text(*idx) == joined.stream.as_str()) {
                    self.membership_began(uid.clone(), joined);
                }
            }
        }
        for idx in held {
            self.release_hold(now, idx);
        }
    }

    fn finish_connect(
        &mut self,
        conn: ConnRef,
        connection_id: Box<str>,
        hello: Hello,
        entries: Vec<Entry>,
        errors: Vec<(Corr, StreamKey, LinkError)>,
    ) {
        let listed: SmallVec<[bool; 8]> = entries.iter().map(|entry| entry.listed).collect();
        let mut budget = RECOVERY_BYTES_MAX;
        let plans: Vec<_> = entries.into_iter().map(|entry| self.plan(entry, hello.class, &mut budget)).collect();
        let states = plans.iter().zip(&listed).filter(|(_, listed)| **listed);
        let states = states.filter_map(|(plan, _)| self.state(plan.idx, Some(plan.recovered))).collect();
        let session = v1::Session {
            connection_id: connection_id.to_string(),
            uid: hello.uid.to_string(),
            gateway: self.config.gateway.to_string(),
            ping_interval_ms: hello.ping_interval_ms,
            session_expires_ms: hello.expires_at_ms,
            streams: states,
        };
        let frame = self.encoder.single(hello.class, &session_frame(hello.reply_to, session));
        let finishes = hello.reply_to;
        self.direct(conn, Direct { conn: conn.conn, frame, finishes, reached: None, recovers: None });
        for plan in plans {
            self.recover(conn, hello.class, &hello.uid, plan);
        }
        let named = |key: &StreamKey| hello.cursors.iter().any(|(named, _)| named == key);
        for (_, stream, error) in errors.iter().filter(|(_, key, _)| named(key)) {
            let reason = error.code.as_str().to_ascii_lowercase();
            let left = notice(Body::Left(v1::Left { stream: stream.to_string(), seq: 0, reason }));
            let frame = self.encoder.single(hello.class, &left);
            self.direct(conn, Direct { conn: conn.conn, frame, finishes: None, reached: None, recovers: None });
        }
        let Hello { uid, device, platform_name: platform, .. } = hello;
        let change = ToLink::Online { uid: uid.clone(), device, platform, connection_id };
        self.presence(&uid, change);
    }

    fn finish_join(
        &mut self,
        conn: ConnRef,
        id: u32,
        who: &Requester,
        rejoins: bool,
        entries: Vec<Entry>,
        errors: Vec<(Corr, StreamKey, LinkError)>,
    ) {
        let Some(entry) = entries.into_iter().next() else {
            // No answer at all: the user was taken out of the group, or left it, while this was asked.
            let error = errors.into_iter().next().map(|(.., error)| error).unwrap_or_else(|| LinkError {
                code: ErrorCode::Forbidden,
                message: "not a member".into(),
                retry_after_ms: None,
                stands: None,
            });
            self.reply_frame(conn, id, who.class, &link_error_frame(id, &error), None);
            return;
        };
        let plan = self.plan(entry, who.class, &mut { RECOVERY_BYTES_MAX });
        let recovered = match plan.recovered {
            Recovered::Partial if rejoins => Recovered::Full,
            recovered => recovered,
        };
        if recovered == Recovered::Expired {
            // The client is told to begin elsewhere, so its recovery must not be dropped as that of a member, which an
            // invitation may have made it meanwhile.
            self.send(conn.shard, ToShard::RemoveMember { conn: conn.conn, stream: plan.idx });
        }
        let frame = ok_frame(id, self.state(plan.idx, Some(recovered)).map(v1::ok::Result::Join));
        self.reply_frame(conn, id, who.class, &frame, None);
        self.recover(conn, who.class, &who.uid, plan);
    }

    pub(super) fn state(&self, idx: StreamIdx, recovered: Option<Recovered>) -> Option<v1::StreamState> {
        let stream = self.streams.at(idx)?;
        let stands = Head { epoch: stream.epoch.clone(), head: stream.received, first: stream.first };
        Some(stream_state(self.streams.key_text(idx), &stands, recovered))
    }
}

/// So many late joins are kept per open.
pub(super) fn remember_late(open: &mut PendingOpen, joined: &Late) {
    let wants = matches!(&open.kind, OpenKind::Connect { hello, .. } if hello.auto_join);
    if wants && !open.gone && open.late.len() < LATE_JOINS_MAX {
        open.late.push(joined.clone());
    }
}
