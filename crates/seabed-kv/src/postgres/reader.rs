//! Reads: each one statement, on a pooled connection or in the transaction of a snapshot.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::connection::{Connection, Parameter};
use super::failure::Failure;
use super::names::{Category, Cut};
use super::sql::Statements;
use crate::backend::{TenantReport, TenantStats};
use crate::limits::PAGE_BYTES_MAX;
use crate::scan::PageBuilder;
use crate::{KeyRange, Page, ScanSpec};

/// Reads of one tenant over one connection.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) connection: &'a Connection,
    pub(super) sql: &'a Statements,
    pub(super) tenant: &'a [u8],
}

impl Reader<'_> {
    pub(super) async fn get(self, category: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let rows = self.row(&self.sql.GET, category, key).await?;
        Ok(match rows.first() {
            Some(row) => Some(row.try_get(0)?),
            None => None,
        })
    }

    pub(super) async fn exists(self, category: &[u8], key: &[u8]) -> Result<bool, Failure> {
        Ok(!self.row(&self.sql.EXISTS, category, key).await?.is_empty())
    }

    async fn row(self, sql: &str, category: &[u8], key: &[u8]) -> Result<Vec<Row>, Failure> {
        let (category, key) = (Category::new(category), Cut::new(key));
        let parameters: [Parameter<'_>; 4] = [
            (&self.tenant, Type::BYTEA),
            (&&*category.column, Type::BYTEA),
            (&key.head, Type::BYTEA),
            (&key.digest(), Type::BYTEA),
        ];
        self.connection.query_often(sql, &parameters).await
    }

    pub(super) async fn count(self, category: &[u8], range: &KeyRange) -> Result<u64, Failure> {
        let (category, start, stop) = bounds(category, range);
        let parameters: [Parameter<'_>; 6] = [
            (&self.tenant, Type::BYTEA),
            (&&*category.column, Type::BYTEA),
            (&start.head, Type::BYTEA),
            (&start.tail, Type::BYTEA),
            (&stop.head, Type::BYTEA),
            (&stop.tail, Type::BYTEA),
        ];
        let rows = self.connection.query(&self.sql.COUNT, &parameters).await?;
        number(rows.first(), 0)
    }

    pub(super) async fn scan_page(self, spec: &ScanSpec) -> Result<Page, Failure> {
        let mut page = PageBuilder::new(spec);
        if page.is_full() || spec.range.is_empty() {
            return Ok(page.finish(true));
        }
        // One more than the page holds, to know whether there is more.
        let rows_max = spec.page_rows() + 1;
        let rows = self.rows(spec, rows_max).await?;
        let found = rows.len();
        for row in rows {
            if page.is_full() {
                return Ok(page.finish(false));
            }
            let (head, tail): (&[u8], &[u8]) = (row.try_get(0)?, row.try_get(1)?);
            let payload: Vec<u8> = row.try_get(2)?;
            if tail.is_empty() {
                page.push(head, payload);
            } else {
                page.push(&[head, tail].concat(), payload);
            }
        }
        // It ended by its bytes: whether anything is left was not asked.
        let rest = (page.is_full() && found < rows_max).then(|| page.rest()).flatten();
        let exhausted = match rest {
            Some(rest) => self.rows(&ScanSpec { keys_only: true, ..rest }, 1).await?.is_empty(),
            None => true,
        };
        Ok(page.finish(exhausted))
    }

    async fn rows(self, spec: &ScanSpec, rows_max: usize) -> Result<Vec<Row>, Failure> {
        let (category, start, stop) = bounds(&spec.category, &spec.range);
        let rows_max = i64::try_from(rows_max).unwrap_or(i64::MAX);
        let bytes_max = i64::try_from(PAGE_BYTES_MAX).unwrap_or(i64::MAX);
        let parameters: [Parameter<'_>; 9] = [
            (&self.tenant, Type::BYTEA),
            (&&*category.column, Type::BYTEA),
            (&start.head, Type::BYTEA),
            (&start.tail, Type::BYTEA),
            (&stop.head, Type::BYTEA),
            (&stop.tail, Type::BYTEA),
            (&spec.keys_only, Type::BOOL),
            (&rows_max, Type::INT8),
            (&bytes_max, Type::INT8),
        ];
        let sql = if spec.reverse { &self.sql.SCAN_REVERSE } else { &self.sql.SCAN };
        self.connection.query(sql, &parameters).await
    }

    pub(super) async fn categories(self) -> Result<Vec<Vec<u8>>, Failure> {
        let rows = self.connection.query(&self.sql.CATEGORIES, &[(&self.tenant, Type::BYTEA)]).await?;
        let mut categories = Vec::with_capacity(rows.len());
        for row in rows {
            categories.push(Category::join(row.try_get(0)?, row.try_get(1)?));
        }
        categories.sort();
        Ok(categories)
    }

    /// Everything that can be checked, in steps that take a bounded time.
    pub(super) async fn verify(self) -> Result<TenantReport, Failure> {
        let (mut report, mut names, mut payloads) = (TenantReport::default(), 0, 0);
        let mut after: Option<[Vec<u8>; 3]> = None;
        loop {
            let (is_first, [category, key, digest]) = (after.is_none(), &after.take().unwrap_or_default());
            let until = self.step_end(is_first, [category, key, digest]).await?;
            let from = self.step_start(&is_first, [category, key, digest]);
            let is_last = until.is_none();
            let until = until.unwrap_or_default();
            let mut parameters = from.to_vec();
            parameters.push((&is_last, Type::BOOL));
            parameters.extend(until.iter().map(|column| (column as _, Type::BYTEA)));
            let rows = self.connection.query(&self.sql.VERIFY, &parameters).await?;
            report.rows += number(rows.first(), 0)?;
            report.bytes += number(rows.first(), 1)?;
            names += number(rows.first(), 2)?;
            payloads += number(rows.first(), 3)?;
            if is_last {
                break;
            }
            after = Some(until);
        }
        if names > 0 {
            report.findings.push(format!("{names} rows have a long key whose digest is not one"));
        }
        if payloads > 0 {
            report.findings.push(format!("{payloads} rows have a payload that cannot be read"));
        }
        Ok(report)
    }

    fn step_start<'a>(&'a self, is_first: &'a bool, after: [&'a Vec<u8>; 3]) -> [Parameter<'a>; 5] {
        let [category, key, digest] = after;
        [
            (&self.tenant, Type::BYTEA),
            (category, Type::BYTEA),
            (key, Type::BYTEA),
            (digest, Type::BYTEA),
            (is_first, Type::BOOL),
        ]
    }

    /// The last row of a step over all rows; `None` for the last step.
    async fn step_end(&self, is_first: bool, after: [&Vec<u8>; 3]) -> Result<Option<[Vec<u8>; 3]>, Failure> {
        let rows = self.connection.query(&self.sql.VERIFY_UNTIL, &self.step_start(&is_first, after)).await?;
        Ok(match rows.first() {
            Some(row) => Some([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?]),
            None => None,
        })
    }

    /// Removes a bounded number of rows; answers how many.
    pub(super) async fn remove_step(self) -> Result<u64, Failure> {
        let nothing = Vec::new();
        let until = self.step_end(true, [&nothing; 3]).await?;
        let is_last = until.is_none();
        let [category, key, digest] = until.unwrap_or_default();
        let parameters: [Parameter<'_>; 6] = [
            (&self.tenant, Type::BYTEA),
            (&is_last, Type::BOOL),
            (&category, Type::BYTEA),
            (&key, Type::BYTEA),
            (&digest, Type::BYTEA),
            (&self.connection.give_up(), Type::INT8),
        ];
        self.connection.execute(&self.sql.REMOVE_ROWS, &parameters).await
    }

    pub(super) async fn stats(self) -> Result<TenantStats, Failure> {
        let rows = self.connection.query(&self.sql.DATA_BYTES, &[(&self.tenant, Type::BYTEA)]).await?;
        Ok(TenantStats { data_bytes: number(rows.first(), 0)?, ..TenantStats::default() })
    }
}

fn bounds<'a>(category: &'a [u8], range: &'a KeyRange) -> (Category<'a>, Cut<'a>, Cut<'a>) {
    (Category::new(category), Cut::new(range.start.as_bytes()), Cut::stop(range.stop.as_bytes()))
}

/// A count, which is never negative.
fn number(row: Option<&Row>, column: usize) -> Result<u64, Failure> {
    let Some(row) = row else { return Ok(0) };
    let number: i64 = row.try_get(column)?;
    Ok(u64::try_from(number).unwrap_or_default())
}
