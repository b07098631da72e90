//! The golden vectors, item by item: what running nim-sds and `@waku/sds` wrote and read, we write and read. Where Seabed decides otherwise
//! (sds.md sections 3 and 24), the test says which items are concerned and what happens instead.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod bloom;
mod fields;
mod nim;
mod repair;
mod scenarios;
mod snapshot;
mod spec;

use std::path::Path;

use serde_json::Value;

/// A file of vectors.
fn read(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors").join(file);
    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap_or_else(|| panic!("no list '{name}'"))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no text '{name}' in {value}"))
}

fn bytes(value: &Value, name: &str) -> Vec<u8> {
    hex::decode(text(value, name)).unwrap()
}

/// A number, as such or as text.
fn signed(value: &Value, name: &str) -> i128 {
    let number = value[name].as_str().map_or_else(|| value[name].to_string(), str::to_owned);
    number.parse().unwrap_or_else(|_| panic!("no number '{name}' in {value}"))
}

fn number(value: &Value, name: &str) -> u64 {
    signed(value, name).try_into().unwrap()
}

fn count(value: &Value, name: &str) -> usize {
    signed(value, name).try_into().unwrap()
}
