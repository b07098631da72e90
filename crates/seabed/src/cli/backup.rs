//! `seabed backup`: every tenant copied into a directory, beside the server that writes to them.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::Method;
use clap::Args;
use serde_json::Value;

use crate::access::{Access, segment};
use crate::backup::{Outcome, Report, Running};
use crate::cli::{Place, block_on};
use crate::output::{self, EXIT_FAILED, EXIT_OK, Exit, Table};

/// How often somebody who looks is told how far it is.
const PROGRESS_MS: u64 = 200;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed backup /backups/tasks
  seabed backup /backups/tasks-$(date +%u)   one for each day of the week
  seabed backup /backups/tasks && seabed verify --backup /backups/tasks
  seabed restore /backups/tasks -d ./new     the way back

The server, when one runs, writes the files, so its user must be allowed to. Every tenant is copied as it is at one moment; \
pushes go on meanwhile. Run again into the same directory, it replaces what has changed, and the backup before stays whole \
until the new one is.

Exit codes: 0 everything is in the backup, and sound; 1 failed, a tenant could not be copied, or findings; 2 wrong usage, or nothing there.")]
pub(crate) struct BackupArgs {
    /// The directory of the backup: a new or empty one, or that of an earlier backup of the same store
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    place: Place,
}

pub(crate) fn command(args: &BackupArgs) -> anyhow::Result<ExitCode> {
    let directory = std::path::absolute(&args.directory)?;
    let Some(to) = directory.to_str() else {
        return Err(Exit::usage(format!("'{}' is not UTF-8; choose another name", directory.display())));
    };
    let answer = block_on(async {
        let access = Access::open(&args.place.url()?).await?;
        let answer = copy(&access, &format!("/api/backup?to={}", segment(to))).await;
        access.close().await?;
        answer
    })?;
    let report: Report = serde_json::from_value(answer.clone())?;
    let printed = if args.place.json { output::json(&answer) } else { print(&report) };
    let sound = report.complete && report.findings == 0;
    output::exit(printed, if sound { EXIT_OK } else { EXIT_FAILED })
}

/// Asks for the backup, and meanwhile, when somebody is looking, how far it has come.
async fn copy(access: &Access, path: &str) -> anyhow::Result<Value> {
    let progress = output::progress("copying");
    let mut answer = pin!(access.ask(Method::POST, path));
    let answer = loop {
        if progress.is_hidden() {
            break answer.await;
        }
        tokio::select! {
            answer = answer.as_mut() => break answer,
            () = tokio::time::sleep(Duration::from_millis(PROGRESS_MS)) => {}
        }
        // A server that does not tell is still copying.
        if let Ok(running) = access.ask(Method::GET, "/api/backup").await
            && let Ok(Running { tenants, done }) = serde_json::from_value(running)
            && tenants > 0
        {
            progress.set_message(format!("copying: {done} of {tenants} tenants"));
        }
    };
    progress.finish_and_clear();
    answer
}

fn print(report: &Report) -> anyhow::Result<()> {
    output::line(format!("store  {}", report.store))?;
    output::line(format!("backup {}", report.backup))?;
    let mut table = Table::new(&["TENANT", "", ">ROWS", ">SIZE", ""]);
    for tenant in &report.tenants {
        let outcome = match tenant.outcome {
            Outcome::Copied => "copied",
            Outcome::Unchanged => "unchanged",
            Outcome::Failed => "FAILED",
        };
        table.row([
            tenant.id.clone(),
            outcome.to_owned(),
            tenant.rows.map_or_else(|| "-".to_owned(), |rows| rows.to_string()),
            tenant.bytes.map_or_else(|| "-".to_owned(), output::size),
            tenant.error.clone().unwrap_or_default(),
        ]);
    }
    table.print()?;
    let Report { copied, unchanged, failed, bytes, .. } = report;
    if report.findings > 0 {
        output::line(format!("{} findings in what was copied", report.findings))?;
    }
    output::line(format!(
        "{copied} copied, {unchanged} unchanged, {failed} failed, {} in all: {}",
        output::size(*bytes),
        if report.complete { "complete" } else { "NOT complete" }
    ))
}
