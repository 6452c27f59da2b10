//! Hot tails: the last messages of live streams, so that most resumes and pulls are answered on the node.
//!
//! A tail covers `(after, R]` of its stream without a hole. All tails together are bounded in bytes; the least recently
//! used one is dropped whole. The order of use is an intrusive list over stream indexes.

use std::collections::VecDeque;

use super::stream::Streams;
use crate::ids::{Seq, StreamIdx};
use crate::link::Message;
use crate::planted::{self, Bug};

/// Counted for a tail and for each of its messages beside the text itself.
const OVERHEAD_BYTES: u64 = 128;

#[derive(Debug)]
pub(super) struct Tail {
    pub after: Seq,
    pub messages: VecDeque<Message>,
    bytes: u64,
    older: Option<StreamIdx>,
    newer: Option<StreamIdx>,
}

impl Tail {
    /// Messages with a seq above `after`, in order.
    pub fn above(&self, after: Seq) -> impl Iterator<Item = &Message> {
        let begin = self.messages.partition_point(|message| message.seq <= after);
        self.messages.range(begin..)
    }
}

/// Bytes that a message will take in a frame, roughly.
pub(super) fn message_bytes(message: &Message) -> usize {
    let m = &message.body;
    let text = m.id.len() + m.from.len() + m.to.len() + m.conv.len() + m.client_msg_id.len() + m.r#type.len();
    96 + text + m.title.len() + m.content.len() + m.content_bytes.len() * 4 / 3 + m.metadata.len()
}

/// The order of use and the bytes of all tails.
#[derive(Debug)]
pub(super) struct Tails {
    oldest: Option<StreamIdx>,
    newest: Option<StreamIdx>,
    bytes: u64,
    bytes_max: u64,
    messages_max: usize,
}

impl Tails {
    pub fn new(messages_max: u32, bytes_max: u64) -> Tails {
        Tails { oldest: None, newest: None, bytes: 0, bytes_max, messages_max: messages_max as usize }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds messages that bring the stream's R to where the caller sets it; `after` is R before them.
    pub fn extend<'a>(
        &mut self,
        streams: &mut Streams,
        idx: StreamIdx,
        after: Seq,
        messages: impl Iterator<Item = &'a Message>,
    ) {
        if self.messages_max == 0 {
            return;
        }
        self.unlink(streams, idx);
        let Some(stream) = streams.at_mut(idx) else { return };
        let tail = stream.make_tail(|| {
            self.bytes += OVERHEAD_BYTES;
            Tail { after, messages: VecDeque::new(), bytes: OVERHEAD_BYTES, older: None, newer: None }
        });
        let before = tail.bytes;
        for message in messages {
            if tail.messages.len() == self.messages_max
                && let Some(out) = tail.messages.pop_front()
            {
                if !planted::is(Bug::HotTailServesHole) {
                    tail.after = out.seq;
                }
                tail.bytes -= cost(&out);
            }
            tail.bytes += cost(message);
            tail.messages.push_back(message.clone());
        }
        self.bytes = self.bytes + tail.bytes - before;
        self.link_newest(streams, idx);
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.oldest
        {
            self.remove(streams, oldest);
        }
    }

    /// The stream's tail was read.
    pub fn touch(&mut self, streams: &mut Streams, idx: StreamIdx) {
        if self.newest != Some(idx) && streams.at(idx).is_some_and(|stream| stream.tail().is_some()) {
            self.unlink(streams, idx);
            self.link_newest(streams, idx);
        }
    }

    pub fn remove(&mut self, streams: &mut Streams, idx: StreamIdx) {
        self.unlink(streams, idx);
        if let Some(tail) = streams.at_mut(idx).and_then(|stream| stream.take_tail()) {
            self.bytes -= tail.bytes;
        }
    }

    fn unlink(&mut self, streams: &mut Streams, idx: StreamIdx) {
        let Some(tail) = tail_of(streams, idx) else { return };
        let (older, newer) = (tail.older.take(), tail.newer.take());
        match older {
            Some(older) => set(streams, older, |tail| tail.newer = newer),
            None if self.oldest == Some(idx) => self.oldest = newer,
            None => {}
        }
        match newer {
            Some(newer) => set(streams, newer, |tail| tail.older = older),
            None if self.newest == Some(idx) => self.newest = older,
            None => {}
        }
    }

    fn link_newest(&mut self, streams: &mut Streams, idx: StreamIdx) {
        let before = self.newest.replace(idx);
        set(streams, idx, |tail| tail.older = before);
        match before {
            Some(before) => set(streams, before, |tail| tail.newer = Some(idx)),
            None => self.oldest = Some(idx),
        }
    }
}

fn cost(message: &Message) -> u64 {
    message_bytes(message) as u64 + OVERHEAD_BYTES
}

fn tail_of(streams: &mut Streams, idx: StreamIdx) -> Option<&mut Tail> {
    streams.at_mut(idx)?.tail_mut()
}

fn set(streams: &mut Streams, idx: StreamIdx, change: impl FnOnce(&mut Tail)) {
    if let Some(tail) = tail_of(streams, idx) {
        change(tail);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use smallvec::SmallVec;

    use super::*;
    use crate::ids::{Epoch, StreamKey};

    fn message(seq: u64) -> Message {
        let body = tidegate_proto::v1::Message { seq, content: "x".repeat(100), ..Default::default() };
        Message { seq: Seq(seq), body: Arc::new(body), platforms: SmallVec::new() }
    }

    fn stream(streams: &mut Streams, name: &str) -> StreamIdx {
        let key: StreamKey = name.parse().expect("valid");
        streams.insert(&key, &Epoch::from("e"), Seq(0), Seq(1))
    }

    #[test]
    fn a_tail_keeps_the_last_messages_and_says_where_it_begins() {
        let mut streams = Streams::new(1);
        let mut tails = Tails::new(3, 1 << 20);
        let idx = stream(&mut streams, "g:a");
        for seq in 1..=5 {
            tails.extend(&mut streams, idx, Seq(seq - 1), [message(seq)].iter());
        }
        let tail = streams.at(idx).and_then(|s| s.tail()).expect("has a tail");
        assert_eq!(tail.after, Seq(2));
        assert_eq!(tail.above(Seq(3)).map(|m| m.seq.0).collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn the_least_recently_used_tail_goes_first_and_bytes_come_back_to_zero() {
        let mut streams = Streams::new(1);
        let one = cost(&message(1)) + OVERHEAD_BYTES;
        let mut tails = Tails::new(10, 3 * one);
        let all: Vec<_> = ["g:a", "g:b", "g:c", "g:d"].into_iter().map(|name| stream(&mut streams, name)).collect();
        for idx in &all[..3] {
            tails.extend(&mut streams, *idx, Seq(0), [message(1)].iter());
        }
        tails.touch(&mut streams, all[0]);
        tails.extend(&mut streams, all[3], Seq(0), [message(1)].iter());
        let kept: Vec<bool> = all.iter().map(|idx| streams.at(*idx).is_some_and(|s| s.tail().is_some())).collect();
        assert_eq!(kept, [true, false, true, true]);
        for idx in all {
            tails.remove(&mut streams, idx);
        }
        assert_eq!((tails.bytes(), tails.oldest, tails.newest), (0, None, None));
    }
}
