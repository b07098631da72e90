//! The connection is cut at every message of a conversation, one after another: what the store says is true, it comes back by
//! itself, and the server keeps nothing of what was cut off.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests; a failure is the test's")]

mod dialects;

use dialects::{Dialect, answer, batch, database, eventually, in_each_dialect, read, rounds, seed};
use seabed_kv::postgres::PostgresOptions;
use seabed_kv::{Batch, Durability, KeyRange, ScanSpec, Store, Tenant};
use seabed_testkit::linearizable::{Answer, Key, Value};
use seabed_testkit::postgres::Cluster;
use seabed_testkit::proxy::{Act, Direction, Fault, Proxy};

in_each_dialect!(
    every_answer_is_true_when_the_connection_is_cut_anywhere,
    a_store_that_is_cut_off_while_it_starts_can_be_started_again,
    a_conditional_batch_is_one_round_trip,
);

const KEYS: usize = 3;
type Rows = [Value; KEYS];

/// A batch and what it is called in a failure.
struct Step {
    checks: Vec<(Key, Value)>,
    writes: Vec<(Key, Value)>,
}

fn program() -> Vec<Step> {
    vec![
        Step { checks: vec![], writes: vec![(0, Some(1))] },
        Step { checks: vec![(0, Some(1))], writes: vec![(0, Some(2))] },
        Step { checks: vec![(0, Some(2)), (1, None)], writes: vec![(1, Some(3)), (2, Some(4)), (0, None)] },
        Step { checks: vec![(1, Some(9))], writes: vec![(2, Some(5))] },
    ]
}

/// The rows after a step and its answer, for each of what they may have been before.
fn after(before: &[Rows], step: &Step, answer: Option<Answer>) -> Vec<Rows> {
    let mut after = Vec::new();
    for rows in before {
        let refusal = step.checks.iter().position(|(key, value)| rows[*key] != *value);
        let mut applied = *rows;
        for (key, value) in &step.writes {
            applied[*key] = *value;
        }
        match (answer, refusal) {
            (None, _) | (Some(Answer::Unknown), Some(_)) => after.push(*rows),
            (Some(Answer::Unknown), None) => after.extend([*rows, applied]),
            (Some(Answer::Applied), None) => after.push(applied),
            (Some(Answer::Refused { check, found }), Some(refused))
                if check == refused && rows[step.checks[refused].0] == found =>
            {
                after.push(*rows);
            }
            _ => {}
        }
    }
    after
}

/// Runs the program on rows that are not there, and holds every answer against what may be.
fn run(tenant: &Tenant, settled: impl Fn()) -> Vec<Rows> {
    let mut possible = vec![Rows::default()];
    for step in program() {
        let told = answer(tenant.apply(batch(&step.checks, &step.writes), Durability::Durable).wait());
        if matches!(told, Ok(Answer::Unknown)) {
            // It may still be under way.
            settled();
        }
        possible = after(&possible, &step, told.as_ref().ok().copied());
        assert!(!possible.is_empty(), "{told:?} cannot be");
        for key in 0..KEYS {
            if let Ok(found) = read(tenant, key) {
                possible.retain(|rows| rows[key] == found);
                assert!(!possible.is_empty(), "key {key} cannot be {found:?} after {told:?}");
            }
        }
    }
    if tenant.flush().wait().is_ok()
        && let Ok(found) = tenant.count("c", &KeyRange::all()).wait()
    {
        possible.retain(|rows| rows.iter().flatten().count() as u64 == found);
    }
    possible
}

/// Cuts at every so many messages, from a random one on, until the work is done uncut. What is cut after a message is cut before the
/// next one. A long run cuts at each, before and after.
fn at_messages(proxy: &Proxy, direction: Direction, stride: u64, mut work: impl FnMut(&str)) -> u64 {
    let long = rounds() > 1;
    let acts: &[Act] = if long { &[Act::CutAfter, Act::CutBefore] } else { &[Act::CutAfter] };
    let stride = if long { 1 } else { stride };
    let mut cuts = 0;
    for &act in acts {
        let mut message = 1 + seed() % stride;
        loop {
            proxy.arm(Fault { direction, message, act });
            work(&format!("{direction:?} {act:?} {message}"));
            if !proxy.has_fired() {
                proxy.disarm();
                break;
            }
            (message, cuts) = (message + stride, cuts + 1);
        }
    }
    cuts
}

const DIRECTIONS: [Direction; 2] = [Direction::ToServer, Direction::ToClient];

fn every_answer_is_true_when_the_connection_is_cut_anywhere(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    let proxy = Proxy::start(cluster.port());
    let store = dialect.store(&proxy.url(database(&url)));
    let witness = dialect.store(&url);
    // What a connection brought before it was cut may still be carried out.
    let settled = || {
        cluster.wait_gone(&proxy.take_ended());
        cluster.wait_quiet();
    };
    for direction in DIRECTIONS {
        let cuts = at_messages(&proxy, direction, 2, |name| {
            let tenant = eventually(|| store.open(name).wait());
            let possible = run(&tenant, settled);
            // The same store goes on, on a new connection.
            let all = |tenant: &Tenant| (0..KEYS).map(|key| read(tenant, key)).collect::<Result<Vec<_>, _>>();
            let rows = eventually(|| all(&tenant));
            assert!(
                possible.iter().any(|possible| possible[..] == rows),
                "{name}: {rows:?}\n{}",
                proxy.trace()
            );
            settled();
            let seen = witness.open(name).wait().unwrap();
            assert_eq!(all(&seen).unwrap(), rows, "{name}: it changed afterwards");
            store.close_tenant(name).wait().unwrap();
        });
        assert!(cuts >= 5, "{direction:?}: {cuts} cuts");
    }
    store.close().wait().unwrap();
    witness.close().wait().unwrap();
}

/// From the first byte on an empty schema: what makes the tables may be cut off, too.
fn a_store_that_is_cut_off_while_it_starts_can_be_started_again(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let proxy = Proxy::start(cluster.port());
    let url = dialect.url(&proxy.url("postgres"));
    for direction in DIRECTIONS {
        let cuts = at_messages(&proxy, direction, 4, |name| {
            let options = PostgresOptions { schema: name.to_owned(), ..PostgresOptions::default() };
            let store = Store::postgres_with(&url, options).unwrap();
            // Answers, whatever it answers.
            let _ = store.open("t").wait();
            let tenant = eventually(|| store.open("t").wait());
            eventually(|| tenant.put("c", b"k", b"x").wait());
            let rows = eventually(|| tenant.scan(ScanSpec::new("c", KeyRange::all())).collect().wait());
            assert_eq!(rows.len(), 1, "{name}");
            store.close().wait().unwrap();
            cluster.wait_quiet();
        });
        assert!(cuts >= 3, "{direction:?}: {cuts} cuts");
    }
}

fn a_conditional_batch_is_one_round_trip(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    let proxy = Proxy::start(cluster.port());
    let store = dialect.store(&proxy.url(database(&url)));
    let tenant = store.open("t").wait().unwrap();
    tenant.put("c", b"k", b"0").wait().unwrap();

    let mut scalar = Batch::new();
    scalar.check_equals("c", b"k", b"0").put("c", b"k", b"1");
    let mut many = Batch::new();
    many.check_equals("c", b"k", b"1").check_absent("c", b"a").check_exists("c", b"k");
    many.put("c", b"a", b"x").put("d", b"b", b"y").delete("c", b"k").delete_prefix("e", b"f");
    let mut put = Batch::new();
    put.put("c", b"k", b"2");
    let mut delete = Batch::new();
    delete.delete("c", b"k");
    let mut large = Batch::new();
    large.check_absent("c", b"k");
    // Beyond 64 rows, and in one write of the client, which is 8 KiB: what is sent in two may be answered in between, though nobody waits.
    for number in 0..100_u16 {
        large.put("large", number.to_be_bytes(), [7; 8]);
    }
    let batches = [("1+1", scalar), ("many", many), ("put", put), ("delete", delete), ("large", large)];
    for (name, batch) in batches {
        for durability in [Durability::Durable, Durability::Relaxed] {
            // The second time its checks may not hold; the first time it is applied.
            proxy.reset();
            let outcome = tenant.apply(batch.clone(), durability).wait().unwrap();
            let trips = proxy.counts().round_trips;
            if durability == Durability::Durable {
                assert!(outcome.is_applied(), "{dialect:?} {name}: {outcome:?}");
            }
            if outcome.is_applied() {
                assert_eq!(trips, 1, "{dialect:?} {name} {durability:?}: {}", proxy.trace());
            }
        }
    }
    proxy.reset();
    assert_eq!(tenant.get("d", b"b").wait().unwrap(), Some(b"y".to_vec()));
    assert_eq!(proxy.counts().round_trips, 1, "{dialect:?} get: {}", proxy.trace());
    store.close().wait().unwrap();
}
