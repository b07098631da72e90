//! The statements for PostgreSQL: all of them stand on their page, and those for other servers keep to what these document.
#![allow(clippy::expect_used, reason = "a helper of a test fails the test")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What is missing, a no-op or another thing on servers that only speak the protocol.
const NOT_PORTABLE: &[&str] = &[
    "advisory",
    "listen",
    "notify",
    "ctid",
    "xmin",
    " serial ",
    "bigserial",
    "plpgsql",
    "function",
    "pg_",
    "apply_",
    "unlogged",
    "for update",
    "lock ",
    "with ",
    "gen_random",
    "current_setting",
    "set_config",
    "savepoint",
    "cursor",
];

/// How the statements of dialect `postgres` alone begin.
const POSTGRES_ONLY: &[&str] = &["APPLY_", "CLOCK_AND_PROCESS"];

struct Statement {
    name: String,
    text: String,
}

#[test]
fn every_statement_stands_on_its_page() {
    let path = root().join("docs/operate/postgres-statements.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let (head, rest) = page.split_once("<!-- statements -->\n").expect("where the statements begin");
    let (_, tail) = rest.split_once("<!-- /statements -->").expect("where they end");
    let mut expected = format!("{head}<!-- statements -->\n");
    for Statement { name, text } in statements() {
        let dialects = match is_postgres_only(&name) {
            true => "`postgres`",
            false if is_portable_only(&name) => "`portable`",
            false => "both",
        };
        write!(expected, "\n`{name}`, {dialects}:\n\n```sql\n{text}\n```\n").expect("a string grows");
    }
    write!(expected, "\n<!-- /statements -->{tail}").expect("a string grows");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &expected).expect("a writable tree");
    }
    let found = std::fs::read_to_string(&path).expect("the page");
    assert!(found == expected, "stale; run: UPDATE=1 cargo nextest run -p seabed-testkit --test statements");
}

#[test]
fn what_is_for_other_servers_keeps_to_what_they_document() {
    let schema = std::fs::read_to_string(sources().join("schema.sql")).expect("schema.sql");
    let schema: String = schema.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
    let portable = statements().into_iter().filter(|statement| !is_postgres_only(&statement.name));
    for Statement { name, text } in
        portable.chain([Statement { name: "schema.sql".to_owned(), text: schema }])
    {
        let lower = text.to_lowercase();
        for banned in NOT_PORTABLE {
            assert!(!lower.contains(banned), "{name} has {banned:?}: {text}");
        }
        let changes = ["insert into", "delete from", "update {schema}"];
        let changes: usize = changes.iter().map(|change| lower.matches(change).count()).sum();
        assert!(changes <= 1, "{name} changes more than one thing: {text}");
        let named =
            text.replace("{schema}.rows", "").replace("{schema}.tenants", "").replace("{schema}.format", "");
        let unqualified = ["FROM rows", "INTO rows", "FROM tenants", "INTO tenants"];
        assert!(!unqualified.iter().any(|name| named.contains(name)), "{name} has a name without its schema");
    }
}

fn is_postgres_only(name: &str) -> bool {
    POSTGRES_ONLY.iter().any(|beginning| name.starts_with(beginning))
}

fn is_portable_only(name: &str) -> bool {
    [
        "CLOCK",
        "BEGIN",
        "BEGIN_READ",
        "DURABLE",
        "PATIENCE",
        "IN_TIME",
        "COMMIT",
        "CHECK_ABSENT",
        "CHECK_EXISTS",
        "CHECK_EQUALS",
        "PUTS",
        "DELETES",
        "DELETE_RANGE",
    ]
    .contains(&name)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources() -> PathBuf {
    root().join("crates/seabed-kv/src/postgres")
}

/// The constants of sql.rs, in their order.
fn statements() -> Vec<Statement> {
    let source = std::fs::read_to_string(sources().join("sql.rs")).expect("sql.rs");
    let (_, body) = source.split_once("\nstatements! {").expect("the statements");
    let mut statements = Vec::new();
    let mut rest = body;
    while let Some((before, after)) = rest.split_once(" = \"") {
        let name = before.split_whitespace().last().expect("a name");
        let (text, after) = after.split_once("\";").expect("the end of a statement");
        // A backslash at the end of a line takes the line's end and the next one's indentation with it.
        let text = text.split("\\\n").map(str::trim_start).collect::<String>();
        statements.push(Statement { name: name.to_owned(), text });
        rest = after;
    }
    assert!(statements.len() > 20, "{} statements were found", statements.len());
    statements
}
