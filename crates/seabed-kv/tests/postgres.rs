//! What the PostgreSQL backend promises beyond the battery: one round trip a batch, several stores over one database, an honest
//! answer when the server goes, and no session left behind.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests; a failure is the test's")]

use std::sync::atomic::{AtomicU64, Ordering};

use seabed_kv::postgres::PostgresOptions;
use seabed_kv::{
    Applied, Batch, Durability, ErrorKind, KeyRange, Op, Outcome, Refusal, ScanSpec, Store, Tenant,
};
use seabed_testkit::Rng;
use seabed_testkit::postgres::{Cluster, PgBouncer};
use seabed_testkit::proxy::{Act, Direction, Fault, Proxy};

const DIALECTS: [&str; 2] = ["postgres://", "postgres+portable://"];

/// The address in another dialect.
fn dialect(url: &str, scheme: &str) -> String {
    url.replacen("postgres://", scheme, 1)
}

fn put(tenant: &Tenant, key: &[u8], payload: &[u8], durability: Durability) -> Op<Outcome> {
    let mut batch = Batch::new();
    batch.put("c", key, payload);
    tenant.apply(batch, durability)
}

#[test]
fn a_batch_is_one_round_trip() {
    let cluster = Cluster::start();
    let proxy = Proxy::start(cluster.port());
    for scheme in DIALECTS {
        let schema = scheme.replace(['+', ':', '/'], "_");
        let options = PostgresOptions { schema, ..PostgresOptions::default() };
        let store = Store::postgres_with(&dialect(&proxy.url("postgres"), scheme), options).unwrap();
        let tenant = store.open("t").wait().unwrap();
        let round_trips = |what: &str, build: &dyn Fn(&mut Batch)| {
            let mut batch = Batch::new();
            build(&mut batch);
            proxy.reset();
            assert!(tenant.apply(batch, Durability::Durable).wait().unwrap().is_applied(), "{what}");
            assert_eq!(proxy.counts().round_trips, 1, "{scheme} {what}: {}", proxy.trace());
        };
        round_trips("one put", &|batch| {
            batch.put("c", b"1", b"x");
        });
        round_trips("a check and a put", &|batch| {
            batch.check_equals("c", b"1", b"x").put("c", b"2", b"y");
        });
        round_trips("a delete", &|batch| {
            batch.delete("c", b"2");
        });
        round_trips("a hundred puts", &|batch| {
            for number in 0..100_u8 {
                batch.put("c", [number], b"x");
            }
        });
        round_trips("everything", &|batch| {
            batch.check_exists("c", b"1").check_absent("c", b"none");
            batch.put("c", b"a1", b"x").delete_prefix("c", b"a").put("d", b"1", b"z").delete("c", b"1");
        });
        proxy.reset();
        tenant.get("d", b"1").wait().unwrap();
        tenant.scan_page(ScanSpec::new("c", KeyRange::all())).wait().unwrap();
        assert_eq!(proxy.counts().round_trips, 2, "{scheme}: {}", proxy.trace());
        store.close().wait().unwrap();
    }
}

#[test]
fn requests_that_wait_share_a_statement() {
    let cluster = Cluster::start();
    let proxy = Proxy::start(cluster.port());
    let store = Store::postgres(&proxy.url("postgres")).unwrap();
    let tenant = store.open("t").wait().unwrap();
    put(&tenant, b"first", b"x", Durability::Durable).wait().unwrap();
    proxy.hold();
    // The first goes alone and is held; the others gather behind it.
    let ops: Vec<_> = (0..64_u8).map(|number| put(&tenant, &[number], b"x", Durability::Durable)).collect();
    proxy.release();
    for op in ops {
        assert!(op.wait().unwrap().is_applied());
    }
    let stats = tenant.stats().wait().unwrap();
    assert_eq!(stats.commits, 65);
    assert!(stats.groups <= 4, "{} groups", stats.groups);
}

#[test]
fn rows_with_names_of_any_length_are_what_the_memory_has() {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let stores = [Store::memory(), Store::postgres(&cluster.url("postgres")).unwrap()];
    let mut rng = Rng::new(7);
    // Heads that are shared, and bytes that do not compress.
    let mut noise = |bytes: usize| (0..bytes).map(|_| rng.next().to_be_bytes()[3]).collect::<Vec<u8>>();
    let heads = [noise(1_999), noise(2_000), noise(2_000)];
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for head in &heads {
        keys.push(head.clone());
        for tail in [1, 40, 9_000] {
            keys.extend((0..4).map(|_| [head.as_slice(), &noise(tail)].concat()));
        }
    }
    let categories = [noise(255), noise(256), noise(65_535), b"short".to_vec()];
    let mut batch = Batch::new();
    for category in &categories {
        for (number, key) in keys.iter().enumerate() {
            batch.put(category, key, number.to_be_bytes());
        }
    }
    let tenants = stores.each_ref().map(|store| store.open("t").wait().unwrap());
    let same = |ask: &dyn Fn(&Tenant) -> String| assert_eq!(ask(&tenants[0]), ask(&tenants[1]));
    same(&|tenant| {
        format!(
            "{:?}",
            tenant.apply(batch.clone(), Durability::Durable).wait().unwrap().applied().unwrap().deleted
        )
    });
    same(&|tenant| format!("{:?}", tenant.categories().wait().unwrap()));
    same(&|tenant| format!("{:?}", tenant.verify().wait().unwrap()));
    for (start, stop) in keys.iter().zip(keys.iter().rev()) {
        let range = KeyRange::new(start, stop);
        for category in &categories {
            let spec = ScanSpec::new(category, range.clone());
            same(&|tenant| format!("{:?}", tenant.scan(spec.clone()).collect().wait().unwrap()));
            same(&|tenant| format!("{:?}", tenant.scan(spec.clone().reverse()).collect().wait().unwrap()));
            same(&|tenant| format!("{:?}", tenant.count(category, &range).wait().unwrap()));
        }
        let long_prefix = &stop[..stop.len() - 1];
        same(&|tenant| format!("{:?}", tenant.delete_prefix(&categories[0], long_prefix).wait().unwrap()));
        same(&|tenant| format!("{:?}", tenant.get(&categories[1], start).wait().unwrap()));
        same(&|tenant| format!("{:?}", tenant.delete(&categories[2], start).wait().unwrap()));
    }
}

#[test]
fn stores_that_share_a_database_lose_no_update() {
    let cluster = Cluster::start_with(&["fsync=off"]);
    for scheme in DIALECTS {
        let url = dialect(&cluster.create_database(), scheme);
        // At the same time: both find nothing, and both make the tables.
        let stores: Vec<_> = std::thread::scope(|scope| {
            let open = || {
                let store = Store::postgres(&url).unwrap();
                store.open("t").wait().unwrap();
                store
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let refused = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for store in &stores {
                scope.spawn(|| {
                    let tenant = store.open("t").wait().unwrap();
                    for _ in 0..25 {
                        let mut found = tenant.get("c", b"sum").wait().unwrap();
                        loop {
                            let sum = found
                                .as_ref()
                                .map_or(0, |sum| u64::from_be_bytes(sum[..].try_into().unwrap()));
                            let mut batch = Batch::new();
                            match found.take() {
                                Some(before) => batch.check_equals("c", b"sum", before),
                                None => batch.check_absent("c", b"sum"),
                            };
                            batch
                                .put("c", b"sum", (sum + 1).to_be_bytes())
                                .delete_prefix("log", sum.to_be_bytes());
                            match tenant.apply(batch, Durability::Durable).wait() {
                                Ok(Outcome::Applied(_)) => break,
                                Ok(Outcome::Refused(Refusal { found: held, .. })) => {
                                    refused.fetch_add(1, Ordering::Relaxed);
                                    found = held;
                                }
                                // Rolled back in favour of others more often than is tried again: nothing was applied.
                                Err(error) if error.is_retryable() => {
                                    found = tenant.get("c", b"sum").wait().unwrap();
                                }
                                Err(error) => panic!("{error}"),
                            }
                        }
                    }
                });
            }
        });
        let tenant = stores[0].open("t").wait().unwrap();
        assert_eq!(tenant.get("c", b"sum").wait().unwrap(), Some(100_u64.to_be_bytes().to_vec()), "{scheme}");
        assert!(refused.load(Ordering::Relaxed) > 0, "the stores never met");
    }
}

#[test]
fn a_check_waits_for_whoever_changes_what_it_looks_at() {
    let cluster = Cluster::start();
    let store = Store::postgres(&cluster.url("postgres")).unwrap();
    let tenant = store.open("t").wait().unwrap();
    put(&tenant, b"k", b"old", Durability::Durable).wait().unwrap();
    // A commit in progress: its locks are held, its write is not seen.
    let other = Store::postgres(&cluster.url("postgres")).unwrap();
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
                $$ BEGIN PERFORM pg_advisory_lock(1); PERFORM pg_advisory_unlock(1); RETURN NEW; END $$; \
                CREATE TRIGGER slow BEFORE UPDATE ON seabed.rows FOR EACH ROW EXECUTE FUNCTION slow()";
    cluster.sql("postgres", slow);
    let wait_for = |condition: &str| {
        let wait = format!(
            "DO $$ BEGIN WHILE NOT ({condition}) LOOP PERFORM pg_sleep(0.005), pg_stat_clear_snapshot(); END LOOP; END $$"
        );
        cluster.sql("postgres", &wait);
    };
    let waiting = "(SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory')";
    cluster.sql("postgres", "CREATE TABLE released (now boolean)");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let hold = "SELECT pg_advisory_lock(1); \
                        DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM released) LOOP PERFORM pg_sleep(0.005); END LOOP; END $$";
            // In a session of its own: the cluster has one for everybody.
            cluster.sql_at(&cluster.url("postgres"), hold).unwrap();
        });
        wait_for("EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1)");
        let writing = put(&other.open("t").wait().unwrap(), b"k", b"new", Durability::Durable);
        wait_for(&format!("{waiting} = 1"));
        let mut batch = Batch::new();
        batch.check_equals("c", b"k", b"old").put("c", b"seen", b"old");
        let checking = tenant.apply(batch, Durability::Durable);
        wait_for(&format!("{waiting} = 2"));
        // Another row of the same tenant waits for nobody.
        let third = Store::postgres(&cluster.url("postgres")).unwrap();
        put(&third.open("t").wait().unwrap(), b"other", b"x", Durability::Durable).wait().unwrap();
        cluster.sql("postgres", "INSERT INTO released VALUES (true)");
        assert!(writing.wait().unwrap().is_applied());
        let refusal = checking.wait().unwrap().applied().unwrap_err();
        assert_eq!(refusal, Refusal { check: 0, found: Some(b"new".to_vec()) });
    });
}

#[test]
fn what_may_have_been_committed_is_unknown_and_what_was_not_sent_is_not() {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let proxy = Proxy::start(cluster.port());
    for scheme in DIALECTS {
        let schema = scheme.replace(['+', ':', '/'], "_");
        let options = PostgresOptions { schema, ..PostgresOptions::default() };
        let store = Store::postgres_with(&dialect(&proxy.url("postgres"), scheme), options).unwrap();
        let tenant = store.open("t").wait().unwrap();
        let (mut lost, mut committed) = (0, 0);
        for direction in [Direction::ToServer, Direction::ToClient] {
            for message in 1..200_u8 {
                let key = [direction as u8, message];
                tenant.get("c", key).wait().unwrap();
                proxy.arm(Fault { direction, message: u64::from(message), act: Act::CutBefore });
                let mut batch = Batch::new();
                batch.check_absent("c", key).put("c", key, b"x");
                let answer = tenant.apply(batch, Durability::Durable).wait();
                let fired = proxy.has_fired();
                proxy.disarm();
                let there = tenant.exists("c", key).wait().unwrap();
                match answer {
                    Ok(outcome) => assert_eq!(outcome.is_applied(), there),
                    Err(error) if error.applied() == Applied::No => assert!(!there, "{error}"),
                    Err(error) => {
                        assert!(fired, "{error}");
                        if there { committed += 1 } else { lost += 1 }
                    }
                }
                if !fired {
                    break;
                }
            }
        }
        assert!(
            lost > 0 && committed > 0,
            "{scheme}: {lost} were lost, {committed} were committed unanswered"
        );
        store.close().wait().unwrap();
    }
}

#[test]
fn a_server_that_is_down_is_an_error_at_once_and_is_found_again() {
    let mut cluster = Cluster::start();
    let store = Store::postgres(&cluster.url("postgres")).unwrap();
    let tenant = store.open("t").wait().unwrap();
    put(&tenant, b"k", b"x", Durability::Durable).wait().unwrap();
    cluster.stop_fast();
    let error = loop {
        let error = put(&tenant, b"k", b"y", Durability::Durable).wait().unwrap_err();
        // The connection that the server has just closed may be found out by the write.
        if error.applied() == Applied::No {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.is_retryable());
    let error = tenant.get("c", b"k").wait().unwrap_err();
    assert!(error.is_retryable(), "{error}");
    cluster.start_again();
    let again = loop {
        match tenant.get("c", b"k").wait() {
            Ok(found) => break found,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    };
    assert_eq!(again, Some(b"x".to_vec()));
    assert!(put(&tenant, b"k", b"z", Durability::Durable).wait().unwrap().is_applied());
}

#[test]
fn relaxed_commits_that_a_crash_may_have_taken_are_told_of() {
    let mut cluster = Cluster::start();
    let store = Store::postgres(&cluster.url("postgres")).unwrap();
    let tenant = store.open("t").wait().unwrap();
    let kept = put(&tenant, b"1", b"x", Durability::Relaxed).wait().unwrap().applied().unwrap();
    kept.wait_durable().wait().unwrap();
    let commit = put(&tenant, b"2", b"x", Durability::Relaxed).wait().unwrap().applied().unwrap();
    cluster.kill9();
    cluster.start_again();
    // The first that goes on from there is told, and nothing of it is applied.
    let error = loop {
        match put(&tenant, b"3", b"x", Durability::Durable).wait() {
            Err(error) if error.kind() == ErrorKind::Busy => {}
            told => break told.unwrap_err(),
        }
    };
    assert_eq!((error.kind(), error.applied()), (ErrorKind::Backend, Applied::No), "{error}");
    assert_eq!(tenant.get("c", b"3").wait().unwrap(), None);
    assert!(commit.wait_durable().wait().is_err());
    kept.wait_durable().wait().unwrap();
    // From then on it goes on with what is there.
    assert!(put(&tenant, b"3", b"x", Durability::Relaxed).wait().unwrap().is_applied());
    tenant.flush().wait().unwrap();
    assert!(commit.wait_durable().wait().is_err(), "it stays lost");
}

#[test]
fn what_was_queued_when_relaxed_commits_are_lost_is_not_applied_either() {
    let mut cluster = Cluster::start();
    let proxy = Proxy::start(cluster.port());
    let store = Store::postgres(&proxy.url("postgres")).unwrap();
    let tenant = store.open("t").wait().unwrap();
    let commit = put(&tenant, b"1", b"x", Durability::Relaxed).wait().unwrap().applied().unwrap();
    cluster.kill9();
    cluster.start_again();
    proxy.lead_to(cluster.port());
    while tenant.get("c", b"1").wait().is_err() {}
    proxy.hold();
    // The first goes alone and is held; it will be the one that is told. The others were called without knowing.
    let ops: Vec<_> = (2..8_u8).map(|number| put(&tenant, &[number], b"x", Durability::Durable)).collect();
    let waits = [commit.wait_durable(), commit.wait_durable()];
    proxy.release();
    for op in ops {
        let error = op.wait().unwrap_err();
        assert_eq!((error.kind(), error.applied()), (ErrorKind::Backend, Applied::No), "{error}");
    }
    for wait in waits {
        assert!(wait.wait().is_err(), "it is lost for whoever asks");
    }
    assert_eq!(tenant.count("c", &KeyRange::new([2], [9])).wait().unwrap(), 0);
    assert!(put(&tenant, b"2", b"x", Durability::Durable).wait().unwrap().is_applied());
}

#[test]
fn a_restart_in_order_loses_nothing() {
    let mut cluster = Cluster::start();
    let store = Store::postgres(&cluster.url("postgres")).unwrap();
    let tenant = store.open("t").wait().unwrap();
    let commit = put(&tenant, b"1", b"x", Durability::Relaxed).wait().unwrap().applied().unwrap();
    cluster.restart();
    loop {
        match commit.wait_durable().wait() {
            Ok(()) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
        }
    }
    assert_eq!(tenant.get("c", b"1").wait().unwrap(), Some(b"x".to_vec()));
}

#[test]
fn durability_is_the_batchs_and_not_the_servers_default() {
    let cluster = Cluster::start_with(&["synchronous_commit=off", "wal_writer_delay=10s"]);
    let flushed = "SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()";
    for scheme in DIALECTS {
        let url = dialect(&cluster.create_database(), scheme);
        let store = Store::postgres(&url).unwrap();
        let tenant = store.open("t").wait().unwrap();
        assert!(put(&tenant, b"1", b"x", Durability::Durable).wait().unwrap().is_applied());
        assert_eq!(cluster.sql("postgres", flushed).trim(), "t", "{scheme}");
    }
    let store = Store::postgres(&cluster.create_database()).unwrap();
    let tenant = store.open("t").wait().unwrap();
    // A refusal tells of what it was refused by, and so waits for it.
    put(&tenant, b"1", b"x", Durability::Relaxed).wait().unwrap();
    let mut batch = Batch::new();
    batch.check_absent("c", b"1").put("c", b"2", b"x");
    assert!(!tenant.apply(batch.clone(), Durability::Relaxed).wait().unwrap().is_applied());
    assert_eq!(cluster.sql("postgres", flushed).trim(), "t");
    put(&tenant, b"1", b"y", Durability::Relaxed).wait().unwrap();
    assert_eq!(cluster.sql("postgres", flushed).trim(), "f");
    tenant.flush().wait().unwrap();
    assert_eq!(cluster.sql("postgres", flushed).trim(), "t");
}

#[test]
fn snapshots_leave_connections_for_others() {
    let cluster = Cluster::start();
    let options =
        PostgresOptions { connections_max: 4, acquire_ms_max: 60_000, ..PostgresOptions::default() };
    let store = Store::postgres_with(&cluster.url("postgres"), options).unwrap();
    let tenant = store.open("t").wait().unwrap();
    let snapshots: Vec<_> = (0..2).map(|_| tenant.snapshot().wait().unwrap()).collect();
    let error = tenant.snapshot().wait().unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Busy, true), "{error}");
    assert!(put(&tenant, b"k", b"x", Durability::Durable).wait().unwrap().is_applied());
    assert_eq!(snapshots[0].get("c", b"k").wait().unwrap(), None);
    drop(snapshots);
    // Their transactions end with them, not with their time.
    cluster.wait_quiet();
    assert!(tenant.snapshot().wait().is_ok());
}

#[test]
fn it_works_behind_a_pooler_that_hands_out_transactions() {
    let cluster = Cluster::start();
    let pooler = PgBouncer::start(&cluster, 2);
    let (url, direct) = (pooler.url("postgres"), cluster.url("postgres"));
    let store = Store::postgres(&url).unwrap();
    let tenants: Vec<_> = (0..8).map(|number| store.open(format!("t{number}")).wait().unwrap()).collect();
    let writes: Vec<_> = (0..40_usize)
        .map(|number| put(&tenants[number % 8], &number.to_be_bytes(), b"x", Durability::Durable))
        .collect();
    for write in writes {
        assert!(write.wait().unwrap().is_applied());
    }
    let snapshot = tenants[0].snapshot().wait().unwrap();
    assert_eq!(snapshot.count("c", &KeyRange::all()).wait().unwrap(), 5);
    drop(snapshot);
    store.close().wait().unwrap();
    let direct = Store::postgres(&direct).unwrap();
    assert_eq!(direct.open("t7").wait().unwrap().count("c", &KeyRange::all()).wait().unwrap(), 5);
}

#[test]
fn a_schema_that_is_newer_or_of_the_other_dialect_is_refused() {
    let cluster = Cluster::start();
    let url = cluster.url("postgres");
    let store = Store::postgres(&url).unwrap();
    store.own().unwrap();
    let error = Store::postgres(&dialect(&url, DIALECTS[1])).unwrap().own().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("postgres") && error.to_string().contains("portable"), "{error}");
    cluster.sql("postgres", "INSERT INTO seabed.format VALUES (99, 'postgres', 'seabed 9.9')");
    let error = Store::postgres(&url).unwrap().open("t").wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("99") && error.to_string().contains("seabed 9.9"), "{error}");
}

#[test]
fn tenants_with_odd_names_are_tenants() {
    let cluster = Cluster::start();
    let store = Store::postgres(&cluster.url("postgres")).unwrap();
    let names = ["nul\0", "../x", "канал-β", "'; DROP TABLE seabed.rows; --", "%41"];
    for name in names {
        store.open(name).wait().unwrap().put("c", b"k", name).wait().unwrap();
    }
    let mut listed: Vec<_> = store.list().wait().unwrap().iter().map(|id| id.as_str().to_owned()).collect();
    let mut expected = names.map(str::to_owned);
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    for name in names {
        let found = store.tenant(name).unwrap().get("c", b"k").wait().unwrap();
        assert_eq!(found, Some(name.as_bytes().to_vec()));
    }
    let mut batch = Batch::new();
    for number in 0..2_500_u32 {
        batch.put("c", number.to_be_bytes(), b"x");
    }
    store.tenant("../x").unwrap().apply(batch, Durability::Durable).wait().unwrap();
    store.drop_tenant("../x").wait().unwrap();
    assert_eq!(store.list().wait().unwrap().len(), names.len() - 1);
    assert_eq!(store.open("../x").wait().unwrap().verify().wait().unwrap().rows, 0);
}

#[test]
fn it_may_be_waited_for_inside_a_runtime_of_the_callers() {
    let cluster = Cluster::start();
    let url = cluster.url("postgres");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        // A store that is made, waited for and dropped within it; its one thread waits, and nothing depends on it.
        let store = Store::postgres(&url).unwrap();
        let tenant = store.open("t").wait().unwrap();
        assert!(put(&tenant, b"k", b"x", Durability::Durable).await.unwrap().is_applied());
        drop(put(&tenant, b"k", b"y", Durability::Durable));
        drop((tenant, store));
    });
    let store = Store::postgres(&url).unwrap();
    let tenant = store.open("t").wait().unwrap();
    // What was queued is applied, also by a store that was dropped.
    cluster.wait_quiet();
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), Some(b"y".to_vec()));
}

#[test]
fn a_commit_that_no_standby_has_confirmed_is_unknown() {
    let cluster = Cluster::start();
    let store = Store::postgres(&cluster.url("postgres")).unwrap();
    let tenant = store.open("t").wait().unwrap();
    let mut standby = cluster.standby();
    assert!(put(&tenant, b"1", b"x", Durability::Durable).wait().unwrap().is_applied());
    standby.stop_fast();
    let commit = put(&tenant, b"2", b"x", Durability::Relaxed).wait().unwrap().applied().unwrap();
    for end in ["pg_cancel_backend", "pg_terminate_backend"] {
        let writing = put(&tenant, b"1", end.as_bytes(), Durability::Durable);
        cluster.wait_waiting("SyncRep");
        // It is committed here, and seen by nobody before the standby has it.
        assert_ne!(tenant.get("c", b"1").wait().unwrap(), Some(end.as_bytes().to_vec()));
        cluster.sql(
            "postgres",
            &format!("SELECT {end}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"),
        );
        let error = writing.wait().unwrap_err();
        assert_eq!(error.applied(), Applied::Unknown, "{end}: {error}");
    }
    // A refusal waits for the standby, too, and so does a flush.
    let mut batch = Batch::new();
    batch.check_absent("c", b"1");
    let refused = tenant.apply(batch, Durability::Relaxed);
    cluster.wait_waiting("SyncRep");
    standby.start_again();
    assert!(!refused.wait().unwrap().is_applied());
    commit.wait_durable().wait().unwrap();
}

#[test]
fn a_slow_opening_holds_nobody_else_up() {
    let cluster = Cluster::start();
    let proxy = Proxy::start(cluster.port());
    let store = Store::postgres(&proxy.url("postgres")).unwrap();
    let tenant = store.open("open").wait().unwrap();
    proxy.hold();
    // Several open it, some of them without waiting; it is opened once.
    drop(store.open("slow"));
    let openings: Vec<_> = (0..4).map(|_| store.open("slow")).collect();
    assert!(!store.has("slow"));
    assert_eq!(store.tenant("open").unwrap().id(), tenant.id());
    let closing = store.close_tenant("closed while it is opened");
    assert!(closing.wait().is_ok());
    drop(store.open("gone"));
    let gone = store.drop_tenant("gone");
    proxy.release();
    for opening in openings {
        let opened = opening.wait().unwrap();
        opened.put("c", b"k", b"x").wait().unwrap();
    }
    assert!(store.has("slow"));
    gone.wait().unwrap();
    let listed: Vec<_> = store.list().wait().unwrap().iter().map(|id| id.as_str().to_owned()).collect();
    assert_eq!(listed, ["open", "slow"]);
    // One that nobody awaits is opened all the same.
    drop(store.open("dropped"));
    while !store.has("dropped") {
        std::thread::yield_now();
    }
    store.close().wait().unwrap();
}

#[test]
fn an_opening_that_failed_is_tried_again() {
    let mut cluster = Cluster::start();
    let store = Store::postgres(&cluster.url("postgres")).unwrap();
    cluster.stop_fast();
    let error = store.open("t").wait().unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(error.tenant().unwrap().as_str(), "t");
    cluster.start_again();
    let tenant = loop {
        match store.open("t").wait() {
            Ok(tenant) => break tenant,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    };
    assert!(tenant.put("c", b"k", b"x").wait().is_ok());
}
