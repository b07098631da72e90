//! `seabed docs`: Automerge documents.

mod answer;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use axum::body::Bytes;
use axum::http::Method;
use clap::{Args, Subcommand, ValueEnum};
use seabed_automerge::DocumentId;
use serde_json::Value;
use uuid::Uuid;

pub(crate) use self::answer::{
    CompactQuery, Compacted, Deleted, Documents, FILE_BYTES_MAX, Merged, compact, delete, export, import,
    json, list, merge, no_documents, save, show,
};
use crate::access::{Access, segment};
use crate::cli::show::{confirm, fields, table};
use crate::cli::{Place, block_on};
use crate::output::{self, EXIT_FAILED, EXIT_OK, Exit, counted};

const COLUMNS: [&str; 8] = [
    "document",
    ">changes",
    ">change_bytes",
    ">snapshot_bytes",
    ">peers",
    ">quarantined",
    "written_unix_s",
    "error",
];

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed docs list
  seabed docs show 4NMNnkMhL8jXrdJ9jamS58PAVdXu
  seabed docs export 4NMNnkMhL8jXrdJ9jamS58PAVdXu --as json | jq .title
  seabed docs export --all /backups/repo
  seabed docs import ./automerge-repo-data
  seabed docs compact --dry-run
  seabed docs delete 4NMNnkMhL8jXrdJ9jamS58PAVdXu --yes

A document is named by its id or its URL, automerge:... Whoever knows it may ask for the document.

Exit codes: 0 done; 1 failed, or a document or file was refused; 2 wrong usage, nothing there.")]
pub(crate) struct DocsArgs {
    #[command(subcommand)]
    command: DocsCommand,
}

#[derive(Debug, Subcommand)]
enum DocsCommand {
    /// List every document, with what it takes
    #[command(after_help = "\
Examples:
  seabed docs list
  seabed docs list --json | jq -r '.documents[].document'")]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Show a document: its heads, sizes and actors
    #[command(after_help = "\
Examples:
  seabed docs show 4NMNnkMhL8jXrdJ9jamS58PAVdXu
  seabed docs show automerge:4NMNnkMhL8jXrdJ9jamS58PAVdXu")]
    Show {
        /// The document's id or URL
        id: DocumentId,
        #[command(flatten)]
        place: Place,
    },
    /// Write a document, to a file or to the output, or all of them into a directory
    #[command(after_help = "\
Examples:
  seabed docs export 4NMNnkMhL8jXrdJ9jamS58PAVdXu notes.automerge
  seabed docs export 4NMNnkMhL8jXrdJ9jamS58PAVdXu --as json | jq .title
  seabed docs export --all /backups/repo")]
    Export {
        /// The document's id or URL
        #[arg(required_unless_present = "all")]
        id: Option<DocumentId>,
        /// The file to write, which must not exist; without it the output
        #[arg(conflicts_with = "all")]
        file: Option<PathBuf>,
        /// As what
        #[arg(long = "as", value_enum, default_value_t, conflicts_with = "all")]
        form: Form,
        /// Every document, or the one that is named, into a directory as automerge-repo's node filesystem storage keeps it
        ///
        /// The server, when one runs, writes the files, so its user must be allowed to. What is there is left as it is.
        #[arg(long, value_name = "DIR")]
        all: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Take in a file that automerge saved, or a directory of automerge-repo's
    ///
    /// Merged with what is here, and what is here already is not stored twice: run it again at any time. A directory is that of
    /// automerge-repo's node filesystem storage, or of samod's; the server, when one runs, reads it, so its user must be allowed to.
    #[command(after_help = "\
Examples:
  seabed docs import notes.automerge
  seabed docs import more.automerge --document 4NMNnkMhL8jXrdJ9jamS58PAVdXu
  seabed docs import ./automerge-repo-data")]
    Import {
        /// The file or directory
        from: PathBuf,
        /// Into this document, where it is a file; without it into a new one
        #[arg(long, value_name = "ID")]
        document: Option<DocumentId>,
        #[command(flatten)]
        place: Place,
    },
    /// Make one snapshot of each document that it is worth it for, or of one
    ///
    /// The snapshot is loaded before anything is removed. What cannot be read of a document is put into quarantine.
    #[command(after_help = "\
Examples:
  seabed docs compact --dry-run
  seabed docs compact 4NMNnkMhL8jXrdJ9jamS58PAVdXu --force")]
    Compact {
        /// The document's id or URL; without it all of them
        id: Option<DocumentId>,
        /// Also where it is not worth it
        #[arg(long)]
        force: bool,
        /// Only tell what would come of it
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Delete a document with everything it has
    ///
    /// A mark of it stays for ever: a peer that still has the document does not bring it back.
    #[command(after_help = "\
Examples:
  seabed docs delete 4NMNnkMhL8jXrdJ9jamS58PAVdXu
  seabed docs delete 4NMNnkMhL8jXrdJ9jamS58PAVdXu --yes")]
    Delete {
        /// The document's id or URL
        id: DocumentId,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        place: Place,
    },
}

/// As what a document is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// As automerge saves it: everything, with its history
    #[default]
    Automerge,
    /// What it says now
    Json,
}

pub(crate) fn command(args: &DocsArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        DocsCommand::List { place } => {
            let answer = Access::ask_once(&place.url()?, "/api/docs")?;
            let printed =
                if place.json { output::json(&answer) } else { table(&answer, "documents", &COLUMNS) };
            output::exit(printed, EXIT_OK)
        }
        DocsCommand::Show { id, place } => show_command(*id, place),
        DocsCommand::Export { id, all: Some(directory), place, .. } => {
            export_directory(*id, directory, place)
        }
        DocsCommand::Export { id: Some(_), file: None, place, .. } if place.json => Err(Exit::usage(
            "--json tells of a file that was written, and none is named: name one, or have what the document says with --as json",
        )),
        DocsCommand::Export { id: Some(id), file, form, place, .. } => {
            export_document(*id, file.as_deref(), *form, place)
        }
        DocsCommand::Export { .. } => Err(Exit::usage("name a document, or a directory with --all")),
        DocsCommand::Import { from, document, place } if from.is_dir() => {
            if document.is_some() {
                return Err(Exit::usage(
                    "--document is for a file: the documents of a directory have their ids",
                ));
            }
            import_directory(from, place)
        }
        DocsCommand::Import { from, document, place } => import_file(from, *document, place),
        DocsCommand::Compact { id, force, dry_run, place } => compact_command(*id, *force, *dry_run, place),
        DocsCommand::Delete { id, yes, place } => delete_command(*id, *yes, place),
    }
}

fn show_command(id: DocumentId, place: &Place) -> anyhow::Result<ExitCode> {
    let answer = Access::ask_once(&place.url()?, &format!("/api/docs/{id}"))?;
    if place.json {
        output::json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    fields(Some(&answer), &COLUMNS)?;
    fields(Some(&answer), &["created_unix_s", "history_changes", "operations"])?;
    for (list, name) in [("heads", "head"), ("damaged", "damaged")] {
        for text in texts(&answer, list) {
            output::line(format!("{name:<28} {text}"))?;
        }
    }
    output::line("")?;
    table(&answer, "actors", &["actor", ">changes"])?;
    Ok(ExitCode::SUCCESS)
}

fn export_document(
    id: DocumentId,
    file: Option<&Path>,
    form: Form,
    place: &Place,
) -> anyhow::Result<ExitCode> {
    let path = match form {
        Form::Automerge => format!("/api/docs/{id}/save"),
        Form::Json => format!("/api/docs/{id}/json"),
    };
    let bytes = block_on(async {
        let access = Access::open(&place.url()?).await?;
        let bytes = access.fetch(Method::GET, &path, Bytes::new()).await;
        access.close().await?;
        bytes
    })?;
    let bytes = match form {
        Form::Automerge => bytes.to_vec(),
        Form::Json => {
            let value: Value = serde_json::from_slice(&bytes)?;
            let mut text = serde_json::to_vec_pretty(&value)?;
            text.push(b'\n');
            text
        }
    };
    let Some(file) = file else {
        output::raw(&bytes)?;
        return Ok(ExitCode::SUCCESS);
    };
    write_new(file, &bytes)?;
    if place.json {
        let file = file.display().to_string();
        output::json(&serde_json::json!({ "document": id.to_string(), "file": file, "bytes": bytes.len() }))?;
    } else {
        output::line(format!("wrote {} ({})", file.display(), output::size(bytes.len() as u64)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that does not exist, and flushes it.
fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = std::fs::File::create_new(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Exit::usage(format!("{} is there already; choose another name", path.display()))
        }
        _ => anyhow::Error::from(error).context(path.display().to_string()),
    })?;
    file.write_all(bytes)?;
    Ok(file.sync_all()?)
}

fn export_directory(id: Option<DocumentId>, directory: &Path, place: &Place) -> anyhow::Result<ExitCode> {
    let mut path = format!("/api/docs/export?to={}", segment(&absolute(directory)?));
    if let Some(id) = id {
        path = format!("{path}&document={id}");
    }
    let answer = block_on(async {
        let access = Access::open(&place.url()?).await?;
        let answer = access.ask(Method::POST, &path).await;
        access.close().await?;
        answer
    })?;
    if place.json {
        output::json(&answer)?;
    } else {
        output::line(format!(
            "exported {} into {}: {} new ({})",
            counted(number(&answer, "documents"), "document"),
            directory.display(),
            counted(number(&answer, "written"), "file"),
            output::size(number(&answer, "bytes")),
        ))?;
    }
    Ok(refusals(&answer))
}

fn import_directory(from: &Path, place: &Place) -> anyhow::Result<ExitCode> {
    let url = place.url()?;
    // First, so that a wrong directory makes no store. What this user may not read the server perhaps may.
    if let Ok(0) = seabed_automerge::documents_in(from) {
        return Err(Exit::usage(no_documents(from)));
    }
    let path = format!("/api/docs/import?from={}", segment(&absolute(from)?));
    let answer = block_on(async {
        let access = Access::open_or_create(&url).await?;
        let answer = access.ask(Method::POST, &path).await;
        access.close().await?;
        answer
    })?;
    if place.json {
        output::json(&answer)?;
    } else {
        output::line(format!(
            "of {} ({}) {} brought {}, {} nothing new",
            counted(number(&answer, "documents"), "document"),
            output::size(number(&answer, "bytes")),
            number(&answer, "imported"),
            counted(number(&answer, "changes"), "new change"),
            number(&answer, "unchanged"),
        ))?;
    }
    Ok(refusals(&answer))
}

fn import_file(from: &Path, document: Option<DocumentId>, place: &Place) -> anyhow::Result<ExitCode> {
    let url = place.url()?;
    let size =
        std::fs::metadata(from).map_err(|error| Exit::usage(format!("{}: {error}", from.display())))?.len();
    if size > FILE_BYTES_MAX as u64 {
        return Err(Exit::usage(format!(
            "{} has {size} bytes, more than the {FILE_BYTES_MAX} that are taken in at once",
            from.display()
        )));
    }
    let refused = |why: String| anyhow::anyhow!("{} was refused: {why}", from.display());
    let saved = std::fs::read(from)?;
    // First, so that what is no document makes no store.
    seabed_automerge::check_saved(&saved).map_err(|error| refused(crate::node::sentence(error)))?;
    let id = document.unwrap_or_else(|| DocumentId::from_bytes(Uuid::new_v4().into_bytes()));
    let answer = block_on(async {
        let access = Access::open_or_create(&url).await?;
        let answer = access.send(Method::POST, &format!("/api/docs/{id}/merge"), saved.into()).await;
        access.close().await?;
        answer.map_err(|error| refused(output::sentence(&error)))
    })?;
    if place.json {
        output::json(&answer)?;
    } else {
        output::line(format!("automerge:{id} has {}", counted(number(&answer, "changes"), "new change")))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn compact_command(
    id: Option<DocumentId>,
    force: bool,
    dry_run: bool,
    place: &Place,
) -> anyhow::Result<ExitCode> {
    let mut path = format!("/api/docs/compact?force={force}&dry_run={dry_run}");
    if let Some(id) = id {
        path = format!("{path}&document={id}");
    }
    let answer = block_on(async {
        let access = Access::open(&place.url()?).await?;
        let answer = access.ask(Method::POST, &path).await;
        access.close().await?;
        answer
    })?;
    let documents = answer.get("documents").and_then(Value::as_array);
    let failed = documents.into_iter().flatten().any(|document| !document["error"].is_null());
    if place.json {
        output::json(&answer)?;
    } else {
        let columns =
            ["document", "compacted", ">change_bytes", ">snapshot_bytes", ">compacted_bytes", "error"];
        if documents.is_some_and(|documents| !documents.is_empty()) {
            table(&answer, "documents", &columns)?;
        }
        output::line(format!("not worth it for {}", counted(number(&answer, "skipped"), "document")))?;
    }
    Ok(if failed { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS })
}

fn delete_command(id: DocumentId, yes: bool, place: &Place) -> anyhow::Result<ExitCode> {
    let answer = block_on(async {
        let access = Access::open(&place.url()?).await?;
        let path = format!("/api/docs/{id}");
        let answer = async {
            access.ask(Method::GET, &path).await?;
            if yes || confirm(&format!("Delete document {id} for ever?"))? {
                access.ask(Method::DELETE, &path).await.map(Some)
            } else {
                Ok(None)
            }
        };
        let answer: anyhow::Result<_> = answer.await;
        access.close().await?;
        answer
    })?;
    match answer {
        Some(answer) if place.json => output::json(&answer)?,
        Some(_) => output::line(format!("deleted document {id}"))?,
        None => {
            output::note("nothing was deleted");
            return Ok(ExitCode::from(EXIT_FAILED));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what was refused, and answers with which code that ends.
fn refusals(answer: &Value) -> ExitCode {
    let spoken = answer.get("refusals").and_then(Value::as_array);
    for refused in spoken.into_iter().flatten() {
        let part = |name: &str| refused.get(name).and_then(Value::as_str).unwrap_or("-");
        output::note(&format!("refused {}: {}", part("what"), part("why")));
    }
    let all = number(answer, "refused");
    let unspoken = all.saturating_sub(spoken.map_or(0, Vec::len) as u64);
    if unspoken > 0 {
        output::note(&format!("refused {unspoken} more"));
    }
    if all > 0 { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS }
}

fn number(answer: &Value, name: &str) -> u64 {
    answer.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn texts<'a>(answer: &'a Value, list: &str) -> impl Iterator<Item = &'a str> {
    answer.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// The path as the server understands it too.
fn absolute(path: &Path) -> anyhow::Result<String> {
    let absolute = std::path::absolute(path)?;
    absolute
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| Exit::usage(format!("'{}' is not UTF-8; choose another name", absolute.display())))
}
