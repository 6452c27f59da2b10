//! Seqs of streams that nobody follows: checked without keeping every message.

use crate::population::StreamNo;
use crate::schedule::mixed;

/// Count and sum of the mixed seqs of one stream: enough to see whether they are 1 to n, each once, in any order.
#[derive(Clone, Copy, Debug, Default)]
struct Seqs {
    count: u64,
    highest: u64,
    sum: u64,
}

#[derive(Clone, Debug)]
pub struct Tally {
    first: u32,
    streams: Vec<Seqs>,
}

impl Tally {
    pub fn new(first: u32, count: usize) -> Tally {
        Tally { first, streams: vec![Seqs::default(); count] }
    }

    pub fn record(&mut self, stream: StreamNo, seq: u64) {
        let seqs = &mut self.streams[(stream.0 - self.first) as usize];
        seqs.count += 1;
        seqs.highest = seqs.highest.max(seq);
        seqs.sum = seqs.sum.wrapping_add(mixed(0, seq));
    }

    /// Streams whose seqs are not 1 to n, each once, as text. Only when every message was answered: an unanswered one may
    /// have a seq that nobody was told.
    pub fn wrong(&self) -> impl Iterator<Item = (StreamNo, String)> {
        self.streams.iter().enumerate().filter_map(|(at, seqs)| {
            let sum = (1..=seqs.count).fold(0, |sum: u64, seq| sum.wrapping_add(mixed(0, seq)));
            let whole = seqs.highest == seqs.count && seqs.sum == sum;
            let text = || format!("{} answers up to seq {}: not each seq once", seqs.count, seqs.highest);
            (!whole).then(|| (StreamNo(self.first + at as u32), text()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_is_fine_and_twice_or_skipped_is_not() {
        let tally = |seqs: &[u64]| {
            let mut tally = Tally::new(5, 2);
            seqs.iter().for_each(|seq| tally.record(StreamNo(6), *seq));
            tally.wrong().count()
        };
        assert_eq!(tally(&[]), 0);
        assert_eq!(tally(&[2, 1, 3]), 0);
        assert_eq!(tally(&[1, 2, 2]), 1);
        assert_eq!(tally(&[1, 3]), 1);
        assert_eq!(tally(&[0]), 1);
        assert_eq!(tally(&[1, 1, 4, 4]), 1, "the right sum of the wrong seqs");
    }
}
