//! A configuration from outside: what differs from a profile's.

use seabed_sds_core::Config;
use serde::Deserialize;

/// What differs from a profile's configuration, by the names that the fields of [`Config`] have; unknown ones are errors that name them.
///
/// ```
/// use seabed_sds::ConfigPatch;
/// use seabed_sds::core::{Config, wire::Dialect};
///
/// let patch: ConfigPatch = serde_json::from_str(r#"{"resend_interval_ms":5000,"dependency_timeout_ms":0}"#)?;
/// let mut config = Config::seabed(Dialect::Nim);
/// patch.apply(&mut config);
/// assert_eq!((config.resend_interval_ms, config.dependency_timeout_ms), (5_000, None));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigPatch {
    bloom_capacity: Option<usize>,
    bloom_error_rate: Option<f64>,
    causal_history: Option<usize>,
    log_messages_max: Option<usize>,
    outgoing_messages_max: Option<usize>,
    incoming_messages_max: Option<usize>,
    resend_interval_ms: Option<u64>,
    resend_interval_possible_ms: Option<u64>,
    resend_attempts_max: Option<u32>,
    resend_factor: Option<u32>,
    resend_jitter_percent: Option<u32>,
    /// 0 for never.
    sync_interval_ms: Option<u64>,
    /// 0 for never.
    dependency_timeout_ms: Option<u64>,
    repair: Option<bool>,
    repair_t_min_ms: Option<u64>,
    repair_t_max_ms: Option<u64>,
    response_groups: Option<u64>,
    repair_attempts_max: Option<u32>,
    repair_requests_max: Option<usize>,
    repair_answers_max: Option<usize>,
}

impl ConfigPatch {
    /// Changes what it names. Whether that can work is for [`Config::check`] to say.
    pub fn apply(self, config: &mut Config) {
        fn set<T>(to: &mut T, from: Option<T>) {
            if let Some(from) = from {
                *to = from;
            }
        }
        set(&mut config.bloom_capacity, self.bloom_capacity);
        set(&mut config.bloom_error_rate, self.bloom_error_rate);
        set(&mut config.causal_history, self.causal_history);
        set(&mut config.limits.log_messages_max, self.log_messages_max);
        set(&mut config.limits.outgoing_messages_max, self.outgoing_messages_max);
        set(&mut config.limits.incoming_messages_max, self.incoming_messages_max);
        set(&mut config.resend_interval_ms, self.resend_interval_ms);
        set(&mut config.resend_interval_possible_ms, self.resend_interval_possible_ms);
        set(&mut config.resend_attempts_max, self.resend_attempts_max);
        set(&mut config.resend_factor, self.resend_factor);
        set(&mut config.resend_jitter_percent, self.resend_jitter_percent);
        set(&mut config.sync_interval_ms, self.sync_interval_ms.map(|ms| (ms > 0).then_some(ms)));
        set(&mut config.dependency_timeout_ms, self.dependency_timeout_ms.map(|ms| (ms > 0).then_some(ms)));
        set(&mut config.repair, self.repair);
        set(&mut config.repair_t_min_ms, self.repair_t_min_ms);
        set(&mut config.repair_t_max_ms, self.repair_t_max_ms);
        set(&mut config.response_groups, self.response_groups);
        set(&mut config.repair_attempts_max, self.repair_attempts_max);
        set(&mut config.repair_requests_max, self.repair_requests_max);
        set(&mut config.repair_answers_max, self.repair_answers_max);
    }
}
