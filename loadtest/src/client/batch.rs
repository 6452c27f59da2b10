//! What a frame with messages says, checked once for all clients that receive the same bytes.

use std::sync::Arc;

use prost::Message as _;
use tidegate_proto::v1::{self, Message, ServerFrame, ok, server_frame};

use super::epochs::{EpochNo, Epochs};
use crate::judge::{Evidence, Seen};
use crate::payload::{self, Stamp};
use crate::population::{Population, StreamNo};

/// The protocol's bound for seqs.
const SEQ_MAX: u64 = 1 << 53;

/// One message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    pub seq: u64,
    pub id: u64,
    pub stamp: Stamp,
    pub state: ItemState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemState {
    /// Whole, and the same that others were shown under this seq.
    Good,
    /// Whole, but others were shown something else under this seq.
    Odd,
    /// Its content, type or id is none that was published.
    Broken,
    /// Its seq is not in the range of its frame.
    OutOfRange,
}

/// The answer to a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub request: u32,
    pub next_after: u64,
    pub head: u64,
}

/// Messages of one stream with the range `(after, upto]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// `None`: no stream of this run; then it has a `name`.
    pub stream: Option<StreamNo>,
    pub name: Box<str>,
    pub epoch: EpochNo,
    pub after: u64,
    pub upto: u64,
    pub items: Box<[Item]>,
    /// All of the range is there, rising, and good.
    pub plain: bool,
    pub page: Option<Page>,
}

/// A decoded frame.
#[derive(Debug)]
pub enum Decoded {
    Batch(Arc<Batch>),
    /// Any other.
    Other(Box<ServerFrame>),
}

/// What decoding needs to know and adds to.
#[derive(Debug)]
pub struct Decoder<'a> {
    pub population: &'a Population,
    pub epochs: &'a mut Epochs,
    pub evidence: &'a mut Evidence,
    pub loads: usize,
}

impl Decoder<'_> {
    pub fn decode(&mut self, payload: &[u8]) -> Result<Decoded, prost::DecodeError> {
        let frame = ServerFrame::decode(payload)?;
        Ok(match frame.body {
            Some(server_frame::Body::Batch(v1::Batch {
                stream,
                epoch,
                after: Some(after),
                upto: Some(upto),
                messages,
            })) => Decoded::Batch(Arc::new(self.batch(&stream, &epoch, (after, upto), &messages, None))),
            Some(server_frame::Body::Ok(v1::Ok { result: Some(ok::Result::Pull(page)) })) => {
                let range = (page.after, page.upto);
                let answer = Page { request: frame.id, next_after: page.next_after, head: page.head };
                Decoded::Batch(Arc::new(self.batch(&page.stream, &page.epoch, range, &page.messages, Some(answer))))
            }
            _ => Decoded::Other(Box::new(frame)),
        })
    }

    fn batch(&mut self, name: &str, epoch: &str, range: (u64, u64), messages: &[Message], page: Option<Page>) -> Batch {
        let (after, upto) = range;
        let stream = self.population.find(name);
        let items: Box<[Item]> = messages.iter().map(|message| self.item(stream, range, message)).collect();
        let whole = items.len() as u64 == upto.wrapping_sub(after)
            && (after + 1..).zip(items.iter()).all(|(seq, item)| item.seq == seq && item.state == ItemState::Good);
        let epoch = self.epochs.number(epoch);
        let name = if stream.is_some() { "" } else { name };
        Batch { stream, name: name.into(), epoch, after, upto, items, plain: whole && page.is_none(), page }
    }

    fn item(&mut self, stream: Option<StreamNo>, (after, upto): (u64, u64), message: &Message) -> Item {
        let seq = message.seq;
        let stamp = payload::verify(&message.content).filter(|stamp| usize::from(stamp.load) < self.loads);
        let id = message.id.parse().ok();
        let mut item = Item {
            seq,
            id: id.unwrap_or(0),
            stamp: stamp.unwrap_or(Stamp { load: 0, number: 0, intended_us: 0 }),
            state: ItemState::Good,
        };
        item.state = match stream {
            _ if seq <= after || seq > upto || seq > SEQ_MAX => ItemState::OutOfRange,
            _ if id.is_none() || stamp.is_none() || message.r#type != payload::TYPE => ItemState::Broken,
            Some(stream) => match self.evidence.record(stream, seq, Seen { id: item.id, stamp: item.stamp }) {
                true => ItemState::Good,
                false => ItemState::Odd,
            },
            None => ItemState::Good,
        };
        item
    }
}
