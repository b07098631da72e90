//! When repairs are asked for and answered.

use seabed_sds_core::{hash, schedule, wire::Dialect};

use crate::{list, number, read, signed, text};

/// A time as nim has it; below 0 is as 0.
fn ms(value: &serde_json::Value, name: &str) -> u64 {
    signed(value, name).try_into().unwrap_or(0)
}

#[test]
fn nims_timing() {
    let vectors = read("sds/repair.json");
    for vector in list(&vectors, "compute_t_req") {
        let (me, id) = (text(vector, "participant_id").into(), text(vector, "message_id").into());
        let found = schedule::t_req(Dialect::Nim, &me, &id, ms(vector, "t_min_ms"), ms(vector, "t_max_ms"));
        assert_eq!(found, number(vector, "t_req_ms"), "{vector}");
    }
    for vector in list(&vectors, "compute_t_resp") {
        let (me, sender) = (text(vector, "participant_id").into(), text(vector, "sender_id").into());
        let id = text(vector, "message_id").into();
        let found = schedule::t_resp(Dialect::Nim, &me, &sender, &id, ms(vector, "t_max_ms"));
        assert_eq!(found, number(vector, "t_resp_ms"), "{vector}");
    }
    for vector in list(&vectors, "is_in_response_group") {
        let (me, sender) = (text(vector, "participant_id").into(), text(vector, "sender_id").into());
        let id = text(vector, "message_id").into();
        let groups = ms(vector, "num_response_groups");
        let found = schedule::in_response_group(Dialect::Nim, &me, &sender, &id, groups);
        assert_eq!(found, vector["in_group"].as_bool().unwrap(), "{vector}");
    }
    let counts =
        ["compute_t_req", "compute_t_resp", "is_in_response_group"].map(|name| list(&vectors, name).len());
    assert_eq!(counts, [220, 220, 260]);
}

#[test]
fn the_specifications_timing() {
    let vectors = read("sds-js/repair.json");
    assert_eq!(list(&vectors, "cases").len(), 40);
    for vector in list(&vectors, "cases") {
        let [participant, sender, message] =
            ["participant", "sender", "message"].map(|name| text(vector, name));
        assert_eq!(hash::spec_repair(participant.as_bytes()), number(vector, "hash_participant"));
        assert_eq!(hash::spec_repair(message.as_bytes()), number(vector, "hash_message"));
        let combined = format!("{participant}{message}");
        assert_eq!(hash::spec_repair(combined.as_bytes()), number(vector, "hash_combined"));

        let (me, sender, id) = (participant.into(), sender.into(), message.into());
        let (min_ms, max_ms) = (number(vector, "t_min_ms"), number(vector, "t_max_ms"));
        let found = schedule::t_req(Dialect::Spec, &me, &id, min_ms, max_ms);
        assert_eq!(found, number(vector, "t_req_offset_ms"), "{vector}");
        let found = schedule::t_resp(Dialect::Spec, &me, &sender, &id, max_ms);
        assert_eq!(found, number(vector, "t_resp_offset_ms"), "{vector}");
        let found = schedule::in_response_group(Dialect::Spec, &me, &sender, &id, number(vector, "groups"));
        assert_eq!(found, vector["in_group"].as_bool().unwrap(), "{vector}");
    }
}

/// The specification's formula, and where `@waku/sds` calculates otherwise.
#[test]
fn the_number_of_groups_is_the_specifications() {
    for vector in list(&read("sds-js/repair.json"), "groups") {
        let (participants, theirs) = (number(vector, "participants"), number(vector, "groups"));
        let expected = if participants < 128 { theirs } else { theirs + 1 };
        assert_eq!(schedule::groups_for(participants), expected, "{participants}");
    }
}
