//! One question of a client that several partitions answer: the answers are put together into one.

use hashbrown::HashMap;

use super::Hub;
use super::ops::{Asked, Asker, answer};
use crate::ids::{PartitionId, StreamKey, Uid};
use crate::link::{Corr, Head, LinkError, LinkOk, LinkOp, ToLink};

type Heads = Vec<(StreamKey, Result<Head, LinkError>)>;

/// The answers so far.
#[derive(Debug)]
pub(super) struct Gathering {
    asker: Asker,
    left: usize,
    heads: Heads,
}

impl Hub {
    /// Each partition is asked for its own streams. All of them are up.
    pub(super) fn gather_heads(
        &mut self,
        asker: Asker,
        uid: &Uid,
        device: &str,
        parts: impl ExactSizeIterator<Item = (PartitionId, Vec<StreamKey>)>,
    ) {
        let gathering = self.corr();
        let left = parts.len();
        self.gatherings.insert(gathering, Gathering { asker, left, heads: Vec::new() });
        for (partition, streams) in parts {
            let corr = self.corr();
            self.put_request(partition, corr, Asked::Share(gathering));
            let op = LinkOp::Heads { streams };
            let question = ToLink::Request { corr, uid: Some(uid.clone()), device: device.into(), op };
            self.to_link.push_back((partition, question));
        }
    }

    /// A share of the answer. The first that failed was the whole answer, and what comes after it is not wanted.
    pub(super) fn gathered(&mut self, gathering: Corr, result: Result<LinkOk, LinkError>) {
        let heads = match result {
            Ok(LinkOk::Heads(heads)) => heads,
            Ok(_) => Vec::new(),
            Err(error) => return self.end_gathering(gathering, &error),
        };
        let Some(gathered) = self.gatherings.get_mut(&gathering) else { return };
        gathered.heads.extend(heads);
        gathered.left -= 1;
        if gathered.left > 0 {
            return;
        }
        let Some(Gathering { asker, mut heads, .. }) = self.gatherings.remove(&gathering) else { return };
        let order: HashMap<&StreamKey, usize> = asker.cursors.iter().map(|(key, _)| key).zip(0..).collect();
        heads.sort_by_key(|(stream, _)| order.get(stream).copied());
        let frame = answer(&asker, LinkOk::Heads(heads));
        self.reply_frame(asker.conn, asker.id, asker.class, &frame, None);
    }

    pub(super) fn end_gathering(&mut self, gathering: Corr, error: &LinkError) {
        if let Some(Gathering { asker, .. }) = self.gatherings.remove(&gathering) {
            self.answer_error(&asker, error);
        }
    }
}
