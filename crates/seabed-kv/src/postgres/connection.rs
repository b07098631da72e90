//! Connections: made, pooled, given up.
//!
//! No state is ever left behind in a session that is not ours: settings are of one transaction, statements have names where session.rs allows
//! it alone, and a connection that was given up in the middle of a transaction is closed, not used again.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Row, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failure::{self, Failure};
use super::session::{OwnSession, guarded, is_misnamed};
use crate::limits::{POSTGRES_ANSWER_MS_MAX, POSTGRES_BACKOFF_MS_MAX, POSTGRES_STATEMENT_MS_MAX};
use crate::sync::{Mutex, lock};
use crate::{Error, Result};

/// A value and its type, so that a statement goes out with its parameters at once.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// One session with the server.
pub(super) struct Connection {
    client: Client,
    /// Whether the server warned since the last statement began.
    warned: Arc<AtomicBool>,
    driver: AbortHandle,
    /// Whether it stands in the middle of something, so that it cannot be used again.
    unfinished: AtomicBool,
    /// Whether a transaction stays open between two statements.
    in_transaction: AtomicBool,
    clock: Clock,
    /// `None` where a pooler may lend another session each time.
    own_session: Mutex<Option<OwnSession>>,
}

/// What the server's clock said, and that it said so no later than that.
#[derive(Debug, Clone, Copy)]
struct Clock {
    said_ms: i64,
    heard: Instant,
}

impl Connection {
    /// When a statement that is sent now must have ended, in milliseconds by the server's clock: well before its answer is waited for no
    /// more, wherever it was held up. What was given up never takes effect after that.
    pub(super) fn give_up(&self) -> i64 {
        let waits = self.clock.heard.elapsed() + Duration::from_millis(POSTGRES_STATEMENT_MS_MAX);
        self.clock.said_ms.saturating_add(i64::try_from(waits.as_millis()).unwrap_or(i64::MAX))
    }

    /// Gives the connection up when another one may do better.
    pub(super) fn heed(&self, failure: &Failure) {
        self.unfinished.fetch_or(failure.is_of_connection(), Ordering::Relaxed);
    }

    /// Asks for the server's clock and, where the greeting does, for the process that answers.
    async fn greet(&mut self, greeting: &str) -> Result<(), Failure> {
        let rows = self.query(greeting, &[]).await?;
        if let Some(row) = rows.first() {
            self.clock = Clock { said_ms: row.try_get(0)?, heard: Instant::now() };
            if row.len() > 1 {
                let own = OwnSession::of(&self.client, row.try_get(1)?).await;
                *lock(&self.own_session) = own;
            }
        }
        Ok(())
    }

    /// Sends one statement and takes its whole answer: one round trip.
    pub(super) async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Failure> {
        self.finish(self.client.query_typed(sql, parameters)).await
    }

    /// The same for a statement that is sent again and again, and whose plan does not depend on its parameters: in a session of our own it
    /// has a name from its second time on, so that the server parses and plans it no more.
    pub(super) async fn query_often(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Failure> {
        // What fails in a transaction ends it, so there it could not be sent again.
        if self.in_transaction.load(Ordering::Relaxed) {
            return self.query(sql, parameters).await;
        }
        let own = lock(&self.own_session).as_ref().map(|own| (own.mark, own.named(sql)));
        let Some((mark, named)) = own else { return self.query(sql, parameters).await };
        let Some(statement) = named else { return self.query_and_name(sql, parameters, mark).await };
        let mut values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
        values.push(&mark);
        match self.finish(self.client.query(&statement, &values)).await {
            Err(failure) if is_misnamed(&failure) => {
                tracing::debug!(?failure, "a statement's name means something else; there will be none");
                *lock(&self.own_session) = None;
                // It is closed with its last holder: now, and not behind the answer.
                drop(statement);
                self.query(sql, parameters).await
            }
            answered => answered,
        }
    }

    /// Sends one statement, and behind it the same to be named: one round trip.
    async fn query_and_name(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
        mark: i64,
    ) -> Result<Vec<Row>, Failure> {
        let types: Vec<_> = parameters.iter().map(|(_, of)| of.clone()).chain([Type::INT8]).collect();
        let text = guarded(sql, parameters.len(), mark);
        self.finish(async {
            let asked = self.client.query_typed(sql, parameters);
            let (answered, named) = tokio::join!(biased; asked, self.client.prepare_typed(&text, &types));
            // Without a name it is only slower.
            if let (Ok(statement), Some(own)) = (named, lock(&self.own_session).as_mut()) {
                own.name(sql, statement);
            }
            answered
        })
        .await
    }

    /// Sends one statement that changes rows; answers how many.
    pub(super) async fn execute(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64, Failure> {
        self.finish(self.client.execute_typed(sql, parameters)).await
    }

    /// Sends statements without parameters.
    pub(super) async fn run(&self, sql: &str) -> Result<(), Failure> {
        self.finish(self.client.batch_execute(sql)).await
    }

    /// A statement that is sent when it is first polled; see [`pipelined`].
    pub(super) fn sending<'a>(&'a self, sql: &'a str, parameters: Vec<Parameter<'a>>) -> Pending<'a, u64> {
        Box::pin(async move { self.client.execute_typed(sql, &parameters).await })
    }

    /// The same for one that answers rows.
    pub(super) fn asking<'a>(
        &'a self,
        sql: &'a str,
        parameters: Vec<Parameter<'a>>,
    ) -> Pending<'a, Vec<Row>> {
        Box::pin(async move { self.client.query_typed(sql, &parameters).await })
    }

    /// Waits for the answers of all statements of a transaction.
    pub(super) async fn all<T>(&self, statements: impl Future<Output = T>) -> Result<T, Failure> {
        self.finish(async { Ok(statements.await) }).await
    }

    /// Begins a transaction that stays open: the connection is given up unless it is ended.
    pub(super) async fn begin(&self, begin: &str) -> Result<(), Failure> {
        self.in_transaction.store(true, Ordering::Relaxed);
        self.run(begin).await
    }

    /// Ends that transaction.
    pub(super) async fn end(&self, end: &str) -> Result<(), Failure> {
        self.run(end).await?;
        self.in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn is_idle(&self) -> bool {
        ![&self.unfinished, &self.in_transaction].iter().any(|state| state.load(Ordering::Relaxed))
    }

    /// Waits for what takes the connection from one idle state to the next. When that does not come in time, or when it is dropped in
    /// between, the connection is given up.
    async fn finish<T>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Failure> {
        self.unfinished.store(true, Ordering::Relaxed);
        self.warned.store(false, Ordering::Relaxed);
        let Ok(done) = tokio::time::timeout(Duration::from_millis(POSTGRES_ANSWER_MS_MAX), work).await else {
            return Err(Failure::Silent);
        };
        // An error was answered, too, and the server waits for the next statement.
        self.unfinished.store(self.client.is_closed(), Ordering::Relaxed);
        if done.is_ok() && self.warned.load(Ordering::Relaxed) {
            return Err(Failure::Unreplicated);
        }
        done.map_err(|error| {
            let failure = Failure::from(error);
            self.heed(&failure);
            failure
        })
    }
}

impl Drop for Connection {
    /// Closing the socket makes the server roll back, also when it does not listen.
    fn drop(&mut self) {
        if !self.is_idle() {
            self.driver.abort();
        }
    }
}

/// A statement that was not sent yet.
pub(super) type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, tokio_postgres::Error>> + Send + 'a>>;

/// Sends all statements in order, without waiting for an answer in between, and takes the answers: one round trip.
pub(super) async fn pipelined<T>(statements: &mut [Pending<'_, T>]) -> Vec<Result<T, tokio_postgres::Error>> {
    let mut answers: Vec<Option<Result<T, _>>> = statements.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut waiting = false;
        // The first poll of each sends it.
        for (statement, answer) in
            statements.iter_mut().zip(&mut answers).filter(|(_, answer)| answer.is_none())
        {
            match statement.as_mut().poll(context) {
                Poll::Ready(done) => *answer = Some(done),
                Poll::Pending => waiting = true,
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    answers.into_iter().flatten().collect()
}

/// Makes connections for the pool.
pub(super) struct Server {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// What each connection is asked first.
    greeting: String,
    unreachable: Mutex<Option<Unreachable>>,
}

/// How long nobody connects after a connection could not be made; twice as long after each further one.
const FIRST_WAIT: Duration = Duration::from_millis(25);

/// Since when the server cannot be reached. Whoever asks again too early is answered the same at once, after the second failure.
struct Unreachable {
    error: Error,
    wait: Duration,
    until: Instant,
}

impl Server {
    pub(super) fn new(config: Config, tls: Option<MakeRustlsConnect>, greeting: String) -> Self {
        Self { config, tls, greeting, unreachable: Mutex::default() }
    }

    /// Where the server is, for a connection outside of the pool.
    pub(super) fn address(&self) -> (Config, Option<MakeRustlsConnect>) {
        (self.config.clone(), self.tls.clone())
    }

    async fn connect(&self) -> Result<Connection, tokio_postgres::Error> {
        if let Some(tls) = &self.tls {
            let (client, connection) = self.config.connect(tls.clone()).await?;
            return Ok(drive(client, connection));
        }
        let (client, connection) = self.config.connect(NoTls).await?;
        Ok(drive(client, connection))
    }
}

impl managed::Manager for Server {
    type Type = Connection;
    type Error = Error;

    async fn create(&self) -> Result<Connection> {
        let wait_until = match &*lock(&self.unreachable) {
            Some(unreachable) if Instant::now() < unreachable.until => {
                if unreachable.wait > FIRST_WAIT {
                    return Err(unreachable.error.clone());
                }
                Some(unreachable.until)
            }
            _ => None,
        };
        // One connection that could not be made says little of the next, and is no reason to turn somebody else away.
        if let Some(until) = wait_until {
            tokio::time::sleep_until(until).await;
        }
        match self.connect().await {
            Ok(mut connection) => {
                *lock(&self.unreachable) = None;
                connection.greet(&self.greeting).await.map_err(Failure::of_read)?;
                Ok(connection)
            }
            Err(error) => {
                let error = failure::unreachable(error);
                let mut unreachable = lock(&self.unreachable);
                let wait = unreachable.as_ref().map_or(FIRST_WAIT, |before| before.wait * 2);
                let wait = wait.min(Duration::from_millis(POSTGRES_BACKOFF_MS_MAX));
                *unreachable = Some(Unreachable { error: error.clone(), wait, until: Instant::now() + wait });
                Err(error)
            }
        }
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Error> {
        if !connection.is_idle() || connection.client.is_closed() {
            return Err(RecycleError::message("the connection is closed, or in the middle of something"));
        }
        Ok(())
    }
}

/// Reads from the server for as long as the connection lives.
fn drive<S>(client: Client, mut connection: tokio_postgres::Connection<Socket, S>) -> Connection
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let warned = Arc::new(AtomicBool::new(false));
    let heard = warned.clone();
    let driver = tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => {
                    // Set before the answer that it comes ahead of is handed on.
                    heard.fetch_or(is_cut_off_wait(&notice), Ordering::Relaxed);
                    tracing::debug!(
                        code = notice.code().code(),
                        message = notice.message(),
                        "a notice of PostgreSQL"
                    );
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "a connection to PostgreSQL ended");
                    return;
                }
            }
        }
    });
    Connection {
        client,
        warned,
        driver: driver.abort_handle(),
        unfinished: AtomicBool::new(false),
        in_transaction: AtomicBool::new(false),
        clock: Clock { said_ms: i64::MAX, heard: Instant::now() },
        own_session: Mutex::default(),
    }
}

/// What the server says when the wait for a synchronous standby was cut off after the commit. Its words depend on its language; the place in
/// its source does not, and a pooler that leaves that out is believed the worst.
fn is_cut_off_wait(notice: &DbError) -> bool {
    let is_warning = match notice.parsed_severity() {
        Some(severity) => severity == Severity::Warning,
        None => notice.severity() == "WARNING",
    };
    is_warning
        && [SqlState::WARNING, SqlState::ADMIN_SHUTDOWN].contains(notice.code())
        && notice.routine().is_none_or(|routine| routine == "SyncRepWaitForLSN")
}
