//! `seabed sds`: messages from bytes to fields and back.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use common::{seabed, stderr, stdout};
use serde_json::{Value, json};

/// A message in nim's layout, with everything that one can have.
const FIELDS: &str = r#"{
  "dialect": "nim",
  "message_id": "m1",
  "channel_id": "room",
  "sender_id": "alice",
  "lamport": "9223372036854775807",
  "causal_history": [{ "message_id": "m0", "hint": "0a0b", "sender_id": "bob" }, { "message_id": "0", "hint": "", "sender_id": "" }],
  "repair_request": [{ "message_id": "lost", "hint": "", "sender_id": "bob" }],
  "content": "68656c6c6f",
  "bloom": "0a200000000000000000000000000000000000000000000000000000000000000000101018e807200a28f001"
}"#;

fn run(args: &[&str], input: Option<&[u8]>) -> Output {
    use std::io::Write as _;
    let mut child = seabed()
        .arg("sds")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever does not read it has hung up.
    let _ = child.stdin.take().unwrap().write_all(input.unwrap_or_default());
    child.wait_with_output().unwrap()
}

fn encode(args: &[&str]) -> String {
    let output = run(&[&["encode"], args].concat(), Some(FIELDS.as_bytes()));
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output).trim_end().to_owned()
}

fn decode(args: &[&str]) -> Value {
    let output = run(&[&["decode", "--json"], args].concat(), None);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

#[test]
fn fields_become_bytes_and_fields_again() {
    let fields: Value = serde_json::from_str(FIELDS).unwrap();
    let hex = encode(&[]);
    assert!(hex.starts_with("0a026d3110ffffffffffffffff7f1a0d0a026d30"), "{hex}");
    assert_eq!(decode(&[&hex]), fields);
    assert_eq!(decode(&[&encode(&["--base64"])]), fields);
    assert_eq!(decode(&["--base64", &encode(&["--base64"])]), fields);

    let spec = encode(&["--dialect", "spec"]);
    let mut expected = fields.clone();
    expected["dialect"] = "spec".into();
    assert_eq!(decode(&[&spec]), expected);
    assert_eq!(decode(&["--read", "spec", &spec]), expected);
    assert_eq!(run(&["decode", "--read", "nim", &spec], None).status.code(), Some(1));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("message");
    fs::write(&file, hex::decode(&hex).unwrap()).unwrap();
    assert_eq!(decode(&["--file", file.to_str().unwrap()]), fields);
    let piped = run(&["decode", "--json", "--file", "-"], Some(&hex::decode(&hex).unwrap()));
    assert_eq!(serde_json::from_str::<Value>(&stdout(&piped)).unwrap(), fields);
}

#[test]
fn people_see_what_a_message_says() {
    let said = stdout(&run(&["decode", &encode(&[])], None));
    for line in [
        "a message in the layout of nim-sds, 113 bytes",
        "  message  m1",
        "  channel  room",
        "  sender   alice",
        "  content  5 bytes  hello",
        "  filter   for 16 ids: 10 hashes in 240 bits, 44 bytes",
        "  causal history: 2",
        "    m0  from bob  hint 0x0a0b",
        "  repair request: 1",
        "    lost  from bob",
    ] {
        assert!(said.lines().any(|found| found == line), "no '{line}' in:\n{said}");
    }
}

/// A stranger's text does not reach the terminal as it is.
#[test]
fn control_characters_are_shown_and_not_obeyed() {
    let fields =
        json!({ "message_id": "m\u{1b}[2J", "channel_id": "c\r", "lamport": 1, "content": "1b5b324a" });
    let hex = stdout(&run(&["encode"], Some(fields.to_string().as_bytes())));
    let said = stdout(&run(&["decode", hex.trim_end()], None));
    assert!(!said.contains(['\u{1b}', '\r']) && said.contains("m\\u{1b}[2J"), "{said}");
}

#[test]
fn a_filter_that_is_ignored_says_why() {
    // Without hashes.
    let fields = json!({
        "message_id": "m", "channel_id": "c", "lamport": 1,
        "bloom": "0a1000000000000000000000000000000000100818e80720002864"
    });
    let hex = stdout(&run(&["encode"], Some(fields.to_string().as_bytes())));
    let said = stdout(&run(&["decode", hex.trim_end()], None));
    assert!(said.contains("27 bytes; the filter is ignored"), "{said}");
}

#[test]
fn what_is_no_message_is_refused_with_a_reason() {
    for (args, input, code, reason) in [
        (vec!["decode", "0a09"], "", 1, "cut off"),
        (vec!["decode", "--file", "-"], "", 1, "no dialect"),
        (vec!["decode", "not a message"], "", 2, "neither hexadecimal nor base64"),
        (vec!["decode"], "", 2, "Usage"),
        (vec!["decode", "--file", "/nowhere/at/all"], "", 1, "cannot read"),
        (vec!["encode"], "{", 2, "not the fields of a message"),
        (vec!["encode"], "{\"message_id\":\"m\"}", 2, "channel_id"),
        (vec!["encode"], "{\"message_id\":\"m\",\"channel_id\":\"c\",\"nonce\":1}", 2, "nonce"),
        (vec!["encode"], "{\"message_id\":\"m\",\"channel_id\":\"c\",\"content\":\"x\"}", 2, "'content'"),
        (vec!["encode"], "{\"message_id\":\"m\",\"channel_id\":\"c\",\"lamport\":-1}", 2, "'lamport'"),
        (vec!["encode"], "{\"message_id\":\"m\",\"channel_id\":\"c\",\"dialect\":\"logos\"}", 2, "logos"),
    ] {
        let output = run(&args, Some(input.as_bytes()));
        assert_eq!(output.status.code(), Some(code), "{args:?} {input}: {}", stderr(&output));
        assert!(stderr(&output).contains(reason), "{args:?} {input}: {}", stderr(&output));
    }
}

/// Each message of the vectors that is one reads as its fields say.
#[test]
fn recorded_messages_are_decoded() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/sds-js/cross_dialect.json");
    let vectors: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    for vector in vectors["items"].as_array().unwrap().iter().take(6) {
        let found = decode(&[vector["hex"].as_str().unwrap()]);
        let fields = &vector["fields"];
        let dialect = vector["dialect"].as_str().unwrap().trim_end_matches("_chat");
        assert_eq!(found["dialect"], dialect);
        for name in ["message_id", "channel_id", "sender_id", "content"] {
            assert_eq!(found[name], fields[name], "{name}");
        }
        assert_eq!(found["lamport"].as_str().unwrap(), fields["lamport"].to_string().trim_matches('"'));
        assert_eq!(
            found["causal_history"].as_array().unwrap().len(),
            fields["causal_history"].as_array().unwrap().len()
        );
    }
}
