//! Random programs over one tenant: values that are made from a seed before anything runs.

use seabed_kv::{Batch, Condition, Durability};
use sha2::{Digest as _, Sha256};

use crate::model::{self, Rows};
use crate::rng::Rng;

/// What happens to a tenant.
#[derive(Debug, Clone)]
pub enum Step {
    /// Requests that arrive together and share one flush.
    Group(Vec<(Batch, Durability)>),
    /// Everything acknowledged is to become durable.
    Flush,
    /// The log is to be carried over into the file.
    Checkpoint,
    /// The tenant is closed and opened again.
    Reopen,
    /// Its process is killed and started again.
    Kill,
}

/// Few categories, so that batches meet.
pub const CATEGORIES: [&[u8]; 4] = [b"", b"a", b"kv", b"\xff"];
/// Keys that are prefixes of each other, sit at the ends of the order, or are long.
pub const KEYS: [&[u8]; 12] =
    [b"", b"\0", b"a", b"ab", b"a\0", b"b", b"k1", b"k2", b"k3", b"\xff", b"\xff\xff", &[b'l'; 300]];
const PREFIXES: [&[u8]; 6] = [b"", b"a", b"ab", b"k", b"\xff", b"x"];
/// Nothing, within a page, beyond what a cell of a page holds, and beyond a page.
const PAYLOAD_BYTES: [usize; 5] = [0, 1, 100, 2_000, 9_000];

/// A program of so many steps.
pub fn program(rng: &mut Rng, steps: usize) -> Vec<Step> {
    // What the tenant holds if everything goes well: so that conditions hold about as often as they do not.
    let mut rows = Rows::new();
    (0..steps)
        .map(|_| match rng.below(20) {
            0 => Step::Flush,
            1 => Step::Checkpoint,
            2 => Step::Reopen,
            3 => Step::Kill,
            _ => Step::Group(group(rng, &mut rows)),
        })
        .collect()
}

fn group(rng: &mut Rng, rows: &mut Rows) -> Vec<(Batch, Durability)> {
    let requests = *rng.pick(&[1, 1, 1, 2, 3, 5]);
    (0..requests)
        .map(|_| {
            let durability = if rng.chance(2, 3) { Durability::Durable } else { Durability::Relaxed };
            (batch(rng, rows), durability)
        })
        .collect()
}

/// A random batch. `rows` is what the tenant holds; it is changed as the batch would.
pub fn batch(rng: &mut Rng, rows: &mut Rows) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..*rng.pick(&[0, 0, 0, 1, 1, 2]) {
        let (category, key) = place(rng, rows);
        let condition = condition(rng, rows.get(&(category.clone(), key.clone())).map(|payload| &**payload));
        batch.check(category, key, condition);
    }
    for _ in 0..*rng.pick(&[0, 1, 1, 1, 2, 4]) {
        match rng.below(10) {
            0 | 1 => {
                let (category, key) = place(rng, rows);
                batch.delete(category, key);
            }
            2 => {
                batch.delete_prefix(rng.pick(&CATEGORIES), rng.pick(&PREFIXES));
            }
            _ => {
                let (category, key) = place(rng, rows);
                batch.put(category, key, payload(rng));
            }
        }
    }
    if model::refusal(rows, &batch).is_none() {
        model::write(rows, &batch);
    }
    batch
}

/// A category and a key: of a row that is there, or any.
fn place(rng: &mut Rng, rows: &Rows) -> (Vec<u8>, Vec<u8>) {
    if rng.chance(1, 3)
        && let Some(place) = rows.keys().nth(rng.below(rows.len()))
    {
        return place.clone();
    }
    (rng.pick(&CATEGORIES).to_vec(), rng.pick(&KEYS).to_vec())
}

fn payload(rng: &mut Rng) -> Vec<u8> {
    let bytes = *rng.pick(&PAYLOAD_BYTES);
    let word = rng.next().to_le_bytes();
    word.iter().copied().cycle().take(bytes).collect()
}

fn condition(rng: &mut Rng, found: Option<&[u8]>) -> Condition {
    // Two times in three one that holds.
    match (found, rng.below(3)) {
        (Some(_), 0) | (None, 1 | 2) => match rng.below(5) {
            0 => Condition::Equals(payload(rng)),
            _ => Condition::Absent,
        },
        (None, _) => match rng.below(3) {
            0 => Condition::Equals(Vec::new()),
            1 => Condition::Sha256(Sha256::digest([]).into()),
            _ => Condition::Exists,
        },
        (Some(payload), _) => match rng.below(3) {
            0 => Condition::Equals(payload.to_vec()),
            1 => Condition::Sha256(Sha256::digest(payload).into()),
            _ => Condition::Exists,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_a_function_of_its_seed() {
        let show = |seed| format!("{:?}", program(&mut Rng::new(seed), 30));
        assert_eq!(show(5), show(5));
        assert_ne!(show(5), show(6));
    }

    #[test]
    fn programs_have_everything_in_them() {
        let (mut refused, mut applied, mut large, mut emptied) = (0, 0, 0, 0);
        for seed in 0..50 {
            let (mut rng, mut rows) = (Rng::new(seed), Rows::new());
            for _ in 0..40 {
                let before = rows.clone();
                let batch = batch(&mut rng, &mut rows);
                match model::refusal(&before, &batch) {
                    Some(_) => refused += 1,
                    None => applied += 1,
                }
                emptied += u32::from(model::write(&mut before.clone(), &batch) > 1);
                large += u32::from(batch.bytes() > 9_000);
            }
        }
        assert!(
            refused > 200 && applied > 1_000 && large > 200 && emptied > 20,
            "{refused} {applied} {large} {emptied}"
        );
    }
}
