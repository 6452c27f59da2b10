//! Turns of clients, and what the script has them do.

use tidegate_gateway_core::shard::{Promoted, Promotion, ShardInput};
use tidegate_gateway_core::ws::DeflateParams;
use tidegate_proto::v1::{self, client_frame::Op};

use super::callers::Said;
use super::{Phase, World, group};
use crate::client::{Answer, Asked, Conn};
use crate::net::End;
use crate::script::{ClientDoes, MS};
use crate::wire;

impl World {
    pub(super) fn client_turn(&mut self, number: usize) -> Result<(), String> {
        if self.clients[number].impatient(self.now) {
            self.reset(number);
        }
        if self.clients[number].conn.is_none() {
            if self.now >= self.clients[number].pace.connects_at {
                self.connect(number);
            }
            return Ok(());
        }
        if self.reads[number].is_some_and(|at| at.max(self.clients[number].pace.stalled_until) <= self.now) {
            self.reads[number] = None;
            self.read(number).map_err(|violation| format!("client {number}: {violation}"))?;
        }
        self.speak(number);
        Ok(())
    }

    fn connect(&mut self, number: usize) {
        let now = self.now;
        let open: Vec<usize> =
            (0..self.gateways.len()).filter(|at| self.ups[*at].accepts_at <= now && !self.ups[*at].draining).collect();
        if open.is_empty() {
            self.clients[number].pace.connects_at = now + 50 * MS;
            return;
        }
        let gateway = *self.rng.pick(&open);
        let shard = self.rng.index(self.gateways[gateway].shards.len());
        let client = &mut self.clients[number];
        let hello = client.hello();
        self.trace.note(now, || format!("client {number} dials gateway {gateway}: {:?}", hello.cursors));
        let life = self.gateways[gateway].life;
        let node = &mut self.gateways[gateway].shards[shard];
        let arriving = node.net.borrow_mut().dial();
        let sock = arriving.socket;
        let params = DeflateParams { server_max_window_bits: 15, client_max_window_bits: 15 };
        let params = client.habits.deflate.then_some(params);
        let session = Promoted::Client { hello: Box::new(hello), params };
        let at = now + self.rng.between(200_000, 4 * MS);
        node.mail.put(at, ShardInput::Promote(Promotion { socket: arriving, early: Vec::new(), session }));
        node.wake(at);
        client.connected(Conn::new((gateway, life, shard, sock), now));
    }

    fn read(&mut self, number: usize) -> Result<(), String> {
        let now = self.now;
        let (most, pause) = match self.phase {
            Phase::Script => self.clients[number].habits.read,
            _ => (1 << 20, MS),
        };
        let Some(conn) = &self.clients[number].conn else { return Ok(()) };
        let (gateway, shard, sock) = (conn.gateway, conn.shard, conn.sock);
        if self.gateways[gateway].life != conn.life {
            self.clients[number].lost(now);
            return Ok(());
        }
        let node = &mut self.gateways[gateway].shards[shard];
        let (bytes, end, more) = {
            let mut net = node.net.borrow_mut();
            net.now = now;
            let (bytes, end) = net.client_reads(sock, most);
            (bytes, end, net.readable(sock))
        };
        node.wake(now + 10_000);
        let mut out = Vec::new();
        let client = &mut self.clients[number];
        client.trace_frames(self.trace.is_on());
        client.hears(now, &bytes, &self.truth, &mut out)?;
        for line in self.clients[number].heard.drain(..) {
            self.trace.note(now, || format!("client {number} hears {line}"));
        }
        self.say_bytes(number, out);
        if end != End::Open {
            self.trace.note(now, || format!("client {number} is cut off: {end:?}"));
            self.gateways[gateway].shards[shard].net.borrow_mut().forget(sock);
            self.clients[number].lost(now);
        } else if more {
            self.reads[number] = Some(now + pause);
        }
        self.take_answers(number)
    }

    /// What its sends came to.
    fn take_answers(&mut self, number: usize) -> Result<(), String> {
        for (push, answer) in std::mem::take(&mut self.clients[number].answers) {
            if matches!(answer, Answer::Unknown) {
                self.clients[number].outbox.push_back(push);
            }
            self.callers.accept(push, answer, &self.truth)?;
        }
        Ok(())
    }

    fn speak(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let mut bytes = client.speak(self.now);
        client.rejoins(&mut bytes);
        while let Some(push) = client.outbox.front().copied() {
            let saying = &self.callers.sayings[push];
            let class = if saying.said.ephemeral { v1::MessageClass::Ephemeral } else { v1::MessageClass::Durable };
            let send = v1::SendOp {
                to: saying.said.to.clone(),
                client_msg_id: saying.key.clone(),
                r#type: "text".to_owned(),
                content: saying.text.clone(),
                class: class as i32,
                ..Default::default()
            };
            if client.ask(Op::Send(send), Asked::Send { push }, &mut bytes).is_none() {
                break;
            }
            client.outbox.pop_front();
        }
        self.say_bytes(number, bytes);
    }

    fn say_bytes(&mut self, number: usize, bytes: Vec<u8>) {
        let Some(conn) = self.clients[number].conn.as_ref().filter(|_| !bytes.is_empty()) else { return };
        let at = self.now + self.rng.between(50_000, 3 * MS);
        let gateway = &mut self.gateways[conn.gateway];
        if gateway.life == conn.life {
            let node = &mut gateway.shards[conn.shard];
            node.net.borrow_mut().client_sends(conn.sock, at, bytes);
            node.wake(at);
        }
    }

    fn reset(&mut self, number: usize) {
        if let Some(conn) = &self.clients[number].conn
            && self.gateways[conn.gateway].life == conn.life
        {
            let node = &mut self.gateways[conn.gateway].shards[conn.shard];
            node.net.borrow_mut().client_resets(conn.sock);
            node.wake(self.now + 10_000);
        }
        self.clients[number].lost(self.now);
        self.reads[number] = None;
    }

    pub(super) fn client_does(&mut self, number: usize, does: ClientDoes) {
        let number = number % self.clients.len();
        let mut bytes = Vec::new();
        match does {
            ClientDoes::Send { to, bytes, ephemeral } => {
                let to = self.target(to);
                let said = Said { to, keyed: true, ephemeral, platform: None, ttl_s: 0, bytes };
                let push = self.callers.say(said);
                self.clients[number].outbox.push_back(push);
                return self.speak(number);
            }
            ClientDoes::Join { group: at, cursor } => {
                let stream = format!("g:{}", group(at % self.plan.shape.groups));
                self.clients[number].join(stream, cursor, &mut bytes);
            }
            ClientDoes::Leave { group: at } => {
                let stream = format!("g:{}", group(at % self.plan.shape.groups));
                let leave = Op::Leave(v1::LeaveOp { stream: stream.clone() });
                self.clients[number].ask(leave, Asked::Leave { stream }, &mut bytes);
            }
            ClientDoes::Close => bytes = wire::masked(wire::CLOSE, &1000u16.to_be_bytes()),
            ClientDoes::Reset => return self.reset(number),
            ClientDoes::Vanish => {
                self.clients[number].lost(self.now);
                self.reads[number] = None;
                return;
            }
            ClientDoes::Stall { ms } => {
                self.clients[number].pace.stalled_until = self.now + ms * MS;
                return;
            }
            ClientDoes::Forget(cursors) => {
                self.clients[number].pace.brings = Some(cursors);
                return self.reset(number);
            }
            ClientDoes::Ack | ClientDoes::Read | ClientDoes::Head | ClientDoes::Sync | ClientDoes::Ping => {
                self.clients[number].asks(&does, &mut bytes);
            }
            ClientDoes::Look { group: of_group } => {
                let stream = match of_group {
                    true => format!("g:{}", group(self.rng.index(self.plan.shape.groups))),
                    false => format!("u:{}", self.clients[number].reader.uid),
                };
                let after = self.rng.below(10);
                let pull = v1::PullOp { stream: stream.clone(), after, limit: 20, ..Default::default() };
                self.clients[number].ask(Op::Pull(pull), Asked::Look { stream }, &mut bytes);
            }
        }
        self.say_bytes(number, bytes);
    }
}
