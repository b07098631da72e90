//! `seabed clients`: TaskChampion's clients, one history of tasks each.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::Method;
use clap::{Args, Subcommand};
use seabed_taskchampion::PruneReport;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::access::Access;
use crate::cli::Place;
use crate::cli::show::{confirm, fields, table};
use crate::node::{Failure, Node};
use crate::output::{self, counted};

/// What is shown of a client, in this order.
const CLIENT_COLUMNS: [&str; 9] = [
    "client",
    ">versions",
    ">version_bytes",
    ">dropped_versions",
    ">snapshot.bytes",
    ">snapshot.versions_since",
    "created_unix_s",
    "last_push_unix_s",
    "error",
];

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed clients list
  seabed clients show 67e55044-10b1-426f-9247-bb680e5fe0c8 --json
  seabed clients delete 67e55044-10b1-426f-9247-bb680e5fe0c8 --yes
  seabed clients prune --older-than-days 180 --dry-run")]
pub(crate) struct ClientsArgs {
    #[command(subcommand)]
    command: ClientsCommand,
}

#[derive(Debug, Subcommand)]
enum ClientsCommand {
    /// List every client, with what it keeps
    #[command(after_help = "\
Examples:
  seabed clients list
  seabed clients list --json | jq '.clients | length'")]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Show a client and its versions
    #[command(after_help = "\
Examples:
  seabed clients show 67e55044-10b1-426f-9247-bb680e5fe0c8")]
    Show {
        /// The client id, as each device has it in its configuration
        #[arg(value_parser = client_id)]
        id: Uuid,
        #[command(flatten)]
        place: Place,
    },
    /// Delete a client with all its versions and its snapshot
    #[command(after_help = "\
Examples:
  seabed clients delete 67e55044-10b1-426f-9247-bb680e5fe0c8
  seabed clients delete 67e55044-10b1-426f-9247-bb680e5fe0c8 --yes")]
    Delete {
        /// The client id, as each device has it in its configuration
        #[arg(value_parser = client_id)]
        id: Uuid,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Drop old versions that the snapshots of their clients cover
    ///
    /// What a snapshot covers, a new device does not need, if it syncs before it has tasks of its own. A device that has not synced since before the oldest version that
    /// is left is told that the version it asks for is gone; it has to begin again from the snapshot. Nothing at or after a
    /// snapshot's version is dropped, and nothing of a client without one.
    #[command(after_help = "\
Examples:
  seabed clients prune --older-than-days 180 --dry-run
  seabed clients prune --older-than-days 180 --yes")]
    Prune {
        /// Only versions that came more than this many days ago
        #[arg(long, value_name = "N")]
        older_than_days: u32,
        /// Only tell what would be dropped
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        place: Place,
    },
}

fn client_id(text: &str) -> Result<Uuid, String> {
    text.parse()
        .map_err(|error| format!("a client id is a UUID, such as `seabed clients list` shows: {error}"))
}

/// What `GET /api/clients` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Clients {
    clients: Vec<Value>,
}

/// How many clients there are.
pub(crate) async fn count(node: &Node) -> Result<u64, Failure> {
    Ok(match node.taskchampion().await? {
        Some(taskchampion) => taskchampion.client_count().await?,
        None => 0,
    })
}

/// Lists every client.
pub(crate) async fn run(node: &Node) -> Result<Clients, Failure> {
    let clients = match node.taskchampion().await? {
        Some(taskchampion) => taskchampion.clients().await?,
        None => Vec::new(),
    };
    Ok(Clients { clients: clients.iter().map(value).collect() })
}

/// What `GET /api/clients/{id}` answers.
#[derive(Debug, Serialize)]
pub(crate) struct ClientDetail {
    client: Value,
    /// How many versions its snapshot covers, and so could be dropped, and how many bytes they have.
    covered_versions: u64,
    covered_bytes: u64,
    /// In the order of the chain.
    versions: Vec<Value>,
}

/// Tells about one client.
pub(crate) async fn show(node: &Node, id: Uuid) -> Result<ClientDetail, Failure> {
    let missing = || Failure::not_found(format!("no client {id} in {}", node.url));
    let taskchampion = node.taskchampion().await?.ok_or_else(missing)?;
    let client = taskchampion.client(id).await?.ok_or_else(missing)?;
    let versions = taskchampion.versions(id).await?;
    // However young the versions and the snapshot are.
    let covered = taskchampion.prunable(Some(id), u64::MAX, u64::MAX).await?;
    Ok(ClientDetail {
        client: value(&client),
        covered_versions: covered.versions,
        covered_bytes: covered.version_bytes,
        versions: versions.iter().map(value).collect(),
    })
}

/// What `DELETE /api/clients/{id}` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Deleted {
    deleted: Uuid,
}

/// Deletes a client with everything it has.
pub(crate) async fn delete(node: &Node, id: Uuid) -> Result<Deleted, Failure> {
    let deleted = match node.taskchampion().await? {
        Some(taskchampion) => taskchampion.delete_client(id).await?,
        None => false,
    };
    if deleted { Ok(Deleted { deleted: id }) } else { Err(Failure::not_found(format!("no client {id}"))) }
}

/// Drops the versions that are older than so many days and that snapshots cover; or only tells which.
pub(crate) async fn prune(node: &Node, older_than_days: u32, dry_run: bool) -> Result<PruneReport, Failure> {
    let Some(taskchampion) = node.taskchampion().await? else { return Ok(PruneReport::default()) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let before = now.as_secs().saturating_sub(u64::from(older_than_days) * 86_400);
    let now_unix_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    Ok(if dry_run {
        taskchampion.prunable(None, before, now_unix_ms).await?
    } else {
        taskchampion.prune(None, before, now_unix_ms).await?
    })
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or(Value::Null)
}

pub(crate) fn command(args: &ClientsArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        ClientsCommand::List { place } => {
            let answer = Access::ask_once(&place.url()?, "/api/clients")?;
            let clients = answer.get("clients").and_then(Value::as_array).into_iter().flatten();
            let unread = clients.filter(|client| !client.get("error").is_none_or(Value::is_null)).count();
            let printed =
                if place.json { output::json(&answer) } else { table(&answer, "clients", &CLIENT_COLUMNS) };
            return output::exit(printed, if unread == 0 { output::EXIT_OK } else { output::EXIT_FAILED });
        }
        ClientsCommand::Show { id, place } => {
            let answer = Access::ask_once(&place.url()?, &format!("/api/clients/{id}"))?;
            if place.json {
                output::json(&answer)?;
            } else {
                fields(answer.get("client"), &CLIENT_COLUMNS)?;
                fields(Some(&answer), &["covered_versions", "covered_bytes"])?;
                output::line("")?;
                table(&answer, "versions", &["version", "parent", ">bytes", "received_unix_s"])?;
            }
        }
        ClientsCommand::Delete { id, yes, place } => return delete_command(*id, *yes, place),
        ClientsCommand::Prune { older_than_days, dry_run, yes, place } => {
            return prune_command(*older_than_days, *dry_run, *yes, place);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn delete_command(id: Uuid, yes: bool, place: &Place) -> anyhow::Result<ExitCode> {
    let answer = crate::cli::block_on(async {
        let access = Access::open(&place.url()?).await?;
        let path = format!("/api/clients/{id}");
        let answer = async {
            access.ask(Method::GET, &path).await?;
            if yes || confirm(&format!("Delete client {id} with all its versions?"))? {
                access.ask(Method::DELETE, &path).await.map(Some)
            } else {
                Ok(None)
            }
        };
        let answer = answer.await;
        access.close().await?;
        answer
    })?;
    match answer {
        Some(answer) if place.json => output::json(&answer)?,
        Some(_) => output::line(format!("deleted client {id}"))?,
        None => {
            output::note("nothing was deleted");
            return Ok(ExitCode::from(output::EXIT_FAILED));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn prune_command(days: u32, dry_run: bool, yes: bool, place: &Place) -> anyhow::Result<ExitCode> {
    let (answer, dropped) = crate::cli::block_on(async {
        let access = Access::open(&place.url()?).await?;
        let path = format!("/api/clients/prune?older_than_days={days}");
        let answer = async {
            let prunable = access.ask(Method::GET, &path).await?;
            let versions = prunable.get("versions").and_then(Value::as_u64).unwrap_or(0);
            let wanted = !dry_run
                && (yes || versions == 0 || confirm(&format!("Drop {}?", counted(versions, "version")))?);
            if wanted { Ok((access.ask(Method::POST, &path).await?, true)) } else { Ok((prunable, false)) }
        };
        let answer: anyhow::Result<_> = answer.await;
        access.close().await?;
        answer
    })?;
    let report: PruneReport = serde_json::from_value(answer.clone())?;
    let printed = print_pruned(&answer, &report, dropped, place);
    for skipped in &report.skipped {
        output::note(&format!("nothing more of client {} is dropped: {}", skipped.client, skipped.why));
    }
    if let Some(why) = &report.stopped {
        output::note(&format!("it stopped there, and the rest is to be done again: {why}"));
    }
    // Asked for, and declined or impossible.
    let failed = !report.skipped.is_empty() || report.stopped.is_some() || (!dry_run && !dropped);
    output::exit(printed, if failed { output::EXIT_FAILED } else { output::EXIT_OK })
}

fn print_pruned(answer: &Value, report: &PruneReport, dropped: bool, place: &Place) -> anyhow::Result<()> {
    if place.json {
        output::json(answer)
    } else {
        if !report.clients.is_empty() {
            table(answer, "clients", &["client", ">versions", ">version_bytes"])?;
        }
        let said = if dropped { "dropped" } else { "could be dropped, and were not:" };
        output::line(format!(
            "{said} {} ({})",
            counted(report.versions, "version"),
            output::size(report.version_bytes)
        ))
    }
}
