//! `seabed copy`: everything in a store, into another one of any kind.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::cli::block_on;
use crate::config::Given;
use crate::copy::{self, Failed, Progress, Report};
use crate::node::{Node, sentence};
use crate::open;
use crate::output::{self, Exit, Table};
use crate::store_url::StoreUrl;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed copy sqlite:./seabed-data postgres://seabed@db.example/seabed
  seabed copy postgres://seabed@db.example/seabed sqlite:./copy --json
  SEABED_COPY_TO=postgres://seabed:secret@db.example/seabed \\
    seabed copy sqlite:./seabed-data

Stop every server of both stores first. The source is only read. The destination must be new or empty; until everything is \
there, and both were read and compared, nothing else can open it. A copy that was cut off is run again, and goes on.

Exit codes: 0 copied, and the same in both; 1 failed, or they differ; 2 wrong usage, nothing there, or other data in the \
destination.")]
pub(crate) struct CopyArgs {
    /// The store to read: sqlite:DIR, or the URL of a database
    #[arg(value_name = "SRC", env = "SEABED_COPY_FROM", hide_env_values = true)]
    from: Given,
    /// The store to write
    #[arg(value_name = "DST", env = "SEABED_COPY_TO", hide_env_values = true)]
    to: Given,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Answer {
    /// Both stores: a directory, absolute, or a URL without secrets.
    source: String,
    destination: String,
    #[serde(flatten)]
    report: Report,
}

pub(crate) fn command(args: &CopyArgs) -> anyhow::Result<ExitCode> {
    let store = |given: &Given, which| given.url().and_then(StoreUrl::lasting).context(which);
    let (from, to) = (store(&args.from, "the source")?, store(&args.to, "the destination")?);
    if from.absolute() == to.absolute() {
        return Err(Exit::usage(format!(
            "{} is both source and destination; name another one",
            from.absolute()
        )));
    }
    let answer = block_on(run(&from, &to))?;
    if args.json {
        output::json(&answer)?;
    } else {
        print(&answer)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn run(from: &StoreUrl, to: &StoreUrl) -> anyhow::Result<Answer> {
    // The destination is made only when there is something to copy.
    let from = open::own_existing(from, "copy").await?;
    let copied = match open::own_unfinished(to, "copy") {
        Ok(to) => {
            let copied = copy(&from, &to).await;
            let closed = to.store.close().await;
            copied.and_then(|answer| {
                closed.map(|()| answer).map_err(|error| anyhow::Error::msg(sentence(error)))
            })
        }
        Err(error) => Err(error),
    };
    let closed = from.store.close().await;
    let answer = copied?;
    closed.map_err(|error| anyhow::Error::msg(sentence(error)))?;
    Ok(answer)
}

async fn copy(from: &Node, to: &Node) -> anyhow::Result<Answer> {
    let (source, destination) = (from.url.to_string(), to.url.to_string());
    let bar = output::progress("copying");
    let copied = copy::run(&from.store, &source, &to.store, |progress| bar.set_message(told(progress))).await;
    bar.finish_and_clear();
    match copied {
        Ok(report) => Ok(Answer { source, destination, report }),
        Err(Failed::Refused(why)) => Err(Exit::usage(format!("cannot copy into {destination}: {why}"))),
        Err(Failed::Differs(why)) => {
            Err(anyhow::Error::msg(format!("{destination} is not the same as {source}: {why}")))
        }
        Err(Failed::Store(error)) => Err(anyhow::Error::msg(format!(
            "{}; once that is mended run the same command again, and it goes on where it stopped",
            sentence(error)
        ))),
    }
}

fn told(progress: Progress) -> String {
    let verb = if progress.comparing { "comparing" } else { "copying" };
    format!("{verb}: {} rows, {}", progress.rows, output::size(progress.bytes))
}

fn print(answer: &Answer) -> anyhow::Result<()> {
    output::line(format!("from  {}", answer.source))?;
    output::line(format!("into  {}", answer.destination))?;
    let Report { resumed, rows, bytes, tenants } = &answer.report;
    let mut table = Table::new(&["TENANT", ">ROWS", ">SIZE", "CHECKSUM"]);
    for tenant in tenants.iter().filter(|tenant| tenant.rows > 0) {
        let checksum = tenant.checksum.chars().take(16).collect();
        table.row([tenant.id.clone(), tenant.rows.to_string(), output::size(tenant.bytes), checksum]);
    }
    table.print()?;
    let resumed = if *resumed { ", going on where an earlier one was cut off" } else { "" };
    output::line(format!("copied {rows} rows, {}, compared row by row{resumed}", output::size(*bytes)))
}
