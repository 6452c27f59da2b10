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
    let done = rounds(&mut lab, faults, args.rounds.unwrap_or(ROUNDS), &mut record);
    let bad = done.as_ref().map_or(1, |rows| rows.iter().filter(|row| !row.violations.is_empty()).count());
    let down = lab.take_down(bad == 0);
    let rows = done?;
    down?;
    println!("\n{}", row::summary(faults, &rows));
    if bad > 0 {
        bail!("{bad} of {} rounds broke a promise; logs are kept in {}", rows.len(), lab::folder().display());
    }
    Ok(())
}

fn rounds(lab: &mut Lab, faults: &[Fault], rounds: u32, record: &mut Option<Record>) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    println!("{}", Row::HEAD);
    for fault in faults {
        for number in 1..=rounds {
            let row = match round::run(lab, *fault, number) {
                Ok(row) => row,
                Err(error) => {
                    let row = Row::broken_off(*fault, number, &error);
                    lab.begin_anew()?;
                    row
                }
            };
            println!("{}", row.line());
            row.violations.iter().for_each(|violation| println!("    ! {violation}"));
            if let Some(record) = record {
                record.add(&row)?;
            }
            rows.push(row);
        }
    }
    Ok(rows)
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
