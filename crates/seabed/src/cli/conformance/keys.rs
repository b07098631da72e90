//! Vectors of key components: encodings, ranges of prefixes, comparisons.

use std::cmp::Ordering;

use seabed_kv::{Key, KeyBuilder, KeyRange};
use serde_json::Value;
use sha2::Digest;

use super::{Tally, hex_bytes, list, same, text};

/// The longest component is 65,535 bytes; whoever repeats much more wants our memory.
const REPEAT_TIMES_MAX: u64 = 1 << 20;

/// Whether a file is of this format. One vector of the right shape is enough: the others may be damaged.
pub(super) fn is_one(vectors: &Value) -> bool {
    let any = |name, member: &[&str]| {
        let has_all = |vector: &Value| member.iter().all(|member| vector.get(member).is_some());
        list(vectors, name).iter().any(has_all)
    };
    any("encode", &["type", "value", "bytes"])
        || any("ranges", &["prefix", "stop"])
        || any("compare", &["a", "b", "cmp"])
}

/// Every vector of one file.
pub(super) fn check(vectors: &Value, tally: &mut Tally) {
    for (number, vector) in list(vectors, "encode").iter().enumerate() {
        tally.check(|| format!("encode[{number}]"), encode(vector));
    }
    for (number, vector) in list(vectors, "ranges").iter().enumerate() {
        tally.check(|| format!("ranges[{number}]"), range(vector));
    }
    for (number, vector) in list(vectors, "compare").iter().enumerate() {
        tally.check(|| format!("compare[{number}]"), compare(vector));
    }
}

fn encode(vector: &Value) -> Result<(), String> {
    // Some types carry a remark behind their name: "char: 1 byte".
    let kind = text(vector, "type")?;
    let name = kind.split([' ', ':', '(']).next().unwrap_or(kind);
    let key = if name == "composite" {
        list(vector, "components").iter().try_fold(Key::builder(), append)?
    } else {
        component(Key::builder(), name, unwrapped(vector.get("value").ok_or("has no 'value'")?))?
    };
    let key = key.build().map_err(|error| error.to_string())?;
    if vector.get("bytes_sha256").is_some() {
        let length = vector.get("bytes_len").and_then(Value::as_u64);
        same(&Some(key.as_bytes().len() as u64), &length)?;
        let digest = sha2::Sha256::digest(key.as_bytes());
        return same(&hex::encode(digest), &hex::encode(hex_bytes(vector, "bytes_sha256")?));
    }
    same(&hex::encode(key.as_bytes()), &hex::encode(hex_bytes(vector, "bytes")?))
}

/// A component of a composite: an object of one member, named for its type.
fn append(key: KeyBuilder, of: &Value) -> Result<KeyBuilder, String> {
    let members =
        of.as_object().filter(|members| members.len() == 1).and_then(|members| members.iter().next());
    let (name, value) = members.ok_or_else(|| format!("{of} is not a component"))?;
    match name.as_str() {
        "tuple" | "object" => {
            let parts = value.as_array().ok_or_else(|| format!("{of} is not a list of components"))?;
            parts.iter().try_fold(key, append)
        }
        name => component(key, name, value),
    }
}

/// Beside its type a value may stand in an object that says how it is written.
fn unwrapped(value: &Value) -> &Value {
    value.get("hex").or_else(|| value.get("ord")).unwrap_or(value)
}

fn component(key: KeyBuilder, name: &str, value: &Value) -> Result<KeyBuilder, String> {
    Ok(match name {
        // Upstream's strings may hold any bytes; as components both are encoded alike.
        "string" | "bytes" => key.bytes(&bytes(value)?),
        "key" => key.raw(bytes(value)?),
        "i64" | "i32" | "i16" | "i8" | "int" | "enum" => key.int(number(value)?),
        "u64" | "u32" | "u16" => key.uint(number(value)?),
        "u8" | "byte" | "char" => key.byte(number(value)?),
        "bool" => key.bool(value.as_bool().ok_or("a bool is neither true nor false")?),
        _ => return Err(format!("the type '{name}' is not known here")),
    })
}

fn bytes(value: &Value) -> Result<Vec<u8>, String> {
    if let Some(repeated) = value.get("repeat") {
        let times = value.get("times").and_then(Value::as_u64).filter(|times| *times <= REPEAT_TIMES_MAX);
        let times = times.and_then(|times| usize::try_from(times).ok());
        return Ok(bytes(repeated)?.repeat(times.ok_or_else(|| format!("{value} has no sensible 'times'"))?));
    }
    let text = value.as_str().ok_or_else(|| format!("{value} is not bytes in hexadecimal"))?;
    hex::decode(text).map_err(|error| format!("{value} is not hexadecimal: {error}"))
}

/// Integers are texts, because JSON's numbers lose digits in many readers.
fn number<T: std::str::FromStr>(value: &Value) -> Result<T, String> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().map_err(|_| format!("'{text}' is no integer of that type"))
}

fn range(vector: &Value) -> Result<(), String> {
    let range = KeyRange::prefix(hex_bytes(vector, "prefix")?);
    same(&hex::encode(range.start.as_bytes()), &hex::encode(hex_bytes(vector, "start")?))?;
    same(&hex::encode(range.stop.as_bytes()), &hex::encode(hex_bytes(vector, "stop")?))?;
    let open_ended = vector.get("open_ended").and_then(Value::as_bool).ok_or("has no 'open_ended'")?;
    same(&range.stop.as_bytes().is_empty(), &open_ended)
}

fn compare(vector: &Value) -> Result<(), String> {
    let found = match Key::raw(hex_bytes(vector, "a")?).cmp(&Key::raw(hex_bytes(vector, "b")?)) {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    };
    same(&found, &vector.get("cmp").and_then(Value::as_i64).ok_or("has no 'cmp'")?)
}
