//! When repairs are asked for and answered, so that few participants do what one suffices for (sds.md section 17).
//!
//! Times are offsets in milliseconds. Who is when follows from ids alone, so all participants calculate the same; they have to agree on the
//! longest time, on the number of groups and on the dialect, whose hashes differ.

use crate::hash::{self, magnitude};
use crate::wire::Dialect;
use crate::{MessageId, ParticipantId};

/// How long to wait before asking for a message that is missed: from `min_ms` on, before `max_ms`. `min_ms` when there is no time between them.
///
/// ```
/// use seabed_sds_core::{schedule, wire::Dialect};
///
/// let wait_ms = schedule::t_req(Dialect::Nim, &"alice".into(), &"msg-1".into(), 30_000, 300_000);
/// assert_eq!(wait_ms, 172_988);
/// ```
pub fn t_req(dialect: Dialect, me: &ParticipantId, id: &MessageId, min_ms: u64, max_ms: u64) -> u64 {
    let range_ms = max_ms.saturating_sub(min_ms);
    match range_ms {
        0 => min_ms,
        range_ms => min_ms + combined(dialect, me, id) % range_ms,
    }
}

/// How long to wait before answering a request for a message of `sender`: nothing for the sender itself, for others the longer the farther
/// their ids are from it. Before `max_ms`.
///
/// ```
/// use seabed_sds_core::{schedule, wire::Dialect};
///
/// let wait_ms = |me: &str| schedule::t_resp(Dialect::Nim, &me.into(), &"alice".into(), &"msg-1".into(), 300_000);
/// assert_eq!([wait_ms("alice"), wait_ms("bob"), wait_ms("carol")], [0, 27_600, 68_400]);
/// ```
pub fn t_resp(
    dialect: Dialect,
    me: &ParticipantId,
    sender: &ParticipantId,
    id: &MessageId,
    max_ms: u64,
) -> u64 {
    if max_ms == 0 {
        return 0;
    }
    let hash = |bytes: &[u8]| match dialect {
        Dialect::Nim => hash::nim(bytes),
        Dialect::Spec => hash::spec_repair(bytes),
    };
    let distance = hash(me.as_bytes()) ^ hash(sender.as_bytes());
    let message = hash(id.as_bytes());
    // nim takes both factors for signed, the specification neither; neither product fits 64 bits.
    let (distance, message) = match dialect {
        Dialect::Nim => (magnitude(distance) % max_ms, magnitude(message) % max_ms),
        Dialect::Spec => (distance, message),
    };
    let wait_ms = u128::from(distance) * u128::from(message) % u128::from(max_ms);
    u64::try_from(wait_ms).unwrap_or(max_ms)
}

/// Whether a participant answers requests for a message of `sender`: those do whose group is the sender's. With up to one group all do.
///
/// ```
/// use seabed_sds_core::{schedule, wire::Dialect};
///
/// let answers = |me: &str, groups| {
///     schedule::in_response_group(Dialect::Nim, &me.into(), &"alice".into(), &"msg-1".into(), groups)
/// };
/// assert!(answers("alice", 8) && !answers("bob", 8) && answers("bob", 1));
/// ```
pub fn in_response_group(
    dialect: Dialect,
    me: &ParticipantId,
    sender: &ParticipantId,
    id: &MessageId,
    groups: u64,
) -> bool {
    groups <= 1 || combined(dialect, me, id) % groups == combined(dialect, sender, id) % groups
}

/// Into how many groups the specification divides so many participants.
///
/// ```
/// # use seabed_sds_core::schedule::groups_for;
/// assert_eq!([groups_for(2), groups_for(127), groups_for(128), groups_for(1_000)], [1, 1, 2, 8]);
/// ```
pub fn groups_for(participants: u64) -> u64 {
    participants / 128 + 1
}

/// The hash of a participant and a message together.
fn combined(dialect: Dialect, participant: &ParticipantId, id: &MessageId) -> u64 {
    let both = [participant.as_bytes(), id.as_bytes()].concat();
    match dialect {
        Dialect::Nim => magnitude(hash::nim(&both)),
        Dialect::Spec => hash::spec_repair(&both),
    }
}
