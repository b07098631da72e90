//! `seabed sds`: messages of SDS, the channels that a store holds, and participants to talk to.

mod channels;
mod decode;
mod encode;
mod logos;
mod message;
mod peer;
mod show;
mod simulate;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use seabed_sds_core::limits::WIRE_BYTES_MAX;
use seabed_sds_core::wire::{Dialect, ReadDialect};

/// Text of a message takes at most this many times its bytes, in hexadecimal with some room for names.
const TEXT_BYTES_MAX: u64 = 4 * WIRE_BYTES_MAX as u64;

pub(crate) use channels::{Channels, run as channels};
pub(crate) use show::{Channel, run as channel};

#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  seabed sds decode 0a026d31100722 ...    what a message says
  seabed sds encode message.json          the bytes of a message
  seabed sds channels                     what is stored here
  seabed sds show room                    every row of a channel
  seabed sds migrate --participant alice  take over from logos-delivery
  echo '{\"op\":\"hello\"}' | seabed sds peer  a participant driven by JSON lines
  seabed sds simulate --loss 0.2          what a bad network does"
)]
pub(crate) struct SdsArgs {
    #[command(subcommand)]
    command: SdsCommand,
}

#[derive(Debug, Subcommand)]
enum SdsCommand {
    /// Show what a message says
    Decode(decode::DecodeArgs),
    /// Write a message from its fields in JSON
    Encode(encode::EncodeArgs),
    /// List the channels of a store, with what they hold
    Channels(channels::ChannelsArgs),
    /// Show the rows of a channel
    Show(show::ShowArgs),
    /// Take over the channels that logos-delivery left in a store
    Migrate(logos::MigrateArgs),
    /// Give channels back to logos-delivery
    Export(logos::ExportArgs),
    /// Be a participant that JSON lines drive
    Peer(peer::PeerArgs),
    /// Tell what a configuration does on a bad network
    Simulate(simulate::SimulateArgs),
}

pub(crate) fn command(args: &SdsArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        SdsCommand::Decode(args) => decode::command(args),
        SdsCommand::Encode(args) => encode::command(args),
        SdsCommand::Channels(args) => channels::command(args),
        SdsCommand::Show(args) => show::command(args),
        SdsCommand::Migrate(args) => logos::migrate(args),
        SdsCommand::Export(args) => logos::export(args),
        SdsCommand::Peer(args) => peer::command(args),
        SdsCommand::Simulate(args) => simulate::command(args),
    }
}

/// A dialect to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DialectName {
    /// nim-sds, sds-go, status-go, logos-delivery
    Nim,
    /// The specification, @waku/sds
    Spec,
}

impl From<DialectName> for Dialect {
    fn from(name: DialectName) -> Self {
        match name {
            DialectName::Nim => Self::Nim,
            DialectName::Spec => Self::Spec,
        }
    }
}

/// Dialects to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReadName {
    /// Whichever the bytes look like
    Auto,
    /// nim-sds, sds-go, status-go, logos-delivery
    Nim,
    /// The specification, @waku/sds
    Spec,
}

impl From<ReadName> for ReadDialect {
    fn from(name: ReadName) -> Self {
        match name {
            ReadName::Auto => Self::Auto,
            ReadName::Nim => Self::Strict(Dialect::Nim),
            ReadName::Spec => Self::Strict(Dialect::Spec),
        }
    }
}

/// What is in a file, or comes on stdin for `-`; no more than a message can take.
fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let cannot = || format!("cannot read {}", path.display());
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).with_context(cannot)?)
    };
    input.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(cannot)?;
    anyhow::ensure!(
        bytes.len() as u64 <= TEXT_BYTES_MAX,
        "{} has more than the {TEXT_BYTES_MAX} bytes that a message can take",
        path.display()
    );
    Ok(bytes)
}
