//! The published @waku/sds, in Node, against `seabed sds peer` in its dialect: exchange, a gap, repair, acknowledgement, restart.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::lines::Lines;
use common::seabed;
use serde_json::{Value, json};

const START_MS: u64 = 1_750_000_000_000;

fn js() -> Lines {
    let directory: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
    assert!(
        directory.join("node_modules/@waku/sds").exists(),
        "@waku/sds is not installed; run: ./test.sh tools, or npm ci in {}",
        directory.display()
    );
    let mut node = Command::new("node");
    node.arg(directory.join("sds_peer.mjs"));
    Lines::spawn(node)
}

fn ours(store: &Path) -> (Lines, bool) {
    let mut command = seabed();
    command.args(["sds", "peer"]);
    let mut peer = Lines::spawn(command);
    let init = peer.ok(json!({
        "op": "init", "channel": "room", "participant": "rust", "dialect": "spec", "profile": "seabed", "store": store,
        "config": { "repair_t_min_ms": 1000, "repair_t_max_ms": 5000, "sync_interval_ms": 0 },
        "clock": START_MS,
    }));
    let restored = init["restored"].as_bool().unwrap();
    (peer, restored)
}

fn advance(peers: [&mut Lines; 2], ms: u64) {
    let [js, ours] = peers;
    js.ok(json!({ "op": "advance", "ms": ms }));
    ours.ok(json!({ "op": "clock", "advance": ms }));
}

fn named<'a>(reply: &'a Value, name: &str) -> Vec<&'a Value> {
    reply["events"].as_array().unwrap().iter().filter(|event| event["event"] == name).collect()
}

#[test]
fn a_live_javascript_peer_exchanges_repairs_acknowledges_and_survives_our_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (mut js, (mut rust, restored)) = (js(), ours(dir.path()));
    assert!(!restored);
    js.ok(json!({
        "op": "init", "channel": "room", "participant": "js", "now": START_MS,
        "repair": { "tMin": 1000, "tMax": 5000, "numResponseGroups": 1 },
    }));

    // Exchange, both ways.
    let first = js.ok(json!({ "op": "send", "content": "6a31" }));
    let heard = rust.ok(json!({ "op": "recv", "wire": first["wire"] }));
    assert_eq!((&heard["outcome"], &heard["content"]), (&"delivered".into(), &"6a31".into()));
    let answer = rust.ok(json!({ "op": "send", "content": "7231" }));
    let told = js.ok(json!({ "op": "recv", "wire": answer["wire"] }));
    assert_eq!(named(&told, "delivered").len(), 1);
    assert_eq!(named(&told, "acknowledged")[0]["message_ids"], json!([first["message_id"]]));

    // A message of theirs is lost; we miss it, ask, and they answer.
    advance([&mut js, &mut rust], 100);
    let lost = js.ok(json!({ "op": "send", "content": "6a32" }));
    let rests = js.ok(json!({ "op": "send", "content": "6a33" }));
    let waits = rust.ok(json!({ "op": "recv", "wire": rests["wire"] }));
    assert_eq!(
        (&waits["outcome"], &waits["missing"][0]["message_id"]),
        (&"buffered".into(), &lost["message_id"])
    );
    assert_eq!(named(&waits, "acknowledged").len(), 1, "they have named ours");

    // Killed while it waits: it goes on where it was.
    rust.kill();
    let (again, restored) = ours(dir.path());
    rust = again;
    assert!(restored);
    let now = js.ok(json!({ "op": "advance", "ms": 0 }))["now"].as_u64().unwrap();
    rust.ok(json!({ "op": "clock", "set": now }));
    let state = rust.ok(json!({ "op": "state" }));
    assert_eq!(state["incoming"][0]["missing"], json!([lost["message_id"]]));

    advance([&mut js, &mut rust], 5_000);
    let asks = rust.ok(json!({ "op": "send", "content": "7232" }));
    js.ok(json!({ "op": "recv", "wire": asks["wire"] }));
    advance([&mut js, &mut rust], 5_000);
    let repairs = js.ok(json!({ "op": "tick" }))["repairs"].clone();
    let repair = repairs.as_array().unwrap().first().expect("they answer our request").clone();
    let healed = rust.ok(json!({ "op": "recv", "wire": repair }));
    let contents: Vec<_> = named(&healed, "delivered").iter().map(|event| event["content"].clone()).collect();
    assert_eq!(contents, ["6a32", "6a33"], "in causal order, also after the restart");

    // A message of ours is lost; they miss it, ask, and we answer.
    let lost = rust.ok(json!({ "op": "send", "content": "7233" }));
    let rests = rust.ok(json!({ "op": "send", "content": "7234" }));
    let waits = js.ok(json!({ "op": "recv", "wire": rests["wire"] }));
    assert_eq!(named(&waits, "missing_dependencies")[0]["message_ids"], json!([lost["message_id"]]));
    advance([&mut js, &mut rust], 5_000);
    let asks = js.ok(json!({ "op": "sync" }));
    rust.ok(json!({ "op": "recv", "wire": asks["wire"] }));
    advance([&mut js, &mut rust], 5_000);
    let tick = rust.ok(json!({ "op": "tick" }));
    let repair =
        tick["broadcast"].as_array().unwrap().iter().find(|item| item["reason"] == "repair").unwrap();
    js.ok(json!({ "op": "recv", "wire": repair["wire"] }));

    // Everybody has everything, and ours is acknowledged.
    let knows = js.ok(json!({ "op": "sync" }));
    rust.ok(json!({ "op": "recv", "wire": knows["wire"] }));
    let state = rust.ok(json!({ "op": "state" }));
    assert_eq!(state["outgoing"], json!([]));
    let mut theirs: Vec<_> = js.ok(json!({ "op": "log" }))["log"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry[0].clone())
        .collect();
    let mut log: Vec<_> = state["log"].as_array().unwrap().iter().map(|entry| entry[1].clone()).collect();
    theirs.sort_by_key(Value::to_string);
    log.sort_by_key(Value::to_string);
    assert_eq!((log.len(), log), (7, theirs));
}
