//! `seabed bench`: what this disk's flush costs, and what the store makes of it.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use seabed_kv::{Store, Tenant};
use serde::Serialize;

use crate::output::{self, Exit, Table};
use crate::store_url::StoreUrl;

/// How long each part runs.
const PART_MS: u64 = 1_000;
const WRITERS: u64 = 64;
const PAYLOAD_BYTES: usize = 100;
const PAGE_BYTES: usize = 4096;

#[derive(Debug, Args)]
#[command(after_help = "\
Takes about five seconds, writes into a directory of its own inside DIR, and removes it again.

Examples:
  seabed bench
  seabed bench /var/lib/seabed --json")]
pub(crate) struct BenchArgs {
    /// A directory on the disk to measure
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What one part measured.
#[derive(Debug, Serialize)]
struct Part {
    name: &'static str,
    operations: u64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// Median time against the median flush, where one operation is one flush; rate against the rate of flushes for writers
    /// who share them.
    against_flush: Option<f64>,
}

pub(crate) fn command(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    if !args.dir.is_dir() {
        return Err(Exit::usage(format!("{} is not a directory", args.dir.display())));
    }
    let place = tempfile::Builder::new().prefix("seabed-bench-").tempdir_in(&args.dir).map_err(|error| {
        anyhow::anyhow!("cannot write in {}: {}", args.dir.display(), without_path(&error))
    })?;
    let progress = output::progress("measuring the flush");
    let flush = measure_flush(place.path())?;
    progress.set_message("measuring the store");
    let store = crate::open::store(&StoreUrl::Sqlite(place.path().to_owned()))?;
    let measured = measure_store(&store, &flush);
    store.close().wait()?;
    progress.finish_and_clear();
    let mut parts = vec![flush];
    parts.extend(measured?);
    place.close().context("cannot remove the files of the benchmark")?;

    let dir = crate::open::absolute(&args.dir);
    if args.json {
        output::json(&serde_json::json!({
            "dir": dir,
            "version": env!("CARGO_PKG_VERSION"),
            "sqlite": seabed_kv::sqlite::version(),
            "parts": parts,
        }))?;
    } else {
        print(&dir, &parts)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What went wrong, without the name that was made up.
fn without_path(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" at path ").next().unwrap_or_default().to_owned()
}

fn print(dir: &Path, parts: &[Part]) -> anyhow::Result<()> {
    output::line(format!("disk of {}", dir.display()))?;
    let mut table = Table::new(&["", ">PER SECOND", ">P50 US", ">P99 US", ">AGAINST FLUSH"]);
    for part in parts {
        table.row([
            part.name.to_owned(),
            format!("{:.0}", part.per_second),
            format!("{:.1}", part.p50_us),
            format!("{:.1}", part.p99_us),
            part.against_flush.map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
        ]);
    }
    table.print()?;
    if parts.first().is_some_and(|flush| flush.p50_us < 20.0) {
        output::note(
            "a flush this quick reaches no disk: this is memory, or a device that acknowledges from a cache",
        );
    }
    Ok(())
}

fn summary(name: &'static str, mut times: Vec<Duration>, total: Duration) -> Part {
    times.sort_unstable();
    let at = |percent: usize| {
        let position = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(position).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    let operations = times.len() as u64;
    #[allow(clippy::cast_precision_loss, reason = "a rate is shown without digits behind the point")]
    let per_second = operations as f64 / total.as_secs_f64().max(f64::EPSILON);
    Part { name, operations, per_second, p50_us: at(50), p99_us: at(99), against_flush: None }
}

/// Runs `step` for the time of a part.
fn timed<E>(name: &'static str, mut step: impl FnMut(u64) -> Result<(), E>) -> Result<Part, E> {
    let mut times = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(PART_MS) {
        let start = Instant::now();
        step(times.len() as u64)?;
        times.push(start.elapsed());
    }
    Ok(summary(name, times, begin.elapsed()))
}

/// Overwrites a page in place and flushes it: what a log that has its size already costs.
fn measure_flush(dir: &Path) -> anyhow::Result<Part> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(dir.join("flush"))?;
    let mut page = vec![0x5A; PAGE_BYTES];
    file.write_all(&page)?;
    file.sync_all()?;
    let part = timed("flush of 4 KiB", |number| {
        // A page with other bytes each time: some devices are clever about equal ones.
        for (place, byte) in page.iter_mut().zip(number.to_le_bytes()) {
            *place = byte;
        }
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&page)?;
        file.sync_data()
    });
    Ok(part?)
}

fn measure_store(store: &Store, flush: &Part) -> anyhow::Result<Vec<Part>> {
    let tenant = store.open("bench").wait()?;
    let payload = vec![0x5A; PAYLOAD_BYTES];
    let put = |key: u64| tenant.put("bench", key.to_be_bytes(), payload.clone()).wait();

    let mut alone = timed("durable put, alone", put)?;
    alone.against_flush = Some(alone.p50_us / flush.p50_us);
    let mut together = measure_writers(&tenant, &payload)?;
    together.against_flush = Some(together.per_second / flush.per_second);
    let mut found = 0_u64;
    let get = timed("get, hot", |number| {
        let key = number % alone.operations.max(1);
        tenant.get("bench", key.to_be_bytes()).wait().map(|payload| found += u64::from(payload.is_some()))
    })?;
    anyhow::ensure!(
        found == get.operations,
        "{} of {} rows were not found",
        get.operations - found,
        get.operations
    );
    Ok(vec![alone, together, get])
}

/// Writers who each wait for their own write, as connections do.
fn measure_writers(tenant: &Tenant, payload: &[u8]) -> anyhow::Result<Part> {
    let begin = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let times = runtime.block_on(async {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (tenant, payload) = (tenant.clone(), payload.to_vec());
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    while begin.elapsed() < Duration::from_millis(PART_MS) {
                        let start = Instant::now();
                        let key = [writer.to_be_bytes(), (times.len() as u64).to_be_bytes()].concat();
                        tenant.put("writers", key, payload.clone()).await?;
                        times.push(start.elapsed());
                    }
                    Ok::<_, seabed_kv::Error>(times)
                })
            })
            .collect();
        let mut times = Vec::new();
        for writer in writers {
            times.extend(writer.await??);
        }
        Ok::<_, anyhow::Error>(times)
    })?;
    Ok(summary("durable put, 64 writers", times, begin.elapsed()))
}
