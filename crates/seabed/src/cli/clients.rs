//! `seabed clients`: TaskChampion's clients, one history of tasks each.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use axum::http::Method;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::cli::Place;
use crate::node::{Failure, Node};
use crate::open::Access;
use crate::output::{self, Exit, Table};

/// What is shown of a client, in this order.
const CLIENT_COLUMNS: [&str; 8] = [
    "client",
    ">versions",
    ">version_bytes",
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
  seabed clients delete 67e55044-10b1-426f-9247-bb680e5fe0c8 --yes")]
pub(crate) struct ClientsArgs {
    #[command(subcommand)]
    command: ClientsCommand,
}

#[derive(Debug, Subcommand)]
enum ClientsCommand {
    /// List every client, with what it keeps
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Show a client and its versions
    Show {
        /// The client id, as each device has it in its configuration
        id: Uuid,
        #[command(flatten)]
        place: Place,
    },
    /// Delete a client with all its versions and its snapshot
    Delete {
        /// The client id, as each device has it in its configuration
        id: Uuid,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        place: Place,
    },
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
    /// In the order of the chain.
    versions: Vec<Value>,
}

/// Tells about one client.
pub(crate) async fn show(node: &Node, id: Uuid) -> Result<ClientDetail, Failure> {
    let missing = || Failure::not_found(format!("no client {id} in {}", node.root.display()));
    let taskchampion = node.taskchampion().await?.ok_or_else(missing)?;
    let client = taskchampion.client(id).await?.ok_or_else(missing)?;
    let versions = taskchampion.versions(id).await?;
    Ok(ClientDetail { client: value(&client), versions: versions.iter().map(value).collect() })
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

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or(Value::Null)
}

pub(crate) fn command(args: &ClientsArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        ClientsCommand::List { place } => {
            let answer = Access::ask_once(&place.data_dir, "/api/clients")?;
            if place.json { output::json(&answer)? } else { table(&answer, "clients", &CLIENT_COLUMNS)? }
        }
        ClientsCommand::Show { id, place } => {
            let answer = Access::ask_once(&place.data_dir, &format!("/api/clients/{id}"))?;
            if place.json {
                output::json(&answer)?;
            } else {
                for name in CLIENT_COLUMNS.map(|column| column.trim_start_matches('>')) {
                    let mut path = std::iter::once("client").chain(name.split('.'));
                    let value = path.try_fold(&answer, |value, name| value.get(name));
                    let shown = value.map_or("-".to_owned(), |value| cell(name, value));
                    output::line(format!("{:<28} {shown}", heading(name).to_lowercase()))?;
                }
                output::line("")?;
                table(&answer, "versions", &["version", "parent", ">bytes", "received_unix_s"])?;
            }
        }
        ClientsCommand::Delete { id, yes, place } => return delete_command(*id, *yes, place),
    }
    Ok(ExitCode::SUCCESS)
}

fn delete_command(id: Uuid, yes: bool, place: &Place) -> anyhow::Result<ExitCode> {
    let answer = crate::cli::block_on(async {
        let access = Access::open(&place.data_dir).await?;
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

fn confirm(question: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Exit::usage(
            "this deletes data and there is no terminal to ask on; add --yes if you mean it",
        ));
    }
    write!(std::io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The objects of a list as a table. A column that begins with `>` is set to the right; a dot goes into an object.
fn table(answer: &Value, list: &str, columns: &[&str]) -> anyhow::Result<()> {
    let rows: Vec<_> = answer.get(list).and_then(Value::as_array).into_iter().flatten().collect();
    if rows.is_empty() {
        return output::line(format!("no {list}"));
    }
    let headings: Vec<_> = columns.iter().map(|column| heading(column)).collect();
    let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for row in rows {
        table.row(columns.iter().map(|column| {
            let path = column.trim_start_matches('>');
            path.split('.')
                .try_fold(row, |value, name| value.get(name))
                .map_or("-".to_owned(), |value| cell(path, value))
        }));
    }
    table.print()
}

/// A column's name without its unit, which the cells carry.
fn heading(column: &str) -> String {
    column.trim_end_matches("_unix_s").replace(['_', '.'], " ").to_uppercase()
}

fn cell(name: &str, value: &Value) -> String {
    match (value, value.as_u64()) {
        (Value::Null, _) => "-".to_owned(),
        (Value::String(text), _) => text.clone(),
        (_, Some(bytes)) if name.ends_with("bytes") => output::size(bytes),
        (_, Some(seconds)) if name.ends_with("unix_s") => i64::try_from(seconds)
            .ok()
            .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
            .map_or_else(|| value.to_string(), |time| time.to_string()),
        _ => value.to_string(),
    }
}
