//! `seabed conformance`: our vectors pass, and whatever is wrong with vectors is a failure, not an accident.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{seabed, stdout};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors")
}

/// The exit code and the last line.
fn conformance(dir: &Path) -> (Option<i32>, String, String) {
    let output = seabed().arg("conformance").arg(dir).output().unwrap();
    let said = stdout(&output);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
    (output.status.code(), said.lines().last().unwrap_or_default().to_owned(), said)
}

/// A copy of those of the store in a directory of another shape and under other names.
fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("other/place");
    fs::create_dir_all(&deep).unwrap();
    for entry in fs::read_dir(vectors().join("persistency")).unwrap() {
        let entry = entry.unwrap();
        let name = entry
            .file_name()
            .into_string()
            .unwrap()
            .replace("upstream", "theirs")
            .replace("keys", "components");
        fs::copy(entry.path(), deep.join(name)).unwrap();
    }
    dir
}

fn change(file: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    edit(&mut bytes);
    fs::write(file, bytes).unwrap();
}

#[test]
fn our_vectors_pass() {
    let (code, last, said) = conformance(&vectors());
    assert_eq!(code, Some(0), "{said}");
    let passed: u64 = last.strip_suffix(" passed, 0 failed").unwrap().parse().unwrap();
    // 214 encodings, 42 ranges, 121 comparisons, a listing of 38 rows and its count, held against two databases.
    let persistency = 214 + 42 + 121 + 1 + 2 * 38;
    // Messages, hashes, filters (sizes, to the byte, read, rolling), repairs, stored states.
    let nim = (137 + 177) + 355 + (347 + 14 + 35 + 10) + (220 + 220 + 260) + (73 + 111);
    // Messages, filters (places, to the byte, sizes), repairs, messages of all layouts.
    let spec = (28 + 21) + (192 + 7 + 32) + (40 + 8) + 24;
    // Steps of the transcripts; messages and steps of the scenarios; messages of the storm, what each of four heard, and twice its order.
    let runs = 3570 + (65 + 171) + (99 + 447 + 2 * 4);
    assert_eq!(passed, persistency + nim + spec + runs);
}

#[test]
fn names_and_places_do_not_matter() {
    let copied = copy();
    assert_eq!(conformance(copied.path()).1, conformance(&vectors().join("persistency")).1);
}

#[test]
fn a_database_is_never_changed() {
    let copied = copy();
    let read = || {
        let mut files: Vec<_> =
            fs::read_dir(copied.path().join("other/place")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect::<Vec<_>>()
    };
    let before = read();
    assert_eq!(conformance(copied.path()).0, Some(0));
    assert!(before == read());
}

#[test]
fn a_changed_vector_fails() {
    for (file, from, to) in [
        ("components.json", "\"bytes\": \"000161\"", "\"bytes\": \"000162\""),
        ("components.json", "\"stop\": \"01\"", "\"stop\": \"02\""),
        ("components.json", "\"cmp\": 1", "\"cmp\": 0"),
        ("components.json", "\"type\": \"u16\"", "\"type\": \"u17\""),
        ("theirs_db.json", "\"payload\": \"000568656c6c6f\"", "\"payload\": \"000568656c6c70\""),
        ("theirs_db.json", "\"row_count\": 38", "\"row_count\": 39"),
    ] {
        let copied = copy();
        change(&copied.path().join("other/place").join(file), |bytes| {
            let text = String::from_utf8(std::mem::take(bytes)).unwrap();
            assert!(text.contains(from), "{file} has no {from}");
            *bytes = text.replacen(from, to, 1).into_bytes();
        });
        let (code, last, said) = conformance(copied.path());
        assert_eq!(code, Some(1), "{file}: {to}");
        assert!(
            !last.ends_with(" 0 failed")
                && said.contains("FAILED")
                && said.contains(file.split('_').next().unwrap())
        );
    }
}

/// Each kind of vector of SDS, with one of its values changed.
#[test]
fn a_changed_vector_of_sds_fails() {
    for (file, from, to) in [
        ("sds/wire.json", "\"message_id_hex\": \"6d73672d39", "\"message_id_hex\": \"6d73672d38"),
        ("sds/wire.json", "\"lamport_timestamp\": \"565794106\"", "\"lamport_timestamp\": \"565794107\""),
        ("sds/wire.json", "\"ok_hex\": \"6368616e2d31\"", "\"ok_hex\": \"6368616e2d32\""),
        ("sds/nim_hash.json", "\"hash_i64\": \"-", "\"hash_i64\": \""),
        ("sds/bloom.json", "\"k_hashes\": 10", "\"k_hashes\": 11"),
        ("sds/bloom.json", "\"found\": true", "\"found\": false"),
        ("sds/bloom.json", "\"messages_len\": 4", "\"messages_len\": 5"),
        ("sds/repair.json", "\"t_req_ms\": 980", "\"t_req_ms\": 981"),
        ("sds/repair.json", "\"in_group\": true", "\"in_group\": false"),
        ("sds/snapshot.json", "\"send_time_ms\": \"1", "\"send_time_ms\": \"2"),
        ("sds-js/wire.json", "\"content\": \"07\"", "\"content\": \"08\""),
        ("sds-js/wire.json", "\"decode\": null", "\"decode\": {}"),
        ("sds-js/bloom.json", "\"total_bits\": 100,", "\"total_bits\": 101,"),
        ("sds-js/bloom.json", "\"out\": 8", "\"out\": 9"),
        ("sds-js/repair.json", "\"t_resp_offset_ms\": 253979", "\"t_resp_offset_ms\": 253980"),
        ("sds-js/repair.json", "\"participants\": 256", "\"participants\": 384"),
        ("sds-js/cross_dialect.json", "\"dialect\": \"logos_chat\"", "\"dialect\": \"spec\""),
        ("sds/transcripts/t01.json", "\"bytes\": \"0a07616c696365", "\"bytes\": \"0a07616c696366"),
        ("sds/transcripts/t01.json", "\"lamport\": 1", "\"lamport\": 2"),
        ("sds/transcripts/t01.json", "\"event\": \"message_ready\"", "\"event\": \"message_sent\""),
        ("sds/transcripts/t01.json", "\"op\": \"repair_sweep\"", "\"op\": \"no_sweep\""),
        ("sds-js/scenarios.json", "\"wire_sha256\": \"5fe385", "\"wire_sha256\": \"5fe386"),
        ("sds-js/scenarios.json", "\"lamport\": \"1760000001500\"", "\"lamport\": \"1760000001501\""),
        ("sds-js/scenarios.json", "\"outgoing\": []", "\"outgoing\": [\"m\"]"),
        ("sds-js/scenarios.json", "\"op\": \"sync\"", "\"op\": \"synch\""),
        ("sds-js/storm.json", "\"content\": \"", "\"content\": \"00"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("vectors.json");
        let text = fs::read_to_string(vectors().join(file)).unwrap();
        // The files are written with and without spaces.
        let [from, to] = if text.contains(from) {
            [from.to_owned(), to.to_owned()]
        } else {
            [from.replace("\": ", "\":"), to.replace("\": ", "\":")]
        };
        assert!(text.contains(&from), "{file} has no {from}");
        fs::write(&place, text.replacen(&from, &to, 1)).unwrap();
        let (code, last, said) = conformance(dir.path());
        assert_eq!(code, Some(1), "{file}: {to}: {said}");
        assert!(!last.ends_with(" 0 failed") && said.contains("FAILED"), "{said}");
    }
}

type Damage = fn(&mut Vec<u8>);

#[test]
fn damage_of_every_kind_fails_and_never_panics() {
    let place = |copied: &tempfile::TempDir, file: &str| copied.path().join("other/place").join(file);
    let damages: [(&str, Damage); 7] = [
        ("components.json", |bytes| bytes.truncate(1000)),
        ("components.json", |bytes| bytes[0] = 0xFF),
        ("theirs_db.json", |bytes| bytes.truncate(5000)),
        ("theirs.db", |bytes| bytes[0] = b'X'),
        ("theirs.db-wal", |bytes| bytes.truncate(0)),
        ("theirs-checkpointed.db", |bytes| bytes.truncate(9000)),
        ("theirs-checkpointed.db", |bytes| bytes[8192..].fill(0xA5)),
    ];
    for (file, damage) in damages {
        let copied = copy();
        change(&place(&copied, file), damage);
        let (code, _, said) = conformance(copied.path());
        assert_eq!(code, Some(1), "{file}: {said}");
    }
    // A row that the listing does not have, and a listing without a database.
    let copied = copy();
    fs::remove_file(place(&copied, "theirs.db")).unwrap();
    fs::remove_file(place(&copied, "theirs-checkpointed.db")).unwrap();
    let (code, _, said) = conformance(copied.path());
    assert!(code == Some(1) && said.contains("there is none beside it"), "{said}");
}

#[test]
fn what_is_not_recognised_is_named_and_not_counted() {
    let copied = copy();
    for (name, content) in
        [("notes.txt", "hello"), ("other.json", "{\"encode\": [{\"hex\": \"00\"}]}"), ("list.json", "[1, 2]")]
    {
        fs::write(copied.path().join(name), content).unwrap();
    }
    let (code, last, said) = conformance(copied.path());
    assert_eq!((code, last.as_str()), (Some(0), conformance(&vectors().join("persistency")).1.as_str()));
    for name in ["notes.txt", "other.json", "list.json"] {
        assert!(said.lines().any(|line| line.starts_with("skipped") && line.contains(name)), "{said}");
    }
}

#[test]
fn nothing_to_check_is_not_success() {
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(conformance(empty.path()).0, Some(2));
    fs::write(empty.path().join("notes.txt"), "hello").unwrap();
    assert_eq!(conformance(empty.path()).0, Some(2));
    assert_eq!(conformance(&empty.path().join("missing")).0, Some(2));
}
