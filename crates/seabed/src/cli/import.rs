//! `seabed import`: brings in what another server has stored.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use seabed_taskchampion::{
    Config, ImportReport, ORIGINAL_FILE, Progress, TaskChampion, Totals, original_file,
};
use serde::Serialize;

use crate::cli::Place;
use crate::node::{Node, sentence};
use crate::output::{self, EXIT_FAILED, Exit};
use crate::own;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed import taskchampion /var/lib/taskchampion-sync-server
  seabed import taskchampion backup/taskchampion-sync-server.sqlite3 --data-dir /var/lib/seabed

Exit codes: 0 everything is here; 1 failed, or something was refused; 2 wrong usage, nothing there.")]
pub(crate) struct ImportArgs {
    #[command(subcommand)]
    command: ImportCommand,
}

#[derive(Debug, Subcommand)]
enum ImportCommand {
    /// From a taskchampion-sync-server: its SQLite database
    ///
    /// The database is only read. Ids, bytes and snapshots come as they are; each client is checked to be one chain, and
    /// compared byte for byte after it was written. Run it again at any time: what is here already stays as it is, what
    /// the original has beyond it is added. Stop both servers first.
    #[command(after_help = "\
Examples:
  seabed import taskchampion /var/lib/taskchampion-sync-server
  seabed import taskchampion backup/taskchampion-sync-server.sqlite3 --data-dir /var/lib/seabed --json

Exit codes: 0 everything is here; 1 failed, or something was refused; 2 wrong usage, nothing there.")]
    Taskchampion {
        /// The database taskchampion-sync-server.sqlite3, or the directory it is in
        path: PathBuf,
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
    /// The database, absolute.
    source: String,
    /// The directory of the store, absolute.
    store: String,
    #[serde(flatten)]
    report: ImportReport,
    /// Whether `serve` may start beside the database now.
    remembered: bool,
}

pub(crate) fn command(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let ImportCommand::Taskchampion { path, without_refused, place } = &args.command;
    let file = original_file(path);
    if !file.is_file() {
        return Err(Exit::usage(format!(
            "there is no {}; name the original's database, or the directory that holds {ORIGINAL_FILE}",
            file.display()
        )));
    }
    let file = crate::open::absolute(&file);
    let answer = crate::cli::block_on(run(&file, *without_refused, place))?;
    if place.json {
        output::json(&answer)?;
    } else {
        print(&answer)?;
    }
    Ok(if answer.report.refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

async fn run(file: &Path, without_refused: bool, place: &Place) -> anyhow::Result<Answer> {
    // First, so that a wrong name makes no store.
    seabed_taskchampion::check_original(file).map_err(|error| anyhow::Error::msg(sentence(error)))?;
    let node = crate::open::own(&place.data_dir, "import")?;
    let imported = import(&node, file, without_refused).await;
    let closed = node.store.close().await;
    let (report, remembered) = imported.map_err(|error| anyhow::Error::msg(sentence(error)))?;
    closed.map_err(|error| anyhow::Error::msg(sentence(error)))?;
    let (source, store) = (file.display().to_string(), node.root.display().to_string());
    Ok(Answer { source, store, report, remembered })
}

async fn import(
    node: &Node,
    file: &Path,
    without_refused: bool,
) -> Result<(ImportReport, bool), seabed_kv::Error> {
    let (store, root) = (&node.store, node.root.as_path());
    let taskchampion = TaskChampion::open(store, Config::default()).await?;
    // First: an import that does not end must not stand on the mark of one that did.
    own::forget_import(store, root, file).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let bar = output::progress_bar("importing");
    let report = taskchampion.import_original(file, now, |progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    let report = report?;
    // Last, and only when it is true: `serve` starts on the strength of it.
    let remember = report.refused == 0 || without_refused;
    if remember {
        // What differs still is what was refused.
        let left_out =
            if report.refused == 0 { Vec::new() } else { taskchampion.changed_since_import(file).await? };
        own::remember_import(store, root, file, &left_out).await?;
    }
    Ok((report, remember))
}

/// Moves the bar to where an import or export is.
pub(crate) fn show(bar: &indicatif::ProgressBar, progress: Progress) {
    bar.set_length(progress.clients);
    bar.set_position(progress.clients_done);
    bar.set_prefix(format!(", {} versions", progress.versions_done));
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
        output::line(format!("refused {unnamed} more clients"))?;
    }
    if report.unchanged > 0 {
        let newer = match report.newer_here {
            0 => String::new(),
            newer => format!(", {newer} of them with newer versions"),
        };
        output::line(format!("skipped {} clients: they are here already{newer}", report.unchanged))?;
    }
    let wrote = report.written != Totals::default();
    if wrote {
        output::line(format!("imported {}", totals(&report.written)))?;
    }
    output::line(match (wrote, report.refused) {
        (true, 0) => "everything in it is here, compared byte for byte".to_owned(),
        (false, 0) => "nothing to import: everything in it is here already".to_owned(),
        (_, refused) => format!("{refused} clients were refused; the others are here"),
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
        "{} clients, {} versions ({}), {} snapshots ({})",
        totals.clients,
        totals.versions,
        output::size(totals.version_bytes),
        totals.snapshots,
        output::size(totals.snapshot_bytes)
    )
}
