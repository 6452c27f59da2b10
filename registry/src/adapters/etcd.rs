//! etcd, API v3. It keeps what it was given, so nothing but a lease that ran out takes anything away.
//!
//! A session is a lease; versions are revisions; claims are transactions. What is generated from `proto/etcd.proto` is the
//! part of the API that this takes.

mod connection;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use self::connection::Connection;
use self::proto::compare::{CompareTarget, TargetUnion};
use self::proto::{
    Compare, DeleteRangeRequest, KeyValue, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, TxnResponse, request_op, response_op,
};
use super::line::Line;
use crate::backend::{Answer, Backend, Claim, LeaseId};
use crate::error::RegistryError;
use crate::registry::Entry;
use crate::settings::{Login, Tls};
use crate::watch::WatchEvent;

#[allow(clippy::all, reason = "generated")]
pub(crate) mod proto {
    tonic::include_proto!("etcdserverpb");
}

#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// `http://host:port` or `https://host:port`, one for each member that may be asked.
    pub endpoints: Vec<String>,
    pub login: Option<Login>,
    /// What `https` trusts and shows; `None`: the machine's roots, and no certificate of ours.
    pub tls: Option<Tls>,
    /// Of each request.
    pub timeout: Duration,
}

impl EtcdOptions {
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> EtcdOptions {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        EtcdOptions { endpoints, login: None, tls: None, timeout: crate::settings::TIMEOUT_DEFAULT }
    }
}

pub(crate) struct Etcd {
    line: Line<Connection>,
    dialler: connection::Dialler,
}

impl Etcd {
    pub(crate) fn new(options: EtcdOptions) -> Result<Etcd, RegistryError> {
        Ok(Etcd { line: Line::new(options.timeout), dialler: connection::Dialler::new(options)? })
    }

    async fn call<T, A>(&self, ask: impl FnOnce(Connection) -> A) -> Result<T, RegistryError>
    where
        A: Future<Output = Result<T, Status>>,
    {
        let ask = |connection| async { ask(connection).await.map_err(refusal) };
        self.line.call(|attempt| self.dialler.dial(attempt), ask).await
    }

    /// With the revision of which this is the picture.
    async fn range(&self, key: &str, range_end: Vec<u8>) -> Result<(i64, Vec<Entry>), RegistryError> {
        let request = RangeRequest { key: start(key, &range_end), range_end };
        let answer = self.call(|connection| async move { connection.kv().range(request).await }).await?.into_inner();
        let revision = answer.header.map_or(0, |header| header.revision);
        let entries = answer.kvs.into_iter().map(entry).collect();
        Ok((revision, entries))
    }

    async fn txn(
        &self,
        condition: Compare,
        then: RequestOp,
        otherwise: Option<RequestOp>,
    ) -> Result<TxnResponse, RegistryError> {
        let failure = otherwise.into_iter().collect();
        let request = TxnRequest { compare: vec![condition], success: vec![then], failure };
        Ok(self.call(|connection| async move { connection.kv().txn(request).await }).await?.into_inner())
    }

    async fn write(&self, key: &str, value: &str, lease: i64) -> Result<(), RegistryError> {
        let request = PutRequest { key: key.into(), value: value.into(), lease };
        self.call(|connection| async move { connection.kv().put(request).await }).await.map(drop)
    }

    async fn claimed(&self, lease: LeaseId, key: &str, value: &str) -> Result<Claim, RegistryError> {
        let ours = signed(lease);
        loop {
            let range = request_op::Request::RequestRange(RangeRequest { key: key.into(), range_end: Vec::new() });
            let condition = compare(key, CompareTarget::Create, TargetUnion::CreateRevision(0));
            let answer = self.txn(condition, put(key, value, ours), Some(op(range))).await?;
            if answer.succeeded {
                return Ok(Claim::Ours { version: revision(&answer) });
            }
            // Gone between the two halves cannot be: a transaction has one revision.
            let Some(found) = first(answer) else { continue };
            if found.lease != ours {
                return Ok(Claim::Theirs(entry(found)));
            }
            if found.value == value.as_bytes() {
                return Ok(Claim::Ours { version: unsigned(found.mod_revision) });
            }
            let condition = compare(key, CompareTarget::Mod, TargetUnion::ModRevision(found.mod_revision));
            let answer = self.txn(condition, put(key, value, ours), None).await?;
            if answer.succeeded {
                return Ok(Claim::Ours { version: revision(&answer) });
            }
        }
    }

    async fn kept_alive(&self, lease: LeaseId) -> Result<bool, RegistryError> {
        let request = LeaseKeepAliveRequest { id: signed(lease) };
        let ask = |connection: Connection| async move {
            let requests = tokio_stream::once(request);
            let mut answers = connection.lease().lease_keep_alive(requests).await?.into_inner();
            answers.message().await?.ok_or_else(|| Status::unavailable("no answer to a keep-alive"))
        };
        match self.call(ask).await {
            // Zero is etcd's way to say that it knows no such lease.
            Ok(answer) => Ok(answer.ttl > 0),
            Err(RegistryError::SessionLost) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Backend for Etcd {
    fn fetch<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        async move { Ok(self.range(key, Vec::new()).await?.1.pop()) }.boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Entry>> {
        async move { Ok(self.range(prefix, end(prefix)).await?.1) }.boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: &'a str) -> Answer<'a, ()> {
        self.write(key, value, 0).boxed()
    }

    fn create<'a>(&'a self, key: &'a str, value: &'a str) -> Answer<'a, bool> {
        let absent = compare(key, CompareTarget::Create, TargetUnion::CreateRevision(0));
        async move { Ok(self.txn(absent, put(key, value, 0), None).await?.succeeded) }.boxed()
    }

    fn replace<'a>(&'a self, key: &'a str, expected: u64, value: &'a str) -> Answer<'a, bool> {
        let as_expected = compare(key, CompareTarget::Mod, TargetUnion::ModRevision(expected.cast_signed()));
        async move {
            // A put gives the key the lease that it names, so the present one has to be known. It cannot change without
            // the revision changing too.
            let request = RangeRequest { key: key.into(), range_end: Vec::new() };
            let found = self.call(|connection| async move { connection.kv().range(request).await }).await?.into_inner();
            let Some(found) = found.kvs.first() else { return Ok(false) };
            match self.txn(as_expected, put(key, value, found.lease), None).await {
                // The lease ran out in between, and the key went with it.
                Err(RegistryError::SessionLost) => Ok(false),
                answer => Ok(answer?.succeeded),
            }
        }
        .boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        let request = DeleteRangeRequest { key: key.into() };
        async move { self.call(|connection| async move { connection.kv().delete_range(request).await }).await.map(drop) }
            .boxed()
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        // etcd counts whole seconds: a lease may last longer than was asked for, never shorter.
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        async move {
            let request = LeaseGrantRequest { ttl: seconds };
            let ask = |connection: Connection| async move { connection.lease().lease_grant(request).await };
            let answer = self.call(ask).await?.into_inner();
            if answer.error.is_empty() {
                Ok(LeaseId(answer.id.cast_unsigned()))
            } else {
                Err(RegistryError::rejected(answer.error))
            }
        }
        .boxed()
    }

    fn keep_alive(&self, lease: LeaseId, _ttl: Duration) -> Answer<'_, bool> {
        self.kept_alive(lease).boxed()
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        let request = LeaseRevokeRequest { id: signed(lease) };
        async move {
            let ask = |connection: Connection| async move { connection.lease().lease_revoke(request).await };
            match self.call(ask).await.map(drop) {
                // It ended by itself.
                Err(RegistryError::SessionLost) => Ok(()),
                answer => answer,
            }
        }
        .boxed()
    }

    fn hold<'a>(&'a self, lease: LeaseId, key: &'a str, value: &'a str) -> Answer<'a, ()> {
        self.write(key, value, signed(lease)).boxed()
    }

    fn claim<'a>(&'a self, lease: LeaseId, key: &'a str, value: &'a str) -> Answer<'a, Claim> {
        self.claimed(lease, key, value).boxed()
    }

    fn release<'a>(&'a self, lease: LeaseId, key: &'a str) -> Answer<'a, ()> {
        let ours = compare(key, CompareTarget::Lease, TargetUnion::Lease(signed(lease)));
        let delete = op(request_op::Request::RequestDeleteRange(DeleteRangeRequest { key: key.into() }));
        async move { self.txn(ours, delete, None).await.map(drop) }.boxed()
    }

    fn watch(self: Arc<Self>, prefix: String, events: mpsc::Sender<WatchEvent>) -> Answer<'static, ()> {
        async move { watch::follow(&self, &prefix, &events).await }.boxed()
    }

    fn forgets(&self) -> bool {
        false
    }
}

/// Keys from the prefix up to what follows everything with that prefix. Keys are text, so their last byte is never 255.
fn end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0),
    }
    end
}

/// All keys are asked for by a zero at both ends.
fn start(key: &str, range_end: &[u8]) -> Vec<u8> {
    if range_end == [0] { vec![0] } else { key.into() }
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(key: &str, value: &str, lease: i64) -> RequestOp {
    op(request_op::Request::RequestPut(PutRequest { key: key.into(), value: value.into(), lease }))
}

fn compare(key: &str, target: CompareTarget, is: TargetUnion) -> Compare {
    Compare { result: 0, target: target.into(), key: key.into(), target_union: Some(is) }
}

fn first(answer: TxnResponse) -> Option<KeyValue> {
    match answer.responses.into_iter().next()?.response? {
        response_op::Response::ResponseRange(range) => range.kvs.into_iter().next(),
        _ => None,
    }
}

fn revision(answer: &TxnResponse) -> u64 {
    answer.header.as_ref().map_or(0, |header| unsigned(header.revision))
}

/// What others wrote and is not text must not stop a watch.
fn entry(found: KeyValue) -> Entry {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Entry { key: text(found.key), value: text(found.value), version: unsigned(found.mod_revision) }
}

fn signed(lease: LeaseId) -> i64 {
    lease.0.cast_signed()
}

fn unsigned(revision: i64) -> u64 {
    revision.cast_unsigned()
}

fn refusal(status: Status) -> RegistryError {
    match status.code() {
        // "requested lease not found"; nothing else that is asked here can be missing.
        Code::NotFound => RegistryError::SessionLost,
        Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => {
            RegistryError::rejected(status)
        }
        // A full database is said in the same way as too many requests at once.
        Code::ResourceExhausted if status.message().contains("space exceeded") => RegistryError::rejected(status),
        // Also tokens that have run out: the next dial logs in anew.
        _ => RegistryError::unavailable(status),
    }
}
