//! The oracle: what was published × who should get it, held against what every client was shown.

mod evidence;
mod findings;
mod ledger;
mod tally;
mod verdict;

pub use evidence::{Evidence, Seen};
pub use findings::{FINDINGS_MAX, Findings, Kind};
pub use ledger::{Answered, Ledger};
pub use tally::{Odd, Tally};
pub use verdict::{Standing, judge};

#[cfg(test)]
mod tests;
