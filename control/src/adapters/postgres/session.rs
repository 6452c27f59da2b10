//! Connections: opened with limits on everything, each request within a time, read by a few at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{Failure, OpenError};

/// The thread that speaks with PostgreSQL. Callers block in threads of their own, never in one that drives futures.
#[derive(Debug)]
pub(super) struct Engine {
    runtime: Option<Runtime>,
    config: Config,
    tls: Option<Arc<rustls::ClientConfig>>,
    timeout: Duration,
}

impl Engine {
    pub fn new(
        mut config: Config,
        schema: &str,
        tls: Option<Arc<rustls::ClientConfig>>,
        timeout: Duration,
    ) -> Result<Engine, OpenError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("postgres").enable_all().build();
        let ms = timeout.as_millis();
        // A backend whose client stands still must not hold the partition's row for longer than a successor waits. And a new
        // table is full long before statistics say so: until then the planner would read all of it for each batch.
        let options = format!(
            "-c search_path={schema} -c statement_timeout={ms} -c lock_timeout={ms} \
             -c idle_in_transaction_session_timeout={ms} -c enable_seqscan=off"
        );
        config.options(options).connect_timeout(timeout).tcp_user_timeout(timeout);
        if config.get_application_name().is_none() {
            config.application_name("tidegate-control");
        }
        Ok(Engine { runtime: Some(runtime.map_err(OpenError::Thread)?), config, tls, timeout })
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Waits for a request, at most the timeout.
    pub fn wait<T>(&self, request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let limit = self.timeout;
        self.runtime()
            .block_on(async { tokio::time::timeout(limit, request).await.unwrap_or(Err(Failure::Late(limit))) })
    }

    /// Leaves work to the thread.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime().spawn(work));
    }

    pub async fn connect(&self) -> Result<Session, Failure> {
        match &self.tls {
            None => Session::connect(&self.config, NoTls).await,
            Some(tls) => Session::connect(&self.config, MakeRustlsConnect::new((**tls).clone())).await,
        }
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("only dropping takes it")
    }
}

impl Drop for Engine {
    /// A runtime that waits for its end may not be dropped where futures run, and a reader may be.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One connection and the statements that it has prepared.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    statements: HashMap<&'static str, Statement>,
}

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Session {
    async fn connect<T>(config: &Config, tls: T) -> Result<Session, Failure>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
    {
        let (client, connection) = config.connect(tls).await?;
        tokio::spawn(async move {
            // Whoever uses the client learns of it too, as the failure of the request.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to PostgreSQL ended");
            }
        });
        Ok(Session { client, statements: HashMap::new() })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub async fn prepare(&mut self, sql: &'static str) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    pub async fn query(&mut self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        let statement = self.prepare(sql).await?;
        Ok(self.client.query(&statement, params).await?)
    }

    pub async fn execute(&mut self, sql: &'static str, params: Params<'_>) -> Result<u64, Failure> {
        let statement = self.prepare(sql).await?;
        Ok(self.client.execute(&statement, params).await?)
    }

    fn is_open(&self) -> bool {
        !self.client.is_closed()
    }
}

/// So many connections for reading; who comes when all are in use waits, at most the timeout.
#[derive(Debug)]
pub(super) struct Pool {
    free: crossbeam_channel::Receiver<Option<Session>>,
    back: crossbeam_channel::Sender<Option<Session>>,
    /// The newest failure to connect, for the log to say it once.
    away: Mutex<bool>,
}

impl Pool {
    pub fn new(connections: usize) -> Pool {
        let (back, free) = crossbeam_channel::bounded(connections);
        for _ in 0..connections {
            back.send(None).expect("there is room for each");
        }
        Pool { free, back, away: Mutex::new(false) }
    }

    /// Asks once, and once more if it was an old connection that had ended meanwhile.
    pub fn query(&self, engine: &Engine, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        let deadline = Instant::now() + engine.timeout();
        let taken = self.free.recv_deadline(deadline).map_err(|_| Failure::Busy(engine.timeout()))?;
        let mut session = taken.filter(Session::is_open);
        let was_old = session.is_some();
        let mut answer = engine.wait(ask(engine, &mut session, sql, params));
        if was_old && answer.is_err() && !session.as_ref().is_some_and(Session::is_open) {
            session = None;
            answer = engine.wait(ask(engine, &mut session, sql, params));
        }
        // A late answer may still come on this connection, so it is not used again.
        let session = session.filter(|session| session.is_open() && !matches!(answer, Err(Failure::Late(_))));
        self.tell(&answer);
        self.back.send(session).expect("its place is free");
        answer
    }

    fn tell<T>(&self, answer: &Result<T, Failure>) {
        let mut away = self.away.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match answer {
            Err(failure) if !*away => tracing::warn!(%failure, "PostgreSQL cannot be read"),
            Ok(_) if *away => tracing::info!("PostgreSQL can be read again"),
            _ => {}
        }
        *away = answer.is_err();
    }
}

async fn ask(
    engine: &Engine,
    session: &mut Option<Session>,
    sql: &'static str,
    params: Params<'_>,
) -> Result<Vec<Row>, Failure> {
    let session = match session {
        Some(session) => session,
        None => session.insert(engine.connect().await?),
    };
    session.query(sql, params).await
}
