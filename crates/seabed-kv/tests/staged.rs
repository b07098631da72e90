//! Values larger than a row: written in chunks, attached by one batch, swept when nothing refers to them.
#![allow(clippy::unwrap_used, reason = "helpers of tests; a failure is the test's")]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use pollster::block_on;
use seabed_kv::staged::{
    READ_STEP_CHUNKS, STAGED_BATCH_BYTES, SWEEP_STEP_ROWS, Staged, StagedWriter, Staging, Sweep,
    read_chunk_key,
};
use seabed_kv::{Batch, Durability, ErrorKind, KeyRange, Outcome, ScanSpec, Store, Tenant};

const ID: [u8; 16] = *b"0123456789abcdef";
const OTHER: [u8; 16] = *b"fedcba9876543210";

struct Place {
    tenant: Tenant,
    staging: Staging,
    directory: tempfile::TempDir,
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let tenant = Store::sqlite(directory.path()).unwrap().open("t").wait().unwrap();
    Place { staging: Staging::new(tenant.clone(), "layer"), tenant, directory }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|position| u8::try_from(position % 251).unwrap()).collect()
}

impl Place {
    fn written(&self, id: [u8; 16], value: &[u8]) -> (StagedWriter, Staged) {
        let mut writer = self.staging.writer(id, 1_000);
        let staged = block_on(async {
            for part in value.chunks(100_000) {
                writer.write(part).await.unwrap();
            }
            writer.finish().await.unwrap()
        });
        (writer, staged)
    }

    fn attach(&self, mut writer: StagedWriter, staged: Staged) -> Outcome {
        let mut batch = Batch::new();
        batch.put("value", b"1", staged.to_bytes());
        writer.attach(&mut batch);
        self.tenant.apply(batch, Durability::Durable).wait().unwrap()
    }

    fn discard(&self, staged: Staged, now_ms: u64) {
        let mut batch = Batch::new();
        self.staging.discard(&mut batch, staged, now_ms);
        batch.delete("value", b"1");
        assert!(self.tenant.apply(batch, Durability::Durable).wait().unwrap().is_applied());
    }

    fn read(&self, staged: Staged) -> seabed_kv::Result<Vec<u8>> {
        let mut reader = self.staging.reader(staged);
        let mut value = Vec::new();
        block_on(async {
            while let Some(part) = reader.next().await? {
                value.extend_from_slice(&part);
            }
            Ok(value)
        })
    }

    fn sweep(&self, which: Sweep) -> u64 {
        block_on(self.staging.sweep(which)).unwrap()
    }

    fn rows(&self) -> (u64, u64) {
        self.tenant.flush().wait().unwrap();
        let count = |category: &str| self.tenant.count(category, &KeyRange::all()).wait().unwrap();
        (count(self.staging.chunk_category()), count(self.staging.pending_category()))
    }
}

#[test]
fn values_of_every_length_come_back() {
    let place = place();
    let chunk = place.tenant.inline_limit();
    let lengths = [
        1,
        chunk - 1,
        chunk,
        chunk + 1,
        STAGED_BATCH_BYTES - 1,
        STAGED_BATCH_BYTES,
        STAGED_BATCH_BYTES + 1,
        3_000_000,
    ];
    for (number, length) in lengths.into_iter().enumerate() {
        let mut id = ID;
        id[0] = u8::try_from(number).unwrap();
        let value = bytes(length);
        let (writer, staged) = place.written(id, &value);
        assert_eq!(staged.bytes, length as u64);
        assert!(place.attach(writer, staged).is_applied());
        assert!(place.read(staged).unwrap() == value, "{length} bytes");
        assert_eq!(Staged::from_bytes(&staged.to_bytes()), Some(staged));
    }
    assert_eq!(place.rows().1, 0, "nothing is pending");
    assert_eq!(place.sweep(Sweep::Everything), 0);
    // An empty value has no chunks and nothing to attach.
    let (writer, staged) = place.written(OTHER, &[]);
    assert!(place.attach(writer, staged).is_applied());
    assert_eq!(place.read(staged).unwrap(), Vec::<u8>::new());
}

#[test]
fn a_value_is_read_in_small_parts() {
    let place = place();
    let value = bytes(1_000_000);
    let (writer, staged) = place.written(ID, &value);
    assert!(place.attach(writer, staged).is_applied());
    let (mut reader, mut read) = (place.staging.reader(staged), Vec::new());
    while let Some(part) = block_on(reader.next()).unwrap() {
        assert!(part.len() <= READ_STEP_CHUNKS * place.tenant.inline_limit(), "{} bytes", part.len());
        read.extend_from_slice(&part);
    }
    assert!(read == value);
}

#[test]
fn a_value_is_a_batch_for_each_quarter_megabyte_and_one_more() {
    let place = place();
    let before = place.tenant.stats().wait().unwrap();
    let (writer, staged) = place.written(ID, &bytes(1_000_000));
    assert!(place.attach(writer, staged).is_applied());
    let after = place.tenant.stats().wait().unwrap();
    // Four of chunks, then the one that refers to them (and the writer's last word, which is refused).
    assert_eq!(after.commits - before.commits, 5);
}

#[test]
fn what_was_never_attached_is_swept() {
    let place = place();
    let (writer, staged) = place.written(ID, &bytes(2_000_000));
    assert!(place.rows().0 > u64::try_from(SWEEP_STEP_ROWS).unwrap(), "more than one step");
    drop(writer);
    assert_eq!(place.rows().1, 1);
    // Nobody can be reading it: the next sweep takes it, whatever it waits for.
    assert_eq!(place.sweep(Sweep::Before { discarded_ms: 1, writing_ms: 0 }), 1);
    assert_eq!(place.rows(), (0, 0));
    assert_eq!(place.read(staged).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn dropping_the_writer_of_an_attached_value_keeps_it() {
    let place = place();
    let value = bytes(50_000);
    let (writer, staged) = place.written(ID, &value);
    assert!(place.attach(writer, staged).is_applied());
    assert_eq!(place.rows().1, 0);
    assert_eq!(place.sweep(Sweep::Everything), 0);
    assert!(place.read(staged).unwrap() == value);
}

#[test]
fn a_refused_batch_leaves_the_value_to_the_sweep() {
    let place = place();
    let (mut writer, staged) = place.written(ID, &bytes(50_000));
    let mut batch = Batch::new();
    batch.check_exists("value", b"missing").put("value", b"1", staged.to_bytes());
    writer.attach(&mut batch);
    assert!(!place.tenant.apply(batch, Durability::Durable).wait().unwrap().is_applied());
    drop(writer);
    assert_eq!(place.sweep(Sweep::Everything), 1);
    assert_eq!(place.rows(), (0, 0));
}

#[test]
fn a_refused_batch_can_be_built_again() {
    let place = place();
    let value = bytes(50_000);
    let (mut writer, staged) = place.written(ID, &value);
    let mut batch = Batch::new();
    batch.check_exists("value", b"missing").put("value", b"1", staged.to_bytes());
    writer.attach(&mut batch);
    assert!(!place.tenant.apply(batch, Durability::Durable).wait().unwrap().is_applied());
    assert!(place.attach(writer, staged).is_applied());
    assert_eq!(place.sweep(Sweep::Everything), 0);
    assert!(place.read(staged).unwrap() == value);
}

#[test]
fn a_sweep_that_overtakes_a_writer_makes_its_batch_refused() {
    let place = place();
    let (writer, staged) = place.written(ID, &bytes(50_000));
    assert_eq!(place.sweep(Sweep::Before { discarded_ms: 0, writing_ms: 1_000 }), 0, "not yet old enough");
    assert_eq!(place.sweep(Sweep::Before { discarded_ms: 0, writing_ms: 1_001 }), 1);
    assert!(matches!(place.attach(writer, staged), Outcome::Refused(refusal) if refusal.found.is_none()));
    assert!(!place.tenant.exists("value", b"1").wait().unwrap());
    assert_eq!(place.rows(), (0, 0));
}

#[test]
fn a_value_that_is_being_swept_is_not_attached() {
    // Several steps of the sweep, broken off after any number of them.
    for polls in 1..8 {
        let place = place();
        let (writer, staged) = place.written(ID, &bytes(3_000_000));
        place.tenant.flush().wait().unwrap();
        let chunks = place.rows().0;
        {
            let mut sweep =
                pin!(place.staging.sweep(Sweep::Before { discarded_ms: 0, writing_ms: u64::MAX }));
            for _ in 0..polls {
                if sweep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    break;
                }
                place.tenant.flush().wait().unwrap();
            }
        }
        let swept = place.rows().0 < chunks;
        let attached = place.attach(writer, staged).is_applied();
        assert!(!attached || !swept, "{polls} polls: attached after chunks were removed");
        if attached {
            assert!(place.read(staged).unwrap() == bytes(3_000_000));
        }
        place.sweep(Sweep::Everything);
        assert_eq!(place.rows().1, 0);
        assert_eq!(place.rows().0, if attached { chunks } else { 0 }, "{polls} polls");
    }
}

#[test]
fn a_writer_that_was_swept_stores_nothing_more() {
    let place = place();
    let mut writer = place.staging.writer(ID, 1_000);
    block_on(writer.write(&bytes(STAGED_BATCH_BYTES))).unwrap();
    assert_eq!(place.sweep(Sweep::Before { discarded_ms: 0, writing_ms: 1_001 }), 1);
    let error = block_on(writer.write(&bytes(STAGED_BATCH_BYTES))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    drop(writer);
    place.tenant.flush().wait().unwrap();
    assert_eq!(place.rows(), (0, 0));
}

#[test]
fn a_discarded_value_can_be_read_until_it_is_swept() {
    let place = place();
    let value = bytes(100_000);
    let (writer, staged) = place.written(ID, &value);
    assert!(place.attach(writer, staged).is_applied());
    place.discard(staged, 5_000);
    assert!(place.read(staged).unwrap() == value);
    assert_eq!(place.sweep(Sweep::Before { discarded_ms: 5_000, writing_ms: u64::MAX }), 0);
    assert_eq!(place.sweep(Sweep::Before { discarded_ms: 5_001, writing_ms: 0 }), 1);
    assert_eq!(place.rows(), (0, 0));
}

#[test]
fn values_beside_each_other_do_not_mix() {
    let place = place();
    let (one, two) = (bytes(30_000), vec![7; 30_000]);
    let (writer, first) = place.written(ID, &one);
    assert!(place.attach(writer, first).is_applied());
    let (writer, second) = place.written(OTHER, &two);
    assert!(place.attach(writer, second).is_applied());
    assert!(place.read(first).unwrap() == one && place.read(second).unwrap() == two);
    place.discard(first, 0);
    assert_eq!(place.sweep(Sweep::Everything), 1);
    assert!(place.read(second).unwrap() == two);
}

#[test]
fn a_missing_a_short_and_a_long_chunk_are_corrupt() {
    let place = place();
    let (writer, staged) = place.written(ID, &bytes(100_000));
    assert!(place.attach(writer, staged).is_applied());
    let chunks = place
        .tenant
        .scan(ScanSpec::new(place.staging.chunk_category(), KeyRange::all()))
        .collect()
        .wait()
        .unwrap();
    for chunk in [0, chunks.len() / 2, chunks.len() - 1] {
        let row = &chunks[chunk];
        assert_eq!(read_chunk_key(row.key.as_bytes()), Some((ID, u32::try_from(chunk).unwrap())));
        let category = place.staging.chunk_category();
        place.tenant.delete(category, &row.key).wait().unwrap();
        assert_eq!(place.read(staged).unwrap_err().kind(), ErrorKind::Corrupt);
        for damaged in [[&row.payload[..], b"x"].concat(), row.payload[1..].to_vec()] {
            place.tenant.put(category, &row.key, damaged).wait().unwrap();
            assert_eq!(place.read(staged).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        place.tenant.put(category, &row.key, row.payload.clone()).wait().unwrap();
    }
    assert!(place.read(staged).is_ok());
}

#[test]
fn a_write_dropped_in_the_middle_gives_the_value_up() {
    let place = place();
    let mut writer = place.staging.writer(ID, 0);
    // Another program holds the file, so that the first batch stays on its way.
    let held = rusqlite::Connection::open(place.directory.path().join("t.db")).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    {
        let value = bytes(STAGED_BATCH_BYTES * 2);
        let mut write = pin!(writer.write(&value));
        // Polled once: nothing behind the first batch was taken.
        assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    held.execute_batch("ROLLBACK").unwrap();
    assert_eq!(block_on(writer.finish()).unwrap_err().kind(), ErrorKind::InvalidArgument);
    drop(writer);
    place.tenant.flush().wait().unwrap();
    assert_eq!(place.sweep(Sweep::Everything), 1);
    assert_eq!(place.rows(), (0, 0));
}

#[test]
fn a_sweep_dropped_in_the_middle_goes_on_with_the_next() {
    let place = place();
    let (writer, _) = place.written(ID, &bytes(3_000_000));
    drop(writer);
    let chunks = place.rows().0;
    for _ in 0..2 {
        let mut sweep = pin!(place.staging.sweep(Sweep::Everything));
        for _ in 0..3 {
            let _ = sweep.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
    }
    let left = place.rows();
    assert!(left.1 == 1 && left.0 <= chunks, "what is left is still known to be: {left:?}");
    place.sweep(Sweep::Everything);
    assert_eq!(place.rows(), (0, 0));
}
