//! The PostgreSQL backend: the rows of all tenants in one table, keyed by tenant first. Any number of processes may share it.
//!
//! A batch, also a conditional one, is one statement and one round trip. Reads are of the primary and always fresh.

mod address;
mod batch;
mod connection;
mod failure;
mod hints;
mod names;
mod portable;
mod queue;
mod reader;
mod schema;
mod session;
mod sql;
mod view;

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deadpool::Runtime as PoolRuntime;
use deadpool::managed::{Object, Pool, PoolError};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio_postgres::types::Type;

use self::address::Address;
use self::connection::{Parameter, Server};
use self::failure::Failure;
use self::hints::PostgresHints;
use self::queue::Writer;
use self::reader::Reader;
use self::sql::Statements;
use self::view::PostgresView;
use crate::backend::{Admission, Backend, Copied, Hints, TenantBackend, TenantReport, TenantStats, View};
use crate::limits::{POSTGRES_ACQUIRE_MS_MAX, POSTGRES_CONNECTIONS_MAX, POSTGRES_RETRIES_MAX};
use crate::op::pending;
use crate::{Batch, Durability, Error, ErrorKind, KeyRange, Op, Outcome, Page, Result, ScanSpec, TenantId};

/// How many threads talk to the server for a store: they never compute for long. One, so that what is pipelined is queued whole before the
/// first of it is sent.
const THREADS: usize = 1;

/// How a store uses its server. What it stores, and what it promises, does not depend on it.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The schema that holds the tables; it is made when it is not there. By default `seabed`. Stores in two schemas of a database know
    /// nothing of each other.
    pub schema: String,
    /// How many connections are open at once, at most; a snapshot has one for itself, and at most half of them are snapshots'. By default
    /// [`POSTGRES_CONNECTIONS_MAX`].
    pub connections_max: usize,
    /// How long an operation waits for a free connection before it is told Busy. By default [`POSTGRES_ACQUIRE_MS_MAX`].
    pub acquire_ms_max: u64,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            schema: "seabed".to_owned(),
            connections_max: POSTGRES_CONNECTIONS_MAX,
            acquire_ms_max: POSTGRES_ACQUIRE_MS_MAX,
        }
    }
}

/// What the server behind an address can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// PostgreSQL itself: functions and advisory locks.
    Postgres,
    /// What speaks its protocol: plain statements in serializable transactions.
    Portable,
}

impl Dialect {
    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Portable => "portable",
        }
    }
}

/// What a store and its tenants share.
pub(crate) struct Shared {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    pool: Pool<Server>,
    sql: Statements,
    dialect: Dialect,
    /// Quoted.
    schema: String,
    connections_max: usize,
    acquire_ms_max: u64,
    /// Set once the tables are known to be there.
    prepared: OnceCell<()>,
    /// Bounds the connections that snapshots have for themselves.
    snapshots: Arc<Semaphore>,
    closed: watch::Sender<bool>,
}

impl Shared {
    fn new(url: &str, options: PostgresOptions) -> Result<Arc<Self>> {
        let PostgresOptions { schema, connections_max, acquire_ms_max } = options;
        let address = Address::parse(url)?;
        if schema.is_empty() || schema.len() > 63 || schema.contains('\0') {
            return Err(Error::invalid("the name of the schema must have 1 to 63 bytes"));
        }
        // It would end the bodies of the functions.
        if schema.contains("$$") {
            return Err(Error::invalid("the name of the schema must not contain $$"));
        }
        let schema = format!("\"{}\"", schema.replace('"', "\"\""));
        let connections_max = connections_max.max(2);
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("seabed-postgres")
            .enable_all()
            .build()
            .map_err(|error| {
                Error::new(
                    ErrorKind::Backend,
                    format!("the threads for PostgreSQL could not be started: {error}"),
                )
                .with_source(error)
            })?;
        let acquire_max = Some(Duration::from_millis(acquire_ms_max));
        let sql = Statements::new(&schema);
        let greeting = match address.dialect {
            Dialect::Postgres => &sql.CLOCK_AND_PROCESS,
            Dialect::Portable => &sql.CLOCK,
        };
        let pool = Pool::builder(Server::new(address.config, address.tls, greeting.clone()))
            .max_size(connections_max)
            .wait_timeout(acquire_max)
            .create_timeout(acquire_max)
            .runtime(PoolRuntime::Tokio1)
            .build()
            .map_err(|error| Error::invalid(format!("the pool of connections cannot be made: {error}")))?;
        Ok(Arc::new(Self {
            runtime: Some(runtime),
            pool,
            sql,
            dialect: address.dialect,
            schema,
            connections_max,
            acquire_ms_max,
            prepared: OnceCell::new(),
            snapshots: Arc::new(Semaphore::new(connections_max / 2)),
            closed: watch::Sender::new(false),
        }))
    }

    /// How many snapshots may be open at once.
    fn snapshots_max(&self) -> usize {
        self.connections_max / 2
    }

    #[expect(clippy::expect_used, reason = "the runtime is taken by Drop alone")]
    fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("the runtime lives as long as this").handle()
    }

    /// Starts a read, or what is harmless to repeat, as a task.
    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Op<T> {
        let (completer, op) = pending(Arc::default());
        self.handle().spawn(async move { completer.complete(work.await) });
        op
    }

    /// A connection to look whether the tables are there, without making them; `None` when they are not.
    async fn connection_if_made(&self) -> Result<Option<Object<Server>>> {
        let connection = self.pool.get().await.map_err(|error| self.no_connection(error))?;
        let is_made =
            self.prepared.initialized() || schema::is_made(&connection, &self.sql, self.dialect).await?;
        Ok(is_made.then_some(connection))
    }

    /// A connection to a server whose tables are there.
    async fn connection(&self) -> Result<Object<Server>> {
        let connection = self.pool.get().await.map_err(|error| self.no_connection(error))?;
        let prepare = || schema::prepare(&connection, &self.sql, &self.schema, self.dialect);
        self.prepared.get_or_try_init(prepare).await?;
        Ok(connection)
    }

    fn no_connection(&self, error: PoolError<Error>) -> Error {
        match error {
            PoolError::Backend(error) => error,
            PoolError::Timeout(_) => Error::new(
                ErrorKind::Busy,
                format!(
                    "none of {} connections to PostgreSQL was free for {} ms; nothing was sent, try again later",
                    self.connections_max, self.acquire_ms_max
                ),
            ),
            PoolError::Closed => Error::new(ErrorKind::Closed, "the store is closed; make a new one"),
            PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                Error::new(ErrorKind::Backend, format!("no connection could be made: {error}"))
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Never waits: this may be a task of somebody's runtime, or of this one.
            runtime.shutdown_background();
        }
    }
}

/// Does again what the server rolled back in favour of others, a bounded number of times.
macro_rules! while_in_conflict {
    ($statement:expr) => {{
        let mut conflicts = 0;
        loop {
            match $statement {
                Err(failure) if failure.is_conflict() && conflicts < $crate::limits::POSTGRES_RETRIES_MAX => {
                    $crate::postgres::pause(conflicts).await;
                    conflicts += 1;
                }
                done => break done,
            }
        }
    }};
}

/// Waits before something is tried again: longer each time, and not as long as others.
async fn pause(attempt: u32) {
    let most = 1_u64 << attempt.min(6);
    let spread = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), attempt);
    tokio::time::sleep(Duration::from_micros(500 + spread % (most * 1_000))).await;
}

/// Tenants as rows of one table.
pub(crate) struct PostgresBackend(Arc<Shared>);

impl PostgresBackend {
    pub(crate) fn new(url: &str, options: PostgresOptions) -> Result<Self> {
        Ok(Self(Shared::new(url, options)?))
    }
}

impl Backend for PostgresBackend {
    fn own(&self) -> Op<()> {
        let shared = self.0.clone();
        self.0.spawn(async move { shared.connection().await.map(|_| ()) })
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn hints(&self) -> Option<Arc<dyn Hints>> {
        let can = self.0.dialect == Dialect::Postgres;
        can.then(|| Arc::new(PostgresHints::start(self.0.clone())) as Arc<dyn Hints>)
    }

    fn open(&self, id: &TenantId) -> Op<Arc<dyn TenantBackend>> {
        let (shared, id) = (self.0.clone(), id.clone());
        self.0.spawn(async move {
            let open = async {
                let connection = shared.connection().await?;
                let tenant: [Parameter<'_>; 1] = [(&id.as_str().as_bytes(), Type::BYTEA)];
                let opened = while_in_conflict!(connection.execute(&shared.sql.OPEN, &tenant).await);
                opened.map_err(Failure::of_write)
            };
            open.await.map_err(|error| error.in_tenant(&id))?;
            let writer = Writer::new(id, shared);
            Ok(Arc::new(PostgresTenant { view: PostgresView::fresh(writer.clone()), writer })
                as Arc<dyn TenantBackend>)
        })
    }

    fn list(&self) -> Op<Vec<TenantId>> {
        let shared = self.0.clone();
        self.0.spawn(async move {
            let Some(connection) = shared.connection_if_made().await? else { return Ok(Vec::new()) };
            let listed = while_in_conflict!(connection.query(&shared.sql.LIST, &[]).await);
            let mut rows = listed.map_err(Failure::of_read)?;
            if shared.dialect == Dialect::Postgres {
                let unnamed = connection.query(&shared.sql.APPLY_UNNAMED, &[]).await;
                rows.extend(unnamed.map_err(Failure::of_read)?);
            }
            let mut ids = Vec::with_capacity(rows.len());
            for row in rows {
                let id: &[u8] = row.try_get(0).map_err(|error| Failure::from(error).of_read())?;
                // Nobody but this program writes there; what is no id cannot be opened.
                ids.extend(std::str::from_utf8(id).ok().and_then(|id| TenantId::new(id).ok()));
            }
            ids.sort();
            ids.dedup();
            Ok(ids)
        })
    }

    fn remove(&self, id: &TenantId) -> Op<()> {
        let (shared, id) = (self.0.clone(), id.clone());
        self.0.spawn(async move { remove(&shared, &id).await.map_err(|error| error.in_tenant(&id)) })
    }

    fn close(&self) -> Op<()> {
        self.0.pool.close();
        self.0.closed.send_replace(true);
        Op::ready(Ok(()))
    }
}

/// Removes the rows in steps, so that no transaction becomes large, and the name last: what is listed can be removed again.
async fn remove(shared: &Shared, id: &TenantId) -> Result<()> {
    let tenant: Parameter<'_> = (&id.as_str().as_bytes(), Type::BYTEA);
    let connection = shared.connection().await?;
    let mut removed = false;
    let failed = |failure: Failure, removed: bool| {
        let error = failure.of_write();
        if removed { error.unknown() } else { error }
    };
    // Who has the tenant open elsewhere may write between the last step and the name.
    let mut attempts = 0;
    while attempts < POSTGRES_RETRIES_MAX {
        let reader = Reader { connection: &connection, sql: &shared.sql, tenant: id.as_str().as_bytes() };
        let step = while_in_conflict!(reader.remove_step().await);
        if step.map_err(|failure| failed(failure, removed))? > 0 {
            removed = true;
            continue;
        }
        let name = std::slice::from_ref(&tenant);
        let step = while_in_conflict!(connection.execute(&shared.sql.REMOVE, name).await);
        if step.map_err(|failure| failed(failure, removed))? > 0 {
            return Ok(());
        }
        let left = while_in_conflict!(connection.query(&shared.sql.REMOVE_LEFT, name).await);
        if left.map_err(|failure| failed(failure, removed))?.is_empty() {
            return Ok(());
        }
        attempts += 1;
    }
    let message =
        "another instance writes the tenant while it is removed; stop that one, and remove it again";
    Err(Error::new(ErrorKind::Busy, message).unknown())
}

impl fmt::Debug for PostgresBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBackend").field("schema", &self.0.schema).finish_non_exhaustive()
    }
}

/// One open tenant.
#[derive(Debug)]
struct PostgresTenant {
    view: PostgresView,
    writer: Arc<Writer>,
}

impl View for PostgresTenant {
    fn get(&self, category: &[u8], key: &[u8]) -> Op<Option<Vec<u8>>> {
        self.view.get(category, key)
    }

    fn exists(&self, category: &[u8], key: &[u8]) -> Op<bool> {
        self.view.exists(category, key)
    }

    fn count(&self, category: &[u8], range: &KeyRange) -> Op<u64> {
        self.view.count(category, range)
    }

    fn scan_page(&self, spec: ScanSpec) -> Op<Page> {
        self.view.scan_page(spec)
    }

    fn categories(&self) -> Op<Vec<Vec<u8>>> {
        self.view.categories()
    }
}

impl TenantBackend for PostgresTenant {
    fn apply(&self, batch: Batch, durability: Durability, admission: Admission) -> Op<Outcome> {
        self.writer.submit(batch, durability, admission)
    }

    fn flush(&self) -> Op<()> {
        self.writer.submit(Batch::new(), Durability::Durable, Admission::Wait).map(|_| ())
    }

    fn snapshot(&self) -> Op<Arc<dyn View>> {
        self.view.snapshot()
    }

    fn inline_limit(&self) -> usize {
        // A row beyond 2,032 bytes is compressed, then cut into a second table. Left over are names of 50 bytes, the tenant's, the header.
        1_900
    }

    fn verify(&self) -> Op<TenantReport> {
        self.view.verify()
    }

    fn backup(&self, _: &Path, _: Option<&Path>) -> Op<Copied> {
        let message = "the tenants of this store are rows of a PostgreSQL database; back that up, with pg_dump or a base backup";
        Op::ready(Err(Error::new(ErrorKind::Unsupported, message).in_tenant(&self.writer.id)))
    }

    fn stats(&self) -> Op<TenantStats> {
        let writer = self.writer.clone();
        self.view.stats().map(move |stats| {
            let (commits, groups, unobserved_failures) = writer.counters();
            TenantStats { commits, groups, unobserved_failures, ..stats }
        })
    }

    fn close(&self) -> Op<()> {
        self.writer.close()
    }

    fn is_closed(&self) -> bool {
        self.writer.is_closed()
    }
}

impl Drop for PostgresTenant {
    /// A store that is dropped without a close applies what is queued all the same.
    fn drop(&mut self) {
        drop(self.writer.close());
    }
}
