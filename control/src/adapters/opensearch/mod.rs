//! Push records and the words of messages in OpenSearch or Elasticsearch.
//!
//! Invariants:
//! * A document's id follows from what it is about, so nothing is there twice. A record that is there already is read, merged
//!   in this program, and written under the condition that nobody wrote it meanwhile (`if_seq_no`, `if_primary_term`). No
//!   script runs at the server, so none must be allowed there, and the rules of merging stand in one place.
//! * An index holds a month and is deleted whole.
//! * A query is built as a document of terms. The server's query language never sees a caller's text.
//!
//! It keeps to what OpenSearch 2 and Elasticsearch 8 share: composable templates, `_bulk`, `_mget`, `search_after`,
//! `_cat/indices`, deleting by exact names. An API key is sent as Elasticsearch wants it.

mod documents;
mod http;
mod indices;
mod reading;
mod writing;

use std::fmt;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tidegate_control_core::domain::Timestamp;

use crate::records::{Batch, IndexError, RecordIndex, RecordPage, RecordQuery, TextPage, TextQuery, Written};
use http::Http;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no node is named")]
    NoNode,
    #[error("an address of a node is not http:// or https:// with a host")]
    Node,
    #[error("indices begin with 1 to 40 of a-z 0-9 _ - and first a letter, not {0:?}")]
    Prefix(String),
    #[error("the credentials cannot stand in a header")]
    Credentials,
    #[error("the certificates of the authority cannot be used")]
    Authority(#[source] reqwest::Error),
    #[error("no HTTP client")]
    Client(#[source] reqwest::Error),
}

#[derive(Clone, Default)]
pub enum Credentials {
    #[default]
    None,
    Basic {
        user: String,
        password: String,
    },
    /// As Elasticsearch gives them, encoded.
    ApiKey(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::None => f.write_str("None"),
            Credentials::Basic { user, .. } => write!(f, "Basic({user:?})"),
            Credentials::ApiKey(_) => f.write_str("ApiKey"),
        }
    }
}

#[derive(Clone, Debug)]
pub struct OpenSearchOptions {
    /// `http://host:port` each; the next one is asked when one does not answer.
    pub nodes: Vec<String>,
    pub credentials: Credentials,
    /// PEM; instead of the usual public authorities.
    pub authority: Option<Vec<u8>>,
    /// Names of indices and templates begin with it.
    pub prefix: String,
    pub replicas: u8,
    pub keep_days: u32,
    /// For one request.
    pub timeout: Duration,
}

impl OpenSearchOptions {
    pub fn new(nodes: Vec<String>) -> OpenSearchOptions {
        OpenSearchOptions {
            nodes,
            credentials: Credentials::None,
            authority: None,
            prefix: "tidegate".to_owned(),
            replicas: 1,
            keep_days: 30,
            timeout: Duration::from_secs(5),
        }
    }
}

#[derive(Debug)]
pub struct OpenSearchRecords {
    http: Http,
    names: indices::Names,
    replicas: u8,
    keep_days: u32,
    /// The templates stand.
    ready: tokio::sync::Mutex<bool>,
}

impl OpenSearchRecords {
    /// Asks nothing of the server yet.
    pub fn new(options: OpenSearchOptions) -> Result<OpenSearchRecords, OpenError> {
        let names = indices::Names::new(&options.prefix).ok_or_else(|| OpenError::Prefix(options.prefix.clone()))?;
        let (replicas, keep_days) = (options.replicas, options.keep_days);
        Ok(OpenSearchRecords { http: Http::new(options)?, names, replicas, keep_days, ready: Default::default() })
    }
}

impl RecordIndex for OpenSearchRecords {
    fn write<'a>(&'a self, batch: &'a Batch, now: Timestamp) -> BoxFuture<'a, Result<Written, IndexError>> {
        self.write_folded(batch.fold(now, self.keep_days)).boxed()
    }

    fn records<'a>(&'a self, query: &'a RecordQuery) -> BoxFuture<'a, Result<RecordPage, IndexError>> {
        self.read_records(query).boxed()
    }

    fn search<'a>(&'a self, query: &'a TextQuery) -> BoxFuture<'a, Result<TextPage, IndexError>> {
        self.read_texts(query).boxed()
    }

    fn maintain(&self, now: Timestamp) -> BoxFuture<'_, Result<(), IndexError>> {
        async move {
            // Somebody may have removed a template; without it an index would guess its fields.
            self.make_templates().await?;
            self.drop_old(now).await
        }
        .boxed()
    }
}
