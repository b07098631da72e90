//! `seabed export`: writes what is stored here as another server keeps it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use seabed_kv::ErrorKind;
use seabed_taskchampion::{ExportReport, TaskChampion, original_file};
use serde::Serialize;

use crate::cli::Place;
use crate::cli::import::{show, totals};
use crate::node::{Node, sentence};
use crate::output::{self, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed export taskchampion taskchampion-sync-server.sqlite3
  seabed export taskchampion /srv/original -d /var/lib/seabed

Exit codes: 0 written; 1 failed; 2 wrong usage, nothing there.")]
pub(crate) struct ExportArgs {
    #[command(subcommand)]
    command: ExportCommand,
}

#[derive(Debug, Subcommand)]
enum ExportCommand {
    /// For a taskchampion-sync-server: its SQLite database
    ///
    /// The original server opens it and goes on: ids, bytes and snapshots are what they are here. The file has its name
    /// only when it is whole, compared byte for byte and on disk. Stop the server first.
    #[command(after_help = "\
Examples:
  seabed export taskchampion taskchampion-sync-server.sqlite3
  seabed export taskchampion /srv/original -d /var/lib/seabed

Exit codes: 0 written; 1 failed; 2 wrong usage, nothing there.")]
    Taskchampion {
        /// The file to write, or a directory in which to write taskchampion-sync-server.sqlite3
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Answer {
    /// The store: its directory, absolute, or its URL without secrets.
    store: String,
    /// The database that was written.
    file: String,
    #[serde(flatten)]
    report: ExportReport,
}

pub(crate) fn command(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let ExportCommand::Taskchampion { file, place } = &args.command;
    let file = original_file(file);
    let answer = crate::cli::block_on(run(&file, place))?;
    if place.json {
        output::json(&answer)?;
    } else {
        output::line(format!("from  {}", answer.store))?;
        output::line(format!("into  {}", answer.file))?;
        output::line(format!("exported {}, compared byte for byte", totals(&answer.report.written)))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn run(file: &Path, place: &Place) -> anyhow::Result<Answer> {
    let node = crate::open::own_existing(&place.url()?, "export").await?;
    let exported = export(&node, file).await;
    let closed = node.store.close().await;
    let report = exported?;
    closed.map_err(|error| anyhow::Error::msg(sentence(error)))?;
    Ok(Answer { store: node.url.to_string(), file: file.display().to_string(), report })
}

async fn export(node: &Node, file: &Path) -> anyhow::Result<ExportReport> {
    let taskchampion = node.taskchampion().await.map_err(|failure| anyhow::Error::msg(failure.message))?;
    let Some(taskchampion) = taskchampion else {
        return Err(Exit::usage(format!("the store in {} holds nothing of TaskChampion", node.url)));
    };
    let bar = output::progress_bar("exporting");
    let report = TaskChampion::export_original(taskchampion, file, |progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    report.map_err(|error| match error.kind() {
        ErrorKind::InvalidArgument => Exit::usage(sentence(error)),
        _ => anyhow::Error::msg(sentence(error)),
    })
}
