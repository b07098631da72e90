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
    // All but the list of commands, which would refer to a page for each: they are sections of this one.
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_extra_section(&mut page)?;
    sections(&command, "seabed", &mut page)?;
    man.render_version_section(&mut page)?;
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
