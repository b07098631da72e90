//! Answers of the admin API, for people: tables, fields, and a question before something is deleted.

use std::io::{IsTerminal, Write};

use serde_json::Value;

use crate::output::{self, Exit, Table};

/// An object as a line a field. What begins with `>` in a table may do so here.
pub(crate) fn fields(object: Option<&Value>, names: &[&str]) -> anyhow::Result<()> {
    for name in names.iter().map(|name| name.trim_start_matches('>')) {
        let value = object.and_then(|object| name.split('.').try_fold(object, |value, name| value.get(name)));
        let shown = value.map_or("-".to_owned(), |value| cell(name, value));
        output::line(format!("{:<28} {shown}", heading(name).to_lowercase()))?;
    }
    Ok(())
}

/// Asks on the terminal.
///
/// # Errors
/// Exit code 2 when there is none.
pub(crate) fn confirm(question: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Exit::usage(
            "this deletes data and there is no terminal to ask on; add --yes if you mean it",
        ));
    }
    write!(std::io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The objects of a list as a table. A column that begins with `>` is set to the right; a dot goes into an object.
pub(crate) fn table(answer: &Value, list: &str, columns: &[&str]) -> anyhow::Result<()> {
    let rows: Vec<_> = answer.get(list).and_then(Value::as_array).into_iter().flatten().collect();
    if rows.is_empty() {
        return output::line(format!("no {list}"));
    }
    let headings: Vec<_> = columns.iter().map(|column| heading(column)).collect();
    let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for row in rows {
        table.row(columns.iter().map(|column| {
            let path = column.trim_start_matches('>');
            path.split('.')
                .try_fold(row, |value, name| value.get(name))
                .map_or("-".to_owned(), |value| cell(path, value))
        }));
    }
    table.print()
}

/// A column's name without its unit, which the cells carry.
fn heading(column: &str) -> String {
    column.trim_end_matches("_unix_s").replace(['_', '.'], " ").to_uppercase()
}

fn cell(name: &str, value: &Value) -> String {
    match (value, value.as_u64()) {
        (Value::Null, _) => "-".to_owned(),
        (Value::String(text), _) => text.clone(),
        (_, Some(bytes)) if name.ends_with("bytes") => output::size(bytes),
        (_, Some(seconds)) if name.ends_with("unix_s") => i64::try_from(seconds)
            .ok()
            .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
            .map_or_else(|| value.to_string(), |time| time.to_string()),
        _ => value.to_string(),
    }
}
