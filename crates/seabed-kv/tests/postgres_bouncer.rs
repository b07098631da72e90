//! Behind `PgBouncer` in transaction mode no session is ours for longer than a transaction: the battery passes all the same.
#![allow(clippy::unwrap_used, reason = "helpers of tests; a failure is the test's")]

mod dialects;

use dialects::{Dialect, database, in_each_dialect};
use seabed_testkit::postgres::{Cluster, PgBouncer};

in_each_dialect!(the_battery_passes_behind_a_bouncer_with_few_sessions,);

fn the_battery_passes_behind_a_bouncer_with_few_sessions(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let bouncer = PgBouncer::start(&cluster, 4);
    seabed_kv::conformance::run(|| dialect.store(&bouncer.url(database(&cluster.create_database()))));
    cluster.wait_quiet();
}
