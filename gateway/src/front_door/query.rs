//! What a connection may say in its query: credentials, cursors, options. Percent-decoding is strict, known parameters may
//! come once, unknown ones are ignored.

use std::collections::BTreeMap;

use serde::Deserialize;
use tidegate_gateway_core::client::ops::AckMode;
use tidegate_gateway_core::ids::{Cursor, Epoch, Seq, StreamKey};

use super::refusal::Refusal;

/// Most cursors in a query; more go into a `connect` frame after `defer=1`.
pub const QUERY_CURSORS_MAX: usize = 50;
/// Most parameters that are looked at.
const PARAMETERS_MAX: usize = 64;
const EPOCH_BYTES_MAX: usize = 64;

/// The query, decoded.
#[derive(Clone, Debug, Default)]
pub struct ConnectQuery {
    pub token: Option<String>,
    pub uid: Option<String>,
    pub device: Option<String>,
    pub platform: Option<String>,
    pub cursors: Vec<(StreamKey, Cursor)>,
    /// A `connect` frame follows although the handshake carried a credential.
    pub defer: bool,
    pub auto_join: Option<bool>,
    pub ack_mode: AckMode,
    pub ping_interval_ms: Option<u32>,
}

#[derive(Deserialize)]
struct WireCursor {
    epoch: String,
    seq: u64,
}

impl ConnectQuery {
    /// `query`: what stands after the `?`, still encoded.
    pub fn parse(query: &str) -> Result<ConnectQuery, Refusal> {
        let mut known = Known::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()).take(PARAMETERS_MAX + 1) {
            known.take(pair)?;
        }
        let flag = |name, value: Option<String>| value.map(|value| flag(name, &value)).transpose();
        Ok(ConnectQuery {
            cursors: known.value("cursors").map(|json| cursors(&json)).transpose()?.unwrap_or_default(),
            defer: flag("defer", known.value("defer"))?.unwrap_or(false),
            auto_join: flag("auto_join", known.value("auto_join"))?,
            ack_mode: match known.value("ack_mode").as_deref() {
                None | Some("client") => AckMode::Client,
                Some("sent") => AckMode::Sent,
                Some(_) => return Err(Refusal::bad("ack_mode is client or sent")),
            },
            ping_interval_ms: match known.value("ping_interval_ms") {
                None => None,
                Some(text) => {
                    Some(text.parse().map_err(|_| Refusal::bad("ping_interval_ms is a number of milliseconds"))?)
                }
            },
            token: known.value("token"),
            uid: known.value("uid"),
            device: known.value("device"),
            platform: known.value("platform"),
        })
    }
}

const NAMES: [&str; 9] =
    ["token", "uid", "device", "platform", "cursors", "defer", "auto_join", "ack_mode", "ping_interval_ms"];

#[derive(Default)]
struct Known {
    values: [Option<String>; NAMES.len()],
    seen: usize,
}

impl Known {
    fn take(&mut self, pair: &str) -> Result<(), Refusal> {
        self.seen += 1;
        if self.seen > PARAMETERS_MAX {
            return Err(Refusal::bad("too many query parameters"));
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        let Some(index) = NAMES.iter().position(|known| *known == name) else { return Ok(()) };
        if self.values[index].replace(value).is_some() {
            return Err(Refusal::bad(format!("{} is given more than once", NAMES[index])));
        }
        Ok(())
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let index = NAMES.iter().position(|known| *known == name)?;
        self.values[index].take()
    }
}

fn flag(name: &str, value: &str) -> Result<bool, Refusal> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(Refusal::bad(format!("{name} is 1 or 0"))),
    }
}

fn cursors(json: &str) -> Result<Vec<(StreamKey, Cursor)>, Refusal> {
    let bad = |why: &'static str| Refusal::bad(why);
    let wire: BTreeMap<String, WireCursor> =
        serde_json::from_str(json).map_err(|_| bad("cursors is not a JSON object of {epoch, seq}"))?;
    if wire.len() > QUERY_CURSORS_MAX {
        return Err(bad("more than 50 cursors in the query: use defer=1 and a connect frame"));
    }
    wire.into_iter()
        .map(|(stream, cursor)| {
            let stream = stream.parse().map_err(|_| bad("cursors names something that is not a stream"))?;
            let ok = cursor.seq <= Seq::MAX.0 && !cursor.epoch.is_empty() && cursor.epoch.len() <= EPOCH_BYTES_MAX;
            let place = Cursor { epoch: Epoch::from(cursor.epoch), seq: Seq(cursor.seq) };
            if ok { Ok((stream, place)) } else { Err(bad("cursors holds an impossible place")) }
        })
        .collect()
}

/// Percent-decoding of a form value: `+` is a space, every `%` has two hex digits, and the result is UTF-8 without control
/// characters.
fn decode(text: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = (rest.next().and_then(hex), rest.next().and_then(hex));
                let (Some(high), Some(low)) = digits else { return Err(Refusal::bad("broken percent-encoding")) };
                high << 4 | low
            }
            other => other,
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| Refusal::bad("a query that is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(Refusal::bad("a control character in the query"));
    }
    Ok(text)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> Refusal {
        ConnectQuery::parse(query).expect_err(query)
    }

    #[test]
    fn everything_has_a_place() {
        let query = "token=a.b.c&device=ios-1&platform=mobile&defer=1&auto_join=0&ack_mode=sent&ping_interval_ms=30000\
             &cursors=%7B%22u%3Aalice%22%3A%7B%22epoch%22%3A%22k3%22%2C%22seq%22%3A17%7D%7D&other=%20";
        let parsed = ConnectQuery::parse(query).expect("valid");
        assert_eq!(parsed.token.as_deref(), Some("a.b.c"));
        assert_eq!((parsed.device.as_deref(), parsed.platform.as_deref()), (Some("ios-1"), Some("mobile")));
        assert_eq!((parsed.defer, parsed.auto_join, parsed.ack_mode), (true, Some(false), AckMode::Sent));
        assert_eq!(parsed.ping_interval_ms, Some(30_000));
        assert_eq!(parsed.cursors.len(), 1);
        assert_eq!(parsed.cursors[0].0.as_str(), "u:alice");
        assert_eq!(parsed.cursors[0].1.seq, Seq(17));
    }

    #[test]
    fn an_empty_query_says_nothing() {
        let parsed = ConnectQuery::parse("").expect("valid");
        assert!(parsed.token.is_none() && parsed.cursors.is_empty() && !parsed.defer);
    }

    #[test]
    fn decoding_is_strict() {
        for query in ["uid=%", "uid=%4", "uid=%zz", "uid=%ff", "uid=%00", "uid=a%0d%0ab", "%zz=1", "uid=%+1"] {
            assert_eq!(refused(query).status, 400, "{query}");
        }
        assert_eq!(ConnectQuery::parse("uid=a+b%2B").expect("valid").uid.as_deref(), Some("a b+"));
    }

    #[test]
    fn unclear_parameters_are_refused() {
        for query in [
            "uid=a&uid=b",
            "uid=a&u%69d=a",
            "defer=yes",
            "auto_join=",
            "ack_mode=server",
            "ping_interval_ms=-1",
            "cursors=%5B%5D",
            "cursors=",
            "cursors=%7B%22x%22%3A%7B%22epoch%22%3A%22k%22%2C%22seq%22%3A1%7D%7D",
            "cursors=%7B%22u%3Aa%22%3A%7B%22epoch%22%3A%22%22%2C%22seq%22%3A1%7D%7D",
            "cursors=%7B%22u%3Aa%22%3A%7B%22epoch%22%3A%22k%22%2C%22seq%22%3A9007199254740992%7D%7D",
        ] {
            assert_eq!(refused(query).status, 400, "{query}");
        }
        assert_eq!(refused(&"a&".repeat(PARAMETERS_MAX + 1)).status, 400);
    }

    #[test]
    fn many_cursors_belong_in_a_frame() {
        let object = |count: usize| {
            let pairs: Vec<String> = (0..count).map(|i| format!(r#""g:{i}":{{"epoch":"k","seq":1}}"#)).collect();
            format!("cursors={{{}}}", pairs.join(","))
        };
        assert_eq!(ConnectQuery::parse(&object(QUERY_CURSORS_MAX)).expect("valid").cursors.len(), QUERY_CURSORS_MAX);
        assert!(refused(&object(QUERY_CURSORS_MAX + 1)).message.contains("defer=1"));
    }
}
