//! Filters of both dialects.

use seabed_sds_core::bloom::{Filter, RollingFilter, Sizing};
use seabed_sds_core::limits::{FILTER_BITS_MAX, FILTER_BITS_MIN};
use seabed_sds_core::wire::Dialect;
use seabed_sds_core::{DecodeError, hash};
use serde_json::Value;
use sha2::Digest;

use super::fields::{flag, member, number, rate};
use crate::cli::conformance::{hex_bytes, list, same, text};

fn sizing(vector: &Value, hashes: &str, bits: &str, words: &str) -> Result<(), String> {
    let sizing = Sizing::new(number(vector, "capacity")?, rate(vector, "error_rate")?);
    same(&sizing.hashes, &number(vector, hashes)?)?;
    same(&sizing.bits.get(), &number(vector, bits)?)?;
    same(&sizing.words, &number(vector, words)?)
}

pub(super) fn nim_sizing(vector: &Value) -> Result<(), String> {
    let filter = Filter::new(Dialect::Nim, 1, rate(vector, "error_rate")?);
    same(&filter.error_ppm(), &number(vector, "wire_error_rate")?)?;
    sizing(vector, "k_hashes", "m_bits", "ints")
}

pub(super) fn spec_sizing(vector: &Value) -> Result<(), String> {
    sizing(vector, "k", "total_bits", "words")
}

/// An empty filter of a size that is no vector's attempt at our memory.
fn empty(dialect: Dialect, vector: &Value) -> Result<Filter, String> {
    let (capacity, error_rate) = (number(vector, "capacity")?, rate(vector, "error_rate")?);
    if Sizing::new(capacity, error_rate).bits.get() > FILTER_BITS_MAX {
        return Err("it is larger than the filters that anybody reads".to_owned());
    }
    Ok(Filter::new(dialect, capacity, error_rate))
}

fn filled(dialect: Dialect, vector: &Value, ids: &str) -> Result<Filter, String> {
    let mut filter = empty(dialect, vector)?;
    for id in list(vector, ids) {
        filter.insert(id.as_str().ok_or("an id is no text")?.as_bytes());
    }
    Ok(filter)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(sha2::Sha256::digest(bytes))
}

pub(super) fn nim_filter(vector: &Value) -> Result<(), String> {
    let filter = filled(Dialect::Nim, vector, "ids")?;
    let written = filter.to_bytes();
    same(sha256(&written).as_str(), text(vector, "serialized_sha256")?)?;
    match Filter::read(Dialect::Nim, &written) {
        Ok(read) => {
            same(&read, &filter)?;
            parameters(&read, member(vector, "decoded")?)?;
        }
        // Too small for anybody to consult who looks at the parameters.
        Err(DecodeError::Filter(_)) if filter.sizing().bits.get() < FILTER_BITS_MIN => {}
        Err(error) => return Err(error.to_string()),
    }
    for lookup in list(vector, "lookups") {
        let id = text(lookup, "id")?;
        same(&filter.contains(id.as_bytes()), &flag(lookup, "found")?)
            .map_err(|why| format!("'{id}': {why}"))?;
    }
    Ok(())
}

fn parameters(filter: &Filter, expected: &Value) -> Result<(), String> {
    let sizing = filter.sizing();
    same(&filter.capacity(), &number(expected, "capacity")?)?;
    same(&sizing.hashes, &number(expected, "k_hashes")?)?;
    same(&sizing.bits.get(), &number(expected, "m_bits")?)?;
    same(&sizing.words, &number(expected, "ints")?)
}

/// A filter that nim stops at, or that holds everything, is ignored; others are read as there.
pub(super) fn nim_read(vector: &Value) -> Result<(), String> {
    let read = Filter::read(Dialect::Nim, &hex_bytes(vector, "bytes")?);
    let Ok(expected) = member(vector, "ok") else { return same(&read.is_err(), &true) };
    let lookup = member(vector, "lookup_abc")?;
    let hashes: u64 = number(expected, "k_hashes")?;
    let Ok(found) =
        flag(lookup, "found").map_err(drop).and_then(|found| if hashes == 0 { Err(()) } else { Ok(found) })
    else {
        return same(&matches!(read, Err(DecodeError::Filter(_))), &true);
    };
    let filter = read.map_err(|error| error.to_string())?;
    parameters(&filter, expected)?;
    same(&filter.contains(b"abc"), &found)
}

pub(super) fn nim_rolling(vector: &Value) -> Result<(), String> {
    // None and fewer is the default.
    let capacity: usize = number::<i64>(vector, "requested_capacity")?.try_into().unwrap_or(0);
    let error_rate = rate(vector, "requested_error_rate")?;
    if Sizing::new(capacity, error_rate).bits.get() > FILTER_BITS_MAX / 2 {
        return Err("it is larger than the filters that anybody reads".to_owned());
    }
    let mut rolling = RollingFilter::new(capacity, error_rate);
    for (number_of, step) in list(vector, "steps").iter().enumerate() {
        if let Ok(id) = text(step, "add") {
            rolling.add(&id.into());
        }
        let filter = rolling.filter();
        same(&rolling.ids().len(), &number(step, "messages_len")?)
            .and_then(|()| same(&filter.capacity(), &number(step, "filter_capacity")?))
            .and_then(|()| same(sha256(&filter.to_bytes()).as_str(), text(step, "serialized_sha256")?))
            .map_err(|why| format!("step {number_of}: {why}"))?;
    }
    same(sha256(&rolling.filter().to_bytes()).as_str(), text(vector, "final_serialized_sha256")?)
}

pub(super) fn spec_place(vector: &Value) -> Result<(), String> {
    let item = text(vector, "item")?;
    let (first, second) = (hash::spec(item.as_bytes()), hash::spec(format!("{item} b").as_bytes()));
    let (Some(first), Some(second)) = (first, second) else {
        // Beyond ASCII the original has an answer of its own; here nothing is found.
        return same(&item.is_ascii(), &false);
    };
    // Where the original's numbers lose digits it throws.
    if member(vector, "out").is_err() {
        return Ok(());
    }
    let [first, second] = [first, second].map(|hash| u128::from(hash.cast_signed().unsigned_abs()));
    let (max, n) = (number::<u64>(vector, "max")?, number::<u64>(vector, "n")?);
    let place = (first + u128::from(n) * second).checked_rem(u128::from(max)).ok_or("'max' is 0")?;
    same(&place, &number(vector, "out")?)
}

pub(super) fn spec_filter(vector: &Value) -> Result<(), String> {
    spec_sizing(vector)?;
    let filter = filled(Dialect::Spec, vector, "items")?;
    let written = filter.to_bytes();
    same(sha256(&written).as_str(), text(vector, "sha256")?)?;
    let read = Filter::read_spec(&written, number(vector, "capacity")?, rate(vector, "error_rate")?);
    let read = read.map_err(|error| error.to_string())?;
    same(&read, &filter)?;
    for probe in list(vector, "probes") {
        let (Some(id), Some(found)) =
            (probe.get(0).and_then(Value::as_str), probe.get(1).and_then(Value::as_bool))
        else {
            return Err(format!("{probe} is no probe"));
        };
        same(&read.contains(id.as_bytes()), &found).map_err(|why| format!("'{id}': {why}"))?;
    }
    Ok(())
}
