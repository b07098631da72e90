//! Keys against the golden vectors: what logos-delivery's own encoder wrote, bit for bit.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests say what failed by panicking"
)]

use std::cmp::Ordering;

use seabed_kv::{Key, KeyBuilder, KeyRange};
use serde_json::Value;
use sha2::Digest as _;

fn vectors() -> Value {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/persistency/keys.json"))
            .unwrap();
    serde_json::from_str(&text).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(value: &Value) -> T {
    value.as_str().unwrap().parse().unwrap()
}

fn encode(kind: &str, value: &Value) -> Key {
    let key = Key::builder();
    let key = match kind.split([' ', ':']).next().unwrap() {
        "string" if value.get("repeat").is_some() => {
            let times = usize::try_from(value["times"].as_u64().unwrap()).unwrap();
            key.bytes(&bytes(&value["repeat"]).repeat(times))
        }
        "string" | "bytes" => key.bytes(&bytes(&value["hex"])),
        "i64" | "int" => key.part(number::<i64>(value)),
        "i32" => key.part(number::<i32>(value)),
        "i16" => key.part(number::<i16>(value)),
        "i8" => key.part(number::<i8>(value)),
        "u64" => key.part(number::<u64>(value)),
        "u32" => key.part(number::<u32>(value)),
        "u16" => key.part(number::<u16>(value)),
        "byte" | "char" => key.part(number::<u8>(value)),
        "bool" => key.part(value.as_bool().unwrap()),
        "enum" => key.int(number(&value["ord"])),
        other => panic!("the vectors hold a type that this test does not know: {other}"),
    };
    key.build().unwrap()
}

fn component(key: KeyBuilder, part: &Value) -> KeyBuilder {
    let (kind, value) = part.as_object().unwrap().iter().next().unwrap();
    match kind.as_str() {
        "string" | "bytes" => key.bytes(&bytes(value)),
        "i64" | "i32" | "i16" | "i8" | "enum" => key.int(number(value)),
        "u64" | "u32" | "u16" => key.uint(number(value)),
        "u8" | "char" => key.byte(number(value)),
        "bool" => key.bool(value.as_bool().unwrap()),
        "key" => key.raw(bytes(value)),
        "tuple" | "object" => value.as_array().unwrap().iter().fold(key, component),
        other => panic!("the vectors hold a component that this test does not know: {other} {value}"),
    }
}

#[test]
fn every_component_is_encoded_as_upstream_encodes_it() {
    let vectors = vectors();
    let cases = vectors["encode"].as_array().unwrap();
    assert_eq!(cases.len(), 214);
    for case in cases {
        let kind = case["type"].as_str().unwrap();
        let key = if kind == "composite" {
            case["components"].as_array().unwrap().iter().fold(Key::builder(), component).build().unwrap()
        } else {
            encode(kind, &case["value"])
        };
        if let Some(expected) = case.get("bytes") {
            assert_eq!(hex::encode(key.as_bytes()), expected.as_str().unwrap(), "{case}");
        } else {
            assert_eq!(key.as_bytes().len() as u64, case["bytes_len"].as_u64().unwrap());
            let digest = hex::encode(sha2::Sha256::digest(key.as_bytes()));
            assert_eq!(digest, case["bytes_sha256"].as_str().unwrap());
        }
    }
}

#[test]
fn prefix_ranges_are_upstreams() {
    let vectors = vectors();
    let cases = vectors["ranges"].as_array().unwrap();
    assert_eq!(cases.len(), 42);
    for case in cases {
        let range = KeyRange::prefix(bytes(&case["prefix"]));
        assert_eq!(hex::encode(range.start.as_bytes()), case["start"].as_str().unwrap());
        assert_eq!(hex::encode(range.stop.as_bytes()), case["stop"].as_str().unwrap());
        assert_eq!(range.stop.as_bytes().is_empty(), case["open_ended"].as_bool().unwrap());
    }
}

#[test]
fn keys_compare_as_upstreams() {
    let vectors = vectors();
    let cases = vectors["compare"].as_array().unwrap();
    assert_eq!(cases.len(), 121);
    for case in cases {
        let expected = match case["cmp"].as_i64().unwrap() {
            -1 => Ordering::Less,
            0 => Ordering::Equal,
            1 => Ordering::Greater,
            other => panic!("{other}"),
        };
        assert_eq!(Key::raw(bytes(&case["a"])).cmp(&Key::raw(bytes(&case["b"]))), expected, "{case}");
    }
}
