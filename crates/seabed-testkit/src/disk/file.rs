//! One file on the disk: its cache, what is on the platter, and what lies between.

use std::collections::BTreeMap;

use super::{Code, SECTOR_BYTES};
use crate::rng::Rng;

#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) current: Vec<u8>,
    pub(crate) durable: Vec<u8>,
    pub(crate) unsynced: Vec<Change>,
    /// The lock level of each handle that holds one.
    pub(crate) locks: BTreeMap<u64, Code>,
}

/// A change of a file since its last sync.
#[derive(Debug)]
pub(crate) enum Change {
    /// Whole sectors as the write left them: a sector that is written again is written whole, whatever became of its earlier bytes.
    Write {
        start: usize,
        sectors: Vec<u8>,
    },
    Truncate(usize),
}

impl File {
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        overwrite(&mut self.current, offset, bytes);
        let start = offset - offset % SECTOR_BYTES;
        let end = (offset + bytes.len()).next_multiple_of(SECTOR_BYTES).min(self.current.len());
        let sectors = self.current.get(start..end).unwrap_or_default().to_vec();
        self.unsynced.push(Change::Write { start, sectors });
    }

    pub(crate) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Write { start, sectors } => overwrite(&mut self.durable, start, &sectors),
                Change::Truncate(length) => self.durable.resize(length, 0),
            }
        }
    }

    /// The cache forgets what the disk does not have. The length stays, which is kept elsewhere.
    pub(crate) fn revert(&mut self) {
        let length = self.current.len();
        self.current.clone_from(&self.durable);
        self.current.resize(length, 0);
    }

    /// Decides what of the unsynced changes reached the disk, and forgets the rest.
    pub(crate) fn settle(&mut self, survival: Survival, rng: &mut Rng) {
        let changes = std::mem::take(&mut self.unsynced);
        if survival == Survival::Nothing || changes.is_empty() {
            return;
        }
        let mut versions = survival.versions(&changes, rng);
        let kept = rng.below(changes.len() + 1);
        for (position, change) in changes.iter().enumerate() {
            match change {
                Change::Truncate(length) => {
                    if survival.keeps(position, kept, rng) {
                        self.durable.resize(*length, 0);
                    }
                }
                Change::Write { start, sectors } => {
                    for (index, sector) in sectors.chunks(SECTOR_BYTES).enumerate() {
                        let reached = match (survival, position.cmp(&kept)) {
                            (Survival::InOrder, std::cmp::Ordering::Less) => true,
                            // The write that the power went in is torn.
                            (Survival::InOrder, std::cmp::Ordering::Equal) => rng.chance(1, 2),
                            (Survival::InOrder, std::cmp::Ordering::Greater) => false,
                            _ => versions
                                .get_mut(start / SECTOR_BYTES + index)
                                .is_some_and(|left| left.checked_sub(1).map(|less| *left = less).is_some()),
                        };
                        if reached {
                            overwrite(&mut self.durable, start + index * SECTOR_BYTES, sector);
                        }
                    }
                }
            }
        }
    }
}

/// What of the unsynced changes reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survival {
    Nothing,
    Everything,
    /// The first ones, the last of them in part.
    InOrder,
    /// Each sector as after any of its writes, and as after the last of them this often out of eight.
    Scattered(usize),
}

impl Survival {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 | 3 => Self::InOrder,
            _ => Self::Scattered(*rng.pick(&[1, 4, 7])),
        }
    }

    /// Whether a change that is no write survives: the one at `position`, when the first `kept` do.
    pub(crate) fn keeps(self, position: usize, kept: usize, rng: &mut Rng) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::InOrder => position < kept,
            Self::Scattered(often) => rng.chance(often, 8),
        }
    }

    /// How many of its writes each sector has seen, by number of the sector.
    fn versions(self, changes: &[Change], rng: &mut Rng) -> Vec<usize> {
        let mut versions = Vec::new();
        for change in changes {
            let Change::Write { start, sectors } = change else { continue };
            let first = start / SECTOR_BYTES;
            let last = first + sectors.len().div_ceil(SECTOR_BYTES);
            if versions.len() < last {
                versions.resize(last, 0);
            }
            for count in versions.iter_mut().take(last).skip(first) {
                *count += 1;
            }
        }
        if let Self::Scattered(often) = self {
            for count in versions.iter_mut().filter(|count| **count > 0) {
                if !rng.chance(often, 8) {
                    *count = rng.below(*count);
                }
            }
        }
        versions
    }
}

fn overwrite(target: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if target.len() < end {
        target.resize(end, 0);
    }
    if let Some(place) = target.get_mut(offset..end) {
        place.copy_from_slice(bytes);
    }
}
