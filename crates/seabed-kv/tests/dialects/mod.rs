//! What the tests of the PostgreSQL backend share.

#![allow(dead_code, unused_macros, unused_imports, reason = "each test file uses its own part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests say what failed by panicking"
)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use seabed_kv::postgres::PostgresOptions;
use seabed_kv::{Applied, Batch, Durability, Error, Outcome, Store, Tenant};
use seabed_testkit::Rng;
use seabed_testkit::linearizable::{Action, Answer, Key, Record, Value};

/// A store that does not come back fails the test instead of hanging it.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Which statements a store uses; a URL says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Postgres,
    Portable,
}

/// Makes each of these rules a test of each dialect.
macro_rules! in_each_dialect {
    ($($rule:ident),+ $(,)?) => {
        mod in_postgres {
            $(#[test] fn $rule() { super::$rule(super::dialects::Dialect::Postgres); })+
        }
        mod in_portable {
            $(#[test] fn $rule() { super::$rule(super::dialects::Dialect::Portable); })+
        }
    };
}
pub(crate) use in_each_dialect;

impl Dialect {
    pub(crate) fn url(self, url: &str) -> String {
        match self {
            Self::Postgres => url.to_owned(),
            Self::Portable => url.replacen("postgres:", "postgres+portable:", 1),
        }
    }

    pub(crate) fn store(self, url: &str) -> Store {
        Store::postgres(&self.url(url)).unwrap()
    }

    /// One that has few connections, and does not wait long for a free one.
    pub(crate) fn small_store(self, url: &str, connections_max: usize) -> Store {
        let options = PostgresOptions { connections_max, acquire_ms_max: 300, ..PostgresOptions::default() };
        Store::postgres_with(&self.url(url), options).unwrap()
    }
}

/// The name of a database, from its URL.
pub(crate) fn database(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

/// How much larger than usual: `SEABED_POSTGRES_ROUNDS=20` for a long run.
pub(crate) fn rounds() -> u32 {
    std::env::var("SEABED_POSTGRES_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// A fresh seed, printed; or the one that `SEABED_TEST_SEED` asks for, to see a failure again.
#[allow(clippy::print_stderr, reason = "shown when a test fails")]
pub(crate) fn seed() -> u64 {
    let asked = std::env::var("SEABED_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = asked.unwrap_or_else(rand::random);
    eprintln!("SEABED_TEST_SEED={seed}");
    seed
}

/// Tries again while the store finds its way back to a server that is there.
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Result<T, Error>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "the store does not come back: {error}"),
        }
        std::thread::yield_now();
    }
}

const CATEGORY: &str = "c";

pub(crate) fn row(key: Key) -> Vec<u8> {
    format!("k{key}").into_bytes()
}

pub(crate) fn payload(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

pub(crate) fn value(payload: Option<Vec<u8>>) -> Value {
    payload.map(|payload| u32::from_be_bytes(payload.try_into().unwrap()))
}

pub(crate) fn read(tenant: &Tenant, key: Key) -> Result<Value, Error> {
    tenant.get(CATEGORY, row(key)).wait().map(value)
}

/// A batch of the checker's vocabulary, as one of the kernel's.
pub(crate) fn batch(checks: &[(Key, Value)], writes: &[(Key, Value)]) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in checks {
        match value {
            Some(value) => batch.check_equals(CATEGORY, row(*key), payload(*value)),
            None => batch.check_absent(CATEGORY, row(*key)),
        };
    }
    for (key, value) in writes {
        match value {
            Some(value) => batch.put(CATEGORY, row(*key), payload(*value)),
            None => batch.delete(CATEGORY, row(*key)),
        };
    }
    batch
}

/// What a store said about a batch; an error that is known to have left nothing is none.
pub(crate) fn answer(outcome: Result<Outcome, Error>) -> Result<Answer, Error> {
    match outcome {
        Ok(Outcome::Applied(_)) => Ok(Answer::Applied),
        Ok(Outcome::Refused(refusal)) => {
            Ok(Answer::Refused { check: refusal.check, found: value(refusal.found) })
        }
        Err(error) if error.applied() == Applied::Unknown => Ok(Answer::Unknown),
        Err(error) => Err(error),
    }
}

/// A client that reads and changes a few rows at random, on what it believes they hold, and notes what it is told.
pub(crate) struct Client<'a> {
    pub(crate) tenant: Tenant,
    pub(crate) record: &'a Record,
    /// The next value, different from all others.
    pub(crate) values: &'a AtomicU32,
    pub(crate) rng: Rng,
    /// How many in four of its batches are Relaxed: a server that crashes may forget the last of them.
    pub(crate) relaxed: usize,
    believed: Vec<Value>,
}

impl<'a> Client<'a> {
    pub(crate) fn new(
        tenant: Tenant,
        record: &'a Record,
        values: &'a AtomicU32,
        rng: Rng,
        keys: usize,
    ) -> Self {
        Self { tenant, record, values, rng, relaxed: 1, believed: vec![None; keys] }
    }

    /// One operation.
    ///
    /// # Errors
    /// Why nothing was done.
    pub(crate) fn step(&mut self) -> Result<(), Error> {
        let key = self.rng.below(self.believed.len());
        if self.rng.chance(1, 3) {
            let call = self.record.call();
            let found = read(&self.tenant, key)?;
            self.record.answered(call, Action::Read { key, found });
            self.believed[key] = found;
            return Ok(());
        }
        let other = (key + 1) % self.believed.len();
        let keys = if self.rng.chance(1, 2) { vec![key, other] } else { vec![key] };
        let unconditional = self.rng.chance(1, 12);
        let checks: Vec<_> = keys.iter().map(|key| (*key, self.believed[*key])).collect();
        let checks = if unconditional { Vec::new() } else { checks };
        let mut new = || {
            let value = self.values.fetch_add(1, Ordering::Relaxed);
            if self.rng.chance(1, 6) { None } else { Some(value) }
        };
        let writes: Vec<_> = keys.iter().map(|key| (*key, new())).collect();
        let call = self.record.call();
        let durability =
            if self.rng.chance(self.relaxed, 4) { Durability::Relaxed } else { Durability::Durable };
        let answer = answer(self.tenant.apply(batch(&checks, &writes), durability).wait())?;
        match answer {
            Answer::Applied => writes.iter().for_each(|(key, value)| self.believed[*key] = *value),
            Answer::Refused { check, found } => self.believed[checks[check].0] = found,
            Answer::Unknown => {}
        }
        self.record.answered(call, Action::Batch { checks, writes, answer });
        Ok(())
    }
}
