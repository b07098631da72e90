//! `seabed sds peer`: every request and its reply, what a reply rests on, and what the other commands say of what it stored.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::path::Path;

use common::lines::Lines;
use common::{json, run, seabed};
use serde_json::{Value, json};

fn peer() -> Lines {
    let mut command = seabed();
    command.args(["sds", "peer"]);
    Lines::spawn(command)
}

fn init(peer: &mut Lines, name: &str, store: Option<&Path>) -> Value {
    peer.ok(json!({
        "op": "init", "peer": name, "channel": "room", "participant": name, "dialect": "nim", "profile": "seabed",
        "store": store, "clock": 1_750_000_000_000_u64,
        "config": { "repair_t_min_ms": 1000, "repair_t_max_ms": 5000, "resend_interval_ms": 10_000 },
    }))
}

#[test]
fn two_participants_exchange_lose_repair_and_acknowledge() {
    let mut peer = peer();
    for name in ["alice", "bob"] {
        assert_eq!(init(&mut peer, name, None)["restored"], false);
    }
    let lost = peer.ok(json!({ "op": "send", "peer": "alice", "message_id": "m1", "content": "01" }));
    assert_eq!((&lost["message_id"], &lost["events"]), (&"m1".into(), &json!([])));
    let second = peer.ok(json!({ "op": "send", "peer": "alice", "content": "02" }));
    assert_eq!(second["message_id"].as_str().unwrap().len(), 64, "derived");
    let heard = peer.ok(json!({ "op": "recv", "peer": "bob", "wire": second["wire"] }));
    assert_eq!((&heard["outcome"], &heard["content"]), (&"buffered".into(), &"02".into()));
    assert_eq!(heard["missing"], json!([{ "message_id": "m1", "sender_id": "alice" }]));
    let state = peer.ok(json!({ "op": "state", "peer": "bob" }));
    assert_eq!(state["repair_out"][0]["message_id"], "m1");
    // Asking goes with the next message, so nothing is due by itself; alice's message is.
    assert!(
        peer.ok(json!({ "op": "next_due", "peer": "alice" }))["at"].as_u64().unwrap() > 1_750_000_000_000
    );

    peer.ok(json!({ "op": "clock", "advance": 6_000 }));
    let asks = peer.ok(json!({ "op": "send", "peer": "bob", "message_id": "b1", "content": "03" }));
    peer.ok(json!({ "op": "recv", "peer": "alice", "wire": asks["wire"] }));
    peer.ok(json!({ "op": "clock", "advance": 6_000 }));
    let answers = peer.ok(json!({ "op": "tick", "peer": "alice" }));
    let repair =
        answers["broadcast"].as_array().unwrap().iter().find(|item| item["reason"] == "repair").unwrap();
    assert_eq!(repair["message_id"], "m1");
    let healed = peer.ok(json!({ "op": "recv", "peer": "bob", "wire": repair["wire"] }));
    let names: Vec<_> =
        healed["events"].as_array().unwrap().iter().map(|event| event["event"].clone()).collect();
    assert_eq!(names, ["delivered", "delivered"]);
    let knows = peer.ok(json!({ "op": "send", "peer": "bob", "content": "04" }));
    let told = peer.ok(json!({ "op": "recv", "peer": "alice", "wire": knows["wire"] }));
    // The second one was in bob's filter before, which is enough between two.
    let acknowledged: Vec<_> =
        told["events"].as_array().unwrap().iter().filter(|event| event["event"] == "acknowledged").collect();
    assert_eq!(acknowledged, [&json!({ "event": "acknowledged", "message_id": "m1" })]);
    assert_eq!(peer.ok(json!({ "op": "state", "peer": "alice" }))["outgoing"], json!([]));
}

#[test]
fn what_makes_no_sense_is_an_error_that_says_so_and_never_an_exit() {
    let mut peer = peer();
    for (line, kind, said) in [
        ("not json", "invalid_argument", "no JSON object"),
        ("[1]", "invalid_argument", "no JSON object"),
        (r#"{"op":"dance"}"#, "invalid_argument", "dance"),
        (r#"{"op":"send","content":"01"}"#, "invalid_argument", "init it first"),
        (r#"{"op":"hello","loud":true}"#, "invalid_argument", "loud"),
        (r#"{"op":"recv","wire":"zz"}"#, "invalid_argument", "init it first"),
        (
            r#"{"op":"encode","dialect":"nim","message_id":"m","channel_id":"c","content":"zz"}"#,
            "invalid_argument",
            "content",
        ),
        (r#"{"op":"decode","wire":"ff"}"#, "deserialization", "no message"),
    ] {
        let reply = peer.raw(line);
        assert_eq!((&reply["ok"], &reply["error"]), (&false.into(), &kind.into()), "{line}: {reply}");
        assert!(reply["message"].as_str().unwrap().contains(said), "{line}: {reply}");
    }
    init(&mut peer, "default", None);
    for (request, kind) in [
        (json!({ "op": "send", "content": "" }), "invalid_argument"),
        (json!({ "op": "send", "content": "01", "loud": true }), "invalid_argument"),
        (json!({ "op": "recv", "wire": "ffff" }), "deserialization"),
        (json!({ "op": "send_ephemeral", "content": "01" }), "unsupported"),
    ] {
        let reply = peer.raw(&request.to_string());
        assert_eq!((&reply["ok"], &reply["error"]), (&false.into(), &kind.into()), "{request}: {reply}");
    }
    let hello = peer.ok(json!({ "op": "hello", "id": 7 }));
    assert_eq!(
        (&hello["impl"], &hello["id"], &hello["dialects"]),
        (&"seabed".into(), &7.into(), &json!(["nim", "spec"]))
    );
    peer.ok(json!({ "op": "quit" }));
    assert!(peer.wait().success());
}

#[test]
fn bytes_hashes_and_filters_are_those_of_the_specification() {
    let mut peer = peer();
    let fields = json!({
        "message_id": "m1", "channel_id": "room", "sender_id": "alice", "lamport": "7",
        "causal_history": [{ "message_id": "m0", "hint": "0a", "sender_id": "bob" }],
        "repair_request": [], "content": "6869", "bloom": "",
    });
    for dialect in ["nim", "spec"] {
        let mut request = fields.clone();
        request["op"] = "encode".into();
        request["dialect"] = dialect.into();
        let wire = peer.ok(request)["wire"].clone();
        let mut decoded = peer.ok(json!({ "op": "decode", "wire": wire }));
        assert_eq!(decoded["dialect"], dialect);
        for name in ["ok", "dialect"] {
            decoded.as_object_mut().unwrap().remove(name);
        }
        assert_eq!(decoded, fields);
    }
    // sds.md section 4.1: 6ef3f2c196087e44 for `msg-1`.
    let hash = peer.ok(json!({ "op": "hash", "dialect": "nim", "text": "msg-1" }));
    assert_eq!(hash["value"], i64::from_str_radix("6ef3f2c196087e44", 16).unwrap().to_string());
    let bloom = peer.ok(json!({
        "op": "bloom", "dialect": "nim", "capacity": 10_000, "error_rate": 0.001, "ids": ["msg-1"], "lookup": ["msg-1", "a"],
    }));
    assert_eq!(
        (&bloom["bits"], &bloom["k"], &bloom["hits"]),
        (&150_000.into(), &10.into(), &json!([true, false]))
    );
    assert_eq!(bloom["serialized"].as_str().unwrap().len(), 2 * 18_768);
}

#[test]
fn a_reply_is_written_when_what_it_says_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    for round in 0..3 {
        let mut peer = peer();
        let restored = init(&mut peer, "default", Some(dir.path()))["restored"].clone();
        assert_eq!(restored, round > 0);
        let state = peer.ok(json!({ "op": "state" }));
        let log: Vec<String> = state["log"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry[1].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(log, told, "everything that a reply has shown, in its order");
        for number in 0..3 {
            let id = format!("m{round}{number}");
            peer.ok(json!({ "op": "send", "message_id": id, "content": "01" }));
            told.push(id);
        }
        // SIGKILL, between two lines.
        peer.kill();
    }

    let channels = json(dir.path(), &["sds", "channels"]);
    let channel = &channels["channels"][0];
    assert_eq!(
        (&channel["channel"], &channel["log"], &channel["unacknowledged"]),
        (&"room".into(), &9.into(), &9.into())
    );
    let shown = json(dir.path(), &["sds", "show", "room"]);
    let logged = shown["rows"].as_array().unwrap().iter().filter(|row| row["row"] == "log").count();
    assert_eq!(logged, 9);
    let rows = json(dir.path(), &["inspect", "sds", "--category", "sds.format"]);
    assert_eq!(rows["rows"][0]["value"]["version"], 2);
    let verified = json(dir.path(), &["verify"]);
    assert_eq!(
        (&verified["findings"], &verified["examined"]["channels"], &verified["examined"]["messages"]),
        (&0.into(), &1.into(), &9.into())
    );
    assert_eq!(run(dir.path(), &["sds", "show", "nowhere"]).status.code(), Some(2));
}

#[test]
fn the_clock_stands_where_it_is_set_also_at_zero() {
    let mut peer = peer();
    assert_eq!(peer.ok(json!({ "op": "clock", "set": 0 }))["now"], 0);
    assert_eq!(peer.ok(json!({ "op": "clock", "advance": 5 }))["now"], 5);
    let running = peer.ok(json!({ "op": "clock", "set": null }))["now"].as_u64().unwrap();
    assert!(running > 1_700_000_000_000, "{running}");
}

#[test]
fn a_message_of_another_channel_is_refused_and_changes_nothing() {
    let mut peer = peer();
    init(&mut peer, "alice", None);
    let before = peer.ok(json!({ "op": "state", "peer": "alice" }));
    let wire = peer.ok(json!({
        "op": "encode", "dialect": "nim", "message_id": "x", "channel_id": "elsewhere", "lamport": "1", "content": "01",
    }))["wire"]
        .clone();
    let refused = peer.raw(&json!({ "op": "recv", "peer": "alice", "wire": wire }).to_string());
    assert_eq!((&refused["ok"], &refused["error"]), (&false.into(), &"invalid_argument".into()));
    assert!(refused["message"].as_str().unwrap().contains("of channel elsewhere"), "{refused}");
    assert_eq!(peer.ok(json!({ "op": "state", "peer": "alice" })), before);
}
