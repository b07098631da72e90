//! `kv-postgres URL prepare`, then `kv-postgres URL CONTENDER CASE ROUND`: prints a line of JSON.
//!
//! Contender `seabed` is the store; `by_hand` is what a careful program does with tokio-postgres: one connection, prepared statements, a
//! table of three columns, a batch as one INSERT of arrays. Both wait for each answer before they go on.
//!
//! What an update costs depends on how many went before it, because a new version finds room in the page of the old one or does not. So both
//! do the same number of the same operations in each round, on tables that were written and vacuumed alike, and the server vacuums at no other time.

use measure::{CATEGORY, Meter, Observed, ROWS, any_row, key, payload};
use seabed_kv::{Batch, Durability, Store, Tenant};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, Statement};

/// How many rows the case `batch` puts.
const BATCH_ROWS: u64 = 100;
/// How long a case may take, in seconds: it is over after its operations.
const SECONDS_MAX: f64 = 600.0;
/// Where the contenders' rows are.
const TABLES: [&str; 2] = ["seabed.rows", "by_hand"];
const UPSERT: &str = "INSERT INTO by_hand (category, key, payload) VALUES ($1, $2, $3) \
                      ON CONFLICT (category, key) DO UPDATE SET payload = excluded.payload";
const UPSERT_MANY: &str = "INSERT INTO by_hand (category, key, payload) SELECT $1, * FROM unnest($2::bytea[], $3::bytea[]) \
                           ON CONFLICT (category, key) DO UPDATE SET payload = excluded.payload";
const GET: &str = "SELECT payload FROM by_hand WHERE category = $1 AND key = $2";

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (client, connection) = runtime.block_on(tokio_postgres::connect(&arguments[0], NoTls))?;
    runtime.spawn(connection);
    if arguments[1] == "prepare" {
        return prepare(&runtime, &client, &arguments[0]);
    }
    let (contender, case) = (arguments[1].as_str(), arguments[2].as_str());
    // Rounds differ in their rows.
    let round = arguments[3].parse()?;
    for table in TABLES {
        runtime.block_on(client.batch_execute(&format!("VACUUM {table}")))?;
    }
    match contender {
        "seabed" => {
            let store = Store::postgres(&arguments[0])?;
            let tenant = store.open("bench").wait()?;
            // The connection is made, and the rows are in the server's memory.
            tenant.get(CATEGORY, key(0)).wait()?;
            measured(&runtime, &client, case, |lap| Ok(seabed(&tenant, case, round, lap)?))
        }
        _ => {
            let statement = |text| runtime.block_on(client.prepare(text));
            let statements = [statement(UPSERT)?, statement(UPSERT_MANY)?, statement(GET)?];
            measured(&runtime, &client, case, |lap| {
                Ok(runtime.block_on(by_hand(&client, &statements, case, round, lap))?)
            })
        }
    }
}

fn measured(
    runtime: &Runtime,
    client: &Client,
    case: &str,
    mut run: impl FnMut(u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let pids = runtime.block_on(
        client.query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'", &[]),
    )?;
    let pids: Vec<i32> = pids.iter().map(|row| row.get(0)).collect();
    let server_us = || pids.iter().map(|pid| cpu_us(*pid)).sum::<u64>();
    let before = server_us();
    let operations = match case {
        "get" => 5_000,
        "batch" => 400,
        _ => 3_000,
    };
    let meter = Meter::start(SECONDS_MAX, Observed::Own);
    let mut laps = meter.laps();
    while let Some(lap) = laps.next().filter(|lap| *lap < operations) {
        run(lap)?;
    }
    meter.print(case, [laps], &[("server_cpu_us", server_us() - before)]);
    Ok(())
}

/// User and system time of a session of the server, which Linux counts in nanoseconds there.
fn cpu_us(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0) / 1_000
}

fn seabed(tenant: &Tenant, case: &str, round: u64, lap: u64) -> Result<(), seabed_kv::Error> {
    let row = any_row(2 * round, lap, ROWS);
    if case == "get" {
        assert!(tenant.get(CATEGORY, key(row)).wait()?.is_some());
        return Ok(());
    }
    let mut batch = Batch::new();
    match case {
        "batch" => {
            for row in batch_rows(row) {
                batch.put(CATEGORY, key(row), payload(0, lap));
            }
        }
        "conditional" => {
            batch.check_exists(CATEGORY, key(any_row(2 * round + 1, lap, ROWS))).put(
                CATEGORY,
                key(row),
                payload(0, lap),
            );
        }
        _ => {
            batch.put(CATEGORY, key(row), payload(0, lap));
        }
    }
    assert!(tenant.apply(batch, Durability::Durable).wait()?.is_applied());
    Ok(())
}

async fn by_hand(
    client: &Client,
    [upsert, upsert_many, get]: &[Statement; 3],
    case: &str,
    round: u64,
    lap: u64,
) -> Result<(), tokio_postgres::Error> {
    let (category, row) = (&CATEGORY[..], any_row(2 * round, lap, ROWS));
    match case {
        "get" => {
            let found = client.query(get, &[&category, &&key(row)[..]]).await?;
            assert_eq!(found[0].get::<_, Vec<u8>>(0).len(), 100);
        }
        "batch" => {
            let keys: Vec<_> = batch_rows(row).map(|row| key(row).to_vec()).collect();
            let payloads: Vec<_> = keys.iter().map(|_| payload(0, lap)).collect();
            client.execute(upsert_many, &[&category, &keys, &payloads]).await?;
        }
        _ => {
            client.execute(upsert, &[&category, &&key(row)[..], &payload(0, lap)]).await?;
        }
    }
    Ok(())
}

fn batch_rows(first: u64) -> impl Iterator<Item = u64> {
    (first..first + BATCH_ROWS).map(|row| row % ROWS)
}

fn prepare(runtime: &Runtime, client: &Client, url: &str) -> Result<(), Failure> {
    let store = Store::postgres(url)?;
    let tenant = store.open("bench").wait()?;
    for first in (0..ROWS).step_by(10_000) {
        let mut batch = Batch::new();
        for row in first..first + 10_000 {
            batch.put(CATEGORY, key(row), payload(0, row));
        }
        tenant.apply(batch, Durability::Durable).wait()?;
    }
    store.close().wait()?;
    let copy = "CREATE TABLE by_hand (category bytea, key bytea, payload bytea, PRIMARY KEY (category, key)); \
                INSERT INTO by_hand SELECT category, key, payload FROM seabed.rows";
    runtime.block_on(client.batch_execute(copy))?;
    // As they are when rows are written at random and vacuumed now and then: with room in each page.
    for sixth in 0..6 {
        for table in TABLES {
            let update =
                format!("UPDATE {table} SET payload = payload WHERE get_byte(sha256(key), 0) % 6 = {sixth}");
            runtime.block_on(client.batch_execute(&update))?;
            runtime.block_on(client.batch_execute(&format!("VACUUM ANALYZE {table}")))?;
        }
    }
    Ok(())
}
