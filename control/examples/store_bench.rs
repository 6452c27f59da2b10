//! How fast a store commits and reads: the embedded one, or the one in PostgreSQL.
//!
//! ```text
//! cargo run --release -p tidegate-control --example store_bench -- [DIR] [--seconds 10] [--streams 1000] [--batch 4000] [--keys 0|1] [--bytes 200]
//! cargo run --release -p tidegate-control --example store_bench -- --postgres URL …
//! ```
//!
//! Prints records per second for batches, the latency of single-record commits, what opening costs, and pages per second
//! from memory and from the log. In PostgreSQL it fills the schema `store_bench`, and leaves it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use smallvec::{SmallVec, smallvec};
use tidegate_control::adapters::embedded::{EmbeddedOptions, EmbeddedStore};
use tidegate_control::adapters::postgres::{PostgresOptions, PostgresStore};
use tidegate_control_core::domain::record::Dedup;
use tidegate_control_core::domain::{
    Append, Body, Content, Epoch, Fingerprint, MessageId, Place, Priority, Record, Seq, StreamKey, Timestamp,
};
use tidegate_control_core::ports::{MessageStore, PageLimit, StoreReader};

const SINGLE_COMMITS: usize = 2_000;
const PAGES: usize = 20_000;

struct Arguments {
    dir: PathBuf,
    seconds: u64,
    streams: usize,
    batch: usize,
    keys: bool,
    bytes: usize,
    postgres: Option<String>,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments {
        dir: PathBuf::from("store-bench-data"),
        seconds: 10,
        streams: 1_000,
        batch: 4_000,
        keys: true,
        bytes: 200,
        postgres: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--postgres" {
            parsed.postgres = Some(words.next().context("a URL must follow")?);
            continue;
        }
        let mut number = || -> Result<usize> { Ok(words.next().context("a number must follow")?.parse()?) };
        match word.as_str() {
            "--seconds" => parsed.seconds = number()? as u64,
            "--streams" => parsed.streams = number()?,
            "--batch" => parsed.batch = number()?,
            "--keys" => parsed.keys = number()? != 0,
            "--bytes" => parsed.bytes = number()?,
            other if other.starts_with("--") => bail!("unknown option {other}"),
            dir => parsed.dir = PathBuf::from(dir),
        }
    }
    Ok(parsed)
}

/// Makes what a sequencer would hand over: some text, a key of the caller's, one place.
struct Source {
    streams: Vec<StreamKey>,
    seqs: Vec<u64>,
    keys: bool,
    bytes: usize,
    next: u64,
    started: Instant,
}

impl Source {
    fn batch(&mut self, len: usize) -> Vec<Record> {
        (0..len).map(|_| self.record()).collect()
    }

    fn record(&mut self) -> Record {
        self.next += 1;
        // Fibonacci hashing spreads neighbours over streams and keys.
        let spread = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let stream = (spread >> 32) as usize % self.streams.len();
        self.seqs[stream] += 1;
        let body = Body {
            id: MessageId(self.next),
            from: "bench".into(),
            to: "".into(),
            client_msg_id: "".into(),
            kind: "text".into(),
            title: "".into(),
            content: Content::Text("x".repeat(self.bytes).into()),
            metadata: "".into(),
            ts: Timestamp(1_790_000_000_000 + self.started.elapsed().as_millis() as i64),
            priority: Priority::Normal,
            expires: None,
            platforms: SmallVec::new(),
        };
        let key = (u128::from(spread) << 64 | u128::from(self.next)).to_le_bytes();
        let place = Place { stream: self.streams[stream].clone(), epoch: Epoch(7), seq: Seq(self.seqs[stream]) };
        let dedup = self.keys.then_some(Dedup { key, fingerprint: Fingerprint(spread) });
        Record::Append(Append { body: Arc::new(body), places: smallvec![place], dedup, membership: None })
    }
}

impl Source {
    fn new(arguments: &Arguments) -> Result<Source> {
        let streams = (0..arguments.streams).map(|n| format!("u:user{n}").parse()).collect::<Result<Vec<_>, _>>()?;
        let seqs = vec![0; arguments.streams];
        Ok(Source { streams, seqs, keys: arguments.keys, bytes: arguments.bytes, next: 0, started: Instant::now() })
    }
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let mut source = Source::new(&arguments)?;
    if let Some(url) = &arguments.postgres {
        return postgres(url, &mut source, &arguments);
    }
    if arguments.dir.exists() {
        bail!("{} exists already", arguments.dir.display());
    }
    let mut store = EmbeddedStore::open(&arguments.dir, EmbeddedOptions::default())?;
    single_commits(&mut store, &mut source)?;
    batches(&mut store, &mut source, &arguments)?;
    pages(&store, &source, "pages of recent messages")?;

    drop(store);
    let started = Instant::now();
    let store = EmbeddedStore::open(&arguments.dir, EmbeddedOptions::default())?;
    let bytes: u64 = std::fs::read_dir(arguments.dir.join("log"))?
        .map(|entry| Ok(entry?.metadata()?.len()))
        .sum::<std::io::Result<u64>>()?;
    let seconds = started.elapsed().as_secs_f64();
    println!("opening: {:.2} s for {:.2} GB ({:.2} GB/s)", seconds, bytes as f64 / 1e9, bytes as f64 / 1e9 / seconds);
    pages(&store, &source, "pages from the log")?;
    drop(store);

    std::fs::remove_dir_all(arguments.dir.join("index"))?;
    let started = Instant::now();
    drop(EmbeddedStore::open(&arguments.dir, EmbeddedOptions::default())?);
    let seconds = started.elapsed().as_secs_f64();
    println!("index made anew: {seconds:.2} s ({:.0} records/s)", source.next as f64 / seconds);
    std::fs::remove_dir_all(&arguments.dir)?;
    Ok(())
}

/// Streams begin at their first message, so what an earlier run left is in the way.
fn postgres(url: &str, source: &mut Source, arguments: &Arguments) -> Result<()> {
    let options = PostgresOptions { schema: "store_bench".to_owned(), ..PostgresOptions::new(url.parse()?) };
    let mut store = PostgresStore::open(options)?;
    if store.last_lsn().0 != 0 {
        bail!("drop the schema store_bench first");
    }
    single_commits(&mut store, source)?;
    batches(&mut store, source, arguments)?;
    pages(&store, source, "pages of recent messages")
}

fn single_commits(store: &mut impl MessageStore, source: &mut Source) -> Result<()> {
    let mut times: Vec<Duration> = Vec::with_capacity(SINGLE_COMMITS);
    for _ in 0..SINGLE_COMMITS {
        let batch = source.batch(1);
        let started = Instant::now();
        store.commit(&batch)?;
        times.push(started.elapsed());
    }
    times.sort();
    let at = |part: f64| times[(times.len() as f64 * part) as usize].as_secs_f64() * 1e3;
    println!("commit of one record: P50 {:.3} ms, P99 {:.3} ms", at(0.5), at(0.99));
    Ok(())
}

fn batches(store: &mut impl MessageStore, source: &mut Source, arguments: &Arguments) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let (mut records, mut committing, mut slowest) = (0, Duration::ZERO, Duration::ZERO);
    let started = Instant::now();
    while Instant::now() < until {
        let batch = source.batch(arguments.batch);
        for record in &batch {
            // The sequencer asks for each key before it commits.
            if let Record::Append(Append { dedup: Some(dedup), .. }) = record
                && store.dedup(&dedup.key)?.is_some()
            {
                bail!("a fresh key is known already");
            }
        }
        let began = Instant::now();
        store.commit(&batch)?;
        committing += began.elapsed();
        slowest = slowest.max(began.elapsed());
        records += batch.len();
    }
    let all = started.elapsed().as_secs_f64();
    println!(
        "batches of {}: {:.0} records/s with making and looking up, {:.0} records/s of commit alone, slowest {:.1} ms",
        arguments.batch,
        records as f64 / all,
        records as f64 / committing.as_secs_f64(),
        slowest.as_secs_f64() * 1e3
    );
    Ok(())
}

fn pages(store: &impl StoreReader, source: &Source, what: &str) -> Result<()> {
    let limit = PageLimit { messages: 20, bytes: 64 * 1024 };
    let started = Instant::now();
    let mut messages = 0;
    for round in 0..PAGES {
        let stream = round * 7 % source.streams.len();
        // Recent ones end at the head; from the log, anywhere.
        let after = match what.contains("recent") {
            true => source.seqs[stream].saturating_sub(20),
            false => (round as u64 * 131) % source.seqs[stream].max(1),
        };
        messages += store.page(&source.streams[stream], Seq(after), limit)?.messages.len();
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {:.0} pages/s, {:.0} messages/s", PAGES as f64 / seconds, messages as f64 / seconds);
    Ok(())
}
