//! What a linker and a compiler see: the names, the header, the marks of the shared library.
#![allow(clippy::expect_used, reason = "a helper of a test fails the test")]

mod common;

use std::process::Command;

use common::{crate_root, libraries, output, said};

/// Everything that a program finds, and nothing else: SQLite's names, for one, stay inside.
const EXPORTED: [&str; 16] = [
    "SdsCleanupReliabilityManager",
    "SdsMarkDependenciesMet",
    "SdsNewReliabilityManager",
    "SdsResetReliabilityManager",
    "SdsSetEventCallback",
    "SdsSetRetrievalHintProvider",
    "SdsStartPeriodicTasks",
    "SdsUnwrapReceivedMessage",
    "SdsWrapOutgoingMessage",
    "seabed_sds_channels",
    "seabed_sds_open",
    "seabed_sds_remove_channel",
    "seabed_sds_send_sync",
    "seabed_sds_status",
    "seabed_sds_version",
    "seabed_sds_wait",
];

#[test]
fn the_shared_library_exports_its_functions_and_nothing_else() {
    let table =
        said(Command::new("nm").args(["--dynamic", "--defined-only"]).arg(libraries().join("libsds.so")));
    let names: Vec<_> = table.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(names, EXPORTED);
}

#[test]
fn the_static_library_has_the_functions() {
    let table =
        said(Command::new("nm").args(["--defined-only", "--extern-only"]).arg(libraries().join("libsds.a")));
    for name in EXPORTED {
        assert!(table.lines().any(|line| line.ends_with(&format!(" T {name}"))), "{name} is not there");
    }
}

#[test]
fn the_shared_library_has_its_name_and_stays_until_the_program_ends() {
    let marks = said(Command::new("readelf").arg("--dynamic").arg(libraries().join("libsds.so")));
    assert!(marks.contains("soname: [libsds.so]"), "{marks}");
    assert!(marks.contains("NODELETE"), "{marks}");
}

/// `UPDATE=1` writes it anew.
#[test]
fn the_header_is_current() {
    let config = cbindgen::Config::from_file(crate_root().join("cbindgen.toml")).expect("cbindgen.toml");
    let bindings = cbindgen::generate_with_config(crate_root(), config).expect("bindings");
    let mut written = Vec::new();
    bindings.write(&mut written);
    let written = String::from_utf8(written).expect("text");
    let path = crate_root().join("include/libsds.h");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &written).expect("the header");
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == written, "include/libsds.h is not what the sources say; UPDATE=1 writes it anew");
}

#[test]
fn the_header_is_c99_and_cpp() {
    let directory = tempfile::tempdir().expect("a directory");
    for (compiler, standard, name) in [("cc", "-std=c99", "program.c"), ("c++", "-std=c++11", "program.cc")] {
        let program = directory.path().join(name);
        // What the original's users have: the prototypes of the nine functions, as they are used.
        let source = "#include <libsds.h>\n#include <libsds.h>\n\
            void *(*make)(SdsCallBack, void *) = SdsNewReliabilityManager;\n\
            void (*events)(void *, SdsCallBack, void *) = SdsSetEventCallback;\n\
            void (*hints)(void *, SdsRetrievalHintProvider, void *) = SdsSetRetrievalHintProvider;\n\
            int (*cleanup)(void *, SdsCallBack, void *) = SdsCleanupReliabilityManager;\n\
            int (*reset)(void *, SdsCallBack, void *) = SdsResetReliabilityManager;\n\
            int (*wrap)(void *, void *, size_t, const char *, const char *, SdsCallBack, void *) = SdsWrapOutgoingMessage;\n\
            int (*unwrap)(void *, void *, size_t, SdsCallBack, void *) = SdsUnwrapReceivedMessage;\n\
            int (*met)(void *, char **, size_t, const char *, SdsCallBack, void *) = SdsMarkDependenciesMet;\n\
            int (*start)(void *, SdsCallBack, void *) = SdsStartPeriodicTasks;\n\
            static void callback(int ret, const char *msg, size_t len, void *data) { (void)ret; (void)msg; (void)len; (void)data; }\n\
            static void hint(const char *id, char **hint, size_t *len, void *data) { (void)id; (void)hint; (void)len; (void)data; }\n\
            SdsCallBack callbacks[] = {callback};\nSdsRetrievalHintProvider providers[] = {hint};\n\
            int codes[] = {RET_OK, RET_ERR, RET_MISSING_CALLBACK};\n";
        std::fs::write(&program, source).expect("a program");
        let mut cc = Command::new(compiler);
        cc.args([standard, "-pedantic", "-Wall", "-Wextra", "-Werror", "-c", "-o", "/dev/null", "-I"]);
        let compiled = output(cc.arg(crate_root().join("include")).arg(&program));
        assert!(compiled.status.success(), "{compiler}: {}", String::from_utf8_lossy(&compiled.stderr));
    }
}
