//! What a store adds that stands on another machine: an owner that was followed by another, and answers that never come.

use super::StoreFactory;
use super::fixtures::{NO_LIMIT, message, stream};
use crate::domain::{Lsn, Record, Seq};
use crate::ports::{MessageStore, StoreError, StoreReader};

const ATTEMPTS_MAX: usize = 20;

/// What the network does with the next commit of the store that was opened last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The connection breaks before the server hears of it.
    Request,
    /// The server commits, and the connection breaks before it can say so.
    Answer,
}

pub trait RemoteStoreFactory: StoreFactory {
    /// The same store opened once more, while its owner still lives.
    fn second(&mut self, store: &Self::Store) -> Self::Store;

    fn plant(&mut self, loss: Loss);

    /// Whether the planted loss has happened.
    fn is_lost(&self) -> bool;
}

pub fn an_older_owner_is_fenced<F: RemoteStoreFactory>(factory: &mut F) {
    let mut older = factory.open();
    older.commit(&[message("u:ann", 1)]).expect("commit");
    let mut newer = factory.second(&older);
    assert!(newer.owner_epoch() > older.owner_epoch(), "every opening is a new owner");
    assert_eq!((newer.base_epoch(), newer.last_lsn()), (older.base_epoch(), Lsn(1)));

    let fenced = |done: Result<Lsn, StoreError>| matches!(done, Err(StoreError::Fenced));
    assert!(fenced(older.commit(&[message("u:ann", 2), message("u:bob", 1)])));
    assert_eq!(newer.commit(&[message("u:ann", 2)]).expect("commit"), Lsn(2));
    assert!(fenced(older.commit(&[message("u:ann", 3)])), "it stays fenced");
    assert!(newer.commit(&[message("u:ann", 3)]).is_ok());
    assert_log(&newer, &[message("u:ann", 1), message("u:ann", 2), message("u:ann", 3)]);
    assert_eq!(newer.head(&stream("u:bob")).expect("head"), None, "nothing of a fenced batch is left");
}

pub fn a_commit_whose_answer_was_lost_makes_no_twin<F: RemoteStoreFactory>(factory: &mut F) {
    survives(factory, Loss::Answer);
}

pub fn a_commit_that_was_lost_is_made_once<F: RemoteStoreFactory>(factory: &mut F) {
    survives(factory, Loss::Request);
}

fn survives<F: RemoteStoreFactory>(factory: &mut F, loss: Loss) {
    let mut store = factory.open();
    let records: Vec<Record> = (1..=6).map(|seq| message("u:ann", seq)).collect();
    store.commit(&records[..2]).expect("commit");
    factory.plant(loss);
    assert_eq!(commit_at_last(&mut store, &records[2..4]), Lsn(4));
    assert!(factory.is_lost(), "the commit did not meet the planted loss");
    assert_eq!(store.commit(&records[4..]).expect("commit"), Lsn(6));
    assert_log(&store, &records);
    let store = factory.reopen(store);
    assert_log(&store, &records);
    assert_eq!(store.head(&stream("u:ann")).expect("head").map(|head| head.head), Some(Seq(6)));
}

/// Commits a batch as a partition does: again, the same, while the store is away. The server is there, so that ends.
fn commit_at_last(store: &mut impl MessageStore, batch: &[Record]) -> Lsn {
    for _ in 0..ATTEMPTS_MAX {
        match store.commit(batch) {
            Ok(lsn) => return lsn,
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("still unavailable after {ATTEMPTS_MAX} attempts");
}

/// The whole log holds exactly these.
pub fn assert_log(store: &impl StoreReader, records: &[Record]) {
    let page = store.replay(Lsn(0), NO_LIMIT).expect("replay").expect("the log reaches back");
    let expected: Vec<_> = (1..).map(Lsn).zip(records.iter().cloned()).collect();
    assert_eq!(page.records, expected);
    assert_eq!(store.last_lsn(), Lsn(records.len() as u64));
}
