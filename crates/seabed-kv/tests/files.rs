//! Files of others and of ours: upstream's open here, ours open in plain SQLite, and what is not ours stays as it is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests say what failed by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use seabed_kv::{Error, ErrorKind, KeyRange, ScanSpec, Store, Tenant};
use serde_json::Value;

type Rows = Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>;

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/persistency").join(name)
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn expected_rows() -> Rows {
    let text = fs::read_to_string(vector("upstream_db.json")).unwrap();
    let listing: Value = serde_json::from_str(&text).unwrap();
    let rows = listing["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 38);
    rows.iter().map(|row| (bytes(&row["category"]), bytes(&row["key"]), bytes(&row["payload"]))).collect()
}

fn read_rows(tenant: &Tenant) -> seabed_kv::Result<Rows> {
    let mut rows = Vec::new();
    for category in tenant.categories().wait()? {
        for row in tenant.scan(ScanSpec::new(&category, KeyRange::all())).collect().wait()? {
            rows.push((category.clone(), row.key.into_bytes(), row.payload));
        }
    }
    Ok(rows)
}

fn all_rows(tenant: &Tenant) -> Rows {
    read_rows(tenant).unwrap()
}

/// What plain SQLite, of whatever version Python has, says about a file.
fn python(file: &Path, script: &str) -> String {
    let script = format!("import sqlite3,sys\ndb=sqlite3.connect(sys.argv[1])\n{script}");
    let output = Command::new("python3").arg("-c").arg(script).arg(file).output().expect("python3 is needed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn upstreams_databases_open_with_every_row() {
    for (names, in_log) in
        [(&["upstream-checkpointed.db"][..], false), (&["upstream.db", "upstream.db-wal"], true)]
    {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let suffix = if name.ends_with("-wal") { "-wal" } else { "" };
            fs::copy(vector(name), root.path().join(format!("sds.db{suffix}"))).unwrap();
        }
        if in_log {
            assert_eq!(
                fs::metadata(root.path().join("sds.db")).unwrap().len(),
                4_096,
                "everything sits in the log"
            );
        }
        let store = Store::sqlite(root.path()).unwrap();
        let tenant = store.open("sds").wait().unwrap();
        assert_eq!(all_rows(&tenant), expected_rows());
        assert_eq!(tenant.verify().wait().unwrap().rows, 38);
        tenant.put("ours", b"", b"").wait().unwrap();
        assert_eq!(tenant.get("ours", b"").wait().unwrap(), Some(Vec::new()));
        store.close().wait().unwrap();
        // And again, from the file alone.
        let reopened = Store::sqlite(root.path()).unwrap();
        assert_eq!(all_rows(&reopened.open("sds").wait().unwrap()).len(), 39);
    }
}

#[test]
fn our_files_are_plain_sqlite() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::sqlite(root.path()).unwrap();
    let tenant = store.open("a tenant/ödd").wait().unwrap();
    tenant.put("category", b"key", b"payload").wait().unwrap();
    tenant.put("category", b"", b"").wait().unwrap();
    let file = root.path().join("a%20tenant%2F%C3%B6dd.db");
    let listing: Value =
        serde_json::from_str(&fs::read_to_string(vector("upstream_db.json")).unwrap()).unwrap();
    // While it is open, with everything in the log, and after a clean close.
    for closed in [false, true] {
        if closed {
            store.close().wait().unwrap();
            assert!(!file.with_extension("db-wal").exists(), "a clean close leaves one file");
        }
        let schema = python(&file, "print(db.execute('select sql from sqlite_schema').fetchall()[0][0])");
        assert_eq!(schema, listing["schema"][0]["sql"].as_str().unwrap());
        let pragmas = "print([db.execute('pragma '+p).fetchone()[0] for p in \
                       ('user_version','journal_mode','page_size','application_id','auto_vacuum')])";
        assert_eq!(python(&file, pragmas), "[1, 'wal', 8192, 0, 0]");
        let rows = python(&file, "print(db.execute('select * from kv order by 1,2').fetchall())");
        assert_eq!(rows, "[(b'category', b'', b''), (b'category', b'key', b'payload')]");
    }
}

#[test]
fn a_page_size_of_another_program_is_kept() {
    let root = tempfile::tempdir().unwrap();
    fs::copy(vector("upstream-checkpointed.db"), root.path().join("sds.db")).unwrap();
    let store = Store::sqlite(root.path()).unwrap();
    let tenant = store.open("sds").wait().unwrap();
    assert!(
        tenant.inline_limit() < 1_002,
        "pages of 4 KiB keep {} bytes beside the key",
        tenant.inline_limit()
    );
    let ours = store.open("new").wait().unwrap();
    assert!(ours.inline_limit() > 1_900 && ours.inline_limit() < 2_030, "{}", ours.inline_limit());
}

/// Opens `contents` as a tenant's file and gives back what was answered; a refused file must be as it was.
fn open_bytes(contents: &[u8]) -> seabed_kv::Result<Rows> {
    open_and(contents, read_rows)
}

fn open_and<T>(contents: &[u8], look: impl FnOnce(&Tenant) -> seabed_kv::Result<T>) -> seabed_kv::Result<T> {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("sds.db");
    fs::write(&file, contents).unwrap();
    let store = Store::sqlite(root.path()).unwrap();
    let opened = store.open("sds").wait();
    let result = match opened {
        Ok(tenant) => look(&tenant),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Corrupt), "{error:?}");
            assert!(fs::read(&file).unwrap() == contents, "a refused file was changed: {error}");
            assert!(!file.with_extension("db-wal").exists(), "a refused file was given a log");
            Err(error)
        }
    };
    store.close().wait().unwrap();
    result
}

#[test]
fn other_files_are_refused_and_left_as_they_are() {
    let root = tempfile::tempdir().unwrap();
    let made = |name: &str, script: &str| {
        let file = root.path().join(name);
        python(&file, &format!("{script}\ndb.commit()\ndb.close()"));
        fs::read(file).unwrap()
    };
    let kv = "category BLOB NOT NULL, key BLOB NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (category, key)";
    let newer = made(
        "newer",
        &format!("db.executescript('create table kv ({kv}) without rowid; pragma user_version=2')"),
    );
    let error = open_bytes(&newer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("version 2") && error.to_string().contains("works with 1"), "{error}");
    for (name, script) in [
        (
            "other table",
            "db.execute('create table notes (t text)'); db.execute('pragma user_version=1')".to_owned(),
        ),
        (
            "other columns",
            "db.execute('create table kv (k text)'); db.execute('pragma user_version=1')".to_owned(),
        ),
        ("with rowid", format!("db.executescript('create table kv ({kv}); pragma user_version=1')")),
        (
            "more",
            format!(
                "db.executescript('create table kv ({kv}) without rowid; create table x (y); pragma user_version=1')"
            ),
        ),
        ("no table", "db.execute('pragma user_version=1')".to_owned()),
        ("version 0 with a table", "db.execute('create table notes (t text)')".to_owned()),
    ] {
        assert_eq!(open_bytes(&made(name, &script)).unwrap_err().kind(), ErrorKind::Unsupported, "{name}");
    }
    for other in [&b"hello"[..], b"SQLite format 3", &[0; 8_192], &[0xFF; 100]] {
        let error = open_bytes(other).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Corrupt), "{error}");
    }
}

#[test]
fn a_file_that_was_cut_off_is_corrupt() {
    let whole = fs::read(vector("upstream-checkpointed.db")).unwrap();
    for length in
        [1, 15, 16, 50, 99, 100, 511, 1_000, 4_095, 4_096, 4_097, 8_192, whole.len() - 4_096, whole.len() - 1]
    {
        let error = open_bytes(&whole[..length]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{length}: {error}");
    }
    assert_eq!(open_bytes(&whole).unwrap(), expected_rows());
    // Nothing was written yet, or a creation was interrupted: a new tenant.
    assert_eq!(open_bytes(&[]).unwrap(), Rows::new());
}

#[test]
fn flipped_bits_give_rows_or_an_error_and_never_a_panic() {
    let whole = fs::read(vector("upstream-checkpointed.db")).unwrap();
    let expected = expected_rows();
    let (mut refused, mut read) = (0, 0);
    // Every bit would take minutes: the header's bytes, then every 173rd, each with another bit.
    for (number, position) in (0..100).chain((100..whole.len()).step_by(173)).enumerate() {
        let mut flipped = whole.clone();
        flipped[position] ^= 1 << (number % 8);
        match open_and(&flipped, |tenant| Ok((read_rows(tenant)?, tenant.verify().wait()?))) {
            Ok((rows, report)) => {
                read += 1;
                // SQLite has no checksums: a flip inside a payload is another payload. A row that is gone is found.
                assert!(
                    rows.len() == expected.len() || !report.findings.is_empty(),
                    "byte {position}: {} rows of {}, and nothing was found",
                    rows.len(),
                    expected.len()
                );
            }
            Err(error) => {
                refused += 1;
                assert!(
                    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported),
                    "byte {position}: {error:?}"
                );
            }
        }
    }
    assert!(refused > 20 && read > 20, "{refused} refused, {read} read");
}

/// Opens a file with what lies beside it, and sees that a refusal leaves both as they are.
fn refused(file: &[u8], suffix: &str, beside: &[u8]) -> Error {
    let root = tempfile::tempdir().unwrap();
    let (path, sibling) = (root.path().join("t.db"), root.path().join(format!("t.db{suffix}")));
    fs::write(&path, file).unwrap();
    fs::write(&sibling, beside).unwrap();
    let store = Store::sqlite(root.path()).unwrap();
    let error = store.open("t").wait().unwrap_err();
    store.close().wait().unwrap();
    assert!(fs::read(path).unwrap() == file && fs::read(sibling).unwrap() == beside, "{error}");
    error
}

#[test]
fn a_damaged_log_is_not_taken_for_an_empty_one() {
    let (file, log) =
        (fs::read(vector("upstream.db")).unwrap(), fs::read(vector("upstream.db-wal")).unwrap());
    // Any bit of the header, and of the frames that make the table: without them everything behind them is lost.
    for position in (0..32).chain((32..32 + 24).step_by(3)).chain([100, 3_000, 4_200, 8_000]) {
        let mut flipped = log.clone();
        flipped[position] ^= 1 << (position % 8);
        assert_eq!(refused(&file, "-wal", &flipped).kind(), ErrorKind::Corrupt, "byte {position}");
    }
    assert_eq!(refused(&[], "-wal", &log).kind(), ErrorKind::Corrupt);
    // Once carried over, the file has a table, and the header of a later log still says that it is one.
    let checkpointed = fs::read(vector("upstream-checkpointed.db")).unwrap();
    let mut flipped = log;
    flipped[13] ^= 1;
    assert_eq!(refused(&checkpointed, "-wal", &flipped).kind(), ErrorKind::Corrupt);
}

/// What a file and a log hold, or how they are refused; then both are as they were.
fn open_with_log(file: &[u8], log: &[u8]) -> Result<Rows, Error> {
    let root = tempfile::tempdir().unwrap();
    let (path, beside) = (root.path().join("t.db"), root.path().join("t.db-wal"));
    fs::write(&path, file).unwrap();
    fs::write(&beside, log).unwrap();
    let store = Store::sqlite(root.path()).unwrap();
    let rows = match store.open("t").wait() {
        Ok(tenant) => {
            let rows = read_rows(&tenant).unwrap();
            assert!(tenant.verify().wait().unwrap().findings.is_empty());
            Ok(rows)
        }
        Err(error) => {
            assert!(fs::read(&path).unwrap() == file && fs::read(&beside).unwrap() == log, "{error}");
            Err(error)
        }
    };
    store.close().wait().unwrap();
    rows
}

/// A checkpoint writes a page in one call, of which a full disk, a quota or a kill may leave the beginning: the file ends in the middle of a
/// page, and the log has all of it.
#[test]
fn a_file_that_ends_in_the_middle_of_a_page_beside_its_log_is_in_order() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::sqlite(root.path()).unwrap();
    store.open("t").wait().unwrap();
    store.close().wait().unwrap();
    // As a checkpoint leaves it while somebody keeps the log from beginning anew.
    python(
        &root.path().join("t.db"),
        &format!(
            "import shutil\nfor i in range(9):\n db.execute('insert into kv values (?,?,?)', (b'c', bytes([i]), bytes(3000)))\n\
             db.commit()\nprint(db.execute('pragma wal_checkpoint(passive)').fetchall())\n\
             for s in ('.db', '.db-wal'): shutil.copy({at:?}+s, {to:?}+s)",
            at = root.path().join("t").display().to_string(),
            to = root.path().join("copy").display().to_string()
        ),
    );
    let [file, log] = ["copy.db", "copy.db-wal"].map(|name| fs::read(root.path().join(name)).unwrap());
    assert!(file.len() > 3 * 8_192 && log.len() > file.len());
    let expected = open_with_log(&file, &log).unwrap();
    assert_eq!(expected.len(), 9);
    for cut_off in [4_096, 8_192 + 4_096, 1, file.len() - 4_096] {
        assert_eq!(
            open_with_log(&file[..file.len() - cut_off], &log).unwrap(),
            expected,
            "{cut_off} bytes less"
        );
    }
    // And it can be backed up.
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("t.db"), &file[..file.len() - 4_096]).unwrap();
    fs::write(root.path().join("t.db-wal"), &log).unwrap();
    let store = Store::sqlite(root.path()).unwrap();
    let copy = root.path().join("copy");
    store.open("t").wait().unwrap().backup(&copy, None).wait().unwrap();
    store.close().wait().unwrap();
    assert_eq!(open_bytes(&fs::read(copy).unwrap()).unwrap(), expected);
}

/// The first page of a new file is written in one call as well, beside a journal that says that there was no file before.
#[test]
fn a_creation_that_ended_in_the_middle_of_its_first_page_is_begun_anew() {
    let root = tempfile::tempdir().unwrap();
    let (new, left) = (root.path().join("new"), root.path().join("t.db"));
    python(
        &new,
        &format!(
            "import shutil\ndb.isolation_level=None\ndb.execute('pragma cache_size=1')\ndb.execute('begin')\n\
             db.execute('create table t (a)')\ndb.execute('insert into t select hex(randomblob(100000))')\n\
             shutil.copy({new:?}+'-journal', {left:?}+'-journal')",
            new = new.display().to_string(),
            left = left.display().to_string()
        ),
    );
    // As SQLite makes it for a file that is to have a log.
    let made = root.path().join("made");
    python(&made, "db.execute('pragma page_size=8192')\ndb.execute('pragma journal_mode=wal')\ndb.close()");
    let page = fs::read(&made).unwrap();
    assert!(page.starts_with(b"SQLite format 3") && page.len() == 8_192);
    fs::write(&left, &page[..4_096]).unwrap();
    let store = Store::sqlite(root.path()).unwrap();
    let tenant = store.open("t").wait().unwrap();
    assert_eq!(all_rows(&tenant), Rows::new());
    tenant.put("c", b"k", b"x").wait().unwrap();
    store.close().wait().unwrap();
}

/// A frame that was damaged ends the log, as one that was never written whole does: what is read is the tenant at an earlier commit.
#[test]
fn a_log_that_is_damaged_anywhere_gives_an_earlier_commit_or_is_refused() {
    const FRAME: usize = 24 + 4_096;
    let (file, log) =
        (fs::read(vector("upstream.db")).unwrap(), fs::read(vector("upstream.db-wal")).unwrap());
    let frames = (log.len() - 32) / FRAME;
    let upto = |frames: usize| open_with_log(&file, &log[..32 + frames * FRAME]);
    let mut states: Vec<Option<Rows>> = Vec::new();
    for frames in 0..=frames {
        match upto(frames) {
            Ok(rows) => states.push(Some(rows)),
            Err(error) => {
                // A table without a version is what upstream's first commits make.
                let kinds = [ErrorKind::Corrupt, ErrorKind::Unsupported];
                assert!(kinds.contains(&error.kind()), "{frames} frames: {error}");
                states.push(None);
            }
        }
    }
    assert_eq!(states.last().unwrap().as_ref(), Some(&expected_rows()));
    let (mut earlier, mut refused) = (0, 0);
    for (number, position) in (32..log.len()).step_by(2_711).enumerate() {
        let mut flipped = log.clone();
        flipped[position] ^= 1 << (number % 8);
        let whole = (position - 32) / FRAME;
        match open_with_log(&file, &flipped) {
            Ok(rows) => {
                earlier += 1;
                assert_eq!(Some(&rows), states[whole].as_ref(), "byte {position}, in frame {whole}");
            }
            Err(error) => {
                refused += 1;
                // Nothing is left before it that a tenant was ever in.
                assert!(states[whole].as_ref().is_none_or(Vec::is_empty), "byte {position}: {error}");
            }
        }
    }
    assert!(earlier > 100 && refused > 0, "{earlier} read, {refused} refused");
    // Cut off in the middle of a frame; and with another log's frames behind it.
    for bytes in [log.len() - 1, log.len() - FRAME / 2, 32 + FRAME * (frames / 2) + 11] {
        let whole = (bytes - 32) / FRAME;
        assert_eq!(
            open_with_log(&file, &log[..bytes]).unwrap(),
            states[whole].clone().unwrap(),
            "{bytes} bytes"
        );
    }
    let mut longer = log.clone();
    longer.extend_from_slice(&log[32..32 + 2 * FRAME]);
    assert_eq!(open_with_log(&file, &longer).unwrap(), expected_rows());
}

#[test]
fn a_rollback_journal_is_not_played_back_into_a_file_that_is_not_ours() {
    let root = tempfile::tempdir().unwrap();
    let (other, copy) = (root.path().join("other"), root.path().join("copy"));
    // As a program that was killed in the middle of its transaction leaves it: with pages of it in the file.
    python(
        &other,
        &format!(
            "import shutil\ndb.execute('create table notes (t text)')\n\
             db.execute(\"insert into notes select hex(randomblob(4000)) from (select 1 union select 2 union select 3)\")\n\
             db.commit()\ndb.execute('pragma cache_size=1')\ndb.execute('update notes set t=lower(t)')\n\
             shutil.copy({path:?}, {copy:?})\nshutil.copy({path:?}+'-journal', {copy:?}+'-journal')",
            path = other.display().to_string(),
            copy = copy.display().to_string()
        ),
    );
    let journal = fs::read(root.path().join("copy-journal")).unwrap();
    let error = refused(&fs::read(copy).unwrap(), "-journal", &journal);
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("journal"), "{error}");
}

#[test]
fn a_root_has_one_owner() {
    let root = tempfile::tempdir().unwrap();
    let first = Store::sqlite(root.path()).unwrap();
    first.own().unwrap();
    let second = Store::sqlite(root.path()).unwrap();
    assert_eq!(second.own().unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(second.open("t").wait().unwrap_err().kind(), ErrorKind::Busy);
    let tenant = first.open("t").wait().unwrap();
    tenant.put("c", b"k", b"x").wait().unwrap();
    first.close().wait().unwrap();
    let tenant = second.open("t").wait().unwrap();
    assert_eq!(tenant.get("c", b"k").wait().unwrap(), Some(b"x".to_vec()));
}
