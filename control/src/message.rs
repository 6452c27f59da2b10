//! What every way in demands of a message, whoever brings it.

use bytes::Bytes;
use serde_json::{Map, Value};
use tidegate_control_core::domain::{Content, ErrorCode, Refusal};
use tidegate_control_core::partition::limits;

/// Type of a message that names none.
pub const KIND_DEFAULT: &str = "text";
/// Most characters of a client's `text` message.
pub const TEXT_CHARS_MAX: usize = 2_000;
/// Deepest nesting of metadata, the object itself included; what gateways accept from clients as well.
const METADATA_DEPTH_MAX: u32 = 32;
/// Most messages of one page.
pub const PAGE_MESSAGES_MAX: usize = limits::PULL_MESSAGES_MAX;
/// Longest `message_id` or `client_msg_id`.
pub const KEY_BYTES_MAX: usize = limits::MESSAGE_ID_BYTES_MAX;
/// Types that only the server makes.
const SYSTEM_KINDS: &str = "system_";

const _: () = assert!(KEY_BYTES_MAX == limits::CLIENT_MSG_ID_BYTES_MAX);

/// Text or binary, not both.
pub fn text_or_binary(text: String, binary: Bytes) -> Result<Content, String> {
    match (text.is_empty(), binary.is_empty()) {
        (_, true) => Ok(Content::Text(text.into())),
        (true, false) => Ok(Content::Binary(binary)),
        (false, false) => Err("`content` and binary content exclude each other".to_owned()),
    }
}

/// Bounds on a message's type and content, tighter for a client's.
pub fn check_content(kind: &str, content: &Content, from_client: bool) -> Result<(), Refusal> {
    let good = check_word(kind, limits::KIND_BYTES_MAX);
    good.map_err(|text| Refusal::new(ErrorCode::BadRequest, format!("`type` {text}")))?;
    if kind.starts_with(SYSTEM_KINDS) && from_client {
        return Err(Refusal::new(ErrorCode::Forbidden, "only the server sends system messages"));
    }
    let long = match content {
        Content::Text(text) if kind == KIND_DEFAULT && from_client => text.chars().count() > TEXT_CHARS_MAX,
        _ => false,
    };
    if long {
        return Err(Refusal::new(ErrorCode::TooLarge, format!("a text has at most {TEXT_CHARS_MAX} characters")));
    }
    if content.len() > limits::CONTENT_BYTES_MAX {
        let text = format!("a message has at most {} bytes of content", limits::CONTENT_BYTES_MAX);
        return Err(Refusal::new(ErrorCode::TooLarge, text));
    }
    Ok(())
}

/// Metadata is a JSON object as text, or empty.
pub fn check_metadata(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    if text.len() > limits::METADATA_BYTES_MAX {
        return Err(format!("`metadata` has more than {} bytes", limits::METADATA_BYTES_MAX));
    }
    // Parsed in full: it goes to clients as it is, and one that their parsers refuse would spoil the whole batch.
    match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(object) if object.values().all(|value| is_shallow(value, METADATA_DEPTH_MAX - 1)) => Ok(()),
        Ok(_) => Err(format!("`metadata` has more than {METADATA_DEPTH_MAX} levels")),
        Err(_) => Err("`metadata` is not a JSON object".to_owned()),
    }
}

fn is_shallow(value: &Value, levels: u32) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_shallow(item, levels - 1)),
        Value::Object(fields) => levels > 0 && fields.values().all(|field| is_shallow(field, levels - 1)),
        _ => true,
    }
}

/// A word without spaces or control characters, such as a type or a platform.
pub fn check_word(word: &str, bytes_max: usize) -> Result<(), String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':' | b'/' | b'+');
    if word.is_empty() || word.len() > bytes_max || !word.bytes().all(ok) {
        return Err(format!("must be 1 to {bytes_max} of A-Z a-z 0-9 _ - . : / +"));
    }
    Ok(())
}

/// A key, a title or a name that people see: short, and without what could split a log line.
pub fn check_line(text: &str, bytes_max: usize) -> Result<(), String> {
    if text.len() > bytes_max || text.chars().any(char::is_control) {
        return Err(format!("must be at most {bytes_max} bytes without control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_must_be_an_object() {
        for good in ["", "{}", "{\"a\":[1,{\"b\":null}]}"] {
            assert_eq!(check_metadata(good), Ok(()), "{good}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(limits::METADATA_BYTES_MAX));
        for bad in ["[]", "1", "{", "{}{}", "{\"a\":}", "{\"a\":1e999}", "{\"a\":\"\\ud800\"}", &deep, &long] {
            assert!(check_metadata(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn clients_are_bounded_and_may_not_play_the_server() {
        let text = |n: usize| Content::Text("ä".repeat(n).into());
        assert!(check_content("text", &text(TEXT_CHARS_MAX), true).is_ok());
        let code = |result: Result<(), Refusal>| result.expect_err("refused").code;
        assert_eq!(code(check_content("text", &text(TEXT_CHARS_MAX + 1), true)), ErrorCode::TooLarge);
        assert!(check_content("text", &text(TEXT_CHARS_MAX + 1), false).is_ok());
        assert_eq!(code(check_content("system_group", &text(1), true)), ErrorCode::Forbidden);
        assert_eq!(code(check_content("a b", &text(1), false)), ErrorCode::BadRequest);
    }

    #[test]
    fn text_and_binary_exclude_each_other() {
        assert_eq!(text_or_binary(String::new(), Bytes::new()), Ok(Content::Text("".into())));
        assert_eq!(
            text_or_binary(String::new(), Bytes::from_static(b"\0")),
            Ok(Content::Binary(Bytes::from_static(b"\0")))
        );
        assert!(text_or_binary("a".to_owned(), Bytes::from_static(b"b")).is_err());
    }
}
