//! What the README prints, to be done.

use std::path::Path;
use std::process::Command;

use super::{seabed, stderr, stdout};

/// The commands of a section, in order; one may go on over several lines.
pub(crate) fn commands(section: &str) -> Vec<String> {
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let (_, rest) = readme.split_once(&format!("### {section}\n")).unwrap();
    let text = rest.split("\n### ").next().unwrap();
    let blocks = text.split("```console\n").skip(1).map(|block| block.split("```").next().unwrap());
    let lines = blocks.flat_map(|block| block.strip_prefix("$ ").unwrap().split("\n$ "));
    lines.map(|line| line.trim_end().to_owned()).collect()
}

/// Runs a command of the README in a directory, with this build in the place of cargo.
pub(crate) fn shell(dir: &Path, command: &str) -> String {
    assert!(command.contains("cargo run --release -- "), "{command}");
    let command = command.replace("cargo run --release -- ", "\"$SEABED\" ");
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &command])
        .env("SEABED", seabed().get_program())
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {}", stderr(&output));
    stdout(&output)
}
