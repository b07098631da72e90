//! Snapshots: when to ask for one, and which uploads to keep.

use uuid::Uuid;

use crate::Config;
use crate::keys::SnapshotMeta;

const DAY_S: u64 = 86_400;

/// How many versions, the latest one included, an upload may lie back: the original's `SNAPSHOT_SEARCH_LEN`.
pub(crate) const WALK_VERSIONS_MAX: u32 = 5;

/// How much a server wants a snapshot, as `X-Snapshot-Request` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// It asks for nothing.
    None,
    /// One would be good; a replica that would rather not may leave it to another.
    Low,
    /// One is needed now.
    High,
}

/// The urgency that an accepted push is told, from the snapshot as it was *before* the push: by its age in whole days and by the
/// versions since its upload, whichever asks for more. Half as much again as the configured number makes it high.
pub(crate) fn urgency(snapshot: Option<&SnapshotMeta>, config: &Config, now_unix_s: u64) -> Urgency {
    let Some(snapshot) = snapshot else { return Urgency::High };
    // A clock that was set back makes no snapshot old.
    let days = now_unix_s.saturating_sub(snapshot.unix_s) / DAY_S;
    against(days, config.snapshot_days).max(against(snapshot.versions_since, config.snapshot_versions))
}

fn against(count: u64, target: u32) -> Urgency {
    let target = u64::from(target);
    if count >= target * 3 / 2 {
        Urgency::High
    } else if count >= target {
        Urgency::Low
    } else {
        Urgency::None
    }
}

/// Why a snapshot that was uploaded is not kept. The uploader is told 200 all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// There is one of this version; the first one wins.
    SameVersion,
    /// The current one is of a later version.
    Older,
    /// Its version is not among the newest five, or is nil.
    TooOldOrUnknown,
}

/// What the walk back from the latest version needs or says next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Keep,
    Ignore(Ignored),
    /// Go on with [`Walk::parent`] of this version.
    ParentOf(Uuid),
}

/// The walk that decides whether an upload is kept.
#[derive(Debug)]
pub(crate) struct Walk {
    uploaded: Uuid,
    current: Option<Uuid>,
    left: u32,
}

impl Walk {
    /// Begins at the latest version.
    pub(crate) fn begin(latest: Uuid, current: Option<Uuid>, uploaded: Uuid) -> (Self, Step) {
        let mut walk = Self { uploaded, current, left: WALK_VERSIONS_MAX };
        let step =
            if current == Some(uploaded) { Step::Ignore(Ignored::SameVersion) } else { walk.at(latest) };
        (walk, step)
    }

    /// Goes on at the parent of the version asked for; `None` when that version is not there, as below the first one.
    pub(crate) fn parent(&mut self, parent: Option<Uuid>) -> Step {
        parent.map_or(Step::Ignore(Ignored::TooOldOrUnknown), |parent| self.at(parent))
    }

    fn at(&mut self, version: Uuid) -> Step {
        if version == self.uploaded && !version.is_nil() {
            return Step::Keep;
        }
        if self.current == Some(version) {
            return Step::Ignore(Ignored::Older);
        }
        self.left = self.left.saturating_sub(1);
        if self.left == 0 || version.is_nil() {
            return Step::Ignore(Ignored::TooOldOrUnknown);
        }
        Step::ParentOf(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(unix_s: u64, versions_since: u64) -> SnapshotMeta {
        SnapshotMeta { version: Uuid::from_u128(1), unix_s, versions_since, bytes: 1, staged: None }
    }

    #[test]
    fn urgency_follows_age_and_count() {
        use Urgency::{High, Low, None};
        let config = Config::default();
        let table = [
            (0, 0, None),
            (13, 0, None),
            (14, 0, Low),
            (20, 0, Low),
            (21, 0, High),
            (28, 0, High),
            (50, 0, High),
            (0, 99, None),
            (0, 100, Low),
            (0, 149, Low),
            (0, 150, High),
            (0, 200, High),
            (14, 150, High),
            (21, 100, High),
            (14, 0, Low),
        ];
        for (days, versions_since, expected) in table {
            let now = 1_000_000 + days * DAY_S;
            let found = urgency(Some(&snapshot(1_000_000, versions_since)), &config, now);
            assert_eq!(found, expected, "{days} days, {versions_since} versions");
        }
        assert_eq!(urgency(Option::None, &config, 0), High);
        // A day is whole only when its last second has passed.
        assert_eq!(urgency(Some(&snapshot(0, 0)), &config, 14 * DAY_S - 1), None);
        // A clock set back.
        assert_eq!(urgency(Some(&snapshot(50 * DAY_S, 0)), &config, 0), None);
    }

    #[test]
    fn integer_halves_round_down_and_extreme_targets_do_not_overflow() {
        let config = |versions| Config { snapshot_versions: versions, ..Config::default() };
        assert_eq!(urgency(Some(&snapshot(0, 49)), &config(33), 0), Urgency::High);
        assert_eq!(urgency(Some(&snapshot(0, 48)), &config(33), 0), Urgency::Low);
        assert_eq!(urgency(Some(&snapshot(0, 50)), &config(30), 0), Urgency::High);
        assert_eq!(urgency(Some(&snapshot(0, 0)), &config(0), 0), Urgency::High);
        assert_eq!(urgency(Some(&snapshot(0, u64::MAX)), &config(u32::MAX), 0), Urgency::High);
    }

    #[test]
    fn urgencies_are_ordered() {
        assert!(Urgency::None < Urgency::Low && Urgency::Low < Urgency::High);
    }
}
