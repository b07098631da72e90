//! What the admin API answers about documents.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use seabed_automerge::{
    CompactOptions, CompactReport, DocStore, DocumentDetail, DocumentId, DocumentInfo, ExportReport,
    ImportReport,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::node::{Failure, Node, now_unix_s};

/// The largest file that is taken in, in bytes: it is in memory as it comes, and once more as automerge has it.
pub(crate) const FILE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What `GET /api/docs` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Documents {
    documents: Vec<DocumentInfo>,
}

/// Lists every document.
pub(crate) async fn list(node: &Node) -> Result<Documents, Failure> {
    let documents = match node.documents().await? {
        Some(documents) => documents.documents().await?,
        None => Vec::new(),
    };
    Ok(Documents { documents })
}

/// Tells of one document, as automerge has it.
pub(crate) async fn show(node: &Node, id: DocumentId) -> Result<DocumentDetail, Failure> {
    there(node, id).await?.examine(id).await?.ok_or_else(|| missing(node, id))
}

/// The document as automerge saves it.
pub(crate) async fn save(node: &Node, id: DocumentId) -> Result<Vec<u8>, Failure> {
    there(node, id).await?.save(id).await?.ok_or_else(|| missing(node, id))
}

/// What the document says.
pub(crate) async fn json(node: &Node, id: DocumentId) -> Result<Value, Failure> {
    there(node, id).await?.json(id).await?.ok_or_else(|| missing(node, id))
}

/// What `POST /api/docs/{id}/merge` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Merged {
    document: String,
    /// How many changes are new.
    changes: u64,
}

/// Merges what automerge saved into a document, or makes it one.
pub(crate) async fn merge(node: &Node, id: DocumentId, saved: &[u8]) -> Result<Merged, Failure> {
    let documents = node.documents_or_new().await?;
    let changes = documents.merge(id, saved, now_unix_ms(), fresh_id).await?;
    Ok(Merged { document: id.to_string(), changes })
}

/// Takes in a directory of automerge-repo's.
pub(crate) async fn import(node: &Node, from: &Path) -> Result<ImportReport, Failure> {
    absolute(from)?;
    if !from.is_dir() {
        return Err(Failure::bad_request(format!("{} is no directory", from.display())));
    }
    if seabed_automerge::documents_in(from)? == 0 {
        return Err(Failure::bad_request(no_documents(from)));
    }
    Ok(node.documents_or_new().await?.import_directory(from, now_unix_ms(), fresh_id).await?)
}

/// What is said of a directory that is not automerge-repo's.
pub(crate) fn no_documents(from: &Path) -> String {
    format!(
        "there are no documents in {}; name the directory that automerge-repo's node filesystem storage was given",
        from.display()
    )
}

/// Writes a directory of automerge-repo's.
pub(crate) async fn export(
    node: &Node,
    to: &Path,
    only: Option<DocumentId>,
) -> Result<ExportReport, Failure> {
    absolute(to)?;
    let documents = match only {
        Some(id) => Some(there(node, id).await?),
        None => node.documents().await?,
    };
    match documents {
        Some(documents) => Ok(documents.export_directory(to, only).await?),
        None => Ok(ExportReport::default()),
    }
}

/// What `DELETE /api/docs/{id}` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Deleted {
    deleted: String,
}

/// Deletes a document; its mark stays.
pub(crate) async fn delete(node: &Node, id: DocumentId) -> Result<Deleted, Failure> {
    let documents = there(node, id).await?;
    if documents.delete(id, now_unix_s()).await? {
        Ok(Deleted { deleted: id.to_string() })
    } else {
        Err(missing(node, id))
    }
}

/// What `POST /api/docs/compact` understands.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CompactQuery {
    pub(crate) document: Option<String>,
    force: bool,
    dry_run: bool,
}

impl CompactQuery {
    pub(crate) fn options(&self) -> CompactOptions {
        // Verified, because nobody waits for it.
        CompactOptions { force: self.force, verify: true, dry_run: self.dry_run }
    }
}

/// What `POST /api/docs/compact` answers.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Compacted {
    /// Those that were compacted, or would be.
    documents: Vec<CompactedDocument>,
    /// How many it is not worth it for.
    skipped: u64,
}

/// A document that was compacted, or would be.
#[derive(Debug, Serialize)]
struct CompactedDocument {
    document: String,
    #[serde(flatten)]
    report: CompactReport,
    /// Why it was not.
    error: Option<String>,
}

/// Compacts every document that it is worth it for, or one.
pub(crate) async fn compact(
    node: &Node,
    only: Option<DocumentId>,
    options: CompactOptions,
) -> Result<Compacted, Failure> {
    let mut answer = Compacted::default();
    let (documents, ids) = match (only, node.documents().await?) {
        (Some(id), _) => (there(node, id).await?, vec![id]),
        (None, None) => return Ok(answer),
        (None, Some(documents)) => {
            let all = documents.documents().await?;
            (documents, all.iter().filter_map(|info| info.document.parse().ok()).collect())
        }
    };
    for id in ids {
        let (report, error) = match documents.compact(id, options, now_unix_ms(), fresh_id).await {
            Ok(None) => continue,
            Ok(Some(report)) if report.compacted_bytes == 0 => {
                answer.skipped += 1;
                continue;
            }
            Ok(Some(report)) => (report, None),
            // One that fails is no reason not to go on.
            Err(error) => (CompactReport::default(), Some(crate::node::sentence(error))),
        };
        answer.documents.push(CompactedDocument { document: id.to_string(), report, error });
    }
    Ok(answer)
}

/// The layer, where it has that document.
async fn there(node: &Node, id: DocumentId) -> Result<&DocStore, Failure> {
    let documents = node.documents().await?.ok_or_else(|| missing(node, id))?;
    if documents.document(id).await?.is_some() { Ok(documents) } else { Err(missing(node, id)) }
}

fn missing(node: &Node, id: DocumentId) -> Failure {
    Failure::not_found(format!("no document {id} in {}", node.url))
}

/// Who answers may stand somewhere else than who asks.
fn absolute(path: &Path) -> Result<(), Failure> {
    if path.is_absolute() {
        Ok(())
    } else {
        Err(Failure::bad_request(format!("'{}' is no absolute path", path.display())))
    }
}

fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn fresh_id() -> [u8; 16] {
    Uuid::new_v4().into_bytes()
}
