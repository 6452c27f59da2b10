//! Answers of one submission that come from several places: partitions here, partitions of other nodes, the upstream topic.

use std::sync::{Mutex, PoisonError};

use tidegate_control_core::domain::MessageId;
use tidegate_control_core::partition::Reply;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Answer, late};

/// Every place is answered once; who comes later is ignored.
#[derive(Debug)]
pub(crate) struct Gather(Mutex<State>);

#[derive(Debug)]
struct State {
    places: Vec<Place>,
    left: usize,
    /// `None`: the answers have left.
    done: Option<oneshot::Sender<Vec<Answer>>>,
    /// Given back when the answers leave: a bound on what waits.
    room: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Place {
    Waits,
    /// It is durable; its seq may be long in coming.
    Placed(Option<MessageId>),
    Answered(Answer),
}

impl Gather {
    pub fn new(count: usize, done: oneshot::Sender<Vec<Answer>>, room: Option<OwnedSemaphorePermit>) -> Gather {
        let mut state =
            State { places: (0..count).map(|_| Place::Waits).collect(), left: count, done: Some(done), room };
        if count == 0 {
            state.leave();
        }
        Gather(Mutex::new(state))
    }

    /// `false`: nobody waits for it, or there is an answer already.
    pub fn answer(&self, place: usize, answer: Answer) -> bool {
        let mut state = self.lock();
        let heard = state.answer(place, answer);
        if state.left == 0 {
            state.leave();
        }
        heard
    }

    /// As several calls of [`Gather::answer`].
    pub fn answer_all(&self, answers: impl IntoIterator<Item = (usize, Answer)>) {
        let mut state = self.lock();
        for (place, answer) in answers {
            state.answer(place, answer);
        }
        if state.left == 0 {
            state.leave();
        }
    }

    pub fn placed(&self, place: usize, id: Option<MessageId>) {
        let mut state = self.lock();
        if let Some(at @ Place::Waits) = state.places.get_mut(place) {
            *at = Place::Placed(id);
        }
    }

    /// What can be said now; nothing more will leave.
    pub fn early(&self) -> Vec<Answer> {
        let mut state = self.lock();
        state.done = None;
        state.room = None;
        std::mem::take(&mut state.places).into_iter().map(Place::said).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn answer(&mut self, place: usize, answer: Answer) -> bool {
        match self.places.get_mut(place) {
            Some(at) if !matches!(at, Place::Answered(_)) => {
                *at = Place::Answered(answer);
                self.left -= 1;
                self.done.as_ref().is_some_and(|done| !done.is_closed())
            }
            _ => false,
        }
    }

    fn leave(&mut self) {
        self.room = None;
        if let Some(done) = self.done.take() {
            let answers = std::mem::take(&mut self.places).into_iter().map(Place::said).collect();
            // The caller may have gone.
            let _ = done.send(answers);
        }
    }
}

impl Place {
    fn said(self) -> Answer {
        match self {
            Place::Answered(answer) => answer,
            Place::Placed(id) => Ok(Reply::Queued { id }),
            Place::Waits => Err(late()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(seq: u64) -> Answer {
        Ok(Reply::Done { seq: Some(tidegate_control_core::domain::Seq(seq)) })
    }

    #[test]
    fn answers_leave_once_all_are_there_in_the_order_of_places() {
        let (sender, mut receiver) = oneshot::channel();
        let gather = Gather::new(2, sender, None);
        gather.answer(1, done(2));
        gather.answer(1, Err(late()));
        assert!(receiver.try_recv().is_err());
        gather.answer(0, done(1));
        let answers = receiver.try_recv().expect("all are there");
        assert_eq!(format!("{answers:?}"), format!("{:?}", [done(1), done(2)]));
    }

    #[test]
    fn it_is_known_whether_somebody_hears_an_answer() {
        let (sender, receiver) = oneshot::channel();
        let gather = Gather::new(3, sender, None);
        assert!(gather.answer(0, done(1)));
        assert!(!gather.answer(0, done(1)), "it has been answered");
        drop(receiver);
        assert!(!gather.answer(1, done(2)), "the caller has gone");
        let _answers = gather.early();
        assert!(!gather.answer(2, done(3)), "the answers have left");
    }

    #[test]
    fn what_is_durable_is_queued_and_the_rest_is_unknown() {
        let (sender, _receiver) = oneshot::channel();
        let gather = Gather::new(3, sender, None);
        gather.answer(0, done(1));
        gather.placed(1, Some(MessageId(7)));
        let early = gather.early();
        assert!(matches!(early[1], Ok(Reply::Queued { id: Some(MessageId(7)) })));
        assert!(early[0].is_ok() && early[2].is_err());
        gather.answer(2, done(3));
    }
}
