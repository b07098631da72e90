//! Power cuts: a program runs on a disk that fails, the power goes, and what is left is held against the history.

use std::fmt;
use std::path::PathBuf;

use seabed_kv::sqlite::simulation::Engine;
use seabed_kv::sqlite::simulation::EngineOptions;
use seabed_kv::sqlite::simulation::View;
use seabed_kv::{Batch, Durability, Error, ErrorKind};

use crate::disk::Fault;
use crate::model::{self, History, Rows};
use crate::program::{Step, program};
use crate::rng::Rng;
use crate::vfs::Disk;

/// How many steps a program has at most. The cost of a seed grows with the square.
const STEPS_MAX: usize = 14;

/// How many readers stand beside the writer, at most.
const VIEWS_MAX: usize = 3;

/// A promise that was broken, and where.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed of the program.
    pub seed: u64,
    /// The position at which the power went, counted in changes of the disk.
    pub cut_at: u64,
    /// The position from which a sync failed before, where one did.
    pub failed_sync_at: Option<u64>,
    /// What was wrong.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, power cut at change {}", self.seed, self.cut_at)?;
        if let Some(at) = self.failed_sync_at {
            write!(f, ", failed sync from change {at} on")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// How many cuts were survived, and those that were not.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Cuts after which everything was as promised.
    pub passed: u64,
    /// The others.
    pub failed: Vec<Failure>,
}

/// Runs the program of `seed` with the power cut at each change of the disk, and once for each sync with that sync failing and
/// the power cut some time later.
pub fn cuts(seed: u64, plant_early_acknowledgement: bool) -> Tally {
    let case = Case::new(seed, plant_early_acknowledgement);
    let mut tally = Tally::default();
    let mut count = |cut_at, failed_sync_at, result: Result<(), String>| match result {
        Ok(()) => tally.passed += 1,
        Err(reason) => tally.failed.push(Failure { seed, cut_at, failed_sync_at, reason }),
    };
    let (changes, syncs) = match case.measure() {
        Ok(measured) => measured,
        Err(reason) => {
            count(u64::MAX, None, Err(reason));
            return tally;
        }
    };
    for cut_at in 0..=changes {
        count(cut_at, None, case.cut(cut_at, None));
    }
    let mut rng = case.rng.fork(0x5);
    for failed_sync_at in syncs {
        let cut_at = failed_sync_at + 1 + rng.below(60) as u64;
        count(cut_at, Some(failed_sync_at), case.cut(cut_at, Some(failed_sync_at)));
    }
    tally
}

/// One program and the options it runs with.
struct Case {
    rng: Rng,
    steps: Vec<Step>,
    options: EngineOptions,
    rests: bool,
}

impl Case {
    fn new(seed: u64, plant_early_acknowledgement: bool) -> Self {
        let rng = Rng::new(seed);
        let mut shape = rng.fork(0x1);
        let length = 1 + shape.below(STEPS_MAX);
        // From "after every group" to "never on its own", and a log that is full again and again.
        let options = EngineOptions {
            checkpoint_bytes: *shape.pick(&[1, 40_000, 4 << 20]),
            log_bytes_max: *shape.pick(&[30_000, 80_000, 64 << 20]),
            plant_early_acknowledgement,
            ..EngineOptions::default()
        };
        let rests = shape.chance(1, 2);
        Self { steps: program(&mut rng.fork(0x2), length), rng, options, rests }
    }

    /// Runs the program on a disk that does not fail: how many changes it makes, and at which of them it syncs.
    fn measure(&self) -> Result<(u64, Vec<u64>), String> {
        let mut run = self.run(Disk::new(self.rng.clone().next()));
        run.all(&self.steps)?;
        Ok((run.disk.counters().changes, run.disk.sync_positions()))
    }

    fn run(&self, disk: Disk) -> Run {
        let readers = Some(self.rng.fork(0x6));
        Run { rests: self.rests, readers, ..Run::new(disk, self.options.clone()) }
    }

    fn cut(&self, cut_at: u64, failed_sync_at: Option<u64>) -> Result<(), String> {
        let mut rng = self.rng.fork(0x3).fork(cut_at).fork(failed_sync_at.map_or(0, |at| at + 1));
        let disk = Disk::new(rng.next());
        disk.fail_at(cut_at, Fault::CutHere);
        let mut run = self.run(disk.clone());
        if let Some(at) = failed_sync_at {
            disk.fail_at(at, Fault::FailedSync);
            run = run.with_faults();
            run.heals = true;
        }
        run.all(&self.steps)?;
        let mut history = run.leave();

        disk.cut(rng.next());
        if rng.chance(1, 4) {
            // The power goes again while the tenant is opened.
            disk.fail_at(disk.counters().changes + rng.below(8) as u64, Fault::CutHere);
            drop(Engine::open(&path(&disk), Some(disk.vfs()), self.options.clone()));
            disk.cut(rng.next());
        }
        let mut run = self.run(disk.clone());
        history.survived(&run.rows()?)?;

        if !rng.chance(1, 3) {
            return Ok(());
        }
        // The tenant is of use again, and keeps what it is given.
        run.history = history;
        run.step(&Step::Group(vec![(last_words(), Durability::Durable)]))?;
        let mut history = run.leave();
        disk.cut(rng.next());
        history.survived(&self.run(disk).rows()?)
    }
}

fn path(disk: &Disk) -> PathBuf {
    disk.path("tenant.db")
}

fn last_words() -> Batch {
    let mut batch = Batch::new();
    batch.put("after", b"the cut", b"here");
    batch
}

/// A tenant in use on a disk, with the history of its answers. Every method says when a promise was broken.
#[derive(Debug)]
pub struct Run {
    /// The disk it lies on.
    pub disk: Disk,
    /// What was answered so far.
    pub history: History,
    options: EngineOptions,
    engine: Option<Engine>,
    may_fail: bool,
    /// Whether a fault passes, so that what is read after a failed group is what became of it.
    pub heals: bool,
    /// Whether the tenant lets go of its files where the program says that it is opened again, and stays open.
    rests: bool,
    /// When readers come and go; `None` without any.
    readers: Option<Rng>,
    /// Those that are there, each with what it has seen first and must see for as long as it stays.
    views: Vec<(View, Rows)>,
    /// What failed on a disk with faults.
    pub errors: Vec<Error>,
}

impl Run {
    /// A tenant that is not open yet, with an empty history.
    pub fn new(disk: Disk, options: EngineOptions) -> Self {
        Self {
            disk,
            history: History::default(),
            options,
            engine: None,
            may_fail: false,
            heals: false,
            rests: false,
            readers: None,
            views: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// On a disk with faults an error is no broken promise; a wrong answer still is.
    #[must_use]
    pub fn with_faults(mut self) -> Self {
        self.may_fail = true;
        self
    }

    /// Runs the steps until the power goes.
    ///
    /// # Errors
    /// What was wrong.
    pub fn all(&mut self, steps: &[Step]) -> Result<(), String> {
        for (position, step) in steps.iter().enumerate() {
            let mut read_and_step = || {
                self.let_readers_come_and_go(step)?;
                self.step(step)?;
                self.look_again()
            };
            read_and_step().map_err(|reason| format!("step {position}: {reason}"))?;
            if self.disk.is_dead() {
                break;
            }
        }
        Ok(())
    }

    fn let_readers_come_and_go(&mut self, next: &Step) -> Result<(), String> {
        let Some(readers) = &mut self.readers else { return Ok(()) };
        let (comes, goes) = (readers.chance(1, 3), readers.chance(1, 4));
        if goes && !self.views.is_empty() {
            self.views.remove(0);
        }
        let lets_go = self.engine.as_ref().is_none_or(Engine::lets_readers_go);
        if lets_go || matches!(next, Step::Reopen | Step::Kill) {
            // A tenant closes its readers before its file; those of a process that is killed are gone.
            self.views.clear();
        } else if comes && self.views.len() < VIEWS_MAX && !self.disk.is_dead() {
            let view = View::open(&path(&self.disk), self.disk.vfs());
            match view.and_then(|view| view.rows().map(|rows| (view, model::rows(rows)))) {
                Ok((view, rows)) => {
                    // What is unknown may show, or not: that decides nothing.
                    self.history.clone().seen(&rows).map_err(|why| format!("a reader that comes: {why}"))?;
                    self.views.push((view, rows));
                }
                Err(error) => self.forgive(error)?,
            }
        }
        Ok(())
    }

    /// What stands beside the writer sees what it saw.
    fn look_again(&mut self) -> Result<(), String> {
        if self.disk.is_dead() || self.engine.is_none() {
            self.views.clear();
        }
        for position in 0..self.views.len() {
            let Some((view, first)) = self.views.get(position) else { break };
            match view.rows() {
                Ok(rows) if model::rows(rows.clone()) == *first => {}
                Ok(rows) => {
                    return Err(format!("a view has changed from {first:?} to {:?}", model::rows(rows)));
                }
                Err(error) => self.forgive(error)?,
            }
        }
        Ok(())
    }

    /// Runs one step, opening the tenant where it is not open.
    ///
    /// # Errors
    /// What was wrong.
    pub fn step(&mut self, step: &Step) -> Result<(), String> {
        let (rests, changes) = (self.rests, self.disk.counters().changes);
        let Some(engine) = self.open()? else { return Ok(()) };
        match step {
            Step::Group(requests) => {
                let answers = engine.commit_group(requests.clone());
                let failed = answers.iter().find_map(|answer| answer.as_ref().err().cloned());
                self.history.answered(requests, &answers)?;
                match failed {
                    Some(error) => self
                        .forgive(error)
                        .and_then(|()| if self.heals { self.look() } else { self.glimpse() }),
                    None => Ok(()),
                }
            }
            Step::Flush => match engine.flush() {
                Ok(()) => {
                    self.history.flushed();
                    Ok(())
                }
                Err(error) => self.forgive(error),
            },
            Step::Checkpoint => {
                let result = engine.checkpoint();
                result.or_else(|error| self.forgive(error))
            }
            Step::Reopen if rests => {
                // Properly, or as when somebody else needs the room; at work, or after a failed flush, it does not.
                let closed = changes % 2 == 0;
                if engine.rest(closed) && closed {
                    self.history.flushed();
                }
                Ok(())
            }
            Step::Reopen => {
                let closed = self.engine.take().map_or(Ok(()), Engine::close);
                match closed {
                    Ok(()) => self.history.flushed(),
                    Err(error) => self.forgive(error)?,
                }
                self.look()
            }
            Step::Kill => {
                self.disk.kill();
                self.engine = None;
                self.look()
            }
        }
    }

    /// Every row of the tenant.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn rows(&mut self) -> Result<Rows, String> {
        let engine = self.open()?.ok_or("the tenant cannot be opened")?;
        Ok(model::rows(engine.rows().map_err(|error| format!("reading: {error}"))?))
    }

    /// Ends the process and hands over what is known of the tenant.
    pub fn leave(self) -> History {
        self.disk.kill();
        self.history
    }

    /// The engine; `None` when it cannot be had on a disk with faults.
    fn open(&mut self) -> Result<Option<&mut Engine>, String> {
        if self.engine.is_none() {
            match Engine::open(&path(&self.disk), Some(self.disk.vfs()), self.options.clone()) {
                Ok(engine) => self.engine = Some(engine),
                Err(error) => self.forgive(error)?,
            }
        }
        Ok(self.engine.as_mut())
    }

    /// Holds what a reader sees against the history, unless it cannot be read.
    fn look(&mut self) -> Result<(), String> {
        let dead = self.disk.is_dead();
        // What a machine without power shows nobody sees.
        let Some(engine) = self.open()?.filter(|_| !dead) else { return Ok(()) };
        match engine.rows() {
            Ok(rows) => self.history.seen(&model::rows(rows)),
            Err(error) => self.forgive(error),
        }
    }

    /// The same after a failed group, which decides nothing: what is unknown may show until the log has been written again, or
    /// not. An engine whose file could not be opened again shows no rows at all.
    fn glimpse(&mut self) -> Result<(), String> {
        match self.engine.as_ref().map(Engine::rows) {
            Some(Ok(rows)) if !rows.is_empty() && !self.disk.is_dead() => {
                self.history.clone().seen(&model::rows(rows))
            }
            Some(Err(error)) => self.forgive(error),
            _ => Ok(()),
        }
    }

    fn forgive(&mut self, error: Error) -> Result<(), String> {
        // The log is as long as it may be, and a reader pins it.
        let is_pinned = error.kind() == ErrorKind::Busy && !self.views.is_empty();
        if is_pinned {
            self.views.clear();
        } else if !self.may_fail && !self.disk.is_dead() {
            return Err(format!("{error:?}"));
        }
        self.errors.push(error);
        Ok(())
    }
}
