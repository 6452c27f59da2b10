//! Queries, as filters of terms and ranges: what is found is not ranked, it comes by time.

use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::OpenSearchRecords;
use super::documents::{RecordDocument, TextDocument, bad};
use super::http::Body;
use super::indices::Family;
use crate::records::{
    Hit, IndexError, PAGE_MAX, RecordPage, RecordQuery, Scope, TextPage, TextPosition, TextQuery, Words,
};

/// Up to so many streams the server is told how far each may be read; its bound on clauses is 1,024 unless changed. Beyond, it
/// is told the streams only, and what it finds is judged here.
const EXACT_STREAMS_MAX: usize = 100;
/// Pages that are asked for at most, to fill one.
const ROUNDS_MAX: usize = 5;

#[derive(Deserialize)]
struct Found<T> {
    hits: Hits<T>,
}

#[derive(Deserialize)]
struct Hits<T> {
    hits: Vec<Document<T>>,
}

#[derive(Deserialize)]
struct Document<T> {
    _source: T,
}

impl OpenSearchRecords {
    pub(super) async fn read_records(&self, query: &RecordQuery) -> Result<RecordPage, IndexError> {
        let mut filter = Vec::new();
        if let Some(uid) = &query.uid {
            filter.push(json!({"term": {"uids": uid.as_str()}}));
        }
        if let Some(id) = &query.message_id {
            let mut either = vec![json!({"term": {"id": id}})];
            // Most records have no key, so an empty one finds nothing.
            either.extend((!id.is_empty()).then(|| json!({"term": {"key": id}})));
            filter.push(json!({"bool": {"should": either, "minimum_should_match": 1}}));
        }
        if let Some(stream) = &query.stream {
            filter.push(json!({"term": {"to": stream.as_str()}}));
        }
        filter.extend(query.words.iter().flat_map(of_words));
        if let Some(from) = query.from {
            filter.push(json!({"range": {"ts": {"gte": from.0}}}));
        }
        if let Some(to) = query.to {
            filter.push(json!({"range": {"ts": {"lt": to.0}}}));
        }
        let mut body = json!({
            "size": query.limit() + 1,
            "query": {"bool": {"filter": filter}},
            "sort": [{"ts": "desc"}, {"id": "desc"}, {"to": "desc"}],
            "track_total_hits": false,
        });
        if let Some(after) = &query.after {
            body["search_after"] = json!([after.ts.0, after.id, after.to]);
        }
        let found: Vec<RecordDocument> = self.find(Family::Records, &body).await?;
        let records = found.into_iter().map(RecordDocument::into_record).collect::<Result<_, _>>()?;
        Ok(RecordPage::of(records, query.limit()))
    }

    pub(super) async fn read_texts(&self, query: &TextQuery) -> Result<TextPage, IndexError> {
        if query.scope.is_empty() {
            return Ok(TextPage::default());
        }
        let mut filter: Vec<Value> = of_words(&query.words).collect();
        filter.push(of_scope(&query.scope));
        let (limit, size) = (query.limit(), PAGE_MAX + 1);
        let (mut hits, mut after): (Vec<Hit>, _) = (Vec::new(), query.after.clone());
        for _ in 0..ROUNDS_MAX {
            let mut body = json!({
                "size": size,
                "query": {"bool": {"filter": filter}},
                "sort": [{"ts": "desc"}, {"stream": "desc"}, {"seq": "desc"}],
                "track_total_hits": false,
            });
            if let Some(after) = &after {
                body["search_after"] = json!([after.ts.0, after.stream.as_str(), after.seq.0]);
            }
            let found: Vec<TextDocument> = self.find(Family::Texts, &body).await?;
            let was_last = found.len() < size;
            for document in found {
                let hit = document.into_hit()?;
                after = Some(TextPosition::of(&hit));
                if query.scope.admits(&hit.stream, hit.epoch, hit.seq) {
                    hits.push(hit);
                }
                if hits.len() > limit {
                    return Ok(TextPage::of(hits, limit));
                }
            }
            if was_last {
                return Ok(TextPage { hits, next: None });
            }
        }
        Ok(TextPage { hits, next: after })
    }

    /// Documents of a search, or nothing if not all of them could be looked at.
    async fn find<T: DeserializeOwned>(&self, family: Family, body: &Value) -> Result<Vec<T>, IndexError> {
        let path = format!(
            "/{}/_search?ignore_unavailable=true&allow_no_indices=true&allow_partial_search_results=false\
             &filter_path=hits.hits._source,timed_out",
            self.names.all(family)
        );
        let mut answer = self.http.ask(Method::POST, &path, Body::Json(body)).await?.ok()?;
        if answer["timed_out"] == true {
            return Err(IndexError::Unavailable("a search took too long".into()));
        }
        // Filtered by paths, what is empty is left out.
        if answer["hits"]["hits"].is_null() {
            answer["hits"] = json!({"hits": []});
        }
        let found: Found<T> = serde_json::from_value(answer).map_err(|_| bad("a document"))?;
        Ok(found.hits.hits.into_iter().map(|document| document._source).collect())
    }
}

fn of_words(words: &Words) -> impl Iterator<Item = Value> {
    words.iter().map(|word| json!({"term": {"words": word}}))
}

fn of_scope(scope: &Scope) -> Value {
    if scope.len() > EXACT_STREAMS_MAX {
        let streams: Vec<&str> = scope.iter().map(|(stream, _)| stream.as_str()).collect();
        return json!({"terms": {"stream": streams}});
    }
    let each = scope.iter().map(|(stream, part)| {
        json!({"bool": {"filter": [
            {"term": {"stream": stream.as_str()}},
            {"term": {"epoch": part.epoch.to_string()}},
            {"range": {"seq": {"gte": part.first.0, "lte": part.head.0.min(i64::MAX as u64)}}},
        ]}})
    });
    json!({"bool": {"should": each.collect::<Vec<_>>(), "minimum_should_match": 1}})
}
