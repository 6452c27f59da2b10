//! Who waits for which token. Lives in the partition's thread, so it needs no lock.

use tidegate_control_core::partition::{GatewayId, Token};
use tokio::sync::oneshot;

use super::Answer;

/// Low bits of a token: the place within a submission; the rest names the waiter.
const PLACE_BITS: u32 = 24;

const _: () = assert!(super::SLOTS_MAX < 1 << PLACE_BITS);

/// A slab of waiters. Each token is answered exactly once, so a place is free again when its last answer came.
#[derive(Default)]
pub(super) struct Waiters {
    places: Vec<Waiter>,
    free: Vec<u32>,
}

enum Waiter {
    Free,
    Submission { answers: Vec<Option<Answer>>, left: usize, done: oneshot::Sender<Vec<Answer>> },
    Link { gateway: GatewayId, corr: u64 },
}

/// Where an answer belongs that is not part of a submission.
pub(super) struct LinkAnswer {
    pub gateway: GatewayId,
    pub corr: u64,
    pub answer: Answer,
}

impl Waiters {
    /// The tokens of `count` commands whose answers leave together.
    pub(super) fn submission(
        &mut self,
        count: usize,
        done: oneshot::Sender<Vec<Answer>>,
    ) -> impl Iterator<Item = Token> + use<> {
        let answers = (0..count).map(|_| None).collect();
        let base = self.put(Waiter::Submission { answers, left: count, done }) << PLACE_BITS;
        (0..count as u64).map(move |place| Token(base | place))
    }

    pub(super) fn link(&mut self, gateway: GatewayId, corr: u64) -> Token {
        Token(self.put(Waiter::Link { gateway, corr }) << PLACE_BITS)
    }

    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// Takes one answer in. Completed submissions leave by themselves; a link's answer is handed back.
    pub(super) fn answer(&mut self, token: Token, answer: Answer) -> Option<LinkAnswer> {
        let index = (token.0 >> PLACE_BITS) as usize;
        let place = (token.0 & ((1 << PLACE_BITS) - 1)) as usize;
        let waiter = self.places.get_mut(index)?;
        match waiter {
            Waiter::Submission { answers, left, .. } => {
                let slot = answers.get_mut(place).filter(|slot| slot.is_none())?;
                *slot = Some(answer);
                *left -= 1;
                if *left == 0 {
                    self.complete(index);
                }
                None
            }
            Waiter::Link { gateway, corr } => {
                let found = LinkAnswer { gateway: *gateway, corr: *corr, answer };
                *waiter = Waiter::Free;
                self.free.push(index as u32);
                Some(found)
            }
            Waiter::Free => {
                tracing::error!(token = token.0, "an answer that nobody waits for");
                None
            }
        }
    }

    fn complete(&mut self, index: usize) {
        let Waiter::Submission { answers, done, .. } = std::mem::replace(&mut self.places[index], Waiter::Free) else {
            return;
        };
        self.free.push(index as u32);
        // The caller may have gone; its commands stand all the same.
        let _ = done.send(answers.into_iter().flatten().collect());
    }

    fn put(&mut self, waiter: Waiter) -> u64 {
        match self.free.pop() {
            Some(index) => {
                self.places[index as usize] = waiter;
                u64::from(index)
            }
            None => {
                self.places.push(waiter);
                self.places.len() as u64 - 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_control_core::domain::{ErrorCode, Refusal};
    use tidegate_control_core::partition::Reply;

    use super::*;

    fn refused(text: &str) -> Answer {
        Err(Refusal::new(ErrorCode::NotFound, text))
    }

    fn text(answer: &Answer) -> String {
        answer.as_ref().map_or_else(|refusal| refusal.message.to_string(), |_| "ok".to_owned())
    }

    #[test]
    fn answers_leave_together_and_in_the_order_of_the_commands() {
        let mut waiters = Waiters::default();
        let (done, mut pending) = oneshot::channel();
        let tokens: Vec<Token> = waiters.submission(3, done).collect();
        let (other_done, _other) = oneshot::channel();
        let other: Vec<Token> = waiters.submission(1, other_done).collect();
        for (token, answer) in [(tokens[2], refused("c")), (tokens[0], refused("a")), (other[0], refused("x"))] {
            assert!(waiters.answer(token, answer).is_none());
        }
        assert!(pending.try_recv().is_err());
        // A second answer to the same token changes nothing.
        waiters.answer(tokens[2], refused("again"));
        waiters.answer(tokens[1], Ok(Reply::Done { seq: None }));
        let answers: Vec<String> = pending.try_recv().expect("complete").iter().map(text).collect();
        assert_eq!(answers, ["a", "ok", "c"]);
    }

    #[test]
    fn places_are_used_again() {
        let mut waiters = Waiters::default();
        for corr in 1..100 {
            let token = waiters.link(GatewayId(7), corr);
            let found = waiters.answer(token, refused("no")).expect("a link's answer");
            assert_eq!((found.gateway, found.corr), (GatewayId(7), corr));
        }
        assert!(waiters.is_empty());
        assert_eq!(waiters.places.len(), 1);
    }
}
