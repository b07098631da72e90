//! `seabed sds channels`: the channels of a store.

use std::process::ExitCode;

use clap::Args;
use seabed_kv::TenantId;
use seabed_sds::{ChannelInfo, TENANT};
use serde::Serialize;
use serde_json::Value;

use crate::access::Access;
use crate::cli::Place;
use crate::node::{Failure, Node, Visit};
use crate::output::{self, Table};

const COLUMNS: [&str; 8] =
    ["channel", ">log", ">unacknowledged", ">waiting", ">missing", ">repairs_in", ">lamport", ">bytes"];

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed sds channels
  seabed sds channels --json | jq '.channels[] | select(.missing > 0)'")]
pub(crate) struct ChannelsArgs {
    #[command(flatten)]
    place: Place,
}

/// What `GET /api/sds/channels` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Channels {
    channels: Vec<ChannelInfo>,
}

/// Lists every channel.
pub(crate) async fn run(node: &Node) -> Result<Channels, Failure> {
    let channels = match tenant(node).await? {
        Some(tenant) => seabed_sds::channels(&tenant).await?,
        None => Vec::new(),
    };
    Ok(Channels { channels })
}

/// The tenant of SDS, when there is one: looking never makes it.
pub(super) async fn tenant(node: &Node) -> Result<Option<Visit<'_>>, Failure> {
    let id = TenantId::new(TENANT)?;
    let there = node.store.list().await?.contains(&id);
    Ok(if there { Some(node.visit(&id)?) } else { None })
}

pub(crate) fn command(args: &ChannelsArgs) -> anyhow::Result<ExitCode> {
    let answer = Access::ask_once(&args.place.url()?, "/api/sds/channels")?;
    if args.place.json {
        output::json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let channels: Vec<_> = answer.get("channels").and_then(Value::as_array).into_iter().flatten().collect();
    if channels.is_empty() {
        output::line("no channels")?;
        return Ok(ExitCode::SUCCESS);
    }
    let headings = COLUMNS.map(|column| column.replace('_', " ").to_uppercase());
    let mut table = Table::new(&headings.each_ref().map(String::as_str));
    for channel in channels {
        table.row(COLUMNS.map(|column| {
            let value = channel.get(column.trim_start_matches('>')).unwrap_or(&Value::Null);
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        }));
    }
    table.print()?;
    Ok(ExitCode::SUCCESS)
}
