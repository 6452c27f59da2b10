//! Wire items of the link ↔ the core's values. Everything from control is checked here: the core never sees an invalid
//! name, range or seq, and a peer that sends one is cut off, not obeyed.

use std::sync::Arc;

use prost::Message as _;
use smallvec::SmallVec;
use tidegate_gateway_core::client::errors::ErrorCode;
use tidegate_gateway_core::client::ops::{Content, Priority, Send};
use tidegate_gateway_core::ids::{Epoch, Seq, SeqRange, StreamKey, Uid};
use tidegate_gateway_core::link::{
    Deliver, FromLink, Head, LinkError, LinkOk, LinkOp, Message, OpenStream, Opened, OpenedStream, PartitionId,
    Partitions, Position, Pulled, Recovered, ToLink,
};
use tidegate_proto::v1::{self, link_down_item, link_reply, link_request, link_up_item};

use crate::platforms::PlatformTable;

/// Longest epoch in bytes.
const EPOCH_BYTES_MAX: usize = 64;
/// Streams in one interest item; a longer announcement becomes several.
pub const INTEREST_STREAMS_MAX: usize = 2048;

/// What makes an item from control invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidItem {
    #[error("an item without content")]
    Empty,
    #[error("a stream key or uid that is none")]
    Name,
    #[error("an epoch that is empty or too long")]
    Epoch,
    #[error("a seq or range that cannot be")]
    Seq,
    #[error("a second attachment notice")]
    AttachedTwice,
    #[error("the first item is not the attachment notice")]
    NotAttached,
    #[error("a number of partitions that cannot be")]
    Partitions,
    #[error("something of another partition")]
    Elsewhere,
}

/// Whose attachment items come on, among how many.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub partition: PartitionId,
    pub partitions: Partitions,
}

impl Place {
    fn position(self, cursor: &v1::LinkCursor) -> Result<Position, InvalidItem> {
        self.at(cursor.partition, cursor.owner_epoch, cursor.lsn)
    }

    fn at(self, partition: u32, owner_epoch: u64, lsn: u64) -> Result<Position, InvalidItem> {
        match PartitionId(partition) == self.partition {
            true => Ok(Position { partition: self.partition, owner_epoch, lsn }),
            false => Err(InvalidItem::Elsewhere),
        }
    }

    /// A stream of this partition. If control's hash were another than ours, streams would be asked for where they are not.
    fn stream(self, text: &str) -> Result<StreamKey, InvalidItem> {
        let stream = stream(text)?;
        match self.partitions.of(stream.as_str()) == self.partition {
            true => Ok(stream),
            false => Err(InvalidItem::Elsewhere),
        }
    }
}

/// What the first item down says: how many partitions there are, and whose log is behind it.
pub fn attached(
    first: Option<v1::LinkDownItem>,
    partition: PartitionId,
) -> Result<(Partitions, Option<u64>), InvalidItem> {
    let Some(link_down_item::Item::Attached(attached)) = first.and_then(|item| item.item) else {
        return Err(InvalidItem::NotAttached);
    };
    let partitions = Partitions::new(attached.partitions).ok_or(InvalidItem::Partitions)?;
    if partition.0 >= partitions.count() {
        return Err(InvalidItem::Partitions);
    }
    let history = attached.histories.iter().find(|log| log.partition == partition.0);
    Ok((partitions, history.map(|log| log.history)))
}

/// One item down, in the core's values; a position item may become several.
pub fn from_wire(
    item: v1::LinkDownItem,
    place: Place,
    platforms: &PlatformTable,
    out: &mut Vec<FromLink>,
) -> Result<(), InvalidItem> {
    use link_down_item::Item;
    out.push(match item.item.ok_or(InvalidItem::Empty)? {
        Item::Deliver(deliver) => FromLink::Deliver(self::deliver(deliver, place, platforms)?),
        Item::Position(list) => {
            let positions = list.positions.iter().map(|cursor| place.position(cursor).map(FromLink::Position));
            out.extend(positions.collect::<Result<Vec<_>, _>>()?);
            return Ok(());
        }
        Item::Reset(reset) => FromLink::Reset(place.position(&reset.position.ok_or(InvalidItem::Empty)?)?),
        Item::Opened(opened) => FromLink::Opened(self::opened(opened, place, platforms)?),
        Item::OpenEnd(end) => FromLink::OpenEnd { corr: end.corr },
        Item::Reply(reply) => self::reply(reply, platforms)?,
        Item::Membership(membership) => self::membership(membership, place)?,
        Item::Attached(_) => return Err(InvalidItem::AttachedTwice),
        Item::Also(also) => {
            let streams = also.streams.iter().map(|text| stream(text)).collect::<Result<_, _>>()?;
            FromLink::Also { corr: also.corr, streams }
        }
    });
    Ok(())
}

/// One value up. `Announce` may become many items.
pub fn to_wire(value: ToLink, out: &mut Vec<v1::LinkUpItem>) {
    use link_up_item::Item;
    let item = match value {
        ToLink::Open { corr, uid, device, streams, auto_join } => Item::Open(v1::LinkOpen {
            corr,
            uid: uid.to_string(),
            device: device.into(),
            streams: streams.into_iter().map(open_stream).collect(),
            auto_join,
        }),
        ToLink::Request { corr, uid, device, op } => Item::Request(v1::LinkRequest {
            corr,
            uid: uid.map(|uid| uid.to_string()).unwrap_or_default(),
            device: device.into(),
            op: Some(request_op(op)),
        }),
        ToLink::Forget { stream } => {
            if let Some(v1::LinkUpItem { item: Some(Item::Interest(last)) }) = out.last_mut()
                && last.add.is_empty()
                && last.remove.len() < INTEREST_STREAMS_MAX
            {
                last.remove.push(stream.to_string());
                return;
            }
            Item::Interest(v1::LinkInterest { add: Vec::new(), remove: vec![stream.to_string()] })
        }
        ToLink::Announce { streams, position } => {
            for chunk in streams.chunks(INTEREST_STREAMS_MAX) {
                let add = chunk.iter().map(StreamKey::to_string).collect();
                let interest = v1::LinkInterest { add, remove: Vec::new() };
                out.push(v1::LinkUpItem { item: Some(Item::Interest(interest)) });
            }
            Item::InterestEnd(v1::LinkInterestEnd { cursors: position.iter().map(cursor).collect() })
        }
        ToLink::Online { uid, device, platform, connection_id } => {
            let connection = connection(&uid, device.into(), platform.into(), connection_id.into());
            Item::Presence(v1::LinkPresence { online: vec![connection], offline: Vec::new() })
        }
        ToLink::Offline { uid, connection_id } => {
            let connection = connection(&uid, String::new(), String::new(), connection_id.into());
            Item::Presence(v1::LinkPresence { online: Vec::new(), offline: vec![connection] })
        }
        ToLink::Credit { bytes } => Item::Credit(v1::LinkCredit { bytes }),
    };
    out.push(v1::LinkUpItem { item: Some(item) });
}

fn deliver(wire: v1::LinkDeliver, at: Place, platforms: &PlatformTable) -> Result<Deliver, InvalidItem> {
    let bytes = u32::try_from(wire.encoded_len()).unwrap_or(u32::MAX);
    let range = match (wire.after, wire.upto) {
        (Some(after), Some(upto)) => Some(range(after, upto)?),
        (None, None) => None,
        _ => return Err(InvalidItem::Seq),
    };
    let messages = messages(wire.messages, range, platforms)?;
    Ok(Deliver {
        position: at.at(wire.partition, wire.owner_epoch, wire.lsn)?,
        stream: at.stream(&wire.stream)?,
        epoch: epoch(wire.epoch)?,
        range,
        messages,
        bytes,
    })
}

fn opened(wire: v1::LinkOpened, at: Place, platforms: &PlatformTable) -> Result<Opened, InvalidItem> {
    let corr = wire.corr;
    let stream = at.stream(&wire.stream)?;
    if let Some(error) = wire.error {
        return Ok(Opened { corr, stream, result: Err(link_error(error)?) });
    }
    let (start, head) = (seq(wire.start)?, seq(wire.head)?);
    let page = if wire.page {
        let covered = range(start.0, head.0)?;
        Some(messages(wire.messages, Some(covered), platforms)?)
    } else {
        None
    };
    let recovered = match v1::Recovered::try_from(wire.recovered) {
        Ok(v1::Recovered::Partial) => Recovered::Partial,
        Ok(v1::Recovered::Expired) => Recovered::Expired,
        _ => Recovered::Full,
    };
    let result = OpenedStream {
        epoch: epoch(wire.epoch)?,
        head,
        first: seq(wire.first)?,
        start,
        recovered,
        page,
        open_group: wire.open_group,
        listed: wire.listed,
    };
    Ok(Opened { corr, stream, result: Ok(result) })
}

fn reply(wire: v1::LinkReply, platforms: &PlatformTable) -> Result<FromLink, InvalidItem> {
    let corr = wire.corr;
    if let Some(error) = wire.error {
        return Ok(FromLink::Reply { corr, result: Err(link_error(error)?) });
    }
    let ok = match wire.ok.ok_or(InvalidItem::Empty)? {
        link_reply::Ok::Sent(sent) => LinkOk::Sent {
            stream: stream(&sent.stream)?,
            epoch: epoch(sent.epoch)?,
            seq: sent.seq.map(seq).transpose()?,
            message_id: sent.message_id.into(),
            duplicate: sent.duplicate,
        },
        link_reply::Ok::Pulled(pulled) => {
            let range = range(pulled.after, pulled.upto)?;
            LinkOk::Pulled(Pulled {
                stream: stream(&pulled.stream)?,
                epoch: epoch(pulled.epoch)?,
                range,
                messages: messages(pulled.messages, Some(range), platforms)?,
                head: seq(pulled.head)?,
                first: seq(pulled.first)?,
            })
        }
        link_reply::Ok::Heads(list) => {
            LinkOk::Heads(list.streams.into_iter().map(stream_head).collect::<Result<_, _>>()?)
        }
        link_reply::Ok::Done(_) => LinkOk::Done,
    };
    Ok(FromLink::Reply { corr, result: Ok(ok) })
}

fn stream_head(wire: v1::LinkHead) -> Result<(StreamKey, Result<Head, LinkError>), InvalidItem> {
    let stream = stream(&wire.stream)?;
    if let Some(error) = wire.error {
        return Ok((stream, Err(link_error(error)?)));
    }
    let head = Head { epoch: epoch(wire.epoch)?, head: seq(wire.head)?, first: seq(wire.first)? };
    Ok((stream, Ok(head)))
}

fn membership(wire: v1::LinkMembership, at: Place) -> Result<FromLink, InvalidItem> {
    Ok(FromLink::Membership {
        uid: wire.uid.parse().map_err(|_| InvalidItem::Name)?,
        stream: stream(&wire.stream)?,
        epoch: epoch(wire.epoch)?,
        seq: seq(wire.seq)?,
        joined: wire.joined,
        reason: wire.reason.into(),
        position: at.at(wire.partition, wire.owner_epoch, wire.lsn)?,
    })
}

/// Messages of a stream: ascending seqs inside the range, or none of them with a seq.
fn messages(
    wire: Vec<v1::LinkMessage>,
    range: Option<SeqRange>,
    platforms: &PlatformTable,
) -> Result<Vec<Message>, InvalidItem> {
    let mut last = range.map_or(Seq::ZERO, |range| range.after);
    let mut messages = Vec::with_capacity(wire.len());
    for item in wire {
        let body = item.message.ok_or(InvalidItem::Empty)?;
        let seq = seq(body.seq)?;
        let in_place = match range {
            Some(range) => last < seq && seq <= range.upto,
            None => seq == Seq::ZERO,
        };
        if !in_place {
            return Err(InvalidItem::Seq);
        }
        last = seq;
        let platforms: SmallVec<_> = item.platforms.iter().map(|name| platforms.intern(name)).collect();
        messages.push(Message { seq, body: Arc::new(body), platforms });
    }
    Ok(messages)
}

fn link_error(wire: v1::LinkError) -> Result<LinkError, InvalidItem> {
    let stands = match (wire.head, wire.first) {
        (Some(head), Some(first)) if !wire.epoch.is_empty() => {
            Some(Head { epoch: epoch(wire.epoch)?, head: seq(head)?, first: seq(first)? })
        }
        _ => None,
    };
    Ok(LinkError {
        code: ErrorCode::parse(&wire.code).unwrap_or(ErrorCode::Internal),
        message: wire.message.into(),
        retry_after_ms: wire.retry_after_ms,
        stands,
    })
}

fn request_op(op: LinkOp) -> link_request::Op {
    let text = |epoch: Option<Epoch>| epoch.map(|epoch| epoch.to_string()).unwrap_or_default();
    let mark = |stream: StreamKey, epoch, seq: Seq| v1::LinkMark {
        stream: stream.to_string(),
        epoch: text(epoch),
        seq: seq.0,
    };
    match op {
        LinkOp::Send(send) => link_request::Op::Send(send_op(*send)),
        LinkOp::Ack { stream, epoch, seq } => link_request::Op::Ack(mark(stream, epoch, seq)),
        LinkOp::Read { stream, epoch, seq } => link_request::Op::Read(mark(stream, epoch, seq)),
        LinkOp::Pull { stream, epoch, after, since_ts, limit } => link_request::Op::Pull(v1::LinkPull {
            stream: stream.to_string(),
            epoch: text(epoch),
            after: after.0,
            limit,
            since_ts,
        }),
        LinkOp::Heads { streams } => {
            link_request::Op::Heads(v1::LinkHeads { streams: streams.iter().map(StreamKey::to_string).collect() })
        }
    }
}

fn send_op(send: Send) -> v1::LinkSend {
    let (content, content_bytes) = match send.content {
        Content::Text(text) => (text.into(), bytes::Bytes::new()),
        Content::Binary(bytes) => (String::new(), bytes),
    };
    let class = if send.ephemeral { v1::MessageClass::Ephemeral } else { v1::MessageClass::Durable };
    let priority = match send.priority {
        None => v1::Priority::Unspecified,
        Some(Priority::High) => v1::Priority::High,
        Some(Priority::Normal) => v1::Priority::Normal,
        Some(Priority::Low) => v1::Priority::Low,
    };
    v1::LinkSend {
        to: send.to.to_string(),
        client_msg_id: send.client_msg_id.into(),
        r#type: send.kind.into(),
        content,
        content_bytes,
        metadata: send.metadata.into(),
        class: class.into(),
        priority: priority.into(),
    }
}

fn open_stream(open: OpenStream) -> v1::LinkOpenStream {
    let (epoch, after) = match open.cursor {
        Some((epoch, seq)) => (epoch.to_string(), Some(seq.0)),
        None => (String::new(), None),
    };
    v1::LinkOpenStream { stream: open.stream.to_string(), after, epoch, auto: open.auto }
}

fn connection(uid: &Uid, device: String, platform: String, connection_id: String) -> v1::LinkConnection {
    v1::LinkConnection { uid: uid.to_string(), device, platform, connection_id }
}

fn cursor(position: &Position) -> v1::LinkCursor {
    v1::LinkCursor { partition: position.partition.0, owner_epoch: position.owner_epoch, lsn: position.lsn }
}

fn stream(text: &str) -> Result<StreamKey, InvalidItem> {
    text.parse().map_err(|_| InvalidItem::Name)
}

fn epoch(text: String) -> Result<Epoch, InvalidItem> {
    if text.is_empty() || text.len() > EPOCH_BYTES_MAX {
        return Err(InvalidItem::Epoch);
    }
    Ok(Epoch::from(text))
}

fn seq(number: u64) -> Result<Seq, InvalidItem> {
    if number > Seq::MAX.0 { Err(InvalidItem::Seq) } else { Ok(Seq(number)) }
}

fn range(after: u64, upto: u64) -> Result<SeqRange, InvalidItem> {
    let (after, upto) = (seq(after)?, seq(upto)?);
    if after > upto { Err(InvalidItem::Seq) } else { Ok(SeqRange { after, upto }) }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
