//! The end of a partition's log in its owner's memory: who follows the log closely reads it here, and asks PostgreSQL only for
//! what is older.
//!
//! Invariants:
//! * Only what a commit of this owner has made true comes here, in the order of the log and without a hole.
//! * What retention took away is not here either: a reader hears that the log begins later, wherever it asks.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidegate_control_core::domain::{Lsn, Record};
use tidegate_control_core::ports::{PageLimit, ReplayPage};

/// What one partition keeps, by the weight of its records. A busy partition fills it in about two seconds, which is ten times
/// what followers are behind.
const BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Default)]
pub(super) struct Tail(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Of the last record, or where the log ended when this owner began.
    last: Lsn,
    records: VecDeque<Record>,
    bytes: usize,
}

impl Tail {
    pub fn new(last: Lsn) -> Tail {
        Tail(Mutex::new(Kept { last, ..Kept::default() }))
    }

    /// These records are the log's newest, up to `upto`.
    pub fn push(&self, upto: Lsn, records: &[Record]) {
        let mut kept = self.kept();
        debug_assert_eq!(upto.0, kept.last.0 + records.len() as u64, "no hole");
        kept.last = upto;
        kept.bytes += records.iter().map(Record::weight).sum::<usize>();
        kept.records.extend(records.iter().cloned());
        while kept.bytes > BYTES_MAX {
            kept.drop_oldest();
        }
    }

    /// Records up to here are gone.
    pub fn trim(&self, upto: Lsn) {
        let mut kept = self.kept();
        while !kept.records.is_empty() && kept.before() < upto {
            kept.drop_oldest();
        }
    }

    /// What follows `from`; `None`: that is not kept here.
    pub fn after(&self, from: Lsn, limit: PageLimit) -> Option<ReplayPage> {
        let kept = self.kept();
        let before = kept.before();
        if from < before || from >= kept.last {
            return None;
        }
        let mut page = ReplayPage { records: Vec::new(), upto: from };
        let mut bytes = 0;
        for record in kept.records.range((from.0 - before.0) as usize..).take(limit.messages.max(1)) {
            bytes += record.weight();
            if bytes > limit.bytes && !page.records.is_empty() {
                break;
            }
            page.upto = page.upto.next();
            page.records.push((page.upto, record.clone()));
        }
        Some(page)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Of the record before the first that is kept.
    fn before(&self) -> Lsn {
        Lsn(self.last.0 - self.records.len() as u64)
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.records.pop_front() {
            self.bytes -= oldest.weight();
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_control_core::contract::store::message;

    use super::*;

    const ALL: PageLimit = PageLimit { messages: 1_000_000, bytes: usize::MAX };

    fn records(seqs: std::ops::RangeInclusive<u64>) -> Vec<Record> {
        seqs.map(|seq| message("u:ann", seq)).collect()
    }

    fn lsns(page: Option<ReplayPage>) -> Option<Vec<u64>> {
        page.map(|page| page.records.iter().map(|(lsn, _)| lsn.0).collect())
    }

    #[test]
    fn what_was_committed_here_is_read_from_any_place_of_it() {
        let tail = Tail::new(Lsn(10));
        assert!(tail.after(Lsn(10), ALL).is_none(), "nothing is new");
        tail.push(Lsn(12), &records(1..=2));
        tail.push(Lsn(13), &records(3..=3));
        assert_eq!(lsns(tail.after(Lsn(10), ALL)), Some(vec![11, 12, 13]));
        let page = tail.after(Lsn(11), PageLimit { messages: 1, bytes: usize::MAX }).expect("a page");
        assert_eq!((page.upto, &page.records), (Lsn(12), &vec![(Lsn(12), message("u:ann", 2))]));
        assert!(tail.after(Lsn(9), ALL).is_none(), "older records are asked of the store");
        assert!(tail.after(Lsn(13), ALL).is_none());
    }

    #[test]
    fn a_page_is_bounded_by_bytes_but_never_empty() {
        let tail = Tail::new(Lsn(0));
        tail.push(Lsn(5), &records(1..=5));
        let of = |bytes| lsns(tail.after(Lsn(0), PageLimit { messages: 5, bytes }));
        assert_eq!(of(1), Some(vec![1]));
        assert_eq!(of(3 * message("u:ann", 1).weight()), Some(vec![1, 2, 3]));
    }

    #[test]
    fn it_keeps_so_many_bytes_and_forgets_what_retention_took() {
        let tail = Tail::new(Lsn(0));
        let weight = message("u:ann", 1).weight();
        let count = (2 * BYTES_MAX / weight) as u64;
        tail.push(Lsn(count), &records(1..=count));
        let bytes = tail.kept().bytes;
        let before = tail.kept().before();
        assert!(bytes <= BYTES_MAX && bytes > BYTES_MAX - 2 * weight, "{bytes}");
        assert!(tail.after(Lsn(before.0 - 1), ALL).is_none());
        assert_eq!(lsns(tail.after(before, ALL)).expect("the rest").len() as u64, count - before.0);
        tail.trim(Lsn(count - 1));
        assert!(tail.after(Lsn(count - 2), ALL).is_none());
        assert_eq!(lsns(tail.after(Lsn(count - 1), ALL)), Some(vec![count]));
        tail.trim(Lsn(count));
        assert!(tail.after(Lsn(count - 1), ALL).is_none());
        assert_eq!(tail.kept().bytes, 0);
        tail.push(Lsn(count + 1), &records(1..=1));
        assert_eq!(lsns(tail.after(Lsn(count), ALL)), Some(vec![count + 1]));
    }
}
