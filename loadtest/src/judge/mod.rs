//! The oracle: what was published × who should get it, held against what every client was shown.

mod findings;
mod ledger;

pub use findings::{FINDINGS_MAX, Findings, Kind};
pub use ledger::{Answered, Ledger};
