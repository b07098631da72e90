//! `seabed sds show`: the rows of a channel, decoded.

use std::process::ExitCode;

use clap::Args;
use seabed_sds::core::ChannelId;
use serde::Serialize;
use serde_json::Value;

use super::channels::tenant;
use crate::access::{Access, segment};
use crate::bytes;
use crate::cli::Place;
use crate::node::{Failure, Node};
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed sds show room
  seabed sds show room --json | jq '.rows[] | select(.row == \"missing\")'")]
pub(crate) struct ShowArgs {
    /// The channel; text stands for itself, 0x begins hexadecimal digits
    channel: String,
    #[command(flatten)]
    place: Place,
}

/// What `GET /api/sds/channels/{id}` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Channel {
    channel: String,
    rows: Vec<Value>,
}

/// Tells the rows of one channel.
pub(crate) async fn run(node: &Node, channel: &str) -> Result<Channel, Failure> {
    let id = ChannelId::from(bytes::parse(channel).map_err(Failure::bad_request)?.as_slice());
    let rows = match tenant(node).await? {
        Some(tenant) => seabed_sds::channel_rows(&tenant, &id).await?,
        None => Vec::new(),
    };
    if rows.is_empty() {
        return Err(Failure::not_found(format!(
            "no channel '{channel}' in {}; `seabed sds channels` lists them",
            node.url
        )));
    }
    Ok(Channel { channel: channel.to_owned(), rows })
}

pub(crate) fn command(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let path = format!("/api/sds/channels/{}", segment(&args.channel));
    let answer = Access::ask_once(&args.place.url()?, &path)?;
    if args.place.json {
        output::json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    for row in answer.get("rows").and_then(Value::as_array).into_iter().flatten() {
        output::line(row.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}
