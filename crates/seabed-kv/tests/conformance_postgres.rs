//! The battery on a PostgreSQL server in both dialects, each case in a database of its own.

use seabed_kv::{Store, conformance};
use seabed_testkit::postgres::Cluster;

#[test]
fn the_postgres_backend_passes_the_battery() {
    let cluster = Cluster::start();
    conformance::run(|| Store::postgres(&cluster.create_database()).unwrap());
}

#[test]
fn the_portable_dialect_passes_the_battery() {
    let cluster = Cluster::start();
    conformance::run(|| Store::postgres(&portable(&cluster.create_database())).unwrap());
}

fn portable(url: &str) -> String {
    url.replacen("postgres://", "postgres+portable://", 1)
}
