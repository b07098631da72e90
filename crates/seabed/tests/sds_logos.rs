//! `seabed sds migrate` and `sds export`: logos-delivery's database becomes ours on request alone, and goes back.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::{seabed, stderr, stdout};
use rusqlite::Connection;
use serde_json::Value;

/// The participant of the recorded database.
const PARTICIPANT: &str = "alice";

/// A data directory with the database of the real stack, as its close left it.
fn delivery() -> tempfile::TempDir {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/persistency");
    let dir = tempfile::tempdir().unwrap();
    fs::copy(vectors.join("upstream.db"), dir.path().join("sds.db")).unwrap();
    fs::copy(vectors.join("upstream.db-wal"), dir.path().join("sds.db-wal")).unwrap();
    dir
}

fn sds(dir: &Path, args: &[&str]) -> Output {
    seabed().arg("sds").args(args).arg("--data-dir").arg(dir).output().unwrap()
}

fn told(output: &Output) -> Value {
    assert!(output.stderr.is_empty(), "{}", stderr(output));
    serde_json::from_str(&stdout(output)).unwrap()
}

/// The channels as `sds channels` tells them, without what their rows take.
fn channels(dir: &Path) -> Vec<Value> {
    let mut answer = told(&sds(dir, &["channels", "--json"]));
    let channels = answer["channels"].as_array_mut().unwrap();
    for channel in channels.iter_mut() {
        channel.as_object_mut().unwrap().remove("bytes");
    }
    std::mem::take(channels)
}

/// The keys of a category, read as any other program would.
fn keys(dir: &Path, category: &str) -> Vec<Vec<u8>> {
    let database = Connection::open(dir.join("sds.db")).unwrap();
    let mut rows = database.prepare("SELECT key FROM kv WHERE category = ? ORDER BY key").unwrap();
    let keys = rows.query_map([category.as_bytes()], |row| row.get(0)).unwrap();
    keys.map(Result::unwrap).collect()
}

#[test]
fn channels_become_ours_and_go_back() {
    let delivery = delivery();
    let dir = delivery.path();
    let theirs = channels(dir);
    let rows = || (keys(dir, "sds.meta"), keys(dir, "sds.log"), keys(dir, "sds.channel"));
    let before = rows();
    assert_eq!((before.0.len(), before.2.len()), (2, 0));

    // A dry run says what is there, and leaves it.
    let dry = told(&sds(dir, &["migrate", "--participant", PARTICIPANT, "--dry-run", "--json"]));
    assert_eq!((dry["dry_run"].as_bool(), dry["channels"].as_array().unwrap().len()), (Some(true), 2));
    assert_eq!(dry["channels"][0]["log"], theirs[0]["log"]);
    assert_eq!(rows(), before);

    let output = sds(dir, &["migrate", "--participant", PARTICIPANT]);
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("2 channels are ours now, 0 refused"), "{}", stdout(&output));
    let ours = channels(dir);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!((&ours["logos"], &theirs["logos"]), (&false.into(), &true.into()));
        for what in ["channel", "lamport", "log", "unacknowledged", "waiting", "repairs_in"] {
            assert_eq!(ours[what], theirs[what], "{what}");
        }
    }
    assert_eq!((keys(dir, "sds.meta"), keys(dir, "sds.log")), (vec![], vec![]), "the old rows are gone");
    let verified = seabed().arg("verify").arg("--data-dir").arg(dir).output().unwrap();
    assert!(verified.status.success(), "{}", stdout(&verified));
    let again = sds(dir, &["migrate", "--participant", PARTICIPANT]);
    assert_eq!((again.status.code(), stdout(&again).as_str()), (Some(0), "no channels of that form\n"));

    // One channel back, and then the other.
    assert_eq!(told(&sds(dir, &["export", "--dry-run", "--json"]))["channels"].as_array().unwrap().len(), 2);
    assert_eq!(channels(dir), ours);
    let name = ours[0]["channel"].as_str().unwrap();
    let one = told(&sds(dir, &["export", name, "--json"]));
    assert_eq!(
        (&one["channels"][0]["channel"], &one["channels"][0]["refused"]),
        (&ours[0]["channel"], &Value::Null)
    );
    assert_eq!(keys(dir, "sds.meta").len(), 1);
    assert!(sds(dir, &["export"]).status.success());
    // Upstream finds each of its rows, and none of ours. Its state asked also for what is here and waits itself; ours does not.
    assert_eq!(rows(), before);
    for ((back, ours), theirs) in channels(dir).iter().zip(&ours).zip(&theirs) {
        assert!(ours["missing"].as_u64() <= theirs["missing"].as_u64());
        let mut expected = theirs.clone();
        expected["missing"] = ours["missing"].clone();
        assert_eq!(back, &expected);
    }
}

/// A channel in the rows of an earlier version is rewritten when it is used, and not when somebody looks.
#[test]
fn a_dry_run_leaves_old_rows_as_they_are() {
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/seabed-files/0.1/sds-rows-1");
    let dir = tempfile::tempdir().unwrap();
    fs::copy(old.join("sds.db"), dir.path().join("sds.db")).unwrap();
    let before = keys(dir.path(), "sds.channel");
    let dry = told(&sds(dir.path(), &["export", "--dry-run", "--json"]));
    assert_eq!(
        (&dry["channels"][0]["channel"], &dry["channels"][0]["refused"]),
        (&"room".into(), &Value::Null)
    );
    assert_eq!(keys(dir.path(), "sds.channel"), before);
    let output = sds(dir.path(), &["export"]);
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    assert_eq!((keys(dir.path(), "sds.channel").len(), keys(dir.path(), "sds.meta").len()), (0, 1));
}

#[test]
fn another_participant_is_refused() {
    let delivery = delivery();
    let before = channels(delivery.path());
    for args in
        [&["migrate", "--participant", "mallory", "--dry-run"][..], &["migrate", "--participant", "mallory"]]
    {
        let output = sds(delivery.path(), args);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        assert!(stdout(&output).contains("refused: its own messages are of"), "{}", stdout(&output));
    }
    assert_eq!(
        channels(delivery.path()).iter().filter(|channel| channel["logos"] == true).count(),
        before.len()
    );
}

#[test]
fn what_is_not_there_is_wrong_usage() {
    let empty = tempfile::tempdir().unwrap();
    let delivery = delivery();
    for (dir, args, reason) in [
        (empty.path(), &["migrate", "--participant", "a"][..], "there is no store"),
        (delivery.path(), &["migrate", "nowhere", "--participant", "a"], "no channel 'nowhere'"),
        (delivery.path(), &["export", "chan-a"], "no channel 'chan-a' in the form that is ours"),
        (delivery.path(), &["migrate", "--participant", ""], "--participant is empty"),
        (delivery.path(), &["migrate"], "--participant"),
        (delivery.path(), &["export", "0xzz"], "not hexadecimal"),
    ] {
        let output = sds(dir, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(reason), "{args:?}: {}", stderr(&output));
    }
    assert!(empty.path().read_dir().unwrap().next().is_none(), "looking makes nothing");
}
