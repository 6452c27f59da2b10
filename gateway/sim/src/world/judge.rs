//! The end of a run: faults stop, everybody catches up, one more message goes everywhere, and everything is judged.

use super::callers::Said;
use super::owners::ErrandFaults;
use super::{LOOK_NS, Phase, SETTLE_NS, World, quiet, streams};
use crate::client::Client;
use crate::script::{Action, SCRIPT_NS};
use crate::upstream::Faults;

impl World {
    /// Looks whether everything is where it belongs; goes on to the next phase if so.
    pub(super) fn look(&mut self) -> Result<(), String> {
        self.looks_at = self.now + LOOK_NS;
        match self.phase {
            Phase::Script => {
                self.end_faults();
                self.phase = Phase::Settling;
                Ok(())
            }
            Phase::Settling | Phase::Final => match self.settled() {
                Ok(()) => self.go_to_next_phase(),
                Err(why) if self.now > SCRIPT_NS + SETTLE_NS => Err(format!("does not settle: {why}")),
                Err(_) => Ok(()),
            },
            Phase::Over => Ok(()),
        }
    }

    fn end_faults(&mut self) {
        self.trace.note(self.now, || "faults end".to_owned());
        for partition in 0..self.seats.len() {
            let seat = &mut self.seats[partition];
            seat.disk.heal();
            (seat.control.twice, seat.control.stale) = (0, 0);
            self.end_zombie(partition);
        }
        self.errand_faults = ErrandFaults::default();
        if let Some(upstream) = &mut self.upstream {
            upstream.faults = Faults { patience_ms: upstream.faults.patience_ms, ..Faults::default() };
        }
        self.ups.iter_mut().for_each(|up| up.doomed = None);
        for gateway in &mut self.gateways {
            for shard in &mut gateway.shards {
                let mut net = shard.net.borrow_mut();
                net.manners = quiet(net.manners);
                drop(net);
                shard.wake(self.now);
            }
        }
        for client in &mut self.clients {
            client.pace.stalled_until = 0;
        }
    }

    fn go_to_next_phase(&mut self) -> Result<(), String> {
        if self.phase == Phase::Settling {
            self.phase = Phase::Final;
            let names: Vec<String> = streams(&self.plan).into_keys().collect();
            for to in names {
                let said = Said { to, keyed: true, ephemeral: false, platform: None, ttl_s: 0, bytes: 4 };
                let push = self.callers.say(said);
                self.call(push);
            }
            return Ok(());
        }
        self.phase = Phase::Over;
        self.callers.judge(&self.truth)?;
        self.truth.entries_are_whole()?;
        if let Some(upstream) = &self.upstream {
            upstream.judge(&self.truth)?;
            if let Some(lost) = self.callers.queued(&self.truth).find(|text| !upstream.has(text)) {
                return Err(format!("{lost}: queued, and not in the upstream log"));
            }
        }
        for client in &self.clients {
            let judged = client.log.judge(&client.reader, &self.truth);
            judged.map_err(|violation| format!("client {}: {violation}", client.number))?;
        }
        let by_platform = |(_, action): &(u64, Action)| matches!(action, Action::Push { platform: Some(_), .. });
        let by_platform = self.plan.script.iter().any(by_platform);
        for (number, gateway) in self.gateways.iter().enumerate() {
            for shard in &gateway.shards {
                shard.conserves(!by_platform).map_err(|violation| format!("gateway {number}: {violation}"))?;
            }
        }
        Ok(())
    }

    fn settled(&self) -> Result<(), String> {
        let upstream = self.upstream.as_ref();
        if !self.seats.iter().all(|seat| seat.control.is_idle(upstream)) || !self.callers.is_calm() {
            return Err("callers, errands or the upstream log wait".to_owned());
        }
        if upstream.is_some_and(|upstream| !upstream.is_idle()) {
            return Err("the upstream log is at work".to_owned());
        }
        for client in &self.clients {
            self.client_settled(client).map_err(|why| format!("client {}: {why}", client.number))?;
        }
        for (number, gateway) in self.gateways.iter().enumerate() {
            let parting: u64 = gateway.shards.iter().map(|shard| shard.shard.stats().parting.value()).sum();
            if parting > 0
                || self.ups[number].stops_at.is_some()
                || !gateway.links.iter().all(|link| link.is_calm(self.now))
            {
                return Err(format!("gateway {number}: is on its way"));
            }
            let stats = gateway.hub.stats();
            if stats.opens_pending + stats.requests_pending > 0 {
                return Err(format!("gateway {number}: {stats:?}"));
            }
            let counted: i64 = gateway.shards.iter().map(|shard| shard.memberships()).sum();
            if counted != stats.memberships as i64 {
                return Err(format!("gateway {number}: {counted} memberships, the hub counts {}", stats.memberships));
            }
            let unread: usize = gateway.shards.iter().map(|shard| shard.net.borrow().unread()).sum();
            let queued: u64 = gateway.shards.iter().map(|shard| shard.shard.stats().queue_bytes.value()).sum();
            if unread > 0 || queued > 0 {
                return Err(format!("gateway {number}: {unread} bytes unread, {queued} queued"));
            }
        }
        Ok(())
    }

    fn client_settled(&self, client: &Client) -> Result<(), String> {
        if !client.is_calm() {
            let connected = client.conn.as_ref().is_some_and(|conn| conn.welcomed);
            return Err(format!("is not calm (session: {connected}, {:?})", client.views));
        }
        for name in streams(&self.plan).into_keys() {
            let Some((epoch, head)) = self.truth.head(&name) else { continue };
            let uid = &client.reader.uid;
            let follows = match name.strip_prefix("u:") {
                Some(owner) => owner == uid,
                None => self.truth.is_open(&name) || self.truth.is_member(uid, &name),
            };
            let Some(view) = client.views.get(&name) else {
                let asked = client.wanted.contains(&name) && self.truth.is_open(&name);
                let own = name.starts_with("u:") || name == "g:_all" || self.truth.is_member(uid, &name);
                match self.phase == Phase::Final && follows && head > 0 && (own || asked) {
                    true => return Err(format!("{name}: {head} messages, and nothing came")),
                    false => continue,
                }
            };
            let there = view.life.1 == epoch && view.last == head;
            if follows && !view.left && !there {
                return Err(format!("{name}: stands at {:?} {}, the log at {epoch} {head}", view.life.1, view.last));
            }
        }
        Ok(())
    }
}
