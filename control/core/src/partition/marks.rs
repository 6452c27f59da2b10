//! How far a device has everything, and how far a user has read.

use super::access::{Purpose, View};
use super::api::{Reply, Token};
use super::limits;
use super::reads::expired;
use super::sequencer::{Denied, Partition, refused};
use crate::domain::{Epoch, ErrorCode, Mark, Record, Seq, StreamKey, Uid};
use crate::planted::{self, Bug};
use crate::ports::MessageStore;

impl<S: MessageStore> Partition<S> {
    pub(super) fn decide_ack(
        &mut self,
        token: Token,
        uid: Uid,
        device: Box<str>,
        stream: StreamKey,
        epoch: Option<Epoch>,
        seq: Seq,
    ) -> Result<(), Denied> {
        limits::at_most("device", device.len(), limits::DEVICE_BYTES_MAX)?;
        let view = self.markable(&uid, &stream, epoch, seq)?;
        let key = (uid, device, stream);
        let before = match self.batch.overlay.marks.get(&key) {
            Some(mark) => Some(*mark),
            None => {
                let marks = self.store.marks(&key.0, &key.2)?;
                marks.into_iter().find(|mark| mark.device == key.1).map(|mark| (mark.epoch, mark.seq))
            }
        };
        if is_ahead(&view, before, seq) {
            let ts = self.clock.time(self.now);
            let (uid, device, stream) = key.clone();
            self.batch.records.push(Record::Mark(Mark { uid, device, stream, epoch: view.epoch, seq, ts }));
            self.batch.overlay.marks.insert(key, (view.epoch, seq));
        }
        self.batch.reply(token, Ok(Reply::Done { seq: None }));
        Ok(())
    }

    pub(super) fn decide_read(
        &mut self,
        token: Token,
        uid: Uid,
        stream: StreamKey,
        epoch: Option<Epoch>,
        seq: Seq,
    ) -> Result<(), Denied> {
        let view = self.markable(&uid, &stream, epoch, seq)?;
        let key = (uid, stream);
        let before = match self.batch.overlay.reads.get(&key) {
            Some(read) => Some(*read),
            None => self.store.read_cursor(&key.0, &key.1)?,
        };
        if is_ahead(&view, before, seq) {
            let ts = self.clock.time(self.now);
            let (uid, stream) = key.clone();
            let mark = Mark { uid, device: "".into(), stream, epoch: view.epoch, seq, ts };
            self.batch.records.push(Record::Read(mark));
            self.batch.overlay.reads.insert(key, (view.epoch, seq));
        }
        self.batch.reply(token, Ok(Reply::Done { seq: None }));
        Ok(())
    }

    fn markable(&mut self, uid: &Uid, stream: &StreamKey, epoch: Option<Epoch>, seq: Seq) -> Result<View, Denied> {
        let view = self.view(Some(uid), stream, Purpose::Read)?;
        if epoch.is_some_and(|epoch| epoch != view.epoch) {
            let head = self.stands(&view)?;
            return Err(expired(head).into());
        }
        if seq > view.head && !planted::is(Bug::AckBeyondHead) {
            return Err(refused(ErrorCode::BadRequest, "seq: beyond the head of the stream"));
        }
        Ok(view)
    }
}

/// Marks only move forward; one of another epoch says nothing about this one.
fn is_ahead(view: &View, before: Option<(Epoch, Seq)>, seq: Seq) -> bool {
    before.is_none_or(|(epoch, at)| epoch != view.epoch || seq > at)
}
