//! Fields that other producers write in more than one way, and ours that JSON cannot hold as they are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

enum Scalar {
    Text(String),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
}

/// By hand: derived as untagged it would buffer every value and try one form after the other, for most fields of all records.
impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("text or a number")
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(text))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Signed(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(i64::try_from(number).map_or(Scalar::Unsigned(number), Scalar::Signed))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar::Float(number))
    }
}

/// Ids are text, but some producers write numbers. `null` is empty.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Option::<Scalar>::deserialize(deserializer)? {
        None => String::new(),
        Some(Scalar::Text(text)) => text,
        Some(Scalar::Signed(number)) => number.to_string(),
        Some(Scalar::Unsigned(number)) => number.to_string(),
        Some(Scalar::Float(number)) => return Err(D::Error::custom(format!("{number} is no id"))),
    })
}

/// A whole number, or its decimal text. `null` and empty text are 0.
pub fn millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    match Option::<Scalar>::deserialize(deserializer)? {
        None => Ok(0),
        Some(Scalar::Signed(number)) => Ok(number),
        Some(Scalar::Text(text)) if text.is_empty() => Ok(0),
        Some(Scalar::Text(text)) => text.parse().map_err(|_| D::Error::custom("not a time in milliseconds")),
        Some(Scalar::Unsigned(_) | Scalar::Float(_)) => Err(D::Error::custom("not a time in milliseconds")),
    }
}

/// `1`, `"1"`, `"1.0"` and `"v1"` are the same version. What says nothing is 1.
pub fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let parse = |text: &str| {
        let digits = text.trim_start_matches(['v', 'V']).split('.').next().unwrap_or_default();
        digits.parse().map_err(|_| D::Error::custom("not a version"))
    };
    match Option::<Scalar>::deserialize(deserializer)? {
        None => Ok(super::VERSION),
        Some(Scalar::Text(text)) if text.is_empty() => Ok(super::VERSION),
        Some(Scalar::Text(text)) => parse(&text),
        Some(Scalar::Signed(number)) => u32::try_from(number).map_err(|_| D::Error::custom("not a version")),
        Some(Scalar::Unsigned(_)) => Err(D::Error::custom("not a version")),
        Some(Scalar::Float(number)) => parse(&number.to_string()),
    }
}

pub fn default_version() -> u32 {
    super::VERSION
}

/// A JSON object that we keep as the text it came as. Empty text is written as `{}`, and `{}` read as empty.
pub mod metadata {
    use super::*;

    pub fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        if text.is_empty() {
            return serializer.collect_map(std::iter::empty::<((), ())>());
        }
        match RawValue::from_string(text.to_owned()) {
            Ok(raw) => raw.serialize(serializer),
            // Nobody should let it come this far. As a string it is at least kept, and refused by whoever reads it.
            Err(_) => text.serialize(serializer),
        }
    }

    /// An object, its text, or `null`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        match raw.as_bytes()[0] {
            b'{' => Ok(unless_empty(raw)),
            b'n' => Ok(String::new()),
            b'"' => {
                let text: String = serde_json::from_str(raw).map_err(D::Error::custom)?;
                check(&text).map_err(D::Error::custom)?;
                Ok(unless_empty(&text))
            }
            _ => Err(D::Error::custom("metadata is no object")),
        }
    }
}

/// Whether the text is empty or a JSON object.
pub fn check(metadata: &str) -> Result<(), String> {
    if metadata.is_empty() {
        return Ok(());
    }
    match serde_json::from_str::<&RawValue>(metadata) {
        Ok(raw) if raw.get().starts_with('{') => Ok(()),
        Ok(_) => Err("metadata is no object".to_owned()),
        Err(error) => Err(format!("metadata is no JSON: {error}")),
    }
}

pub fn unless_empty(metadata: &str) -> String {
    let inner = metadata.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    if inner.is_some_and(|inner| inner.trim().is_empty()) { String::new() } else { metadata.to_owned() }
}

/// Bytes as base 64; absent when there are none to speak of.
pub mod bytes {
    use super::*;

    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(|bytes| STANDARD.encode(bytes)).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| STANDARD.decode(text).map_err(D::Error::custom)).transpose()
    }
}
