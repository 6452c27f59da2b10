//! Small constructors of frames down.

use tidegate_proto::v1::{self, server_frame::Body};

use crate::client::errors::ErrorCode;
use crate::ids::{Epoch, Seq};
use crate::link::{Head, LinkError, Recovered};
use crate::ws::close::CloseCode;

/// Answers request `id`; `None` is the empty object (`leave`, `ack`, `read`, `ping`).
pub fn ok_frame(id: u32, result: Option<v1::ok::Result>) -> v1::ServerFrame {
    v1::ServerFrame { id, body: Some(Body::Ok(v1::Ok { result })) }
}

/// The session object: the `ok` of the `connect` request `reply_to`, or a `welcome`.
pub fn session_frame(reply_to: Option<u32>, session: v1::Session) -> v1::ServerFrame {
    match reply_to {
        Some(id) => ok_frame(id, Some(v1::ok::Result::Connect(session))),
        None => v1::ServerFrame { id: 0, body: Some(Body::Welcome(session)) },
    }
}

/// An error without further fields; `retry` follows from the code.
pub fn error_frame(id: u32, code: ErrorCode, message: &str) -> v1::ServerFrame {
    let error =
        v1::Error { code: code.as_str().into(), message: message.into(), retry: code.retry(), ..Default::default() };
    v1::ServerFrame { id, body: Some(Body::Error(error)) }
}

/// An error that control gave, with everything it said.
pub fn link_error_frame(id: u32, error: &LinkError) -> v1::ServerFrame {
    let stands = error.stands.as_ref();
    let error = v1::Error {
        code: error.code.as_str().into(),
        message: error.message.to_string(),
        retry: error.code.retry(),
        retry_after_ms: error.retry_after_ms,
        epoch: stands.map(|head| head.epoch.to_string()).unwrap_or_default(),
        head: stands.map(|head| head.head.0),
        first: stands.map(|head| head.first.0),
    };
    v1::ServerFrame { id, body: Some(Body::Error(error)) }
}

/// One entry of a session object; the `ok` of `join` and, without `recovered`, of `head`.
pub fn stream_state(stream: &str, stands: &Head, recovered: Option<Recovered>) -> v1::StreamState {
    let recovered = match recovered {
        None => "",
        Some(Recovered::Full) => "full",
        Some(Recovered::Partial) => "partial",
        Some(Recovered::Expired) => "expired",
    };
    v1::StreamState {
        stream: stream.to_string(),
        epoch: stands.epoch.to_string(),
        head: stands.head.0,
        first: stands.first.0,
        recovered: recovered.into(),
    }
}

/// Messages `from ..= to` were not sent; the client pulls after `pull_after_ms`.
pub fn gap_frame(stream: &str, epoch: &Epoch, from: Seq, to: Seq, head: Seq, pull_after_ms: u32) -> v1::ServerFrame {
    let gap = v1::Gap {
        stream: stream.to_string(),
        epoch: epoch.to_string(),
        from: from.0,
        to: to.0,
        head: head.0,
        pull_after_ms,
        lazy: false,
    };
    v1::ServerFrame { id: 0, body: Some(Body::Gap(gap)) }
}

/// The last frame before a close; whether to reconnect follows from the code. `endpoint`: where to, if not empty.
pub fn bye_frame(code: CloseCode, reason: &str, reconnect_after_ms: Option<u32>, endpoint: &str) -> v1::ServerFrame {
    let bye = v1::Bye {
        code: u32::from(code.number()),
        reason: reason.into(),
        reconnect: code.reconnect(),
        reconnect_after_ms,
        endpoint: endpoint.into(),
    };
    v1::ServerFrame { id: 0, body: Some(Body::Bye(bye)) }
}
