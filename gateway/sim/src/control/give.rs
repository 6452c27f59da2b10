//! What a turn of the partition gives, on its way to whoever it is for.

use std::sync::Arc;

use tidegate_control_core::domain::Refusal;
use tidegate_control_core::partition::{GatewayId, Output, Reply};
use tidegate_gateway_core::ids::SeqRange;
use tidegate_gateway_core::link::{Deliver, FromLink, Position};

use super::{Control, Life, Turned, Waiter};
use crate::bus;
use crate::gateway::{Down, Gateway};
use crate::planted::Seam;

impl Control {
    pub(super) fn dispatch(
        &mut self,
        now: u64,
        life: &mut Life,
        out: Vec<Output>,
        gateways: &mut [Gateway],
        turned: &mut Turned,
    ) {
        let origin = life.partition.origin();
        for output in out {
            let (to, item) = match output {
                Output::Reply { token, result } => match life.waiters.remove(&token) {
                    Some(Waiter::Link { gateway, corr }) => (gateway, bus::reply(corr, result)),
                    waiter => {
                        answer(waiter, result, life, turned);
                        continue;
                    }
                },
                Output::Link { gateway, item } => (gateway, bus::down(origin, item)),
                Output::Errand { lsn, errand } => {
                    turned.errands.push((lsn, errand));
                    continue;
                }
                Output::Detach { gateway, .. } => {
                    turned.detached.push(gateway);
                    continue;
                }
            };
            let Some(gateway) = gateways.iter_mut().find(|gateway| gateway.links[self.partition].id == Some(to)) else {
                continue;
            };
            if self.seam == Some(Seam::LostTail) && matches!(item, FromLink::Deliver(_)) && self.rng.chance(30) {
                continue;
            }
            let at = now + self.rng.between(50_000, 2_000_000);
            let again = match (&item, self.rng.chance(self.twice)) {
                (FromLink::Deliver(deliver), true) => Some(copy(deliver)),
                _ => None,
            };
            let stale = match &item {
                FromLink::Deliver(deliver) if self.rng.chance(self.stale) => of_older_owner(deliver),
                _ => None,
            };
            send(gateway, self.partition, to, at, Down::Item(item));
            if let Some(stale) = stale {
                send(gateway, self.partition, to, at, Down::Item(FromLink::Deliver(stale)));
            }
            if let Some(again) = again {
                send(gateway, self.partition, to, at, Down::Item(FromLink::Deliver(again)));
            }
        }
    }
}

fn answer(waiter: Option<Waiter>, result: Result<Reply, Refusal>, life: &mut Life, turned: &mut Turned) {
    match waiter {
        Some(Waiter::Push(push)) => turned.answers.push((push, result)),
        Some(Waiter::Errand { from, number }) => turned.taken.push((from, number, result)),
        Some(Waiter::Appended { source, offset }) => {
            life.fed -= 1;
            turned.sequenced.push(((source, offset), result));
        }
        Some(Waiter::Dispatched(asker)) => turned.dispatched.push((asker, result)),
        Some(Waiter::Operator | Waiter::Link { .. }) => {}
        None => turned.died = Some("a second answer to one command".to_owned()),
    }
}

/// Puts an item on the way to the hub, unless the attachment has ended.
pub fn send(gateway: &mut Gateway, partition: usize, id: GatewayId, at: u64, item: Down) {
    let link = &mut gateway.links[partition];
    if link.id != Some(id) {
        return;
    }
    let at = link.down.back().map_or(at, |(last, _)| at.max(*last));
    link.down.push_back((at, item));
    gateway.wake_hub(at);
}

/// The same delivery once more.
pub fn copy(deliver: &Deliver) -> Deliver {
    Deliver {
        position: deliver.position,
        stream: deliver.stream.clone(),
        epoch: deliver.epoch.clone(),
        range: deliver.range,
        messages: deliver.messages.clone(),
        bytes: 0,
    }
}

/// What an older owner would say next of the stream, of a message that never became durable.
fn of_older_owner(deliver: &Deliver) -> Option<Deliver> {
    let owner_epoch = deliver.position.owner_epoch.checked_sub(1).filter(|older| *older > 0)?;
    let after = deliver.range?.upto;
    let (range, position) = (SeqRange { after, upto: after.next() }, Position { owner_epoch, ..deliver.position });
    let mut message = deliver.messages.last()?.clone();
    message.seq = range.upto;
    let body = Arc::make_mut(&mut message.body);
    body.seq = range.upto.0;
    body.content.push_str(" of an older owner");
    Some(Deliver { position, range: Some(range), messages: vec![message], ..copy(deliver) })
}
