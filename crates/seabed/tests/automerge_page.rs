//! The page of `examples/automerge-page`, as the README has a newcomer open it: windows of a real browser, and a server that is killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use automerge::transaction::Transactable as _;
use automerge::{Automerge, AutomergeError, ObjType, ROOT};
use common::lines::Lines;
use common::readme::{commands, shell};
use common::{Server, json, run, stderr, stdout};
use serde_json::{Value, json};

/// An address of its own: nobody else takes a port there while the server is away.
const LISTEN: &str = "127.7.7.7:0";
const ID: &str = "4NMNnkMhL8jXrdJ9jamS58PAVdXu";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What `npm start` runs, on a port of its own choice. Killed when it is dropped.
struct Page {
    child: Child,
    address: String,
}

impl Page {
    fn serve() -> Self {
        let directory = repository().join("examples/automerge-page");
        assert!(
            directory.join("node_modules/esbuild").exists(),
            "the page's packages are not installed; run: ./test.sh tools, or npm ci in {}",
            directory.display()
        );
        let package = std::fs::read_to_string(directory.join("package.json")).unwrap();
        let package: Value = serde_json::from_str(&package).unwrap();
        let start = package["scripts"]["start"].as_str().unwrap();
        let mut words = start.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("0").current_dir(directory);
        // Its own pipes: esbuild ends a moment after the node that started it.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let mut page = Self { child, address: address.trim_end().to_owned() };
        if page.address.is_empty() {
            let mut said = String::new();
            page.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("{start} ended: {said}");
        }
        page
    }

    /// The page, for a server.
    fn of(&self, server: &str) -> String {
        format!("{}?server=ws://{server}/automerge", self.address)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Windows of one browser.
struct Windows {
    driver: Lines,
    /// What the browser keeps while it runs.
    _files: tempfile::TempDir,
}

impl Windows {
    fn new() -> Self {
        let directory = repository().join("crates/seabed/tests/js");
        assert!(
            directory.join("node_modules/playwright-core").exists(),
            "playwright-core is not installed; run: ./test.sh tools, or npm ci in {}",
            directory.display()
        );
        let path = std::env::var_os("PATH").unwrap();
        let browser =
            std::env::split_paths(&path).map(|path| path.join("chromium")).find(|browser| browser.exists());
        let browser = browser.expect("chromium is not installed; run: ./test.sh tools");
        let files = tempfile::tempdir().unwrap();
        let mut node = Command::new("node");
        node.arg(directory.join("windows.mjs")).arg(browser).env("TMPDIR", files.path());
        Self { driver: Lines::spawn(node), _files: files }
    }

    fn open(&mut self, window: &str, profile: &str, address: &str) {
        self.driver.ok(json!({ "op": "open", "window": window, "profile": profile, "address": address }));
    }

    /// What the page says beside, when it says that.
    fn wait(&mut self, window: &str, state: &str) -> Value {
        self.driver.ok(json!({ "op": "state", "window": window, "state": state }))
    }

    fn write(&mut self, window: &str, at: usize, text: &str) {
        self.driver.ok(json!({ "op": "type", "window": window, "at": at, "text": text }));
    }

    fn wait_for_text(&mut self, window: &str, text: &str) {
        self.driver.ok(json!({ "op": "text", "window": window, "text": text }));
    }

    fn caret(&mut self, window: &str) -> Value {
        self.driver.ok(json!({ "op": "caret", "window": window }))["caret"].clone()
    }

    /// Closes them all; none of their scripts may have failed.
    fn close(mut self) {
        assert_eq!(self.driver.ok(json!({ "op": "faults" }))["faults"], json!([]));
        assert!(self.driver.wait().success());
    }
}

#[test]
fn windows_edit_one_text_through_a_server_that_is_killed_as_the_tour_says() {
    let tour = commands("Documents");
    let [serve, start, list, show] = tour.as_slice() else { panic!("four commands: {tour:?}") };
    assert_eq!(
        (serve.as_str(), start.as_str()),
        ("cargo run --release -- serve", "cd examples/automerge-page && npm ci && npm start")
    );
    let page = std::fs::read_to_string(repository().join("examples/automerge-page/page/page.js")).unwrap();
    assert!(page.contains("\"ws://127.0.0.1:8080/automerge\""), "where the server of the tour is");

    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("seabed-data");
    let server = Server::start_with(&store, &[], &[("LISTEN", LISTEN)]);
    let address = server.address().to_owned();
    let (page, mut windows) = (Page::serve(), Windows::new());

    // Two windows of one browser, and one of another.
    windows.open("left", "one", &page.of(&address));
    let said = windows.wait("left", "stored");
    let link = said["address"].as_str().unwrap();
    let (_, id) = link.split_once("#automerge:").unwrap();
    assert_eq!(said["command"], format!("seabed docs show {id}"));
    windows.open("right", "one", link);
    windows.open("other", "two", link);
    windows.write("left", 0, "Milk, bread.");
    for window in ["right", "other"] {
        windows.wait_for_text(window, "Milk, bread.");
    }
    windows.write("other", 12, "\nButter.");
    for window in ["left", "right"] {
        windows.wait_for_text(window, "Milk, bread.\nButter.");
    }

    server.kill();
    windows.write("left", 4, " and eggs");
    windows.write("right", 11, " rolls");
    windows.write("other", 0, "Buy: ");
    for window in ["left", "right", "other"] {
        windows.wait(window, "kept");
    }
    windows.driver.ok(json!({ "op": "reload", "window": "other" }));
    windows.wait_for_text("other", "Buy: Milk, bread.\nButter.");

    let _server = Server::start_with(&store, &[], &[("LISTEN", &address)]);
    let text = "Buy: Milk and eggs, bread rolls.\nButter.";
    for window in ["left", "right", "other"] {
        windows.wait_for_text(window, text);
        windows.wait(window, "stored");
    }
    let behind = |words: &str| text.find(words).unwrap() + words.len();
    assert_eq!(
        (windows.caret("left"), windows.caret("right")),
        (json!(behind("eggs")), json!(behind("rolls")))
    );

    assert!(shell(dir.path(), list).lines().any(|row| row.starts_with(id)));
    assert!(show.ends_with(ID), "{show}");
    assert!(shell(dir.path(), &show.replace(ID, id)).contains(id));
    let exported = run(&store, &["docs", "export", id, "--as", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&stdout(&exported)).unwrap(), json!({ "text": text }));
    windows.close();
}

#[test]
fn a_link_opens_with_a_token_and_when_its_text_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let token = json(dir.path(), &["token", "create", "browser"]);
    let (page, mut windows) = (Page::serve(), Windows::new());
    let plain = page.of(server.address());
    let with = format!("{plain}?token={}", token["text"].as_str().unwrap());
    windows.open("without", "one", &plain);
    windows.wait("without", "kept");
    windows.open("with", "one", &format!("{with}#automerge:{ID}"));
    windows.wait("with", "waiting");

    let mut document = Automerge::new();
    let written = document.transact::<_, _, AutomergeError>(|tx| {
        let text = tx.put_object(ROOT, "text", ObjType::Text)?;
        tx.splice_text(text, 0, 0, "Late.")
    });
    written.unwrap();
    let file = dir.path().join("late.automerge");
    std::fs::write(&file, document.save()).unwrap();
    let imported = run(dir.path(), &["docs", "import", file.to_str().unwrap(), "--document", ID]);
    assert!(imported.status.success(), "{}", stderr(&imported));
    windows.wait_for_text("with", "Late.");
    windows.wait("with", "stored");

    windows.open("wrong", "one", &format!("{with}#automerge:wrong"));
    windows.wait("wrong", "failed");
    assert_eq!(windows.wait("without", "kept")["words"], "No server: kept in this browser");
    windows.close();
}
