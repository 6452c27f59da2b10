//! What a message that the fault strikes looks like on the wire.

use bytes::Bytes;
use tidegate_load::payload::{Stamp, content};
use tidegate_proto::v1::{Batch, Gap, Message, server_frame::Body};

use super::fault::Fault;
use super::sequencer::{ConnectionNo, EPOCH, Held, Sequencer, batch, change_a_byte};
use super::socket::{binary, encode};

/// Number of a message that no load of a test has.
const PHANTOM: u64 = 123_456_789;
const GAP_PULL_AFTER_MS: u32 = 30;

impl Sequencer {
    /// Instead of the live frame of this message.
    pub(super) fn wrongly(&mut self, name: &str, message: Message, audience: u64) {
        let seq = message.seq;
        let mut right = batch(name, seq - 1, seq, vec![message.clone()]);
        let stream = self.streams.entry(name.to_owned()).or_default();
        stream.sent = seq;
        let before = stream.history.get(&(seq - 1)).map(|before| before.content.clone());
        if alter(self.fault, &mut right, &before.unwrap_or_default()) {
            self.cast(name, right);
            return self.plant(name, seq, audience);
        }
        match self.fault {
            Fault::Duplicate { .. } => {
                self.cast(name, right.clone());
                self.cast(name, right);
            }
            Fault::ForeignStream { .. } => {
                self.cast(name, right.clone());
                right.stream = "g:foreign".into();
                self.cast(name, right);
            }
            Fault::ClaimsMore { more, .. } => {
                right.upto = Some(seq + more);
                self.cast(name, right);
                return (seq + 1..=seq + more).for_each(|seq| self.plant(name, seq, audience));
            }
            Fault::TextFrame { .. } | Fault::MaskedFrame { .. } => {
                let frame = forbidden(self.fault, right);
                self.followers(name).into_iter().for_each(|follower| self.send(follower, frame.clone()));
            }
            Fault::SecondPlace { .. } => {
                self.cast(name, right);
                return self.add(name, message, audience);
            }
            Fault::Phantom { .. } => {
                self.cast(name, right);
                let stamp = Stamp { load: 0, number: PHANTOM, intended_us: 1_000_000 };
                return self.add(name, Message { content: content(stamp, 100), ..message }, audience);
            }
            Fault::ReorderInFrame { .. } => {
                let held = Held::Message { after: seq - 1, message: Box::new(message) };
                self.streams.entry(name.to_owned()).or_default().held = Some(held);
            }
            Fault::Gap { .. } => self.gap(name, seq, None),
            Fault::LiveInGap { .. } => self.gap(name, seq, Some(right)),
            Fault::DropForOne { .. } | Fault::Reorder { .. } | Fault::WrongRecipient { .. } | Fault::Garbage { .. } => {
                self.for_one(name, right);
                return self.plant(name, seq, 1);
            }
            Fault::RefusedAndShown { .. } => self.cast(name, right),
            _ => return self.cast(name, right),
        }
        self.plant(name, seq, audience);
    }

    /// Wrong for one connection, right for the others.
    fn for_one(&mut self, name: &str, mut right: Batch) {
        let followers = self.followers(name);
        let Some(first) = followers.first().copied() else { return };
        let frame = encode(0, Body::Batch(right.clone()));
        match self.fault {
            Fault::DropForOne { .. } => {
                self.cast_but(name, right.clone(), Some(first));
                right.messages.clear();
                self.send(first, encode(0, Body::Batch(right)));
            }
            Fault::Reorder { .. } => {
                self.streams.entry(name.to_owned()).or_default().held = Some(Held::Frame { of: first, frame });
                self.cast_but(name, right, Some(first));
            }
            Fault::WrongRecipient { .. } => {
                let stranger: Option<ConnectionNo> =
                    self.connections.keys().copied().find(|connection| !followers.contains(connection));
                stranger.into_iter().for_each(|stranger| self.send(stranger, frame.clone()));
                self.cast(name, right);
            }
            _ => {
                self.send(first, binary(&[0xff; 16]));
                self.cast(name, right);
            }
        }
    }

    /// A message that nobody is answered, with a seq and an id of its own.
    fn add(&mut self, name: &str, message: Message, audience: u64) {
        let stream = self.streams.entry(name.to_owned()).or_default();
        stream.last += 1;
        let added = Message { seq: stream.last, id: format!("{}1", message.id), ..message };
        stream.history.insert(added.seq, added.clone());
        stream.head = added.seq;
        self.plant(name, added.seq, audience);
        self.live(name, added);
    }

    /// Tells a gap of one message, then possibly sends a batch within it.
    fn gap(&mut self, name: &str, seq: u64, within: Option<Batch>) {
        let gap = Gap {
            stream: name.to_owned(),
            epoch: EPOCH.into(),
            from: seq,
            to: seq,
            head: seq,
            pull_after_ms: GAP_PULL_AFTER_MS,
            lazy: false,
        };
        let frame = encode(0, Body::Gap(gap));
        for follower in self.followers(name) {
            self.send(follower, frame.clone());
        }
        within.into_iter().for_each(|batch| self.cast(name, batch));
        for follower in self.followers(name) {
            if let Some(connection) = self.connections.get_mut(&follower) {
                connection.in_gap.insert(name.to_owned());
            }
        }
    }
}

/// Changes the batch, if the fault is one of what a batch says.
fn alter(fault: Fault, batch: &mut Batch, content_before: &str) -> bool {
    let message = batch.messages[0].clone();
    let first = &mut batch.messages[0];
    match fault {
        Fault::WrongPayload { .. } => change_a_byte(&mut first.content),
        Fault::ContentOfAnother { .. } => first.content = content_before.to_owned(),
        Fault::Truncated { .. } => first.content.truncate(message.content.len() - 20),
        Fault::OtherType { .. } => first.r#type = "image".into(),
        Fault::OtherId { .. } => first.id.push('1'),
        Fault::OtherEpoch { .. } => batch.epoch = "e2".into(),
        Fault::OutsideRange { .. } => (batch.after, batch.upto) = (Some(message.seq - 2), Some(message.seq - 1)),
        Fault::DuplicateInFrame { .. } => batch.messages.push(message),
        _ => return false,
    }
    true
}

/// The batch in a frame that RFC 6455 or the sub-protocol does not allow.
fn forbidden(fault: Fault, batch: Batch) -> Bytes {
    let mut bytes = encode(0, Body::Batch(batch)).to_vec();
    if matches!(fault, Fault::TextFrame { .. }) {
        bytes[0] = 0x81;
    } else {
        // A mask of zeros changes nothing behind it.
        let head = if bytes[1] == 126 { 4 } else { 2 };
        bytes[1] |= 0x80;
        bytes.splice(head..head, [0; 4]);
    }
    bytes.into()
}
