//! The command line: one definition from which help, completions and the man page come.

mod backup;
mod bench;
pub(crate) mod clients;
mod completions;
mod conformance;
mod copy;
pub(crate) mod docs;
mod environment;
mod export;
mod import;
pub(crate) mod inspect;
mod man;
mod restore;
pub(crate) mod sds;
mod serve;
mod show;
pub(crate) mod tenants;
pub(crate) mod token;
pub(crate) mod verify;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{ServeArgs, StoreArgs};
use crate::store_url::StoreUrl;

/// Durable state for sync protocols: a sync server for Taskwarrior and Automerge whose data you can check.
#[derive(Debug, Parser)]
#[command(
    name = "seabed",
    version = version(),
    arg_required_else_help = true,
    propagate_version = true,
    after_help = "\
Examples:
  seabed serve                   serve ./seabed-data on 127.0.0.1:8080
  seabed tenants                 what is stored here, and how much of it
  seabed verify && echo sound    check every row and every chain
  seabed backup /backups/tasks   copy everything, while the server goes on

Commands that read a store ask the server that runs on it, or open it themselves when none does.

Exit codes: 0 done and sound; 1 failed, or findings; 2 wrong usage, nothing there, or could not check."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// List the tenants of a store, with their sizes
    Tenants(tenants::TenantsArgs),
    /// Show the rows of a tenant, decoded where the protocol is known
    Inspect(inspect::InspectArgs),
    /// List, show and delete TaskChampion's clients
    Clients(clients::ClientsArgs),
    /// List, show, export, import, compact and delete Automerge documents
    Docs(docs::DocsArgs),
    /// Check a store: structure, key order, and every chain of versions
    Verify(verify::VerifyArgs),
    /// Copy every tenant into a directory, while the server goes on
    Backup(backup::BackupArgs),
    /// Make a new store out of a backup
    Restore(restore::RestoreArgs),
    /// Copy everything into another store, of another kind
    Copy(copy::CopyArgs),
    /// Bring in what another server has stored
    Import(import::ImportArgs),
    /// Write what is stored here as another server keeps it
    Export(export::ExportArgs),
    /// Make, list and revoke the tokens of those who connect from elsewhere
    Token(token::TokenArgs),
    /// Read and write messages of SDS
    Sds(sds::SdsArgs),
    /// Hold golden vector files against this build
    Conformance(conformance::ConformanceArgs),
    /// Measure this disk's flush, and the store against it
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page
    Man(man::ManArgs),
}

/// Which store a command works on, and how it answers.
#[derive(Debug, Args)]
pub(crate) struct Place {
    #[command(flatten)]
    store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Place {
    /// The store that is named.
    ///
    /// # Errors
    /// Exit code 2 when two are, what is no URL, or a store in memory.
    pub(crate) fn url(&self) -> anyhow::Result<StoreUrl> {
        self.store.url()?.lasting()
    }
}

impl Cli {
    /// What was asked, by the command line and the environment. What is wrong with either ends the program.
    pub(crate) fn read() -> Self {
        let cli = Self::try_parse().unwrap_or_else(|mut error| {
            environment::name_variable(&mut error);
            error.exit()
        });
        environment::warn_of_unknown();
        cli
    }

    /// Does what was asked.
    ///
    /// # Errors
    /// Whatever kept the command from doing it; [`output::failure`](crate::output::failure) prints it.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(args) => serve::run(args),
            Command::Tenants(args) => tenants::command(&args),
            Command::Inspect(args) => inspect::command(&args),
            Command::Clients(args) => clients::command(&args),
            Command::Docs(args) => docs::command(&args),
            Command::Verify(args) => verify::command(&args),
            Command::Backup(args) => backup::command(&args),
            Command::Restore(args) => restore::command(&args),
            Command::Copy(args) => copy::command(&args),
            Command::Import(args) => import::command(&args),
            Command::Export(args) => export::command(&args),
            Command::Token(args) => token::command(&args),
            Command::Sds(args) => sds::command(&args),
            Command::Conformance(args) => conformance::command(&args),
            Command::Bench(args) => bench::command(&args),
            Command::Completions(args) => completions::command(&args),
            Command::Man(_) => man::command(),
        }
    }
}

/// The version of the program and of the SQLite inside it: both decide what a file may look like.
pub(crate) fn version() -> String {
    format!("{} (SQLite {})", env!("CARGO_PKG_VERSION"), seabed_kv::sqlite::version())
}

/// Runs an asynchronous command to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    #[test]
    fn the_definition_is_consistent() {
        super::Cli::command().debug_assert();
    }

    /// What stands below the options of a command, and of those below it.
    fn endings(command: &Command, endings: &mut Vec<(String, String)>) {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        endings.push((command.get_name().to_owned(), text));
        for below in command.get_subcommands() {
            super::tests::endings(below, endings);
        }
    }

    #[test]
    fn help_is_folded_by_the_terminal_alone() {
        let mut all = Vec::new();
        endings(&super::Cli::command(), &mut all);
        assert!(all.len() > 30, "{}", all.len());
        for (name, text) in all {
            assert!(text.contains("Examples:\n  "), "{name} has no examples");
            let lines: Vec<&str> = text.lines().collect();
            let is_example = |line: &str| line.starts_with("  ");
            for line in lines.iter().filter(|line| is_example(line)) {
                // A terminal of 80 columns would fold it, and it could not be pasted.
                assert!(line.chars().count() <= 78, "{name}: {line}");
            }
            for pair in lines.windows(2) {
                let paragraph = |line: &str| !line.is_empty() && !is_example(line) && line != "Examples:";
                assert!(!(paragraph(pair[0]) && paragraph(pair[1])), "{name}: folded by hand: {pair:?}");
            }
        }
    }
}
