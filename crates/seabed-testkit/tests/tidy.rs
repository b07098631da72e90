//! House rules that a linter does not know, over every file of the repository. `UPDATE=1` writes generated files anew.
#![allow(clippy::expect_used, reason = "a helper of a test fails the test")]
#![allow(clippy::case_sensitive_file_extension_comparisons, reason = "our own files are named in lower case")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const LINES_MAX: usize = 800;
/// From here on a file is named in a failure, so that nobody is surprised by the next line.
const LINES_MANY: usize = 700;

/// Words that a part of the tree must not contain.
struct Ban {
    words: &'static [&'static str],
    /// Whether the ban is in force in this file.
    applies: fn(&str) -> bool,
    /// Whether comments, strings and `#[cfg(test)]` modules count too.
    everywhere: bool,
    why: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        words: &["SystemTime::now", "Instant::now", "sleep(", "rand::", "new_v4", "HashMap", "HashSet"],
        applies: |path| {
            ["rules.rs", "snapshot.rs", "keys.rs"]
                .iter()
                .any(|file| path == format!("crates/seabed-taskchampion/src/{file}"))
        },
        everywhere: false,
        why: "rules are pure: time and randomness are arguments, and the order of a hash map is neither",
    },
    Ban {
        words: &["\"SELECT ", "\"INSERT ", "\"UPDATE ", "\"DELETE FROM", "\"CREATE TABLE", "\"PRAGMA "],
        applies: |path| {
            in_sources(path)
                && !["crates/seabed-kv/src/sqlite/", "crates/seabed-kv/src/postgres/", "crates/seabed-testkit/"].iter().any(|tree| path.starts_with(tree))
                // Foreign databases are read and written where their format is known.
                && !["/import.rs", "/salvage.rs", "/export.rs"].iter().any(|file| path.ends_with(file))
        },
        everywhere: false,
        why: "SQL lives in seabed-kv/src/sqlite and /postgres; that of foreign files in import.rs, salvage.rs and export.rs",
    },
    Ban {
        words: &["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"],
        applies: |path| {
            in_sources(path)
                && !path.starts_with("crates/seabed-kv/src/sqlite/ffi")
                && !["callback", "classic", "extra", "input"]
                    .iter()
                    .any(|file| path == format!("crates/libsds/src/{file}.rs"))
                && !path.starts_with("crates/seabed-testkit/src/vfs")
        },
        everywhere: false,
        why: "unsafe lives where libsds meets C, in seabed-kv's sqlite/ffi.rs and sqlite/ffi/ and in the testkit's VFS",
    },
    Ban {
        words: &["axum::", "axum as"],
        applies: |path| {
            in_sources(path)
                && ![
                    "crates/seabed-taskchampion/src/http",
                    "crates/seabed-automerge/src/server",
                    "crates/seabed/",
                ]
                .iter()
                .any(|tree| path.starts_with(tree))
        },
        everywhere: false,
        why: "HTTP lives in the http modules and in the binary",
    },
    Ban {
        words: &["#[ignore", "todo!(", "unimplemented!(", "TODO", "FIXME", "XXX"],
        applies: |path| path.ends_with(".rs"),
        everywhere: true,
        why: "a test runs, and what is not done is an issue",
    },
    Ban {
        words: &["sleep("],
        applies: |path| path.contains("/tests/") && !SLEEPERS.iter().any(|(sleeper, _)| *sleeper == path),
        everywhere: true,
        why: "a test waits for what it expects, not for a time; where time is the matter, say why in SLEEPERS",
    },
    Ban {
        words: &[
            "/work/",
            "/root/",
            "static.crates.io",
            "index.crates.io",
            "registry.npmjs.org",
            "pythonhosted.org",
        ],
        applies: |_| true,
        everywhere: true,
        why: "paths and hosts of one machine mean nothing on another",
    },
];

/// Tests that may sleep, and why.
const SLEEPERS: &[(&str, &str)] = &[
    ("crates/seabed-taskchampion/tests/http.rs", "a slow sender, on a clock that the runtime moves"),
    ("crates/seabed-automerge/src/server/tests/line.rs", "a slow line, on a clock that the runtime moves"),
    (
        "crates/seabed-kv/tests/postgres.rs",
        "the server's own, between two looks at a session: it has no event for them",
    ),
    (
        "crates/seabed/tests/serve_memory.rs",
        "between two looks at another process: it has no event for its memory",
    ),
];

/// Where the bounds of each part are published.
const LIMITS: &[(&str, &[&str])] = &[
    ("The kernel", &["crates/seabed-kv/src/limits.rs"]),
    (
        "Message channels (SDS)",
        &[
            "crates/seabed-sds-core/src/limits.rs",
            "crates/seabed-sds-core/src/config.rs",
            "crates/seabed-sds/src/limits.rs",
        ],
    ),
    ("The C library (libsds)", &["crates/libsds/src/limits.rs"]),
    ("Automerge's live server", &["crates/seabed-automerge/src/server/limits.rs"]),
];

/// This file names what it bans.
const SELF: &str = "crates/seabed-testkit/tests/tidy.rs";

#[test]
fn files_are_of_one_noun() {
    let sizes: Vec<_> = files()
        .into_iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| (text.lines().count(), path))
        .filter(|(lines, _)| *lines > LINES_MANY)
        .collect();
    assert!(sizes.iter().all(|(lines, _)| *lines <= LINES_MAX), "files that want to be two: {sizes:#?}");
}

#[test]
fn nothing_banned_is_used() {
    let found: Vec<_> =
        files().iter().filter(|(path, _)| path != SELF).flat_map(|(path, text)| banned(path, text)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn sleepers_are_there() {
    for (path, why) in SLEEPERS {
        assert!(root().join(path).exists(), "{path} is gone, its excuse ({why}) can go too");
    }
}

#[test]
fn every_page_is_linked_and_no_link_is_dead() {
    let files = files();
    let paths: BTreeSet<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    let links: Vec<(&str, String)> = files
        .iter()
        .filter(|(path, _)| path.ends_with(".md"))
        .flat_map(|(path, text)| links(path, text).into_iter().map(|to| (path.as_str(), to)))
        .collect();
    let dead: Vec<_> = links.iter().filter(|(_, to)| !root().join(to).exists()).collect();
    assert!(dead.is_empty(), "dead links: {dead:#?}");
    let linked: BTreeSet<&str> =
        links.iter().filter(|(from, to)| from != to).map(|(_, to)| to.as_str()).collect();
    // A link to a folder shows what is in it.
    let found = |path: &str| {
        linked.contains(path) || path.rsplit_once('/').is_some_and(|(folder, _)| linked.contains(folder))
    };
    let lost: Vec<_> = paths.iter().filter(|path| path.starts_with("docs/") && !found(path)).collect();
    assert!(lost.is_empty(), "pages that nothing links to: {lost:#?}");
}

#[test]
fn the_page_of_limits_is_current() {
    let read = |path: &&str| std::fs::read_to_string(root().join(path)).expect("a source of limits");
    let mut page = String::from(
        "# Limits\n\nEvery bound, from the sources that are named. What is beyond one is refused with an error that names it.\n",
    );
    for (title, paths) in LIMITS {
        writeln!(page, "\n## {title}\n\nFrom `{}`.\n", paths.join("` and `")).expect("a string grows");
        page += &limits_table(&paths.iter().map(read).collect::<String>());
    }
    assert_generated("docs/limits.md", &page);
}

/// The pages of rules, each of which names the tests that hold it.
const RULES: &[&str] = &["docs/features.md", "docs/protocols/sds-sections.md"];

#[test]
fn every_rule_names_its_tests() {
    for path in RULES {
        rules_name_their_tests(path);
    }
}

fn rules_name_their_tests(path: &str) {
    let page = std::fs::read_to_string(root().join(path)).expect("a page of rules");
    assert!(feature_rows(&page).count() > 50, "{path} has lost its tables");
    let bare: Vec<_> = feature_rows(&page).filter(|row| named_tests(row).is_empty()).collect();
    assert!(bare.is_empty(), "rules that no test holds: {bare:#?}");
    let missing: Vec<_> = feature_rows(&page)
        .flat_map(named_tests)
        .filter(|name| {
            test_files(name).iter().all(|file| {
                let source = std::fs::read_to_string(root().join(file)).unwrap_or_default();
                !tests_of(&source).contains(name.rsplit("::").next().unwrap_or_default())
            })
        })
        .collect();
    assert!(missing.is_empty(), "{path} names tests that are not there: {missing:#?}");
}

#[test]
fn every_test_of_the_facade_is_on_the_page_of_features() {
    let page = std::fs::read_to_string(root().join("docs/features.md")).expect("docs/features.md");
    let named: BTreeSet<&str> = feature_rows(&page).flat_map(named_tests).collect();
    for (path, source) in
        files().iter().filter(|(path, _)| path.starts_with("crates/seabed-kv/tests/facade_"))
    {
        let file = path.rsplit('/').next().and_then(|file| file.strip_suffix(".rs")).unwrap_or_default();
        for test in tests_of(source) {
            let name = format!("seabed-kv::{file}::{test}");
            assert!(named.contains(name.as_str()), "{name} holds a rule that docs/features.md does not list");
        }
    }
}

#[test]
fn bans_are_found() {
    let finds = |path: &str, text: &str| !banned(path, text).is_empty();
    let rules = "crates/seabed-taskchampion/src/rules.rs";
    assert!(finds(rules, "let now = SystemTime::now();"));
    assert!(finds(rules, "use std::collections::HashMap;"));
    assert!(!finds(rules, "// not SystemTime::now\nlet url = \"http://a\";"));
    assert!(!finds(
        rules,
        "fn a() {}\n#[cfg(test)]\nmod tests {\n use std::time::Instant; fn b() { Instant::now(); }\n}"
    ));
    assert!(!finds("crates/seabed-taskchampion/src/http.rs", "let now = SystemTime::now();"));

    assert!(finds("crates/seabed/src/main.rs", "const Q: &str = \"SELECT 1\";"));
    assert!(!finds("crates/seabed-kv/src/sqlite/reader.rs", "const Q: &str = \"SELECT 1\";"));

    assert!(finds("crates/seabed-kv/src/sqlite/reader.rs", "unsafe { f() }"));
    assert!(!finds("crates/seabed-kv/src/sqlite/ffi.rs", "unsafe { f() }"));
    assert!(!finds("crates/libsds/src/input.rs", "unsafe { f() }"));
    assert!(finds("crates/libsds/src/worker.rs", "unsafe { f() }"));
    assert!(!finds("crates/seabed-kv/src/lib.rs", "#![deny(unsafe_code)]"));

    assert!(finds("crates/seabed-kv/src/lib.rs", "use axum::Router;"));
    assert!(!finds("crates/seabed-taskchampion/src/http/mod.rs", "use axum::Router;"));

    assert!(finds("crates/seabed/tests/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() {}"));
    assert!(finds("crates/seabed/src/a.rs", "// FIXME later"));
    assert!(finds("crates/seabed/tests/a.rs", "std::thread::sleep(second);"));
    assert!(!finds("crates/seabed/src/a.rs", "std::thread::sleep(second);"));

    assert!(finds("docs/a.md", "look in /root/x"));
    assert!(!finds("docs/a.md", "the network/work is fine"));
}

#[test]
fn links_are_followed() {
    let page = "[a](b.md) [c](../d.md#e) [f](https://example.org) [g](#h) ![i](j/k.png)";
    assert_eq!(links("docs/x/y.md", page), ["docs/x/b.md", "docs/d.md", "docs/x/j/k.png"]);
}

#[test]
fn named_tests_are_found() {
    let page =
        "| rule | held by |\n|---|---|\n| A `b::c`. | `kv::x::works`, `kv::y::tests::too` |\n| Bare. | |\n";
    let rows: Vec<_> = feature_rows(page).map(named_tests).collect();
    assert_eq!(rows, [vec!["kv::x::works", "kv::y::tests::too"], vec![]]);
    assert_eq!(test_files("kv::x::works"), ["crates/kv/tests/x.rs"]);
    assert_eq!(
        test_files("kv::a::y::tests::too"),
        ["crates/kv/src/a/y.rs", "crates/kv/src/a/y/mod.rs", "crates/kv/src/a/y/tests.rs"]
    );
    let source =
        "fn helper() {}\n#[test]\nfn one() {}\n    #[tokio::test]\n    // Why.\n    async fn two() {}\n";
    assert_eq!(tests_of(source), BTreeSet::from(["one", "two"]));
}

#[test]
fn limits_are_read() {
    let page = limits_table(
        "//! All.\n\n/// The longest [`Key`](crate::Key),\n/// in bytes.\npub const KEY_BYTES_MAX: usize = 128 * 1024;\n\n\
         /// Rows of [`verify`](crate::verify()), for each [`KEY_BYTES_MAX`] of keys.\npub const ROWS_MAX: u64 = 65_535;\n",
    );
    assert!(page.ends_with(
        "| `KEY_BYTES_MAX` | 128 KiB | The longest `Key`, in bytes. |\n| `ROWS_MAX` | 65,535 | Rows of `verify`, for each `KEY_BYTES_MAX` of keys. |\n"
    ));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every text file that is, or is about to be, in the repository.
fn files() -> Vec<(String, String)> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let paths = String::from_utf8(output.stdout).expect("paths in UTF-8");
    let paths: BTreeSet<&str> = paths.split_terminator('\0').collect();
    // A file that was removed a moment ago or is not text has nothing to say.
    let text = |path: &str| Some((path.to_owned(), std::fs::read_to_string(root().join(path)).ok()?));
    paths.into_iter().filter_map(text).collect()
}

fn in_sources(path: &str) -> bool {
    path.starts_with("crates/") && path.contains("/src/") && path.ends_with(".rs")
}

fn banned(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for ban in BANS.iter().filter(|ban| (ban.applies)(path)) {
        for (number, line) in text.lines().enumerate() {
            if !ban.everywhere && line == "#[cfg(test)]" {
                break;
            }
            let line = if ban.everywhere { line } else { without_comment(line) };
            for word in ban.words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{path}:{}: {word}: {}", number + 1, ban.why));
            }
        }
    }
    found
}

/// The line without its comment; `//` after a colon is an address in a string.
fn without_comment(line: &str) -> &str {
    let comment = line.match_indices("//").map(|(at, _)| at).find(|at| !line[..*at].ends_with(':'));
    &line[..comment.unwrap_or(line.len())]
}

/// Where the links of a page lead inside the repository.
fn links(page: &str, text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains(':'))
        .map(|target| {
            let mut path: Vec<&str> = page.split('/').collect();
            path.pop();
            for part in target.split('/') {
                match part {
                    ".." => drop(path.pop()),
                    "." | "" => {}
                    part => path.push(part),
                }
            }
            path.join("/")
        })
        .collect()
}

/// The rows of the tables of a page of features, apart from their heads.
fn feature_rows(page: &str) -> impl Iterator<Item = &str> {
    page.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| held by |"))
}

/// The tests that a row names in its last column.
fn named_tests(row: &str) -> Vec<&str> {
    let held_by = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    held_by.split('`').skip(1).step_by(2).collect()
}

/// Where a test of that name stands: `crate::file::test`, `crate::module::tests::test` at the foot of a module, or in a part of
/// its tests.
fn test_files(name: &str) -> Vec<String> {
    let mut path: Vec<&str> = name.split("::").collect();
    path.pop();
    match path.as_slice() {
        [of, file] => vec![format!("crates/{of}/tests/{file}.rs")],
        [of, modules @ .., "tests"] => {
            let module = format!("crates/{of}/src/{}", modules.join("/"));
            vec![format!("{module}.rs"), format!("{module}/mod.rs"), format!("{module}/tests.rs")]
        }
        [of, modules @ .., "tests", part] => {
            vec![format!("crates/{of}/src/{}/tests/{part}.rs", modules.join("/"))]
        }
        [of, file, module] => {
            vec![format!("crates/{of}/tests/{file}/{module}.rs"), format!("crates/{of}/tests/{file}.rs")]
        }
        _ => Vec::new(),
    }
}

/// The names of the functions that are marked as tests.
fn tests_of(source: &str) -> BTreeSet<&str> {
    let mut marked = false;
    let mut tests = BTreeSet::new();
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[") {
            marked |= line.contains("test]") || line.contains("test(");
        } else if let Some(function) = line.trim_start_matches("async ").strip_prefix("fn ") {
            if std::mem::take(&mut marked) {
                tests.extend(function.split(['(', '<']).next());
            }
        } else if !line.starts_with("//") {
            marked = false;
        }
    }
    tests
}

/// The committed file is what its source makes of it; with `UPDATE` in the environment it is written.
fn assert_generated(path: &str, expected: &str) {
    let file = root().join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, expected).expect("a writable tree");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{path} is stale; run: UPDATE=1 cargo nextest run -p seabed-testkit --test tidy"
    );
}

/// The constants of a source.
fn limits_table(source: &str) -> String {
    let mut page = String::from("| limit | value | what it bounds |\n|---|---|---|\n");
    let mut comment: Vec<&str> = Vec::new();
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("/// ") {
            comment.push(text);
        } else if let Some((name, value)) =
            line.strip_prefix("pub const ").and_then(|line| line.trim_end_matches(';').split_once(" = "))
        {
            let name = name.split(':').next().unwrap_or_default();
            let meaning = without_links(&comment.join(" "));
            writeln!(page, "| `{name}` | {} | {meaning} |", amount(name, value)).expect("a string grows");
            comment.clear();
        } else {
            comment.clear();
        }
    }
    page
}

/// A product of numbers, as people read it.
fn amount(name: &str, product: &str) -> String {
    // A bound that random schedules need small is another one in production.
    let product =
        product.split_once("else { ").map_or(product, |(_, product)| product.trim_end_matches(" }"));
    let factors = product.split('*').map(|factor| factor.trim().replace('_', ""));
    let value: u64 = factors.map(|factor| factor.parse::<u64>().expect("a number")).product();
    match value {
        bytes if name.contains("BYTES") && bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
        bytes if name.contains("BYTES") && bytes % (1 << 10) == 0 => format!("{} KiB", bytes >> 10),
        value => {
            let digits = value.to_string();
            let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
            groups.join(",")
        }
    }
}

/// ``[`Name`](path)`` and ``[`Name`]`` as `` `Name` ``: rustdoc's links lead nowhere outside it.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("[`") {
        let (name, after) = link.split_once("`]").expect("a link ends");
        write!(plain, "{before}`{name}`").expect("a string grows");
        rest = after.strip_prefix('(').map_or(after, behind_target);
    }
    plain + rest
}

/// What follows the target of a link; a function's has brackets of its own.
fn behind_target(text: &str) -> &str {
    let mut open = 1;
    for (at, character) in text.char_indices() {
        open += match character {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if open == 0 {
            return &text[at + 1..];
        }
    }
    ""
}
