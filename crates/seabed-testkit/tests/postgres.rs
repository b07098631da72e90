//! The throw-away servers themselves: they start, die and come back as the tests of the backend need it.

use seabed_testkit::postgres::{Cluster, PgBouncer};

#[test]
fn databases_are_apart_and_outlive_every_kind_of_stop() {
    let mut cluster = Cluster::start();
    let (first, second) = (cluster.create_database(), cluster.create_database());
    assert_ne!(first, second);
    let (port, first) = (cluster.port(), first.rsplit('/').next().unwrap().to_owned());
    cluster.sql(&first, "CREATE TABLE numbers (number int)");
    let stops = [Cluster::stop_fast, Cluster::stop_immediate, Cluster::kill9];
    for (number, stop) in stops.into_iter().enumerate() {
        cluster.sql(&first, &format!("INSERT INTO numbers VALUES ({number})"));
        stop(&mut cluster);
        assert!(cluster.try_sql(&first, "SELECT 1").is_err(), "it is stopped");
        cluster.start_again();
    }
    assert_eq!(cluster.sql(&first, "SELECT number FROM numbers ORDER BY number"), "0\n1\n2");
    assert_eq!((cluster.port(), cluster.sql("postgres", "SHOW fsync").as_str()), (port, "on"));
}

#[test]
fn a_commit_waits_for_the_standby_which_has_it_when_the_primary_is_killed() {
    let mut primary = Cluster::start();
    let standby = primary.standby();
    primary.sql("postgres", "CREATE TABLE numbers AS SELECT 7 AS number");
    primary.kill9();
    standby.promote();
    assert_eq!(standby.sql("postgres", "SELECT number FROM numbers"), "7");
    standby.sql("postgres", "INSERT INTO numbers VALUES (8)");
}

#[test]
fn the_bouncer_gives_a_session_to_a_transaction_and_takes_it_back() {
    let cluster = Cluster::start();
    let bouncer = PgBouncer::start(&cluster, 1);
    let ask = |statement| cluster.sql_at(&bouncer.url("postgres"), statement);
    let session = ask("SELECT pg_backend_pid()").unwrap();
    assert_eq!(ask("SELECT pg_backend_pid()").unwrap(), session);
    assert_eq!(
        ask("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
            .unwrap(),
        "0"
    );
}
