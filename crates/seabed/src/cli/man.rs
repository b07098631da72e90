//! `seabed man`: the manual page, every command in one.

use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::Cli;
use crate::output;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed man > /usr/local/share/man/man1/seabed.1
  seabed man | man -l -")]
pub(crate) struct ManArgs {}

pub(crate) fn command() -> anyhow::Result<ExitCode> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    sections(&command, "seabed", &mut page)?;
    output::raw(&page)?;
    Ok(ExitCode::SUCCESS)
}

/// The pages of the commands below one, as sections without a title line of their own.
fn sections(command: &Command, name: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("{name} {}", sub.get_name());
        let man = Man::new(sub.clone().display_name(name.clone()));
        page.extend_from_slice(format!(".SH \"{}\"\n", name.to_uppercase()).as_bytes());
        man.render_description_section(page)?;
        man.render_options_section(page)?;
        man.render_extra_section(page)?;
        sections(sub, &name, page)?;
    }
    Ok(())
}
