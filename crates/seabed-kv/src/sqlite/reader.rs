//! One read-only connection: lookups, counts, and scans whose SQL depends on whether rows spill out of their pages.

use std::cell::Cell;
use std::ops::ControlFlow;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row, params};

use super::cache::CacheShare;
use super::ffi::Prepared;
use super::log_index::LogIndex;
use super::schema::sql;
use crate::scan::PageBuilder;
use crate::{KeyRange, Page, Result, ScanSpec};

/// The most that a record's header takes: its own length and the types of three blobs, and the cell's length.
pub(super) const ROW_HEADER_BYTES: usize = 20;

/// One read-only connection.
pub(super) struct Reader {
    /// `None` once it is dropped.
    get: Option<Prepared>,
    index: LogIndex,
    /// The generation of the view that is open; a snapshot's is not counted.
    view: Cell<Option<u64>>,
    local_bytes_max: usize,
    _cache: CacheShare,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _gate = self.index.gate();
        self.get = None;
    }
}

const GET: &str = "SELECT payload FROM kv WHERE category=?1 AND key=?2";
const EXISTS: &str = "SELECT 1 FROM kv WHERE category=?1 AND key=?2";
/// `length` reads no overflow page.
const FIRST_LENGTH: &str =
    "SELECT length(payload) FROM kv WHERE category=?1 AND key>=?2 ORDER BY key LIMIT 1";

impl Reader {
    pub(super) fn new(
        connection: Connection,
        local_bytes_max: usize,
        cache: CacheShare,
        index: LogIndex,
    ) -> Result<Self> {
        let get = Some(Prepared::new(connection, GET).map_err(sql)?);
        Ok(Self { get, index, view: Cell::new(None), local_bytes_max, _cache: cache })
    }

    #[allow(clippy::expect_used, reason = "it is there until the reader is dropped")]
    fn prepared(&self) -> &Prepared {
        self.get.as_ref().expect("a reader that is not dropped")
    }

    fn connection(&self) -> &Connection {
        self.prepared().connection()
    }

    fn statement(&self, text: &str) -> Result<CachedStatement<'_>> {
        self.connection().prepare_cached(text).map_err(sql)
    }

    pub(super) fn is_in_view_of(&self, generation: u64) -> bool {
        self.view.get() == Some(generation)
    }

    /// Goes on with the view of that generation, or begins one.
    pub(super) fn view_of(&self, generation: u64) -> Result<()> {
        if self.is_in_view_of(generation) {
            return Ok(());
        }
        self.end_view();
        self.statement("BEGIN")?.execute([]).map_err(sql)?;
        self.view.set(Some(generation));
        Ok(())
    }

    pub(super) fn end_view(&self) {
        if self.view.take().is_some()
            && let Err(error) =
                self.statement("COMMIT").and_then(|mut commit| commit.execute([]).map_err(sql))
        {
            // A view that writes nothing ends in any case; what failed shows in the next read.
            tracing::warn!(%error, "a read view did not end cleanly");
        }
    }

    pub(super) fn pin(&self) -> Result<()> {
        self.connection().execute_batch("BEGIN").map_err(sql)?;
        // The view begins with the first read.
        self.exists(b"", b"").map(|_| ())
    }

    pub(super) fn get(&self, category: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.prepared()
            .with(|get| get.query_row(params![category, key], |row| row.get(0)).optional())
            .map_err(sql)
    }

    pub(super) fn exists(&self, category: &[u8], key: &[u8]) -> Result<bool> {
        self.statement(EXISTS)?.exists(params![category, key]).map_err(sql)
    }

    pub(super) fn categories(&self) -> Result<Vec<Vec<u8>>> {
        let mut categories = Vec::new();
        let mut next: Option<Vec<u8>> = self
            .statement("SELECT category FROM kv ORDER BY category LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()
            .map_err(sql)?;
        // From each to the next by a seek: a category may hold millions of rows.
        let mut after =
            self.statement("SELECT category FROM kv WHERE category>?1 ORDER BY category LIMIT 1")?;
        while let Some(category) = next {
            next = after.query_row(params![category], |row| row.get(0)).optional().map_err(sql)?;
            categories.push(category);
        }
        Ok(categories)
    }

    /// Whether the rows from `start` on spill into overflow pages, judged by the first: then a bound inside the SQL would read every
    /// payload to compare its key.
    fn spills(&self, category: &[u8], start: &[u8]) -> Result<bool> {
        let length: Option<usize> = self
            .statement(FIRST_LENGTH)?
            .query_row(params![category, start], |row| row.get(0))
            .optional()
            .map_err(sql)?;
        Ok(length.is_some_and(|length| {
            length + category.len() + start.len() + ROW_HEADER_BYTES > self.local_bytes_max
        }))
    }

    pub(super) fn count(&self, category: &[u8], range: &KeyRange) -> Result<u64> {
        let (start, stop) = (range.start.as_bytes(), range.stop.as_bytes());
        if self.spills(category, start)? {
            let spec = ScanSpec::new(category, range.clone()).keys_only();
            let mut count = 0;
            self.walk_open(&spec, |_| {
                count += 1;
                Ok(ControlFlow::Continue(()))
            })?;
            return Ok(count);
        }
        let count = if stop.is_empty() {
            self.statement("SELECT count(*) FROM kv WHERE category=?1 AND key>=?2")?
                .query_row(params![category, start], |row| row.get(0))
        } else {
            self.statement("SELECT count(*) FROM kv WHERE category=?1 AND key>=?2 AND key<?3")?
                .query_row(params![category, start, stop], |row| row.get(0))
        };
        count.map_err(sql)
    }

    pub(super) fn page(&self, spec: &ScanSpec) -> Result<Page> {
        if spec.page_rows() == 0 || spec.range.is_empty() {
            return Ok(PageBuilder::new(spec).finish(true));
        }
        let mut page = PageBuilder::new(spec);
        let mut exhausted = true;
        let take = |row: &Row<'_>| {
            if page.is_full() {
                exhausted = false;
                return Ok(ControlFlow::Break(()));
            }
            let payload = if spec.keys_only { Vec::new() } else { row.get(2)? };
            page.push(row.get_ref(1)?.as_blob()?, payload);
            Ok(ControlFlow::Continue(()))
        };
        if self.spills(&spec.category, spec.range.start.as_bytes())? {
            self.walk_open(spec, take)?;
        } else {
            self.walk_bounded(spec, take)?;
        }
        Ok(page.finish(exhausted))
    }

    /// Walks the rows of a range with its bounds in the SQL: the cheaper form while rows fit into their pages.
    fn walk_bounded(
        &self,
        spec: &ScanSpec,
        visit: impl FnMut(&Row<'_>) -> rusqlite::Result<ControlFlow<()>>,
    ) -> Result<()> {
        let (start, stop) = (spec.range.start.as_bytes(), spec.range.stop.as_bytes());
        let payload = if spec.keys_only { "NULL" } else { "payload" };
        let order = if spec.reverse { "DESC" } else { "ASC" };
        if stop.is_empty() {
            let text = format!(
                "SELECT category,key,{payload} FROM kv WHERE category=?1 AND key>=?2 ORDER BY key {order}"
            );
            self.walk(&text, params![spec.category, start], visit)
        } else {
            let text = format!(
                "SELECT category,key,{payload} FROM kv WHERE category=?1 AND key>=?2 AND key<?3 ORDER BY key {order}"
            );
            self.walk(&text, params![spec.category, start, stop], visit)
        }
    }

    /// Walks the rows of a range with only its beginning in the SQL; where it ends is seen here. Over payloads that spill this
    /// is 200 times faster, because no comparison reads them.
    fn walk_open(
        &self,
        spec: &ScanSpec,
        mut visit: impl FnMut(&Row<'_>) -> rusqlite::Result<ControlFlow<()>>,
    ) -> Result<()> {
        let (start, stop) = (spec.range.start.as_bytes(), spec.range.stop.as_bytes());
        let payload = if spec.keys_only { "NULL" } else { "payload" };
        let within = |row: &Row<'_>| {
            Ok::<_, rusqlite::Error>(
                row.get_ref(0)?.as_blob()? == spec.category
                    && spec.range.contains(row.get_ref(1)?.as_blob()?),
            )
        };
        let visit = |row: &Row<'_>| if within(row)? { visit(row) } else { Ok(ControlFlow::Break(())) };
        let select = format!("SELECT category,key,{payload} FROM kv");
        match (spec.reverse, stop.is_empty()) {
            (false, _) => {
                let text = format!("{select} WHERE (category,key)>=(?1,?2) ORDER BY category,key");
                self.walk(&text, params![spec.category, start], visit)
            }
            (true, false) => {
                let text = format!("{select} WHERE (category,key)<(?1,?2) ORDER BY category DESC,key DESC");
                self.walk(&text, params![spec.category, stop], visit)
            }
            (true, true) => {
                let text = format!("{select} WHERE category<=?1 ORDER BY category DESC,key DESC");
                self.walk(&text, params![spec.category], visit)
            }
        }
    }

    fn walk(
        &self,
        text: &str,
        parameters: impl Params,
        mut visit: impl FnMut(&Row<'_>) -> rusqlite::Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut statement = self.statement(text)?;
        let mut rows = statement.query(parameters).map_err(sql)?;
        while let Some(row) = rows.next().map_err(sql)? {
            if visit(row).map_err(sql)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// What SQLite finds wrong with the structure: pages, cells, the order of keys.
    pub(super) fn verify(&self) -> Result<Vec<String>> {
        // Only here: on a mapped file it costs each read of a page a walk over all its cells.
        self.connection().pragma_update(None, "cell_size_check", true).map_err(sql)?;
        let mut statement = self.connection().prepare("PRAGMA integrity_check(100)").map_err(sql)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(sql)?;
        let findings: Vec<String> = rows.collect::<Result<_, _>>().map_err(sql)?;
        Ok(findings.into_iter().filter(|finding| finding != "ok").collect())
    }
}
