//! Logical time: what a message is stamped with, and how far a stamp is believed (sds.md section 7).

use crate::config::{Config, LamportUnit};

/// The largest value that peers can count with: theirs are signed.
pub(crate) const LAMPORT_MAX: u64 = i64::MAX.cast_unsigned();

/// What the next own message is stamped with.
pub(crate) fn on_send(config: &Config, local: u64, now_ms: u64) -> u64 {
    let now = config.in_unit(now_ms);
    let next = if config.rules().clock_at_delivery {
        now.max(local.saturating_add(1))
    } else {
        now.max(local).saturating_add(1)
    };
    next.min(LAMPORT_MAX)
}

/// The clock after a message was delivered (profile `nim`: received). `beyond_belief_at_ms` is the time, for a stamp that was not believed:
/// it raises the clock as far as it would be believed from a clock that is right, no further, however often. One that was believed
/// raises it all the way, because the message may be named, and whatever names it must be stamped later.
pub(crate) fn after(config: &Config, local: u64, stamp: u64, beyond_belief_at_ms: Option<u64>) -> u64 {
    if !config.rules().clock_at_delivery {
        return local.max(stamp).saturating_add(1).min(LAMPORT_MAX);
    }
    let believed = match (beyond_belief_at_ms, config.lamport_ahead_ms_max) {
        (Some(now_ms), Some(ahead_ms)) => {
            stamp.min(config.in_unit(now_ms).saturating_add(config.in_unit(ahead_ms)))
        }
        _ => stamp,
    };
    local.max(believed)
}

/// The latest stamp that is believed.
pub(crate) fn believed_max(config: &Config, local: u64, now_ms: u64) -> u64 {
    match config.lamport_ahead_ms_max {
        Some(ahead_ms) => config.in_unit(now_ms).max(local).saturating_add(config.in_unit(ahead_ms)),
        None => u64::MAX,
    }
}

/// Whether a stamp is about a thousand times the time, or about a thousandth of it: one of somebody who counts in the other unit.
pub(crate) fn is_other_unit(config: &Config, stamp: u64, now_ms: u64) -> bool {
    let now = config.in_unit(now_ms);
    let (small, large) = match config.lamport_unit {
        LamportUnit::Seconds => (now, stamp),
        LamportUnit::Milliseconds => (stamp, now),
    };
    small > 0 && (small.saturating_mul(500)..=small.saturating_mul(2_000)).contains(&large)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Dialect;

    #[test]
    fn a_stamp_is_the_time_or_one_more_than_the_last() {
        let seconds = Config::seabed(Dialect::Nim);
        assert_eq!(on_send(&seconds, 0, 5_999), 5);
        assert_eq!(on_send(&seconds, 9, 5_999), 10);
        assert_eq!(on_send(&Config::seabed(Dialect::Spec), 0, 5_999), 5_999);
        assert_eq!(on_send(&Config::nim(), 0, 5_999), 6);
        assert_eq!(on_send(&Config::nim(), u64::MAX, 0), LAMPORT_MAX);
    }

    #[test]
    fn delivery_raises_the_clock_to_the_stamp() {
        let config = Config::seabed(Dialect::Nim);
        assert_eq!((after(&config, 3, 7, None), after(&config, 9, 7, None)), (7, 9));
        assert_eq!((after(&Config::nim(), 3, 7, None), after(&Config::nim(), 9, 7, None)), (8, 10));
    }

    #[test]
    fn a_stamp_beyond_belief_raises_it_by_a_day_at_most() {
        let config = Config::seabed(Dialect::Nim);
        let (now_ms, day) = (1_000_000, 86_400);
        let first = after(&config, 1_000, u64::MAX, Some(now_ms));
        assert_eq!(first, 1_000 + day);
        assert_eq!(after(&config, first, u64::MAX, Some(now_ms)), first);
        assert_eq!(believed_max(&config, first, now_ms), 1_000 + day + day);
        let unbounded = Config { lamport_ahead_ms_max: None, ..config };
        assert_eq!(after(&unbounded, 0, LAMPORT_MAX, None), LAMPORT_MAX);
    }

    #[test]
    fn a_stamp_of_the_other_unit_is_recognised() {
        let (seconds, milliseconds) = (Config::seabed(Dialect::Nim), Config::seabed(Dialect::Spec));
        let now_ms = 1_700_000_000_000;
        assert!(
            is_other_unit(&seconds, now_ms, now_ms) && is_other_unit(&milliseconds, now_ms / 1_000, now_ms)
        );
        for stamp in [0, 1, now_ms / 1_000, u64::MAX] {
            assert!(!is_other_unit(&seconds, stamp, now_ms), "{stamp}");
        }
        for stamp in [0, 1, now_ms, u64::MAX] {
            assert!(!is_other_unit(&milliseconds, stamp, now_ms), "{stamp}");
        }
        assert!(!is_other_unit(&milliseconds, 5, 0) && !is_other_unit(&seconds, 5, 0));
    }
}
