//! What the user sees: the only place that writes to stdout and stderr, and that knows whether they are a terminal.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// The command did what it was asked for, and there is nothing to complain about.
pub(crate) const EXIT_OK: u8 = 0;
/// The command failed, or it checked everything and found something.
pub(crate) const EXIT_FAILED: u8 = 1;
/// The command line was wrong, or what it names is not there: nothing was done, nothing could be checked.
pub(crate) const EXIT_USAGE: u8 = 2;

/// An error that ends the program with a certain exit code.
#[derive(Debug)]
pub(crate) struct Exit {
    code: u8,
    message: String,
}

impl Exit {
    /// Exit code 2: wrong usage, or nothing there to work on.
    pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
        Self { code: EXIT_USAGE, message: message.into() }.into()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Exit {}

/// Whoever read our output stopped (`seabed tenants | head -1`): they have what they wanted.
#[derive(Debug)]
struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of the output went away")
    }
}

impl std::error::Error for ReaderGone {}

/// The exit code of a command that has found its answer, whether or not anybody read it to its end.
///
/// # Errors
/// What stdout answered otherwise.
pub(crate) fn exit(printed: anyhow::Result<()>, code: u8) -> anyhow::Result<ExitCode> {
    match printed {
        Err(error) if !error.is::<ReaderGone>() => Err(error),
        _ => Ok(ExitCode::from(code)),
    }
}

/// Prints why the program ends, and answers with which code.
pub(crate) fn failure(error: &anyhow::Error) -> ExitCode {
    if error.is::<ReaderGone>() {
        return ExitCode::from(EXIT_OK);
    }
    note(&format!("{} {}", paint(io::stderr().is_terminal(), "1;31", "error:"), sentence(error)));
    ExitCode::from(error.downcast_ref::<Exit>().map_or(EXIT_FAILED, |exit| exit.code))
}

/// The error and its causes in one line, without what a cause only repeats.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// A line on stderr. A closed stderr is no reason to fail.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A line on stdout.
///
/// # Errors
/// What stdout answers; a reader that went away ends the program quietly.
pub(crate) fn line(line: impl AsRef<str>) -> anyhow::Result<()> {
    raw(format!("{}\n", line.as_ref()).as_bytes())
}

/// Bytes on stdout, as they are.
///
/// # Errors
/// As [`line()`].
pub(crate) fn raw(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    // A reader on a pipe waits for the ready line; nothing here prints enough for the flush to cost anything.
    let printed = out.write_all(bytes).and_then(|()| out.flush());
    printed.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => ReaderGone.into(),
        _ => anyhow::Error::new(error).context("cannot write to stdout"),
    })
}

/// A value as JSON on stdout, the face for programs.
///
/// # Errors
/// As [`line()`].
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// Rows under headings, the face for people.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these headings; a heading with a `>` in front is a column of numbers, set to the right.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let names = headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![names], right }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints it.
    ///
    /// # Errors
    /// As [`line()`].
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        let colour = io::stdout().is_terminal();
        let mut widths = vec![0; self.right.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for (number, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).zip(&self.right).map(|((cell, width), right)| {
                let space = " ".repeat(width.saturating_sub(cell.chars().count()));
                if *right { format!("{space}{cell}") } else { format!("{cell}{space}") }
            });
            let text = cells.collect::<Vec<_>>().join("  ");
            line(paint(colour && number == 0, "1", text.trim_end()))?;
        }
        Ok(())
    }
}

/// The text in a colour, on a terminal whose owner has not switched colours off.
fn paint(terminal: bool, code: &str, text: &str) -> String {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if terminal && !refused { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// A spinner on stderr, when somebody is looking at it.
pub(crate) fn progress(message: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style).with_message(message.to_owned());
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

/// A bar on stderr with a number to reach, when somebody is looking at it.
pub(crate) fn progress_bar(message: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} clients{prefix} ({elapsed})")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style).with_message(message.to_owned())
}

/// So many of something: `1 client`, `2 clients`.
pub(crate) fn counted(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// Bytes as people read them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut name = "KiB";
    for unit in UNITS {
        name = unit;
        if value < 1024.0 {
            break;
        }
        if unit != "PiB" {
            value /= 1024.0;
        }
    }
    format!("{value:.1} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (3 << 29, "1.5 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn one_is_not_several() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "row")), ["0 rows", "1 row", "2 rows"]);
    }

    #[test]
    fn a_cause_that_only_repeats_is_left_out() {
        let error = anyhow::anyhow!("disk full").context("cannot write x: disk full");
        assert_eq!(sentence(&error), "cannot write x: disk full");
        assert_eq!(sentence(&anyhow::anyhow!("b").context("a")), "a: b");
    }
}
