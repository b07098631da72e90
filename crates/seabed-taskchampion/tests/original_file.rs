//! Databases of the original server: read whole, refused client by client when broken, read again without a change, and written.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;
#[path = "original_file/damage.rs"]
mod damage;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Child, Current, Odd, START_S, World, assert_sound, poll_times, rows, stores};
use pollster::block_on;
use rusqlite::{Connection, params};
use seabed_kv::{ErrorKind, Store};
use seabed_taskchampion::{AddSnapshot, ImportReport, ORIGINAL_FILE, Totals};
use uuid::Uuid;

/// As the original lays it out, with a column that somebody added.
const TABLES: &str = "
    CREATE TABLE clients (client_id STRING PRIMARY KEY, latest_version_id STRING, snapshot_version_id STRING,
        versions_since_snapshot INTEGER, snapshot_timestamp INTEGER, snapshot BLOB, owner TEXT DEFAULT 'somebody');
    CREATE TABLE versions (version_id STRING PRIMARY KEY, client_id STRING, parent_version_id STRING,
        history_segment BLOB);
    CREATE INDEX versions_by_parent ON versions (parent_version_id);";

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// A database of the original that tests write into.
struct Original {
    directory: tempfile::TempDir,
    connection: Connection,
}

impl Original {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let connection = Connection::open(directory.path().join(ORIGINAL_FILE)).unwrap();
        connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
        connection.execute_batch(TABLES).unwrap();
        Self { directory, connection }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join(ORIGINAL_FILE)
    }

    /// Runs a statement about the row of that id.
    fn alter(&self, sql: &str, number: u128) {
        self.connection.execute(sql, [id(number).to_string()]).unwrap();
    }

    fn client(&self, client: u128, latest: u128) {
        self.connection
            .execute(
                "INSERT INTO clients (client_id, latest_version_id) VALUES (?1, ?2)",
                params![id(client).to_string(), id(latest).to_string()],
            )
            .unwrap();
    }

    fn version(&self, client: u128, parent: u128, version: u128, bytes: &[u8]) {
        self.connection
            .execute(
                "INSERT INTO versions VALUES (?1, ?2, ?3, ?4)",
                params![id(version).to_string(), id(client).to_string(), id(parent).to_string(), bytes],
            )
            .unwrap();
    }

    fn snapshot(&self, client: u128, version: u128, since: i64, unix_s: i64, bytes: &[u8]) {
        self.connection
            .execute(
                "UPDATE clients SET snapshot_version_id = ?2, versions_since_snapshot = ?3,
                    snapshot_timestamp = ?4, snapshot = ?5 WHERE client_id = ?1",
                params![id(client).to_string(), id(version).to_string(), since, unix_s, bytes],
            )
            .unwrap();
    }

    /// A client with versions `first..first + length`, each of its own bytes, some of them large.
    fn chain(&self, client: u128, first: u128, length: u128) {
        self.client(client, if length == 0 { 0 } else { first + length - 1 });
        for version in first..first + length {
            let parent = if version == first { 0 } else { version - 1 };
            self.version(client, parent, version, &bytes_of(version));
        }
    }

    /// Sound data that broken data stands beside: two chains, an empty client, snapshots in a row and in chunks.
    fn sound() -> Self {
        let original = Self::new();
        original.chain(1, 100, 7);
        original.snapshot(1, 105, 1, 1_600_000_000, &vec![7; 30_000]);
        original.chain(2, 200, 3);
        original.snapshot(2, 202, 0, 1_650_000_000, b"small");
        original.chain(3, 300, 0);
        original
    }
}

fn bytes_of(version: u128) -> Vec<u8> {
    let length = if version.is_multiple_of(5) { 30_000 } else { 20 };
    vec![u8::try_from(version % 251).unwrap(); length]
}

fn import(world: &World, file: &Path) -> ImportReport {
    block_on(world.taskchampion.import_original(file, || START_S, |_| {})).unwrap()
}

/// What `Original::sound` holds is here, to the byte.
fn assert_imported(world: &World) {
    for (client, first, length) in [(1, 100, 7), (2, 200, 3)] {
        let mut parent = Uuid::nil();
        for version in first..first + length {
            assert_eq!(world.child(id(client), parent), Child::Found(id(version), bytes_of(version)));
            parent = id(version);
        }
        assert_eq!(world.child(id(client), parent), Child::UpToDate);
    }
    assert_eq!(world.child(id(3), Uuid::nil()), Child::UpToDate);
    assert_eq!(world.current_snapshot(id(1)), Current::Found(id(105), vec![7; 30_000]));
    assert_eq!(world.current_snapshot(id(2)), Current::Found(id(202), b"small".to_vec()));
    let client = block_on(world.taskchampion.client(id(1))).unwrap().unwrap();
    let snapshot = client.snapshot.unwrap();
    assert_eq!((snapshot.received_unix_s, snapshot.versions_since), (1_600_000_000, 1));
}

#[test]
fn everything_comes_as_it_is_and_a_second_time_nothing_changes() {
    for (kind, store, _directory) in stores() {
        let original = Original::sound();
        let world = World::new(store);
        let report = import(&world, &original.file());
        assert_eq!((report.refused, report.unchanged), (0, 0), "{kind}: {report:?}");
        assert_eq!(report.found, report.written);
        assert_eq!((report.written.clients, report.written.versions, report.written.snapshots), (3, 10, 2));
        assert_eq!(report.written.snapshot_bytes, 30_005);
        assert_imported(&world);
        assert_sound(&world.store);
        let changed = block_on(world.taskchampion.changed_since_import(&original.file())).unwrap();
        assert_eq!(changed, Vec::<String>::new());

        let before = rows(&world.store);
        let again = import(&world, &original.file());
        assert_eq!((again.unchanged, again.newer_here, again.refused), (3, 0, 0));
        assert_eq!((again.written, again.found), (Totals::default(), report.found));
        assert_eq!(rows(&world.store), before, "{kind}");
    }
}

#[test]
fn a_log_that_was_never_carried_over_is_read_and_the_files_stay_as_they_are() {
    let original = Original::sound();
    // As after a kill: the connection is open, so nobody carries the log over.
    let copy = tempfile::tempdir().unwrap();
    let files = [ORIGINAL_FILE.to_owned(), format!("{ORIGINAL_FILE}-wal")];
    for file in &files {
        fs::copy(original.directory.path().join(file), copy.path().join(file)).unwrap();
    }
    let hashes = || files.each_ref().map(|file| fs::read(copy.path().join(file)).unwrap());
    let before = hashes();
    assert!(before[1].len() > before[0].len(), "what there is, is in the log");
    let world = World::new(Store::memory());
    let report = import(&world, &copy.path().join(ORIGINAL_FILE));
    assert_eq!((report.written.versions, report.refused), (10, 0));
    assert_imported(&world);
    assert!(hashes() == before, "the original was changed");
}

#[test]
fn where_nothing_can_be_made_beside_it_it_is_read_all_the_same() {
    let original = Original::sound();
    original.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let copy = tempfile::tempdir().unwrap();
    let beside = |end: &str| copy.path().join(format!("a 100% odd?name#{end}"));
    let file = beside("");
    fs::copy(original.file(), &file).unwrap();
    // As in a directory mounted read-only: SQLite cannot have the files it wants beside a database in WAL mode.
    for end in ["-wal", "-shm"] {
        std::os::unix::fs::symlink("/nowhere/at/all", beside(end)).unwrap();
    }
    let world = World::new(Store::memory());
    assert_eq!(import(&world, &file).refused, 0);
    assert_imported(&world);
    // With a log that cannot be read it would be an old state of it.
    original.chain(4, 400, 1);
    fs::remove_file(beside("-wal")).unwrap();
    fs::copy(original.directory.path().join(format!("{ORIGINAL_FILE}-wal")), beside("-wal")).unwrap();
    let error = block_on(world.taskchampion.import_original(&file, || START_S, |_| {})).unwrap_err();
    assert!(error.to_string().contains("with its -wal"), "{error}");
}

/// Killed in the middle of a transaction that SQLite had begun to write into the file: what is in it was never committed.
#[test]
fn a_transaction_that_did_not_end_is_not_read() {
    let original = Original::sound();
    let directory = original.directory.path();
    original.connection.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(())).unwrap();
    original.connection.execute_batch("PRAGMA cache_size=1; BEGIN").unwrap();
    for number in 0..2_000_u128 {
        original.version(9, 9_000 + number, 9_001 + number, &[b'x'; 500]);
    }
    let copy = tempfile::tempdir().unwrap();
    let beside = |end: &str| copy.path().join(format!("{ORIGINAL_FILE}{end}"));
    for end in ["", "-journal"] {
        fs::copy(directory.join(format!("{ORIGINAL_FILE}{end}")), beside(end)).unwrap();
    }
    assert!(fs::metadata(beside("-journal")).unwrap().len() > 512, "there is something to undo");
    let files = || ["", "-journal"].map(|end| fs::read(beside(end)).unwrap());
    let before = files();
    let world = World::new(Store::memory());
    let error = block_on(world.taskchampion.import_original(&beside(""), || START_S, |_| {})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("in the middle of a transaction"), "{error}");
    assert!(files() == before && block_on(world.taskchampion.clients()).unwrap().is_empty());
    // Undone by SQLite, as the sentence says, it is read.
    let copied = Connection::open(beside("")).unwrap();
    copied.query_row("SELECT count(*) FROM versions", [], |_| Ok(())).unwrap();
    copied.close().unwrap();
    assert_eq!(import(&world, &beside("")).written.versions, 10);
    assert_imported(&world);
}

/// A directory that is read-only here need not be so for the original.
#[test]
fn a_file_that_is_changed_while_nothing_guards_its_view_is_refused() {
    let original = Original::sound();
    original.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let copy = tempfile::tempdir().unwrap();
    let beside = |end: &str| copy.path().join(format!("original{end}"));
    let file = beside("");
    fs::copy(original.file(), &file).unwrap();
    for end in ["-wal", "-shm"] {
        std::os::unix::fs::symlink("/nowhere/at/all", beside(end)).unwrap();
    }
    let bytes = fs::read(&file).unwrap();
    let changes: [&dyn Fn(); 4] = [
        // The same bytes again, at another time; more of them; a journal; a log.
        &|| fs::write(&file, &bytes).unwrap(),
        &|| fs::write(&file, [bytes.as_slice(), &[0; 4_096]].concat()).unwrap(),
        &|| fs::write(beside("-journal"), b"a journal").unwrap(),
        &|| {
            fs::remove_file(beside("-wal")).unwrap();
            fs::write(beside("-wal"), b"a log").unwrap();
        },
    ];
    for (number, change) in changes.iter().enumerate() {
        let world = World::new(Store::memory());
        let mut change = Some(change);
        let imported = world.taskchampion.import_original(
            &file,
            || START_S,
            |_| {
                change.take().into_iter().for_each(|change| change());
            },
        );
        let error = block_on(imported).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{number}");
        assert!(error.to_string().contains("was changed while it was read"), "{number}: {error}");
        assert_sound(&world.store);
        // Who was being read then is not here at all.
        assert_eq!(block_on(world.taskchampion.clients()).unwrap(), [], "{number}");
        let _ = fs::remove_file(beside("-journal"));
    }
}

/// How a client `BROKEN` is broken, and what is said of it.
type Break = (&'static str, fn(&Original), &'static [&'static str]);

/// The client that is broken; the ids of its versions begin at 900.
const BROKEN: u128 = 9;

const BROKEN_CHAINS: &[Break] = &[
    (
        "latest missing",
        |o| {
            o.client(BROKEN, 950);
            o.version(BROKEN, 0, 900, b"x");
        },
        &["{9}", "{950}", "is missing"],
    ),
    (
        "parent missing",
        |o| {
            o.chain(BROKEN, 900, 4);
            o.alter("DELETE FROM versions WHERE version_id = ?1", 901);
        },
        &["{902}", "{901}", "missing", "{900}"],
    ),
    (
        "fork",
        |o| {
            o.chain(BROKEN, 900, 3);
            o.version(BROKEN, 900, 950, b"other");
        },
        &["forks", "{901}", "{950}", "{900}"],
    ),
    (
        "version behind the latest",
        |o| {
            o.chain(BROKEN, 900, 1);
            o.version(BROKEN, 900, 950, b"other");
        },
        &["{950}", "follows the latest"],
    ),
    (NO_ROW, |o| o.version(BROKEN, 0, 900, b"x"), &["{9}", "{900}", "no such client"]),
    (
        "loop",
        |o| {
            o.client(BROKEN, 901);
            o.version(BROKEN, 901, 900, b"x");
            o.version(BROKEN, 900, 901, b"x");
        },
        &["comes back"],
    ),
];

const BROKEN_IDS: &[Break] = &[
    (
        "client id",
        |o| o.alter("INSERT INTO clients (client_id, owner) VALUES ('alice', ?1)", 1),
        &["alice", "no UUID"],
    ),
    (
        "client id in capitals",
        |o| o.alter("INSERT INTO clients (client_id) VALUES (replace(?1, 'abcdef', 'ABCDEF'))", 0x00AB_CDEF),
        &["{11259375}", "only find"],
    ),
    (
        "client id as bytes",
        |o| o.alter("INSERT INTO clients (client_id, owner) VALUES (x'0102', ?1)", 1),
        &["0102", "no UUID"],
    ),
    (
        "version id",
        |o| {
            o.chain(BROKEN, 900, 1);
            o.alter("INSERT INTO versions SELECT 'seven', client_id, version_id, x'01' FROM versions WHERE version_id = ?1", 900);
        },
        &["{9}", "seven", "no UUID"],
    ),
    (
        "latest id",
        |o| {
            o.client(BROKEN, 0);
            o.alter("UPDATE clients SET latest_version_id = 7 WHERE client_id = ?1", BROKEN);
        },
        &["'7'", "no UUID"],
    ),
];

const BROKEN_VALUES: &[Break] = &[
    (
        "version without bytes",
        |o| {
            o.chain(BROKEN, 900, 1);
            o.alter("UPDATE versions SET history_segment = NULL WHERE client_id = ?1", BROKEN);
        },
        &["{900}", "no bytes"],
    ),
    (
        "snapshot elsewhere",
        |o| {
            o.chain(BROKEN, 900, 2);
            o.snapshot(BROKEN, 100, 0, 1, b"x");
        },
        &["{100}", "not in its chain"],
    ),
    (
        "snapshot count",
        |o| {
            o.chain(BROKEN, 900, 2);
            o.snapshot(BROKEN, 900, 3, 1, b"x");
        },
        &["counts 3"],
    ),
    (
        "snapshot time",
        |o| {
            o.chain(BROKEN, 900, 2);
            o.snapshot(BROKEN, 900, 0, -1, b"x");
        },
        &["a time"],
    ),
    (
        "snapshot without bytes",
        |o| {
            o.chain(BROKEN, 900, 2);
            o.snapshot(BROKEN, 900, 0, 1, b"x");
            o.alter("UPDATE clients SET snapshot = NULL WHERE client_id = ?1", BROKEN);
        },
        &["{900}", "no bytes"],
    ),
];

const NO_ROW: &str = "no client row";

#[test]
fn a_broken_client_is_refused_whole_and_the_others_come() {
    for (name, damage, expected) in [BROKEN_CHAINS, BROKEN_IDS, BROKEN_VALUES].concat() {
        let original = Original::sound();
        damage(&original);
        let world = World::new(Store::memory());
        let report = import(&world, &original.file());
        let written = (report.written.clients, report.written.versions);
        assert_eq!((report.refused, written), (1, (3, 10)), "{name}: {report:?}");
        let refused = &report.refusals[0];
        let said = format!("{}: {}", refused.client, refused.why);
        for part in expected {
            let number = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
            let part = number.map_or((*part).to_owned(), |number| id(number.parse().unwrap()).to_string());
            assert!(said.to_lowercase().contains(&part.to_lowercase()), "{name}: {said}");
        }
        assert_imported(&world);
        assert_sound(&world.store);
        // Nothing of it is here, and it is remembered as not imported.
        let of_it = |key: &[u8]| key.starts_with(id(BROKEN).as_bytes());
        assert!(!rows(&world.store).keys().any(|(_, key)| of_it(key)), "{name}");
        let changed = block_on(world.taskchampion.changed_since_import(&original.file())).unwrap();
        assert_eq!(changed.len(), usize::from(name != NO_ROW), "{name}");
    }
}

/// The original lets a client begin anywhere; what it is to go on from is then all there is.
#[test]
fn a_client_that_is_to_go_on_from_elsewhere_does() {
    let original = Original::new();
    original.client(1, 77);
    original.client(2, 77);
    let world = World::new(Store::memory());
    // The second is here already, and has gone on from somewhere else.
    world.pushed(id(2), id(78), b"mine");
    let report = import(&world, &original.file());
    assert_eq!((report.written.clients, report.refused), (1, 1), "{report:?}");
    assert!(report.refusals[0].why.contains(&format!("version {} is not here", id(77))), "{report:?}");
    assert_eq!(world.child(id(1), id(77)), Child::UpToDate);
    assert_eq!(world.child(id(1), Uuid::nil()), Child::Gone);
    assert_eq!(import(&world, &original.file()).unchanged, 1);
    // It went on there, and then here.
    original.version(1, 77, 80, b"there");
    original.alter(
        "UPDATE clients SET latest_version_id = '00000000-0000-0000-0000-000000000050' WHERE client_id = ?1",
        1,
    );
    assert_eq!(import(&world, &original.file()).written.versions, 1);
    assert_eq!(world.child(id(1), id(77)), Child::Found(id(80), b"there".to_vec()));
    world.pushed(id(1), id(80), b"here");
    assert_eq!(import(&world, &original.file()).newer_here, 1);
    assert_sound(&world.store);
    // A client that was empty there when it was imported.
    let original = Original::new();
    original.client(3, 0);
    import(&world, &original.file());
    original.alter(
        "UPDATE clients SET latest_version_id = '00000000-0000-0000-0000-00000000004d' WHERE client_id = ?1",
        3,
    );
    assert_eq!(import(&world, &original.file()).written.clients, 1);
    assert_eq!(world.child(id(3), id(77)), Child::UpToDate);
    assert_eq!(block_on(world.taskchampion.changed_since_import(&original.file())).unwrap().len(), 0);
}

/// A version under the id of another client: that one is refused, and the one that lost it reads as a chain that began elsewhere.
#[test]
fn a_foreign_version_is_found_where_it_lies() {
    let original = Original::sound();
    original.chain(BROKEN, 900, 2);
    original.alter(
        "UPDATE versions SET client_id = '00000000-0000-0000-0000-000000000003' WHERE version_id = ?1",
        900,
    );
    let world = World::new(Store::memory());
    let report = import(&world, &original.file());
    assert_eq!((report.refused, report.written.clients), (1, 3), "{report:?}");
    assert_eq!(report.refusals[0].client, id(3).to_string());
    let why = &report.refusals[0].why;
    assert!(why.contains("no latest version") && why.contains(&id(900).to_string()), "{why}");
    assert_sound(&world.store);
}

#[test]
fn what_is_no_database_of_the_original_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(Store::memory());
    let before = rows(&world.store);
    let refuses = |name: &str, part: &str| {
        let file = directory.path().join(name);
        let error = block_on(world.taskchampion.import_original(&file, || START_S, |_| {})).unwrap_err();
        let said = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(said.contains(part) && said.contains(name), "{said}");
    };
    fs::write(directory.path().join("text"), "not a database, and longer than a header is: ".repeat(40))
        .unwrap();
    refuses("text", "no SQLite database");
    Connection::open(directory.path().join("empty")).unwrap().execute_batch("CREATE TABLE a (b)").unwrap();
    refuses("empty", "no such table: clients");
    let other = Connection::open(directory.path().join("other")).unwrap();
    other.execute_batch("CREATE TABLE clients (client_id); CREATE TABLE versions (version_id)").unwrap();
    refuses("other", "no such column");
    refuses("missing", "cannot read");
    assert_eq!(rows(&world.store), before);

    // A page of nonsense in the middle: told as damage, and no client is there in part.
    let original = Original::sound();
    original.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let mut bytes = fs::read(original.file()).unwrap();
    let pages = bytes.len() / 4096;
    for page in 1..pages {
        bytes[page * 4096..page * 4096 + 100].fill(0xA5);
    }
    fs::write(directory.path().join("damaged"), bytes).unwrap();
    refuses("damaged", "is damaged");
    assert_sound(&world.store);
}

#[test]
fn what_the_original_has_beyond_is_added_and_what_is_newer_here_stays() {
    let original = Original::sound();
    let world = World::new(Store::memory());
    import(&world, &original.file());

    // The original went on: more versions, a later snapshot, and a client of which nothing was here.
    original.version(1, 106, 107, b"more");
    original.version(1, 107, 110, &bytes_of(110));
    original
        .connection
        .execute(
            "UPDATE clients SET latest_version_id = ?2 WHERE client_id = ?1",
            params![id(1).to_string(), id(110).to_string()],
        )
        .unwrap();
    original.snapshot(1, 110, 0, 1_700_000_123, b"later");
    original.chain(4, 400, 300);
    let changed = block_on(world.taskchampion.changed_since_import(&original.file())).unwrap();
    assert_eq!(changed, [id(1).to_string(), id(4).to_string()]);
    // And so did this store, for another client.
    let newer = world.pushed(id(2), id(202), b"newer here");

    let report = import(&world, &original.file());
    assert_eq!((report.refused, report.unchanged, report.newer_here), (0, 2, 1), "{report:?}");
    assert_eq!((report.written.clients, report.written.versions, report.written.snapshots), (2, 302, 1));
    assert_eq!(world.child(id(1), id(107)), Child::Found(id(110), bytes_of(110)));
    assert_eq!(world.current_snapshot(id(1)), Current::Found(id(110), b"later".to_vec()));
    assert_eq!(world.child(id(2), id(202)), Child::Found(newer, b"newer here".to_vec()));
    assert_eq!(world.child(id(4), id(698)), Child::Found(id(699), bytes_of(699)));
    assert_sound(&world.store);
    assert_eq!(
        block_on(world.taskchampion.changed_since_import(&original.file())).unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(import(&world, &original.file()).written.clients, 0);
}

#[test]
fn what_was_dropped_here_does_not_come_back() {
    let original = Original::sound();
    let world = World::new(Store::memory());
    import(&world, &original.file());
    let prune = || block_on(world.taskchampion.prune(None, u64::MAX, u64::MAX)).unwrap().versions;
    // A part of what was imported, then all of it.
    assert_eq!(prune(), 5 + 2);
    let report = import(&world, &original.file());
    assert_eq!((report.unchanged, report.refused, report.written.versions), (3, 0, 0), "{report:?}");
    let mut latest = id(106);
    for _ in 0..3 {
        latest = world.pushed(id(1), latest, b"newer here");
    }
    assert_eq!(world.snapshot(id(1), latest, b"snapshot"), AddSnapshot::Kept);
    assert_eq!(prune(), 2 + 2);
    let report = import(&world, &original.file());
    assert_eq!((report.unchanged, report.newer_here, report.refused), (3, 1, 0), "{report:?}");
    assert_sound(&world.store);
    assert_eq!(world.child(id(1), Uuid::nil()), Child::Gone);

    // A chain without its beginning moves as well.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(ORIGINAL_FILE);
    assert_eq!(block_on(world.taskchampion.export_original(&file, |_| {})).unwrap().written.versions, 1 + 1);
    let again = World::new(Store::memory());
    assert_eq!(import(&again, &file).refused, 0);
    assert_eq!(again.child(id(1), Uuid::nil()), Child::Gone);
    assert_eq!(again.current_snapshot(id(1)), Current::Found(latest, b"snapshot".to_vec()));
    assert_sound(&again.store);
}

#[test]
fn another_history_here_is_refused_and_kept() {
    let original = Original::sound();
    let world = World::new(Store::memory());
    // Another first version; another version in the middle; other bytes of the same version.
    let mine = world.pushed(id(1), Uuid::nil(), b"mine");
    let report = import(&world, &original.file());
    assert_eq!((report.refused, report.written.clients), (1, 2));
    assert!(report.refusals[0].why.contains("another history here"), "{report:?}");
    assert_eq!(world.child(id(1), Uuid::nil()), Child::Found(mine, b"mine".to_vec()));

    original
        .connection
        .execute("UPDATE versions SET history_segment = x'00' WHERE version_id = ?1", [id(201).to_string()])
        .unwrap();
    let report = import(&world, &original.file());
    assert_eq!((report.refused, report.unchanged), (2, 1));
    assert!(report.refusals[1].why.contains(&format!("{} has other bytes", id(201))), "{report:?}");

    // Deleted here on purpose, it comes.
    assert!(block_on(world.taskchampion.delete_client(id(1))).unwrap());
    let report = import(&world, &original.file());
    assert_eq!((report.refused, report.written.clients), (1, 1));
    assert_sound(&world.store);
}

#[test]
fn an_import_that_was_dropped_anywhere_is_completed_by_the_next() {
    let original = Original::sound();
    original.chain(4, 400, 600);
    let expected = {
        let world = World::new(Store::memory());
        import(&world, &original.file());
        block_on(world.taskchampion.clients()).unwrap()
    };
    for polls in (0..4_000).step_by(97) {
        let (store, oddities) = Odd::store();
        let world = World::new(store.clone());
        oddities.lock().unwrap().pends = true;
        let done =
            poll_times(world.taskchampion.import_original(&original.file(), || START_S, |_| {}), polls);
        oddities.lock().unwrap().pends = false;
        // What is there is whole.
        for client in block_on(world.taskchampion.clients()).unwrap() {
            assert!(expected.contains(&client), "after {polls} polls: {client:?}");
        }
        assert_sound(&store);
        let world = World::new(store.clone());
        assert_sound(&store);
        import(&world, &original.file());
        assert_imported(&world);
        assert_sound(&store);
        assert_eq!(block_on(world.taskchampion.clients()).unwrap(), expected);
        if done.is_some() {
            return;
        }
    }
    panic!("an import takes fewer polls");
}

/// What is added to a client that is here is seen step by step: whatever is there is a beginning of it, and the next import goes on.
#[test]
fn a_second_import_that_was_dropped_anywhere_leaves_a_beginning() {
    let original = Original::new();
    original.chain(1, 1_000, 10);
    let extended = Original::new();
    extended.chain(1, 1_000, 700);
    extended.snapshot(1, 1_699, 0, 1_650_000_000, b"newer");
    let mut partly = 0;
    // Closely where it writes, and then where it compares.
    for polls in (0..700).step_by(67).chain((700..20_000).step_by(701)) {
        let (store, oddities) = Odd::store();
        let world = World::new(store.clone());
        import(&world, &original.file());
        oddities.lock().unwrap().pends = true;
        let done =
            poll_times(world.taskchampion.import_original(&extended.file(), || START_S, |_| {}), polls);
        oddities.lock().unwrap().pends = false;
        assert_sound(&store);
        let world = World::new(store.clone());
        let versions = block_on(world.taskchampion.versions(id(1))).unwrap();
        let ids: Vec<_> = versions.iter().map(|version| version.version.as_u128()).collect();
        assert!(ids.len() >= 10 && ids.iter().copied().eq(1_000..1_000 + ids.len() as u128), "{ids:?}");
        partly += u32::from(ids.len() > 10 && ids.len() < 700);
        assert_eq!(import(&world, &extended.file()).refused, 0);
        assert_eq!(block_on(world.taskchampion.versions(id(1))).unwrap().len(), 700);
        assert_eq!(world.current_snapshot(id(1)), Current::Found(id(1_699), b"newer".to_vec()));
        assert_sound(&store);
        if done.is_some() {
            assert!(partly > 0, "none was cut off between two steps");
            return;
        }
    }
    panic!("an import takes fewer polls");
}

#[test]
fn another_snapshot_of_the_same_version_is_refused_and_kept() {
    let original = Original::sound();
    let world = World::new(Store::memory());
    import(&world, &original.file());
    // Of the same length, in chunks; of another one, in a row.
    original.snapshot(1, 105, 1, 1_600_000_000, &vec![8; 30_000]);
    original.snapshot(2, 202, 0, 1_650_000_000, b"another");
    world.pushed(id(2), id(202), b"newer here");
    let report = import(&world, &original.file());
    assert_eq!((report.refused, report.unchanged, report.written.clients), (2, 1, 0), "{report:?}");
    for (refused, version) in report.refusals.iter().zip([105, 202]) {
        let expected = format!("its snapshot of version {} has other bytes", id(version));
        assert!(refused.why.contains(&expected), "{refused:?}");
    }
    assert_eq!(world.current_snapshot(id(1)), Current::Found(id(105), vec![7; 30_000]));
    assert_eq!(world.current_snapshot(id(2)), Current::Found(id(202), b"small".to_vec()));
    // One that is damaged here stops nobody else's import.
    let tenant = world.store.tenant("taskchampion-00").unwrap();
    for (category, key) in rows(&world.store).into_keys() {
        if category == "taskchampion.chunk" {
            tenant.delete(category, key).wait().unwrap();
        }
    }
    let why = &import(&world, &original.file()).refusals[0].why;
    assert!(why.contains("cannot be read here") || why.contains("other bytes"), "{why}");
}

#[test]
fn an_export_reads_back_and_overwrites_nothing() {
    for (kind, store, _directory) in stores() {
        let original = Original::sound();
        let world = World::new(store);
        import(&world, &original.file());
        world.pushed(id(3), id(77), b"a first version that follows another server's");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("exported");
        let report = block_on(world.taskchampion.export_original(&file, |_| {})).unwrap();
        assert_eq!((report.written.clients, report.written.versions, report.written.snapshots), (3, 11, 2));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "{kind}: nothing is left beside it");

        let again = World::new(Store::memory());
        let imported = import(&again, &file);
        assert_eq!((imported.written, imported.refused), (report.written, 0));
        assert_imported_but_for_three(&again);
        // Both ways once more: nothing is new to whom it came from.
        assert_eq!(import(&world, &file).unchanged, 3);

        let before = fs::read(&file).unwrap();
        let error = block_on(world.taskchampion.export_original(&file, |_| {})).unwrap_err();
        assert!(error.to_string().contains("not overwritten"), "{error}");
        assert!(fs::read(&file).unwrap() == before);
        // What an old database of that name has left would be carried over the new one.
        for end in ["-wal", "-shm", "-journal"] {
            let file = directory.path().join("another");
            let beside = directory.path().join(format!("another{end}"));
            fs::write(&beside, b"an old log").unwrap();
            let error = block_on(world.taskchampion.export_original(&file, |_| {})).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(&format!("another{end} is there")), "{error}");
            assert!(!file.exists() && fs::read(&beside).unwrap() == b"an old log");
            fs::remove_file(beside).unwrap();
        }
        let nowhere = directory.path().join("no/such/place");
        assert!(block_on(world.taskchampion.export_original(&nowhere, |_| {})).is_err());
    }
}

fn assert_imported_but_for_three(world: &World) {
    assert_eq!(world.child(id(1), id(105)), Child::Found(id(106), bytes_of(106)));
    assert_eq!(world.current_snapshot(id(1)), Current::Found(id(105), vec![7; 30_000]));
    assert!(matches!(world.child(id(3), id(77)), Child::Found(..)));
}

#[test]
fn an_export_of_a_chain_with_a_gap_or_of_a_version_of_two_clients_makes_no_file() {
    let original = Original::sound();
    let world = World::new(Store::memory());
    import(&world, &original.file());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("exported");
    // The same history under another id: the original keeps version ids of all clients in one list.
    let upload = world.upload(id(5), b"x");
    let _ = block_on(world.taskchampion.add_version(upload, Uuid::nil(), id(202), START_S)).unwrap();
    let error = block_on(world.taskchampion.export_original(&file, |_| {})).unwrap_err();
    assert!(error.to_string().contains(&id(202).to_string()), "{error}");
    assert!(block_on(world.taskchampion.delete_client(id(5))).unwrap());

    let tenant = world.store.tenant("taskchampion-00").unwrap();
    let key = [id(1).into_bytes(), id(103).into_bytes()].concat();
    assert!(tenant.delete("taskchampion.parent", &key).wait().unwrap());
    assert!(
        tenant
            .delete("taskchampion.version", [id(1).into_bytes(), id(102).into_bytes()].concat())
            .wait()
            .unwrap()
    );
    let error = block_on(world.taskchampion.export_original(&file, |_| {})).unwrap_err();
    assert!(error.to_string().contains("seabed verify"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
