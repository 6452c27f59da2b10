//! What clients send: bytes to messages to requests, and the answers that the shard gives by itself.

use std::ops::ControlFlow;

use smallvec::SmallVec;

use tidegate_proto::v1;

use super::backlog::{Kind, Queued};
use super::config::{ECHO_LEVEL, ECHO_LIMITS, IN_FLIGHT_RETRY_MS};
use super::engine::Engine;
use super::slab::{Phase, Slot, flag};
use crate::client::errors::ErrorCode;
use crate::client::ops::{IN_FLIGHT_MAX, Op, Request};
use crate::client::{self, DecodeError};
use crate::ids::StreamIdx;
use crate::messages::{Encoding, Requester, ToHub};
use crate::ws::close::CloseCode;
use crate::ws::{Decoder, Deflater, Incoming, Inflater, OpCode, WINDOW_BITS_MIN, frame};

impl Engine {
    pub(super) fn on_data(&mut self, slot: Slot, bytes: &mut [u8], inflater: &mut Inflater) {
        let (hot, cold) = self.slab.both_mut(slot);
        if !matches!(hot.phase, Phase::Open | Phase::CloseSent) {
            return;
        }
        hot.heard = self.clock.tick;
        hot.set(flag::PINGED, false);
        let limits = if hot.is(flag::ECHO) { ECHO_LIMITS } else { self.config.client_limits() };
        let mut decoder = std::mem::replace(&mut cold.decoder, Decoder::new(false));
        let now = self.clock.now;
        let result = decoder.feed(now, bytes, &limits, inflater, &mut |incoming| self.on_incoming(slot, incoming));
        self.stats.inflated.note(inflater.inflated());
        let readable = matches!(self.slab.hot(slot).phase, Phase::Open | Phase::CloseSent);
        match result {
            Ok(_) if readable => self.slab.cold_mut(slot).decoder = decoder,
            Ok(_) => {}
            Err(error) => self.close_unreadable(slot, error.close_code(), &error.to_string()),
        }
    }

    fn on_incoming(&mut self, slot: Slot, incoming: Incoming<'_>) -> ControlFlow<()> {
        if let Incoming::Close { code, .. } = incoming {
            self.on_peer_close(slot, code);
            return ControlFlow::Break(());
        }
        let hot = self.slab.hot(slot);
        if hot.phase == Phase::Open {
            match incoming {
                Incoming::Ping(payload) => self.enqueue_frame(slot, OpCode::Pong, payload),
                Incoming::Text(text) if hot.is(flag::ECHO) => self.echo(slot, OpCode::Text, text.as_bytes()),
                Incoming::Binary(bytes) if hot.is(flag::ECHO) => self.echo(slot, OpCode::Binary, bytes),
                Incoming::Text(_) | Incoming::Binary(_) => self.on_message(slot, &incoming),
                Incoming::Pong(_) | Incoming::Close { .. } => {}
            }
        }
        match self.slab.hot(slot).phase {
            Phase::Open | Phase::CloseSent => ControlFlow::Continue(()),
            Phase::Free | Phase::Finishing | Phase::Closing => ControlFlow::Break(()),
        }
    }

    fn on_message(&mut self, slot: Slot, message: &Incoming<'_>) {
        let encoding = self.slab.hot(slot).class.encoding;
        match (encoding, message) {
            (Encoding::Json, Incoming::Text(_)) | (Encoding::Proto, Incoming::Binary(_)) => {}
            _ => return self.close(slot, CloseCode::Unsupported, "the sub-protocol has the other kind of message"),
        }
        match client::decode(encoding, message) {
            Ok(request) => self.on_request(slot, request),
            Err(DecodeError::Refused { id, code, message }) => self.refuse(slot, id, code, &message, None),
            Err(DecodeError::Fatal) => self.close(slot, CloseCode::BadRequest, "not a frame of the sub-protocol"),
        }
    }

    fn on_request(&mut self, slot: Slot, Request { id, op }: Request) {
        self.stats.requests.add(1);
        let waiting = self.slab.hot(slot).in_flight.as_deref().map_or(&[][..], |ids| ids);
        if waiting.contains(&id) {
            return self.refuse(slot, id, ErrorCode::BadRequest, "this id is in flight", None);
        }
        match op {
            Op::Ping => {
                return self.reply(slot, &client::ok_frame(id, None));
            }
            Op::Unimplemented(what) => {
                let message = format!("{what} is not implemented");
                return self.refuse(slot, id, ErrorCode::Unimplemented, &message, None);
            }
            Op::Connect(_) => return self.refuse(slot, id, ErrorCode::BadRequest, "connected already", None),
            _ => {}
        }
        if waiting.len() >= IN_FLIGHT_MAX {
            let retry = Some(IN_FLIGHT_RETRY_MS);
            return self.refuse(slot, id, ErrorCode::RateLimited, "too many requests in flight", retry);
        }
        let Some(who) = self.requester(slot) else { return };
        self.slab.hot_mut(slot).in_flight.get_or_insert_default().push(id);
        let memberships = match op {
            Op::Join { .. } | Op::Leave { .. } => self.membership_streams(slot),
            _ => SmallVec::new(),
        };
        self.todo.to_hub.push(ToHub::Request { conn: self.conn_ref(slot), id, who, op, memberships });
    }

    /// The request is answered: its id may be used again.
    pub(super) fn answered(&mut self, slot: Slot, id: u32) {
        let in_flight = &mut self.slab.hot_mut(slot).in_flight;
        if let Some(ids) = in_flight {
            if let Some(at) = ids.iter().position(|of| *of == id) {
                ids.swap_remove(at);
            }
            if ids.is_empty() {
                *in_flight = None;
            }
        }
    }

    pub(super) fn requester(&self, slot: Slot) -> Option<Box<Requester>> {
        let identity = self.slab.identity(slot)?;
        let uid = identity.owned_uid()?;
        Some(Box::new(Requester { uid, device: identity.device.into(), class: self.slab.hot(slot).class }))
    }

    fn membership_streams(&self, slot: Slot) -> SmallVec<[StreamIdx; 4]> {
        self.slab.memberships(slot).iter().map(|membership| membership.stream).collect()
    }

    fn refuse(&mut self, slot: Slot, id: u32, code: ErrorCode, message: &str, retry_after_ms: Option<u32>) {
        let mut frame = client::error_frame(id, code, message);
        if let Some(v1::server_frame::Body::Error(error)) = &mut frame.body {
            error.retry_after_ms = retry_after_ms.or(error.retry_after_ms);
        }
        self.reply(slot, &frame);
    }

    fn enqueue_frame(&mut self, slot: Slot, op: OpCode, payload: &[u8]) {
        self.enqueue(slot, Queued { frame: frame(op, payload), kind: Kind::Direct });
    }

    fn echo(&mut self, slot: Slot, op: OpCode, payload: &[u8]) {
        let window_bits = self.slab.hot(slot).deflate_window;
        if window_bits == 0 {
            return self.enqueue_frame(slot, op, payload);
        }
        // Compressed whatever it gains: this is what conformance suites negotiate compression to see.
        let deflater = &mut self.kit.deflaters[usize::from(window_bits - WINDOW_BITS_MIN)];
        let deflater = deflater.get_or_insert_with(|| Box::new(Deflater::new(window_bits, ECHO_LEVEL)));
        let frame = deflater.frame_always(op, payload);
        self.enqueue(slot, Queued { frame, kind: Kind::Direct });
    }
}
