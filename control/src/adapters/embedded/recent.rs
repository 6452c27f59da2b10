//! The newest records, decoded: most recoveries, replays and pulls ask for these and touch no disk.

use std::collections::VecDeque;

use tidegate_control_core::domain::{Content, Lsn, Record};

/// What a record costs beside its texts: the structs, reference counts and allocator overhead.
const RECORD_OVERHEAD_BYTES: usize = 320;

#[derive(Debug)]
pub struct Recent {
    bytes_max: usize,
    bytes: usize,
    /// Lsn of the front.
    first: Lsn,
    records: VecDeque<Record>,
}

impl Recent {
    pub fn new(bytes_max: usize, next: Lsn) -> Recent {
        Recent { bytes_max, bytes: 0, first: next, records: VecDeque::new() }
    }

    /// The record at `lsn` is the one after the newest.
    pub fn push(&mut self, lsn: Lsn, record: Record) {
        debug_assert_eq!(lsn.0, self.first.0 + self.records.len() as u64);
        self.bytes += cost(&record);
        self.records.push_back(record);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= cost(&oldest);
            self.first = self.first.next();
        }
    }

    pub fn record(&self, lsn: Lsn) -> Option<&Record> {
        let at = lsn.0.checked_sub(self.first.0)?;
        self.records.get(usize::try_from(at).ok()?)
    }
}

fn cost(record: &Record) -> usize {
    let texts = match record {
        Record::Append(append) => {
            let body = &*append.body;
            let content = match &body.content {
                Content::Text(text) => text.len(),
                Content::Binary(bytes) => bytes.len(),
            };
            content + body.metadata.len() + body.title.len() + body.from.len() + body.to.len() + body.kind.len()
        }
        Record::Group(group) => group.name.len() + group.creator.len(),
        Record::Mark(mark) | Record::Read(mark) => mark.device.len(),
        Record::Joined(_) => 0,
    };
    texts + RECORD_OVERHEAD_BYTES
}

/// What counts against a page's limit of bytes.
pub fn page_bytes(record: &Record) -> usize {
    match record {
        Record::Append(append) => append.body.content.len() + append.body.metadata.len(),
        _ => 0,
    }
}
