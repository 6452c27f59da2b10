//! The messages of a load as requests, and what their answers must say.

use std::sync::Arc;

use tidegate_proto::v1::{PushMessage, PushRequest, PushResult};

use crate::payload::{self, Filling, Stamp};
use crate::population::{Population, StreamNo};
use crate::schedule::Schedule;

#[derive(Debug)]
pub struct Requests {
    schedule: Arc<Schedule>,
    payload_bytes: usize,
    filling: Filling,
    /// Begins the idempotency key of every message.
    key: String,
    /// Names of the targets, and the epoch that each was first answered with.
    targets: Vec<(Box<str>, Option<Box<str>>)>,
}

impl Requests {
    pub fn new(population: &Population, schedule: Arc<Schedule>, payload_bytes: usize, filling: Filling) -> Requests {
        let targets = schedule.targets.clone().map(|stream| (population.name(StreamNo(stream)).into(), None)).collect();
        let key = format!("{}-{}-", population.run(), schedule.load);
        Requests { schedule, payload_bytes, filling, key, targets }
    }

    pub fn target(&self, number: u64) -> StreamNo {
        self.schedule.target(number)
    }

    /// The request of a message: the same one whenever it is made.
    pub fn make(&self, stamp: Stamp) -> PushRequest {
        let target = self.target(stamp.number);
        PushRequest {
            to: vec![self.targets[self.place(target)].0.to_string()],
            message: Some(PushMessage {
                r#type: payload::TYPE.to_owned(),
                content: payload::filled(stamp, self.payload_bytes, self.filling),
                ..PushMessage::default()
            }),
            message_id: format!("{}{}", self.key, stamp.number),
            corr: stamp.number,
            ..PushRequest::default()
        }
    }

    /// Whether an answer belongs to its message and to the stream's history so far.
    pub fn check(&mut self, number: u64, answer: &PushResult) -> Result<(), &'static str> {
        let place = self.place(self.target(number));
        let (name, epoch) = &mut self.targets[place];
        if **name != *answer.to {
            return Err("the answer names another stream");
        }
        match epoch {
            Some(epoch) if **epoch != *answer.epoch => return Err("the stream's epoch changed"),
            Some(_) => {}
            None => *epoch = Some(answer.epoch.as_str().into()),
        }
        if answer.message_id.parse::<u64>().is_err() { Err("the answer has no message_id") } else { Ok(()) }
    }

    fn place(&self, stream: StreamNo) -> usize {
        (stream.0 - self.schedule.targets.start) as usize
    }
}
