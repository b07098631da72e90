//! `seabed import`: brings in what another server has stored.

mod session;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use seabed_taskchampion::{
    Config, ImportReport, ORIGINAL_FILE, Progress, TaskChampion, Totals, original_file,
};
use serde::Serialize;
use uuid::Uuid;

use crate::cli::Place;
use crate::config::Given;
use crate::node::{Node, now_unix_s, sentence};
use crate::output::{self, EXIT_FAILED, EXIT_OK, Exit, counted};
use crate::own;
use crate::store_url::StoreUrl;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed import taskchampion /var/lib/taskchampion-sync-server
  seabed import taskchampion backup/old.sqlite3 --data-dir /var/lib/seabed
  seabed import taskchampion postgres://taskchampion@db.example/taskchampion \\
    --store postgres://seabed@db.example/seabed

Exit codes: 0 everything is here; 1 failed, or something was refused; 2 wrong usage, nothing there.")]
pub(crate) struct ImportArgs {
    #[command(subcommand)]
    command: ImportCommand,
}

#[derive(Debug, Subcommand)]
enum ImportCommand {
    /// From a taskchampion-sync-server: its SQLite or PostgreSQL database
    ///
    /// The database is only read. Ids, bytes and snapshots come as they are; each client is checked to be one chain, and
    /// compared byte for byte after it was written. Run it again at any time: what is here already stays as it is, what
    /// the original has beyond it is added. Stop both servers first.
    #[command(after_help = "\
Examples:
  seabed import taskchampion /var/lib/taskchampion-sync-server
  seabed import taskchampion backup/old.sqlite3 -d /var/lib/seabed --json

Exit codes: 0 everything is here; 1 failed, or something was refused; 2 wrong usage, nothing there.")]
    Taskchampion {
        /// The database taskchampion-sync-server.sqlite3, the directory it is in, or the URL of a PostgreSQL database
        #[arg(value_name = "DATABASE", env = "SEABED_IMPORT_FROM", hide_env_values = true)]
        from: Given,
        /// Let `serve` start although some clients were refused: their devices will find nothing here
        #[arg(long)]
        without_refused: bool,
        #[command(flatten)]
        place: Place,
    },
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Answer {
    /// The database: its file, absolute, or its URL without secrets.
    source: String,
    /// The store: its directory, absolute, or its URL without secrets.
    store: String,
    #[serde(flatten)]
    report: ImportReport,
    /// Whether `serve` may start beside the database now; it looks for files alone.
    remembered: bool,
}

pub(crate) fn command(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let ImportCommand::Taskchampion { from, without_refused, place } = &args.command;
    place.url()?;
    let answer = match from.as_postgres() {
        Some(url) => crate::cli::block_on(run_database(url, place))?,
        None => command_file(from.as_path(), *without_refused, place)?,
    };
    let printed = if place.json { output::json(&answer) } else { print(&answer) };
    output::exit(printed, if answer.report.refused == 0 { EXIT_OK } else { EXIT_FAILED })
}

fn command_file(path: &Path, without_refused: bool, place: &Place) -> anyhow::Result<Answer> {
    let file = original_file(path);
    if !file.is_file() {
        return Err(Exit::usage(format!(
            "there is no {}; name the original's database, or the directory that holds {ORIGINAL_FILE}",
            file.display()
        )));
    }
    let file = crate::open::absolute(&file);
    crate::cli::block_on(run(&file, without_refused, place))
}

/// From the original's other build. Its database is not beside the store, so there is nothing to remember for `serve`.
async fn run_database(url: &str, place: &Place) -> anyhow::Result<Answer> {
    let source = StoreUrl::Postgres(url.to_owned()).to_string();
    // First, so that a wrong name makes no store.
    let session = session::open(url).await.with_context(|| source.clone())?;
    seabed_taskchampion::check_original_postgres(&session)
        .await
        .map_err(|error| anyhow::Error::msg(sentence(error)).context(source.clone()))?;
    let node = crate::open::own(&place.url()?, "import").await?;
    let imported = import_database(&node, &session).await;
    let closed = node.store.close().await;
    let report = imported.map_err(|error| anyhow::Error::msg(sentence(error)).context(source.clone()))?;
    closed.map_err(|error| anyhow::Error::msg(sentence(error)))?;
    Ok(Answer { source, store: node.url.to_string(), report, remembered: true })
}

async fn import_database(
    node: &Node,
    session: &tokio_postgres::Client,
) -> Result<ImportReport, seabed_kv::Error> {
    let taskchampion = TaskChampion::open(&node.store, Config::default()).await?;
    own::remember_layer(&node.store, &seabed_taskchampion::SPREAD).await?;
    let bar = output::progress_bar("importing");
    let report =
        taskchampion.import_original_postgres(session, now_unix_s, |progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    report
}

async fn run(file: &Path, without_refused: bool, place: &Place) -> anyhow::Result<Answer> {
    // First, so that a wrong name makes no store.
    seabed_taskchampion::check_original(file).map_err(|error| anyhow::Error::msg(sentence(error)))?;
    let node = crate::open::own(&place.url()?, "import").await?;
    let imported = import(&node, file, without_refused).await;
    let closed = node.store.close().await;
    let (report, remembered) = imported.map_err(|error| anyhow::Error::msg(sentence(error)))?;
    closed.map_err(|error| anyhow::Error::msg(sentence(error)))?;
    let (source, store) = (file.display().to_string(), node.url.to_string());
    Ok(Answer { source, store, report, remembered })
}

async fn import(
    node: &Node,
    file: &Path,
    without_refused: bool,
) -> Result<(ImportReport, bool), seabed_kv::Error> {
    let (store, root) = (&node.store, node.url.root());
    let taskchampion = TaskChampion::open(store, Config::default()).await?;
    own::remember_layer(store, &seabed_taskchampion::SPREAD).await?;
    // First: an import that does not end must not stand on the mark of one that did.
    own::forget_import(store, root, file).await?;
    let bar = output::progress_bar("importing");
    let report = taskchampion.import_original(file, now_unix_s, |progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    let report = report?;
    // Last, and only when it is true: `serve` starts on the strength of it.
    let remember = report.refused == 0 || without_refused;
    if remember {
        let left_out = match report.refused {
            0 => Vec::new(),
            _ => left_out(taskchampion.changed_since_import(file).await?, &report.refused_names),
        };
        own::remember_import(store, root, file, &left_out).await?;
    }
    Ok((report, remember))
}

/// Of the clients that differ still, those that were refused. Others were pushed to meanwhile, and `serve` has to find that.
fn left_out(differing: Vec<String>, refused: &BTreeSet<String>) -> Vec<String> {
    // A name that is no id is nobody's, and was refused under whatever it looked like.
    let is_refused = |name: &String| refused.contains(name) || Uuid::parse_str(name).is_err();
    differing.into_iter().filter(is_refused).collect()
}

/// Moves the bar to where an import or export is.
pub(crate) fn show(bar: &indicatif::ProgressBar, progress: Progress) {
    bar.set_length(progress.clients);
    bar.set_position(progress.clients_done);
    bar.set_prefix(format!(", {}", counted(progress.versions_done, "version")));
}

fn print(answer: &Answer) -> anyhow::Result<()> {
    let report = &answer.report;
    output::line(format!("from  {}", answer.source))?;
    output::line(format!("into  {}", answer.store))?;
    for refused in &report.refusals {
        output::line(format!("refused client {}: {}", refused.client, refused.why))?;
    }
    let unnamed = report.refused.saturating_sub(report.refusals.len() as u64);
    if unnamed > 0 {
        output::line(format!("refused {}", counted(unnamed, "more client")))?;
    }
    if report.unchanged > 0 {
        let newer = match report.newer_here {
            0 => String::new(),
            newer => format!(", {newer} of them with newer versions"),
        };
        output::line(format!("skipped {}: here already{newer}", counted(report.unchanged, "client")))?;
    }
    let wrote = report.written != Totals::default();
    if wrote {
        output::line(format!("imported {}", totals(&report.written)))?;
    }
    output::line(match (wrote, report.refused) {
        (true, 0) => "everything in it is here, compared byte for byte".to_owned(),
        (false, 0) => "nothing to import: everything in it is here already".to_owned(),
        (_, refused) => format!("refused {}; the others are here", counted(refused, "client")),
    })?;
    if report.refused > 0 && !answer.remembered {
        output::line(
            "serve will not start beside this database until they are here too, or you run this again with --without-refused",
        )?;
    }
    Ok(())
}

/// How much it is, for people.
pub(crate) fn totals(totals: &Totals) -> String {
    format!(
        "{}, {} ({}), {} ({})",
        counted(totals.clients, "client"),
        counted(totals.versions, "version"),
        output::size(totals.version_bytes),
        counted(totals.snapshots, "snapshot"),
        output::size(totals.snapshot_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_refused_is_not_left_out() {
        let [one, other] = [1, 2].map(|id| Uuid::from_u128(id).to_string());
        let refused = BTreeSet::from([one.clone(), "X'00".to_owned()]);
        let differing = vec![one.clone(), other, "\0".to_owned()];
        assert_eq!(left_out(differing, &refused), [one, "\0".to_owned()]);
    }
}
