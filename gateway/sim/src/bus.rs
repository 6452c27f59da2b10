//! Between the words of the hub and those of the partition, as the link's two ends convert them in production.

use std::sync::Arc;

use prost::Message as _;
use tidegate_control_core::domain as control;
use tidegate_control_core::partition::{
    Command, GatewayId, Input, LinkItem, LinkOpen, LinkOpenStream, Opened, Origin, Push, Recovered, Reply,
};
use tidegate_control_core::ports::{self, Stored};
use tidegate_gateway_core::client::errors::ErrorCode;
use tidegate_gateway_core::client::ops::{Content, Priority, Send};
use tidegate_gateway_core::ids::{Epoch, Seq, SeqRange, StreamKey, Uid};
use tidegate_gateway_core::link::{self, FromLink, LinkError, LinkOk, LinkOp, Message, PartitionId, Position, ToLink};
use tidegate_gateway_core::messages::PlatformId;
use tidegate_proto::v1;

/// Names of platforms; a number is its place here, 0 is none.
pub const PLATFORMS: [&str; 4] = ["", "mobile", "web", "pc"];
/// An epoch that no stream has: what a client named does not parse.
const FOREIGN_EPOCH: control::Epoch = control::Epoch(u64::MAX);

/// What one value of a hub means to control.
pub enum Up {
    Inputs(Vec<Input>),
    Request { corr: u64, command: Command },
    Presence,
}

pub fn up(gateway: GatewayId, origin: Origin, value: ToLink) -> Up {
    Up::Inputs(vec![match value {
        ToLink::Open { corr, uid, device, streams, auto_join } => {
            let stream = |open: link::OpenStream| LinkOpenStream {
                stream: stream_up(&open.stream),
                cursor: open.cursor.map(|(epoch, seq)| (epoch.as_str().into(), control::Seq(seq.0))),
                auto: open.auto,
            };
            let streams = streams.into_iter().map(stream).collect();
            Input::Open { gateway, open: LinkOpen { corr, uid: uid_up(&uid), device, streams, auto_join } }
        }
        ToLink::Request { corr, uid, device, op } => {
            let command = command(uid.as_ref().map(uid_up), device, op);
            return Up::Request { corr, command };
        }
        ToLink::Forget { stream } => Input::Interest { gateway, add: Vec::new(), remove: vec![stream_up(&stream)] },
        ToLink::Announce { streams, position } => {
            let add = streams.iter().map(stream_up).collect();
            let ours = position.filter(|position| position.partition.0 == origin.partition.0);
            let cursor = ours.map(|place| (control::OwnerEpoch(place.owner_epoch), control::Lsn(place.lsn)));
            let interest = Input::Interest { gateway, add, remove: Vec::new() };
            return Up::Inputs(vec![interest, Input::InterestEnd { gateway, cursor }]);
        }
        ToLink::Online { .. } | ToLink::Offline { .. } => return Up::Presence,
        ToLink::Credit { bytes } => Input::Credit { gateway, bytes },
    }])
}

fn command(uid: Option<control::Uid>, device: Box<str>, op: LinkOp) -> Command {
    let who = || uid.clone().expect("the hub names the user of a client's request");
    match op {
        LinkOp::Send(send) => Command::Push(Box::new(push(who(), *send))),
        LinkOp::Ack { stream, epoch, seq } => Command::Ack {
            uid: who(),
            device,
            stream: stream_up(&stream),
            epoch: epoch_up(epoch),
            seq: control::Seq(seq.0),
        },
        LinkOp::Read { stream, epoch, seq } => {
            Command::Read { uid: who(), stream: stream_up(&stream), epoch: epoch_up(epoch), seq: control::Seq(seq.0) }
        }
        LinkOp::Pull { stream, epoch, after, since_ts, limit } => Command::Pull {
            uid,
            stream: stream_up(&stream),
            epoch: epoch_up(epoch),
            after: control::Seq(after.0),
            since_ts,
            limit: limit as usize,
        },
        LinkOp::Heads { streams } => Command::Heads { uid, streams: streams.iter().map(stream_up).collect() },
    }
}

fn push(sender: control::Uid, send: Send) -> Push {
    Push {
        id: None,
        ack_durable: false,
        to: stream_up(&send.to),
        sender: Some(sender),
        from: Box::default(),
        client_msg_id: send.client_msg_id,
        message_id: None,
        kind: send.kind,
        title: Box::default(),
        content: match send.content {
            Content::Text(text) => control::Content::Text(text),
            Content::Binary(bytes) => control::Content::Binary(bytes),
        },
        metadata: send.metadata,
        ephemeral: send.ephemeral,
        priority: match send.priority {
            Some(Priority::High) => control::Priority::High,
            Some(Priority::Low) => control::Priority::Low,
            Some(Priority::Normal) | None => control::Priority::Normal,
        },
        ttl_s: 0,
        platforms: Default::default(),
    }
}

pub fn down(origin: Origin, item: LinkItem) -> FromLink {
    let place = |lsn: control::Lsn| Position {
        partition: PartitionId(origin.partition.0),
        owner_epoch: origin.owner_epoch.0,
        lsn: lsn.0,
    };
    match item {
        LinkItem::Deliver { lsn, stream, epoch, after, upto, messages } => {
            let range = Some(SeqRange { after: Seq(after.0), upto: Seq(upto.0) });
            deliver(place(lsn), &stream, epoch, range, messages.iter().map(message).collect())
        }
        LinkItem::Ephemeral { stream, epoch, body } => {
            let message = message(&Stored { seq: control::Seq(0), body, conversation: None });
            deliver(place(control::Lsn(0)), &stream, epoch, None, vec![message])
        }
        LinkItem::Position { lsn } => FromLink::Position(place(lsn)),
        LinkItem::Reset { lsn } => FromLink::Reset(place(lsn)),
        LinkItem::Opened(opened) => FromLink::Opened(self::opened(&opened)),
        LinkItem::OpenEnd { corr } => FromLink::OpenEnd { corr },
        LinkItem::Also(also) => {
            FromLink::Also { corr: also.corr, streams: also.streams.iter().map(stream_down).collect() }
        }
        LinkItem::Membership { lsn, uid, stream, epoch, seq, joined, reason } => FromLink::Membership {
            uid: uid_down(&uid),
            stream: stream_down(&stream),
            epoch: epoch_down(epoch),
            seq: Seq(seq.0),
            joined,
            reason: if joined { "".into() } else { reason.as_str().into() },
            position: place(lsn),
        },
    }
}

fn deliver(
    position: Position,
    stream: &control::StreamKey,
    epoch: control::Epoch,
    range: Option<SeqRange>,
    messages: Vec<Message>,
) -> FromLink {
    // What the wire form would take; control counts no more than this.
    let bodies: usize = messages.iter().map(|message| message.body.encoded_len() + 8).sum();
    let bytes = (bodies + stream.as_str().len() + 32) as u32;
    let (stream, epoch) = (stream_down(stream), epoch_down(epoch));
    FromLink::Deliver(link::Deliver { position, stream, epoch, range, messages, bytes })
}

fn opened(opened: &Opened) -> link::Opened {
    let result = match &opened.result {
        Err(refusal) => Err(error(refusal)),
        Ok(stands) => Ok(link::OpenedStream {
            epoch: epoch_down(stands.head.epoch),
            head: Seq(stands.head.head.0),
            first: Seq(stands.head.first.0),
            start: Seq(stands.start.0),
            recovered: match stands.recovered {
                Recovered::Full => link::Recovered::Full,
                Recovered::Partial => link::Recovered::Partial,
                Recovered::Expired => link::Recovered::Expired,
            },
            page: stands.page.as_ref().map(|page| page.iter().map(message).collect()),
            open_group: stands.open_group,
            listed: stands.listed,
        }),
    };
    link::Opened { corr: opened.corr, stream: stream_down(&opened.stream), result }
}

pub fn reply(corr: u64, result: Result<Reply, control::Refusal>) -> FromLink {
    let result = match result {
        Err(refusal) => Err(error(&refusal)),
        Ok(Reply::Pushed { stream, epoch, seq, id, duplicate, .. }) => Ok(LinkOk::Sent {
            stream: stream_down(&stream),
            epoch: epoch_down(epoch),
            seq: seq.map(|seq| Seq(seq.0)),
            message_id: id.to_string().into(),
            duplicate,
        }),
        Ok(Reply::Page { stream, page, head }) => {
            let head = head_down(&head);
            Ok(LinkOk::Pulled(link::Pulled {
                stream: stream_down(&stream),
                epoch: head.epoch.clone(),
                range: SeqRange { after: Seq(page.after.0), upto: Seq(page.upto.0) },
                messages: page.messages.iter().map(message).collect(),
                head: head.head,
                first: head.first,
            }))
        }
        Ok(Reply::Heads(heads)) => {
            let one = |(stream, head): (control::StreamKey, Result<ports::Head, control::Refusal>)| {
                (stream_down(&stream), head.map(|head| head_down(&head)).map_err(|refusal| error(&refusal)))
            };
            Ok(LinkOk::Heads(heads.into_iter().map(one).collect()))
        }
        Ok(Reply::Group(_) | Reply::Done { .. } | Reply::Queued { .. }) => Ok(LinkOk::Done),
    };
    FromLink::Reply { corr, result }
}

fn message(stored: &Stored) -> Message {
    let body = &stored.body;
    let (content, content_bytes) = match &body.content {
        control::Content::Text(text) => (text.to_string(), Default::default()),
        control::Content::Binary(bytes) => (String::new(), bytes.clone()),
    };
    let wire = v1::Message {
        seq: stored.seq.0,
        id: body.id.to_string(),
        from: body.from.to_string(),
        to: body.to.to_string(),
        conv: stored.conversation.as_ref().map(|(stream, _)| stream.to_string()).unwrap_or_default(),
        conv_seq: stored.conversation.as_ref().map_or(0, |(_, seq)| seq.0),
        client_msg_id: body.client_msg_id.to_string(),
        r#type: body.kind.to_string(),
        title: body.title.to_string(),
        content,
        content_bytes,
        metadata: body.metadata.to_string(),
        ts: body.ts.0,
        priority: match body.priority {
            control::Priority::High => v1::Priority::High,
            control::Priority::Normal => v1::Priority::Normal,
            control::Priority::Low => v1::Priority::Low,
        } as i32,
    };
    let platforms = body.platforms.iter().map(|name| platform(name)).collect();
    Message { seq: Seq(stored.seq.0), body: Arc::new(wire), platforms }
}

fn platform(name: &str) -> PlatformId {
    PlatformId(PLATFORMS.iter().position(|known| *known == name).unwrap_or(0) as u8)
}

fn error(refusal: &control::Refusal) -> LinkError {
    LinkError {
        code: ErrorCode::parse(refusal.code.as_str()).unwrap_or(ErrorCode::Internal),
        message: refusal.message.clone(),
        retry_after_ms: refusal.retry_after_ms,
        stands: refusal.stands.map(|stands| link::Head {
            epoch: epoch_down(stands.epoch),
            head: Seq(stands.head.0),
            first: Seq(stands.first.0),
        }),
    }
}

fn head_down(head: &ports::Head) -> link::Head {
    link::Head { epoch: epoch_down(head.epoch), head: Seq(head.head.0), first: Seq(head.first.0) }
}

fn epoch_up(epoch: Option<Epoch>) -> Option<control::Epoch> {
    epoch.map(|epoch| epoch.as_str().parse().unwrap_or(FOREIGN_EPOCH))
}

fn epoch_down(epoch: control::Epoch) -> Epoch {
    Epoch::from(epoch.to_string())
}

fn stream_up(stream: &StreamKey) -> control::StreamKey {
    stream.as_str().parse().expect("both cores know the same names")
}

fn stream_down(stream: &control::StreamKey) -> StreamKey {
    stream.as_str().parse().expect("both cores know the same names")
}

fn uid_up(uid: &Uid) -> control::Uid {
    uid.as_str().parse().expect("both cores know the same names")
}

fn uid_down(uid: &control::Uid) -> Uid {
    uid.as_str().parse().expect("both cores know the same names")
}
