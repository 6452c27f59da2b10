//! Between `link.proto` and the partition's words.

use tidegate_control_core::domain::{
    Body, Content, Epoch, ErrorCode, LeaveReason, Lsn, OwnerEpoch, Priority, Refusal, Seq, StreamKey, Uid,
};
use tidegate_control_core::partition::{
    Command, GatewayId, Input, LinkItem, LinkOpen, LinkOpenStream, Opened, OpenedStream, Origin, Push, Recovered,
    Reply, limits,
};
use tidegate_control_core::ports::Stored;
use tidegate_proto::v1::{self, link_down_item, link_reply, link_request, link_up_item};

use crate::api::error::public_message;
use crate::message::{PAGE_MESSAGES_MAX, check_content, check_metadata, text_or_binary};
use crate::runtime::{Answer, LinkOut, LinkWork};

/// Streams in one Open: member groups and cursors of one connection.
pub const OPEN_STREAMS_MAX: usize = 10_000;
/// Streams in one Heads request.
pub const HEADS_MAX: usize = 10_000;

/// An epoch that no stream has: what a client named does not parse, so it is not ours.
const FOREIGN_EPOCH: Epoch = Epoch(u64::MAX);

/// A gateway broke the protocol: its attachment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadItem {
    #[error("an item without content")]
    Empty,
    #[error("hello must be the first item, and only the first")]
    Hello,
    #[error("not a stream key")]
    Stream,
    #[error("not a uid")]
    Uid,
    #[error("corr must not be 0")]
    Corr,
    #[error("longer than the protocol allows")]
    TooLong,
}

/// What one item from a gateway means.
#[derive(Debug)]
pub(crate) enum Up {
    Work(LinkWork),
    Presence(v1::LinkPresence),
    /// A request that is refused without asking the partition.
    Refused {
        corr: u64,
        refusal: Refusal,
    },
}

/// One item after the hello.
pub(crate) fn up(gateway: GatewayId, origin: Origin, item: v1::LinkUpItem) -> Result<Up, BadItem> {
    let input = match item.item.ok_or(BadItem::Empty)? {
        link_up_item::Item::Hello(_) => return Err(BadItem::Hello),
        link_up_item::Item::Presence(presence) => return Ok(Up::Presence(presence)),
        link_up_item::Item::Request(request) => return up_request(request),
        link_up_item::Item::Credit(credit) => Input::Credit { gateway, bytes: credit.bytes },
        link_up_item::Item::Interest(interest) => {
            Input::Interest { gateway, add: streams(interest.add)?, remove: streams(interest.remove)? }
        }
        link_up_item::Item::InterestEnd(end) => {
            let ours = end.cursors.iter().find(|cursor| cursor.partition == origin.partition.0);
            let cursor = ours.map(|cursor| (OwnerEpoch(cursor.owner_epoch), Lsn(cursor.lsn)));
            Input::InterestEnd { gateway, cursor }
        }
        link_up_item::Item::Open(open) => Input::Open { gateway, open: up_open(open)? },
    };
    Ok(Up::Work(LinkWork::Input(input)))
}

fn up_open(open: v1::LinkOpen) -> Result<LinkOpen, BadItem> {
    if open.streams.len() > OPEN_STREAMS_MAX || open.device.len() > limits::DEVICE_BYTES_MAX {
        return Err(BadItem::TooLong);
    }
    let stream = |asked: v1::LinkOpenStream| {
        let stream = asked.stream.parse().map_err(|_| BadItem::Stream)?;
        let cursor = asked.after.map(|after| (asked.epoch.into(), Seq(after)));
        Ok(LinkOpenStream { stream, cursor, auto: asked.auto })
    };
    Ok(LinkOpen {
        corr: corr(open.corr)?,
        uid: open.uid.parse().map_err(|_| BadItem::Uid)?,
        device: open.device.into(),
        streams: open.streams.into_iter().map(stream).collect::<Result<_, _>>()?,
        auto_join: open.auto_join,
    })
}

fn up_request(request: v1::LinkRequest) -> Result<Up, BadItem> {
    let corr = corr(request.corr)?;
    if request.device.len() > limits::DEVICE_BYTES_MAX {
        return Err(BadItem::TooLong);
    }
    let uid: Option<Uid> = match request.uid.as_str() {
        "" => None,
        uid => Some(uid.parse().map_err(|_| BadItem::Uid)?),
    };
    let stream = |name: &str| name.parse::<StreamKey>().map_err(|_| BadItem::Stream);
    let command = match request.op.ok_or(BadItem::Empty)? {
        link_request::Op::Send(send) => match up_send(uid.ok_or(BadItem::Uid)?, send) {
            Ok(push) => Command::Push(Box::new(push)),
            Err(refusal) => return Ok(Up::Refused { corr, refusal }),
        },
        link_request::Op::Ack(mark) => Command::Ack {
            uid: uid.ok_or(BadItem::Uid)?,
            device: request.device.into(),
            stream: stream(&mark.stream)?,
            epoch: epoch(&mark.epoch),
            seq: Seq(mark.seq),
        },
        link_request::Op::Read(mark) => Command::Read {
            uid: uid.ok_or(BadItem::Uid)?,
            stream: stream(&mark.stream)?,
            epoch: epoch(&mark.epoch),
            seq: Seq(mark.seq),
        },
        link_request::Op::Pull(pull) => Command::Pull {
            uid,
            stream: stream(&pull.stream)?,
            epoch: epoch(&pull.epoch),
            after: Seq(pull.after),
            since_ts: pull.since_ts,
            limit: page_limit(pull.limit),
        },
        link_request::Op::Heads(heads) if heads.streams.len() > HEADS_MAX => return Err(BadItem::TooLong),
        link_request::Op::Heads(heads) => Command::Heads { uid, streams: streams(heads.streams)? },
    };
    Ok(Up::Work(LinkWork::Request { corr, command }))
}

/// A client's send. What the client itself can have got wrong is a refusal, not the gateway's fault.
fn up_send(sender: Uid, send: v1::LinkSend) -> Result<Push, Refusal> {
    let bad = |text: &str| Refusal::new(ErrorCode::BadRequest, text);
    let to: StreamKey = send.to.parse().map_err(|_| bad("`to` is not a stream"))?;
    if send.client_msg_id.len() > crate::message::KEY_BYTES_MAX {
        return Err(bad("`client_msg_id` is too long"));
    }
    let kind = if send.r#type.is_empty() { crate::message::KIND_DEFAULT.to_owned() } else { send.r#type };
    let ephemeral = send.class == v1::MessageClass::Ephemeral as i32;
    let priority = priority_in(send.priority);
    let content = text_or_binary(send.content, send.content_bytes).map_err(|text| bad(&text))?;
    check_content(&kind, &content, true)?;
    check_metadata(&send.metadata).map_err(|text| bad(&text))?;
    Ok(Push {
        id: None,
        ack_durable: false,
        to,
        sender: Some(sender),
        from: Box::default(),
        client_msg_id: send.client_msg_id.into(),
        message_id: None,
        kind: kind.into(),
        title: Box::default(),
        content,
        metadata: send.metadata.into(),
        ephemeral,
        priority,
        ttl_s: 0,
        platforms: Default::default(),
    })
}

/// One item to a gateway; `None`: the attachment must end.
pub(crate) fn down(origin: Origin, out: LinkOut) -> Option<v1::LinkDownItem> {
    let item = match out {
        LinkOut::Item(item) => down_item(origin, item),
        LinkOut::Reply { corr, answer } => link_down_item::Item::Reply(reply(corr, answer)),
        LinkOut::End(_) => return None,
    };
    Some(v1::LinkDownItem { item: Some(item) })
}

pub(crate) fn answered(corr: u64, answer: Answer) -> v1::LinkDownItem {
    v1::LinkDownItem { item: Some(link_down_item::Item::Reply(reply(corr, answer))) }
}

pub(crate) fn refused(corr: u64, refusal: &Refusal) -> v1::LinkDownItem {
    let reply = v1::LinkReply { corr, error: Some(error(refusal)), ok: None };
    v1::LinkDownItem { item: Some(link_down_item::Item::Reply(reply)) }
}

fn down_item(origin: Origin, item: LinkItem) -> link_down_item::Item {
    let (partition, owner_epoch) = (origin.partition.0, origin.owner_epoch.0);
    let cursor = |lsn: Lsn| v1::LinkCursor { partition, owner_epoch, lsn: lsn.0 };
    match item {
        LinkItem::Deliver { lsn, stream, epoch, after, upto, messages } => {
            link_down_item::Item::Deliver(v1::LinkDeliver {
                partition,
                owner_epoch,
                lsn: lsn.0,
                stream: stream.to_string(),
                epoch: epoch.to_string(),
                after: Some(after.0),
                upto: Some(upto.0),
                messages: messages.iter().map(link_message).collect(),
            })
        }
        LinkItem::Ephemeral { stream, epoch, body } => link_down_item::Item::Deliver(v1::LinkDeliver {
            partition,
            owner_epoch,
            lsn: 0,
            stream: stream.to_string(),
            epoch: epoch.to_string(),
            after: None,
            upto: None,
            messages: vec![shared_message(&body, Seq::ZERO, None)],
        }),
        LinkItem::Position { lsn } => link_down_item::Item::Position(v1::LinkPosition { positions: vec![cursor(lsn)] }),
        LinkItem::Reset { lsn } => link_down_item::Item::Reset(v1::LinkReset { position: Some(cursor(lsn)) }),
        LinkItem::Opened(opened) => link_down_item::Item::Opened(down_opened(&opened)),
        LinkItem::Also(also) => {
            let streams = also.streams.iter().map(StreamKey::to_string).collect();
            link_down_item::Item::Also(v1::LinkAlso { corr: also.corr, streams })
        }
        LinkItem::OpenEnd { corr } => link_down_item::Item::OpenEnd(v1::LinkOpenEnd { corr }),
        LinkItem::Membership { lsn, uid, stream, epoch, seq, joined, reason } => {
            link_down_item::Item::Membership(v1::LinkMembership {
                uid: uid.to_string(),
                stream: stream.to_string(),
                epoch: epoch.to_string(),
                seq: seq.0,
                joined,
                reason: if joined { String::new() } else { LeaveReason::as_str(reason).to_owned() },
                partition,
                owner_epoch,
                lsn: lsn.0,
            })
        }
    }
}

fn down_opened(opened: &Opened) -> v1::LinkOpened {
    let stream = opened.stream.to_string();
    match &opened.result {
        Err(refusal) => v1::LinkOpened {
            corr: opened.corr,
            stream,
            error: Some(error(refusal)),
            listed: true,
            ..Default::default()
        },
        Ok(OpenedStream { head, start, recovered, page, open_group, listed }) => v1::LinkOpened {
            corr: opened.corr,
            stream,
            error: None,
            epoch: head.epoch.to_string(),
            head: head.head.0,
            first: head.first.0,
            start: start.0,
            recovered: match recovered {
                Recovered::Full => v1::Recovered::Full,
                Recovered::Partial => v1::Recovered::Partial,
                Recovered::Expired => v1::Recovered::Expired,
            } as i32,
            page: page.is_some(),
            messages: page.iter().flatten().map(link_message).collect(),
            open_group: *open_group,
            listed: *listed,
        },
    }
}

fn reply(corr: u64, answer: Answer) -> v1::LinkReply {
    let ok = match answer {
        Err(refusal) => return v1::LinkReply { corr, error: Some(error(&refusal)), ok: None },
        Ok(Reply::Pushed { stream, epoch, seq, id, duplicate, .. }) => link_reply::Ok::Sent(v1::LinkSent {
            stream: stream.to_string(),
            epoch: epoch.to_string(),
            seq: seq.map(|seq| seq.0),
            message_id: id.to_string(),
            duplicate,
        }),
        Ok(Reply::Page { stream, page, head }) => link_reply::Ok::Pulled(v1::LinkPulled {
            stream: stream.to_string(),
            epoch: head.epoch.to_string(),
            after: page.after.0,
            upto: page.upto.0,
            messages: page.messages.iter().map(link_message).collect(),
            head: head.head.0,
            first: head.first.0,
        }),
        Ok(Reply::Heads(found)) => link_reply::Ok::Heads(heads(found)),
        // Durable, but a client wants its place: it asks again with the same key.
        Ok(Reply::Queued { .. }) => {
            return v1::LinkReply { corr, error: Some(error(&crate::runtime::late())), ok: None };
        }
        Ok(Reply::Group(_) | Reply::Done { .. }) => link_reply::Ok::Done(v1::LinkDone {}),
    };
    v1::LinkReply { corr, error: None, ok: Some(ok) }
}

pub(crate) fn heads(heads: tidegate_control_core::partition::Heads) -> v1::LinkHeadsResult {
    let head = |(stream, result): (StreamKey, Result<_, Refusal>)| link_head(&stream, result);
    v1::LinkHeadsResult { streams: heads.into_iter().map(head).collect() }
}

fn link_head(stream: &StreamKey, result: Result<tidegate_control_core::ports::Head, Refusal>) -> v1::LinkHead {
    let stream = stream.to_string();
    match result {
        Err(refusal) => v1::LinkHead { stream, error: Some(error(&refusal)), ..Default::default() },
        Ok(head) => {
            v1::LinkHead { stream, error: None, epoch: head.epoch.to_string(), head: head.head.0, first: head.first.0 }
        }
    }
}

fn link_message(stored: &Stored) -> v1::LinkMessage {
    shared_message(&stored.body, stored.seq, stored.conversation.as_ref())
}

fn shared_message(body: &Body, seq: Seq, conversation: Option<&(StreamKey, Seq)>) -> v1::LinkMessage {
    let platforms = body.platforms.iter().map(|platform| platform.to_string()).collect();
    v1::LinkMessage { message: Some(message(body, seq, conversation)), platforms }
}

/// A message as clients receive it.
pub fn message(body: &Body, seq: Seq, conversation: Option<&(StreamKey, Seq)>) -> v1::Message {
    let (content, content_bytes) = match &body.content {
        Content::Text(text) => (text.to_string(), Default::default()),
        Content::Binary(bytes) => (String::new(), bytes.clone()),
    };
    v1::Message {
        seq: seq.0,
        id: body.id.to_string(),
        from: body.from.to_string(),
        to: body.to.to_string(),
        conv: conversation.map(|(stream, _)| stream.to_string()).unwrap_or_default(),
        conv_seq: conversation.map_or(0, |(_, seq)| seq.0),
        client_msg_id: body.client_msg_id.to_string(),
        r#type: body.kind.to_string(),
        title: body.title.to_string(),
        content,
        content_bytes,
        metadata: body.metadata.to_string(),
        ts: body.ts.0,
        priority: match body.priority {
            Priority::High => v1::Priority::High,
            Priority::Normal => v1::Priority::Normal,
            Priority::Low => v1::Priority::Low,
        } as i32,
    }
}

/// With its own words, between nodes of one cluster.
pub(crate) fn full_error(refusal: &Refusal) -> v1::LinkError {
    v1::LinkError { message: refusal.message.to_string(), ..error(refusal) }
}

fn error(refusal: &Refusal) -> v1::LinkError {
    v1::LinkError {
        code: refusal.code.as_str().to_owned(),
        message: public_message(refusal).to_owned(),
        retry: refusal.code.retry(),
        retry_after_ms: refusal.retry_after_ms,
        epoch: refusal.stands.map(|stands| stands.epoch.to_string()).unwrap_or_default(),
        head: refusal.stands.map(|stands| stands.head.0),
        first: refusal.stands.map(|stands| stands.first.0),
    }
}

/// What a caller's `priority` means; unknown numbers are the default.
pub fn priority_in(priority: i32) -> Priority {
    match v1::Priority::try_from(priority) {
        Ok(v1::Priority::High) => Priority::High,
        Ok(v1::Priority::Low) => Priority::Low,
        _ => Priority::Normal,
    }
}

/// 0 asks for the most; above the most is lowered.
pub fn page_limit(asked: u32) -> usize {
    if asked == 0 { PAGE_MESSAGES_MAX } else { (asked as usize).min(PAGE_MESSAGES_MAX) }
}

/// `None`: the caller named none. One that does not parse is foreign and never matches.
pub fn epoch(text: &str) -> Option<Epoch> {
    (!text.is_empty()).then(|| text.parse().unwrap_or(FOREIGN_EPOCH))
}

fn corr(corr: u64) -> Result<u64, BadItem> {
    if corr == 0 { Err(BadItem::Corr) } else { Ok(corr) }
}

fn streams(names: Vec<String>) -> Result<Vec<StreamKey>, BadItem> {
    names.iter().map(|name| name.parse().map_err(|_| BadItem::Stream)).collect()
}

#[cfg(test)]
mod tests;
