//! Templates, names of indices, and retention.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tidegate_control_core::domain::Timestamp;

use super::OpenSearchRecords;
use super::http::Body;
use crate::records::IndexError;

/// Raised with every change of the templates. What is there in a newer version is left as it is.
const TEMPLATE_VERSION: i64 = 1;
/// Above what Elasticsearch brings with it (100 and a little more).
const TEMPLATE_PRIORITY: i64 = 500;
const PREFIX_BYTES_MAX: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Records,
    Texts,
}

impl Family {
    const ALL: [Family; 2] = [Family::Records, Family::Texts];

    fn as_str(self) -> &'static str {
        match self {
            Family::Records => "records",
            Family::Texts => "texts",
        }
    }

    /// Every field, so that a field of another program is an error and not a guess. Words are terms that were cut before:
    /// keywords, without what sorting would need. They are not kept in the document, since they follow from its text.
    fn properties(self) -> Value {
        let keyword = json!({"type": "keyword"});
        let found = json!({"type": "keyword", "doc_values": false});
        let kept = json!({"type": "keyword", "index": false, "doc_values": false});
        let date = json!({"type": "date", "format": "epoch_millis"});
        match self {
            Family::Records => json!({
                "ts": date, "id": keyword, "to": keyword, "from": keyword, "key": found, "uids": found, "type": keyword,
                "text": kept, "sealed": {"type": "boolean"}, "epoch": kept, "seq": {"type": "long"},
                "online": {"type": "long"}, "ephemeral": {"type": "boolean"}, "traceparent": kept, "status": keyword,
                "changes": {"type": "object", "enabled": false}, "words": found,
            }),
            Family::Texts => json!({
                "ts": date, "stream": keyword, "seq": {"type": "long"}, "epoch": keyword, "id": kept, "words": found,
            }),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    /// `None`: not a good prefix.
    pub fn new(prefix: &str) -> Option<Names> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let plain = prefix.starts_with(|c: char| c.is_ascii_lowercase()) && prefix.bytes().all(good);
        (plain && prefix.len() <= PREFIX_BYTES_MAX).then(|| Names { prefix: prefix.to_owned() })
    }

    fn template(&self, family: Family) -> String {
        format!("{}-{}", self.prefix, family.as_str())
    }

    pub fn all(&self, family: Family) -> String {
        format!("{}-*", self.template(family))
    }

    /// The index of a time.
    pub fn index(&self, family: Family, ts: Timestamp) -> String {
        let (year, month) = month_of(ts);
        format!("{}-{year:04}.{month:02}", self.template(family))
    }

    /// The month of an index of ours.
    fn month(&self, family: Family, index: &str) -> Option<(i64, i64)> {
        let rest = index.strip_prefix(&self.template(family))?.strip_prefix('-')?;
        let (year, month) = rest.split_once('.')?;
        if year.len() != 4 || month.len() != 2 {
            return None;
        }
        Some((year.parse().ok()?, month.parse().ok()?))
    }
}

/// Year and month (1 to 12) in UTC: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn month_of(ts: Timestamp) -> (i64, i64) {
    let days = ts.0.div_euclid(86_400_000) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March here, so that the leap day is the last.
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month)
}

impl OpenSearchRecords {
    /// Makes the templates, once.
    pub(super) async fn ready(&self) -> Result<(), IndexError> {
        if *self.ready.lock().await {
            return Ok(());
        }
        self.make_templates().await
    }

    pub(super) async fn make_templates(&self) -> Result<(), IndexError> {
        let mut ready = self.ready.lock().await;
        for family in Family::ALL {
            let path = format!("/_index_template/{}", self.names.template(family));
            let there = self.http.ask(Method::GET, &path, Body::None).await?;
            let found = match there.status {
                StatusCode::NOT_FOUND => None,
                _ => there.ok()?["index_templates"][0]["index_template"]["version"].as_i64(),
            };
            if found.is_none_or(|found| found < TEMPLATE_VERSION) {
                let template = self.template(family);
                self.http.ask(Method::PUT, &path, Body::Json(&template)).await?.ok()?;
            }
        }
        *ready = true;
        Ok(())
    }

    fn template(&self, family: Family) -> Value {
        json!({
            "index_patterns": [self.names.all(family)],
            "priority": TEMPLATE_PRIORITY,
            "version": TEMPLATE_VERSION,
            "template": {
                "settings": {"index": {"number_of_shards": 1, "number_of_replicas": self.replicas}},
                "mappings": {
                    "dynamic": "strict",
                    "_source": {"excludes": ["words"]},
                    "properties": family.properties(),
                },
            },
        })
    }

    /// Deletes the indices of which all is too old, each by its own name.
    pub(super) async fn drop_old(&self, now: Timestamp) -> Result<(), IndexError> {
        let oldest = month_of(Timestamp(now.0 - i64::from(self.keep_days) * 86_400_000));
        for family in Family::ALL {
            let path = format!("/_cat/indices/{}?h=index&format=json", self.names.all(family));
            let answer = self.http.ask(Method::GET, &path, Body::None).await?;
            if answer.status == StatusCode::NOT_FOUND {
                continue;
            }
            let listed = answer.ok()?;
            let names = listed.as_array().into_iter().flatten().filter_map(|row| row["index"].as_str());
            for index in names.filter(|index| self.names.month(family, index).is_some_and(|month| month < oldest)) {
                let deleted = self.http.ask(Method::DELETE, &format!("/{index}"), Body::None).await?;
                if deleted.status != StatusCode::NOT_FOUND {
                    deleted.ok()?;
                }
                tracing::info!(index, "push records were dropped: too old");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_the_calendars() {
        for (ms, month) in [
            (0, (1970, 1)),
            (1_709_164_800_000 - 1, (2024, 2)),
            (1_709_251_200_000 - 1, (2024, 2)),
            (1_709_251_200_000, (2024, 3)),
            (1_798_761_600_000 - 1, (2026, 12)),
            (1_798_761_600_000, (2027, 1)),
            (4_107_542_400_000, (2100, 3)),
        ] {
            assert_eq!(month_of(Timestamp(ms)), month, "{ms}");
        }
    }

    #[test]
    fn only_indices_of_ours_are_known() {
        let names = Names::new("tidegate").expect("a good prefix");
        let index = names.index(Family::Records, Timestamp(1_790_000_000_000));
        assert_eq!(index, "tidegate-records-2026.09");
        assert_eq!(names.month(Family::Records, &index), Some((2026, 9)));
        for other in ["tidegate-records-2026.9", "tidegate-records-old", "tidegate-texts-2026.09", "records-2026.09"] {
            assert_eq!(names.month(Family::Records, other), None, "{other}");
        }
        for bad in ["", "A", "a*", "a,b", "-a", "a/b", &"a".repeat(41)] {
            assert!(Names::new(bad).is_none(), "{bad}");
        }
    }
}
