//! `message-history`: every message at each of its places, by stream. Readers tell copies by (`stream`, `epoch`, `seq`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tidegate_bus::port::{Outgoing, Publisher};
use tidegate_bus::records::{Downstream, Form as _, Format, VERSION};
use tidegate_control_core::domain::{Append, Lsn, PartitionId, Place, Record};
use tidegate_control_core::partition::Origin;

use super::Teller;
use crate::cluster::{forms, outlet};

pub(crate) struct History {
    pub publisher: Arc<dyn Publisher>,
    pub topic: String,
    pub format: Format,
    pub partitions: u32,
    /// Records that the bus has, and those that it does not take because they are too large.
    pub counts: Arc<[AtomicU64; 2]>,
}

impl Teller for History {
    fn name(&self) -> &'static str {
        "history"
    }

    fn tell<'a>(&'a self, origin: Origin, page: &'a [(Lsn, Record)]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let outgoing: Vec<Outgoing> = page.iter().flat_map(|(lsn, record)| self.of(origin, *lsn, record)).collect();
            let left_out = outlet::place(&*self.publisher, &outgoing).await;
            let [told, too_large] = &*self.counts;
            told.fetch_add((outgoing.len() - left_out) as u64, Ordering::Relaxed);
            too_large.fetch_add(left_out as u64, Ordering::Relaxed);
        })
    }
}

impl History {
    fn of(&self, origin: Origin, lsn: Lsn, record: &Record) -> Vec<Outgoing> {
        let Record::Append(append) = record else { return Vec::new() };
        let ours = |place: &&Place| PartitionId::of(&place.stream, self.partitions) == origin.partition;
        let outgoing = |place: &Place| Outgoing {
            topic: self.topic.clone().into(),
            partition: None,
            key: Some(Bytes::copy_from_slice(place.stream.as_str().as_bytes())),
            headers: Vec::new(),
            value: downstream(origin, lsn, append, place).encode(self.format).into(),
        };
        append.places.iter().filter(ours).map(outgoing).collect()
    }
}

fn downstream(origin: Origin, lsn: Lsn, append: &Append, place: &Place) -> Downstream {
    let body = &append.body;
    let (content, content_bytes) = forms::content_fields(&body.content);
    let first = append.places.first().unwrap_or(place);
    let conversation =
        if first.stream.pair().is_some() || first.stream.gid().is_some() { first.stream.as_str() } else { "" };
    Downstream {
        message_id: body.id.to_string(),
        from_user_id: body.from.to_string(),
        to_user_id: body.to.to_string(),
        conversation_id: conversation.to_owned(),
        content,
        message_type: body.kind.to_string(),
        metadata: body.metadata.to_string(),
        timestamp: body.ts.0,
        version: VERSION,
        stream: place.stream.to_string(),
        seq: place.seq.0,
        epoch: place.epoch.to_string(),
        conv_seq: if first.stream == place.stream { 0 } else { first.seq.0 },
        client_msg_id: body.client_msg_id.to_string(),
        title: body.title.to_string(),
        priority: forms::priority_field(body.priority),
        expires: body.expires.map_or(0, |expires| expires.0),
        platforms: body.platforms.iter().map(|platform| platform.to_string()).collect(),
        content_bytes,
        partition: origin.partition.0,
        history: origin.history.to_string(),
        owner_epoch: origin.owner_epoch.0,
        lsn: lsn.0,
        ..Downstream::default()
    }
}
