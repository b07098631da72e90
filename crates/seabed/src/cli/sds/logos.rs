//! `seabed sds migrate` and `seabed sds export`: channels of logos-delivery's persistency become ours, and go back.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use seabed_kv::Tenant;
use seabed_sds::contract::{ChannelStore, SnapshotPersistence};
use seabed_sds::core::wire::Dialect;
use seabed_sds::core::{ChannelId, Config, ParticipantId};
use seabed_sds::{ChannelInfo, KernelStore, LogosRows, TENANT};
use serde::Serialize;

use crate::bytes;
use crate::cli::Place;
use crate::node::{Node, sentence};
use crate::output::{self, EXIT_FAILED, Exit, Table};

#[derive(Debug, Args)]
#[command(after_help = "\
The database is logos-delivery's sds.db in the data directory, with its -wal when there is one: the file is used as it lies. Each channel is one batch, which \
writes our rows and removes the old ones, so that a channel is never half of each; stop logos-delivery first. `seabed sds export` leads back.

Examples:
  seabed sds migrate --participant alice -d /var/lib/delivery --dry-run
  seabed sds migrate --participant alice -d /var/lib/delivery
  seabed sds migrate --participant alice room --json

Exit codes: 0 all are ours now; 1 failed, or a channel was refused; 2 wrong usage, nothing there.")]
pub(super) struct MigrateArgs {
    /// Which channels [default: all]; text stands for itself, 0x begins hexadecimal digits
    channels: Vec<String>,
    /// Who takes part: the id that its messages bear
    #[arg(long)]
    participant: String,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each channel is one batch, which writes logos-delivery's rows and removes ours. What its form cannot carry is lost: ids that were seen beyond the log, marked \
and given-up dependencies, counts, and hints. Stop whatever uses the channels first; then logos-delivery opens sds.db.

Examples:
  seabed sds export --dry-run
  seabed sds export room --data-dir /var/lib/delivery

Exit codes: 0 all are logos-delivery's now; 1 failed, or a channel was refused; 2 wrong usage, nothing there.")]
pub(super) struct ExportArgs {
    /// Which channels [default: all]; text stands for itself, 0x begins hexadecimal digits
    channels: Vec<String>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Answer {
    /// The store: its directory, absolute, or its URL without secrets.
    store: String,
    dry_run: bool,
    channels: Vec<Moved>,
}

/// What became of a channel.
#[derive(Debug, Serialize)]
struct Moved {
    /// What it held before.
    #[serde(flatten)]
    held: ChannelInfo,
    /// Why it stays as it is.
    refused: Option<String>,
}

/// Which way channels go.
enum Way<'a> {
    Migrate(&'a ParticipantId),
    Export,
}

pub(super) fn migrate(args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    if args.participant.is_empty() {
        return Err(Exit::usage("--participant is empty"));
    }
    let participant = args.participant.as_str().into();
    command(&Way::Migrate(&participant), &args.channels, args.dry_run, &args.place)
}

pub(super) fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    command(&Way::Export, &args.channels, args.dry_run, &args.place)
}

fn command(way: &Way<'_>, channels: &[String], dry_run: bool, place: &Place) -> anyhow::Result<ExitCode> {
    let channels =
        channels.iter().map(|channel| bytes::parse(channel).map(|id| ChannelId::from(id.as_slice())));
    let channels: Vec<ChannelId> = channels.collect::<Result<_, _>>().map_err(Exit::usage)?;
    let answer = crate::cli::block_on(run(way, &channels, dry_run, place))?;
    let refused = answer.channels.iter().filter(|moved| moved.refused.is_some()).count();
    if place.json {
        output::json(&answer)?;
    } else {
        print(way, &answer, refused)?;
    }
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

async fn run(way: &Way<'_>, wanted: &[ChannelId], dry_run: bool, place: &Place) -> anyhow::Result<Answer> {
    let verb = if matches!(way, Way::Export) { "export" } else { "migrate" };
    let node = crate::open::own_existing(&place.url()?, verb).await?;
    let moved = move_channels(way, wanted, dry_run, &node).await;
    let closed = node.store.close().await;
    let channels = moved?;
    closed.map_err(|error| anyhow::Error::msg(sentence(error)))?;
    Ok(Answer { store: node.url.to_string(), dry_run, channels })
}

async fn move_channels(
    way: &Way<'_>,
    wanted: &[ChannelId],
    dry_run: bool,
    node: &Node,
) -> anyhow::Result<Vec<Moved>> {
    let tenant =
        super::channels::tenant(node).await.map_err(|failure| anyhow::Error::msg(failure.message))?;
    let Some(tenant) = tenant else {
        return Err(Exit::usage(format!(
            "the store in {} holds nothing of SDS: no tenant {TENANT}",
            node.url
        )));
    };
    let kept =
        KernelStore::on((*tenant).clone()).await.map_err(|error| anyhow::Error::msg(sentence(error)))?;
    let logos = LogosRows::new((*tenant).clone());
    let there = match way {
        Way::Migrate(_) => logos.channels().await.map_err(|error| anyhow::Error::msg(sentence(error)))?,
        Way::Export => kept.list().await.context("cannot list the channels")?,
    };
    let form = if matches!(way, Way::Export) { "ours" } else { "logos-delivery's" };
    if let Some(channel) = wanted.iter().find(|channel| !there.contains(channel)) {
        return Err(Exit::usage(format!(
            "no channel '{channel}' in the form that is {form}; `seabed sds channels` lists them"
        )));
    }
    let held = held(&tenant).await?;
    let mut moved = Vec::new();
    for channel in there.iter().filter(|channel| wanted.is_empty() || wanted.contains(channel)) {
        let id = channel.to_string();
        let held = held.iter().find(|info| info.channel == id).cloned().unwrap_or_default();
        let refused = match way {
            Way::Migrate(participant) => migrate_one(&kept, &logos, channel, participant, dry_run).await,
            Way::Export if dry_run => kept.check_export(channel).await.map_err(sentence),
            Way::Export => kept.export(channel).await.map_err(sentence),
        };
        moved.push(Moved { held, refused: refused.err() });
    }
    Ok(moved)
}

async fn held(tenant: &Tenant) -> anyhow::Result<Vec<ChannelInfo>> {
    seabed_sds::channels(tenant).await.map_err(|error| anyhow::Error::msg(sentence(error)))
}

async fn migrate_one(
    kept: &KernelStore,
    logos: &LogosRows,
    channel: &ChannelId,
    participant: &ParticipantId,
    dry_run: bool,
) -> Result<(), String> {
    let data = logos.load_channel(channel).await.map_err(|error| error.to_string())?;
    // Under another name the participant would take its own messages for a stranger's.
    let own = data.meta.outgoing.iter().map(|entry| &entry.message.sender_id);
    if let Some(sender) = own.filter(|sender| !sender.is_empty()).find(|sender| *sender != participant) {
        return Err(format!(
            "its own messages are of '{sender}', and not of '{participant}'; name that participant"
        ));
    }
    if dry_run {
        return Ok(());
    }
    kept.migrate(channel, participant, &Config::seabed(Dialect::Nim)).await.map_err(sentence)
}

fn print(way: &Way<'_>, answer: &Answer, refused: usize) -> anyhow::Result<()> {
    if answer.channels.is_empty() {
        return output::line("no channels of that form");
    }
    let mut table = Table::new(&["CHANNEL", ">LOG", ">UNACKNOWLEDGED", ">WAITING", ">MISSING", ""]);
    for Moved { held, refused } in &answer.channels {
        table.row([
            held.channel.clone(),
            held.log.to_string(),
            held.unacknowledged.to_string(),
            held.waiting.to_string(),
            held.missing.to_string(),
            refused.as_ref().map_or_else(String::new, |why| format!("refused: {why}")),
        ]);
    }
    table.print()?;
    let whose = if matches!(way, Way::Export) { "logos-delivery's" } else { "ours" };
    let moved = answer.channels.len() - refused;
    let tense = if answer.dry_run { "would be" } else { "are" };
    output::line(format!("{moved} channels {tense} {whose} now, {refused} refused: {}", answer.store))
}
