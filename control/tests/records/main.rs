//! Indexes of push records and of words: one suite over memory, a real PostgreSQL and a real OpenSearch, and what each has
//! of its own; the feeder; the two REST calls.

mod contract;
mod feeding;
mod http;
mod kit;
mod memory;
mod opensearch;
mod postgres;
#[allow(dead_code)]
#[path = "../store_postgres/proxy.rs"]
mod proxy;
