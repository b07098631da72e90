//! `seabed sds encode`: the bytes of a message.

use std::path::PathBuf;
use std::process::ExitCode;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use seabed_sds_core::wire::{self, Dialect};

use super::message::MessageJson;
use super::{DialectName, read_file};
use crate::output::{self, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
The fields are those that `seabed sds decode --json` prints; only message_id and channel_id must be there.

Examples:
  seabed sds encode message.json
  echo '{\"message_id\":\"m1\",\"channel_id\":\"room\",\"lamport\":\"7\"}' |
    seabed sds encode
  seabed sds decode --json HEX | seabed sds encode --dialect spec --base64

Exit codes: 0 written; 2 these are not the fields of a message.")]
pub(super) struct EncodeArgs {
    /// A file that holds the fields in JSON; - is stdin
    #[arg(default_value = "-")]
    file: PathBuf,
    /// How to write it [default: as its field 'dialect' says, or nim]
    #[arg(long, value_enum)]
    dialect: Option<DialectName>,
    /// Print base64 instead of hexadecimal
    #[arg(long)]
    base64: bool,
}

pub(super) fn command(args: &EncodeArgs) -> anyhow::Result<ExitCode> {
    let fields: MessageJson = serde_json::from_slice(&read_file(&args.file)?)
        .map_err(|error| Exit::usage(format!("these are not the fields of a message: {error}")))?;
    let dialect = match (args.dialect, fields.dialect.as_str()) {
        (Some(dialect), _) => dialect.into(),
        (None, "nim" | "") => Dialect::Nim,
        (None, "spec") => Dialect::Spec,
        (None, other) => {
            return Err(Exit::usage(format!("no dialect '{other}' is written: take --dialect nim or spec")));
        }
    };
    let message = fields.message().map_err(Exit::usage)?;
    let bytes = wire::encode(&message, dialect);
    output::line(if args.base64 { BASE64_STANDARD.encode(&bytes) } else { hex::encode(&bytes) })?;
    Ok(ExitCode::SUCCESS)
}
