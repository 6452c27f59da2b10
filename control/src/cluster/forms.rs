//! A push and its record in the upstream topic.

use tidegate_bus::port::Record;
use tidegate_bus::records::{self, Form as _, Format, Sender, Upstream, VERSION};
use tidegate_control_core::domain::{Content, MessageId, Priority, Refusal, StreamKey, Uid};
use tidegate_control_core::partition::Push;

use crate::message::{KEY_BYTES_MAX, KIND_DEFAULT, check_content, check_line, check_metadata};

/// The id that the node which took the push in gave it; without it `message_id` is the caller's key.
pub(super) const ID: &str = "tidegate-id";
/// Who waits for the result, and by what it knows it: `node#incarnation#corr`.
pub(super) const REPLY_TO: &str = "tidegate-reply-to";
/// Stands, empty, on a record of ours that none of the former two says to be ours: its key is its stream.
pub(super) const KEYED: &str = "tidegate-keyed";
/// Stands on a record that was found in another partition than its stream's and was put where it belongs.
pub(super) const REKEYED: &str = "tidegate-rekeyed-from";

/// Where a result goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReplyTo {
    pub node: String,
    pub incarnation: u64,
    pub corr: u64,
}

/// Why a record is nobody's push, now and later.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoPush {
    #[error("undecodable: {0}")]
    Undecodable(#[from] records::Undecodable),
    #[error("invalid: {0}")]
    Invalid(String),
}

pub(super) fn encode(push: &Push, timestamp: i64, format: Format) -> Vec<u8> {
    let (content, content_bytes) = content_fields(&push.content);
    let to_user = |uid: Uid| uid.to_string();
    let group = push.to.gid().map(|gid| gid.to_string());
    let conversation = match (&push.sender, push.to.uid()) {
        (Some(sender), Some(to)) => Some(StreamKey::conversation(sender, &to).to_string()),
        _ => group,
    };
    let key = push.message_id.as_deref().map(str::to_owned);
    let upstream = Upstream {
        message_id: key.or_else(|| push.id.map(|id| id.to_string())).unwrap_or_default(),
        from_user_id: push.sender.as_ref().map_or_else(|| push.from.to_string(), Uid::to_string),
        to_user_id: push.to.uid().map(to_user).unwrap_or_default(),
        conversation_id: conversation.unwrap_or_default(),
        content,
        message_type: push.kind.to_string(),
        metadata: push.metadata.to_string(),
        gateway_id: String::new(),
        timestamp,
        version: VERSION,
        stream: push.to.to_string(),
        sender: if push.sender.is_some() { Sender::Client } else { Sender::Backend },
        client_msg_id: Some(push.client_msg_id.to_string()),
        title: push.title.to_string(),
        ephemeral: push.ephemeral,
        priority: priority_field(push.priority),
        ttl_s: push.ttl_s,
        platforms: push.platforms.iter().map(|platform| platform.to_string()).collect(),
        content_bytes,
        traceparent: String::new(),
    };
    upstream.encode(format)
}

pub(super) fn decode(record: &Record) -> Result<Push, NoPush> {
    push_of(Upstream::decode(&record.value)?, number(record, ID).map(MessageId))
}

/// `id`: given by who took the push in; then `message_id` says the same, and is no key.
pub(super) fn push_of(upstream: Upstream, id: Option<MessageId>) -> Result<Push, NoPush> {
    let invalid = |what: &str| NoPush::Invalid(what.to_owned());
    let to: StreamKey = upstream
        .target()
        .map_err(|error| NoPush::Invalid(error.to_string()))?
        .parse()
        .map_err(|_| invalid("the target is no stream"))?;
    let sender: Option<Uid> = match upstream.sender {
        Sender::Backend => None,
        Sender::Client => Some(upstream.from_user_id.parse().map_err(|_| invalid("from_user_id is no uid"))?),
    };
    // A client's conversation is written through the other user.
    let to = match (to.pair(), &sender) {
        (None, _) => to,
        (Some((a, b)), Some(sender)) if *sender == a => b.stream(),
        (Some((a, b)), Some(sender)) if *sender == b => a.stream(),
        (Some(_), _) => return Err(invalid("the conversation is not the sender's")),
    };
    let client_msg_id = if sender.is_some() { upstream.client_key().to_owned() } else { String::new() };
    let message_id = (id.is_none() && sender.is_none() && !upstream.message_id.is_empty())
        .then(|| upstream.message_id.clone().into_boxed_str());
    let content = content_of(upstream.content, upstream.content_bytes);
    let kind = if upstream.message_type.is_empty() { KIND_DEFAULT.to_owned() } else { upstream.message_type };
    let refused = |refusal: Refusal| NoPush::Invalid(refusal.message.into());
    check_content(&kind, &content, sender.is_some()).map_err(refused)?;
    check_metadata(&upstream.metadata).map_err(NoPush::Invalid)?;
    check_line(&client_msg_id, KEY_BYTES_MAX).map_err(NoPush::Invalid)?;
    check_line(message_id.as_deref().unwrap_or(""), KEY_BYTES_MAX).map_err(NoPush::Invalid)?;
    Ok(Push {
        id,
        to,
        from: if sender.is_some() { "".into() } else { upstream.from_user_id.into() },
        sender,
        client_msg_id: client_msg_id.into(),
        message_id,
        kind: kind.into(),
        title: upstream.title.into(),
        content,
        metadata: upstream.metadata.into(),
        ephemeral: upstream.ephemeral,
        priority: priority_of(upstream.priority),
        ttl_s: upstream.ttl_s,
        platforms: upstream.platforms.into_iter().map(String::into_boxed_str).collect(),
        ack_durable: false,
    })
}

/// `content` and `content_b64` of a record.
pub(super) fn content_fields(content: &Content) -> (String, Option<Vec<u8>>) {
    match content {
        Content::Text(text) => (text.to_string(), None),
        Content::Binary(bytes) => (String::new(), Some(bytes.to_vec())),
    }
}

pub(super) fn content_of(text: String, bytes: Option<Vec<u8>>) -> Content {
    match bytes {
        Some(bytes) => Content::Binary(bytes.into()),
        None => Content::Text(text.into()),
    }
}

pub(super) fn priority_field(priority: Priority) -> records::Priority {
    match priority {
        Priority::High => records::Priority::High,
        Priority::Normal => records::Priority::Normal,
        Priority::Low => records::Priority::Low,
    }
}

pub(super) fn priority_of(priority: records::Priority) -> Priority {
    match priority {
        records::Priority::High => Priority::High,
        records::Priority::Normal => Priority::Normal,
        records::Priority::Low => Priority::Low,
    }
}

pub(super) fn reply_to(record: &Record) -> Option<ReplyTo> {
    let mut parts = std::str::from_utf8(record.header(REPLY_TO)?).ok()?.rsplitn(3, '#');
    let (corr, incarnation) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(ReplyTo { node: parts.next()?.to_owned(), incarnation, corr })
}

/// One of us appended it, under the key of its stream.
pub(super) fn is_keyed(record: &Record) -> bool {
    record.headers.iter().any(|(name, _)| matches!(&**name, REPLY_TO | ID | KEYED))
}

fn number(record: &Record, header: &str) -> Option<u64> {
    std::str::from_utf8(record.header(header)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: Vec<u8>, headers: &[(&str, &str)]) -> Record {
        Record {
            topic: "t".into(),
            partition: 0,
            offset: 0,
            key: None,
            headers: headers.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect(),
            value: value.into(),
            timestamp: 0,
        }
    }

    fn push(to: &str) -> Push {
        Push {
            id: None,
            to: to.parse().expect("a stream"),
            sender: None,
            from: "billing".into(),
            client_msg_id: "".into(),
            message_id: Some("k1".into()),
            kind: "text".into(),
            title: "t".into(),
            content: Content::Text("hi".into()),
            metadata: r#"{"a":1}"#.into(),
            ephemeral: false,
            priority: Priority::High,
            ttl_s: 7,
            platforms: ["web".into()].into_iter().collect(),
            ack_durable: false,
        }
    }

    #[test]
    fn a_push_comes_back_as_it_went_in_both_forms() {
        let client = Push {
            sender: Some("ann".parse().expect("a uid")),
            from: "".into(),
            message_id: None,
            client_msg_id: "c1".into(),
            content: Content::Binary(vec![0, 255].into()),
            kind: "blob".into(),
            ..push("u:bob")
        };
        for push in [push("g:go"), client] {
            for format in [Format::Json, Format::Protobuf] {
                let again = decode(&record(encode(&push, 5, format), &[])).expect("a push");
                assert_eq!(format!("{again:?}"), format!("{push:?}"));
            }
        }
    }

    #[test]
    fn an_id_that_was_given_is_no_key() {
        let given = Push { id: Some(MessageId(77)), message_id: None, ..push("u:bob") };
        let again = decode(&record(encode(&given, 5, Format::Json), &[(ID, "77")])).expect("a push");
        assert_eq!((again.id, again.message_id), (Some(MessageId(77)), None));
    }

    #[test]
    fn records_of_others_are_taken_and_nonsense_is_named() {
        let outside = br#"{"message_id":"m1","from_user_id":"ann","to_user_id":"bob","content":"hi","timestamp":1}"#;
        let push = decode(&record(outside.to_vec(), &[])).expect("a push");
        assert_eq!((push.to.as_str(), &*push.client_msg_id, push.sender.is_some()), ("u:bob", "m1", true));
        for bad in [
            &b"{"[..],
            br#"{"from_user_id":"ann","content":"hi"}"#,
            br#"{"from_user_id":"a b","to_user_id":"bob","content":"hi"}"#,
            br#"{"from_user_id":"ann","conversation_id":"c:bob:cat","content":"hi"}"#,
        ] {
            assert!(decode(&record(bad.to_vec(), &[])).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn who_waits_is_named_by_node_and_incarnation() {
        let headers = [(REPLY_TO, "control-1#42#7")];
        let expected = ReplyTo { node: "control-1".to_owned(), incarnation: 42, corr: 7 };
        assert_eq!(reply_to(&record(Vec::new(), &headers)), Some(expected));
        for bad in ["x", "x#1", "x#y#1", "x#1#y"] {
            assert_eq!(reply_to(&record(Vec::new(), &[(REPLY_TO, bad)])), None, "{bad}");
        }
    }
}
