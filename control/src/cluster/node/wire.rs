//! Commands and answers between nodes: `node.proto` ↔ the partition's words.

use std::str::FromStr;
use std::sync::Arc;

use smallvec::SmallVec;
use tidegate_control_core::domain::{
    Append, Content, Epoch, ErrorCode, Gid, MessageId, PartitionId, Priority, Record, Refusal, Seq, StreamKey,
    Timestamp, Uid,
};
use tidegate_control_core::partition::{Command, Errand, Push, Reply};
use tidegate_control_core::ports::{Group, Head, Page, Stored};
use tidegate_proto::v1::{self, node_answer, node_ask};

use crate::adapters::embedded::codec;
use crate::link::convert::priority_in;
use crate::runtime::Answer;

/// What another node sent makes no sense: written by a newer version, or a defect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadWire {
    #[error("no {0}")]
    Missing(&'static str),
    #[error("an invalid {0}")]
    Invalid(&'static str),
    #[error("a record that cannot be decoded")]
    Record(#[from] codec::CodecError),
}

pub(crate) fn ask(corr: u64, partition: PartitionId, command: Command) -> v1::NodeAsk {
    use node_ask::Command as Wire;
    let by = |by: Option<Uid>| by.map(|uid| uid.to_string()).unwrap_or_default();
    let command = match command {
        Command::Push(push) => Wire::Push(push_out(*push)),
        Command::CreateGroup { gid, name, open, creator, members } => Wire::CreateGroup(v1::NodeCreateGroup {
            gid: gid.to_string(),
            name: name.into(),
            open,
            creator: by(creator),
            members: members.iter().map(Uid::to_string).collect(),
        }),
        Command::AddMember { gid, uid, by: who } => {
            Wire::AddMember(v1::NodeMember { gid: gid.to_string(), uid: uid.to_string(), by: by(who) })
        }
        Command::RemoveMember { gid, uid, by: who } => {
            Wire::RemoveMember(v1::NodeMember { gid: gid.to_string(), uid: uid.to_string(), by: by(who) })
        }
        Command::DismissGroup { gid, by: who } => {
            Wire::DismissGroup(v1::NodeMember { gid: gid.to_string(), uid: String::new(), by: by(who) })
        }
        Command::Ack { uid, device, stream, epoch, seq } => Wire::Ack(mark(&uid, device, &stream, epoch, seq)),
        Command::Read { uid, stream, epoch, seq } => Wire::Read(mark(&uid, "".into(), &stream, epoch, seq)),
        Command::Pull { uid, stream, epoch, after, since_ts, limit } => Wire::Pull(v1::NodePull {
            uid: by(uid),
            stream: stream.to_string(),
            epoch: epoch.map(|epoch| epoch.0),
            after: after.0,
            since_ts,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        }),
        Command::Heads { uid, streams } => {
            Wire::Heads(v1::NodeHeads { uid: by(uid), streams: streams.iter().map(StreamKey::to_string).collect() })
        }
        Command::Errands(errands) => {
            Wire::Errands(v1::NodeErrands { errands: errands.iter().map(errand_out).collect() })
        }
    };
    v1::NodeAsk { corr, partition: partition.0, command: Some(command) }
}

pub(crate) fn asked(ask: v1::NodeAsk) -> Result<(u64, PartitionId, Command), BadWire> {
    use node_ask::Command as Wire;
    let command = match ask.command.ok_or(BadWire::Missing("command"))? {
        Wire::Push(push) => Command::Push(Box::new(push_in(push)?)),
        Wire::CreateGroup(create) => Command::CreateGroup {
            gid: name(&create.gid, "gid")?,
            name: create.name.into(),
            open: create.open,
            creator: maybe(&create.creator, "creator")?,
            members: create.members.iter().map(|uid| name(uid, "member")).collect::<Result<_, _>>()?,
        },
        Wire::AddMember(m) => {
            Command::AddMember { gid: name(&m.gid, "gid")?, uid: name(&m.uid, "uid")?, by: maybe(&m.by, "by")? }
        }
        Wire::RemoveMember(m) => {
            Command::RemoveMember { gid: name(&m.gid, "gid")?, uid: name(&m.uid, "uid")?, by: maybe(&m.by, "by")? }
        }
        Wire::DismissGroup(m) => Command::DismissGroup { gid: name(&m.gid, "gid")?, by: maybe(&m.by, "by")? },
        Wire::Ack(mark) => Command::Ack {
            uid: name(&mark.uid, "uid")?,
            device: mark.device.into(),
            stream: name(&mark.stream, "stream")?,
            epoch: mark.epoch.map(Epoch),
            seq: Seq(mark.seq),
        },
        Wire::Read(mark) => Command::Read {
            uid: name(&mark.uid, "uid")?,
            stream: name(&mark.stream, "stream")?,
            epoch: mark.epoch.map(Epoch),
            seq: Seq(mark.seq),
        },
        Wire::Pull(pull) => Command::Pull {
            uid: maybe(&pull.uid, "uid")?,
            stream: name(&pull.stream, "stream")?,
            epoch: pull.epoch.map(Epoch),
            after: Seq(pull.after),
            since_ts: pull.since_ts,
            limit: pull.limit as usize,
        },
        Wire::Heads(heads) => Command::Heads {
            uid: maybe(&heads.uid, "uid")?,
            streams: heads.streams.iter().map(|stream| name(stream, "stream")).collect::<Result<_, _>>()?,
        },
        Wire::Errands(run) => Command::Errands(run.errands.iter().map(errand_in).collect::<Result<_, _>>()?),
        // No command: answered without the partition.
        Wire::Online(_) | Wire::Refused(_) => return Err(BadWire::Invalid("command")),
    };
    Ok((ask.corr, PartitionId(ask.partition), command))
}

fn mark(uid: &Uid, device: Box<str>, stream: &StreamKey, epoch: Option<Epoch>, seq: Seq) -> v1::NodeMark {
    let (uid, stream, epoch) = (uid.to_string(), stream.to_string(), epoch.map(|epoch| epoch.0));
    v1::NodeMark { uid, device: device.into(), stream, epoch, seq: seq.0 }
}

fn push_out(push: Push) -> v1::NodePush {
    let (content, binary) = match push.content {
        Content::Text(text) => (text.into_boxed_bytes().into_vec().into(), false),
        Content::Binary(bytes) => (bytes, true),
    };
    v1::NodePush {
        id: push.id.map_or(0, |id| id.0),
        to: push.to.to_string(),
        sender: push.sender.map(|uid| uid.to_string()).unwrap_or_default(),
        from: push.from.into(),
        client_msg_id: push.client_msg_id.into(),
        message_id: push.message_id.map(String::from).unwrap_or_default(),
        r#type: push.kind.into(),
        title: push.title.into(),
        content,
        binary,
        metadata: push.metadata.into(),
        ephemeral: push.ephemeral,
        priority: match push.priority {
            Priority::High => v1::Priority::High,
            Priority::Normal => v1::Priority::Normal,
            Priority::Low => v1::Priority::Low,
        } as i32,
        ttl_s: push.ttl_s,
        platforms: push.platforms.into_iter().map(String::from).collect(),
    }
}

fn push_in(push: v1::NodePush) -> Result<Push, BadWire> {
    let content = if push.binary {
        Content::Binary(push.content)
    } else {
        let text = String::from_utf8(push.content.into()).map_err(|_| BadWire::Invalid("content"))?;
        Content::Text(text.into())
    };
    Ok(Push {
        id: (push.id != 0).then_some(MessageId(push.id)),
        to: name(&push.to, "target")?,
        sender: maybe(&push.sender, "sender")?,
        from: push.from.into(),
        client_msg_id: push.client_msg_id.into(),
        message_id: (!push.message_id.is_empty()).then(|| push.message_id.into()),
        kind: push.r#type.into(),
        title: push.title.into(),
        content,
        metadata: push.metadata.into(),
        ephemeral: push.ephemeral,
        priority: priority_in(push.priority),
        ttl_s: push.ttl_s,
        platforms: push.platforms.into_iter().map(Into::into).collect::<SmallVec<_>>(),
        ack_durable: false,
    })
}

fn errand_out(errand: &Errand) -> v1::NodeErrand {
    let mut record = Vec::new();
    let inbox = match errand {
        Errand::Entry { inbox, place, body } => {
            let places = SmallVec::from_iter([place.clone()]);
            let append = Append { body: Arc::clone(body), places, dedup: None, membership: None };
            codec::encode(&Record::Append(append), &mut record);
            inbox.to_string()
        }
        Errand::Joined(joined) => {
            codec::encode(&Record::Joined(joined.clone()), &mut record);
            String::new()
        }
    };
    v1::NodeErrand { inbox, record: record.into() }
}

fn errand_in(errand: &v1::NodeErrand) -> Result<Errand, BadWire> {
    match codec::decode(&errand.record)? {
        Record::Joined(joined) => Ok(Errand::Joined(joined)),
        Record::Append(append) => {
            let place = append.places.into_iter().next().ok_or(BadWire::Missing("place"))?;
            Ok(Errand::Entry { inbox: name(&errand.inbox, "inbox")?, place, body: append.body })
        }
        _ => Err(BadWire::Invalid("errand")),
    }
}

pub(crate) fn answer(corr: u64, answer: Answer) -> v1::NodeAnswer {
    use node_answer::Ok as Wire;
    let ok = match answer {
        Err(refusal) => {
            return v1::NodeAnswer { corr, error: Some(crate::link::convert::full_error(&refusal)), ok: None };
        }
        Ok(Reply::Pushed { stream, epoch, seq, id, duplicate, online }) => {
            Wire::Pushed(pushed_out(&stream, epoch, seq, id, duplicate, online))
        }
        // No partition says so.
        Ok(Reply::Queued { .. }) => Wire::Done(v1::NodeDone { seq: None }),
        Ok(Reply::Group(group)) => Wire::Group(v1::NodeGroup {
            gid: group.gid.to_string(),
            epoch: group.epoch.0,
            open: group.open,
            name: group.name.into(),
            creator: group.creator.into(),
            created: group.created.0,
            dismissed: group.dismissed,
        }),
        Ok(Reply::Done { seq }) => Wire::Done(v1::NodeDone { seq: seq.map(|seq| seq.0) }),
        Ok(Reply::Page { stream, page, head }) => Wire::Page(v1::NodePage {
            stream: stream.to_string(),
            epoch: head.epoch.0,
            head: head.head.0,
            first: head.first.0,
            after: page.after.0,
            upto: page.upto.0,
            messages: page.messages.into_iter().map(|stored| stored_out(&stream, head.epoch, stored)).collect(),
        }),
        Ok(Reply::Heads(heads)) => Wire::Heads(crate::link::convert::heads(heads)),
    };
    v1::NodeAnswer { corr, error: None, ok: Some(ok) }
}

pub(crate) fn answered(answer: v1::NodeAnswer) -> Result<(u64, Answer), BadWire> {
    use node_answer::Ok as Wire;
    if let Some(error) = &answer.error {
        return Ok((answer.corr, Err(refusal(error))));
    }
    let reply = match answer.ok.ok_or(BadWire::Missing("answer"))? {
        Wire::Pushed(pushed) => pushed_in(&pushed)?,
        Wire::Group(group) => Reply::Group(Group {
            gid: name::<Gid>(&group.gid, "gid")?,
            epoch: Epoch(group.epoch),
            open: group.open,
            name: group.name.into(),
            creator: group.creator.into(),
            created: Timestamp(group.created),
            dismissed: group.dismissed,
        }),
        Wire::Done(done) => Reply::Done { seq: done.seq.map(Seq) },
        Wire::Page(page) => page_in(page)?,
        Wire::Heads(heads) => Reply::Heads(heads.streams.iter().map(head_in).collect::<Result<_, _>>()?),
        Wire::Online(_) | Wire::Heard(_) => return Err(BadWire::Invalid("answer")),
    };
    Ok((answer.corr, Ok(reply)))
}

/// What became of a message that came by the upstream topic.
pub(crate) fn result(corr: u64, answer: Answer) -> v1::NodeResult {
    match answer {
        Ok(Reply::Pushed { stream, epoch, seq, id, duplicate, online }) => {
            let pushed = pushed_out(&stream, epoch, seq, id, duplicate, online);
            v1::NodeResult { corr, error: None, pushed: Some(pushed) }
        }
        Ok(_) => v1::NodeResult { corr, error: None, pushed: None },
        Err(refusal) => v1::NodeResult { corr, error: Some(crate::link::convert::full_error(&refusal)), pushed: None },
    }
}

pub(crate) fn resulted(result: &v1::NodeResult) -> Result<Answer, BadWire> {
    match (&result.error, &result.pushed) {
        (Some(error), _) => Ok(Err(refusal(error))),
        (None, Some(pushed)) => Ok(Ok(pushed_in(pushed)?)),
        (None, None) => Err(BadWire::Missing("result")),
    }
}

fn pushed_out(
    stream: &StreamKey,
    epoch: Epoch,
    seq: Option<Seq>,
    id: MessageId,
    duplicate: bool,
    online: Option<u32>,
) -> v1::NodePushed {
    let seq = seq.map(|seq| seq.0);
    v1::NodePushed { stream: stream.to_string(), epoch: epoch.0, seq, id: id.0, duplicate, online }
}

fn pushed_in(pushed: &v1::NodePushed) -> Result<Reply, BadWire> {
    Ok(Reply::Pushed {
        stream: name(&pushed.stream, "stream")?,
        epoch: Epoch(pushed.epoch),
        seq: pushed.seq.map(Seq),
        id: MessageId(pushed.id),
        duplicate: pushed.duplicate,
        online: pushed.online,
    })
}

fn stored_out(stream: &StreamKey, epoch: Epoch, stored: Stored) -> v1::NodeStored {
    use tidegate_control_core::domain::Place;
    // Of the conversation only its name and place are kept; its epoch is not asked of anybody.
    let conversation = stored.conversation.map(|(stream, seq)| Place { stream, epoch: Epoch(0), seq });
    let own = Place { stream: stream.clone(), epoch, seq: stored.seq };
    let places = conversation.into_iter().chain([own]).collect();
    let append = Append { body: stored.body, places, dedup: None, membership: None };
    let mut record = Vec::new();
    codec::encode(&Record::Append(append), &mut record);
    v1::NodeStored { seq: stored.seq.0, record: record.into() }
}

fn page_in(page: v1::NodePage) -> Result<Reply, BadWire> {
    let stream: StreamKey = name(&page.stream, "stream")?;
    let stored = |message: v1::NodeStored| {
        let Record::Append(append) = codec::decode(&message.record)? else { return Err(BadWire::Invalid("message")) };
        let first = append.places.first().ok_or(BadWire::Missing("place"))?;
        let conversation = (first.stream != stream).then(|| (first.stream.clone(), first.seq));
        Ok(Stored { seq: Seq(message.seq), body: append.body, conversation })
    };
    let messages = page.messages.into_iter().map(stored).collect::<Result<_, _>>()?;
    let head = Head { epoch: Epoch(page.epoch), head: Seq(page.head), first: Seq(page.first) };
    Ok(Reply::Page { page: Page { after: Seq(page.after), upto: Seq(page.upto), messages }, head, stream })
}

fn head_in(head: &v1::LinkHead) -> Result<(StreamKey, Result<Head, Refusal>), BadWire> {
    let stream = name(&head.stream, "stream")?;
    if let Some(error) = &head.error {
        return Ok((stream, Err(refusal(error))));
    }
    let epoch = name(&head.epoch, "epoch")?;
    Ok((stream, Ok(Head { epoch, head: Seq(head.head), first: Seq(head.first) })))
}

fn refusal(error: &v1::LinkError) -> Refusal {
    use tidegate_control_core::domain::errors::Stands;
    let code = ErrorCode::parse(&error.code).unwrap_or(ErrorCode::Internal);
    let mut refusal = Refusal::new(code, error.message.as_str());
    refusal.retry_after_ms = error.retry_after_ms;
    if let (Ok(epoch), Some(head), Some(first)) = (error.epoch.parse::<Epoch>(), error.head, error.first)
        && !error.epoch.is_empty()
    {
        refusal.stands = Some(Stands { epoch, head: Seq(head), first: Seq(first) });
    }
    refusal
}

fn name<T: FromStr>(text: &str, what: &'static str) -> Result<T, BadWire> {
    text.parse().map_err(|_| BadWire::Invalid(what))
}

fn maybe<T: FromStr>(text: &str, what: &'static str) -> Result<Option<T>, BadWire> {
    if text.is_empty() { Ok(None) } else { name(text, what).map(Some) }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
