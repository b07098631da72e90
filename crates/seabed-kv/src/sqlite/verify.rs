//! Verification of a tenant's file: what SQLite knows of its structure, and that every row reads.

use super::reader::Reader;
use super::reader_pool::ReaderPool;
use crate::backend::TenantReport;
use crate::{ErrorKind, Key, KeyRange, Result, ScanSpec};

/// The structure first, in one view; then every row, page by page, that it can be read and comes after the one before.
pub(super) fn file(readers: &ReaderPool) -> Result<TenantReport> {
    let mut report = TenantReport { findings: readers.examine(Reader::verify)?, ..TenantReport::default() };
    if let Err(error) = read_all_rows(readers, &mut report) {
        if error.kind() != ErrorKind::Corrupt {
            return Err(error);
        }
        report.findings.push(error.to_string());
    }
    Ok(report)
}

fn read_all_rows(readers: &ReaderPool, report: &mut TenantReport) -> Result<()> {
    let mut before: Option<Vec<u8>> = None;
    for category in readers.examine(Reader::categories)? {
        if before.as_ref().is_some_and(|before| *before >= category) {
            report.findings.push(format!("category {} is out of order", category.escape_ascii()));
            return Ok(());
        }
        let mut last: Option<Key> = None;
        let mut next = Some(ScanSpec::new(&category, KeyRange::all()));
        while let Some(spec) = next {
            let page = readers.examine(|reader| reader.page(&spec))?;
            for row in page.rows {
                if last.as_ref().is_some_and(|last| *last >= row.key) {
                    report.findings.push(format!(
                        "category {}: {:?} is out of order",
                        category.escape_ascii(),
                        row.key
                    ));
                }
                report.rows += 1;
                report.bytes += (category.len() + row.key.as_bytes().len() + row.payload.len()) as u64;
                last = Some(row.key);
            }
            next = page.next;
        }
        before = Some(category);
    }
    Ok(())
}
