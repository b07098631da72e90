//! Random programs of every operation on two stores at once, a backend and the memory, which is the model: every answer is equal.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests; a failure is the test's")]

use std::fmt::Debug;

use seabed_kv::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use seabed_kv::{
    Batch, Durability, ErrorKind, KeyRange, Op, Outcome, Page, Refusal, Row, ScanSpec, Snapshot, Store,
    Tenant,
};
use seabed_testkit::Rng;
use seabed_testkit::model::Rows;
use seabed_testkit::program::{CATEGORIES, KEYS, batch};

const TENANTS: [&str; 2] = ["one", "other/odd name"];

/// What an answer says that must be the same everywhere: a sequence number need not be.
#[derive(Debug, PartialEq)]
enum Answer {
    Applied { deleted: u64 },
    Refused(Refusal),
}

fn answer(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Applied(commit) => {
            commit.wait_durable().wait().unwrap();
            Answer::Applied { deleted: commit.deleted }
        }
        Outcome::Refused(refusal) => Answer::Refused(refusal),
    }
}

/// The model and the store under test, in step.
struct Pair {
    rng: Rng,
    stores: [Store; 2],
    /// What the model holds, so that conditions hold about as often as not.
    rows: [Rows; 2],
    snapshot: Option<[Snapshot; 2]>,
    /// The store under test, anew over what it has stored.
    open: Box<dyn Fn() -> Store>,
}

impl Pair {
    fn new(seed: u64, open: Box<dyn Fn() -> Store>) -> Self {
        let stores = [Store::memory(), open()];
        Self { rng: Rng::new(seed), stores, rows: Default::default(), snapshot: None, open }
    }

    /// Asks both and compares. Awaited and waited for in turns.
    fn same<T: PartialEq + Debug + Send + 'static>(
        &mut self,
        what: &str,
        ask: impl Fn(&Tenant) -> Op<T>,
    ) -> T {
        let name = *self.rng.pick(&TENANTS);
        self.same_in(name, what, ask)
    }

    fn same_in<T: PartialEq + Debug + Send + 'static>(
        &mut self,
        name: &str,
        what: &str,
        ask: impl Fn(&Tenant) -> Op<T>,
    ) -> T {
        let awaited = self.rng.chance(1, 2);
        let [model, answer] = self.stores.each_ref().map(|store| {
            let op = ask(&store.open(name).wait().unwrap());
            if awaited { pollster::block_on(op).unwrap() } else { op.wait().unwrap() }
        });
        assert_eq!(model, answer, "{what}");
        answer
    }

    fn place(&mut self) -> (&'static [u8], &'static [u8]) {
        (*self.rng.pick(&CATEGORIES), *self.rng.pick(&KEYS))
    }

    fn range(&mut self) -> KeyRange {
        let (first, second) = (self.place().1, self.place().1);
        match self.rng.below(4) {
            0 => KeyRange::all(),
            1 => KeyRange::prefix(first),
            // Either way round: a range that ends before it starts is empty.
            _ => KeyRange::new(first, second),
        }
    }

    fn spec(&mut self) -> ScanSpec {
        let category = if self.rng.chance(1, 4) { b"bulk" } else { self.place().0 };
        let mut spec = ScanSpec::new(category, self.range());
        spec.reverse = self.rng.chance(1, 2);
        spec.keys_only = self.rng.chance(1, 3);
        spec.limit = *self.rng.pick(&[None, None, Some(0), Some(1), Some(3), Some(1_024), Some(1_100)]);
        spec
    }

    fn step(&mut self) {
        match self.rng.below(24) {
            0..=6 => self.apply(),
            7 => self.several_at_once(),
            8 => self.bulk(),
            9 | 10 => {
                let (category, key) = self.place();
                self.same("get", |tenant| tenant.get(category, key));
            }
            11 => {
                let (category, key) = self.place();
                self.same("exists", |tenant| tenant.exists(category, key));
            }
            12 => {
                let (category, range) = (self.place().0, self.range());
                self.same("count", |tenant| tenant.count(category, &range));
            }
            13 | 14 => {
                let spec = self.spec();
                self.same("scan", |tenant| tenant.scan(spec.clone()).collect());
            }
            15 => self.page_by_page(),
            16 => {
                self.same("categories", Tenant::categories);
            }
            17 => self.conveniences(),
            18 => {
                self.same("flush", Tenant::flush);
            }
            19 => {
                let report = self.same("verify", Tenant::verify);
                assert_eq!(report.findings, [""; 0]);
            }
            20 | 21 => self.snapshot(),
            22 => self.reopen(),
            _ => {
                let [model, listed] = self.stores.each_ref().map(|store| store.list().wait().unwrap());
                assert_eq!(model, listed, "list");
            }
        }
    }

    fn apply(&mut self) {
        let at = self.rng.below(2);
        let batch = batch(&mut self.rng, &mut self.rows[at]);
        let durability = *self.rng.pick(&[Durability::Durable, Durability::Relaxed]);
        let patient = self.rng.chance(1, 2);
        self.same_in(TENANTS[at], "apply", |tenant| {
            let op = if patient {
                tenant.apply(batch.clone(), durability)
            } else {
                tenant.try_apply(batch.clone(), durability)
            };
            op.map(answer)
        });
    }

    /// Requests that are queued together take effect in the order of the calls.
    fn several_at_once(&mut self) {
        let at = self.rng.below(2);
        let batches: Vec<Batch> = (0..8).map(|_| batch(&mut self.rng, &mut self.rows[at])).collect();
        self.same_in(TENANTS[at], "several", |tenant| {
            let ops: Vec<_> =
                batches.iter().map(|batch| tenant.apply(batch.clone(), Durability::Durable)).collect();
            Op::from_future(async move {
                let mut answers = Vec::new();
                for op in ops {
                    answers.push(answer(op.await?));
                }
                Ok(answers)
            })
        });
    }

    /// More rows than a page holds, small or spilling.
    fn bulk(&mut self) {
        let bytes = *self.rng.pick(&[0, 20, 2_500]);
        let first = self.rng.below(2_000);
        let mut batch = Batch::new();
        for number in first..first + 1_500 {
            batch.put("bulk", format!("a{number:05}"), vec![b'p'; bytes]);
        }
        self.same("bulk", |tenant| tenant.apply(batch.clone(), Durability::Relaxed).map(answer));
    }

    /// Each page is within its bounds, and all of them together are what the model has at once.
    fn page_by_page(&mut self) {
        let spec = self.spec();
        self.same("pages", |tenant| {
            let tenant = tenant.clone();
            let mut next = Some(spec.clone());
            Op::from_future(async move {
                let mut rows: Vec<Row> = Vec::new();
                while let Some(spec) = next.take() {
                    let page: Page = tenant.scan_page(spec).await?;
                    assert!(page.rows.len() <= PAGE_ROWS_MAX);
                    let bytes = page.rows.iter().rev().skip(1).map(|row| row.payload.len()).sum::<usize>();
                    assert!(bytes <= PAGE_BYTES_MAX, "a page ends once it is full");
                    assert!(page.next.is_none() || !page.rows.is_empty(), "each page goes further");
                    rows.extend(page.rows);
                    next = page.next;
                }
                Ok(rows)
            })
        });
    }

    fn conveniences(&mut self) {
        let (category, key) = self.place();
        match self.rng.below(3) {
            0 => self.same("put", |tenant| tenant.put(category, key, *b"put")),
            1 => {
                self.same("delete", |tenant| tenant.delete(category, key));
            }
            _ => {
                self.same("delete_prefix", |tenant| tenant.delete_prefix(category, key));
            }
        }
    }

    /// Reads the snapshot that was taken some steps ago, or takes one.
    fn snapshot(&mut self) {
        let spec = self.spec();
        let (category, key) = self.place();
        let range = self.range();
        let Some([model, other]) = self.snapshot.take() else {
            let name = *self.rng.pick(&TENANTS);
            self.snapshot = Some(
                self.stores
                    .each_ref()
                    .map(|store| store.open(name).wait().unwrap().snapshot().wait().unwrap()),
            );
            return;
        };
        let read = |snapshot: &Snapshot| {
            Ok((
                snapshot.get(category, key).wait()?,
                snapshot.exists(category, key).wait()?,
                snapshot.count(category, &range).wait()?,
                snapshot.scan(spec.clone()).collect().wait()?,
            ))
        };
        match read(&other) {
            Ok(answers) => {
                assert_eq!(read(&model).unwrap(), answers, "snapshot");
                if self.rng.chance(1, 2) {
                    self.snapshot = Some([model, other]);
                }
            }
            // A slow machine may take longer over some steps than a snapshot may be read.
            Err(error) => assert_eq!(seabed_kv::Error::kind(&error), ErrorKind::Timeout, "{error}"),
        }
    }

    fn reopen(&mut self) {
        self.snapshot = None;
        let name = *self.rng.pick(&TENANTS);
        match self.rng.below(3) {
            0 => self.stores.each_ref().map(|store| store.close_tenant(name).wait().unwrap()),
            1 => self.stores.each_ref().map(|store| store.drop_tenant(name).wait().unwrap()),
            _ => {
                // The memory goes with its store, so only the files' store is opened again.
                self.stores[1].close().wait().unwrap();
                assert_eq!(self.stores[1].open(name).wait().unwrap_err().kind(), ErrorKind::Closed);
                self.stores[1] = (self.open)();
                [(), ()]
            }
        };
    }
}

/// `place` makes a place that is empty, and answers how a store over it is opened.
fn run(seeds: std::ops::Range<u64>, place: impl Fn(u64) -> Box<dyn Fn() -> Store>) {
    for seed in seeds {
        let mut pair = Pair::new(seed, place(seed));
        // Both tenants from the first step on, so that both stores list the same.
        for name in TENANTS {
            pair.same_in(name, "open", |tenant| tenant.count("", &KeyRange::all()));
        }
        for step in 0..120 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.step()));
            assert!(result.is_ok(), "seed {seed}, step {step}");
        }
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use super::*;

    fn place(_: u64) -> Box<dyn Fn() -> Store> {
        let root = tempfile::tempdir().unwrap();
        Box::new(move || Store::sqlite(root.path()).unwrap())
    }

    #[test]
    fn every_answer_is_the_models() {
        run(0..20, place);
    }

    #[test]
    fn every_answer_is_the_models_again() {
        run(1_000..1_020, place);
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use seabed_kv::postgres::PostgresOptions;
    use seabed_testkit::postgres::Cluster;

    use super::*;

    fn compare(seeds: std::ops::Range<u64>, scheme: &str) {
        // No power is cut here.
        let cluster = Cluster::start_with(&["fsync=off"]);
        run(seeds, |seed| {
            let url = cluster.url("postgres").replacen("postgres://", scheme, 1);
            let options = PostgresOptions { schema: format!("seed {seed}"), ..PostgresOptions::default() };
            Box::new(move || Store::postgres_with(&url, options.clone()).unwrap())
        });
    }

    #[test]
    fn every_answer_is_the_models() {
        compare(2_000..2_008, "postgres://");
    }

    #[test]
    fn every_answer_of_the_portable_dialect_is_the_models() {
        compare(3_000..3_008, "postgres+portable://");
    }
}
