//! Scans: ranges read in pages, each page a fresh view.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::backend::View;
use crate::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use crate::{Error, Key, KeyRange, Op, Result};

/// A row: a key and what is stored under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key of the row.
    pub key: Key,
    /// Its payload; empty when only keys were asked for.
    pub payload: Vec<u8>,
}

/// What to read: the rows of one category whose keys lie in a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanSpec {
    /// The category to read.
    pub category: Vec<u8>,
    /// The keys to read.
    pub range: KeyRange,
    /// Whether to begin at the end of the range.
    pub reverse: bool,
    /// Whether to leave the payloads unread.
    pub keys_only: bool,
    /// How many rows to read in all; `None` for no limit.
    pub limit: Option<usize>,
}

impl ScanSpec {
    /// Every row of the range in ascending order of keys.
    pub fn new(category: impl AsRef<[u8]>, range: KeyRange) -> Self {
        Self { category: category.as_ref().to_vec(), range, reverse: false, keys_only: false, limit: None }
    }

    /// In descending order.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Keys alone: payloads come back empty and unread, which over large payloads is a hundred times cheaper.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// At most `rows` rows.
    #[must_use]
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = Some(rows);
        self
    }

    /// How many rows the next page may hold.
    pub(crate) fn page_rows(&self) -> usize {
        self.limit.map_or(PAGE_ROWS_MAX, |limit| limit.min(PAGE_ROWS_MAX))
    }
}

/// Some rows of a scan, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The rows, in the order of the scan.
    pub rows: Vec<Row>,
    /// What to scan for the rest; `None` when this was the last page.
    pub next: Option<ScanSpec>,
}

/// Collects rows until a page is full.
pub(crate) struct PageBuilder<'a> {
    spec: &'a ScanSpec,
    rows: Vec<Row>,
    bytes: usize,
}

impl<'a> PageBuilder<'a> {
    pub(crate) fn new(spec: &'a ScanSpec) -> Self {
        Self { spec, rows: Vec::new(), bytes: 0 }
    }

    /// Whether no further row fits.
    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() >= self.spec.page_rows() || self.bytes >= PAGE_BYTES_MAX
    }

    pub(crate) fn push(&mut self, key: &[u8], payload: Vec<u8>) {
        self.bytes += key.len() + payload.len();
        self.rows.push(Row { key: Key::raw(key), payload });
    }

    /// The page; `exhausted` says that no row of the range was left over.
    pub(crate) fn finish(self, exhausted: bool) -> Page {
        let next = if exhausted { None } else { self.rest() };
        Page { rows: self.rows, next }
    }

    /// What the limit leaves to scan after these rows.
    pub(crate) fn rest(&self) -> Option<ScanSpec> {
        let last = self.rows.last()?;
        if self.spec.reverse && last.key.as_bytes().is_empty() {
            // Nothing precedes the empty key, and as the end of a range it would stand for none.
            return None;
        }
        let limit = self.spec.limit.map(|limit| limit.saturating_sub(self.rows.len()));
        let range = self.spec.range_after(&last.key);
        (limit != Some(0)).then(|| ScanSpec { range, limit, ..self.spec.clone() })
    }
}

impl ScanSpec {
    /// What is left of the range once `last` has been read.
    fn range_after(&self, last: &Key) -> KeyRange {
        let mut range = self.range.clone();
        if self.reverse {
            range.stop = last.clone();
        } else {
            let mut start = last.clone().into_bytes();
            start.push(0);
            range.start = Key::raw(start);
        }
        range
    }
}

/// A scan in progress: a stream of rows, or pages for a caller that wants them at once.
///
/// Each page is a fresh view, so a long scan never pins the log; rows written behind its position are not seen, rows
/// written ahead of it are. For one view of everything scan a [`Snapshot`](crate::Snapshot). May be dropped at any time.
pub struct Scan {
    /// `None` for a scan that has failed before it began.
    view: Option<Arc<dyn View>>,
    next: Option<ScanSpec>,
    rows: VecDeque<Row>,
    page: Option<Op<Page>>,
}

impl Scan {
    pub(crate) fn new(view: Arc<dyn View>, spec: ScanSpec) -> Self {
        Self { view: Some(view), next: Some(spec), rows: VecDeque::new(), page: None }
    }

    /// A scan of nothing but this error.
    pub(crate) fn failed(error: Error) -> Self {
        Self { view: None, next: None, rows: VecDeque::new(), page: Some(Op::ready(Err(error))) }
    }

    /// Every row that is left, at once. For ranges known to be small: memory is the caller's bound.
    pub fn collect(mut self) -> Op<Vec<Row>> {
        Op::from_future(async move {
            let mut rows = Vec::new();
            while let Some(row) = self.next().await {
                rows.push(row?);
            }
            Ok(rows)
        })
    }

    /// The next row; `None` at the end, and after an error.
    pub async fn next(&mut self) -> Option<Result<Row>> {
        std::future::poll_fn(|context| self.poll_row(context)).await
    }

    fn poll_row(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Row>>> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Poll::Ready(Some(Ok(row)));
            }
            if self.page.is_none() {
                let (Some(view), Some(spec)) = (&self.view, self.next.take()) else {
                    return Poll::Ready(None);
                };
                self.page = Some(view.scan_page(spec));
            }
            let Some(page) = &mut self.page else { continue };
            let page = ready!(Pin::new(page).poll(context));
            self.page = None;
            match page {
                Ok(page) => {
                    self.rows = page.rows.into();
                    self.next = page.next;
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl futures_core::Stream for Scan {
    type Item = Result<Row>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_row(context)
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").field("next", &self.next).finish_non_exhaustive()
    }
}
