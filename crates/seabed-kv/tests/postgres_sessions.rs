//! Statements have names in a session of the store's own, and nowhere else: what a name means is never another statement's answer.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests; a failure is the test's")]

mod dialects;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use dialects::{Dialect, database, rounds, seed};
use seabed_kv::{Batch, Durability, Store, Tenant};
use seabed_testkit::Rng;
use seabed_testkit::postgres::{Cluster, PgBouncer};
use seabed_testkit::proxy::Proxy;

/// Something of each kind that is sent often, always in one round trip.
fn use_everything(tenant: &Tenant, proxy: &Proxy) -> String {
    let mut many = Batch::new();
    many.check_exists("c", b"k").put("c", b"m", b"x").delete("c", b"m");
    let mut puts = Batch::new();
    for number in 0..100_u8 {
        puts.put("c", [b'p', number], b"x");
    }
    let mut one = Batch::new();
    one.put("c", b"k", b"x");
    let mut traces = String::new();
    let mut seen = |proxy: &Proxy| {
        assert_eq!(proxy.counts().round_trips, 1, "{}", proxy.trace());
        traces += &proxy.trace();
        proxy.reset();
    };
    proxy.reset();
    for batch in [one, puts, many] {
        assert!(tenant.apply(batch, Durability::Durable).wait().unwrap().is_applied());
        seen(proxy);
    }
    assert_eq!(tenant.get("c", b"k").wait().unwrap().as_deref(), Some(&b"x"[..]));
    seen(proxy);
    assert!(tenant.exists("c", b"k").wait().unwrap() && !tenant.exists("c", b"m").wait().unwrap());
    proxy.reset();
    traces
}

#[test]
fn a_statement_is_parsed_once_a_session() {
    two_times_everything(Dialect::Postgres, false);
}

#[test]
fn in_dialect_portable_nothing_has_a_name() {
    two_times_everything(Dialect::Portable, true);
}

fn two_times_everything(dialect: Dialect, parsed_again: bool) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let proxy = Proxy::start(cluster.port());
    let store = dialect.store(&proxy.url(database(&cluster.create_database())));
    let tenant = store.open("t").wait().unwrap();
    let first = use_everything(&tenant, &proxy);
    assert!(first.contains(">P"), "{first}");
    let second = use_everything(&tenant, &proxy);
    assert_eq!(second.contains(">P"), parsed_again, "{second}");
    // A snapshot is a transaction, which a name that is gone would end.
    let snapshot = tenant.snapshot().wait().unwrap();
    proxy.reset();
    assert_eq!(snapshot.get("c", b"k").wait().unwrap().as_deref(), Some(&b"x"[..]));
    assert!(proxy.trace().contains(">P"), "{}", proxy.trace());
    drop(snapshot);
    store.close().wait().unwrap();
}

/// Two stores at once, several tenants each: every answer is what was put.
fn mix(rng: &mut Rng, stores: &[Store]) {
    let tenants: Vec<_> = stores
        .iter()
        .flat_map(|store| (0..3).map(|number| store.open(format!("t{number}")).wait().unwrap()))
        .collect();
    for round in 0..rounds() * 20 {
        let value = round.to_be_bytes();
        let row = |number: usize| [b'k', u8::try_from(number).unwrap()];
        let writes: Vec<_> = tenants
            .iter()
            .enumerate()
            .map(|(number, tenant)| {
                let mut batch = Batch::new();
                batch.put("c", row(number), value);
                for extra in 0..rng.below(3) {
                    batch.put("extra", [u8::try_from(number * 8 + extra).unwrap()], value);
                }
                if rng.chance(1, 3) {
                    batch.check_absent("c", b"none");
                }
                tenant.apply(batch, Durability::Durable)
            })
            .collect();
        for write in writes {
            assert!(write.wait().unwrap().is_applied());
        }
        let reads: Vec<_> =
            tenants.iter().enumerate().map(|(number, tenant)| tenant.get("c", row(number))).collect();
        for read in reads {
            assert_eq!(read.wait().unwrap().as_deref(), Some(&value[..]), "round {round}");
        }
        assert!(
            tenants[0].exists("c", row(0)).wait().unwrap()
                && !tenants[0].exists("c", b"none").wait().unwrap()
        );
    }
}

#[test]
fn behind_a_pooler_that_hands_out_transactions_nothing_has_a_name() {
    let mut rng = Rng::new(seed());
    let cluster = Cluster::start_with(&["fsync=off"]);
    let bouncer = PgBouncer::start(&cluster, 2);
    let url = bouncer.url(database(&cluster.create_database()));
    let port = url.rsplit([':', '/']).nth(1).unwrap().parse().unwrap();
    let proxy = Proxy::start(port);
    let stores = [0; 2].map(|_| Store::postgres(&proxy.url(database(&url))).unwrap());
    mix(&mut rng, &stores);
    let tenant = stores[0].open("alone").wait().unwrap();
    tenant.put("c", b"k", b"x").wait().unwrap();
    for _ in 0..2 {
        assert!(use_everything(&tenant, &proxy).contains(">P"));
    }
    let trace = use_everything(&tenant, &proxy);
    assert_eq!(trace.matches(">P").count(), trace.matches(">B").count(), "{trace}");
    for store in stores {
        store.close().wait().unwrap();
    }
}

#[test]
fn a_name_that_is_gone_is_noticed_before_anything_is_applied() {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    let proxy = Proxy::start(cluster.port());
    let store = Store::postgres(&proxy.url(database(&url))).unwrap();
    let tenant = store.open("t").wait().unwrap();
    use_everything(&tenant, &proxy);
    // Nobody but the session itself can take its names away.
    let forget = "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                  IF EXISTS (SELECT FROM pg_prepared_statements WHERE NOT from_sql) THEN EXECUTE 'DEALLOCATE ALL'; END IF; \
                  RETURN NEW; END $$; \
                  CREATE TRIGGER forget AFTER INSERT ON seabed.tenants FOR EACH ROW EXECUTE FUNCTION forget()";
    cluster.sql(database(&url), forget);
    store.open("other").wait().unwrap();
    let mut batch = Batch::new();
    batch.check_absent("c", b"once").put("c", b"once", b"x");
    assert!(tenant.apply(batch, Durability::Durable).wait().unwrap().is_applied());
    let after = use_everything(&tenant, &proxy);
    assert!(after.contains(">P"), "{after}");
}

#[test]
fn tables_that_were_made_anew_are_read_by_names_that_were_given_before() {
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    let proxy = Proxy::start(cluster.port());
    let store = Store::postgres(&proxy.url(database(&url))).unwrap();
    let tenant = store.open("t").wait().unwrap();
    for _ in 0..2 {
        use_everything(&tenant, &proxy);
    }
    // "cached plan must not change result type"
    cluster.sql(
        database(&url),
        "CREATE DOMAIN blob AS bytea; ALTER TABLE seabed.rows ALTER COLUMN payload TYPE blob",
    );
    assert_eq!(tenant.get("c", b"k").wait().unwrap().as_deref(), Some(&b"x"[..]));
    use_everything(&tenant, &proxy);
}

#[test]
fn a_pooler_that_hands_on_its_sessions_numbers_is_seen_through() {
    let mut rng = Rng::new(seed());
    let cluster = Cluster::start_with(&["fsync=off"]);
    let url = cluster.create_database();
    for elsewhere in [Elsewhere::Unknown, Elsewhere::AnotherStatement] {
        let pooler = Lending::start(cluster.port(), elsewhere, &rng);
        let stores = [0; 2].map(|_| Store::postgres(&pooler.url(database(&url))).unwrap());
        mix(&mut rng, &stores);
        // One after the other, so that each connection comes to its own.
        let tenant = stores[0].open("alone").wait().unwrap();
        tenant.put("c", b"k", b"x").wait().unwrap();
        for _ in 0..200 {
            assert_eq!(tenant.get("c", b"k").wait().unwrap().as_deref(), Some(&b"x"[..]), "{elsewhere:?}");
        }
        for store in stores {
            store.close().wait().unwrap();
        }
    }
}

/// What a name means in the session in which it was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elsewhere {
    Unknown,
    /// One of the same parameters that answers something else, as another store's may.
    AnotherStatement,
}

/// A pooler that lets its client log in to one session, hands on everything that it says, and then lends it that one or another for each
/// transaction. It ends with its clients.
struct Lending {
    port: u16,
}

impl Lending {
    fn start(server: u16, elsewhere: Elsewhere, rng: &Rng) -> Self {
        let rng = rng.fork(0);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let mut rng = rng.fork(1);
                std::thread::spawn(move || {
                    let sessions = [0; 2].map(|_| TcpStream::connect(("127.0.0.1", server)).unwrap());
                    // An end that fails has ended.
                    let _ = lend(&client, &sessions, elsewhere, &mut rng);
                    for stream in sessions.iter().chain([&client]) {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                });
            }
        });
        Self { port }
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

fn lend(
    mut client: &TcpStream,
    sessions: &[TcpStream; 2],
    elsewhere: Elsewhere,
    rng: &mut Rng,
) -> std::io::Result<()> {
    let startup = message(client, 0)?;
    for (number, mut session) in sessions.iter().enumerate() {
        session.write_all(&startup)?;
        let said = answer(session)?;
        if number == 0 {
            client.write_all(&said)?;
        }
    }
    let mut lent = 0;
    loop {
        let mut asked = Vec::new();
        let mut naming = false;
        loop {
            let next = message(client, 1)?;
            naming |= next[0] == b'P' && next[5] != 0;
            let last = matches!(next[0], b'S' | b'Q' | b'X');
            asked.extend(next);
            if last {
                break;
            }
        }
        let (mut here, mut there) = (&sessions[lent], &sessions[1 - lent]);
        if naming && elsewhere == Elsewhere::AnotherStatement {
            let (from, to) = (b"SELECT payload FROM", b"SELECT  digest FROM");
            let mut other = asked.clone();
            if let Some(place) = other.windows(from.len()).position(|window| window == from) {
                other[place..place + to.len()].copy_from_slice(to);
            }
            // Another store has drawn another number.
            let guard = b"1 / CAST(";
            if let Some(place) = other.windows(guard.len()).position(|window| window == guard) {
                let digit = &mut other[place + guard.len()];
                *digit = if *digit == b'1' { b'2' } else { b'1' };
            }
            there.write_all(&other)?;
            answer(there)?;
        }
        here.write_all(&asked)?;
        client.write_all(&answer(here)?)?;
        lent = rng.below(2);
    }
}

/// One message, with so many bytes before its length.
fn message(mut from: &TcpStream, before: usize) -> std::io::Result<Vec<u8>> {
    let mut head = vec![0; before + 4];
    from.read_exact(&mut head)?;
    let length = u32::from_be_bytes(head[before..].try_into().unwrap());
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    from.read_exact(&mut body)?;
    head.extend(body);
    Ok(head)
}

/// Everything until the server waits for the next statement.
fn answer(from: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    loop {
        let next = message(from, 1)?;
        let last = next[0] == b'Z';
        answer.extend(next);
        if last {
            return Ok(answer);
        }
    }
}
