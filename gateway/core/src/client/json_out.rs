//! `tidegate.v1.json` down, written by hand straight into the buffer that becomes the frame.
//!
//! Empty optional strings, absent options and the zeros that mean "none" (`id`, `seq`, `conv_seq`, `ts`) are left out;
//! flags, lists and the places of a stream are always there. `metadata` is copied as it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tidegate_proto::v1::{self, ok, server_frame::Body};

use crate::ids::{Epoch, SeqRange};

const FRAME_BYTES_GUESS: usize = 256;
const MESSAGE_BYTES_GUESS: usize = 192;

pub(super) fn encode(frame: &v1::ServerFrame) -> Vec<u8> {
    let mut json = Json { out: Vec::with_capacity(size_guess(frame)), comma: false };
    json.object(|json| {
        json.number_unless_zero("id", u64::from(frame.id));
        match &frame.body {
            Some(Body::Ok(ok)) => json.key("ok").object(|json| write_ok(json, ok)),
            Some(Body::Error(error)) => json.key("error").object(|json| write_error(json, error)),
            Some(Body::Welcome(session)) => json.key("welcome").object(|json| write_session(json, session)),
            Some(Body::Batch(batch)) => json.key("batch").object(|json| {
                let range = batch.after.zip(batch.upto);
                write_batch(json, &batch.stream, &batch.epoch, range, batch.messages.iter());
            }),
            Some(Body::Gap(gap)) => json.key("gap").object(|json| write_gap(json, gap)),
            Some(Body::Joined(joined)) => json.key("joined").object(|json| {
                json.text("stream", &joined.stream).text("epoch", &joined.epoch).number("head", joined.head);
            }),
            Some(Body::Left(left)) => json.key("left").object(|json| {
                json.text("stream", &left.stream).number_unless_zero("seq", left.seq).text("reason", &left.reason);
            }),
            Some(Body::Expiring(expiring)) => json.key("expiring").object(|json| {
                json.number("in_ms", u64::from(expiring.in_ms));
            }),
            Some(Body::Presence(presence)) => json.key("presence").object(|json| {
                json.text("uid", &presence.uid).flag("online", presence.online).key("devices");
                json.array(presence.devices.iter(), |json, device| json.string(device));
            }),
            Some(Body::Bye(bye)) => json.key("bye").object(|json| write_bye(json, bye)),
            None => {}
        }
    });
    json.out
}

pub(super) fn encode_batch<'a>(
    stream: &str,
    epoch: &Epoch,
    range: Option<SeqRange>,
    messages: impl Iterator<Item = &'a v1::Message>,
) -> Vec<u8> {
    let capacity = FRAME_BYTES_GUESS + messages.size_hint().0 * MESSAGE_BYTES_GUESS;
    let mut json = Json { out: Vec::with_capacity(capacity), comma: false };
    let epoch = if range.is_some() { epoch.as_str() } else { "" };
    let range = range.map(|range| (range.after.0, range.upto.0));
    json.object(|json| {
        json.key("batch").object(|json| write_batch(json, stream, epoch, range, messages));
    });
    json.out
}

fn write_ok(json: &mut Json, ok: &v1::Ok) {
    match &ok.result {
        Some(ok::Result::Connect(session)) => write_session(json, session),
        Some(ok::Result::Join(state) | ok::Result::Head(state)) => write_state(json, state),
        Some(ok::Result::Send(sent)) => {
            json.text("stream", &sent.stream).text("epoch", &sent.epoch);
            if let Some(seq) = sent.seq {
                json.number("seq", seq);
            }
            json.text("message_id", &sent.message_id).flag("duplicate", sent.duplicate);
        }
        Some(ok::Result::Pull(pulled)) => {
            json.text("stream", &pulled.stream).text("epoch", &pulled.epoch);
            json.number("after", pulled.after).number("upto", pulled.upto).key("messages");
            json.array(pulled.messages.iter(), write_message);
            json.number("next_after", pulled.next_after).number("head", pulled.head).number("first", pulled.first);
        }
        Some(ok::Result::Sync(sync)) => {
            json.key("streams").array(sync.streams.iter(), |json, state| json.object(|json| write_state(json, state)));
            json.flag("more", sync.more);
        }
        None => {}
    }
}

fn write_error(json: &mut Json, error: &v1::Error) {
    json.text("code", &error.code).text("message", &error.message).flag("retry", error.retry);
    if let Some(after) = error.retry_after_ms {
        json.number("retry_after_ms", u64::from(after));
    }
    json.text_unless_empty("epoch", &error.epoch);
    for (name, seq) in [("head", error.head), ("first", error.first)] {
        if let Some(seq) = seq {
            json.number(name, seq);
        }
    }
}

fn write_session(json: &mut Json, session: &v1::Session) {
    json.text("connection_id", &session.connection_id).text("uid", &session.uid).text("gateway", &session.gateway);
    json.number("ping_interval_ms", u64::from(session.ping_interval_ms));
    if let Some(expires) = session.session_expires_ms {
        json.signed("session_expires_ms", expires);
    }
    json.key("streams").array(session.streams.iter(), |json, state| json.object(|json| write_state(json, state)));
}

fn write_state(json: &mut Json, state: &v1::StreamState) {
    json.text("stream", &state.stream).text("epoch", &state.epoch);
    json.number("head", state.head).number("first", state.first).text_unless_empty("recovered", &state.recovered);
}

fn write_batch<'a>(
    json: &mut Json,
    stream: &str,
    epoch: &str,
    range: Option<(u64, u64)>,
    messages: impl Iterator<Item = &'a v1::Message>,
) {
    json.text("stream", stream).text_unless_empty("epoch", epoch);
    if let Some((after, upto)) = range {
        json.number("after", after).number("upto", upto);
    }
    json.key("messages").array(messages, write_message);
}

fn write_message(json: &mut Json, message: &v1::Message) {
    json.object(|json| {
        json.number_unless_zero("seq", message.seq).text("id", &message.id).text_unless_empty("from", &message.from);
        json.text_unless_empty("to", &message.to).text_unless_empty("conv", &message.conv);
        json.number_unless_zero("conv_seq", message.conv_seq);
        json.text_unless_empty("client_msg_id", &message.client_msg_id).text("type", &message.r#type);
        json.text_unless_empty("title", &message.title);
        if message.content_bytes.is_empty() {
            json.text("content", &message.content);
        } else {
            json.text("content_b64", &STANDARD.encode(&message.content_bytes));
        }
        if !message.metadata.is_empty() {
            json.key("metadata").raw(&message.metadata);
        }
        if message.ts != 0 {
            json.signed("ts", message.ts);
        }
        match message.priority() {
            v1::Priority::Unspecified => {}
            v1::Priority::High => json.literal("priority", "\"high\""),
            v1::Priority::Normal => json.literal("priority", "\"normal\""),
            v1::Priority::Low => json.literal("priority", "\"low\""),
        }
    });
}

fn write_gap(json: &mut Json, gap: &v1::Gap) {
    json.text("stream", &gap.stream).text("epoch", &gap.epoch);
    json.number("from", gap.from).number("to", gap.to).number("head", gap.head);
    json.number("pull_after_ms", u64::from(gap.pull_after_ms)).flag("lazy", gap.lazy);
}

fn write_bye(json: &mut Json, bye: &v1::Bye) {
    json.number("code", u64::from(bye.code)).text("reason", &bye.reason).flag("reconnect", bye.reconnect);
    if let Some(after) = bye.reconnect_after_ms {
        json.number("reconnect_after_ms", u64::from(after));
    }
    json.text_unless_empty("endpoint", &bye.endpoint);
}

fn size_guess(frame: &v1::ServerFrame) -> usize {
    let messages = match &frame.body {
        Some(Body::Batch(batch)) => batch.messages.len(),
        Some(Body::Ok(v1::Ok { result: Some(ok::Result::Pull(pulled)) })) => pulled.messages.len(),
        _ => 0,
    };
    FRAME_BYTES_GUESS + messages * MESSAGE_BYTES_GUESS
}

/// A JSON text under construction. `comma`: a value stands before the place of writing, on the same level.
struct Json {
    out: Vec<u8>,
    comma: bool,
}

impl Json {
    fn separate(&mut self) {
        if self.comma {
            self.out.push(b',');
        }
        self.comma = true;
    }

    /// Names are ours and hold nothing to escape.
    fn key(&mut self, name: &str) -> &mut Self {
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self
    }

    fn object(&mut self, write: impl FnOnce(&mut Self)) {
        self.out.push(b'{');
        self.comma = false;
        write(self);
        self.out.push(b'}');
        self.comma = true;
    }

    fn array<T>(&mut self, items: impl Iterator<Item = T>, write: impl Fn(&mut Self, T)) {
        self.out.push(b'[');
        self.comma = false;
        for item in items {
            self.separate();
            write(self, item);
            self.comma = true;
        }
        self.out.push(b']');
        self.comma = true;
    }

    fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.key(name).string(value);
        self
    }

    fn text_unless_empty(&mut self, name: &str, value: &str) -> &mut Self {
        if value.is_empty() { self } else { self.text(name, value) }
    }

    fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.key(name).decimal(value);
        self
    }

    fn number_unless_zero(&mut self, name: &str, value: u64) -> &mut Self {
        if value == 0 { self } else { self.number(name, value) }
    }

    fn signed(&mut self, name: &str, value: i64) {
        self.key(name);
        if value < 0 {
            self.out.push(b'-');
        }
        self.decimal(value.unsigned_abs());
    }

    fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.key(name).raw(if value { "true" } else { "false" });
        self
    }

    fn literal(&mut self, name: &str, value: &str) {
        self.key(name).raw(value);
    }

    fn raw(&mut self, json: &str) {
        self.out.extend_from_slice(json.as_bytes());
    }

    fn decimal(&mut self, mut value: u64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.out.extend_from_slice(&digits[at..]);
    }

    /// RFC 8259 §7: the quote, the backslash and control characters are escaped, all else stands for itself.
    fn string(&mut self, text: &str) {
        self.out.push(b'"');
        let bytes = text.as_bytes();
        let mut from = 0;
        for (i, &byte) in bytes.iter().enumerate() {
            if byte >= 0x20 && byte != b'"' && byte != b'\\' {
                continue;
            }
            self.out.extend_from_slice(&bytes[from..i]);
            self.escape(byte);
            from = i + 1;
        }
        self.out.extend_from_slice(&bytes[from..]);
        self.out.push(b'"');
    }

    fn escape(&mut self, byte: u8) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ => {
                let escaped = [b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                return self.out.extend_from_slice(&escaped);
            }
        };
        self.out.extend_from_slice(&[b'\\', short]);
    }
}
