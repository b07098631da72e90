//! Filters of both kinds.

use seabed_sds_core::bloom::{Filter, Hashed, RollingFilter, Sizing};
use seabed_sds_core::hash;
use seabed_sds_core::wire::Dialect;
use seabed_sds_core::{DecodeError, MessageId};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{bytes, count, list, number, read, signed, text};

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[test]
fn sizes_are_those_of_both() {
    for (file, name, hashes, bits, words) in [
        ("sds/bloom.json", "params", "k_hashes", "m_bits", "ints"),
        ("sds-js/bloom.json", "sizing", "k", "total_bits", "words"),
    ] {
        let vectors = read(file);
        assert!(list(&vectors, name).len() >= 32);
        for vector in list(&vectors, name) {
            let sizing = Sizing::new(count(vector, "capacity"), vector["error_rate"].as_f64().unwrap());
            let found = (sizing.hashes, sizing.bits.get(), sizing.words);
            let expected = (number(vector, hashes), number(vector, bits), number(vector, words));
            assert_eq!(found, expected, "{vector}");
        }
    }
}

#[test]
fn rates_are_written_as_nim_writes_them() {
    for vector in list(&read("sds/bloom.json"), "params") {
        let filter = Filter::new(Dialect::Nim, 1, vector["error_rate"].as_f64().unwrap());
        assert_eq!(filter.error_ppm(), number(vector, "wire_error_rate"), "{vector}");
    }
}

#[test]
fn filters_of_nim_to_the_byte() {
    let vectors = read("sds/bloom.json");
    assert_eq!(list(&vectors, "filters").len(), 14);
    for vector in list(&vectors, "filters") {
        let mut filter =
            Filter::new(Dialect::Nim, count(vector, "capacity"), vector["error_rate"].as_f64().unwrap());
        for id in list(vector, "ids") {
            filter.insert(id.as_str().unwrap().as_bytes());
        }
        let written = filter.to_bytes();
        assert_eq!(written.len() as u64, number(vector, "serialized_len"));
        assert_eq!(sha256(&written), text(vector, "serialized_sha256"));
        if vector["serialized"].is_string() {
            assert_eq!(hex::encode(&written), text(vector, "serialized"));
        }

        // Too small for anybody to consult who looks at the parameters.
        if filter.sizing().bits.get() < 64 {
            assert!(matches!(Filter::read(Dialect::Nim, &written), Err(DecodeError::Filter(_))));
        } else {
            let theirs = Filter::read(Dialect::Nim, &written).unwrap();
            assert_eq!(theirs, filter);
            same_parameters(&theirs, &vector["decoded"]);
        }
        for lookup in list(vector, "lookups") {
            let found = filter.contains(text(lookup, "id").as_bytes());
            assert_eq!(found, lookup["found"].as_bool().unwrap(), "{lookup}");
        }
        let probes = &vector["probe_false_positives"];
        let range = number(probes, "i_from")..number(probes, "i_to_exclusive");
        let ids = range.map(|i| text(probes, "id_format").replace("{i}", &i.to_string()));
        assert_eq!(ids.filter(|id| filter.contains(id.as_bytes())).count(), count(probes, "count"));
    }
}

fn same_parameters(filter: &Filter, expected: &Value) {
    let sizing = filter.sizing();
    assert_eq!(filter.capacity(), number(expected, "capacity"));
    #[allow(clippy::cast_precision_loss, reason = "millionths")]
    let error_rate = filter.error_ppm() as f64 / 1e6;
    assert!((error_rate - expected["error_rate"].as_f64().unwrap()).abs() < 1e-9);
    assert_eq!(sizing.hashes, number(expected, "k_hashes"));
    assert_eq!(sizing.bits.get(), number(expected, "m_bits"));
    assert_eq!(sizing.words, number(expected, "ints"));
}

#[test]
fn filters_of_nim_are_read_or_ignored() {
    let vectors = read("sds/bloom.json");
    let mut crashes = 0;
    for vector in list(&vectors, "deserialize") {
        let name = text(vector, "name");
        let read = Filter::read(Dialect::Nim, &bytes(vector, "bytes"));
        let lookup = &vector["lookup_abc"];
        let crash = !vector["upstream_crashes"].is_null() || !lookup["upstream_crashes"].is_null();
        crashes += usize::from(crash);
        // nim reads these two, matches everything by the one and calculates for ever by the other.
        let hostile = crash || name.starts_with("k_hashes 0") || name == "k_hashes huge";
        if hostile {
            assert!(matches!(read, Err(DecodeError::Filter(_))), "{name}: {read:?}");
        } else if vector["ok"].is_null() {
            assert!(read.is_err(), "{name}: {read:?}");
        } else {
            let filter = read.unwrap_or_else(|error| panic!("{name}: {error}"));
            same_parameters(&filter, &vector["ok"]);
            assert_eq!(filter.contains(b"abc"), lookup["found"].as_bool().unwrap(), "{name}");
        }
    }
    assert_eq!((list(&vectors, "deserialize").len(), crashes), (35, 5));
}

#[test]
fn rolling_filters_roll_as_nims() {
    let vectors = read("sds/bloom.json");
    assert_eq!(list(&vectors, "rolling").len(), 10);
    for vector in list(&vectors, "rolling") {
        // None and fewer is the default.
        let capacity = signed(vector, "requested_capacity").try_into().unwrap_or(0);
        let mut rolling = RollingFilter::new(capacity, vector["requested_error_rate"].as_f64().unwrap());
        assert_eq!(rolling.filter().capacity(), number(&vector["init"], "filter_capacity"));
        assert_eq!(rolling.filter().sizing().bits.get(), number(&vector["init"], "m_bits"));
        assert_eq!(rolling.filter().sizing().hashes, number(&vector["init"], "k_hashes"));
        let mut added = Vec::new();
        for step in list(vector, "steps") {
            if let Some(id) = step["add"].as_str() {
                rolling.add(&id.into());
                added.push(id);
            } else {
                // The sweep cleans on the same condition as adding, which therefore never leaves it anything.
                assert_eq!(count(step, "messages_len_before"), rolling.ids().len());
            }
            assert_eq!(rolling.ids().len(), count(step, "messages_len"), "{step}");
            if let Some(first) = step["first_message"].as_str() {
                let found = rolling.ids().next().map(MessageId::as_bytes).unwrap_or_default();
                assert_eq!(found, first.as_bytes(), "{step}");
            }
            assert_eq!(rolling.filter().capacity(), number(step, "filter_capacity"), "{step}");
            if !step["m_bits"].is_null() {
                assert_eq!(rolling.filter().sizing().bits.get(), number(step, "m_bits"), "{step}");
            }
            assert_eq!(sha256(&rolling.filter().to_bytes()), text(step, "serialized_sha256"), "{step}");
        }
        let last = rolling.filter().to_bytes();
        assert_eq!(sha256(&last), text(vector, "final_serialized_sha256"));
        assert_eq!(last.len() as u64, number(vector, "final_serialized_len"));
        let found: Vec<Value> = added.iter().map(|id| rolling.contains(id.as_bytes()).into()).collect();
        assert_eq!(found, list(vector, "contains_after_all"));
    }
}

#[test]
fn places_in_filters_of_the_specification() {
    let vectors = read("sds-js/bloom.json");
    let (mut checked, mut beyond) = (0, 0);
    for vector in list(&vectors, "hashn") {
        let item = text(vector, "item");
        let second = format!("{item} b");
        let (Some(first), Some(second)) = (hash::spec(item.as_bytes()), hash::spec(second.as_bytes())) else {
            // Not ASCII: the original has an answer of its own, we have none.
            assert!(!item.is_ascii());
            beyond += 1;
            continue;
        };
        let [first, second] = [first, second].map(|hash| u64::from(hash.cast_signed().unsigned_abs()));
        let max: u64 = number(vector, "max");
        let place = (first % max + number(vector, "n") * (second % max)) % max;
        // Where the original's numbers lose digits it throws.
        if !vector["out"].is_null() {
            assert_eq!(place, number(vector, "out"), "{vector}");
            checked += 1;
        }
    }
    assert!(checked > 100 && beyond > 0, "{checked} checked, {beyond} beyond ASCII");
}

#[test]
fn filters_of_the_specification_to_the_byte() {
    let vectors = read("sds-js/bloom.json");
    assert_eq!(list(&vectors, "filters").len(), 7);
    for vector in list(&vectors, "filters") {
        let (capacity, error_rate) = (count(vector, "capacity"), vector["error_rate"].as_f64().unwrap());
        let mut filter = Filter::new(Dialect::Spec, capacity, error_rate);
        let ids = list(vector, "items").iter().map(|id| id.as_str().unwrap());
        filter.extend(ids.map(|id| Hashed::new(Dialect::Spec, id.as_bytes())));
        let written = filter.to_bytes();
        assert_eq!(written.len() as u64, number(vector, "bytes_len"));
        assert_eq!(sha256(&written), text(vector, "sha256"));
        match vector["hex"].as_str() {
            Some(expected) => assert_eq!(hex::encode(&written), expected),
            None => {
                for bit in
                    list(vector, "bits").iter().map(|bit| usize::try_from(bit.as_u64().unwrap()).unwrap())
                {
                    assert_ne!(written[8 * (bit / 64) + 7 - bit % 64 / 8] & (1 << (bit % 8)), 0, "bit {bit}");
                }
            }
        }
        let longer = [written.as_slice(), b"more"].concat();
        let theirs = Filter::read_spec(&longer, capacity, error_rate).unwrap();
        assert_eq!(theirs, filter);
        for probe in list(vector, "probes") {
            let id = probe[0].as_str().unwrap();
            assert_eq!(theirs.contains(id.as_bytes()), probe[1].as_bool().unwrap(), "{id}");
        }
        let shorter = &written[..written.len() - 1];
        assert!(matches!(Filter::read_spec(shorter, capacity, error_rate), Err(DecodeError::Filter(_))));
    }
}
