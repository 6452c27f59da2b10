//! A scripted shard: it keeps to the rules of `messages` with as little cleverness as possible.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_gateway_core::client::ops::Op;
use tidegate_gateway_core::ids::{ConnId, ConnRef, PartitionId, Partitions, Seq, ShardId, StreamIdx, Uid};
use tidegate_gateway_core::messages::*;

pub struct Shard {
    pub id: ShardId,
    /// Commands of the hub, in order.
    pub inbox: VecDeque<ToShard>,
    pub out: VecDeque<ToHub>,
    pub conns: BTreeMap<u32, Conn>,
    flushed: BTreeMap<StreamIdx, Seq>,
    running: VecDeque<Running>,
    /// Members served per step of a running fan-out.
    pub slice: usize,
    pub fanouts: u64,
}

pub struct Conn {
    pub id: ConnId,
    pub hello: Hello,
    pub members: BTreeMap<StreamIdx, Member>,
    /// The socket takes nothing: frames of fan-outs become gaps.
    pub slow: bool,
    /// What has gone into the socket and the client has not read yet.
    pub wire: VecDeque<Bytes>,
    pub closed: bool,
}

#[derive(Debug)]
pub struct Member {
    pub gap: Option<Gap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    from: Seq,
    /// `Gapped` was sent and not yet answered, or the client was told.
    reported: bool,
    told: bool,
}

struct Running {
    fanout: Fanout,
    left: Vec<u32>,
}

impl Shard {
    pub fn new(id: u16, slice: usize) -> Shard {
        Shard {
            id: ShardId(id),
            inbox: VecDeque::new(),
            out: VecDeque::new(),
            conns: BTreeMap::new(),
            flushed: BTreeMap::new(),
            running: VecDeque::new(),
            slice,
            fanouts: 0,
        }
    }

    /// A command of the hub. It must not begin a fan-out while it waits to hear of the end of an earlier one.
    pub fn accept(&mut self, command: ToShard) {
        if let ToShard::Fanout(Fanout { stream, .. }) | ToShard::GapAll { stream, .. } = &command {
            let queued = |item: &ToShard| matches!(item, ToShard::Fanout(f) if f.report_done && f.stream == *stream);
            let done = |item: &ToHub| matches!(item, ToHub::FanoutDone { stream: of, .. } if of == stream);
            let runs = self.running.iter().any(|running| running.fanout.stream == *stream);
            assert!(!runs && !self.inbox.iter().any(queued) && !self.out.iter().any(done), "two fan-outs at once");
        }
        self.inbox.push_back(command);
    }

    pub fn connect(&mut self, id: ConnId, hello: Hello) {
        let conn = ConnRef { shard: self.id, conn: id };
        let hello_too = Box::new(hello.clone());
        self.out.push_back(ToHub::Connected { conn, connection_id: connection_id(id), hello: hello_too });
        let conn = Conn { id, hello, members: BTreeMap::new(), slow: false, wire: VecDeque::new(), closed: false };
        self.conns.insert(id.index, conn);
    }

    pub fn close(&mut self, index: u32) {
        let Some(conn) = self.conns.remove(&index) else { return };
        let at = ConnRef { shard: self.id, conn: conn.id };
        let streams: SmallVec<[StreamIdx; 4]> = conn.members.keys().copied().collect();
        if !streams.is_empty() {
            self.out.push_back(ToHub::Left { conn: at, streams, class: conn.hello.class });
        }
        let (uid, connection_id) = (conn.hello.uid, connection_id(conn.id));
        self.out.push_back(ToHub::Disconnected { conn: at, uid, connection_id });
    }

    pub fn request(&mut self, index: u32, id: u32, op: Op) {
        let conn = &self.conns[&index];
        let memberships = match op {
            Op::Join { .. } | Op::Leave { .. } => conn.members.keys().copied().collect(),
            _ => SmallVec::new(),
        };
        let Hello { uid, device, class, .. } = &conn.hello;
        let who = Box::new(Requester { uid: uid.clone(), device: device.clone(), class: *class });
        let conn = ConnRef { shard: self.id, conn: conn.id };
        self.out.push_back(ToHub::Request { conn, id, who, op, memberships });
    }

    pub fn set_slow(&mut self, index: u32, slow: bool) {
        if let Some(conn) = self.conns.get_mut(&index) {
            conn.slow = slow;
        }
        self.report_gaps(index);
    }

    fn report_gaps(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(&index).filter(|conn| !conn.slow) else { return };
        let at = ConnRef { shard: self.id, conn: conn.id };
        for (stream, member) in &mut conn.members {
            if let Some(gap) = member.gap.as_mut().filter(|gap| !gap.reported) {
                gap.reported = true;
                let class = conn.hello.class;
                self.out.push_back(ToHub::Gapped { conn: at, stream: *stream, from: gap.from, class });
            }
        }
    }

    /// Two connections at a time.
    fn tell_present(&mut self, of: Partitions, partitions: &[PartitionId], from: u32) {
        for (_, conn) in self.conns.range(from..from + 2) {
            let Hello { uid, device, class, .. } = &conn.hello;
            if partitions.contains(&of.of_inbox(uid.as_str())) {
                let who = Box::new(Requester { uid: uid.clone(), device: device.clone(), class: *class });
                let at = ConnRef { shard: self.id, conn: conn.id };
                self.out.push_back(ToHub::Present { conn: at, who, connection_id: connection_id(conn.id) });
            }
        }
        let next = self.conns.range(from + 2..).next().map(|_| from + 2);
        self.out.push_back(ToHub::PresentTold { shard: self.id, next });
    }

    pub fn is_quiet(&self) -> bool {
        self.inbox.is_empty() && self.out.is_empty() && self.running.is_empty()
    }

    /// One slice of the oldest fan-out, or one command.
    pub fn step(&mut self) -> bool {
        if let Some(mut running) = self.running.pop_front() {
            for index in running.left.drain(..running.left.len().min(self.slice)).collect::<Vec<_>>() {
                self.send_fanout(index, &running.fanout);
            }
            match running.left.is_empty() {
                true => self.out.push_back(ToHub::FanoutDone { shard: self.id, stream: running.fanout.stream }),
                false => self.running.push_front(running),
            }
            return true;
        }
        let Some(command) = self.inbox.pop_front() else { return false };
        self.command(command);
        true
    }

    fn command(&mut self, command: ToShard) {
        match command {
            ToShard::Fanout(fanout) => self.fanout(fanout),
            ToShard::AddMember { conn, stream, flushed, gapped, class, inbox: _ } => {
                self.add_member(conn, stream, flushed, gapped, class);
            }
            ToShard::RemoveMember { conn, stream } => {
                if self.live(conn).is_some_and(|conn| conn.members.remove(&stream).is_some()) {
                    self.left(conn, stream);
                }
            }
            ToShard::Send(direct) => self.direct(direct),
            ToShard::Gap { conn, stream, from, frame } => {
                let Some(conn) = self.live(conn) else { return };
                let gap = conn.members.get_mut(&stream).and_then(|member| member.gap.as_mut());
                if let Some(gap) = gap.filter(|gap| gap.from == from) {
                    gap.told = true;
                    conn.wire.push_back(frame);
                }
            }
            ToShard::Invite { inbox, stream, flushed, frames } => self.invite(inbox, stream, flushed, &frames),
            ToShard::Expel { uid, stream, frames } => self.expel(&uid, stream, &frames),
            ToShard::Dismiss { stream, frames } => {
                let users: Vec<Uid> = self.conns.values().map(|conn| conn.hello.uid.clone()).collect();
                users.iter().for_each(|uid| self.expel(uid, stream, &frames));
            }
            ToShard::GapAll { stream, from, flushed, new_epoch } => self.gap_all(stream, from, flushed, new_epoch),
            ToShard::TellPresent { of, partitions, from } => self.tell_present(of, &partitions, from),
            ToShard::Reopen => {
                let open: Vec<u32> = self.conns.iter().filter(|(_, conn)| !conn.closed).map(|(at, _)| *at).collect();
                for index in open {
                    self.conns.entry(index).and_modify(|conn| conn.closed = true);
                    self.close(index);
                }
            }
            ToShard::Close { conn, .. } => {
                if let Some(conn) = self.live(conn) {
                    conn.closed = true;
                    let index = conn.id.index;
                    self.close(index);
                }
            }
        }
    }

    fn fanout(&mut self, fanout: Fanout) {
        self.fanouts += 1;
        let members = self.conns.iter().filter(|(_, conn)| conn.members.contains_key(&fanout.stream));
        let members: Vec<u32> = members.map(|(index, _)| *index).collect();
        if let Some(range) = fanout.range {
            let before = self.flushed.insert(fanout.stream, range.upto);
            assert!(members.is_empty() || before == Some(range.after), "fan-outs {before:?} and {range:?}");
        }
        if fanout.report_done {
            self.running.push_back(Running { fanout, left: members });
            return;
        }
        assert!(members.len() <= self.slice, "more than a slice, and no report asked for");
        for index in members {
            self.send_fanout(index, &fanout);
        }
    }

    fn send_fanout(&mut self, index: u32, fanout: &Fanout) {
        let Some(conn) = self.conns.get_mut(&index) else { return };
        let Some(member) = conn.members.get_mut(&fanout.stream).filter(|member| member.gap.is_none()) else { return };
        let frame = fanout.frames.select(conn.hello.class).expect("a variant for every class that is present");
        if !conn.slow {
            if !frame.is_empty() {
                conn.wire.push_back(frame.clone());
            }
        } else if let Some(range) = fanout.range {
            member.gap = Some(Gap { from: range.after.next(), reported: false, told: false });
        }
    }

    fn add_member(&mut self, id: ConnId, stream: StreamIdx, flushed: Seq, gapped: bool, class: ConnClass) {
        let shard = self.id;
        let extra = ToHub::Left { conn: ConnRef { shard, conn: id }, streams: SmallVec::from_slice(&[stream]), class };
        let Some(conn) = self.live(id).filter(|conn| !conn.members.contains_key(&stream)) else {
            self.out.push_back(extra);
            return;
        };
        assert_eq!(conn.hello.class, class);
        let gap = gapped.then_some(Gap { from: Seq(0), reported: true, told: true });
        conn.members.insert(stream, Member { gap });
        self.stands(stream, flushed);
    }

    /// Where a new member stands must be where the fan-outs that it will get begin.
    fn stands(&mut self, stream: StreamIdx, flushed: Seq) {
        let others = self.conns.values().filter(|conn| conn.members.contains_key(&stream)).count() > 1;
        let before = self.flushed.insert(stream, flushed);
        assert!(!others || before == Some(flushed), "added at {flushed}, the stream stands at {before:?}");
    }

    fn direct(&mut self, direct: Direct) {
        let flushed = direct.reached.and_then(|(stream, _)| self.flushed.get(&stream)).copied();
        let Some(conn) = self.live(direct.conn) else { return };
        if direct.recovers.is_some_and(|stream| conn.members.contains_key(&stream)) {
            return;
        }
        conn.wire.push_back(direct.frame);
        if let Some((stream, upto)) = direct.reached
            && flushed.is_some_and(|flushed| upto >= flushed)
            && let Some(member) = conn.members.get_mut(&stream)
            && member.gap.is_some_and(|gap| gap.told)
        {
            member.gap = None;
        }
    }

    fn invite(&mut self, inbox: StreamIdx, stream: StreamIdx, flushed: Seq, frames: &FrameSet) {
        let mut added = 0;
        for conn in self.conns.values_mut() {
            let wanted = conn.hello.auto_join && conn.members.contains_key(&inbox);
            if wanted && !conn.members.contains_key(&stream) {
                conn.wire.push_back(frames.select(conn.hello.class).expect("a variant").clone());
                conn.members.insert(stream, Member { gap: None });
                added += 1;
            }
        }
        if added > 0 {
            self.flushed.insert(stream, flushed);
        }
        self.out.push_back(ToHub::Invited { shard: self.id, stream, added });
    }

    fn expel(&mut self, uid: &Uid, stream: StreamIdx, frames: &FrameSet) {
        let mut gone = Vec::new();
        for conn in self.conns.values_mut().filter(|conn| conn.hello.uid == *uid) {
            if conn.members.remove(&stream).is_some() {
                if !frames.is_empty() {
                    conn.wire.push_back(frames.select(conn.hello.class).expect("a variant").clone());
                }
                gone.push(conn.id);
            }
        }
        for conn in gone {
            self.left(conn, stream);
        }
    }

    fn gap_all(&mut self, stream: StreamIdx, from: Seq, flushed: Seq, new_epoch: bool) {
        self.flushed.insert(stream, flushed);
        let mut members = Vec::new();
        for (index, conn) in &mut self.conns {
            let Some(member) = conn.members.get_mut(&stream) else { continue };
            if new_epoch || member.gap.is_none() {
                member.gap = Some(Gap { from, reported: false, told: false });
                members.push(*index);
            }
        }
        for index in members {
            self.report_gaps(index);
        }
    }

    fn live(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(&id.index).filter(|conn| conn.id == id)
    }

    fn left(&mut self, id: ConnId, stream: StreamIdx) {
        let conn = ConnRef { shard: self.id, conn: id };
        let class = self.conns[&id.index].hello.class;
        self.out.push_back(ToHub::Left { conn, streams: SmallVec::from_slice(&[stream]), class });
    }
}

pub fn connection_id(conn: ConnId) -> Box<str> {
    format!("c{}-{}", conn.index, conn.generation).into()
}
