//! Every fuzz target of this crate over its seeds, and over each of them cut or altered anywhere: the gate has no fuzzer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

use std::path::Path;

use seabed_taskchampion::{decode_row, fuzz_rows};

/// The seeds of a target, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let entries = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", directory.display()));
    let read = |path: std::path::PathBuf| {
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
    };
    let seeds: Vec<_> = entries.map(|entry| read(entry.unwrap().path())).collect();
    assert!(seeds.len() >= 5, "the seeds of {target}: {seeds:?}");
    seeds
}

fn run(target: &str, function: fn(&[u8]), bytes: &[u8]) {
    for (_, seed) in seeds(target) {
        function(&seed);
        for length in 0..seed.len() {
            function(&seed[..length]);
            for byte in bytes {
                let mut altered = seed.clone();
                altered[length] = *byte;
                function(&altered);
            }
        }
        function(&[seed, b"more".to_vec()].concat());
    }
}

#[test]
fn rows() {
    run("rows", fuzz_rows, &[0, 1, 2, 3, 0xFF]);
}

#[cfg(feature = "http")]
#[test]
fn headers() {
    run("headers", seabed_taskchampion::fuzz_headers, &[0, b' ', b'{', b'-', 0x80, 0xFF]);
}

/// A seed that does not read as what its name says leads a fuzzer nowhere.
#[test]
fn the_seeds_of_rows_are_rows() {
    let mut kinds = std::collections::BTreeSet::new();
    for (name, seed) in seeds("rows").into_iter().filter(|(name, _)| !name.ends_with("-key")) {
        let kind = name.split('-').next().unwrap();
        let key = match kind {
            "format" | "shards" => 0,
            "version" | "parent" => 32,
            _ => 16,
        };
        let row = decode_row(format!("taskchampion.{kind}").as_bytes(), &vec![7; key], &seed).unwrap();
        assert_eq!(row.get("damaged"), None, "{name}: {row}");
        kinds.insert(kind.to_owned());
    }
    let expected = ["client", "deleting", "format", "parent", "shards", "snapshot", "version"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
}
