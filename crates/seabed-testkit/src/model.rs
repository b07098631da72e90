//! What a tenant may hold: the history of its batches, and the states that are still possible.
//!
//! A world is one way things may have gone: the states the tenant went through, from the last one that must survive a power cut to
//! the one that readers see. There is one world until an answer is [`Unknown`](seabed_kv::Applied::Unknown); then there are two
//! for each such batch, until something that is seen or answered tells them apart. When no world is left, a promise was broken.

use std::collections::BTreeMap;
use std::sync::Arc;

use seabed_kv::{Applied, Batch, Check, Durability, Error, Outcome, Refusal, Write};

/// Everything a tenant holds, by category and key.
pub type Rows = BTreeMap<(Vec<u8>, Vec<u8>), Arc<[u8]>>;

/// The rows of a listing.
pub fn rows(listing: impl IntoIterator<Item = (Vec<u8>, Vec<u8>, Vec<u8>)>) -> Rows {
    listing.into_iter().map(|(category, key, payload)| ((category, key), payload.into())).collect()
}

/// Makes the writes of a batch and answers how many rows it deleted.
pub fn write(rows: &mut Rows, batch: &Batch) -> u64 {
    let before = |rows: &Rows| rows.len() as u64;
    let mut deleted = 0;
    for write in batch.writes() {
        let count = before(rows);
        match write {
            Write::Put { category, key, payload } => {
                let place = (category.clone(), key.as_bytes().to_vec());
                rows.insert(place, payload.as_slice().into());
                continue;
            }
            Write::Delete { category, key } => {
                rows.remove(&(category.clone(), key.as_bytes().to_vec()));
            }
            Write::DeletePrefix { category, prefix } => {
                rows.retain(|(of, key), _| of != category || !key.starts_with(prefix.as_bytes()));
            }
        }
        deleted += count - before(rows);
    }
    deleted
}

/// The first check of a batch that does not hold.
pub fn refusal(rows: &Rows, batch: &Batch) -> Option<Refusal> {
    batch.checks().iter().enumerate().find_map(|(position, check)| {
        let found = found(rows, check);
        (!check.condition.holds(found)).then(|| Refusal { check: position, found: found.map(<[u8]>::to_vec) })
    })
}

fn found<'a>(rows: &'a Rows, check: &Check) -> Option<&'a [u8]> {
    rows.get(&(check.category.clone(), check.key.as_bytes().to_vec())).map(|payload| &**payload)
}

/// The history of one tenant: feed it every answer, and it says when one, or a state that is seen, breaks a promise.
#[derive(Debug, Clone)]
pub struct History {
    worlds: Vec<World>,
}

#[derive(Debug, Clone, PartialEq)]
struct World {
    /// States that a power cut may still go back to.
    before: Vec<Rows>,
    /// What readers see.
    now: Rows,
}

impl Default for History {
    fn default() -> Self {
        Self { worlds: vec![World { before: Vec::new(), now: Rows::new() }] }
    }
}

impl History {
    /// Takes in the answers to one group of requests, in their order.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn answered(
        &mut self,
        requests: &[(Batch, Durability)],
        answers: &[Result<Outcome, Error>],
    ) -> Result<(), String> {
        if requests.len() != answers.len() {
            return Err(format!("{} requests got {} answers", requests.len(), answers.len()));
        }
        // Worlds in which a request of this group was lost whose fate is unknown: those that follow it unknown are lost as well.
        let mut lost: Vec<World> = Vec::new();
        for ((batch, durability), answer) in requests.iter().zip(answers) {
            match answer {
                Err(error) if error.applied() == Applied::Unknown => {
                    lost.extend(self.worlds.iter().cloned());
                    for world in &mut self.worlds {
                        // A refusal that nobody was told of changes nothing either.
                        let _ = world.apply(batch);
                    }
                }
                Err(_) => self.worlds.append(&mut lost),
                Ok(outcome) => {
                    self.worlds.append(&mut lost);
                    let step = |world: &mut World| match outcome {
                        Outcome::Applied(commit) => world.applied(batch, *durability, commit.deleted),
                        Outcome::Refused(refusal) => world.refused(batch, refusal),
                    };
                    self.keep(step)?;
                }
            }
        }
        self.worlds.append(&mut lost);
        self.settle();
        Ok(())
    }

    /// A flush was acknowledged: everything up to here survives from now on.
    pub fn flushed(&mut self) {
        for world in &mut self.worlds {
            world.before.clear();
        }
        self.settle();
    }

    /// A running tenant, or one whose process was killed and started again, shows these rows.
    ///
    /// # Errors
    /// When it does not hold exactly what it should.
    pub fn seen(&mut self, rows: &Rows) -> Result<(), String> {
        self.keep(|world| if world.now == *rows { Ok(()) } else { Err(difference(&world.now, rows)) })
    }

    /// After a power cut the tenant shows these rows: a prefix of the commits with everything that had to survive.
    ///
    /// # Errors
    /// When that is not what it is.
    pub fn survived(&mut self, rows: &Rows) -> Result<(), String> {
        let legal = self.worlds.iter().any(|world| world.before.contains(rows) || world.now == *rows);
        if !legal {
            let worlds = self.worlds.iter().map(|world| {
                let first = world.before.first().unwrap_or(&world.now);
                format!(
                    "{} states are legal; against the oldest: {}",
                    world.before.len() + 1,
                    difference(first, rows)
                )
            });
            return Err(worlds.collect::<Vec<_>>().join(" | "));
        }
        self.worlds = vec![World { before: Vec::new(), now: rows.clone() }];
        Ok(())
    }

    fn keep(&mut self, mut step: impl FnMut(&mut World) -> Result<(), String>) -> Result<(), String> {
        let mut reason = String::from("no world was left before");
        self.worlds.retain_mut(|world| step(world).map_err(|error| reason = error).is_ok());
        if self.worlds.is_empty() { Err(reason) } else { Ok(()) }
    }

    /// Drops worlds that are there twice.
    fn settle(&mut self) {
        let mut unique: Vec<World> = Vec::new();
        for world in self.worlds.drain(..) {
            if !unique.contains(&world) {
                unique.push(world);
            }
        }
        self.worlds = unique;
    }
}

impl World {
    /// Applies a batch if its checks hold, as one more state that a power cut may undo.
    fn apply(&mut self, batch: &Batch) -> Result<u64, Refusal> {
        if let Some(refusal) = refusal(&self.now, batch) {
            return Err(refusal);
        }
        if batch.writes().is_empty() {
            return Ok(0);
        }
        let before = self.now.clone();
        let deleted = write(&mut self.now, batch);
        self.before.push(before);
        Ok(deleted)
    }

    fn applied(&mut self, batch: &Batch, durability: Durability, deleted: u64) -> Result<(), String> {
        match self.apply(batch) {
            Err(refusal) => Err(format!("applied, though check {} does not hold", refusal.check)),
            Ok(expected) if expected != deleted => {
                Err(format!("says that it deleted {deleted} rows instead of {expected}"))
            }
            Ok(_) => {
                if durability == Durability::Durable {
                    self.before.clear();
                }
                Ok(())
            }
        }
    }

    fn refused(&mut self, batch: &Batch, told: &Refusal) -> Result<(), String> {
        let expected = refusal(&self.now, batch);
        if expected.as_ref() != Some(told) {
            return Err(format!("refused by {told:?} instead of {expected:?}"));
        }
        // Whoever was refused knows of that row: the commit that made it what it is survives from now on.
        if let Some(check) = batch.checks().get(told.check) {
            let other = self.before.iter().rposition(|rows| found(rows, check) != told.found.as_deref());
            self.before.drain(..other.map_or(0, |other| other + 1));
        }
        Ok(())
    }
}

/// In what `found` differs from `expected`, in a line.
fn difference(expected: &Rows, found: &Rows) -> String {
    let show =
        |(category, key): &(Vec<u8>, Vec<u8>)| format!("{}/{}", category.escape_ascii(), key.escape_ascii());
    let missing = expected.keys().filter(|row| !found.contains_key(*row));
    let extra = found.keys().filter(|row| !expected.contains_key(*row));
    let changed =
        expected.iter().filter(|(row, payload)| found.get(*row).is_some_and(|other| other != *payload));
    let mut parts: Vec<String> = missing.map(|row| format!("lacks {}", show(row))).collect();
    parts.extend(extra.map(|row| format!("has {}", show(row))));
    parts.extend(changed.map(|(row, _)| format!("differs in {}", show(row))));
    if parts.is_empty() { "the same".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use seabed_kv::Store;

    use super::*;

    fn put(key: &str, payload: &str) -> Batch {
        let mut batch = Batch::new();
        batch.put("c", key, payload);
        batch
    }

    fn holding(keys: &[&str]) -> Rows {
        rows(keys.iter().map(|key| (b"c".to_vec(), key.as_bytes().to_vec(), b"1".to_vec())))
    }

    /// A history of groups that went as the memory backend answers them.
    fn history(groups: &[&[(Batch, Durability)]]) -> History {
        let tenant = Store::memory().open("t").wait().unwrap();
        let mut history = History::default();
        for group in groups {
            let answers: Vec<_> = group
                .iter()
                .map(|(batch, durability)| tenant.apply(batch.clone(), *durability).wait())
                .collect();
            history.answered(group, &answers).unwrap();
        }
        history
    }

    fn survives(history: &History, keys: &[&str]) -> bool {
        history.clone().survived(&holding(keys)).is_ok()
    }

    #[test]
    fn a_cut_undoes_relaxed_commits_from_the_end_and_never_a_durable_one() {
        use Durability::{Durable, Relaxed};
        let history =
            history(&[&[(put("1", "1"), Relaxed)], &[(put("2", "1"), Durable)], &[(put("3", "1"), Relaxed)]]);
        assert!(survives(&history, &["1", "2"]) && survives(&history, &["1", "2", "3"]));
        for illegal in [&["1"] as &[&str], &["2"], &["2", "3"], &[], &["1", "3"]] {
            assert!(!survives(&history, illegal), "{illegal:?}");
        }
        let mut flushed = history.clone();
        flushed.flushed();
        assert!(!survives(&flushed, &["1", "2"]) && survives(&flushed, &["1", "2", "3"]));
    }

    #[test]
    fn a_refusal_makes_what_it_tells_of_survive_and_nothing_later() {
        use Durability::Relaxed;
        let mut check = Batch::new();
        check.check_absent("c", "2");
        let history = history(&[
            &[(put("1", "1"), Relaxed), (put("2", "1"), Relaxed), (put("3", "1"), Relaxed)],
            &[(check, Relaxed)],
        ]);
        assert!(survives(&history, &["1", "2"]) && survives(&history, &["1", "2", "3"]));
        assert!(!survives(&history, &["1"]) && !survives(&history, &[]));
    }

    #[test]
    fn an_unknown_batch_is_there_or_not_until_it_is_seen_and_then_stays_so() {
        let unknown = || Err(Error::new(seabed_kv::ErrorKind::Backend, "no").unknown());
        let group = [(put("1", "1"), Durability::Durable), (put("2", "1"), Durability::Durable)];
        let mut history = History::default();
        history.answered(&group, &[unknown(), unknown()]).unwrap();
        assert!(survives(&history, &[]) && survives(&history, &["1"]) && survives(&history, &["1", "2"]));
        assert!(!survives(&history, &["2"]), "the middle is never lost");
        history.seen(&holding(&["1"])).unwrap();
        assert!(!survives(&history, &["1", "2"]), "what was seen not to be there stays away");
        assert!(survives(&history, &[]), "what was only seen may be lost");
    }

    #[test]
    fn wrong_answers_are_told() {
        let applied = |deleted| {
            let tenant = Store::memory().open("t").wait().unwrap();
            let mut batch = put("x", "1");
            if deleted {
                batch.delete("c", "x");
            }
            vec![tenant.apply(batch, Durability::Durable).wait()]
        };
        let one = [(put("1", "1"), Durability::Durable)];
        assert!(History::default().answered(&one, &applied(false)).is_ok());
        assert!(History::default().answered(&one, &applied(true)).is_err(), "it deletes nothing");
        let mut check = Batch::new();
        check.check_exists("c", "1");
        let checked = [(check, Durability::Durable)];
        assert!(History::default().answered(&checked, &applied(false)).is_err(), "there is no such row");
        assert!(History::default().answered(&one, &[]).is_err(), "an answer is missing");
        assert!(History::default().seen(&holding(&["1"])).is_err());
    }
}
