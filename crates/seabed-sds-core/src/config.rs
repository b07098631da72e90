//! How a channel behaves: two profiles as tables of knobs, and every duration and bound with its default.

use crate::error::ConfigError;
use crate::limits::{CAUSAL_HISTORY_MAX, HINT_BYTES_MAX, ID_BYTES_MAX, REPAIR_REQUEST_MAX, WIRE_BYTES_MAX};
use crate::wire::{Dialect, ReadDialect, WireLimits};

/// The most ids that one call may declare met.
pub const MARKED_IDS_MAX: usize = 10_000;

/// How many dependencies that were declared met, or given up, are remembered: the oldest is forgotten first.
pub const MET_IDS_MAX: usize = 10_000;

/// How many sync messages are remembered: the oldest is forgotten first.
pub const SYNC_IDS_MAX: usize = 1_000;

/// How often repair requests are answered, when there are more than one sweep may answer, in milliseconds.
pub const ANSWERS_PAUSE_MS: u64 = 5_000;

/// Whose choices a channel follows where implementations differ (sds.md section 26a).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// The specification's, and ours where it is silent.
    #[default]
    Seabed,
    /// Those of nim-sds, to the byte of every message.
    Nim,
}

/// The unit of a channel's logical clock. All participants must have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LamportUnit {
    /// Seconds of Unix time: dialect N.
    Seconds,
    /// Milliseconds of Unix time: dialect S.
    Milliseconds,
}

/// When an own message counts as received because it is in filters, which may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BloomAckThreshold {
    /// As soon as two others have it in theirs, or all when the log knows fewer than two others.
    Others,
    /// As soon as so many filters have it.
    Filters(u32),
}

/// The behaviour of a channel. Start from [`Config::seabed`] or [`Config::nim`] and change what must differ.
///
/// ```
/// use seabed_sds_core::{Channel, Config, wire::Dialect};
///
/// let config = Config { resend_interval_ms: 5_000, ..Config::seabed(Dialect::Nim) };
/// assert!(config.check().is_ok());
///
/// let impossible = Config { causal_history: 2_000, ..config };
/// assert_eq!(
///     Channel::new("room".into(), "alice".into(), impossible, 0).err().map(|error| error.to_string()).as_deref(),
///     Some("impossible configuration: the causal history is longer than the log")
/// );
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Whose choices it follows.
    pub profile: Profile,
    /// The dialect of what it sends.
    pub dialect: Dialect,
    /// The dialects of what it reads.
    pub read: ReadDialect,
    /// Whether ids that are not UTF-8 are accepted. JSON, JavaScript and C mangle them.
    pub accepts_any_id: bool,
    /// The unit of the logical clock.
    pub lamport_unit: LamportUnit,
    /// How far in the future a message may claim to be and be believed, in milliseconds; `None` for no bound.
    pub lamport_ahead_ms_max: Option<u64>,
    /// How many ids the filter is made for.
    pub bloom_capacity: usize,
    /// How often the filter may be wrong, above 0 and below 1.
    pub bloom_error_rate: f64,
    /// How long the filter names what was received, in milliseconds (profile `seabed` in dialect N).
    pub filter_horizon_ms: u64,
    /// How many messages a message names that it rests on.
    pub causal_history: usize,
    /// When an own message counts as received because it is in filters.
    pub bloom_ack_threshold: BloomAckThreshold,
    /// After how long an own message is sent again, in milliseconds.
    pub resend_interval_ms: u64,
    /// The same for one that is in somebody's filter.
    pub resend_interval_possible_ms: u64,
    /// How often an own message is sent again before it is given up.
    pub resend_attempts_max: u32,
    /// By what the interval is multiplied at each further attempt; 1 for a steady one.
    pub resend_factor: u32,
    /// By how much of the interval a resend may be late, in percent, so that participants do not speak at once.
    pub resend_jitter_percent: u32,
    /// How often a participant that says nothing tells what it knows, in milliseconds, give or take a quarter; `None` for never.
    pub sync_interval_ms: Option<u64>,
    /// After how long a dependency that does not come is given up, in milliseconds; `None` for never.
    pub dependency_timeout_ms: Option<u64>,
    /// Whether missing messages are asked for and asked-for messages sent (SDS-R). Takes a participant id.
    pub repair: bool,
    /// The earliest that a missing message is asked for, in milliseconds.
    pub repair_t_min_ms: u64,
    /// The latest that a missing message is asked for, and answered, in milliseconds. All participants must have the same.
    pub repair_t_max_ms: u64,
    /// Into how many groups those who answer are divided ([`groups_for`](crate::schedule::groups_for)). All must have the same.
    pub response_groups: u64,
    /// How often a missing message is asked for that nothing waits for. What a message waits for is asked for, in the end at eight times the
    /// first pause, until it comes or is given up as lost.
    pub repair_attempts_max: u32,
    /// How many missing messages one message asks for.
    pub repair_requests_max: usize,
    /// How many answers are sent at once.
    pub repair_answers_max: usize,
    /// What a channel holds at most.
    pub limits: Limits,
}

/// What a channel holds at most. Profile `nim` has no bounds but that of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Messages in the log: beyond it the oldest are forgotten, by the next operations when this was lowered.
    pub log_messages_max: usize,
    /// Ids that were received: beyond it the oldest are forgotten.
    pub seen_ids_max: usize,
    /// Bytes of a received message, before it is looked at.
    pub wire_bytes_max: usize,
    /// Own messages that are not acknowledged: beyond it sending says `Backpressure`.
    pub outgoing_messages_max: usize,
    /// Messages that wait: beyond it the one with the highest Lamport value is dropped.
    pub incoming_messages_max: usize,
    /// Bytes of messages that wait: likewise.
    pub incoming_bytes_max: usize,
    /// Missing messages that one message may name: beyond it that message is dropped; of a sync message, nothing that it names is missing.
    pub missing_ids_max: usize,
    /// Entries of a causal history that are accepted: beyond it the message is refused.
    pub history_entries_max: usize,
    /// Repair requests of one message that are read: the rest are passed over.
    pub requests_read_max: usize,
    /// Missing messages that are asked for: beyond it the one due last is not, until there is room. It stays missing while something waits for it.
    pub repairs_out_max: usize,
    /// Answers that are going to be sent: beyond it the one due last is not.
    pub repairs_in_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            log_messages_max: 1_000,
            seen_ids_max: 12_000,
            wire_bytes_max: WIRE_BYTES_MAX,
            outgoing_messages_max: 10_000,
            incoming_messages_max: 1_000,
            incoming_bytes_max: 16 * 1_024 * 1_024,
            missing_ids_max: 256,
            history_entries_max: CAUSAL_HISTORY_MAX,
            requests_read_max: 16,
            repairs_out_max: 1_000,
            repairs_in_max: 1_000,
        }
    }
}

impl Config {
    /// Profile `seabed`, the default, in a dialect.
    pub fn seabed(dialect: Dialect) -> Self {
        let spec = dialect == Dialect::Spec;
        Self {
            profile: Profile::Seabed,
            dialect,
            read: ReadDialect::Auto,
            accepts_any_id: false,
            lamport_unit: if spec { LamportUnit::Milliseconds } else { LamportUnit::Seconds },
            lamport_ahead_ms_max: Some(24 * 60 * 60 * 1_000),
            bloom_capacity: 10_000,
            bloom_error_rate: 0.001,
            filter_horizon_ms: 30 * 60 * 1_000,
            causal_history: 10,
            bloom_ack_threshold: BloomAckThreshold::Others,
            resend_interval_ms: 60_000,
            resend_interval_possible_ms: 120_000,
            resend_attempts_max: 5,
            resend_factor: 1,
            resend_jitter_percent: 10,
            sync_interval_ms: spec.then_some(30_000),
            dependency_timeout_ms: None,
            repair: true,
            repair_t_min_ms: 30_000,
            repair_t_max_ms: if spec { 120_000 } else { 300_000 },
            response_groups: 1,
            repair_attempts_max: 8,
            repair_requests_max: 3,
            repair_answers_max: 10,
            limits: Limits::default(),
        }
    }

    /// Profile `seabed` for a channel in which everybody runs Seabed: sync messages in either dialect, and repairs that are asked for and answered
    /// within half a minute, which all participants must have alike. It meets the published targets where most copies arrive (`docs/performance.md`).
    /// nim-sds would take each sync message for one of the application's without content, and forget another one for it.
    ///
    /// ```
    /// use seabed_sds_core::{Channel, Config, wire::Dialect};
    ///
    /// let config = Config::among_seabed(Dialect::Nim);
    /// assert_eq!(config.sync_interval_ms, Some(30_000));
    /// assert!(Channel::new("room".into(), "alice".into(), config, 0).is_ok());
    /// ```
    pub fn among_seabed(dialect: Dialect) -> Self {
        Self {
            sync_interval_ms: Some(30_000),
            repair_t_min_ms: 5_000,
            repair_t_max_ms: 30_000,
            ..Self::seabed(dialect)
        }
    }

    /// Profile `nim`: what nim-sds does, with its defaults.
    pub fn nim() -> Self {
        Self {
            profile: Profile::Nim,
            read: ReadDialect::Strict(Dialect::Nim),
            accepts_any_id: true,
            lamport_ahead_ms_max: None,
            bloom_ack_threshold: BloomAckThreshold::Filters(1),
            resend_jitter_percent: 0,
            resend_interval_possible_ms: 60_000,
            ..Self::seabed(Dialect::Nim)
        }
    }

    /// Whether such a channel can work.
    ///
    /// # Errors
    /// It cannot; the error says why.
    pub fn check(&self) -> Result<(), ConfigError> {
        let nim = self.profile == Profile::Nim;
        // nim-sds takes a rate or a capacity that makes no sense for its default, and so does its profile.
        let filter = nim
            || self.bloom_capacity > 0
                && self.bloom_capacity <= 1_000_000
                && self.bloom_error_rate >= 1e-6
                && self.bloom_error_rate < 1.0;
        let limits = &self.limits;
        let bounds = [
            limits.log_messages_max,
            limits.seen_ids_max,
            limits.wire_bytes_max,
            limits.outgoing_messages_max,
            limits.incoming_messages_max,
            limits.incoming_bytes_max,
            limits.missing_ids_max,
            limits.history_entries_max,
            limits.requests_read_max,
            limits.repairs_out_max,
            limits.repairs_in_max,
        ];
        for (possible, otherwise) in [
            (
                filter,
                "the filter has no capacity, more than 1,000,000, or an error rate outside 0.000001 to 1",
            ),
            (bounds.iter().all(|bound| *bound > 0), "a limit is zero"),
            (limits.seen_ids_max >= limits.log_messages_max, "fewer ids are remembered than messages"),
            (self.causal_history <= limits.log_messages_max, "the causal history is longer than the log"),
            (self.causal_history <= limits.history_entries_max, "it would refuse its own causal history"),
            (nim || self.causal_history > 0, "the causal history is empty"),
            (nim || self.resend_interval_ms > 0, "the resend interval is zero"),
            (
                nim || self.resend_interval_possible_ms > 0,
                "the resend interval of possibly acknowledged messages is zero",
            ),
            (self.resend_factor > 0, "the resend factor is zero"),
            (self.resend_jitter_percent <= 100, "the resend jitter is more than the interval"),
            (self.sync_interval_ms != Some(0), "the sync interval is zero"),
            (!self.repair || self.repair_t_max_ms >= self.repair_t_min_ms, "T_max is less than T_min"),
            (self.response_groups > 0, "there are no response groups"),
            (nim || !self.repair || self.repair_requests_max > 0, "no message may ask for repair"),
            (nim || !self.repair || self.repair_answers_max > 0, "no request may be answered"),
            (
                self.bloom_ack_threshold != BloomAckThreshold::Filters(0),
                "no filter would acknowledge everything",
            ),
            (
                !self.repair
                    || self.dependency_timeout_ms.is_none_or(|timeout| timeout > self.repair_t_max_ms),
                "dependencies are given up before they are asked for: the timeout is not more than T_max",
            ),
            (
                !nim || self.dialect == Dialect::Nim && self.sync_interval_ms.is_none(),
                "profile nim speaks dialect N and sends no sync messages",
            ),
        ] {
            if !possible {
                return Err(ConfigError(otherwise));
            }
        }
        Ok(())
    }

    pub(crate) fn rules(&self) -> &'static Rules {
        match self.profile {
            Profile::Seabed => &SEABED,
            Profile::Nim => &NIM,
        }
    }

    /// What a received message may hold.
    pub(crate) fn wire_limits(&self) -> WireLimits {
        if !self.rules().bounded {
            return WireLimits {
                accept_non_utf8: self.accepts_any_id,
                as_nim_reads: true,
                ..WireLimits::OFF
            };
        }
        WireLimits {
            wire_bytes_max: self.limits.wire_bytes_max,
            id_bytes_max: ID_BYTES_MAX,
            hint_bytes_max: HINT_BYTES_MAX,
            causal_history_max: self.limits.history_entries_max,
            repair_request_max: REPAIR_REQUEST_MAX,
            accept_non_utf8: self.accepts_any_id,
            as_nim_reads: false,
        }
    }

    /// A duration in the unit of the logical clock.
    pub(crate) fn in_unit(&self, ms: u64) -> u64 {
        match self.lamport_unit {
            LamportUnit::Seconds => ms / 1_000,
            LamportUnit::Milliseconds => ms,
        }
    }
}

/// Where the profiles differ: the table of sds.md section 26a and contracts.md section 3.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "a table of knobs, each of which has two positions")]
pub(crate) struct Rules {
    /// The clock follows the specification: it is raised at delivery, to the message's value. Else at receipt, to one more.
    pub(crate) clock_at_delivery: bool,
    /// The log is in the order of (Lamport, id). Else in that of insertion.
    pub(crate) log_by_lamport: bool,
    /// What was ever delivered is known, and what was marked as met, and sync messages. Else only what is in the log.
    pub(crate) remembers: bool,
    /// A dependency that waits itself is waited for in silence. Else it is reported as missing and asked for.
    pub(crate) waits_silently: bool,
    /// A message without content is a sync message. Else one as any other.
    pub(crate) empty_is_sync: bool,
    /// The filter is that of the horizon. Else the rolling one, with duplicates.
    pub(crate) filter_of_ring: bool,
    /// A request is repeated with growing pauses. Else it is made once, and forgotten when a peer makes it or `T_max` passes.
    pub(crate) rearms_requests: bool,
    /// Of two requests for one message, the earlier sets the time of the answer. Else the later.
    pub(crate) keeps_first_answer: bool,
    /// Messages are kept and answered without filter and requests.
    pub(crate) strips_messages: bool,
    /// Own messages are sent again when nobody acknowledges them. Else the attempts are only counted.
    pub(crate) resends: bool,
    /// An own message's id cannot be used again.
    pub(crate) refuses_reused_ids: bool,
    /// A message with our sender id is ours. Else it is looked at like any other.
    pub(crate) knows_itself: bool,
    /// The bounds of [`Limits`] hold.
    pub(crate) bounded: bool,
}

const SEABED: Rules = Rules {
    clock_at_delivery: true,
    log_by_lamport: true,
    remembers: true,
    waits_silently: true,
    empty_is_sync: true,
    filter_of_ring: true,
    rearms_requests: true,
    keeps_first_answer: true,
    strips_messages: true,
    resends: true,
    refuses_reused_ids: true,
    knows_itself: true,
    bounded: true,
};

const NIM: Rules = Rules {
    clock_at_delivery: false,
    log_by_lamport: false,
    remembers: false,
    waits_silently: false,
    empty_is_sync: false,
    filter_of_ring: false,
    rearms_requests: false,
    keeps_first_answer: false,
    strips_messages: false,
    resends: false,
    refuses_reused_ids: false,
    knows_itself: false,
    bounded: false,
};
