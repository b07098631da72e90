//! An ordered, multi-tenant key-value kernel with conditional atomic batches: durable state for sync protocols.
//!
//! A [`Store`] holds tenants; a [`Tenant`] is an isolated ordered map. Everything is written as a [`Batch`], a value of checks and
//! writes that is applied whole or not at all, and everything answers an [`Op`], which is awaited or waited for on a thread.
//!
//! ```
//! use seabed_kv::{Batch, Durability, Key, KeyRange, Outcome, ScanSpec, Store};
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let root = directory.path();
//! let store = Store::sqlite(root)?;
//! let tenant = store.open("accounts").wait()?;
//!
//! // Open an account, unless there is one.
//! let mut batch = Batch::new();
//! batch.check_absent("account", b"alice").put("account", b"alice", b"100");
//! assert!(tenant.apply(batch, Durability::Durable).wait()?.is_applied());
//!
//! // Move to another value only from the one that was read.
//! let mut batch = Batch::new();
//! batch.check_equals("account", b"alice", b"90").put("account", b"alice", b"80");
//! let Outcome::Refused(refusal) = tenant.apply(batch, Durability::Durable).wait()? else { panic!() };
//! assert_eq!(refusal.found, Some(b"100".to_vec()));
//!
//! // Keys are built from components and sort as bytes.
//! for day in [3_u64, 1, 2] {
//!     let key = Key::builder().text("alice").uint(day).build()?;
//!     tenant.put("statement", key, b"...").wait()?;
//! }
//! let alice = KeyRange::prefix(Key::builder().text("alice").build()?);
//! let newest = tenant.scan(ScanSpec::new("statement", alice).reverse().limit(1)).collect().wait()?;
//! assert!(newest[0].key.as_bytes().ends_with(&3_u64.to_be_bytes()));
//! store.close().wait()?;
//! # Ok::<(), seabed_kv::Error>(())
//! ```
//!
//! # What it guarantees
//!
//! - **Atomic**: a batch is applied whole or not at all, after any crash. Its checks are made before its first write and look at
//!   values, so they mean the same on every backend and after every restart.
//! - **Durable, then acknowledged**: a [`Durable`](Durability::Durable) batch is acknowledged, and can be read, only when it survives a
//!   power cut. A refusal is released only when what it was refused by does. [`Relaxed`](Durability::Relaxed) ones survive a crash of the
//!   process; a power cut may undo the last of them, never one in the middle.
//! - **Read your writes**: what was acknowledged is seen by every read that starts later.
//! - **In order**: the writes of a tenant take effect in the order of the calls. A call queues its write; the `Op` may be dropped.
//! - **Group commit**: batches that arrive while a flush runs share the next one. 64 writers cost hardly more flushes than one.
//! - **Bounded**: every queue, page, batch and log has a published bound ([`limits`]) and an error that names it.
//! - **Copied while it is written to**: [`Tenant::backup`] copies a tenant as it is at one of its commits, with everything acknowledged
//!   before the call.
//! - **Plain files**: a tenant is one SQLite file with the schema of logos-delivery's persistency; each opens the other's.
//!
//! # Where to begin
//!
//! [`Store::sqlite`] or [`Store::memory`], [`Store::open`], then the methods of [`Tenant`]. Whoever has an id instead of a handle
//! reads and writes on the [`Store`] ([`Store::get`], [`Store::put`]); a program without a place to hand a store through has
//! `global`. Keys and structured payloads are built with [`Key::builder`] and taken apart with [`KeyReader`].
//!
//! In `examples/`, each one page that checks what it says: `ten_lines`, `conditional_batches`, `thousand_tenants`, `blocking`,
//! `on_tokio` (`cargo run -p seabed-kv --example ten_lines`). `docs/features.md` lists every rule of the store with the test that
//! holds it.
//!
//! # What it is not
//!
//! Not a SQL database, not a general transaction engine (a conditional batch, tried again by its caller, is enough for the protocols
//! above it), not a cluster, and not for network file systems.
//!
//! # How a write goes
//!
//! 1. [`Tenant::apply`] checks the batch against the limits and puts it into the tenant's mailbox.
//! 2. One of four writer threads takes what has gathered there: up to 256 requests or 4 MiB.
//! 3. In one transaction it makes all checks of a request, then its writes, request after request.
//! 4. COMMIT: one flush for the group, when one of its members is Durable.
//! 5. Everybody is answered; then, when the log has grown to 16 MiB, it is carried over into the file.
//!
//! Reads do not go that way: `get`, `exists`, `count` and a page of a scan run on the caller's thread, on a pooled read-only connection,
//! each in a view of its own. They take microseconds and block the thread for those.
//!
//! # Thousands of tenants
//!
//! Four writer threads serve them all, and at most [`OPEN_TENANTS_MAX`](limits::OPEN_TENANTS_MAX) hold their files open
//! ([`SqliteOptions`](sqlite::SqliteOptions)): for the next one, the one that is used least often lets go of its files, without a flush. The program does
//! not see it; using it again takes a fifth of a millisecond more. A tenant that is not used for ten minutes is closed whole in the background.
//!
//! # Features
//!
//! | feature | default | brings |
//! |---|---|---|
//! | `sqlite` | yes | [`Store::sqlite`] and `global` |
//! | `postgres` | no | `Store::postgres`: a database that any number of processes share |
//! | `conformance` | no | `conformance`: the battery of tests that each backend passes, ours or yours |
//! | `simulation` | no | `sqlite::simulation`: the group commit without threads, for simulators |

pub mod backend;
mod batch;
mod by_id;
#[cfg(feature = "conformance")]
pub mod conformance;
mod ending;
mod error;
#[cfg(feature = "sqlite")]
pub mod global;
mod id;
mod key;
pub mod limits;
#[cfg(any(feature = "sqlite", feature = "postgres", shuttle))]
mod mailbox;
mod memory;
#[cfg_attr(
    not(any(feature = "sqlite", feature = "postgres", shuttle)),
    allow(dead_code, reason = "without a backend that queues, every operation is ready at once")
)]
mod op;
#[cfg(feature = "postgres")]
pub mod postgres;
mod scan;
#[cfg(any(feature = "sqlite", shuttle))]
mod scheduler;
pub mod spread;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod staged;
mod store;
#[cfg_attr(
    not(any(feature = "sqlite", shuttle)),
    allow(dead_code, unused_imports, reason = "without a backend that queues, there are only locks")
)]
mod sync;
mod tenant;

pub use backend::{Copied, TenantReport, TenantStats};
pub use batch::{Batch, Check, Commit, Condition, Durability, Outcome, Refusal, Write};
pub use error::{Applied, Error, ErrorKind, Result};
pub use id::TenantId;
pub use key::{Key, KeyBuilder, KeyPart, KeyRange, KeyReader};
pub use op::Op;
pub use scan::{Page, Row, Scan, ScanSpec};
pub use store::Store;
pub use tenant::{Snapshot, Tenant};
