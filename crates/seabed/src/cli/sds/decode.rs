//! `seabed sds decode`: what a message says.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use seabed_sds_core::bloom::Filter;
use seabed_sds_core::wire::{self, Decoded, Layout, WireLimits};
use seabed_sds_core::{HistoryEntry, Message};

use super::message::MessageJson;
use super::{ReadName, read_file};
use crate::output::{self, Exit};

/// How much of a content is shown to people.
const SHOWN_CHARACTERS_MAX: usize = 200;

#[derive(Debug, Args)]
#[command(after_help = "\
A message is given in hexadecimal or base64 (what could be either is hexadecimal), or as a file of its bytes.

Examples:
  seabed sds decode 0a026d3110072204726f6f6d2a0568656c6c6f3200
  seabed sds decode --file message.bin --json
  curl -s .../message | seabed sds decode --file - --read nim

Exit codes: 0 it is a message; 1 it is not; 2 wrong usage.")]
pub(super) struct DecodeArgs {
    /// The message, in hexadecimal or base64
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    message: Option<String>,
    /// A file that holds the bytes of the message; - is stdin
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The argument is base64, whatever it looks like
    #[arg(long, conflicts_with = "file")]
    base64: bool,
    /// How to read it
    #[arg(long, value_enum, default_value_t = ReadName::Auto)]
    read: ReadName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn command(args: &DecodeArgs) -> anyhow::Result<ExitCode> {
    let wire = match (&args.message, &args.file) {
        (_, Some(path)) => read_file(path)?,
        (text, None) => bytes(text.as_deref().unwrap_or_default(), args.base64)?,
    };
    let decoded = wire::decode(&wire, args.read.into(), &WireLimits::default())
        .with_context(|| format!("no message in these {} bytes", wire.len()))?;
    if args.json {
        output::json(&MessageJson::from(&decoded))?;
    } else {
        print(&decoded, wire.len())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn bytes(text: &str, is_base64: bool) -> anyhow::Result<Vec<u8>> {
    let text = text.trim();
    if !is_base64 && let Ok(bytes) = hex::decode(text.strip_prefix("0x").unwrap_or(text)) {
        return Ok(bytes);
    }
    BASE64_STANDARD
        .decode(text)
        .map_err(|error| Exit::usage(format!("the message is neither hexadecimal nor base64: {error}")))
}

fn print(decoded: &Decoded, length: usize) -> anyhow::Result<()> {
    let Message { sender_id, message_id, channel_id, lamport, .. } = &decoded.message;
    let family = match decoded.layout {
        Layout::Nim => "nim-sds",
        Layout::Spec => "the specification",
        Layout::Logos => "the Logos chat library",
    };
    output::line(format!("{} in the layout of {family}, {length} bytes", kind(&decoded.message)))?;
    output::line(format!("  message  {}", shown(&message_id.to_string())))?;
    output::line(format!("  channel  {}", shown(&channel_id.to_string())))?;
    output::line(format!("  sender   {}", shown(&sender_id.to_string())).trim_end())?;
    output::line(format!(
        "  lamport  {}",
        lamport.map_or_else(|| "none".to_owned(), |lamport| lamport.to_string())
    ))?;
    output::line(format!("  content  {}", content(&decoded.message)))?;
    output::line(format!("  filter   {}", filter(decoded)))?;
    entries("causal history", &decoded.message.causal_history)?;
    entries("repair request", &decoded.message.repair_request)
}

fn kind(message: &Message) -> &'static str {
    match (message.is_sync(), message.is_ephemeral()) {
        (true, _) => "a sync message",
        (_, true) => "an ephemeral message",
        _ => "a message",
    }
}

fn content(message: &Message) -> String {
    let bytes = message.content.as_deref().unwrap_or_default();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => shown(text),
        Err(_) => format!("0x{}", hex::encode(bytes)),
    };
    let short: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("{} bytes  {short}{more}", bytes.len()).trim_end().to_owned()
}

fn filter(decoded: &Decoded) -> String {
    let Some(bytes) = decoded.message.bloom_filter.as_deref().filter(|bytes| !bytes.is_empty()) else {
        return "none".to_owned();
    };
    match Filter::read(decoded.layout.dialect(), bytes) {
        Ok(filter) => {
            let sizing = filter.sizing();
            let (capacity, length) = (filter.capacity(), bytes.len());
            format!("for {capacity} ids: {} hashes in {} bits, {length} bytes", sizing.hashes, sizing.bits)
        }
        Err(error) => format!("{} bytes; {error}", bytes.len()),
    }
}

fn entries(title: &str, entries: &[HistoryEntry]) -> anyhow::Result<()> {
    output::line(format!("  {title}: {}", entries.len()))?;
    for entry in entries {
        let sender =
            entry.sender().map_or_else(String::new, |id| format!("  from {}", shown(&id.to_string())));
        let hint = entry.retrieval_hint.as_deref().unwrap_or_default();
        let hint = if hint.is_empty() { String::new() } else { format!("  hint 0x{}", hex::encode(hint)) };
        output::line(format!("    {}{sender}{hint}", shown(&entry.message_id.to_string())))?;
    }
    Ok(())
}

/// Text from a stranger: what could move a terminal's cursor is escaped.
fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}
