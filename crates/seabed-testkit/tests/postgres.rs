//! The throw-away servers themselves: they start, die and come back as the tests of the backend need it.

use seabed_testkit::postgres::{Cluster, PgBouncer};
use seabed_testkit::proxy::{Act, Direction, Fault, Proxy};

#[test]
fn databases_are_apart_and_outlive_every_kind_of_stop() {
    // The kernel keeps what a killed process has written, so the disk can be spared.
    let mut cluster = Cluster::start_with(&["fsync=off"]);
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
    assert_eq!((cluster.port(), cluster.sql("postgres", "SHOW fsync").as_str()), (port, "off"));
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

/// The client knows that it was applied only when it got to the end; it was not when the statement never arrived.
#[test]
fn the_proxy_cuts_at_each_message_and_nowhere_else() {
    let cluster = Cluster::start();
    let proxy = Proxy::start(cluster.port());
    cluster.sql("postgres", "CREATE TABLE numbers (number int)");
    for direction in [Direction::ToServer, Direction::ToClient] {
        for act in [Act::CutBefore, Act::CutAfter] {
            let mut failures = 0;
            for message in 1.. {
                proxy.arm(Fault { direction, message, act });
                let answer = cluster.sql_at(&proxy.url("postgres"), "INSERT INTO numbers VALUES (1)");
                cluster.wait_alone();
                let rows = cluster.sql(
                    "postgres",
                    "WITH gone AS (DELETE FROM numbers RETURNING 1) SELECT count(*) FROM gone",
                );
                if !proxy.has_fired() {
                    assert_eq!((answer, rows.as_str()), (Ok(String::new()), "1"), "{}", proxy.trace());
                    break;
                }
                failures += u32::from(answer.is_err());
                assert!(answer.is_err() || rows == "1", "{direction:?} {act:?} {message}: {}", proxy.trace());
                // The letter of a message that is cut off is the last of the trace.
                let lost = act == Act::CutBefore && proxy.trace().ends_with(">Q ");
                let arrived = proxy.trace().contains(">Q") && !lost;
                // Asked while the other direction was being cut: it may have arrived or not.
                let raced = direction == Direction::ToClient && proxy.trace().ends_with(">Q ");
                assert!(
                    raced || (rows == "1") == arrived,
                    "{direction:?} {act:?} {message}: {}",
                    proxy.trace()
                );
            }
            // The startup and the query; a psql that knows TLS asks for that before.
            assert!(failures >= 2, "{direction:?} {act:?}: {failures}");
        }
    }
}

#[test]
fn the_proxy_counts_what_a_network_would_cost() {
    let cluster = Cluster::start();
    let proxy = Proxy::start(cluster.port());
    assert_eq!(cluster.sql_at(&proxy.url("postgres?sslmode=disable"), "SELECT 1").unwrap(), "1");
    // The client does not wait until its farewell has arrived.
    cluster.wait_alone();
    let counts = proxy.counts();
    assert_eq!(
        (counts.connections, counts.round_trips),
        (1, 2),
        "the startup and the query: {}",
        proxy.trace()
    );
    assert_eq!(
        (counts.to_server, proxy.trace().matches("<Z").count()),
        (3, 2),
        "and the end: {}",
        proxy.trace()
    );
}

#[test]
fn what_the_proxy_holds_arrives_when_it_is_released() {
    let cluster = Cluster::start();
    let proxy = Proxy::start(cluster.port());
    // The query is the client's last message but one.
    proxy.arm(Fault { direction: Direction::ToServer, message: 2, act: Act::Hold });
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| cluster.sql_at(&proxy.url("postgres?sslmode=disable"), "SELECT 7"));
        proxy.wait_fired();
        assert!(!asked.is_finished());
        assert!(!proxy.trace().contains("<D"), "{}", proxy.trace());
        proxy.release();
        assert_eq!(asked.join().unwrap().unwrap(), "7");
    });
}

#[test]
fn the_proxy_leads_to_another_server_when_it_is_told() {
    let servers = [Cluster::start(), Cluster::start()];
    let proxy = Proxy::start(servers[0].port());
    for server in &servers {
        proxy.lead_to(server.port());
        let port = servers[0].sql_at(&proxy.url("postgres"), "SHOW port").unwrap();
        assert_eq!(port, server.port().to_string());
    }
}
