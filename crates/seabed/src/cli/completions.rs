//! `seabed completions`: the completion script of a shell.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed completions bash > ~/.local/share/bash-completion/completions/seabed
  seabed completions zsh > ~/.zfunc/_seabed
  seabed completions fish > ~/.config/fish/completions/seabed.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn command(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics on a pipe that was closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "seabed", &mut script);
    output::raw(&script)?;
    Ok(ExitCode::SUCCESS)
}
