//! A group as plain statements in one serializable transaction: dialect `portable`, for servers without functions and advisory locks.
//!
//! 1. All statements go out at once, without waiting for an answer in between: one round trip when everything holds.
//! 2. The checks come first; one that does not hold fails its statement, and so the transaction. What is found is then read in a
//!    transaction of its own: a refusal tells what was true, too.
//! 3. What the server rolls back in favour of others is sent again, a bounded number of times.
//!
//! Every commit waits to be durable here, Relaxed ones too, and so a refusal rests on nothing that may be lost.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::connection::{Connection, Parameter, Pending, pipelined};
use super::failure::Failure;
use super::names::{Category, Cut};
use super::queue::Verdict;
use super::{Shared, pause};
use crate::limits::{POSTGRES_ANSWER_BYTES_MAX, POSTGRES_RETRIES_MAX};
use crate::mailbox::Request;
use crate::{Check, Condition, Key, KeyRange, Refusal, Result, TenantId, Write};

/// Commits the requests, as few transactions as their checks allow, and answers each, in order; those that it does not answer were not begun,
/// because the answers before them are large.
pub(super) async fn commit(shared: &Shared, tenant: &TenantId, requests: &[Request]) -> Vec<Result<Verdict>> {
    let tenant = tenant.as_str().as_bytes();
    let mut verdicts = Vec::with_capacity(requests.len());
    let mut rest = requests;
    while !rest.is_empty() && answer_bytes(&verdicts) < POSTGRES_ANSWER_BYTES_MAX {
        let (together, later) = rest.split_at(independent(rest));
        rest = later;
        let committed = match together {
            // With a digest the row is read first, and with a check that fails nobody else may fail.
            [_] => None,
            together => group(shared, tenant, together).await,
        };
        match committed {
            Some(Ok(together)) => verdicts.extend(together.into_iter().map(Ok)),
            Some(Err(error)) => verdicts.extend(together.iter().map(|_| Err(error.clone()))),
            None => {
                for request in together {
                    verdicts.push(alone(shared, tenant, request).await);
                    if answer_bytes(&verdicts) >= POSTGRES_ANSWER_BYTES_MAX {
                        return verdicts;
                    }
                }
            }
        }
    }
    verdicts
}

/// How much the refusals carry.
fn answer_bytes(verdicts: &[Result<Verdict>]) -> usize {
    let found = verdicts.iter().map(|verdict| match verdict {
        Ok(Verdict::Refused(Refusal { found: Some(found), .. })) => found.len(),
        _ => 0,
    });
    found.sum()
}

/// How many of the requests may share a transaction: their checks look at nothing that one before them writes.
fn independent(requests: &[Request]) -> usize {
    let mut written: BTreeSet<(&[u8], &[u8])> = BTreeSet::new();
    let mut prefixes: Vec<(&[u8], &[u8])> = Vec::new();
    for (position, request) in requests.iter().enumerate() {
        let depends = request.batch.checks().iter().any(|Check { category, key, condition }| {
            let (category, key) = (category.as_slice(), key.as_bytes());
            let covered = |&(of, prefix): &(&[u8], &[u8])| of == category && key.starts_with(prefix);
            matches!(condition, Condition::Sha256(_))
                || written.contains(&(category, key))
                || prefixes.iter().any(covered)
        });
        if depends {
            return position.max(1);
        }
        for write in request.batch.writes() {
            match write {
                Write::Put { category, key, .. } | Write::Delete { category, key } => {
                    written.insert((category, key.as_bytes()));
                }
                Write::DeletePrefix { category, prefix } => prefixes.push((category, prefix.as_bytes())),
            }
        }
    }
    requests.len()
}

/// Several requests in one transaction; `None` when a check did not hold, so that nothing was applied.
async fn group(shared: &Shared, tenant: &[u8], requests: &[Request]) -> Option<Result<Vec<Verdict>>> {
    let checks: Vec<_> = requests.iter().flat_map(|request| request.batch.checks()).collect();
    let guards = checks.into_iter().map(Guard::of).collect::<Option<Vec<_>>>()?;
    for attempt in 0.. {
        match transaction(shared, tenant, &guards, requests).await {
            Ok(Ok(verdicts)) => return verdicts.map(Ok),
            Ok(Err(failure)) if failure.is_conflict() && attempt < POSTGRES_RETRIES_MAX => {
                pause(attempt).await;
            }
            Ok(Err(failure)) => return Some(Err(failure.of_write())),
            Err(error) => return Some(Err(error)),
        }
    }
    None
}

/// One request in a transaction of its own.
async fn alone(shared: &Shared, tenant: &[u8], request: &Request) -> Result<Verdict> {
    let checks = request.batch.checks();
    let mut found: Vec<Option<Vec<u8>>> = Vec::new();
    for attempt in 0.. {
        let guards: Option<Vec<_>> = if found.is_empty() {
            checks.iter().map(Guard::of).collect()
        } else {
            Some(
                checks
                    .iter()
                    .zip(&found)
                    .map(|(check, found)| Guard::found(check, found.as_deref()))
                    .collect(),
            )
        };
        if let Some(guards) = guards {
            match transaction(shared, tenant, &guards, std::slice::from_ref(request)).await? {
                Ok(Some(verdicts)) => {
                    return Ok(verdicts.into_iter().next().unwrap_or(Verdict::Applied { deleted: 0 }));
                }
                Ok(None) => {}
                Err(failure) if failure.is_conflict() && attempt < POSTGRES_RETRIES_MAX => {
                    pause(attempt).await;
                    continue;
                }
                Err(failure) => return Err(failure.of_write()),
            }
        }
        match read(shared, tenant, checks).await? {
            Ok(rows) => found = rows,
            Err(failure) if failure.is_conflict() && attempt < POSTGRES_RETRIES_MAX => {
                pause(attempt).await;
                continue;
            }
            Err(failure) => return Err(failure.of_read()),
        }
        let failed =
            checks.iter().zip(&found).position(|(check, found)| !check.condition.holds(found.as_deref()));
        if let Some(check) = failed {
            let found = found.into_iter().nth(check).flatten();
            return Ok(Verdict::Refused(Refusal { check, found }));
        }
        // It holds, now: with a digest for the first time, else because somebody has changed it back meanwhile.
        if attempt >= POSTGRES_RETRIES_MAX {
            return Err(contended());
        }
    }
    Err(contended())
}

fn contended() -> crate::Error {
    let message = "the rows that were checked changed again and again; nothing was applied, try again later";
    crate::Error::new(crate::ErrorKind::Busy, message)
}

/// A check as a statement that fails when it does not hold.
struct Guard<'a> {
    category: Category<'a>,
    key: Cut<'a>,
    digest: Vec<u8>,
    expected: Expected<'a>,
}

enum Expected<'a> {
    Absent,
    Present,
    Equal(&'a [u8]),
}

impl<'a> Guard<'a> {
    fn new(check: &'a Check, expected: Expected<'a>) -> Self {
        let key = Cut::new(check.key.as_bytes());
        Self { category: Category::new(&check.category), key, digest: key.digest(), expected }
    }

    /// `None` for a digest: servers differ in what they call its function, and in what that answers.
    fn of(check: &'a Check) -> Option<Self> {
        Some(Self::new(
            check,
            match &check.condition {
                Condition::Absent => Expected::Absent,
                Condition::Exists => Expected::Present,
                Condition::Equals(payload) => Expected::Equal(payload),
                Condition::Sha256(_) => return None,
            },
        ))
    }

    /// That the row is still what was found, for a check that held of it.
    fn found(check: &'a Check, found: Option<&'a [u8]>) -> Self {
        Self::new(check, found.map_or(Expected::Absent, Expected::Equal))
    }
}

/// Writes that are one statement.
enum Run<'a> {
    /// Of any requests; the last put of a row wins.
    Puts(BTreeMap<(&'a [u8], &'a [u8]), &'a [u8]>),
    Deletes(usize, BTreeSet<(&'a [u8], &'a [u8])>),
    Range(usize, &'a [u8], &'a [u8], Key),
}

/// The writes in their order, those of a kind together.
fn runs(requests: &[Request]) -> Vec<Run<'_>> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    for (position, request) in requests.iter().enumerate() {
        for write in request.batch.writes() {
            match (write, runs.last_mut()) {
                (Write::Put { category, key, payload }, Some(Run::Puts(puts))) => {
                    puts.insert((category, key.as_bytes()), payload);
                }
                (Write::Put { category, key, payload }, _) => {
                    runs.push(Run::Puts([((&**category, key.as_bytes()), &**payload)].into()));
                }
                (Write::Delete { category, key }, Some(Run::Deletes(of, rows))) if *of == position => {
                    rows.insert((category, key.as_bytes()));
                }
                (Write::Delete { category, key }, _) => {
                    runs.push(Run::Deletes(position, [(&**category, key.as_bytes())].into()));
                }
                (Write::DeletePrefix { category, prefix }, _) => {
                    let stop = KeyRange::prefix(prefix.as_bytes()).stop;
                    runs.push(Run::Range(position, category, prefix.as_bytes(), stop));
                }
            }
        }
    }
    runs
}

/// One attempt. The outer error is of a connection that could not be had; `None` means that a guard failed.
async fn transaction(
    shared: &Shared,
    tenant: &[u8],
    guards: &[Guard<'_>],
    requests: &[Request],
) -> Result<Result<Option<Vec<Verdict>>, Failure>> {
    let connection = shared.connection().await?;
    let runs = runs(requests);
    if runs.is_empty() && guards.is_empty() {
        // What was acknowledged is durable already.
        return Ok(Ok(Some(requests.iter().map(|_| Verdict::Applied { deleted: 0 }).collect())));
    }
    let sending = Sending { shared, connection: &connection, tenant };
    let answers = match sending.all(guards, &runs).await {
        Ok(answers) => answers,
        Err(failure) => return Ok(Err(failure)),
    };
    let statements = answers.len();
    let mut rows = Vec::with_capacity(statements);
    for (position, answer) in answers.into_iter().enumerate() {
        match answer.map_err(Failure::from) {
            Ok(changed) => rows.push(changed),
            // The last but one is the server's clock.
            Err(failure) if failure.is(&[SqlState::DIVISION_BY_ZERO]) && position + 2 == statements => {
                connection.heed(&Failure::TooLate);
                return Ok(Err(Failure::TooLate));
            }
            Err(failure) if failure.is(&[SqlState::DIVISION_BY_ZERO]) => return Ok(Ok(None)),
            Err(failure) => {
                connection.heed(&failure);
                // Without a transaction every statement stands alone, and nobody knows which did.
                return Ok(Err(if position == 0 { Failure::Unbegun(Box::new(failure)) } else { failure }));
            }
        }
    }
    let mut deleted = vec![0; requests.len()];
    // BEGIN and the settings came first, then the guards.
    for (run, changed) in runs.iter().zip(rows.into_iter().skip(3 + guards.len())) {
        if let Run::Deletes(of, _) | Run::Range(of, ..) = run
            && let Some(deleted) = deleted.get_mut(*of)
        {
            *deleted += changed;
        }
    }
    Ok(Ok(Some(deleted.into_iter().map(|deleted| Verdict::Applied { deleted }).collect())))
}

/// A transaction on its way.
struct Sending<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
    tenant: &'a [u8],
}

type Answers<T> = Vec<Result<T, tokio_postgres::Error>>;

impl Sending<'_> {
    async fn all(&self, guards: &[Guard<'_>], runs: &[Run<'_>]) -> Result<Answers<u64>, Failure> {
        let sql = &self.shared.sql;
        let columns: Vec<_> = runs.iter().map(Columns::of).collect();
        let give_up = self.connection.give_up();
        let mut statements: Vec<Pending<'_, u64>> = Vec::with_capacity(guards.len() + runs.len() + 5);
        statements.push(self.connection.sending(&sql.BEGIN, Vec::new()));
        statements.push(self.connection.sending(&sql.DURABLE, Vec::new()));
        statements.push(self.connection.sending(&sql.PATIENCE, Vec::new()));
        for guard in guards {
            let mut parameters: Vec<Parameter<'_>> = vec![
                (&self.tenant, Type::BYTEA),
                (&guard.category.column, Type::BYTEA),
                (&guard.key.head, Type::BYTEA),
                (&guard.digest, Type::BYTEA),
            ];
            let text = match &guard.expected {
                Expected::Absent => &sql.CHECK_ABSENT,
                Expected::Present => &sql.CHECK_EXISTS,
                Expected::Equal(payload) => {
                    parameters.push((payload, Type::BYTEA));
                    &sql.CHECK_EQUALS
                }
            };
            statements.push(self.connection.sending(text, parameters));
        }
        for (run, columns) in runs.iter().zip(&columns) {
            let mut parameters: Vec<Parameter<'_>> = vec![(&self.tenant, Type::BYTEA)];
            let text = match run {
                Run::Puts(_) => {
                    parameters.extend([
                        (&columns.categories as _, Type::BYTEA_ARRAY),
                        (&columns.keys as _, Type::BYTEA_ARRAY),
                        (&columns.digests as _, Type::BYTEA_ARRAY),
                        (&columns.tails as _, Type::BYTEA_ARRAY),
                        (&columns.category_tails as _, Type::BYTEA_ARRAY),
                        (&columns.payloads as _, Type::BYTEA_ARRAY),
                    ]);
                    &sql.PUTS
                }
                Run::Deletes(..) => {
                    parameters.extend([
                        (&columns.categories as _, Type::BYTEA_ARRAY),
                        (&columns.keys as _, Type::BYTEA_ARRAY),
                        (&columns.digests as _, Type::BYTEA_ARRAY),
                    ]);
                    &sql.DELETES
                }
                Run::Range(..) => {
                    let [start, stop] = &columns.range;
                    parameters.extend([
                        (&columns.category as _, Type::BYTEA),
                        (&start.head as _, Type::BYTEA),
                        (&start.tail as _, Type::BYTEA),
                        (&stop.head as _, Type::BYTEA),
                        (&stop.tail as _, Type::BYTEA),
                    ]);
                    &sql.DELETE_RANGE
                }
            };
            statements.push(self.connection.sending(text, parameters));
        }
        statements.push(self.connection.sending(&sql.IN_TIME, vec![(&give_up, Type::INT8)]));
        statements.push(self.connection.sending(&sql.COMMIT, Vec::new()));
        self.connection.all(pipelined(&mut statements)).await
    }

    async fn found(&self, checks: &[Check]) -> Result<Answers<Vec<Row>>, Failure> {
        let sql = &self.shared.sql;
        let guards: Vec<_> = checks.iter().map(|check| Guard::new(check, Expected::Present)).collect();
        let mut statements: Vec<Pending<'_, Vec<Row>>> = Vec::with_capacity(guards.len() + 2);
        statements.push(self.connection.asking(&sql.BEGIN_READ, Vec::new()));
        for guard in &guards {
            statements.push(self.connection.asking(
                &sql.GET,
                vec![
                    (&self.tenant, Type::BYTEA),
                    (&guard.category.column, Type::BYTEA),
                    (&guard.key.head, Type::BYTEA),
                    (&guard.digest, Type::BYTEA),
                ],
            ));
        }
        statements.push(self.connection.asking(&sql.COMMIT, Vec::new()));
        self.connection.all(pipelined(&mut statements)).await
    }
}

/// What the rows hold that are checked, in one transaction.
async fn read(
    shared: &Shared,
    tenant: &[u8],
    checks: &[Check],
) -> Result<Result<Vec<Option<Vec<u8>>>, Failure>> {
    let connection = shared.connection().await?;
    let sending = Sending { shared, connection: &connection, tenant };
    Ok(payloads(sending.found(checks).await, checks.len()))
}

fn payloads(
    answers: Result<Answers<Vec<Row>>, Failure>,
    checks: usize,
) -> Result<Vec<Option<Vec<u8>>>, Failure> {
    let answers = answers?.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut found = Vec::with_capacity(checks);
    for rows in answers.into_iter().skip(1).take(checks) {
        found.push(match rows.first() {
            Some(row) => Some(row.try_get(0)?),
            None => None,
        });
    }
    Ok(found)
}

/// The rows of a run, a column each.
struct Columns<'a> {
    category: Vec<u8>,
    range: [Cut<'a>; 2],
    categories: Vec<Vec<u8>>,
    category_tails: Vec<&'a [u8]>,
    keys: Vec<&'a [u8]>,
    tails: Vec<&'a [u8]>,
    digests: Vec<Vec<u8>>,
    payloads: Vec<&'a [u8]>,
}

impl<'a> Columns<'a> {
    fn of(run: &'a Run<'a>) -> Self {
        let nothing = Cut::new(b"");
        let mut columns = Self {
            category: Vec::new(),
            range: [nothing; 2],
            categories: Vec::new(),
            category_tails: Vec::new(),
            keys: Vec::new(),
            tails: Vec::new(),
            digests: Vec::new(),
            payloads: Vec::new(),
        };
        match run {
            Run::Puts(puts) => {
                for ((category, key), payload) in puts {
                    columns.push(category, key);
                    columns.payloads.push(payload);
                }
            }
            Run::Deletes(_, rows) => {
                for (category, key) in rows {
                    columns.push(category, key);
                }
            }
            Run::Range(_, category, start, stop) => {
                columns.category = Category::new(category).column.into_owned();
                columns.range = [Cut::new(start), Cut::stop(stop.as_bytes())];
            }
        }
        columns
    }

    fn push(&mut self, category: &'a [u8], key: &'a [u8]) {
        let (category, key) = (Category::new(category), Cut::new(key));
        self.digests.push(key.digest());
        self.keys.push(key.head);
        self.tails.push(key.tail);
        self.category_tails.push(category.tail);
        self.categories.push(category.column.into_owned());
    }
}
