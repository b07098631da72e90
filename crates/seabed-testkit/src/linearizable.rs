//! Whether a history of concurrent clients can be explained: an order of its operations, each between its call and its answer, in
//! which one client after another would have been told the same.
//!
//! The search is Wing and Gong's (*Testing and Verifying Concurrent Objects*, 1993), with Lowe's memory of what was tried. An
//! operation whose outcome is unknown may have taken effect at any time after its call, also after everything else, or never.
//!
//! ```
//! use seabed_testkit::linearizable::{Action, Answer, Record};
//!
//! let record = Record::new(1);
//! let put = record.call();
//! let read = record.call();
//! record.answered(read, Action::Read { key: 0, found: Some(7) });
//! record.answered(put, Action::Batch { checks: vec![(0, None)], writes: vec![(0, Some(7))], answer: Answer::Applied });
//! assert_eq!(record.explain(), Ok(()));
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a checker that is used wrongly is a test that fails"
)]

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Mutex;

/// How many situations are looked at before the search gives up. A history of this many is too long, not too wrong.
const TRIED_MAX: usize = 4_000_000;

/// A key, from 0 on.
pub type Key = usize;
/// What a row holds; `None` when it is not there.
pub type Value = Option<u32>;

/// What a client did and was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It read a row.
    Read {
        /// Which one.
        key: Key,
        /// What it was told.
        found: Value,
    },
    /// It applied a batch.
    Batch {
        /// What had to be there.
        checks: Vec<(Key, Value)>,
        /// What is to be there afterwards.
        writes: Vec<(Key, Value)>,
        /// What it was told.
        answer: Answer,
    },
}

/// What a client was told about a batch. One that certainly was not applied is no part of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was applied.
    Applied,
    /// It was refused.
    Refused {
        /// The first check that did not hold.
        check: usize,
        /// What it found.
        found: Value,
    },
    /// Nobody knows.
    Unknown,
}

/// A call that was made and not yet answered: its place in time.
#[derive(Debug, Clone, Copy)]
pub struct Call(u64);

/// A history as it happens.
#[derive(Debug)]
pub struct Record {
    keys: usize,
    /// Calls and answers so far, and what they were.
    taken: Mutex<(u64, Vec<Operation>)>,
}

#[derive(Debug, Clone)]
struct Operation {
    called: u64,
    /// `None` while its effect may still come.
    answered: Option<u64>,
    action: Action,
}

impl Record {
    /// An empty history of so many keys, none of which is there.
    pub fn new(keys: usize) -> Self {
        Self { keys, taken: Mutex::default() }
    }

    /// A client is about to call.
    pub fn call(&self) -> Call {
        let mut taken = self.taken.lock().unwrap();
        taken.0 += 1;
        Call(taken.0)
    }

    /// It has been answered. A call that is never answered here never took effect.
    pub fn answered(&self, call: Call, action: Action) {
        let mut taken = self.taken.lock().unwrap();
        taken.0 += 1;
        let unknown = matches!(action, Action::Batch { answer: Answer::Unknown, .. });
        let answered = (!unknown).then_some(taken.0);
        taken.1.push(Operation { called: call.0, answered, action });
    }

    /// How many operations were answered, and how many of these with Unknown.
    pub fn counts(&self) -> (usize, usize) {
        let taken = self.taken.lock().unwrap();
        (taken.1.len(), taken.1.iter().filter(|operation| operation.answered.is_none()).count())
    }

    /// Finds an order that explains the history.
    ///
    /// # Errors
    /// The operations around the one that fits nowhere.
    pub fn explain(&self) -> Result<(), String> {
        let mut operations = self.taken.lock().unwrap().1.clone();
        operations.sort_by_key(|operation| operation.called);
        Search { operations: &operations, tried: HashSet::new(), farthest: Situation::new(0, 0) }
            .run(self.keys)
    }
}

/// What has been put in order so far, and what the rows hold then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Situation {
    /// A bit an operation.
    ordered: Vec<u64>,
    rows: Vec<Value>,
}

impl Situation {
    fn new(operations: usize, keys: usize) -> Self {
        Self { ordered: vec![0; operations.div_ceil(64)], rows: vec![None; keys] }
    }

    fn has(&self, index: usize) -> bool {
        self.ordered.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    fn count(&self) -> u32 {
        self.ordered.iter().map(|word| word.count_ones()).sum()
    }

    /// What follows when the operation comes next; `None` when its client would have been told something else.
    fn after(&self, index: usize, action: &Action) -> Option<Self> {
        let mut next = self.clone();
        next.ordered[index / 64] |= 1 << (index % 64);
        let Action::Batch { checks, writes, answer } = action else {
            return matches!(action, Action::Read { key, found } if self.rows[*key] == *found)
                .then_some(next);
        };
        let refusal = checks.iter().position(|(key, value)| self.rows[*key] != *value);
        match (refusal, answer) {
            (None, Answer::Applied | Answer::Unknown) => {
                for (key, value) in writes {
                    next.rows[*key] = *value;
                }
                Some(next)
            }
            (Some(refused), Answer::Refused { check, found }) => {
                let told = refused == *check && self.rows[checks[refused].0] == *found;
                told.then_some(next)
            }
            // An unknown batch that is refused is one that never took effect: nothing to put in order.
            _ => None,
        }
    }
}

struct Search<'a> {
    /// In the order of their calls.
    operations: &'a [Operation],
    tried: HashSet<Situation>,
    farthest: Situation,
}

impl Search<'_> {
    fn run(mut self, keys: usize) -> Result<(), String> {
        let mut open = vec![Situation::new(self.operations.len(), keys)];
        while let Some(situation) = open.pop() {
            if !self.tried.insert(situation.clone()) {
                continue;
            }
            assert!(self.tried.len() < TRIED_MAX, "the history is too long to be explained");
            let Some(deadline) = self.deadline(&situation) else { return Ok(()) };
            if situation.count() >= self.farthest.count() {
                self.farthest = situation.clone();
            }
            // The last one pushed is tried first: known outcomes before unknown ones, early calls before late ones.
            let next =
                self.operations.iter().enumerate().take_while(|(_, operation)| operation.called < deadline);
            let mut next: Vec<_> = next.filter(|(index, _)| !situation.has(*index)).collect();
            next.sort_by_key(|(_, operation)| {
                (operation.answered.is_some(), std::cmp::Reverse(operation.called))
            });
            open.extend(
                next.into_iter().filter_map(|(index, operation)| situation.after(index, &operation.action)),
            );
        }
        Err(self.complaint())
    }

    /// When the first of those that are left had been answered: what was called later comes later. `None` when none is left that
    /// must have happened.
    fn deadline(&self, situation: &Situation) -> Option<u64> {
        let left = self.operations.iter().enumerate().filter(|(index, _)| !situation.has(*index));
        left.filter_map(|(_, operation)| operation.answered).min()
    }

    fn complaint(&self) -> String {
        let mut text =
            format!("no order explains this history; the rows are {:?}, and then:\n", self.farthest.rows);
        let left = self.operations.iter().enumerate().filter(|(index, _)| !self.farthest.has(*index));
        for (_, Operation { called, answered, action }) in left.take(20) {
            let _ = writeln!(
                text,
                "{called}..{}: {action:?}",
                answered.map_or_else(String::new, |at| at.to_string())
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    const APPLIED: Answer = Answer::Applied;

    fn read(key: Key, found: Value) -> Action {
        Action::Read { key, found }
    }

    fn put(value: u32) -> Action {
        Action::Batch { checks: vec![], writes: vec![(0, Some(value))], answer: APPLIED }
    }

    fn swap(from: Value, to: u32, answer: Answer) -> Action {
        Action::Batch { checks: vec![(0, from)], writes: vec![(0, Some(to))], answer }
    }

    /// One after another.
    fn in_turn(actions: impl IntoIterator<Item = Action>) -> Result<(), String> {
        let record = Record::new(2);
        for action in actions {
            record.answered(record.call(), action);
        }
        record.explain()
    }

    /// All at once.
    fn together(actions: impl IntoIterator<Item = Action>) -> Result<(), String> {
        let record = Record::new(2);
        let calls: Vec<_> = actions.into_iter().map(|action| (record.call(), action)).collect();
        for (call, action) in calls {
            record.answered(call, action);
        }
        record.explain()
    }

    #[test]
    fn what_could_have_happened_is_explained() {
        assert_eq!(
            in_turn([read(0, None), put(1), read(0, Some(1)), swap(Some(1), 2, APPLIED), read(0, Some(2))]),
            Ok(())
        );
        assert_eq!(together([read(0, Some(2)), put(1), read(0, Some(1)), read(0, None), put(2)]), Ok(()));
        let refused = Answer::Refused { check: 0, found: Some(2) };
        assert_eq!(together([swap(None, 1, refused), put(2)]), Ok(()));
        let record = Record::new(0);
        assert_eq!((record.explain(), record.counts()), (Ok(()), (0, 0)));
    }

    #[test]
    fn a_stale_read_is_caught() {
        assert!(in_turn([put(1), put(2), read(0, Some(1))]).is_err());
        assert!(in_turn([put(1), read(0, None)]).is_err());
        assert!(in_turn([read(0, Some(1)), put(1)]).is_err(), "and one from the future");
    }

    #[test]
    fn a_lost_update_is_caught() {
        assert!(together([swap(None, 1, APPLIED), swap(None, 2, APPLIED)]).is_err());
        let refused = |found| Answer::Refused { check: 0, found };
        assert!(
            in_turn([swap(None, 1, APPLIED), swap(None, 2, refused(Some(1))), read(0, Some(2))]).is_err()
        );
        assert!(
            in_turn([put(1), swap(None, 2, refused(Some(3)))]).is_err(),
            "a refusal that found what nobody wrote"
        );
    }

    #[test]
    fn two_readers_may_not_disagree_about_the_order() {
        let record = Record::new(1);
        let (one, two) = (record.call(), record.call());
        for value in [1, 2, 1] {
            record.answered(record.call(), read(0, Some(value)));
        }
        record.answered(one, put(1));
        record.answered(two, put(2));
        assert!(record.explain().is_err());
    }

    #[test]
    fn half_a_batch_is_caught() {
        let both =
            |answer| Action::Batch { checks: vec![], writes: vec![(0, Some(1)), (1, Some(1))], answer };
        assert_eq!(in_turn([both(APPLIED), read(0, Some(1)), read(1, Some(1))]), Ok(()));
        assert!(in_turn([both(APPLIED), read(0, Some(1)), read(1, None)]).is_err());
        assert!(in_turn([both(Answer::Unknown), read(1, Some(1)), read(0, None)]).is_err());
    }

    #[test]
    fn an_unknown_batch_takes_effect_once_late_or_never() {
        let unknown = || swap(Some(1), 2, Answer::Unknown);
        for found in [[1, 1], [1, 2], [2, 2]] {
            let reads = found.map(|value| read(0, Some(value)));
            assert_eq!(in_turn([put(1), unknown()].into_iter().chain(reads)), Ok(()), "{found:?}");
        }
        assert!(
            in_turn([put(1), unknown(), read(0, Some(2)), read(0, Some(1))]).is_err(),
            "it was there, and is gone"
        );
        let again = [put(1), unknown(), read(0, Some(2)), put(3), read(0, Some(2))];
        assert!(in_turn(again).is_err(), "it came back");
        assert!(in_turn([put(3), unknown(), read(0, Some(2))]).is_err(), "its check never held");
    }

    /// Histories of a true register, with answers delayed and forgotten at random; then with one read falsified.
    #[test]
    fn random_histories_are_explained_until_a_read_is_falsified() {
        let mut caught = 0;
        for seed in 0..40 {
            let mut rng = Rng::new(seed);
            let (mut rows, mut open) = (vec![None; 2], Vec::new());
            let record = Record::new(2);
            for value in 0..120 {
                // A client that was told nothing is gone; at most six others wait.
                while open.len() >= 6 {
                    let (call, action) = open.swap_remove(rng.below(open.len()));
                    record.answered(call, action);
                }
                let (call, key) = (record.call(), rng.below(2));
                let action = if rng.chance(1, 3) {
                    read(key, rows[key])
                } else {
                    let expected = if rng.chance(3, 4) { rows[key] } else { Some(10_000) };
                    let mut answer = APPLIED;
                    if rows[key] == expected {
                        rows[key] = Some(value);
                    } else {
                        answer = Answer::Refused { check: 0, found: rows[key] };
                    }
                    if rng.chance(1, 12) {
                        answer = Answer::Unknown;
                    }
                    Action::Batch { checks: vec![(key, expected)], writes: vec![(key, Some(value))], answer }
                };
                open.push((call, action));
            }
            for (call, action) in open {
                record.answered(call, action);
            }
            assert_eq!(record.explain(), Ok(()), "seed {seed}");
            let mut taken = record.taken.lock().unwrap();
            let falsified = taken.1.iter_mut().rev().find_map(|operation| match &mut operation.action {
                Action::Read { found, .. } => Some(found),
                Action::Batch { .. } => None,
            });
            *falsified.unwrap() = Some(20_000);
            drop(taken);
            caught += u32::from(record.explain().is_err());
        }
        assert_eq!(caught, 40);
    }
}
