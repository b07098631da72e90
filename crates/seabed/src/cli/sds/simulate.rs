//! `seabed sds simulate`: what a configuration does on a bad network, before anybody deploys it.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use seabed_sds_core::sim::{Report, Scenario, Times, run};
use seabed_sds_core::wire::Dialect;
use seabed_sds_core::{CONTENT_BYTES_MAX, Config, Reason};
use serde_json::{Value, json};

use super::DialectName;
use crate::output::{self, Exit, Table};

/// The most participants of a run.
const PARTICIPANTS_MAX: usize = 1_000;
/// The most messages that all must have in the end.
const MESSAGES_MAX: u64 = 10_000;
/// The longest pause between two messages, in seconds: a day.
const PAUSE_S_MAX: u64 = 86_400;
/// The most that may be lost.
const LOSS_MAX: f64 = 0.95;
/// The longest time that a copy may be under way, in milliseconds: an hour.
const DELAY_MS_MAX: u64 = 3_600_000;
/// Between two messages pass a fifth of S to all of it: on average so many fifths.
const MEAN_PAUSE_FIFTHS: u64 = 3;

const COLUMNS: [&str; 13] = [
    ">PARTICIPANTS",
    ">LOSS",
    ">CONFIRMED IN S",
    ">NOTICED IN 3 S",
    ">EVERYWHERE IN 6 S",
    ">EVERYWHERE P50",
    ">P90",
    ">P99",
    ">BYTES/SEND",
    ">BYTES/MESSAGE",
    ">RESENDS",
    ">REPAIRS",
    ">SYNCS",
];

#[derive(Debug, Args)]
#[command(after_help = "\
Participants who follow this build's rules, in virtual time: copies are lost, doubled and late. Every run is checked to its end: causes before what rests \
on them, nothing twice, nothing forgotten, equal logs at last. Equal seeds give equal runs.

S is the longest pause between two messages. The project's targets: one recipient confirms within S, nine of ten misses are noticed within 3 S, everybody has \
everything within 6 S. BYTES/SEND is the size of a message; BYTES/MESSAGE all that was sent, resends, answers and sync messages too, for each \
message (a broadcast counts once, however many hear it). RESENDS, REPAIRS and SYNCS are broadcasts for each message; repairs answer those who asked.

Examples:
  seabed sds simulate --participants 50 --loss 0.2
  seabed sds simulate --participants 2,10,50 --loss 0,0.1   a row a pair
  seabed sds simulate --participants 50 --loss 0.2 --t-min-s 5 --t-max-s 60 \\
    --groups 4 --sync-s 30
  seabed sds simulate --pause-s 2 --duration-s 600 --content-bytes 2000 --json

Exit codes: 0 done; 1 a run broke a promise (the seed shows it again); 2 wrong usage.")]
pub(super) struct SimulateArgs {
    /// How many take part; several numbers make several runs
    #[arg(long, default_values_t = [10], value_delimiter = ',')]
    participants: Vec<usize>,
    /// Which share of the copies is lost, from 0 to 0.95; several make several runs
    #[arg(long, default_values_t = [0.2], value_delimiter = ',')]
    loss: Vec<f64>,
    /// Which share of the copies arrives twice
    #[arg(long, default_value_t = 0.0)]
    duplicates: f64,
    /// The shortest and the longest time that a copy is under way, in milliseconds
    #[arg(long, num_args = 2, value_names = ["SHORTEST", "LONGEST"], default_values_t = [20, 2_000])]
    delay_ms: Vec<u64>,
    /// S, the longest pause between two messages of anybody, in seconds; the average is 0.6 of it
    #[arg(long, default_value_t = 60)]
    pause_s: u64,
    /// How long the participants talk, in virtual seconds
    #[arg(long, default_value_t = 3_600)]
    duration_s: u64,
    /// The size of what is said
    #[arg(long, default_value_t = 100)]
    content_bytes: usize,
    /// The dialect that all speak
    #[arg(long, value_enum, default_value_t = DialectName::Nim)]
    dialect: DialectName,
    /// `T_min`, the earliest that a missing message is asked for [default: the dialect's]
    #[arg(long)]
    t_min_s: Option<u64>,
    /// `T_max`, the latest that it is asked for, and answered [default: the dialect's]
    #[arg(long)]
    t_max_s: Option<u64>,
    /// Into how many groups those who answer are divided
    #[arg(long)]
    groups: Option<u64>,
    /// How long a filter names what was received
    #[arg(long)]
    horizon_s: Option<u64>,
    /// How often a participant that says nothing tells what it knows, 0 for never [default: never in dialect nim, 30 in spec]
    #[arg(long)]
    sync_s: Option<u64>,
    /// What chance follows
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn command(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let scenarios = args.scenarios()?;
    let progress = output::progress("simulating");
    let mut runs = Vec::new();
    for scenario in scenarios {
        let loss = f64::from(scenario.loss_per_mille) / 1_000.0;
        let about = format!("{} participants, loss {loss}, seed {}", scenario.participants, args.seed);
        progress.set_message(about.clone());
        let report = run(args.seed, &scenario).with_context(|| format!("a run broke a promise: {about}"))?;
        runs.push((scenario, report));
    }
    progress.finish_and_clear();
    if args.json {
        output::json(&as_json(args, &runs))?;
    } else {
        print(args, &runs)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl SimulateArgs {
    /// A run for each number of participants and each share that is lost.
    fn scenarios(&self) -> anyhow::Result<Vec<Scenario>> {
        let pause_ms = self.pause_s.saturating_mul(1_000);
        let messages =
            self.duration_s.saturating_mul(5) / self.pause_s.saturating_mul(MEAN_PAUSE_FIFTHS).max(1);
        let (shortest_ms, longest_ms) = match self.delay_ms.as_slice() {
            [shortest_ms, longest_ms] => (*shortest_ms, *longest_ms),
            _ => return Err(Exit::usage("--delay-ms takes two numbers")),
        };
        for (possible, otherwise) in [
            (
                self.participants.iter().all(|count| (2..=PARTICIPANTS_MAX).contains(count)),
                format!("--participants is 2 to {PARTICIPANTS_MAX}"),
            ),
            (
                self.loss.iter().all(|loss| (0.0..=LOSS_MAX).contains(loss)),
                format!("--loss is 0 to {LOSS_MAX}"),
            ),
            ((0.0..=1.0).contains(&self.duplicates), "--duplicates is 0 to 1".to_owned()),
            ((1..=PAUSE_S_MAX).contains(&self.pause_s), format!("--pause-s is 1 to {PAUSE_S_MAX}")),
            (
                (1..=MESSAGES_MAX).contains(&messages),
                format!(
                    "--duration-s and --pause-s make {messages} messages, and a run has 1 to {MESSAGES_MAX}: one takes 0.6 of the pause"
                ),
            ),
            (
                self.content_bytes <= CONTENT_BYTES_MAX,
                format!("--content-bytes is at most {CONTENT_BYTES_MAX}"),
            ),
            (
                shortest_ms <= longest_ms && longest_ms <= DELAY_MS_MAX,
                format!("--delay-ms is the shorter time first, and at most {DELAY_MS_MAX}"),
            ),
        ] {
            if !possible {
                return Err(Exit::usage(otherwise));
            }
        }
        let messages = usize::try_from(messages)?;
        let config = self.config(messages)?;
        let runs =
            self.participants.iter().flat_map(|count| self.loss.iter().map(move |loss| (*count, *loss)));
        Ok(runs
            .map(|(participants, loss)| Scenario {
                participants,
                dialect: config.dialect,
                config: Some(config.clone()),
                messages,
                interval_ms: pause_ms,
                content_bytes: self.content_bytes,
                loss_per_mille: per_mille(loss),
                duplicates_per_mille: per_mille(self.duplicates),
                delay_ms: (shortest_ms, longest_ms),
                ..Scenario::default()
            })
            .collect())
    }

    fn config(&self, messages: usize) -> anyhow::Result<Config> {
        let mut config = Config::seabed(Dialect::from(self.dialect));
        for (to, from_s) in [
            (&mut config.repair_t_min_ms, self.t_min_s),
            (&mut config.repair_t_max_ms, self.t_max_s),
            (&mut config.filter_horizon_ms, self.horizon_s),
        ] {
            if let Some(from_s) = from_s {
                *to = from_s.saturating_mul(1_000);
            }
        }
        if let Some(sync_s) = self.sync_s {
            config.sync_interval_ms = (sync_s > 0).then_some(sync_s.saturating_mul(1_000));
        }
        if let Some(groups) = self.groups {
            config.response_groups = groups;
        }
        // At the end the logs are compared whole, so that nothing may have left them; those who only keep a run going speak, too.
        let limits = &mut config.limits;
        limits.log_messages_max = limits.log_messages_max.max(2 * messages);
        limits.seen_ids_max = limits.seen_ids_max.max(4 * messages);
        config.check().map_err(|error| Exit::usage(error.to_string()))?;
        Ok(config)
    }
}

/// A share as the simulator counts it.
fn per_mille(share: f64) -> u32 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of one, as was checked"
    )]
    let per_mille = (share * 1_000.0).round() as u32;
    per_mille
}

fn print(args: &SimulateArgs, runs: &[(Scenario, Report)]) -> anyhow::Result<()> {
    let Some((Scenario { messages, config: Some(config), .. }, _)) = runs.first() else { return Ok(()) };
    output::line(format!(
        "{messages} messages of {} bytes, S = {} s, T_min {} s, T_max {} s, {} group(s), horizon {} s, sync {}, seed {}",
        args.content_bytes,
        args.pause_s,
        config.repair_t_min_ms / 1_000,
        config.repair_t_max_ms / 1_000,
        config.response_groups,
        config.filter_horizon_ms / 1_000,
        config.sync_interval_ms.map_or_else(|| "never".to_owned(), |ms| format!("{} s", ms / 1_000)),
        args.seed,
    ))?;
    let mut table = Table::new(&COLUMNS);
    let target = ["target", "", "100 %", "90 %", "100 %"].map(str::to_owned);
    table.row(target.into_iter().chain(std::iter::repeat_n(String::new(), COLUMNS.len() - 5)));
    for (scenario, report) in runs {
        let said = u64::try_from(report.messages)?.max(1);
        let of = |reason: Reason| report.traffic.get(&reason).copied().unwrap_or_default();
        let bytes: u64 = report.traffic.values().map(|traffic| traffic.bytes).sum();
        table.row([
            scenario.participants.to_string(),
            format!("{:.1} %", f64::from(scenario.loss_per_mille) / 10.0),
            percent(report.confirmed_within_s),
            percent(report.noticed_within_3s),
            percent(report.consistent_within_6s),
            seconds(report.consistent.p50_ms),
            seconds(report.consistent.p90_ms),
            seconds(report.consistent.p99_ms),
            (of(Reason::Send).bytes / of(Reason::Send).messages.max(1)).to_string(),
            (bytes / said).to_string(),
            a_message(of(Reason::Resend).messages, said),
            a_message(of(Reason::Repair).messages, said),
            a_message(of(Reason::Sync).messages, said),
        ]);
    }
    table.print()
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

#[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
fn a_message(count: u64, messages: u64) -> String {
    format!("{:.2}", count as f64 / messages as f64)
}

fn as_json(args: &SimulateArgs, runs: &[(Scenario, Report)]) -> Value {
    let runs: Vec<Value> = runs.iter().map(|(scenario, report)| run_json(args, scenario, report)).collect();
    json!({
        "targets": { "confirmed_within_s": 1.0, "noticed_within_3s": 0.9, "consistent_within_6s": 1.0 },
        "runs": runs,
    })
}

fn run_json(args: &SimulateArgs, scenario: &Scenario, report: &Report) -> Value {
    let config = scenario.config.as_ref();
    let times = |times: &Times| json!({ "p50": times.p50_ms, "p90": times.p90_ms, "p99": times.p99_ms });
    let traffic = [
        ("send", Reason::Send),
        ("resend", Reason::Resend),
        ("repair", Reason::Repair),
        ("sync", Reason::Sync),
    ];
    let traffic: serde_json::Map<String, Value> = traffic
        .into_iter()
        .map(|(name, reason)| {
            let traffic = report.traffic.get(&reason).copied().unwrap_or_default();
            (name.to_owned(), json!({ "messages": traffic.messages, "bytes": traffic.bytes }))
        })
        .collect();
    json!({
        "participants": scenario.participants,
        "loss": f64::from(scenario.loss_per_mille) / 1_000.0,
        "duplicates": f64::from(scenario.duplicates_per_mille) / 1_000.0,
        "delay_ms": scenario.delay_ms,
        "pause_ms": scenario.interval_ms,
        "content_bytes": scenario.content_bytes,
        "t_min_ms": config.map(|config| config.repair_t_min_ms),
        "t_max_ms": config.map(|config| config.repair_t_max_ms),
        "groups": config.map(|config| config.response_groups),
        "sync_ms": config.and_then(|config| config.sync_interval_ms),
        "horizon_ms": config.map(|config| config.filter_horizon_ms),
        "seed": args.seed,
        "trace": format!("{:016x}", report.trace_hash),
        "messages": report.messages,
        "operations": report.operations,
        "duration_ms": report.duration_ms,
        "settled_ms": report.settled_ms,
        "confirmed_within_s": report.confirmed_within_s,
        "noticed_within_3s": report.noticed_within_3s,
        "consistent_within_6s": report.consistent_within_6s,
        "confirmed_ms": times(&report.confirmed),
        "noticed_ms": times(&report.noticed),
        "consistent_ms": times(&report.consistent),
        "lost_copies": report.lost_copies,
        "traffic": traffic,
        "rows_max": report.rows_max,
    })
}
