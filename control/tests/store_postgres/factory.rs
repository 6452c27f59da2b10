//! A real PostgreSQL for tests: that of `TIDEGATE_TEST_POSTGRES`, otherwise the one of `cargo xtask servers`, which is
//! started if need be. No server is a failure, never a reason to skip.

use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_control::adapters::postgres::{PostgresOptions, PostgresStore};
use tidegate_control_core::contract::store::{Loss, RemoteStoreFactory, StoreFactory};
use tidegate_control_core::domain::Lsn;
use tokio_postgres::{Config, NoTls};
use xtask::servers::{self, Server};

use crate::proxy::Proxy;

/// Makes stores in schemas of their own, which go with it.
pub struct Factory {
    /// Past the proxy.
    pub server: Config,
    pub proxy: Proxy,
    schemas: Vec<String>,
}

impl Factory {
    pub fn new() -> Factory {
        Factory::at(&servers::url(Server::Postgres).expect("a PostgreSQL to test against"))
    }

    pub fn at(url: &str) -> Factory {
        let server: Config = url.parse().expect("the URL of a PostgreSQL");
        let proxy = Proxy::before(&server);
        Factory { server, proxy, schemas: Vec::new() }
    }

    /// For the store that was opened last, by way of the proxy.
    pub fn options(&self) -> PostgresOptions {
        let schema = self.schemas.last().expect("open comes first").clone();
        let mut server = self.proxy.config();
        server.application_name(&schema);
        PostgresOptions { schema, read_connections: 2, ..PostgresOptions::new(server) }
    }

    pub fn begin(&mut self) -> PostgresOptions {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis();
        self.schemas.push(format!("test_{}_{number}_{now}", std::process::id()));
        self.options()
    }
}

impl StoreFactory for Factory {
    type Store = PostgresStore;

    fn open(&mut self) -> PostgresStore {
        PostgresStore::open(self.begin()).expect("open")
    }

    fn reopen(&mut self, store: PostgresStore) -> PostgresStore {
        drop(store);
        PostgresStore::open(self.options()).expect("open again")
    }

    fn trim(&mut self, store: &mut PostgresStore, upto: Lsn) -> bool {
        store.trim(upto).expect("trim") > 0
    }
}

impl RemoteStoreFactory for Factory {
    fn second(&mut self, _store: &PostgresStore) -> PostgresStore {
        PostgresStore::open(self.options()).expect("open beside the other")
    }

    fn plant(&mut self, loss: Loss) {
        self.proxy.plant(loss);
    }

    fn is_lost(&self) -> bool {
        self.proxy.is_lost()
    }
}

impl Drop for Factory {
    fn drop(&mut self) {
        for schema in &self.schemas {
            // A test that fails leaves its own message; this one would hide it.
            let _ = ask(&self.server, &format!("drop schema if exists {schema} cascade"));
        }
    }
}

/// The first column of each row.
pub fn ask(server: &Config, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (client, connection) = server.connect(NoTls).await?;
        tokio::spawn(connection);
        let rows = client.simple_query(sql).await?;
        let first = |message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(first).collect())
    })
}
