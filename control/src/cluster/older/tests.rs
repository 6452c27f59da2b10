//! A real PostgreSQL whose retention took the beginning, and a real Kafka that still has it. No server is a failure, never a
//! reason to skip.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use tidegate_bus::kafka::KafkaBus;
use tidegate_bus::records::Format;
use tidegate_bus::topics::TopicSpec;
use tidegate_control_core::contract::store::fixtures::{EPOCH, message_of, stream};
use tidegate_control_core::contract::store::{begin_group, chat, join as joins, message};
use tidegate_control_core::domain::{Append, Lsn, Role};
use tidegate_control_core::ports::{MessageStore as _, PageLimit};
use tokio::runtime::Runtime;
use xtask::servers::{self, Server};

use super::*;
use crate::adapters::postgres::{Postgres, PostgresOptions, PostgresStore, SpreadReader};
use crate::cluster::bench::{ORIGIN, with_body};
use crate::cluster::ingress::wall_clock_ms;
use crate::cluster::lookups::Lookups;
use crate::cluster::outbox::Teller as _;
use crate::cluster::outbox::history::History;
use crate::metrics::StoreSeconds;

type Told = tidegate_control_core::domain::Record;

const ALL: PageLimit = PageLimit { messages: 1 << 20, bytes: 1 << 30 };

/// A store and a topic of its own.
struct Stage {
    runtime: Runtime,
    bus: Arc<dyn Bus>,
    topic: String,
    schema: String,
    store: PostgresStore,
    reader: Arc<Lookups<SpreadReader>>,
}

impl Stage {
    fn new() -> Stage {
        Stage::with(86_400)
    }

    /// `trail_s` 0: nobody keeps a history.
    fn with(trail_s: u64) -> Stage {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_nanos();
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("older_{}_{number}_{now}", std::process::id());
        let brokers = servers::url(Server::Kafka).expect("a Kafka to test against");
        let settings = tidegate_bus::settings::Settings { brokers, ..Default::default() };
        let topic =
            TopicSpec { name: name.clone(), partitions: 1, replicas: 1, retention_ms: 86_400_000, config: Vec::new() };
        let bus = runtime.block_on(async {
            let bus: Arc<dyn Bus> = Arc::new(KafkaBus::new(settings).expect("a bus"));
            bus.admin().create_missing(&[topic]).await.expect("a topic");
            bus
        });
        let server = servers::url(Server::Postgres).expect("a PostgreSQL to test against");
        let server = server.parse().expect("the URL of a PostgreSQL");
        let options = PostgresOptions { schema: name.clone(), trail_s, ..PostgresOptions::new(server) };
        let postgres = Postgres::connect(options).expect("connected");
        let store = postgres.open(ORIGIN.partition).expect("open");
        let reader = Arc::new(Lookups {
            store: SpreadReader::new(&postgres),
            seconds: StoreSeconds::default(),
            guard: Arc::default(),
            caches: None,
        });
        Stage { runtime, bus, topic: name.clone(), schema: name, store, reader }
    }

    /// Commits and tells the history of it; `twice` as after a crash.
    fn commit(&mut self, records: &[Told], twice: bool) {
        self.store.commit(records).expect("committed");
        let page: Vec<(Lsn, Told)> = (1..).map(Lsn).zip(records.iter().cloned()).collect();
        let history = History {
            publisher: self.bus.publisher(),
            topic: self.topic.clone(),
            format: Format::Json,
            partitions: 1,
            counts: Arc::default(),
        };
        self.runtime.block_on(async {
            for _ in 0..1 + usize::from(twice) {
                history.tell(ORIGIN, &page).await;
            }
        });
    }

    fn older(&self) -> Older {
        let store = Arc::clone(&self.reader) as Arc<dyn Trail>;
        let older =
            Older::new(Arc::clone(&self.bus), self.topic.clone(), store, GroupHistory::FromJoin, Tally::default());
        // A busy machine is no reason to end early.
        older.bounded(Bounds { patience: Duration::from_secs(60), ..Bounds::default() })
    }

    /// As the owner of the partition answers, whose reader may see what is above `floor`.
    fn owner_says(&self, of: &StreamKey, after: Seq, limit: usize, floor: Seq) -> Answer {
        let mut head = self.reader.head(of).expect("a head").expect("a stream");
        head.first = head.first.max(floor.next());
        let start = after.max(Seq(head.first.0 - 1));
        let page = self.reader.page(of, start, PageLimit { messages: limit, ..ALL }).expect("a page");
        let page = Page { after, upto: page.upto.max(after), messages: page.messages };
        Ok(Reply::Page { stream: of.clone(), page, head })
    }

    fn pull(&self, older: &Older, who: Option<&str>, of: &str, after: u64, limit: usize, floor: u64) -> Answer {
        let uid = who.map(|who| who.parse().expect("a uid"));
        let asked = Asked { uid, stream: stream(of), after: Seq(after), limit };
        let answer = self.owner_says(&asked.stream, asked.after, limit, Seq(floor));
        self.runtime.block_on(older.complete(&asked, answer))
    }

    /// From here to the end, page by page: no hole, no twin, nothing out of order.
    fn read(&self, older: &Older, of: &str, limit: usize) -> Vec<Stored> {
        let (mut after, mut all): (u64, Vec<Stored>) = (0, Vec::new());
        loop {
            let answer = self.pull(older, None, of, after, limit, 0);
            let Ok(Reply::Page { page, head, .. }) = answer else { panic!("{answer:?}") };
            assert_eq!(page.after, Seq(after));
            assert!(page.messages.len() <= limit && page.upto <= head.head);
            assert!(page.messages.iter().all(|message| message.seq > Seq(after) && message.seq <= page.upto));
            all.extend(page.messages);
            if page.upto == head.head {
                return all;
            }
            assert!(page.upto > Seq(after), "a page leads further");
            after = page.upto.0;
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let server = servers::url(Server::Postgres).expect("a PostgreSQL").parse::<tokio_postgres::Config>();
        let (server, schema) = (server.expect("a URL"), &self.schema);
        self.runtime.block_on(async {
            // A test that fails leaves its own message; these would hide it.
            let _ = self.bus.admin().delete(&self.topic).await;
            if let Ok((client, connection)) = server.connect(tokio_postgres::NoTls).await {
                tokio::spawn(connection);
                let _ = client.batch_execute(&format!("drop schema if exists {schema} cascade")).await;
            }
        });
    }
}

fn seqs(messages: &[Stored]) -> Vec<u64> {
    messages.iter().map(|message| message.seq.0).collect()
}

fn at(record: Told, ts: i64) -> Told {
    with_body(record, |body| body.ts = Timestamp(ts))
}

#[test]
fn what_was_trimmed_is_read_over_the_seam_without_a_hole_or_a_twin() {
    let mut stage = Stage::new();
    let began = wall_clock_ms() - 3_600_000;
    let mut records = Vec::new();
    for seq in 1..=230 {
        let ts = began + seq as i64 * 1_000;
        records.push(at(message("g:busy", seq), ts));
        if seq % 40 == 0 {
            records.push(at(message("u:ann", seq / 40), ts));
        }
        if seq % 50 == 0 {
            records.push(at(chat("bob", seq / 50, "cat", seq / 50, seq / 50), ts));
        }
    }
    stage.commit(&records, true);
    let older = stage.older();
    let whole: Vec<Vec<Stored>> = ["g:busy", "u:ann", "u:bob", "c:bob:cat"]
        .map(|of| stage.reader.page(&stream(of), Seq::ZERO, ALL).expect("a page").messages)
        .into();
    for upto in [60, 170, 243] {
        stage.store.trim(Lsn(upto)).expect("trimmed");
        for (of, whole) in ["g:busy", "u:ann", "u:bob", "c:bob:cat"].iter().zip(&whole) {
            for limit in [7, 100, 1_000] {
                assert_eq!(&stage.read(&older, of, limit), whole, "{of}, trimmed to {upto}, by {limit}");
            }
        }
    }
    let first = stage.reader.head(&stream("g:busy")).expect("a head").expect("a stream").first;
    assert_eq!(first, Seq(231), "all of it is trimmed");
}

#[test]
fn an_earlier_life_of_a_group_is_not_shown() {
    let mut stage = Stage::new();
    let before = Epoch(EPOCH.0 + 1);
    let mut records: Vec<Told> = (1..=9).map(|seq| message_of("g:go", before, seq)).collect();
    records.extend((1..=20).map(|seq| message("g:go", seq)));
    stage.commit(&records, false);
    stage.store.trim(Lsn(19)).expect("trimmed");
    let all = stage.read(&stage.older(), "g:go", 6);
    assert_eq!(seqs(&all), (1..=20).collect::<Vec<_>>());
    assert!(all.iter().all(|message| message.body.id.0 == 1_000 + message.seq.0));
}

#[test]
fn a_member_sees_nothing_of_before_the_joining() {
    let mut stage = Stage::new();
    let mut records = vec![begin_group("go")];
    records.extend((1..=30).map(|seq| message("g:go", seq)));
    records.push(joins("go", 31, "ann", Role::Member));
    records.extend((32..=60).map(|seq| message("g:go", seq)));
    stage.commit(&records, false);
    stage.store.trim(Lsn(51)).expect("trimmed");
    let older = stage.older();
    let shown = |who: Option<&str>, floor: u64| {
        let answer = stage.pull(&older, who, "g:go", 0, 1_000, floor);
        let Ok(Reply::Page { page, .. }) = answer else { panic!("{answer:?}") };
        seqs(&page.messages)
    };
    assert_eq!(shown(Some("ann"), 30), (31..=60).collect::<Vec<_>>());
    assert_eq!(shown(None, 0), (1..=60).collect::<Vec<_>>());
    assert_eq!(shown(Some("bob"), 50), (51..=60).collect::<Vec<_>>(), "no member any more");
}

#[test]
fn who_reaches_a_bound_is_told_so_and_goes_on_from_there() {
    let mut stage = Stage::new();
    let mut records: Vec<Told> = (1..=450).map(|seq| message("g:noise", seq)).collect();
    records.extend((1..=3).map(|seq| message("u:ann", seq)));
    records.extend((451..=900).map(|seq| message("g:noise", seq)));
    records.extend((4..=6).map(|seq| message("u:ann", seq)));
    stage.commit(&records, false);
    stage.store.trim(Lsn(905)).expect("trimmed");
    let bounds = Bounds { records: 100, quiet: 30, patience: Duration::from_secs(60), at_once: 1 };
    let older = stage.older().bounded(bounds);
    let (mut after, mut refused, mut all) = (0, 0, Vec::new());
    while after < 6 {
        match stage.pull(&older, None, "u:ann", after, 10, 0) {
            Ok(Reply::Page { page, .. }) => {
                after = page.upto.0;
                all.extend(seqs(&page.messages));
            }
            Err(refusal) => {
                assert_eq!((refusal.code, refusal.retry_after_ms), (ErrorCode::Unavailable, Some(RETRY_AFTER_MS)));
                refused += 1;
                assert!(refused < 12, "it leads further each time");
            }
            answer => panic!("{answer:?}"),
        }
    }
    assert_eq!(all, (1..=6).collect::<Vec<_>>());
    assert_eq!(refused, 8, "nine hundred records lie before it, a hundred are looked at, and none twice");
}

#[test]
fn without_a_history_a_page_begins_where_the_store_does() {
    for (trail_s, told) in [(0, true), (86_400, false)] {
        let mut stage = Stage::with(trail_s);
        let records: Vec<Told> = (1..=20).map(|seq| message("g:go", seq)).collect();
        if told {
            stage.commit(&records, false);
        } else {
            stage.store.commit(&records).expect("committed");
        }
        stage.store.trim(Lsn(12)).expect("trimmed");
        assert_eq!(seqs(&stage.read(&stage.older(), "g:go", 5)), (13..=20).collect::<Vec<_>>());
    }
}

#[test]
fn a_bus_that_is_away_makes_nobody_believe_that_it_is_gone() {
    let mut stage = Stage::new();
    stage.commit(&(1..=20).map(|seq| message("g:go", seq)).collect::<Vec<_>>(), false);
    stage.store.trim(Lsn(12)).expect("trimmed");
    let mut older = stage.older();
    older.topic = format!("{}-that-is-not-there", older.topic);
    let answer = stage.pull(&older, None, "g:go", 0, 10, 0);
    assert!(matches!(&answer, Err(refusal) if refusal.code == ErrorCode::Unavailable), "{answer:?}");
}

fn found(upto: u64, limit: usize) -> Found {
    Found::new(Wanted { epoch: EPOCH, after: Seq::ZERO, upto: Seq(upto), limit })
}

fn ours(seq: u64) -> Option<Stored> {
    let Told::Append(Append { body, .. }) = message("g:go", seq) else { panic!("no message") };
    Some(Stored { seq: Seq(seq), body, conversation: None })
}

#[test]
fn copies_and_what_comes_before_its_turn_are_put_in_order() {
    let mut found = found(6, 100);
    for (offset, seq) in [1, 2, 4, 3, 2, 4, 5, 5, 9].into_iter().enumerate() {
        found.look(ours(seq), offset as i64);
    }
    assert!(!found.is_done(), "the sixth may still come");
    assert_eq!(found.resume, Some(8), "what came before its turn is asked for again");
    found.look(ours(6), 9);
    assert!(found.is_done());
    assert_eq!(seqs(&found.messages), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn what_does_not_come_is_passed_over_once_it_cannot_come_any_more() {
    let mut found = found(9, 100);
    found.look(ours(1), 0);
    found.look(ours(3), 1);
    (0..HOLE_RECORDS - 2).for_each(|_| found.look(None, 2));
    assert_eq!(found.upto(), Seq(1));
    (0..2).for_each(|_| found.look(None, 2));
    assert_eq!((found.upto(), seqs(&found.messages)), (Seq(3), vec![1, 3]));
    found.look(ours(12), 3);
    (0..HOLE_RECORDS).for_each(|_| found.look(None, 2));
    assert!(found.is_done());
    assert_eq!((found.upto(), seqs(&found.messages)), (Seq(9), vec![1, 3]));
}

#[test]
fn a_page_ends_at_its_limit() {
    let mut found = found(9, 2);
    (1..=4).for_each(|seq| found.look(ours(seq), seq as i64));
    assert!(found.is_done());
    assert_eq!((found.upto(), seqs(&found.messages)), (Seq(2), vec![1, 2]));
}
