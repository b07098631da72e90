//! `seabed conformance`: golden vector files held against this build.
//!
//! Files are recognised by what is in them, wherever they lie and whatever they are called, so that another set of vectors, or
//! another implementation's output, can be held against this one. Nothing in a file can do worse than fail.

mod database;
mod keys;
mod sds;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use crate::output::{self, EXIT_FAILED, EXIT_OK, Exit};

/// Larger files are no vectors.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Deeper directories are not walked.
const DEPTH_MAX: u32 = 16;

#[derive(Debug, Args)]
#[command(after_help = "\
Reads the formats of vectors/persistency (key encodings with ranges and comparisons, and SQLite databases with a \
listing of their rows beside them; databases are copied before they are opened), and of vectors/sds and vectors/sds-js: \
messages, hashes, filters, repair times and stored states, and whole runs step by step with their wire bytes.

Examples:
  seabed conformance vectors
  seabed conformance /tmp/other-implementation

Exit codes: 0 all passed; 1 failures; 2 no vectors there.")]
pub(crate) struct ConformanceArgs {
    /// The directory to search for vectors
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Counts what passed, and remembers what did not.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    file: String,
    passed: u64,
    failures: Vec<String>,
    skipped: Vec<String>,
    recognised: u64,
}

impl Tally {
    /// One expectation.
    fn check(&mut self, name: impl FnOnce() -> String, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(why) => self.failures.push(format!("{}: {}: {why}", self.file, name())),
        }
    }

    /// From here on, everything is about this file, of which the format is known.
    fn begin(&mut self, path: &Path) {
        self.recognised += 1;
        self.file = path.display().to_string();
    }
}

/// Whether two values are the same.
fn same<T: PartialEq + std::fmt::Debug + ?Sized>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("found {found:?}, expected {expected:?}")) }
}

pub(crate) fn command(args: &ConformanceArgs) -> anyhow::Result<ExitCode> {
    if !args.dir.is_dir() {
        return Err(Exit::usage(format!("{} is not a directory", args.dir.display())));
    }
    let mut tally = Tally::default();
    walk(&args.dir, 0, &mut tally)?;
    if tally.recognised == 0 {
        return Err(Exit::usage(format!("no vectors of a known format in {}", args.dir.display())));
    }
    output::exit(print(&tally, args.json), if tally.failures.is_empty() { EXIT_OK } else { EXIT_FAILED })
}

fn print(tally: &Tally, json: bool) -> anyhow::Result<()> {
    let failed = tally.failures.len();
    if json {
        return output::json(&serde_json::json!({
            "passed": tally.passed,
            "failed": failed,
            "failures": tally.failures,
            "skipped": tally.skipped,
        }));
    }
    for skipped in &tally.skipped {
        output::line(format!("skipped {skipped}: no format that is known here"))?;
    }
    for failure in &tally.failures {
        output::line(format!("FAILED {failure}"))?;
    }
    output::line(format!("{} passed, {failed} failed", tally.passed))
}

/// One directory: a listing belongs to the databases beside it, so files are looked at a directory at a time.
fn walk(dir: &Path, depth: u32, tally: &mut Tally) -> anyhow::Result<()> {
    let mut paths = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>())
        .with_context(|| format!("cannot list {}", dir.display()))?;
    paths.sort();
    let mut folder = database::Folder::default();
    for path in &paths {
        if path.is_dir() && !path.is_symlink() {
            if depth < DEPTH_MAX {
                walk(path, depth + 1, tally)?;
            }
            continue;
        }
        match recognise(path) {
            Format::Keys(vectors) => {
                tally.begin(path);
                keys::check(&vectors, tally);
            }
            Format::Sds(vectors) => {
                tally.begin(path);
                sds::check(&vectors, tally);
            }
            Format::Listing(listing) => folder.listings.push((path.clone(), listing)),
            Format::Database => folder.databases.push(path.clone()),
            Format::Log => folder.logs.push(path.clone()),
            Format::Damaged(why) => {
                tally.begin(path);
                tally.check(|| "reading it".to_owned(), Err(why));
            }
            Format::Unknown => tally.skipped.push(path.display().to_string()),
        }
    }
    folder.check(tally);
    Ok(())
}

/// What a file is, by its content.
enum Format {
    Keys(Value),
    Sds(Value),
    Listing(Value),
    Database,
    /// A write-ahead log: opened together with its database.
    Log,
    /// It says that it is something, and is not.
    Damaged(String),
    Unknown,
}

fn recognise(path: &Path) -> Format {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let bytes = match fs::metadata(path).and_then(|metadata| {
        if metadata.is_file() && metadata.len() <= FILE_BYTES_MAX {
            fs::read(path).map(Some)
        } else {
            Ok(None)
        }
    }) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Format::Unknown,
        Err(error) => return Format::Damaged(error.to_string()),
    };
    if bytes.starts_with(b"SQLite format 3\0") {
        return Format::Database;
    }
    // The two byte orders of a write-ahead log.
    if bytes.starts_with(&[0x37, 0x7F, 0x06, 0x82]) || bytes.starts_with(&[0x37, 0x7F, 0x06, 0x83]) {
        return Format::Log;
    }
    match serde_json::from_slice::<Value>(&bytes) {
        // First: a stored state has members of the same names as a key.
        Ok(value) if sds::is_one(&value) => Format::Sds(value),
        Ok(value) if keys::is_one(&value) => Format::Keys(value),
        Ok(value) if value.get("rows").is_some() && value.get("row_count").is_some() => {
            Format::Listing(value)
        }
        // A file that its name calls one of ours must not fall out of the count by being damaged.
        Err(error) if extension == "json" => Format::Damaged(format!("not valid JSON: {error}")),
        Err(_) if extension == "db" => Format::Damaged("not a SQLite database".to_owned()),
        Err(_) if extension == "db-wal" => Format::Damaged("not a write-ahead log".to_owned()),
        _ => Format::Unknown,
    }
}

/// A member of a vector that is text.
fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str, String> {
    value.get(name).and_then(Value::as_str).ok_or_else(|| format!("has no text '{name}'"))
}

/// A member of a vector that is bytes in hexadecimal.
fn hex_bytes(value: &Value, name: &str) -> Result<Vec<u8>, String> {
    hex::decode(text(value, name)?).map_err(|error| format!("'{name}' is not hexadecimal: {error}"))
}

/// The members of a vector's list.
fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
