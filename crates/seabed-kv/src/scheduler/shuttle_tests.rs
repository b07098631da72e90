//! Mailbox and scheduler under random schedules, with an engine that only counts (`RUSTFLAGS="--cfg shuttle"`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use shuttle::thread;

use super::{Actor, Engine, PoolOwner, Request, Rest, Verdict};
use crate::backend::Admission;
use crate::batch::DurabilityGate as _;
use crate::limits::MAILBOX_REQUESTS_MAX;
use crate::sync::{Mutex, lock};
use crate::{Batch, Durability, ErrorKind, Key, Outcome, Result, TenantId};

const SCHEDULES: usize = 2_000;

/// Notes what it was asked to do, and that nobody asks it twice at once.
#[derive(Clone, Default)]
struct Counting(Arc<Noted>);

#[derive(Default)]
struct Noted {
    busy: AtomicBool,
    closed: AtomicBool,
    rests: AtomicU64,
    keys: Mutex<Vec<Vec<u8>>>,
    synced: Mutex<u64>,
}

impl Engine for Counting {
    fn commit_group(&mut self, requests: &[Request]) -> Vec<Result<Verdict>> {
        assert!(!self.0.busy.swap(true, Ordering::SeqCst), "two threads write one tenant");
        assert!(!self.0.closed.load(Ordering::SeqCst), "a closed tenant is written");
        thread::yield_now();
        let mut verdicts = Vec::new();
        for request in requests {
            for check in request.batch.checks() {
                lock(&self.0.keys).push(check.key.as_bytes().to_vec());
            }
            thread::yield_now();
            verdicts.push(Ok(Verdict::Applied { seq: lock(&self.0.keys).len() as u64, deleted: 0 }));
            if request.durability == Durability::Durable {
                *lock(&self.0.synced) = lock(&self.0.keys).len() as u64;
            }
        }
        self.0.busy.store(false, Ordering::SeqCst);
        verdicts
    }

    fn durable_seq(&self) -> u64 {
        *lock(&self.0.synced)
    }

    fn maintain(&mut self) {}

    fn rest(&mut self, _: Rest) -> bool {
        assert!(!self.0.busy.load(Ordering::SeqCst), "put to rest at work");
        assert!(!self.0.closed.load(Ordering::SeqCst), "put to rest after its end");
        thread::yield_now();
        self.0.rests.fetch_add(1, Ordering::SeqCst);
        true
    }

    fn close(self) -> Result<()> {
        assert!(!self.0.busy.load(Ordering::SeqCst));
        self.0.closed.store(true, Ordering::SeqCst);
        Ok(())
    }
}

fn request(caller: u8, number: u8) -> Batch {
    let mut batch = Batch::new();
    batch.check_absent("c", Key::raw([caller, number]));
    batch
}

fn actors(owner: &PoolOwner<Counting>, count: usize) -> Vec<(Arc<Actor<Counting>>, Counting)> {
    (0..count)
        .map(|number| {
            let engine = Counting::default();
            let id = TenantId::new(format!("t{number}")).unwrap();
            (Actor::new(id, engine.clone(), owner.pool()), engine)
        })
        .collect()
}

fn by_caller(engine: &Counting, caller: u8) -> Vec<u8> {
    lock(&engine.0.keys).iter().filter(|key| key[0] == caller).map(|key| key[1]).collect()
}

#[test]
fn every_request_is_executed_once_in_the_order_of_its_caller() {
    shuttle::check_random(
        || {
            let owner = PoolOwner::start(2).unwrap();
            let tenants = actors(&owner, 2);
            let callers: Vec<_> = (0..3_u8)
                .map(|caller| {
                    let tenants: Vec<_> = tenants.iter().map(|(actor, _)| actor.clone()).collect();
                    thread::spawn(move || {
                        for number in 0..4 {
                            let durability =
                                if number % 2 == 0 { Durability::Durable } else { Durability::Relaxed };
                            for actor in &tenants {
                                let op = actor.submit(request(caller, number), durability, Admission::Wait);
                                // A dropped operation happens all the same, in its place.
                                if number % 3 != 1 {
                                    assert!(matches!(op.wait(), Ok(Outcome::Applied(_))));
                                }
                            }
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.join().unwrap();
            }
            for (actor, engine) in &tenants {
                actor.close().wait().unwrap();
                actor.close().wait().unwrap();
                for caller in 0..3 {
                    assert_eq!(by_caller(engine, caller), [0, 1, 2, 3]);
                }
                let late = actor.submit(request(9, 9), Durability::Durable, Admission::Wait);
                assert_eq!(late.wait().unwrap_err().kind(), ErrorKind::Closed);
            }
        },
        SCHEDULES,
    );
}

#[test]
fn behind_a_full_mailbox_writers_wait_their_turn_awaited_or_not() {
    shuttle::check_random(
        || {
            let owner = PoolOwner::start(1).unwrap();
            let tenants = actors(&owner, 1);
            let (actor, engine) = &tenants[0];
            let total = u8::try_from(MAILBOX_REQUESTS_MAX * 3).unwrap();
            let ops: Vec<_> = (0..total)
                .map(|number| actor.submit(request(0, number), Durability::Durable, Admission::Wait))
                .collect();
            for (number, op) in (0..total).zip(ops) {
                if number % 3 == 2 {
                    drop(op);
                } else {
                    op.wait().unwrap();
                }
            }
            actor.close().wait().unwrap();
            assert!(by_caller(engine, 0).into_iter().eq(0..total));
        },
        SCHEDULES,
    );
}

#[test]
fn busy_is_said_only_when_nothing_was_queued() {
    shuttle::check_random(
        || {
            let owner = PoolOwner::start(1).unwrap();
            let tenants = actors(&owner, 1);
            let (actor, engine) = &tenants[0];
            let total = u8::try_from(MAILBOX_REQUESTS_MAX * 2).unwrap();
            let ops: Vec<_> = (0..total)
                .map(|number| actor.submit(request(0, number), Durability::Relaxed, Admission::Try))
                .collect();
            let accepted: Vec<u8> = (0..total)
                .zip(ops)
                .filter_map(|(number, op)| match op.wait() {
                    Ok(_) => Some(number),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Busy);
                        None
                    }
                })
                .collect();
            actor.close().wait().unwrap();
            assert_eq!(by_caller(engine, 0), accepted);
        },
        SCHEDULES,
    );
}

#[test]
fn a_tenant_is_put_to_rest_only_between_its_groups() {
    shuttle::check_random(
        || {
            let owner = PoolOwner::start(2).unwrap();
            let tenants = actors(&owner, 1);
            let (actor, engine) = &tenants[0];
            let resting = {
                let actor = actor.clone();
                thread::spawn(move || (0..6).filter(|_| actor.rest(Rest::Released)).count())
            };
            for number in 0..4 {
                actor.submit(request(0, number), Durability::Durable, Admission::Wait).wait().unwrap();
            }
            let rested = resting.join().unwrap();
            // Once the writer thread has put it down, nothing keeps it from its rest.
            while !actor.rest(Rest::Closed) {
                thread::yield_now();
            }
            assert_eq!(engine.0.rests.load(Ordering::SeqCst), rested as u64 + 1);
            actor.close().wait().unwrap();
            assert!(actor.rest(Rest::Closed), "a closed one has nothing to let go of");
            assert_eq!(by_caller(engine, 0), [0, 1, 2, 3]);
        },
        SCHEDULES,
    );
}

#[test]
fn a_commit_that_was_waited_for_is_durable_and_a_dropped_pool_ends_its_queue() {
    shuttle::check_random(
        || {
            let owner = PoolOwner::start(2).unwrap();
            let tenants = actors(&owner, 2);
            for (actor, engine) in &tenants {
                let op = actor.submit(request(0, 0), Durability::Relaxed, Admission::Wait);
                let Outcome::Applied(commit) = op.wait().unwrap() else { panic!("refused") };
                actor.clone().wait_durable(commit.seq).wait().unwrap();
                assert!(*lock(&engine.0.synced) >= commit.seq);
                drop(actor.submit(request(0, 1), Durability::Durable, Admission::Wait));
                drop(actor.close());
            }
            let engines: Vec<_> = tenants.iter().map(|(_, engine)| engine.clone()).collect();
            drop((tenants, owner));
            for engine in engines {
                while !engine.0.closed.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                assert_eq!(by_caller(&engine, 0), [0, 1]);
            }
        },
        SCHEDULES,
    );
}
