use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proptest::prelude::*;
use smallvec::SmallVec;
use tidegate_control_core::domain::{Body, Content, ErrorCode, MessageId, OwnerEpoch, Place, Refusal, Timestamp};
use tidegate_control_core::ports::cache::{Cache as _, Fact, OwnedRun};

use super::*;
use crate::adapters::memory::{MemoryCache, MemoryOptions};

const EPOCH: Epoch = Epoch(9);

/// An owner with a stream of so many messages; those before `first` are gone.
struct Owner {
    stream: StreamKey,
    epoch: Epoch,
    first: u64,
    head: u64,
    pulls: Mutex<u32>,
}

impl Owner {
    fn new(stream: &str, head: u64) -> Owner {
        Owner { stream: stream.parse().expect("a stream"), epoch: EPOCH, first: 1, head, pulls: Mutex::new(0) }
    }

    fn head(&self) -> Head {
        Head { epoch: self.epoch, head: Seq(self.head), first: Seq(self.first) }
    }

    fn pulls(&self) -> u32 {
        *self.pulls.lock().expect("not poisoned")
    }

    fn page(&self, after: u64, limit: usize) -> Page {
        let start = after.max(self.first - 1);
        let upto = self.head.min(start + limit as u64);
        let messages = (start + 1..=upto).map(|seq| Stored { seq: Seq(seq), body: body(seq), conversation: None });
        Page { after: Seq(after), upto: Seq(upto.max(after)), messages: messages.collect() }
    }
}

impl Ask for Owner {
    async fn ask(&self, command: Command) -> Answer {
        match command {
            Command::Heads { uid, .. } if uid.as_ref().is_some_and(|uid| uid.as_str() == "stranger") => {
                Ok(Reply::Heads(vec![(self.stream.clone(), Err(Refusal::new(ErrorCode::Forbidden, "no")))]))
            }
            Command::Heads { .. } => Ok(Reply::Heads(vec![(self.stream.clone(), Ok(self.head()))])),
            Command::Pull { after, limit, .. } => {
                *self.pulls.lock().expect("not poisoned") += 1;
                Ok(Reply::Page { stream: self.stream.clone(), page: self.page(after.0, limit), head: self.head() })
            }
            other => panic!("{other:?}"),
        }
    }
}

fn body(seq: u64) -> Arc<Body> {
    Arc::new(Body {
        id: MessageId(seq),
        from: "ann".into(),
        to: "".into(),
        client_msg_id: "".into(),
        kind: "text".into(),
        title: "".into(),
        content: Content::Binary(Bytes::from(seq.to_string())),
        metadata: "".into(),
        ts: Timestamp(seq as i64),
        priority: Default::default(),
        expires: (seq % 10 == 7).then_some(Timestamp(1)),
        platforms: SmallVec::new(),
    })
}

fn written(owner: &Owner, runs: &[std::ops::RangeInclusive<u64>], queue_messages_max: usize) -> MemoryCache {
    let cache = MemoryCache::new(MemoryOptions { queue_messages_max, ..MemoryOptions::default() });
    for seqs in runs {
        let place = |seq| Place { stream: owner.stream.clone(), epoch: EPOCH, seq: Seq(seq) };
        let entries = seqs.clone().map(|seq| form::encode(&body(seq), &place(seq), None)).collect();
        let (stream, seq) = (owner.stream.clone(), Seq(*seqs.end()));
        let run = OwnedRun { stream: stream.clone(), epoch: EPOCH, owner: OwnerEpoch(1), entries };
        let list = if stream.kind() == StreamKind::Inbox { Fact::Queue(run) } else { Fact::Hot(run) };
        cache.write(vec![Fact::Head { stream, epoch: EPOCH, seq, owner: OwnerEpoch(1) }, list]);
    }
    cache
}

fn pull(stream: &StreamKey, after: u64, limit: usize) -> Command {
    Command::Pull { uid: None, stream: stream.clone(), epoch: None, after: Seq(after), since_ts: None, limit }
}

async fn ask(cache: &MemoryCache, owner: &Owner, command: Command) -> Option<Page> {
    let recent = Recent::new(Arc::new(cache.clone()), |_| Tally::default());
    match recent.pull(owner, &command).await? {
        Ok(Reply::Page { page, .. }) => Some(page),
        other => panic!("{other:?}"),
    }
}

fn seqs(page: &Page) -> Vec<u64> {
    page.messages.iter().map(|stored| stored.seq.0).collect()
}

#[tokio::test]
async fn what_is_hot_is_not_asked_of_the_store() {
    let owner = Owner::new("g:go", 12);
    let cache = written(&owner, &[1..=12], 20);
    let page = ask(&cache, &owner, pull(&owner.stream, 4, 5)).await.expect("from the hot list");
    assert_eq!((seqs(&page), page.after, page.upto), (vec![5, 6, 8, 9], Seq(4), Seq(9)), "7 has expired");
    assert_eq!(owner.pulls(), 0);
}

#[tokio::test]
async fn a_list_that_lags_behind_only_ends_the_page_earlier() {
    let owner = Owner::new("g:go", 12);
    let cache = written(&owner, &[1..=5], 20);
    let page = ask(&cache, &owner, pull(&owner.stream, 2, 100)).await.expect("from the hot list");
    assert_eq!((seqs(&page), page.upto), (vec![3, 4, 5], Seq(5)));
    assert_eq!(ask(&cache, &owner, pull(&owner.stream, 5, 100)).await, None, "what follows is asked for");
}

#[tokio::test]
async fn the_owner_says_who_reads_and_how_far() {
    let mut owner = Owner::new("g:go", 5);
    let cache = written(&owner, &[1..=9], 20);
    let stranger = Command::Pull {
        uid: Some("stranger".parse().expect("a uid")),
        stream: owner.stream.clone(),
        epoch: None,
        after: Seq(0),
        since_ts: None,
        limit: 10,
    };
    assert_eq!(ask(&cache, &owner, stranger).await, None, "its owner refuses it");
    owner.first = 3;
    let page = ask(&cache, &owner, pull(&owner.stream, 0, 100)).await.expect("a page");
    assert_eq!((seqs(&page), page.upto), (vec![3, 4, 5], Seq(5)));
    owner.epoch = Epoch(10);
    assert_eq!(ask(&cache, &owner, pull(&owner.stream, 0, 100)).await, None, "another life of the group");
}

#[tokio::test]
async fn where_the_queue_was_trimmed_the_store_fills_in() {
    let owner = Owner::new("u:ann", 12);
    let cache = written(&owner, &[1..=12], 4);
    let page = ask(&cache, &owner, pull(&owner.stream, 5, 100)).await.expect("a page");
    // The owner of this test does not hide what has expired.
    assert_eq!((seqs(&page), page.upto), (vec![6, 7, 8, 9, 10, 11, 12], Seq(12)));
    assert_eq!(owner.pulls(), 1);
    assert_eq!(ask(&cache, &owner, pull(&owner.stream, 0, 3)).await, None, "nothing of it is in the queue");
    let other = Command::Pull {
        uid: None,
        stream: owner.stream.clone(),
        epoch: Some(Epoch(1)),
        after: Seq(9),
        since_ts: None,
        limit: 3,
    };
    assert_eq!(ask(&cache, &owner, other).await, None, "its owner says EXPIRED");
}

proptest! {
    /// Whatever was written, lost and asked: read to the end, page by page, everything comes once and in order.
    #[test]
    fn pages_from_both_have_no_hole_and_no_twin(
        inbox: bool, head in 1u64..60, cuts in prop::collection::vec((1u64..60, 0u64..12), 0..6),
        first in 1u64..20, after in 0u64..60, limit in 1usize..20, kept in 1usize..30,
    ) {
        let mut owner = Owner::new(if inbox { "u:ann" } else { "g:go" }, head);
        owner.first = first.min(head);
        let mut runs: Vec<_> = cuts.into_iter().map(|(from, len)| from.min(head)..=(from + len).min(head)).collect();
        runs.sort_by_key(|run| *run.start());
        let cache = written(&owner, &runs, kept);
        let after = after.min(head);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (mut at, mut found) = (after, Vec::new());
        while at < head {
            let page = runtime.block_on(ask(&cache, &owner, pull(&owner.stream, at, limit)));
            let page = page.unwrap_or_else(|| owner.page(at, limit));
            prop_assert!(page.upto.0 > at && page.messages.len() <= limit, "{page:?}");
            prop_assert!(page.messages.iter().all(|stored| stored.body.id.0 == stored.seq.0));
            at = page.upto.0;
            found.extend(seqs(&page));
        }
        found.retain(|seq| seq % 10 != 7);
        let wanted: Vec<u64> = (after.max(owner.first - 1) + 1..=head).filter(|seq| seq % 10 != 7).collect();
        prop_assert_eq!(found, wanted);
    }
}
