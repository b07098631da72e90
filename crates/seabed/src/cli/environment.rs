//! Settings from environment variables: an error names the variable that it comes from, and a misspelt one is not passed over.

use std::collections::BTreeSet;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command, CommandFactory};

use crate::cli::Cli;
use crate::output::{self, Exit};

/// What our own variables begin with.
const PREFIX: &str = "SEABED_";
/// Variables of the tests, which run this program.
const TESTS_PREFIX: &str = "SEABED_TEST_";
/// What names the database of the original's PostgreSQL build, which it cannot do without.
const ORIGINAL_DATABASE: &str = "CONNECTION";

/// Adds to an error of the command line that the value came from a variable: only the flag would be named.
pub(super) fn name_variable(error: &mut clap::Error) {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return };
    let mut variable = None;
    let mut command = Cli::command();
    // An argument of which the parser does not know the number of values yet cannot be written.
    command.build();
    each_argument(&command, &mut |argument| {
        if argument.to_string() == *flag && !is_given(argument) {
            variable =
                argument.get_env().filter(|name| std::env::var_os(name).is_some()).map(ToOwned::to_owned);
        }
    });
    if let Some(variable) = variable {
        let tip = format!("the value is that of the environment variable {}", variable.display());
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
}

/// Whether a flag stands on the command line, where it wins over its variable.
fn is_given(argument: &Arg) -> bool {
    let long = argument.get_long().map(|long| format!("--{long}"));
    let short = argument.get_short().map(|short| format!("-{short}"));
    std::env::args_os().skip(1).any(|given| {
        let given = given.to_string_lossy();
        long.as_ref().is_some_and(|long| given == *long || given.starts_with(&format!("{long}=")))
            || short.as_ref().is_some_and(|short| given.starts_with(short.as_str()))
    })
}

/// Warns of variables that look like ours and that nothing reads.
pub(super) fn warn_of_unknown() {
    let mut known = BTreeSet::new();
    each_argument(&Cli::command(), &mut |argument| known.extend(argument.get_env().map(ToOwned::to_owned)));
    let mut unknown: Vec<_> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| {
            let text = name.to_string_lossy();
            text.starts_with(PREFIX) && !text.starts_with(TESTS_PREFIX) && !known.contains(name)
        })
        .collect();
    unknown.sort();
    for name in unknown {
        output::note(&format!(
            "warning: nothing reads the environment variable {}; `seabed serve --help` names those there are",
            name.display()
        ));
    }
}

/// Replacing the original's PostgreSQL build must not fork anybody's history: what it reads its database from is not passed over.
///
/// # Errors
/// Exit code 2 when it is set. Never with its value, which may hold a password.
pub(super) fn refuse_original_database() -> anyhow::Result<()> {
    if std::env::var_os(ORIGINAL_DATABASE).is_none_or(|value| value.is_empty()) {
        return Ok(());
    }
    Err(Exit::usage(format!(
        "{ORIGINAL_DATABASE} is set: it names the database of the original taskchampion-sync-server, which this server does not use. Devices \
         that have tasks there must not meet an empty store: stop the original, run `seabed import taskchampion \"${ORIGINAL_DATABASE}\"`, then \
         unset {ORIGINAL_DATABASE}. To keep what is stored here in a database, name one of its own with --store or SEABED_STORE"
    )))
}

/// Visits every argument of a command, and of those below it.
fn each_argument(command: &Command, visit: &mut dyn FnMut(&Arg)) {
    command.get_arguments().for_each(&mut *visit);
    for below in command.get_subcommands() {
        each_argument(below, visit);
    }
}
