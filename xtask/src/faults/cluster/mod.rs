//! A cluster: each fault under load, round by round, on real servers that are the run's own.

mod acts;
mod audit;
mod delay;
mod fault;
mod lab;
mod load;
mod network;
mod round;
mod row;
mod watch;

use std::fs::File;
use std::io::Write as _;

use anyhow::{Context as _, bail};
use clap::ValueEnum as _;

use super::Args;
use lab::Lab;
use row::Row;

pub use fault::Fault;

const ROUNDS: u32 = 10;

pub fn run(args: &Args) -> anyhow::Result<()> {
    let faults = if args.fault.is_empty() { Fault::value_variants() } else { &args.fault[..] };
    let mut record = args.out.as_deref().map(Record::begin).transpose()?;
    let mut lab = Lab::build(args)?;
    let mut rows = Vec::new();
    println!("{}", Row::HEAD);
    for fault in faults {
        for number in 1..=args.rounds.unwrap_or(ROUNDS) {
            let row = round::run(&mut lab, *fault, number)?;
            println!("{}", row.line());
            row.violations.iter().for_each(|violation| println!("    ! {violation}"));
            if let Some(record) = &mut record {
                record.add(&row)?;
            }
            rows.push(row);
        }
    }
    println!("\n{}", row::summary(faults, &rows));
    let bad = rows.iter().filter(|row| !row.violations.is_empty()).count();
    lab.take_down(bad == 0)?;
    if bad > 0 {
        bail!("{bad} of {} rounds broke a promise; logs are kept in {}", rows.len(), lab::folder().display());
    }
    Ok(())
}

/// The raw data.
struct Record(File);

impl Record {
    fn begin(folder: &std::path::Path) -> anyhow::Result<Record> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = folder.join("rounds.jsonl");
        let file = File::options().create(true).append(true).open(&file).context("cannot write rounds.jsonl")?;
        Ok(Record(file))
    }

    fn add(&mut self, row: &Row) -> anyhow::Result<()> {
        writeln!(self.0, "{}", serde_json::to_string(row)?).context("cannot write rounds.jsonl")
    }
}
