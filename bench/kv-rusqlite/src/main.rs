//! `kv-rusqlite DIR prepare`, then `kv-rusqlite DIR CASE SECONDS`: prints a line of JSON.
//!
//! The peer: what a careful program does with rusqlite by hand. Its default build, a connection in WAL with synchronous FULL,
//! prepared statements, the same table as ours at SQLite's default page size; with many writers one connection behind a mutex,
//! which is faster than a connection each.

use std::sync::Mutex;

use measure::{CATEGORY, CROWD, HOT_ROWS, Laps, Meter, Observed, ROWS, any_row, key, payload};
use rusqlite::{Connection, OptionalExtension as _, Result, TransactionBehavior, params};

const PUT: &str = "INSERT OR REPLACE INTO kv (category, key, payload) VALUES (?1, ?2, ?3)";
const GET: &str = "SELECT payload FROM kv WHERE category = ?1 AND key = ?2";
const EXISTS: &str = "SELECT 1 FROM kv WHERE category = ?1 AND key = ?2";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, case) = (&arguments[0], arguments[1].as_str());
    std::fs::create_dir_all(directory).expect("a directory");
    let mut connection = Connection::open(format!("{directory}/bench.db"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = if case == "put_relaxed" { "NORMAL" } else { "FULL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    if case == "prepare" {
        return prepare(&mut connection);
    }
    let seconds = arguments[2].parse().expect("seconds");
    if case == "put64_threads" {
        let (connection, meter) = (Mutex::new(connection), Meter::start(seconds, Observed::Own));
        let laps = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CROWD)
                .map(|client| {
                    let (connection, mut laps) = (&connection, meter.laps());
                    scope.spawn(move || {
                        while let Some(lap) = laps.next() {
                            put(&connection.lock().expect("no panic"), client, lap)?;
                        }
                        Result::Ok(laps)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<Vec<Laps>>>()
        })?;
        meter.print(case, laps, &[]);
        return Ok(());
    }
    if case == "get" {
        for row in 0..HOT_ROWS {
            assert!(get(&connection, row)?.is_some());
        }
    }
    let meter = Meter::start(seconds, Observed::Own);
    let mut laps = meter.laps();
    while let Some(lap) = laps.next() {
        match case {
            "get" => assert!(get(&connection, any_row(0, lap, HOT_ROWS))?.is_some()),
            "put" | "put_relaxed" => put(&connection, 0, lap)?,
            "put_conditional" => {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let row = key(any_row(0, lap, ROWS));
                assert!(transaction.prepare_cached(EXISTS)?.exists(params![CATEGORY, row])?);
                put(&transaction, 0, lap)?;
                transaction.commit()?;
            }
            _ => panic!("no such case: {case}"),
        }
    }
    meter.print(case, [laps], &[]);
    Ok(())
}

fn get(connection: &Connection, row: u64) -> Result<Option<Vec<u8>>> {
    connection.prepare_cached(GET)?.query_row(params![CATEGORY, key(row)], |row| row.get(0)).optional()
}

fn put(connection: &Connection, client: u64, lap: u64) -> Result<()> {
    let row = key(any_row(client, lap, ROWS));
    connection.prepare_cached(PUT)?.execute(params![CATEGORY, row, payload(client, lap)]).map(|_| ())
}

fn prepare(connection: &mut Connection) -> Result<()> {
    connection.execute_batch(
        "CREATE TABLE kv (category BLOB NOT NULL, key BLOB NOT NULL, payload BLOB NOT NULL, \
         PRIMARY KEY (category, key)) WITHOUT ROWID",
    )?;
    let transaction = connection.transaction()?;
    for row in 0..ROWS {
        transaction.prepare_cached(PUT)?.execute(params![CATEGORY, key(row), payload(0, row)])?;
    }
    transaction.commit()
}
