//! The published bounds. A call beyond one is refused with an error that names it, before anything is touched.

/// The longest text or bytes component of a key that carries a two-byte length (upstream's components).
pub const COMPONENT_BYTES_MAX: usize = 65_535;

/// The longest category.
pub const CATEGORY_BYTES_MAX: usize = 65_535;

/// The longest key.
pub const KEY_BYTES_MAX: usize = 128 * 1024;

/// The largest payload of one row. Larger values are staged as chunks: see [`staged`](crate::staged).
pub const PAYLOAD_BYTES_MAX: usize = 7 * 1024 * 1024;

/// The most a batch may hold, counting the categories, keys and payloads of its checks and writes.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The most checks and writes, together, of one batch.
pub const BATCH_STEPS_MAX: usize = 65_536;

/// The longest tenant id, in bytes.
pub const TENANT_ID_BYTES_MAX: usize = 200;

/// How many requests a tenant's mailbox holds before [`try_apply`](crate::Tenant::try_apply) is told Busy.
pub const MAILBOX_REQUESTS_MAX: usize = if cfg!(shuttle) { 4 } else { 4_096 };

/// How many bytes of batches, and 64 for each check and write, a tenant's mailbox holds before
/// [`try_apply`](crate::Tenant::try_apply) is told Busy.
pub const MAILBOX_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How many requests a tenant's mailbox holds before every write is told Busy.
pub const MAILBOX_WAITING_MAX: usize = 65_536;

/// How many bytes, counted in the same way, a tenant's mailbox holds before every write is told Busy.
pub const MAILBOX_WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How many tenants hold their files open at once, unless [`SqliteOptions`](crate::sqlite::SqliteOptions) says otherwise. Fewer where the
/// process may open fewer than eleven files for each.
pub const OPEN_TENANTS_MAX: usize = 256;

/// How long a tenant may be unused before its files are closed properly, in milliseconds. It takes up to twice as long.
pub const TENANT_IDLE_MS_MAX: u64 = 600_000;

/// How much all connections of a store cache, beyond 128 KiB each.
pub const CACHE_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// How many requests one flush serves at most.
pub const GROUP_REQUESTS_MAX: usize = 256;

/// How many bytes of batches one flush serves at most, unless a single batch is larger.
pub const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// After how many bytes of refused rows a group ends: each refusal carries the row that it was refused by.
pub const GROUP_REFUSED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How many rows a page of a scan holds at most.
pub const PAGE_ROWS_MAX: usize = 1_024;

/// After how many bytes of keys and payloads a page of a scan ends.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// How many snapshots of a tenant may be open at once before further ones are told Busy.
pub const SNAPSHOTS_MAX: usize = 16;

/// When the log of a tenant is carried over into its file, in bytes of log.
pub const LOG_CHECKPOINT_BYTES: u64 = 16 * 1024 * 1024;

/// When the log of a tenant whose files were opened anew is carried over into its file, if all of it had to be read for that and will be again.
pub const LOG_REOPENED_BYTES: u64 = 256 * 1024;

/// The longest the log of a tenant may become, give or take one group: beyond it writes are told Busy until it could be carried
/// over.
pub const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long a [`Snapshot`](crate::Snapshot) may be read, in milliseconds, before it answers Timeout: it pins the
/// log of its tenant meanwhile.
pub const SNAPSHOT_AGE_MS_MAX: u64 = 5_000;

/// How many connections to PostgreSQL a store opens, unless [`PostgresOptions`](crate::postgres::PostgresOptions) says otherwise.
pub const POSTGRES_CONNECTIONS_MAX: usize = 16;

/// How long an operation waits for a free connection to PostgreSQL before it is told Busy, unless
/// [`PostgresOptions`](crate::postgres::PostgresOptions) says otherwise, in milliseconds.
pub const POSTGRES_ACQUIRE_MS_MAX: u64 = 10_000;

/// How long PostgreSQL may take to answer one statement before its connection is given up, in milliseconds.
pub const POSTGRES_ANSWER_MS_MAX: u64 = 30_000;

/// How long a statement may take PostgreSQL, and wait for a lock there, before it takes no effect any more and is told Busy, in milliseconds.
/// Less than its answer is waited for: what was given up never appears later.
pub const POSTGRES_STATEMENT_MS_MAX: u64 = 10_000;

/// After how many bytes of refused rows the rest of a group is another statement: each refusal carries the row that it was refused by.
pub const POSTGRES_ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The longest hint to other processes that share a store, in bytes.
pub const HINT_BYTES_MAX: usize = 64;

/// How many hints wait to be told, and how many to be heard; those beyond are dropped.
pub const HINTS_WAITING_MAX: usize = 4_096;

/// How long operations are told Busy at once after PostgreSQL could not be reached, before it is tried again, in milliseconds.
pub const POSTGRES_BACKOFF_MS_MAX: u64 = 1_000;

/// How often a batch that PostgreSQL rolled back in favour of others is sent again before it is told Busy.
pub const POSTGRES_RETRIES_MAX: u32 = 20;

/// How many rows of a batch or group are locked one by one in PostgreSQL; for more, their categories are: what its default settings have
/// room for.
pub const POSTGRES_KEY_LOCKS_MAX: usize = 64;
