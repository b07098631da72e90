//! C programs: compiled, run as they are, under valgrind and with the address sanitizer.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::expect_used, clippy::panic, reason = "a helper of a test fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// How a program is linked and watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With the shared library.
    Shared,
    /// With the static library.
    Static,
    /// With the shared library and gcc's address sanitizer, which sees what the library allocates, too.
    AddressSanitizer,
    /// Under valgrind, with the shared library.
    Valgrind,
}

pub(crate) fn crate_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn repository_root() -> PathBuf {
    crate_root().join("../..")
}

/// Where the libraries are that were built with this test.
pub(crate) fn libraries() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    test.parent().expect("the directory of this test").to_owned()
}

/// Compiles `source` (a path from the crate's root) into `directory`.
pub(crate) fn compile(source: &str, kind: Kind, directory: &Path) -> PathBuf {
    let path = crate_root().join(source);
    let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
    let program = directory.join(format!("{name}-{kind:?}"));
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-O1", "-pthread", "-o"]).arg(&program);
    cc.arg("-I").arg(crate_root().join("include")).arg(path);
    if kind == Kind::AddressSanitizer {
        cc.args(["-fsanitize=address", "-fno-omit-frame-pointer"]);
    }
    if kind == Kind::Static {
        cc.arg(libraries().join("libsds.a")).args(["-lm", "-ldl"]);
    } else {
        // A program that names none of its functions is not linked with it.
        cc.arg("-L")
            .arg(libraries())
            .args(["-Wl,--as-needed", "-lsds"])
            .arg(format!("-Wl,-rpath,{}", libraries().display()))
            .arg("-ldl");
    }
    said(&mut cc);
    program
}

/// The command that runs a compiled program.
pub(crate) fn command(program: &Path, kind: Kind) -> Command {
    if kind != Kind::Valgrind {
        let mut command = Command::new(program);
        command.env("ASAN_OPTIONS", "detect_leaks=1:detect_stack_use_after_return=1:abort_on_error=0");
        return command;
    }
    let mut command = Command::new("valgrind");
    command.args([
        "--quiet",
        "--error-exitcode=99",
        "--leak-check=full",
        "--show-leak-kinds=definite",
        "--errors-for-leak-kinds=definite",
        "--fair-sched=yes",
    ]);
    command.arg(program);
    command
}

/// Runs a command that must succeed; what it wrote to its standard output.
pub(crate) fn said(command: &mut Command) -> String {
    let output = output(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!("{} cannot be started: {error}. ./test.sh tools installs it", command.get_program().display())
    })
}

/// Compiles and runs a program that checks itself, in an empty directory.
pub(crate) fn passes(source: &str, kind: Kind, arguments: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    let program = compile(source, kind, directory.path());
    said(command(&program, kind).args(arguments).current_dir(directory.path()));
}
