//! Vectors of SDS: recorded from running nim-sds (`vectors/sds`) and `@waku/sds` (`vectors/sds-js`).
//!
//! What Seabed refuses although it was recorded as read (empty ids, hostile filters), and what it reads although it was recorded as
//! refused (content left out), passes when it is exactly that.

mod bloom;
mod fields;
mod nim;
mod scenario;
mod snapshot;
mod spec;
mod transcript;

use serde_json::Value;

use super::{Tally, list};

/// What a list of vectors is checked with: one vector, whole.
type Check = fn(&Value) -> Result<(), String>;

/// Each list of vectors that is known: its name, what one of its vectors has that no other family's has, how it is checked.
const LISTS: &[(&str, &[&str], Check)] = &[
    ("encode", &["fields", "bytes"], nim::encode),
    ("decode", &["bytes", "extract_channel_id"], nim::decode),
    ("decode", &["bytes", "upstream_crashes"], nim::decode),
    ("cases", &["bytes", "hash_i64"], nim::hash),
    ("compute_t_req", &["t_req_ms"], nim::t_req),
    ("compute_t_resp", &["t_resp_ms"], nim::t_resp),
    ("is_in_response_group", &["in_group"], nim::in_group),
    ("params", &["k_hashes", "m_bits", "wire_error_rate"], bloom::nim_sizing),
    ("filters", &["serialized_sha256", "decoded"], bloom::nim_filter),
    ("deserialize", &["name", "bytes"], bloom::nim_read),
    ("rolling", &["init", "steps"], bloom::nim_rolling),
    ("encode", &["fields", "hex"], spec::encode),
    ("decode_only", &["hex", "decode"], spec::decode),
    ("items", &["dialect", "hex", "fields"], spec::crossed),
    ("hashn", &["item", "n", "max"], bloom::spec_place),
    ("filters", &["total_bits", "probes"], bloom::spec_filter),
    ("sizing", &["total_bits", "words"], bloom::spec_sizing),
    ("cases", &["hash_combined", "t_req_offset_ms"], spec::repair),
    ("groups", &["participants", "groups"], spec::groups),
];

/// Stored states, told apart from the other families by the kinds that they name.
const STATES: &[(&str, Check)] = &[("encode", snapshot::encode), ("decode", snapshot::decode)];

fn has(vector: &Value, members: &[&str]) -> bool {
    members.iter().all(|member| vector.get(member).is_some())
}

fn is_state(vector: &Value) -> bool {
    matches!(vector.get("type").and_then(Value::as_str), Some("meta" | "data" | "hist"))
}

/// Whether a file is of this family. One vector of the right shape is enough: the others may be damaged.
pub(super) fn is_one(vectors: &Value) -> bool {
    transcript::is_one(vectors)
        || scenario::is_one(vectors)
        || LISTS
            .iter()
            .any(|(name, members, _)| list(vectors, name).iter().any(|vector| has(vector, members)))
        || STATES.iter().any(|(name, _)| list(vectors, name).iter().any(is_state))
}

/// Every vector of one file.
pub(super) fn check(vectors: &Value, tally: &mut Tally) {
    if transcript::is_one(vectors) {
        return transcript::check(vectors, tally);
    }
    if scenario::is_one(vectors) {
        return scenario::check(vectors, tally);
    }
    let states = STATES.iter().any(|(name, _)| list(vectors, name).iter().any(is_state));
    let mut checked = Vec::new();
    let mut each = |name: &'static str, check: Check| {
        // A list may be known by two signs.
        if checked.contains(&name) {
            return;
        }
        checked.push(name);
        for (number, vector) in list(vectors, name).iter().enumerate() {
            tally.check(|| label(name, number, vector), check(vector));
        }
    };
    if states {
        for (name, check) in STATES {
            each(name, *check);
        }
        return;
    }
    for (name, members, check) in LISTS {
        if list(vectors, name).iter().any(|vector| has(vector, members)) {
            each(name, *check);
        }
    }
}

fn label(list: &str, number: usize, vector: &Value) -> String {
    match vector.get("name").and_then(Value::as_str) {
        Some(name) => format!("{list}[{number}] ({name})"),
        None => format!("{list}[{number}]"),
    }
}
