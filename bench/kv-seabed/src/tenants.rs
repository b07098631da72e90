//! Thousands of tenants: what an open one takes, what it costs to let go of its files and open them again, and a load over many more
//! than may be open, as uneven as real ones are (Zipf).

use measure::{CATEGORY, CROWD, Meter, Observed, payload};
use seabed_kv::sqlite::{SqliteOptions, tune_process};
use seabed_kv::{Batch, Durability, Result, Store, Tenant};

/// How many tenants there are, and how many of them may be open.
const TENANTS: u64 = 10_000;
const OPEN_MAX: usize = 256;
/// How many can be open at once where a process may open 20,000 files, and the same share of them as of all.
const TENANTS_FEWER: u64 = 1_600;
const OPEN_FEWER: usize = 41;
/// How many uneven puts come before those that are measured.
const BEFORE: u64 = 25_600;
const RESIDENT: usize = 1_000;
/// How many tenants are written in turn; when a quarter of them may be open, each has been evicted when its turn comes.
const IN_TURN: usize = 16;

fn store(directory: &str, open_tenants_max: usize) -> Result<Store> {
    Store::sqlite_with(directory, SqliteOptions { open_tenants_max, ..SqliteOptions::default() })
}

fn name(tenant: u64) -> String {
    format!("t{tenant:05}")
}

/// Makes every tenant with a row, and lets go of them again.
pub fn prepare(directory: &str) -> Result<()> {
    let store = store(directory, OPEN_MAX)?;
    for tenant in 0..TENANTS {
        store.open(name(tenant)).wait()?.put(CATEGORY, b"0", payload(0, 0)).wait()?;
    }
    store.close().wait()
}

/// Runs one case, `false` when there is no such.
pub fn run(directory: &str, case: &str, seconds: f64) -> Result<bool> {
    match case {
        "tenants_all_open" => uneven(directory, case, TENANTS_FEWER, TENANTS_FEWER as usize, seconds)?,
        "tenants_few_open" => uneven(directory, case, TENANTS_FEWER, OPEN_FEWER, seconds)?,
        "tenants_256_open" => uneven(directory, case, TENANTS, OPEN_MAX, seconds)?,
        "tenant_stays_open" => in_turn(directory, case, IN_TURN, seconds)?,
        "tenant_evicted" => in_turn(directory, case, IN_TURN / 4, seconds)?,
        "tenant_resident" => resident(directory, case)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// The first tenants, each with a log: what the first commit after a clean close costs belongs to no case.
fn opened(store: &Store, count: usize) -> Result<Vec<Tenant>> {
    let open = |tenant| {
        let tenant = store.open(name(tenant)).wait()?;
        let mut batch = Batch::new();
        batch.put(CATEGORY, b"first", payload(0, 0));
        tenant.apply(batch, Durability::Durable).wait()?;
        Ok(tenant)
    };
    (0..count as u64).map(open).collect()
}

/// Durable puts of 64 threads; the first tenant is used most, the second half as often, the third a third. Before they are measured
/// there are enough of them for the store to know who is used often.
fn uneven(directory: &str, case: &str, count: u64, open_max: usize, seconds: f64) -> Result<()> {
    tune_process();
    let store = store(directory, open_max)?;
    let tenants = opened(&store, count as usize)?;
    let mut sum = 0.0;
    let cumulative: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    let put = |client: u64, lap: u64, durability| {
        let at = measure::any_row(client, lap, 1 << 40) as f64 / (1_u64 << 40) as f64 * sum;
        let mut batch = Batch::new();
        batch.put(CATEGORY, client.to_be_bytes(), payload(client, lap));
        tenants[cumulative.partition_point(|edge| *edge <= at)].apply(batch, durability).wait()
    };
    crowd(|client| {
        (0..BEFORE / CROWD).try_for_each(|lap| put(CROWD + client, lap, Durability::Relaxed).map(drop))
    })?;
    let meter = Meter::start(seconds, Observed::Own);
    let laps = crowd(|client| {
        let mut laps = meter.laps();
        while let Some(lap) = laps.next() {
            put(client, lap, Durability::Durable)?;
        }
        Ok(laps)
    })?;
    meter.print(case, laps, &[]);
    store.close().wait()
}

/// A thread for each client.
fn crowd<T: Send>(work: impl Fn(u64) -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..CROWD).map(|client| scope.spawn(move || work(client))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// Relaxed puts to some tenants in turn, all of them open or each opened again.
fn in_turn(directory: &str, case: &str, open_max: usize, seconds: f64) -> Result<()> {
    tune_process();
    let store = store(directory, open_max)?;
    let tenants = opened(&store, IN_TURN)?;
    let meter = Meter::start(seconds, Observed::Own);
    let mut laps = meter.laps();
    while let Some(lap) = laps.next() {
        let mut batch = Batch::new();
        batch.put(CATEGORY, b"in turn", payload(0, lap));
        tenants[lap as usize % IN_TURN].apply(batch, Durability::Relaxed).wait()?;
    }
    meter.print(case, [laps], &[]);
    store.close().wait()
}

/// What a thousand open tenants take, each written once, in a process that tunes SQLite as our binary does.
fn resident(directory: &str, case: &str) -> Result<()> {
    tune_process();
    let store = store(directory, 2 * RESIDENT)?;
    store.own()?;
    let before = resident_kib();
    let tenants: Vec<_> = (0..RESIDENT)
        .map(|tenant| {
            let tenant = store.open(name(tenant as u64)).wait()?;
            tenant.put(CATEGORY, b"1", payload(1, 0)).wait()?;
            Ok(tenant)
        })
        .collect::<Result<_>>()?;
    let kib = (resident_kib() - before) as f64 / RESIDENT as f64;
    println!("{{\"case\":\"{case}\",\"tenants\":{},\"kib_per_tenant\":{kib:.1}}}", tenants.len());
    store.close().wait()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
