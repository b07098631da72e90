//! A group of conditional batches as one statement, one round trip: dialect `postgres`.
//!
//! 1. Locks, in the order of their numbers: shared on each category that is touched, exclusive on each row that is written, shared on each
//!    that is only checked. A prefix delete, and a group of more rows than the server has room to lock one by one, take their categories
//!    exclusively instead. Two batches of different rows do not meet; there is no lock of a tenant.
//! 2. Then, each in a fresh snapshot, the checks and writes of one request after another: whoever could change what was checked waits.
//! 3. The locks end with the transaction, after its commit is durable and seen.
//!
//! Why a prefix delete needs the category: it deletes what it sees, and an insert that commits meanwhile it does not see. A batch that
//! replaces one row under the prefix and inserts another would lose the first and keep the second.

use std::borrow::Cow;
use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::connection::{Connection, Parameter};
use super::failure::Failure;
use super::names::{Category, Cut};
use super::queue::Verdict;
use super::{Shared, pause};
use crate::limits::{POSTGRES_KEY_LOCKS_MAX, POSTGRES_RETRIES_MAX};
use crate::mailbox::Request;
use crate::{Check, Condition, Error, ErrorKind, KeyRange, Refusal, Result, TenantId, Write};

/// Into how many locks the categories of a tenant are folded, so that no batch needs more of them.
const CATEGORY_LOCKS: u8 = 64;

const CHECK_ABSENT: i32 = 0;
const CHECK_EXISTS: i32 = 1;
const CHECK_EQUALS: i32 = 2;
const CHECK_SHA256: i32 = 3;
const PUT: i32 = 4;
const DELETE: i32 = 5;
const DELETE_PREFIX: i32 = 6;

/// Commits the requests as one group and answers each, in order; those that it does not answer were not begun, because the answers before
/// them are large. What is acknowledged as durable, and refusals, are durable when this returns.
pub(super) async fn commit(
    shared: &Shared,
    tenant: &TenantId,
    requests: &[Request],
    commit: Committing,
) -> Result<Committed, Stopped> {
    let tenant = tenant.as_str().as_bytes();
    let locks = Locks::of(&shared.schema, tenant, requests);
    for attempt in 0.. {
        let connection = shared.connection().await.map_err(Stopped::Failed)?;
        let give_up = connection.give_up();
        let sending = Sending { shared, connection: &connection, tenant, give_up, commit, locks: &locks };
        let committed = match one(requests) {
            Some((check, write @ Write::Put { .. })) if sending.is_plain() => sending.put(check, write).await,
            Some((check, write)) => sending.one(check, write).await,
            None => match puts(requests) {
                Some(puts) if !puts.is_empty() => sending.puts(puts, requests.len()).await,
                _ => sending.many(requests).await,
            },
        };
        drop(connection);
        match committed {
            // Of ours nobody waits in a circle; of a foreign program's locks nobody knows.
            Err(failure) if failure.is_conflict() && attempt < POSTGRES_RETRIES_MAX => pause(attempt).await,
            Err(failure) if failure.is(&[SqlState::from_code(COMMITS_LOST)]) => return Err(Stopped::Lost),
            committed => return committed.map_err(|failure| Stopped::Failed(failure.of_write())),
        }
    }
    Ok(Committed::default())
}

const APPLIED: Verdict = Verdict::Applied { deleted: 0 };

/// How a group is to be committed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Committing {
    pub(super) durable: bool,
    /// The epoch of commits that were acknowledged and are not known to be durable.
    pub(super) relied_on: Option<i64>,
}

/// What became of a group.
#[derive(Debug, Default)]
pub(super) struct Committed {
    pub(super) verdicts: Vec<Verdict>,
    /// The epoch that it was committed in, when it is not durable.
    pub(super) epoch: Option<i64>,
}

/// Why a group was not committed.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The server has lost commits that the caller relies on; nothing was applied.
    Lost,
    Failed(Error),
}

/// What functions.sql raises when the epoch is another one.
const COMMITS_LOST: &str = "SB001";

/// The error of those who rely on commits that the server may have lost. Nothing of theirs was applied.
pub(super) fn lost() -> Error {
    Error::new(
        ErrorKind::Backend,
        "PostgreSQL crashed, or a standby took over: what was acknowledged as Relaxed and not flushed may be gone; nothing of this was \
         applied, read again before going on",
    )
}

/// What a group locks: number and whether exclusively, ascending. Categories have negative numbers and so come first.
struct Locks {
    numbers: Vec<i64>,
    exclusive: Vec<bool>,
    categories: usize,
}

impl Locks {
    fn of<'a>(schema: &str, tenant: &[u8], requests: &'a [Request]) -> Self {
        let mut categories: BTreeMap<&'a [u8], bool> = BTreeMap::new();
        let mut rows: BTreeMap<(&'a [u8], &'a [u8]), bool> = BTreeMap::new();
        let mut row = |category: &'a [u8], key: &'a [u8], exclusive: bool| {
            // One beyond the bound tells.
            if rows.len() <= POSTGRES_KEY_LOCKS_MAX {
                *rows.entry((category, key)).or_default() |= exclusive;
            }
        };
        for request in requests {
            for Check { category, key, .. } in request.batch.checks() {
                categories.entry(category).or_default();
                row(category, key.as_bytes(), false);
            }
            for write in request.batch.writes() {
                match write {
                    Write::Put { category, key, .. } | Write::Delete { category, key } => {
                        categories.entry(category).or_default();
                        row(category, key.as_bytes(), true);
                    }
                    Write::DeletePrefix { category, .. } => {
                        categories.insert(category, true);
                    }
                }
            }
        }
        let one_by_one = rows.len() <= POSTGRES_KEY_LOCKS_MAX;
        let mut locks: BTreeMap<i64, bool> = BTreeMap::new();
        for (category, exclusive) in categories {
            let fold = Sha256::digest(category).first().map_or(0, |byte| byte % CATEGORY_LOCKS);
            let number = number(&[schema.as_bytes(), tenant, &[fold]]) | i64::MIN;
            *locks.entry(number).or_default() |= exclusive || !one_by_one;
        }
        let categories = locks.len();
        if one_by_one {
            for ((category, key), exclusive) in rows {
                let number = number(&[schema.as_bytes(), tenant, category, key]) & i64::MAX;
                *locks.entry(number).or_default() |= exclusive;
            }
        }
        let (numbers, exclusive) = locks.into_iter().unzip();
        Self { numbers, exclusive, categories }
    }

    fn category(&self, position: usize) -> Option<i64> {
        self.numbers.get(..self.categories)?.get(position).copied()
    }

    fn row(&self, position: usize) -> Option<(i64, bool)> {
        let position = self.categories + position;
        Some((*self.numbers.get(position)?, *self.exclusive.get(position)?))
    }
}

/// The same on every instance that shares a store.
fn number(parts: &[&[u8]]) -> i64 {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest = digest.finalize();
    i64::from_be_bytes(digest.first_chunk().copied().unwrap_or_default())
}

/// The rows of requests that do nothing but put, ascending and each once: the last put of a row wins.
type Puts<'a> = Vec<((&'a [u8], &'a [u8]), &'a [u8])>;

fn puts(requests: &[Request]) -> Option<Puts<'_>> {
    let mut puts = Puts::new();
    for request in requests {
        if !request.batch.checks().is_empty() {
            return None;
        }
        for write in request.batch.writes() {
            let Write::Put { category, key, payload } = write else { return None };
            puts.push(((category, key.as_bytes()), payload));
        }
    }
    // Most come in order, and then this is one look at each. The sort is stable, so the last of a row stands last.
    puts.sort_by_key(|(row, _)| *row);
    puts.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 = later.1;
        }
        same
    });
    Some(puts)
}

/// The one write of one row, and the one check it may have, that the requests are.
fn one(requests: &[Request]) -> Option<(Option<&Check>, &Write)> {
    let [request] = requests else { return None };
    let [write @ (Write::Put { .. } | Write::Delete { .. })] = request.batch.writes() else { return None };
    match request.batch.checks() {
        [] => Some((None, write)),
        [check] => Some((Some(check), write)),
        _ => None,
    }
}

/// One check or write, as the columns have it.
struct Step<'a> {
    request: i32,
    kind: i32,
    category: Category<'a>,
    key: Cut<'a>,
    /// For a prefix delete the rest of the end of its range.
    digest: Cow<'a, [u8]>,
    /// What is expected or put; for a prefix delete the end of its range.
    value: Option<Cow<'a, [u8]>>,
}

impl<'a> Step<'a> {
    fn row(request: i32, kind: i32, category: &'a [u8], key: &'a [u8], value: Option<&'a [u8]>) -> Self {
        let key = Cut::new(key);
        let (category, value) = (Category::new(category), value.map(Cow::Borrowed));
        Self { request, kind, category, digest: Cow::Owned(key.digest()), key, value }
    }

    fn check(request: i32, check: &'a Check) -> Self {
        let (kind, value) = match &check.condition {
            Condition::Absent => (CHECK_ABSENT, None),
            Condition::Exists => (CHECK_EXISTS, None),
            Condition::Equals(payload) => (CHECK_EQUALS, Some(payload.as_slice())),
            Condition::Sha256(digest) => (CHECK_SHA256, Some(digest.as_slice())),
        };
        Self::row(request, kind, &check.category, check.key.as_bytes(), value)
    }

    fn write(request: i32, write: &'a Write) -> Self {
        match write {
            Write::Put { category, key, payload } => {
                Self::row(request, PUT, category, key.as_bytes(), Some(payload))
            }
            Write::Delete { category, key } => Self::row(request, DELETE, category, key.as_bytes(), None),
            Write::DeletePrefix { category, prefix } => {
                let range = KeyRange::prefix(prefix.as_bytes());
                let stop = Cut::stop(range.stop.as_bytes());
                Self {
                    request,
                    kind: DELETE_PREFIX,
                    category: Category::new(category),
                    key: Cut::new(prefix.as_bytes()),
                    digest: Cow::Owned(stop.tail.to_vec()),
                    value: Some(Cow::Owned(stop.head.to_vec())),
                }
            }
        }
    }

    fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }
}

/// The steps, a column each.
struct Columns<'a> {
    categories: Vec<&'a [u8]>,
    keys: Vec<&'a [u8]>,
    digests: Vec<&'a [u8]>,
    tails: Vec<&'a [u8]>,
    category_tails: Vec<&'a [u8]>,
    values: Vec<Option<&'a [u8]>>,
}

impl<'a> Columns<'a> {
    fn of(steps: &'a [Step<'_>]) -> Self {
        Self {
            categories: steps.iter().map(|step| &*step.category.column).collect(),
            keys: steps.iter().map(|step| step.key.head).collect(),
            digests: steps.iter().map(|step| &*step.digest).collect(),
            tails: steps.iter().map(|step| step.key.tail).collect(),
            category_tails: steps.iter().map(|step| step.category.tail).collect(),
            values: steps.iter().map(Step::value).collect(),
        }
    }
}

/// The one category of puts in which no name is cut; `None` when they are others.
fn short<'a>(puts: &'a [Step<'_>]) -> Option<&'a [u8]> {
    let category = &*puts.first()?.category.column;
    let is_short = |put: &Step<'_>| {
        *put.category.column == *category && put.category.tail.is_empty() && put.key.tail.is_empty()
    };
    puts.iter().all(is_short).then_some(category)
}

/// A statement on its way: where to, what it locks and how it commits.
struct Sending<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
    tenant: &'a [u8],
    /// When the server is to have ended, by its clock.
    give_up: i64,
    commit: Committing,
    locks: &'a Locks,
}

impl Sending<'_> {
    /// Whether `apply_put` may do it: durable, with nothing relied on that is not, and one category to lock.
    fn is_plain(&self) -> bool {
        self.commit.durable && self.commit.relied_on.is_none() && self.locks.categories == 1
    }

    async fn put(&self, check: Option<&Check>, write: &Write) -> Result<Committed, Failure> {
        let check = check.map(|check| Step::check(0, check));
        let write = Step::write(0, write);
        let (first_row, second_row) = (self.locks.row(0), self.locks.row(1));
        let parameters: [Parameter<'_>; 18] = [
            (&self.give_up, Type::INT8),
            (&self.locks.category(0), Type::INT8),
            (&first_row.map(|row| row.0), Type::INT8),
            (&first_row.map(|row| row.1), Type::BOOL),
            (&second_row.map(|row| row.0), Type::INT8),
            (&second_row.map(|row| row.1), Type::BOOL),
            (&self.tenant, Type::BYTEA),
            (&check.as_ref().map(|check| check.kind), Type::INT4),
            (&check.as_ref().map(|check| &*check.category.column), Type::BYTEA),
            (&check.as_ref().map(|check| check.key.head), Type::BYTEA),
            (&check.as_ref().map(|check| &*check.digest), Type::BYTEA),
            (&check.as_ref().and_then(Step::value), Type::BYTEA),
            (&&*write.category.column, Type::BYTEA),
            (&write.key.head, Type::BYTEA),
            (&&*write.digest, Type::BYTEA),
            (&write.key.tail, Type::BYTEA),
            (&write.category.tail, Type::BYTEA),
            (&write.value(), Type::BYTEA),
        ];
        let rows = self.connection.query_often(&self.shared.sql.APPLY_PUT, &parameters).await?;
        let refused: Option<&[u8]> = match rows.first() {
            Some(row) => row.try_get(0)?,
            None => None,
        };
        let verdict = match refused.and_then(<[u8]>::split_first) {
            Some((is_found, payload)) => {
                Verdict::Refused(Refusal { check: 0, found: (*is_found == b'1').then(|| payload.to_vec()) })
            }
            None => APPLIED,
        };
        Ok(Committed { verdicts: vec![verdict], epoch: None })
    }

    async fn puts(&self, puts: Puts<'_>, requests: usize) -> Result<Committed, Failure> {
        let steps: Vec<_> = puts
            .into_iter()
            .map(|((category, key), payload)| Step::row(0, PUT, category, key, Some(payload)))
            .collect();
        if let Some(category) = short(&steps) {
            return self.short_puts(category, &steps, requests).await;
        }
        let columns = Columns::of(&steps);
        let parameters: [Parameter<'_>; 12] = [
            (&self.give_up, Type::INT8),
            (&self.commit.durable, Type::BOOL),
            (&self.commit.relied_on, Type::INT8),
            (&self.locks.numbers, Type::INT8_ARRAY),
            (&self.locks.exclusive, Type::BOOL_ARRAY),
            (&self.tenant, Type::BYTEA),
            (&columns.categories, Type::BYTEA_ARRAY),
            (&columns.keys, Type::BYTEA_ARRAY),
            (&columns.digests, Type::BYTEA_ARRAY),
            (&columns.tails, Type::BYTEA_ARRAY),
            (&columns.category_tails, Type::BYTEA_ARRAY),
            (&columns.values, Type::BYTEA_ARRAY),
        ];
        let rows = self.connection.query_often(&self.shared.sql.APPLY_PUTS, &parameters).await?;
        let epoch = epoch(&rows, 0)?;
        Ok(Committed { verdicts: (0..requests).map(|_| APPLIED).collect(), epoch })
    }

    async fn short_puts(
        &self,
        category: &[u8],
        puts: &[Step<'_>],
        requests: usize,
    ) -> Result<Committed, Failure> {
        let keys: Vec<_> = puts.iter().map(|put| put.key.head).collect();
        let values: Vec<_> = puts.iter().map(Step::value).collect();
        let parameters: [Parameter<'_>; 9] = [
            (&self.give_up, Type::INT8),
            (&self.commit.durable, Type::BOOL),
            (&self.commit.relied_on, Type::INT8),
            (&self.locks.numbers, Type::INT8_ARRAY),
            (&self.locks.exclusive, Type::BOOL_ARRAY),
            (&self.tenant, Type::BYTEA),
            (&category, Type::BYTEA),
            (&keys, Type::BYTEA_ARRAY),
            (&values, Type::BYTEA_ARRAY),
        ];
        let rows = self.connection.query_often(&self.shared.sql.APPLY_SHORT_PUTS, &parameters).await?;
        let epoch = epoch(&rows, 0)?;
        Ok(Committed { verdicts: (0..requests).map(|_| APPLIED).collect(), epoch })
    }

    async fn one(&self, check: Option<&Check>, write: &Write) -> Result<Committed, Failure> {
        let check = check.map(|check| Step::check(0, check));
        let write = Step::write(0, write);
        let (first_row, second_row) = (self.locks.row(0), self.locks.row(1));
        let parameters: [Parameter<'_>; 22] = [
            (&self.give_up, Type::INT8),
            (&self.commit.durable, Type::BOOL),
            (&self.commit.relied_on, Type::INT8),
            (&self.locks.category(0), Type::INT8),
            (&self.locks.category(1), Type::INT8),
            (&first_row.map(|row| row.0), Type::INT8),
            (&first_row.map(|row| row.1), Type::BOOL),
            (&second_row.map(|row| row.0), Type::INT8),
            (&second_row.map(|row| row.1), Type::BOOL),
            (&self.tenant, Type::BYTEA),
            (&check.as_ref().map(|check| check.kind), Type::INT4),
            (&check.as_ref().map(|check| &*check.category.column), Type::BYTEA),
            (&check.as_ref().map(|check| check.key.head), Type::BYTEA),
            (&check.as_ref().map(|check| &*check.digest), Type::BYTEA),
            (&check.as_ref().and_then(Step::value), Type::BYTEA),
            (&write.kind, Type::INT4),
            (&&*write.category.column, Type::BYTEA),
            (&write.key.head, Type::BYTEA),
            (&&*write.digest, Type::BYTEA),
            (&write.key.tail, Type::BYTEA),
            (&write.category.tail, Type::BYTEA),
            (&write.value(), Type::BYTEA),
        ];
        let rows = self.connection.query_often(&self.shared.sql.APPLY_ONE, &parameters).await?;
        let verdict = match rows.first() {
            Some(row) if row.try_get(0)? => Verdict::Refused(Refusal { check: 0, found: row.try_get(1)? }),
            Some(row) => Verdict::Applied { deleted: row_count(row.try_get(2)?) },
            None => APPLIED,
        };
        Ok(Committed { verdicts: vec![verdict], epoch: epoch(&rows, 3)? })
    }

    async fn many(&self, requests: &[Request]) -> Result<Committed, Failure> {
        let mut steps = Vec::new();
        for (position, request) in (0..).zip(requests) {
            steps.extend(request.batch.checks().iter().map(|check| Step::check(position, check)));
            steps.extend(request.batch.writes().iter().map(|write| Step::write(position, write)));
        }
        let columns = Columns::of(&steps);
        let positions: Vec<_> = steps.iter().map(|step| step.request).collect();
        let kinds: Vec<_> = steps.iter().map(|step| step.kind).collect();
        let parameters: [Parameter<'_>; 14] = [
            (&self.give_up, Type::INT8),
            (&self.commit.durable, Type::BOOL),
            (&self.commit.relied_on, Type::INT8),
            (&self.locks.numbers, Type::INT8_ARRAY),
            (&self.locks.exclusive, Type::BOOL_ARRAY),
            (&self.tenant, Type::BYTEA),
            (&positions, Type::INT4_ARRAY),
            (&kinds, Type::INT4_ARRAY),
            (&columns.categories, Type::BYTEA_ARRAY),
            (&columns.keys, Type::BYTEA_ARRAY),
            (&columns.digests, Type::BYTEA_ARRAY),
            (&columns.tails, Type::BYTEA_ARRAY),
            (&columns.category_tails, Type::BYTEA_ARRAY),
            (&columns.values, Type::BYTEA_ARRAY),
        ];
        let rows = self.connection.query_often(&self.shared.sql.APPLY_MANY, &parameters).await?;
        // Of a request without steps, which is a flush, nothing is said.
        let mut verdicts: Vec<_> =
            requests.iter().map(|request| request.batch.is_empty().then_some(APPLIED)).collect();
        let epoch = epoch(&rows, 4)?;
        for row in rows {
            let position = usize::try_from(row.try_get::<_, i32>(0)?).unwrap_or(usize::MAX);
            let failed: Option<i32> = row.try_get(1)?;
            let verdict = match failed.and_then(|check| usize::try_from(check).ok()) {
                Some(check) => Verdict::Refused(Refusal { check, found: row.try_get(2)? }),
                None => Verdict::Applied { deleted: row_count(row.try_get(3)?) },
            };
            if let Some(place) = verdicts.get_mut(position) {
                *place = Some(verdict);
            }
        }
        Ok(Committed { verdicts: verdicts.into_iter().map_while(|verdict| verdict).collect(), epoch })
    }
}

fn epoch(rows: &[Row], column: usize) -> Result<Option<i64>, Failure> {
    Ok(match rows.first() {
        Some(row) => row.try_get(column)?,
        None => None,
    })
}

fn row_count(rows: i64) -> u64 {
    u64::try_from(rows).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Durability};

    fn request(build: impl FnOnce(&mut Batch)) -> Request {
        let mut batch = Batch::new();
        build(&mut batch);
        Request { batch, durability: Durability::Durable }
    }

    fn locks(build: impl FnOnce(&mut Batch)) -> Locks {
        Locks::of("schema", b"tenant", &[request(build)])
    }

    #[test]
    fn locks_ascend_and_a_write_outweighs_a_check() {
        let locks = locks(|batch| {
            batch.check_exists("a", b"1").check_exists("a", b"2").put("a", b"1", b"x").delete("b", b"3");
        });
        assert!(locks.numbers.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((locks.numbers.len(), locks.categories), (5, 2));
        assert!(locks.category(1).unwrap() < 0 && locks.category(2).is_none());
        assert_eq!(locks.exclusive.iter().filter(|exclusive| **exclusive).count(), 2);
        assert!(!locks.exclusive[0] && !locks.exclusive[1]);
    }

    #[test]
    fn a_prefix_delete_and_a_large_batch_lock_categories() {
        let prefix = locks(|batch| {
            batch.delete_prefix("a", b"p").put("a", b"q", b"x");
        });
        assert_eq!(prefix.exclusive, [true, true]);
        let large = locks(|batch| {
            for number in 0..=POSTGRES_KEY_LOCKS_MAX {
                batch.put(number.to_le_bytes(), number.to_be_bytes(), b"x");
            }
        });
        assert!(
            large.numbers.len() <= usize::from(CATEGORY_LOCKS)
                && large.exclusive.iter().all(|exclusive| *exclusive)
        );
        assert!(large.row(0).is_none());
    }

    #[test]
    fn puts_alone_are_folded() {
        let requests = [
            request(|batch| {
                batch.put("a", b"2", b"x").put("a", b"1", b"y");
            }),
            request(|batch| {
                batch.put("a", b"2", b"z");
            }),
        ];
        let folded: Vec<_> = puts(&requests).unwrap().into_iter().collect();
        assert_eq!(folded, [((&b"a"[..], &b"1"[..]), &b"y"[..]), ((b"a", b"2"), b"z")]);
        assert!(
            puts(&[request(|batch| {
                batch.put("a", b"1", b"x").delete("a", b"1");
            })])
            .is_none()
        );
    }

    #[test]
    fn puts_are_short_when_they_are_of_one_category_and_no_name_is_cut() {
        let is_short = |rows: &[(&str, usize)]| {
            let requests = [request(|batch| {
                for (category, length) in rows {
                    batch.put(*category, vec![b'k'; *length], b"x");
                }
            })];
            let puts = puts(&requests).unwrap().into_iter();
            let steps: Vec<_> =
                puts.map(|((category, key), value)| Step::row(0, PUT, category, key, Some(value))).collect();
            short(&steps).is_some()
        };
        assert!(is_short(&[("a", 1), ("a", 2)]));
        assert!(!is_short(&[("a", 1), ("b", 1)]));
        assert!(!is_short(&[("a", 1), ("a", 2_001)]));
        let long = "c".repeat(256);
        assert!(!is_short(&[(&long, 1), (&long, 2)]));
    }
}
