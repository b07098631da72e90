//! `seabed sds`: the channels of SDS that a store holds, and participants to talk to.

mod channels;
mod peer;
mod show;

use std::process::ExitCode;

use clap::{Args, Subcommand};

pub(crate) use channels::{Channels, run as channels};
pub(crate) use show::{Channel, run as channel};

#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  seabed sds channels                    what is stored here
  seabed sds show room                   every row of a channel
  echo '{\"op\":\"hello\"}' | seabed sds peer   a participant driven by JSON lines"
)]
pub(crate) struct SdsArgs {
    #[command(subcommand)]
    command: SdsCommand,
}

#[derive(Debug, Subcommand)]
enum SdsCommand {
    /// List the channels of a store, with what they hold
    Channels(channels::ChannelsArgs),
    /// Show the rows of a channel
    Show(show::ShowArgs),
    /// Be a participant that JSON lines drive
    Peer(peer::PeerArgs),
}

pub(crate) fn command(args: &SdsArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        SdsCommand::Channels(args) => channels::command(args),
        SdsCommand::Show(args) => show::command(args),
        SdsCommand::Peer(args) => peer::command(args),
    }
}
