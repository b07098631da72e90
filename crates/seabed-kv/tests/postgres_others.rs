//! What others do to a store: sessions that hold locks, networks that hold statements, instances that write what is removed, servers
//! that became read-only.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests; a failure is the test's")]

mod dialects;

use dialects::{Dialect, database, eventually, in_each_dialect};
use seabed_kv::{Applied, Batch, Durability, ErrorKind, KeyRange, Refusal, ScanSpec, Tenant, TenantId};
use seabed_testkit::postgres::Cluster;
use seabed_testkit::proxy::{Act, Direction, Fault, Proxy};

in_each_dialect!(
    a_write_that_waits_for_a_lock_too_long_is_busy_and_never_appears,
    what_a_network_held_is_unknown_and_never_appears_over_newer_writes,
    large_refusals_of_a_group_are_answered_in_pieces,
    a_removal_that_stops_halfway_is_unknown_and_can_be_repeated,
    openings_and_reads_that_are_rolled_back_are_tried_again,
    a_session_that_became_read_only_is_not_kept,
    a_store_that_nobody_made_is_empty_and_stays_unmade,
    who_waits_to_own_the_store_holds_nobody_else_up,
    a_warning_of_the_database_is_no_failed_commit,
    functions_of_an_older_version_are_replaced,
);

/// A session that holds a lock until its proxy is cut: its goodbye does not arrive.
fn hold_lock(cluster: &Cluster, url: &str, statement: &str) -> Proxy {
    let proxy = Proxy::start(cluster.port());
    let there = format!("{}?sslmode=disable", proxy.url(database(url)));
    proxy.arm(Fault { direction: Direction::ToServer, message: 3, act: Act::Hold });
    cluster.sql_at(&there, &format!("BEGIN; {statement}")).unwrap();
    proxy.wait_fired();
    proxy
}

fn a_write_that_waits_for_a_lock_too_long_is_busy_and_never_appears(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    let store = dialect.store(&url);
    let tenant = store.open("t").wait().unwrap();
    tenant.put("c", b"k", b"old").wait().unwrap();
    let lock = hold_lock(&cluster, &url, "LOCK TABLE seabed.rows IN EXCLUSIVE MODE");
    let error = tenant.put("c", b"k", b"given up").wait().unwrap_err();
    assert_eq!((error.kind(), error.applied()), (ErrorKind::Busy, Applied::No), "{dialect:?}: {error}");
    lock.cut();
    cluster.wait_quiet();
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), Some(b"old".to_vec()), "{dialect:?}");
    tenant.put("c", b"k", b"new").wait().unwrap();
    store.close().wait().unwrap();
}

/// The network swallows everything in both directions, and delivers it when its sender has gone.
fn what_a_network_held_is_unknown_and_never_appears_over_newer_writes(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let proxy = Proxy::start(cluster.port());
    let url = cluster.create_database();
    let store = dialect.store(&proxy.url(database(&url)));
    let tenant = store.open("t").wait().unwrap();
    tenant.put("c", b"k", b"old").wait().unwrap();
    proxy.hold();
    let (late, read) = (tenant.put("c", b"k", b"late"), tenant.get("c", b"k"));
    let error = late.wait().unwrap_err();
    assert_eq!(
        (error.kind(), error.applied()),
        (ErrorKind::Timeout, Applied::Unknown),
        "{dialect:?}: {error}"
    );
    assert!(read.wait().unwrap_err().is_retryable(), "{dialect:?}");
    let other = dialect.store(&url);
    let newer = other.open("t").wait().unwrap();
    newer.put("c", b"k", b"newer").wait().unwrap();
    proxy.release();
    // The statement arrives before what is asked behind it on a connection that is made later.
    eventually(|| tenant.get("c", b"k").wait());
    cluster.wait_quiet();
    assert_eq!(newer.get("c", b"k").wait().unwrap(), Some(b"newer".to_vec()), "{dialect:?}");
    eventually(|| tenant.put("c", b"k", b"newest").wait());
    store.close().wait().unwrap();
    other.close().wait().unwrap();
}

fn large_refusals_of_a_group_are_answered_in_pieces(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let proxy = Proxy::start(cluster.port());
    let url = cluster.create_database();
    let store = dialect.store(&proxy.url(database(&url)));
    let tenant = store.open("t").wait().unwrap();
    let row = vec![7; 4 << 20];
    tenant.put("c", b"large", row.clone()).wait().unwrap();
    let before = tenant.stats().wait().unwrap().groups;
    proxy.hold();
    let request = |number: u8| {
        let mut batch = Batch::new();
        if number.is_multiple_of(2) {
            batch.check_absent("c", b"large");
        }
        batch.put("c", [number], b"x");
        tenant.apply(batch, Durability::Durable)
    };
    // The first goes alone and is held; the others gather behind it.
    let ops: Vec<_> = (0..25_u8).map(request).collect();
    proxy.release();
    for (number, op) in (0_u8..).zip(ops) {
        let outcome = op.wait().unwrap().applied();
        match number % 2 {
            0 => assert_eq!(
                outcome.unwrap_err(),
                Refusal { check: 0, found: Some(row.clone()) },
                "{dialect:?}"
            ),
            _ => assert!(outcome.is_ok(), "{dialect:?}: {number}"),
        }
    }
    // Two of 4 MiB fill a piece.
    let groups = tenant.stats().wait().unwrap().groups - before;
    assert!((6..=9).contains(&groups), "{dialect:?}: {groups} groups");
    assert_eq!(tenant.count("c", &KeyRange::all()).wait().unwrap(), 1 + 12);
    store.close().wait().unwrap();
}

/// Lets the first statements of a kind on a table end with an error, this one and those until `last`.
fn stumble(cluster: &Cluster, database: &str, table: &str, event: &str, from: u32, last: u32, code: &str) {
    let sql = format!(
        "CREATE SEQUENCE stumbles_{event}; CREATE FUNCTION stumble_{event}() RETURNS trigger LANGUAGE plpgsql AS $$ \
         DECLARE number bigint := nextval('public.stumbles_{event}'); BEGIN \
         IF number BETWEEN {from} AND {last} THEN RAISE 'stumbled' USING ERRCODE = '{code}'; END IF; RETURN NULL; END $$; \
         CREATE TRIGGER stumble BEFORE {event} ON seabed.{table} FOR EACH STATEMENT EXECUTE FUNCTION stumble_{event}()"
    );
    cluster.sql(database, &sql);
}

fn a_removal_that_stops_halfway_is_unknown_and_can_be_repeated(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    let store = dialect.store(&url);
    let tenant = store.open("t").wait().unwrap();
    let mut batch = Batch::new();
    for number in 0..2_500_u32 {
        batch.put("c", number.to_be_bytes(), b"x");
    }
    tenant.apply(batch, Durability::Durable).wait().unwrap();
    stumble(&cluster, database(&url), "rows", "DELETE", 2, 2, "P0001");
    let error = store.drop_tenant("t").wait().unwrap_err();
    assert_eq!(error.applied(), Applied::Unknown, "{dialect:?}: {error}");
    assert_eq!(store.list().wait().unwrap().len(), 1, "{dialect:?}: it can be dropped again");
    let left = store.open("t").wait().unwrap().count("c", &KeyRange::all()).wait().unwrap();
    assert_eq!(left, 1_500, "{dialect:?}");
    store.drop_tenant("t").wait().unwrap();
    assert!(store.list().wait().unwrap().is_empty());
    assert_eq!(cluster.sql(database(&url), "SELECT count(*) FROM seabed.rows"), "0");
}

#[test]
fn what_another_instance_writes_after_a_removal_is_a_tenant_that_is_listed() {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    let stores = [(); 2].map(|()| Dialect::Postgres.store(&url));
    let [removing, writing] = stores.each_ref().map(|store| store.open("t").wait().unwrap());
    removing.put("c", b"1", b"x").wait().unwrap();
    stores[0].drop_tenant("t").wait().unwrap();
    assert!(stores[1].list().wait().unwrap().is_empty());
    writing.put("c", b"2", b"x").wait().unwrap();
    for store in &stores {
        let listed = store.list().wait().unwrap();
        assert_eq!(listed.iter().map(TenantId::as_str).collect::<Vec<_>>(), ["t"]);
    }
    stores[0].drop_tenant("t").wait().unwrap();
    assert_eq!(cluster.sql(database(&url), "SELECT count(*) FROM seabed.rows"), "0");
}

fn openings_and_reads_that_are_rolled_back_are_tried_again(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    let store = dialect.store(&url);
    let tenant = store.open("t").wait().unwrap();
    tenant.put("c", b"k", b"x").wait().unwrap();
    stumble(&cluster, database(&url), "tenants", "INSERT", 1, 3, "40001");
    store.open("other").wait().unwrap();
    // A read of a view that stumbles, in place of the table.
    let view = "ALTER TABLE seabed.rows RENAME TO kept; CREATE SEQUENCE reads; \
                CREATE FUNCTION stumble_read() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN \
                IF nextval('public.reads') % 3 <> 0 THEN RAISE 'stumbled' USING ERRCODE = '40001'; END IF; RETURN true; END $$; \
                CREATE VIEW seabed.rows AS SELECT * FROM seabed.kept WHERE (SELECT public.stumble_read())";
    cluster.sql(database(&url), view);
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), Some(b"x".to_vec()), "{dialect:?}");
    assert_eq!(tenant.count("c", &KeyRange::all()).wait().unwrap(), 1, "{dialect:?}");
    assert_eq!(tenant.scan(ScanSpec::new("c", KeyRange::all())).collect().wait().unwrap().len(), 1);
}

fn a_session_that_became_read_only_is_not_kept(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let proxy = Proxy::start(cluster.port());
    let url = cluster.create_database();
    let store = dialect.store(&proxy.url(database(&url)));
    let tenant = store.open("t").wait().unwrap();
    tenant.put("c", b"k", b"x").wait().unwrap();
    // As after a failover behind one address: the session goes on, and leads to a server that takes no writes.
    cluster.sql("postgres", "ALTER SYSTEM SET default_transaction_read_only = on");
    cluster.sql("postgres", "SELECT pg_reload_conf()");
    let error = loop {
        // Each session takes up the setting between two statements.
        if let Err(error) = tenant.put("c", b"k", b"y").wait() {
            break error;
        }
    };
    assert_eq!((error.kind(), error.applied()), (ErrorKind::Busy, Applied::No), "{dialect:?}: {error}");
    cluster.sql("postgres", "ALTER SYSTEM RESET default_transaction_read_only");
    cluster.sql("postgres", "SELECT pg_reload_conf()");
    proxy.reset();
    eventually(|| tenant.put("c", b"k", b"z").wait());
    assert!(proxy.counts().connections > 0, "{dialect:?}: the session was used again");
    store.close().wait().unwrap();
}

fn a_store_that_nobody_made_is_empty_and_stays_unmade(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    let store = dialect.store(&url);
    assert!(store.list().wait().unwrap().is_empty());
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'seabed'";
    assert_eq!(cluster.sql(database(&url), schemas), "0", "{dialect:?}");
    store.open("t").wait().unwrap();
    assert_eq!(store.list().wait().unwrap().len(), 1);
}

fn who_waits_to_own_the_store_holds_nobody_else_up(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let proxy = Proxy::start(cluster.port());
    let store = dialect.store(&proxy.url("postgres"));
    proxy.arm(Fault { direction: Direction::ToServer, message: 1, act: Act::Hold });
    std::thread::scope(|scope| {
        let owning = scope.spawn(|| store.own());
        proxy.wait_fired();
        assert!(!store.has("t"), "{dialect:?}");
        proxy.release();
        owning.join().unwrap().unwrap();
    });
    store.close().wait().unwrap();
    assert_eq!(store.own().unwrap_err().kind(), ErrorKind::Closed);
}

fn a_warning_of_the_database_is_no_failed_commit(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    let store = dialect.store(&url);
    let tenant = store.open("t").wait().unwrap();
    let warn = "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'disk is nearly full'; RETURN NEW; END $$; \
                CREATE TRIGGER warn BEFORE INSERT ON seabed.rows FOR EACH ROW EXECUTE FUNCTION warn()";
    cluster.sql(database(&url), warn);
    put(&tenant, b"k");
    assert!(tenant.exists("c", b"k").wait().unwrap(), "{dialect:?}");
}

fn put(tenant: &Tenant, key: &[u8]) {
    tenant.put("c", key, b"x").wait().unwrap();
}

fn functions_of_an_older_version_are_replaced(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    let store = dialect.store(&url);
    put(&store.open("t").wait().unwrap(), b"before");
    store.close().wait().unwrap();
    // With what each version lacks of this one's functions, or has otherwise.
    for (version, others) in [
        (1, "apply_put, seabed.apply_short_puts, seabed.apply_one, seabed.left_ms"),
        (2, "apply_put, seabed.apply_short_puts"),
    ] {
        cluster
            .sql(database(&url), &format!("UPDATE seabed.format SET version = {version} WHERE version = 3"));
        if dialect == Dialect::Postgres {
            cluster.sql(database(&url), &format!("DROP FUNCTION seabed.{others}"));
        }
        let store = dialect.store(&url);
        let tenant = store.open("t").wait().unwrap();
        put(&tenant, &[version]);
        let mut two = Batch::new();
        two.put("c", b"after", b"x").put("c", b"and after", b"x");
        tenant.apply(two, Durability::Durable).wait().unwrap();
        assert_eq!(
            tenant.count("c", &KeyRange::all()).wait().unwrap(),
            3 + u64::from(version),
            "{dialect:?}"
        );
        let newest = cluster.sql(database(&url), "SELECT max(version) FROM seabed.format");
        assert_eq!(newest, "3", "{dialect:?}");
        store.close().wait().unwrap();
    }
}
