//! The suite over a real PostgreSQL, and what is its own: parts, plans, a server that is away.

use std::sync::Arc;
use std::time::Duration;

use tidegate_control::adapters::postgres::records::{PostgresRecords, PostgresRecordsOptions};
use tidegate_control::records::{
    Batch, FeedMetrics, FeedOptions, Feeding, IndexError, Readable, RecordIndex, RecordQuery, Scope, TextQuery,
};
use tidegate_control_core::domain::{Seq, Timestamp};
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};
use xtask::servers::{self, Server};

use crate::kit::{
    DAY_MS, EPOCH, Factory, KEEP_DAYS, OwnServer, breaker, find, id, id_at, now, own_name, pushed, text, until, words,
    written,
};
use crate::proxy::Proxy;

struct Postgres {
    server: Config,
    schema: String,
    index: Arc<PostgresRecords>,
}

impl Postgres {
    fn new() -> Postgres {
        Postgres::at(&servers::url(Server::Postgres).expect("a PostgreSQL to test against"))
    }

    fn at(url: &str) -> Postgres {
        let server: Config = url.parse().expect("the URL of a PostgreSQL");
        let schema = own_name();
        Postgres { index: connect(&server, &schema), server, schema }
    }

    /// The first column of each row.
    async fn ask(&self, sql: &str) -> Vec<String> {
        ask(&self.server, sql).await
    }
}

fn connect(server: &Config, schema: &str) -> Arc<PostgresRecords> {
    let mut server = server.clone();
    server.application_name(schema);
    let options = PostgresRecordsOptions {
        schema: schema.to_owned(),
        keep_days: KEEP_DAYS,
        ..PostgresRecordsOptions::new(server)
    };
    Arc::new(PostgresRecords::new(options).expect("good options"))
}

async fn ask(server: &Config, sql: &str) -> Vec<String> {
    let (client, connection) = server.connect(NoTls).await.expect("connected");
    tokio::spawn(connection);
    let rows = client.simple_query(sql).await.expect("an answer");
    let first = |message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    rows.into_iter().filter_map(first).collect()
}

impl Factory for Postgres {
    fn index(&self) -> Arc<dyn RecordIndex> {
        Arc::clone(&self.index) as Arc<dyn RecordIndex>
    }

    fn another(&self) -> Arc<dyn RecordIndex> {
        connect(&self.server, &self.schema)
    }

    async fn settle(&self) {}
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let (server, schema) = (self.server.clone(), self.schema.clone());
        // In a thread of its own, since futures run here.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let Ok((client, connection)) = server.connect(NoTls).await else { return };
                tokio::spawn(connection);
                let _ = client.batch_execute(&format!("drop schema if exists {schema} cascade")).await;
            });
        });
        let _ = dropped.join();
    }
}

crate::contract::index_contract!(Postgres::new());

#[tokio::test]
async fn parts_are_made_ahead_and_dropped_whole() {
    let postgres = Postgres::new();
    let index = postgres.index();
    index.maintain(now()).await.expect("maintained");
    let parts = format!(
        "select relname from pg_class c join pg_namespace n on n.oid = relnamespace
         where nspname = '{}' and relkind = 'r' and relname ~ '_w[0-9]+$' order by 1",
        postgres.schema
    );
    let week = |ms: i64| ms.div_euclid(7 * DAY_MS);
    let names = |from: i64, to: i64| -> Vec<String> {
        let of = |table: &str| (from..=to).map(|week| format!("{table}_w{week}")).collect::<Vec<_>>();
        [of("message_texts"), of("push_records")].concat()
    };
    let this = week(now().0);
    assert_eq!(postgres.ask(&parts).await, names(this, this + 2));
    let later = now().0 + (i64::from(KEEP_DAYS) + 7) * DAY_MS;
    index.maintain(Timestamp(later)).await.expect("maintained");
    let left = postgres.ask(&parts).await;
    assert!(!left.contains(&format!("push_records_w{this}")), "{left:?}");
    assert!(left.contains(&format!("push_records_w{}", week(later) + 2)), "{left:?}");
}

/// A query that looks at every record would be slow only when it is too late.
#[tokio::test]
async fn queries_use_their_indexes() {
    let postgres = Postgres::new();
    let index = postgres.index();
    let at = |n: u64| id_at(Timestamp(now().0 - 3 * DAY_MS), n);
    for chunk in 0..8u64 {
        let each = (0..500).map(|n| chunk * 500 + n);
        let records = each.clone().map(|n| pushed(at(n), &format!("u:user{n}"), &format!("word{n} common"))).collect();
        let texts = each.map(|n| text(at(n), &format!("g:room{}", n % 50), n, &format!("word{n} common"))).collect();
        written(&*index, &Batch { records, texts }).await;
    }
    for table in ["push_records", "message_texts"] {
        // What was written last waits in a list of its own until then, and to read that costs more than so few rows.
        postgres.ask(&format!("vacuum analyze {}.{table}", postgres.schema)).await;
    }
    let all = RecordQuery { limit: 20, ..RecordQuery::default() };
    for (what, query) in [
        ("uids_idx", RecordQuery { uid: "user77".parse().ok(), ..all.clone() }),
        ("id_idx", RecordQuery { message_id: Some(at(77).to_string().into()), ..all.clone() }),
        ("target_", RecordQuery { stream: "u:user77".parse().ok(), ..all.clone() }),
        ("words_idx", RecordQuery { words: Some(words("word77 common")), ..all.clone() }),
        ("pkey", all.clone()),
    ] {
        let plan = postgres.index.explain(&query).await.expect("a plan");
        assert!(plan.contains(what) && !plan.contains("Seq Scan on push_records_w"), "{what} is not used:\n{plan}");
    }
    let part = Readable { epoch: EPOCH, first: Seq(1), head: Seq(u64::MAX) };
    let rooms = |rooms: u64| Scope::new((0..rooms).map(|n| (format!("g:room{n}").parse().expect("a stream"), part)));
    for (q, scope) in [("word77", rooms(3)), ("common", rooms(1))] {
        let query = TextQuery { words: words(q), scope, ..TextQuery::default() };
        let plan = postgres.index.explain_search(&query).await.expect("a plan");
        assert!(plan.contains("words_idx") && !plan.contains("Seq Scan on message_texts_w"), "{plan}");
    }
}

#[tokio::test]
async fn tables_of_a_newer_program_are_left_alone() {
    let postgres = Postgres::new();
    postgres.index.maintain(now()).await.expect("maintained");
    postgres.ask(&format!("insert into {}.records_migrations (version) values (1000)", postgres.schema)).await;
    let older = postgres.another();
    assert!(matches!(older.maintain(now()).await, Err(IndexError::Failed(_))));
}

#[tokio::test]
async fn tables_that_were_removed_are_made_again() {
    let postgres = Postgres::new();
    let index = postgres.index();
    let batch = Batch { records: vec![pushed(id(1), "u:ann", "hi")], texts: Vec::new() };
    written(&*index, &batch).await;
    postgres.ask(&format!("drop schema {} cascade", postgres.schema)).await;
    until("written again", async || index.write(&batch, now()).await.is_ok_and(|written| written.changed == 1)).await;
}

fn options(queue_max: usize) -> FeedOptions {
    FeedOptions { queue_max, batch_wait: Duration::from_millis(5), batch_max: 10, ..FeedOptions::default() }
}

/// Away from the beginning, there, cut off in the middle, and there again.
#[tokio::test]
async fn a_server_that_is_away_holds_nothing_up() {
    let postgres = Postgres::new();
    let proxy = Proxy::before(&postgres.server);
    proxy.set_away(true);
    let index = connect(&proxy.config(), &postgres.schema);
    let metrics = FeedMetrics::default();
    let (feed, feeding) = Feeding::start(index.clone(), options(50), breaker(), metrics.clone());
    for n in 0..200 {
        feed.record(pushed(id(n), "u:ann", "hi"));
    }
    until("the index was asked", async || metrics.failures.get() > 0).await;
    let lost = metrics.dropped.get();
    // Ten may be in hand, and the oldest of the others went.
    assert!((140..=150).contains(&lost), "{lost} were dropped");
    proxy.set_away(false);
    until("all is written", async || feed.waiting() == 0).await;
    assert_eq!(metrics.written.get() + lost, 200);
    let newest = find(&*postgres.index, RecordQuery { limit: 1, ..RecordQuery::default() }).await;
    assert_eq!(newest.records[0].id.to_string(), id(199).to_string());

    proxy.set_away(true);
    let cut = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = '{}'",
        postgres.schema
    );
    postgres.ask(&cut).await;
    for n in 200..230 {
        feed.record(pushed(id(n), "u:ann", "hi"));
    }
    assert!(index.records(&RecordQuery::default()).await.is_err(), "it is away for readers too");
    proxy.set_away(false);
    feeding.stop(crate::kit::DEADLINE).await;
    assert_eq!((metrics.written.get() + lost, metrics.dropped.get()), (230, lost));
    assert_eq!(
        find(&*index, RecordQuery { limit: 1, ..RecordQuery::default() }).await.records[0].id.to_string(),
        id(229).to_string()
    );
}

#[tokio::test]
async fn feeding_goes_on_after_the_server_was_killed() {
    let server = OwnServer::new(Server::Postgres);
    let url = server.up();
    let postgres = Postgres::at(&url);
    let (feed, feeding) = Feeding::start(postgres.index(), options(1_000), breaker(), FeedMetrics::default());
    let feed_some = |from: u64| (from..from + 20).for_each(|n| feed.record(pushed(id(n), "u:ann", "hi")));
    feed_some(0);
    until("the first are written", async || feed.waiting() == 0).await;
    server.down();
    feed_some(20);
    until("it was missed", async || feed.metrics().failures.get() > 0).await;
    assert_eq!(server.up(), url);
    feed_some(40);
    until("all is written", async || feed.waiting() == 0).await;
    let page = find(&*postgres.index, RecordQuery::default()).await;
    assert_eq!((page.records.len(), feed.metrics().dropped.get()), (60, 0));
    feeding.stop(crate::kit::DEADLINE).await;
}
