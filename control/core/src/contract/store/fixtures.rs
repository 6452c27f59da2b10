//! Records to put into a store under test.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use crate::domain::record::Dedup;
use crate::domain::{
    Append, Body, Content, Epoch, Fingerprint, GroupChange, LeaveReason, Mark, MembershipChange, MessageId, Place,
    Priority, Record, Role, Seq, StreamKey, Timestamp, Uid,
};
use crate::ports::PageLimit;

/// The epoch that the suite gives its streams.
pub const EPOCH: Epoch = Epoch(0x7e57);

pub const NO_LIMIT: PageLimit = PageLimit { messages: 1 << 20, bytes: 1 << 30 };

pub fn stream(name: &str) -> StreamKey {
    name.parse().expect("a valid stream key")
}

pub fn uid(name: &str) -> Uid {
    name.parse().expect("a valid uid")
}

/// A text message of this id, at this time.
pub fn body(id: u64, ts: i64, text: &str) -> Body {
    Body {
        id: MessageId(id),
        from: "billing".into(),
        to: "".into(),
        client_msg_id: "".into(),
        kind: "text".into(),
        title: "".into(),
        content: Content::Text(text.into()),
        metadata: "".into(),
        ts: Timestamp(ts),
        priority: Priority::Normal,
        expires: None,
        platforms: SmallVec::new(),
    }
}

pub fn place(name: &str, epoch: Epoch, seq: u64) -> Place {
    Place { stream: stream(name), epoch, seq: Seq(seq) }
}

/// One message of one stream; its id and its time are 1000 + seq, its text is `<stream>#<seq>`.
pub fn message(name: &str, seq: u64) -> Record {
    message_of(name, EPOCH, seq)
}

pub fn message_of(name: &str, epoch: Epoch, seq: u64) -> Record {
    Record::Append(append(name, epoch, seq))
}

pub fn append(name: &str, epoch: Epoch, seq: u64) -> Append {
    let body = Arc::new(body(1000 + seq, 1000 + seq as i64, &format!("{name}#{seq}")));
    Append { body, places: smallvec![place(name, epoch, seq)], dedup: None, membership: None }
}

pub fn keyed(name: &str, seq: u64, key: u8, fingerprint: u64) -> Record {
    let mut append = append(name, EPOCH, seq);
    append.dedup = Some(Dedup { key: [key; 16], fingerprint: Fingerprint(fingerprint) });
    Record::Append(append)
}

/// A one-to-one message: the conversation first, then the inboxes of both.
pub fn chat(from: &str, from_seq: u64, to: &str, to_seq: u64, conversation_seq: u64) -> Record {
    let key = StreamKey::conversation(&uid(from), &uid(to));
    let body = Body { from: from.into(), to: to.into(), ..body(5000 + conversation_seq, 5000, "psst") };
    let places = smallvec![
        Place { stream: key, epoch: EPOCH, seq: Seq(conversation_seq) },
        place(&format!("u:{from}"), EPOCH, from_seq),
        place(&format!("u:{to}"), EPOCH, to_seq),
    ];
    Record::Append(Append { body: Arc::new(body), places, dedup: None, membership: None })
}

/// A group begins; `gid` is the bare name.
pub fn group_begins(gid: &str, epoch: Epoch, open: bool, ts: i64) -> Record {
    Record::Group(group_change(gid, epoch, open, ts))
}

pub fn begin_group(gid: &str) -> Record {
    group_begins(gid, EPOCH, false, 1)
}

pub fn end_group(gid: &str, epoch: Epoch, ts: i64) -> Record {
    Record::Group(GroupChange { dismissed: true, ..group_change(gid, epoch, false, ts) })
}

pub fn dismiss_group(gid: &str) -> Record {
    end_group(gid, EPOCH, 9000)
}

fn group_change(gid: &str, epoch: Epoch, open: bool, ts: i64) -> GroupChange {
    GroupChange {
        gid: gid.parse().expect("a valid gid"),
        epoch,
        open,
        name: "A group".into(),
        creator: "alice".into(),
        ts: Timestamp(ts),
        dismissed: false,
    }
}

/// The `system_group` message by which a user becomes a member.
pub fn join(gid: &str, seq: u64, who: &str, role: Role) -> Record {
    membership(gid, EPOCH, seq, who, Some(role), LeaveReason::Left)
}

pub fn leave(gid: &str, seq: u64, who: &str) -> Record {
    membership(gid, EPOCH, seq, who, None, LeaveReason::Removed)
}

pub fn membership(gid: &str, epoch: Epoch, seq: u64, who: &str, role: Option<Role>, reason: LeaveReason) -> Record {
    let mut append = append(&format!("g:{gid}"), epoch, seq);
    append.membership = Some(MembershipChange { gid: gid.parse().expect("a valid gid"), uid: uid(who), role, reason });
    Record::Append(append)
}

pub fn mark(who: &str, device: &str, name: &str, seq: u64, ts: i64) -> Mark {
    Mark { uid: uid(who), device: device.into(), stream: stream(name), epoch: EPOCH, seq: Seq(seq), ts: Timestamp(ts) }
}
