//! The battery on a PostgreSQL server in both dialects, each case in a schema of its own.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::cell::Cell;

use seabed_kv::postgres::PostgresOptions;
use seabed_kv::{Store, conformance};
use seabed_testkit::postgres::Cluster;

fn battery(scheme: &str) {
    // Its cases cut no power.
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.url("postgres").replacen("postgres://", scheme, 1);
    let number = Cell::new(0);
    conformance::run(|| {
        number.set(number.get() + 1);
        let options =
            PostgresOptions { schema: format!("case {}", number.get()), ..PostgresOptions::default() };
        Store::postgres_with(&url, options).unwrap()
    });
}

#[test]
fn the_postgres_backend_passes_the_battery() {
    battery("postgres://");
}

#[test]
fn the_portable_dialect_passes_the_battery() {
    battery("postgres+portable://");
}
