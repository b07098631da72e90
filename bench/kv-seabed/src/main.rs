//! `kv-seabed DIR prepare`, then `kv-seabed DIR CASE SECONDS`: prints a line of JSON.
//!
//! Alone, `put_async` awaits each put in a task, `put` waits for it on a thread; crowded, 64 tasks or 64 threads do so.

mod tenants;

use measure::{CATEGORY, CROWD, HOT_ROWS, Laps, Meter, Observed, ROWS, any_row, key, payload};
use seabed_kv::{Batch, Durability, Outcome, Result, Store, Tenant};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, case) = (&arguments[0], arguments[1].as_str());
    if case == "tenants_prepare" {
        return tenants::prepare(directory);
    }
    if let Some(seconds) = arguments.get(2).and_then(|seconds| seconds.parse().ok())
        && tenants::run(directory, case, seconds)?
    {
        return Ok(());
    }
    let store = Store::sqlite(directory)?;
    let tenant = store.open("bench").wait()?;
    if case == "prepare" {
        prepare(&tenant)?;
        return store.close().wait();
    }
    let seconds = arguments[2].parse().expect("seconds");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    match case {
        "put_async" | "put64_tasks" => {
            let clients = if case == "put_async" { 1 } else { CROWD };
            let meter = Meter::start(seconds, Observed::Own);
            let tasks: Vec<_> = (0..clients)
                .map(|client| {
                    let (tenant, mut laps) = (tenant.clone(), meter.laps());
                    runtime.spawn(async move {
                        while let Some(lap) = laps.next() {
                            tenant
                                .put(CATEGORY, key(any_row(client, lap, ROWS)), payload(client, lap))
                                .await?;
                        }
                        Result::Ok(laps)
                    })
                })
                .collect();
            let laps = tasks.into_iter().map(|task| runtime.block_on(task).expect("no panic"));
            meter.print(case, laps.collect::<Result<Vec<Laps>>>()?, &[]);
        }
        "put64_threads" => {
            let meter = Meter::start(seconds, Observed::Own);
            let laps = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..CROWD)
                    .map(|client| {
                        let (tenant, mut laps) = (&tenant, meter.laps());
                        scope.spawn(move || {
                            while let Some(lap) = laps.next() {
                                tenant
                                    .put(CATEGORY, key(any_row(client, lap, ROWS)), payload(client, lap))
                                    .wait()?;
                            }
                            Result::Ok(laps)
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().expect("no panic"))
                    .collect::<Result<Vec<Laps>>>()
            })?;
            meter.print(case, laps, &[]);
        }
        _ => alone(&tenant, case, seconds)?,
    }
    store.close().wait()
}

/// The cases of one thread.
fn alone(tenant: &Tenant, case: &str, seconds: f64) -> Result<()> {
    if case == "get" {
        // Hot means hot: every row once before the first lap.
        for row in 0..HOT_ROWS {
            assert!(tenant.get(CATEGORY, key(row)).wait()?.is_some());
        }
    }
    let meter = Meter::start(seconds, Observed::Own);
    let mut laps = meter.laps();
    while let Some(lap) = laps.next() {
        let row = key(any_row(0, lap, if case == "get" { HOT_ROWS } else { ROWS }));
        let done = match case {
            "get" => tenant.get(CATEGORY, row).wait()?.is_some(),
            "put" => applied(tenant, Durability::Durable, |batch| batch.put(CATEGORY, row, payload(0, lap)))?,
            "put_relaxed" => {
                applied(tenant, Durability::Relaxed, |batch| batch.put(CATEGORY, row, payload(0, lap)))?
            }
            "put_conditional" => applied(tenant, Durability::Durable, |batch| {
                batch.check_exists(CATEGORY, row).put(CATEGORY, row, payload(0, lap))
            })?,
            _ => panic!("no such case: {case}"),
        };
        assert!(done, "{case} of a row that is there");
    }
    meter.print(case, [laps], &[]);
    Ok(())
}

fn applied(
    tenant: &Tenant,
    durability: Durability,
    fill: impl FnOnce(&mut Batch) -> &mut Batch,
) -> Result<bool> {
    let mut batch = Batch::new();
    fill(&mut batch);
    Ok(matches!(tenant.apply(batch, durability).wait()?, Outcome::Applied(_)))
}

fn prepare(tenant: &Tenant) -> Result<()> {
    for first in (0..ROWS).step_by(1000) {
        let mut batch = Batch::new();
        for row in first..(first + 1000).min(ROWS) {
            batch.put(CATEGORY, key(row), payload(0, row));
        }
        tenant.apply(batch, Durability::Relaxed).wait()?;
    }
    tenant.flush().wait()
}
