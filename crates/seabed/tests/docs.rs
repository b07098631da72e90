//! `seabed docs`: documents come in, are looked at, compacted, written out and deleted, with a server and without, on files and on PostgreSQL.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use automerge::transaction::Transactable as _;
use automerge::{Automerge, AutomergeError, ObjType, ROOT};
use common::{Server, json, run, seabed, stderr, stdout};
use seabed_testkit::postgres::Cluster;

const ID: &str = "4NMNnkMhL8jXrdJ9jamS58PAVdXu";

/// A shopping list of so many changes.
fn document(changes: u64) -> Automerge {
    let mut document = Automerge::new();
    for number in 0..changes {
        document
            .transact::<_, _, AutomergeError>(|tx| {
                tx.put(ROOT, "title", "Shopping")?;
                let item = tx.put_object(ROOT, format!("item {number}"), ObjType::Map)?;
                tx.put(&item, "pieces", number)
            })
            .unwrap();
    }
    document
}

/// A file that automerge saved.
fn file(directory: &Path, document: &Automerge) -> String {
    let path = directory.join("shopping.automerge");
    fs::write(&path, document.save()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn heads(document: &Automerge) -> Vec<String> {
    document.get_heads().iter().map(ToString::to_string).collect()
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    stdout(output)
}

/// Everything that the commands can do, on one store, asked by `ask`; it has no documents before and none after.
fn tour(place: &Path, ask: &dyn Fn(&[&str]) -> Output) {
    let answer = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&succeeds(&ask(&[args, &["--json"]].concat()))).unwrap()
    };
    let document = document(40);
    let file = file(place, &document);
    let merged = answer(&["docs", "import", &file, "--document", ID]);
    assert_eq!((merged["document"].as_str(), merged["changes"].as_u64()), (Some(ID), Some(40)));
    // Again, and by its URL.
    let url = format!("automerge:{ID}");
    assert_eq!(answer(&["docs", "import", &file, "--document", &url])["changes"], 0);

    let listed = answer(&["docs", "list"]);
    assert_eq!(listed["documents"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&listed["documents"][0]["document"], &listed["documents"][0]["changes"]),
        (&ID.into(), &40.into())
    );
    let shown = answer(&["docs", "show", &url]);
    assert_eq!(shown["heads"], serde_json::json!(heads(&document)));
    assert_eq!(
        (&shown["history_changes"], &shown["operations"]),
        (&40.into(), &81.into()),
        "the title is put once"
    );
    assert_eq!(shown["actors"][0]["changes"], 40);
    let for_people = succeeds(&ask(&["docs", "show", ID]));
    assert!(for_people.contains(&heads(&document)[0]) && for_people.contains("ACTOR"), "{for_people}");

    let saved = ask(&["docs", "export", ID]);
    assert!(saved.status.success());
    assert_eq!(heads(&Automerge::load(&saved.stdout).unwrap()), heads(&document));
    let said: serde_json::Value =
        serde_json::from_str(&succeeds(&ask(&["docs", "export", ID, "--as", "json"]))).unwrap();
    assert_eq!((&said["title"], &said["item 7"]["pieces"]), (&"Shopping".into(), &7.into()));
    let out = place.join("out.automerge");
    let out_name = out.to_str().unwrap();
    succeeds(&ask(&["docs", "export", ID, out_name]));
    assert_eq!(fs::read(&out).unwrap(), saved.stdout);
    let again = ask(&["docs", "export", ID, out_name]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("is there already"), "{}", stderr(&again));
    fs::remove_file(&out).unwrap();

    let dry = answer(&["docs", "compact", "--force", "--dry-run"]);
    assert_eq!((&dry["documents"][0]["compacted"], &dry["skipped"]), (&false.into(), &0.into()));
    assert_eq!(answer(&["docs", "list"]), listed, "only told");
    assert_eq!(answer(&["docs", "compact"])["skipped"], 1, "not worth it");
    let compacted = answer(&["docs", "compact", ID, "--force"]);
    assert_eq!(compacted["documents"][0]["compacted"], true);
    let shown = answer(&["docs", "show", ID]);
    assert_eq!((&shown["changes"], &shown["snapshots"]), (&0.into(), &1.into()));
    assert_eq!(shown["heads"], serde_json::json!(heads(&document)));

    // Out into a directory, away, and back in from there.
    let directory = place.join("repo");
    let name = directory.to_str().unwrap();
    assert_eq!(answer(&["docs", "export", "--all", name])["written"], 1);
    assert_eq!(answer(&["docs", "export", "--all", name, ID])["written"], 0);
    let unasked = ask(&["docs", "delete", ID]);
    assert_eq!(unasked.status.code(), Some(2), "there is nobody to ask");
    assert_eq!(answer(&["docs", "delete", ID, "--yes"])["deleted"], ID);
    for gone in [vec!["docs", "show", ID], vec!["docs", "delete", ID, "--yes"], vec!["docs", "export", ID]] {
        let gone = ask(&gone);
        assert_eq!(gone.status.code(), Some(2));
        assert!(stderr(&gone).contains("no document"), "{}", stderr(&gone));
    }
    let back = ask(&["docs", "import", name]);
    assert_eq!(back.status.code(), Some(1));
    assert!(stderr(&back).contains("deleted"), "{}", stderr(&back));
    fs::remove_dir_all(&directory).unwrap();
    assert!(succeeds(&ask(&["docs", "list"])).contains("no documents"));
    succeeds(&ask(&["verify"]));
}

#[test]
fn the_same_on_files_and_through_a_server() {
    for served in [false, true] {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("data");
        fs::create_dir(&root).unwrap();
        let server = served.then(|| Server::start(&root));
        tour(place.path(), &|args| run(&root, args));
        if let Some(server) = server {
            assert!(server.terminate().0.success());
        }
    }
}

#[test]
fn the_same_on_postgresql() {
    let cluster = Cluster::start();
    let store = cluster.create_database();
    let place = tempfile::tempdir().unwrap();
    tour(place.path(), &|args| {
        seabed().args(args).env("SEABED_STORE", &store).stdin(Stdio::null()).output().unwrap()
    });
}

#[test]
fn a_directory_of_a_running_server_comes_in_and_goes_on_from_there() {
    let place = tempfile::tempdir().unwrap();
    let (root, repo) = (place.path().join("data"), place.path().join("repo"));
    let folder = repo.join(&ID[..2]).join(&ID[2..]);
    fs::create_dir_all(folder.join("snapshot")).unwrap();
    fs::create_dir_all(folder.join("incremental")).unwrap();
    let first = document(5);
    fs::write(folder.join("snapshot/a"), first.save()).unwrap();
    let repo = repo.to_str().unwrap();
    // Into a store that is not there yet.
    let report = json(&root, &["docs", "import", repo]);
    assert_eq!(
        (&report["documents"], &report["imported"], &report["changes"]),
        (&1.into(), &1.into(), &5.into())
    );
    let server = Server::start(&root);
    let mut later = first.clone();
    later.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "title", "Later")).unwrap();
    fs::write(folder.join("incremental/b"), later.save_after(&first.get_heads())).unwrap();
    fs::write(folder.join("incremental/c"), b"damaged").unwrap();
    let output = run(&root, &["docs", "import", repo]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("brought 1 new change,"), "{}", stdout(&output));
    assert!(stderr(&output).contains("incremental/c"), "{}", stderr(&output));
    assert_eq!(json(&root, &["docs", "show", ID])["heads"], serde_json::json!(heads(&later)));
    assert!(server.terminate().0.success());
}

#[test]
fn what_is_no_document_is_refused_and_makes_none() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    let missing = run(&root, &["docs", "list"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(!root.exists(), "looking makes no store");
    let mut torn = document(3).save();
    torn.truncate(torn.len() - 5);
    for (name, bytes) in [("empty", b"".to_vec()), ("text", b"a shopping list".to_vec()), ("torn", torn)] {
        let path = place.path().join(name);
        fs::write(&path, bytes).unwrap();
        let refused = run(&root, &["docs", "import", path.to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(1), "{name}");
        assert!(stderr(&refused).contains("no document that automerge saved"), "{}", stderr(&refused));
        assert!(!root.exists(), "what is refused makes no store");
    }
    // Of something else than automerge-repo.
    let output = run(&root, &["docs", "import", place.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("there are no documents in"), "{}", stderr(&output));
    assert!(!root.exists(), "a wrong directory makes no store");
    for nonsense in
        [vec!["docs", "show", "nonsense"], vec!["docs", "export"], vec!["docs", "import", "/no/such"]]
    {
        assert_eq!(run(&root, &nonsense).status.code(), Some(2), "{nonsense:?}");
    }
    // A new document gets an id of its own.
    let said = succeeds(&run(&root, &["docs", "import", &file(place.path(), &document(2))]));
    assert!(said.starts_with("automerge:") && said.contains("2 new changes"), "{said}");
    let id = said.split([':', ' ']).nth(1).unwrap();
    let output = run(&root, &["docs", "export", id, "--json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--as json"), "{}", stderr(&output));
}
