//! What may depend on what: the arrows between the crates are those of ARCHITECTURE.md, and everything from outside comes from the
//! public registry under a licence that goes with MIT or Apache-2.0.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a helper of a test fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Licences of what may be part of the library and the binary.
const SHIPPED: &[&str] =
    &["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "Unicode-3.0", "0BSD", "Unlicense"];

/// Licences of what only the tests may need, beside those: root certificates of the real client, cbindgen, and samod's CBOR.
const TESTS_ONLY: &[&str] = &["CDLA-Permissive-2.0", "MPL-2.0", "BlueOak-1.0.0"];

/// From each crate to the crates of the workspace that it is built from.
type Arrows = BTreeMap<String, BTreeSet<String>>;

#[test]
fn the_arrows_are_those_of_the_architecture() {
    let table = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let drawn = drawn_arrows(&table).expect("a table between <!-- arrows --> and <!-- /arrows -->");
    assert_eq!(arrows(&metadata()), drawn, "left: Cargo.toml, right: ARCHITECTURE.md");
}

#[test]
fn the_testkit_is_built_into_nothing() {
    for (from, to) in arrows(&metadata()) {
        assert!(!to.contains("seabed-testkit"), "{from} depends on seabed-testkit outside its tests");
    }
}

#[test]
fn licences_go_with_ours() {
    let metadata = metadata();
    let shipped = shipped(&metadata);
    let mut wrong = Vec::new();
    for package in each(&metadata["packages"]) {
        let licence = package["license"].as_str().unwrap_or("none");
        let mut allowed = SHIPPED.to_vec();
        if !shipped.contains(text(&package["id"])) {
            allowed.extend(TESTS_ONLY);
        }
        if !permitted(licence, &allowed) {
            wrong.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    assert!(wrong.is_empty(), "licences to look at:\n{}", wrong.join("\n"));
}

/// The lock file, because it names the packages of every platform and the metadata those of this one.
#[test]
fn everything_comes_from_the_registry_or_from_here() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    assert_eq!(foreign_sources(&lock), Vec::<&str>::new());
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT", "ISC", "Unicode-3.0"];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
        ("(GPL-2.0 OR GPL-3.0) AND Unicode-3.0", false),
        ("MIT AND (ISC OR GPL-3.0)", true),
        ("MIT WITH LLVM-exception", false),
        ("none", false),
    ] {
        assert_eq!(permitted(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn foreign_sources_are_found() {
    let lock = format!("source = \"{REGISTRY}\"\nname = \"x\"\nsource = \"git+https://example.org/x\"\n");
    assert_eq!(foreign_sources(&lock), ["git+https://example.org/x"]);
}

#[test]
fn the_table_is_read() {
    let page = "# a\n<!-- arrows -->\n| crate | depends on |\n|---|---|\n| `b` | c, `d` |\n| c | |\n<!-- /arrows -->\n| e | f |";
    let expected = [("b", vec!["c", "d"]), ("c", vec![])];
    let expected = expected.map(|(from, to)| (from.to_owned(), to.into_iter().map(str::to_owned).collect()));
    assert_eq!(drawn_arrows(page), Some(Arrows::from(expected)));
    assert_eq!(drawn_arrows("no table"), None);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The dependency graph of this platform, whose packages are all here: these tests were built from them.
fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc");
    let rustc = String::from_utf8(rustc.stdout).expect("text");
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--all-features",
            "--filter-platform",
            host,
        ])
        .current_dir(root())
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn each(array: &Value) -> impl Iterator<Item = &Value> {
    array.as_array().expect("an array").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// The arrows that Cargo.toml files draw outside tests.
fn arrows(metadata: &Value) -> Arrows {
    let members: BTreeSet<_> = each(&metadata["workspace_members"]).map(text).collect();
    let members = each(&metadata["packages"]).filter(|package| members.contains(text(&package["id"])));
    members
        .map(|package| {
            let dependencies = each(&package["dependencies"]);
            let ours = dependencies.filter(|d| d["kind"].as_str() != Some("dev") && d["path"].is_string());
            (text(&package["name"]).to_owned(), ours.map(|d| text(&d["name"]).to_owned()).collect())
        })
        .collect()
}

fn drawn_arrows(page: &str) -> Option<Arrows> {
    let (_, rest) = page.split_once("<!-- arrows -->")?;
    let (table, _) = rest.split_once("<!-- /arrows -->")?;
    let cells =
        |row: &str| row.split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect::<Vec<_>>();
    let rows = table.lines().map(cells).filter(|cells| cells.len() == 4).skip(2);
    Some(
        rows.map(|cells| {
            let to = cells[2].split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
            (cells[1].clone(), to.collect())
        })
        .collect(),
    )
}

/// Every package that the library and the binary are built from, build scripts included.
fn shipped(metadata: &Value) -> BTreeSet<&str> {
    let nodes: BTreeMap<_, _> =
        each(&metadata["resolve"]["nodes"]).map(|node| (text(&node["id"]), node)).collect();
    let mut open: Vec<_> =
        each(&metadata["workspace_members"]).map(text).filter(|id| !id.contains("seabed-testkit")).collect();
    let mut reached = BTreeSet::new();
    while let Some(id) = open.pop() {
        if reached.insert(id) {
            let built_from = each(&nodes[id]["deps"])
                .filter(|dep| each(&dep["dep_kinds"]).any(|kind| kind["kind"].as_str() != Some("dev")));
            open.extend(built_from.map(|dep| text(&dep["pkg"])));
        }
    }
    reached
}

/// Whether the allowed licences satisfy an SPDX expression. The old form writes `/` for OR.
fn permitted(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    let verdict = any_of(&mut words, allowed);
    assert!(words.is_empty(), "not an expression: {expression}");
    verdict
}

fn any_of(words: &mut Vec<&str>, allowed: &[&str]) -> bool {
    let mut verdict = all_of(words, allowed);
    while words.last() == Some(&"OR") {
        words.pop();
        verdict |= all_of(words, allowed);
    }
    verdict
}

fn all_of(words: &mut Vec<&str>, allowed: &[&str]) -> bool {
    let mut verdict = licence(words, allowed);
    while words.last() == Some(&"AND") {
        words.pop();
        verdict &= licence(words, allowed);
    }
    verdict
}

fn licence(words: &mut Vec<&str>, allowed: &[&str]) -> bool {
    let name = words.pop().expect("a licence");
    if name == "(" {
        let verdict = any_of(words, allowed);
        assert_eq!(words.pop(), Some(")"));
        return verdict;
    }
    if words.last() == Some(&"WITH") {
        // An exception only adds permissions, but none is needed so far: each comes with an alternative.
        words.truncate(words.len() - 2);
        return false;
    }
    allowed.contains(&name)
}

fn foreign_sources(lock: &str) -> Vec<&str> {
    let sources = lock.lines().filter_map(|line| line.strip_prefix("source = "));
    sources.map(|source| source.trim_matches('"')).filter(|source| *source != REGISTRY).collect()
}
