//! How far devices got and users read.

use super::StoreFactory;
use super::fixtures::{EPOCH, mark, message, stream, uid};
use crate::domain::{Record, Seq, Timestamp};
use crate::ports::{DEVICE_MARKS_MAX, MessageStore, StoreReader};

pub fn marks_are_per_device_and_stream<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    store
        .commit(&[
            message("u:ann", 1),
            Record::Mark(mark("ann", "ios", "u:ann", 1, 2000)),
            Record::Mark(mark("ann", "web", "u:ann", 3, 2001)),
            Record::Mark(mark("ann", "ios", "g:go", 9, 2002)),
            Record::Mark(mark("bob", "ios", "g:go", 5, 2003)),
            Record::Mark(mark("ann", "ios", "u:ann", 2, 2004)),
        ])
        .expect("commit");
    for _ in 0..2 {
        let marks = |who: &str, name: &str| {
            let marks = store.marks(&uid(who), &stream(name)).expect("marks");
            assert!(marks.iter().all(|m| m.epoch == EPOCH));
            let mut marks: Vec<_> = marks.into_iter().map(|m| (m.device.to_string(), m.seq.0, m.ts.0)).collect();
            marks.sort();
            marks
        };
        assert_eq!(marks("ann", "u:ann"), [("ios".to_owned(), 2, 2004), ("web".to_owned(), 3, 2001)]);
        assert_eq!(marks("ann", "g:go"), [("ios".to_owned(), 9, 2002)]);
        assert_eq!(marks("bob", "g:go"), [("ios".to_owned(), 5, 2003)]);
        assert_eq!(marks("bob", "u:bob"), []);
        store = factory.reopen(store);
    }
}

/// Device names are the client's choice, so there must be an end to them: the oldest mark makes room.
pub fn devices_of_a_user_are_bounded<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    let max = DEVICE_MARKS_MAX as i64;
    for at in 0..max {
        store.commit(&[Record::Mark(mark("ann", &format!("d{at}"), "u:ann", 1, 100 + at))]).expect("commit");
    }
    store.commit(&[Record::Mark(mark("ann", "d0", "u:ann", 2, 100 + max))]).expect("commit");
    store.commit(&[Record::Mark(mark("ann", "newest", "u:ann", 3, 101 + max))]).expect("commit");
    for _ in 0..2 {
        let marks = store.marks(&uid("ann"), &stream("u:ann")).expect("marks");
        assert_eq!(marks.len(), DEVICE_MARKS_MAX);
        assert!(marks.iter().any(|m| &*m.device == "newest" && m.seq == Seq(3)));
        assert!(marks.iter().any(|m| &*m.device == "d0" && m.ts == Timestamp(100 + max)));
        assert!(marks.iter().all(|m| &*m.device != "d1"), "d1 was the oldest");
        store = factory.reopen(store);
    }
}

pub fn read_cursors_are_per_user<F: StoreFactory>(factory: &mut F) {
    let mut store = factory.open();
    assert_eq!(store.read_cursor(&uid("ann"), &stream("g:go")).expect("read_cursor"), None);
    store
        .commit(&[
            Record::Read(mark("ann", "", "g:go", 4, 1)),
            Record::Read(mark("bob", "", "g:go", 2, 2)),
            Record::Read(mark("ann", "", "g:go", 6, 3)),
        ])
        .expect("commit");
    for _ in 0..2 {
        let read = |who: &str, name: &str| store.read_cursor(&uid(who), &stream(name)).expect("read_cursor");
        assert_eq!(read("ann", "g:go"), Some((EPOCH, Seq(6))));
        assert_eq!(read("bob", "g:go"), Some((EPOCH, Seq(2))));
        assert_eq!(read("ann", "u:ann"), None);
        assert_eq!(store.marks(&uid("ann"), &stream("g:go")).expect("marks"), [], "reading is no mark of a device");
        store = factory.reopen(store);
    }
}
