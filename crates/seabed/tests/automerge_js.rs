//! The published automerge-repo, in Node, against the server: what its users do, and what goes wrong with them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::Server;
use common::lines::Lines;
use serde_json::{Value, json};

/// Any number of clients in one Node process.
struct Clients(Lines);

impl Clients {
    fn new() -> Self {
        let directory: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
        assert!(
            directory.join("node_modules/@automerge/automerge-repo").exists(),
            "automerge-repo is not installed; run: ./test.sh tools, or npm ci in {}",
            directory.display()
        );
        let mut node = Command::new("node");
        node.arg(directory.join("automerge_peer.mjs"));
        Self(Lines::spawn(node))
    }

    fn connect(&mut self, client: &str, server: &Server) -> Value {
        self.0.ok(json!({ "op": "connect", "client": client, "server": url(server) }))
    }

    fn create(&mut self, client: &str, value: Value) -> String {
        let created = self.0.ok(json!({ "op": "create", "client": client, "value": value }));
        created["url"].as_str().unwrap().to_owned()
    }

    fn find(&mut self, client: &str, url: &str) -> Value {
        self.0.ok(json!({ "op": "find", "client": client, "url": url }))
    }

    fn change(&mut self, client: &str, url: &str, key: &str, value: Value) {
        self.0.ok(json!({ "op": "change", "client": client, "url": url, "key": key, "value": value }));
    }

    fn wait(&mut self, client: &str, url: &str, key: &str, value: Value) -> Value {
        self.0.ok(json!({ "op": "wait", "client": client, "url": url, "key": key, "value": value }))
    }

    /// Anything else that names a client and a document.
    fn ask(&mut self, op: &str, client: &str, url: &str) -> Value {
        self.0.ok(json!({ "op": op, "client": client, "url": url }))
    }
}

fn url(server: &Server) -> String {
    format!("ws://{}/", server.address())
}

#[test]
fn a_document_is_found_and_edited_from_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = (Server::start(dir.path()), Clients::new());
    let first = clients.connect("a", &server);
    let second = clients.connect("b", &server);
    assert!(first["storage"].is_string() && first["storage"] == second["storage"], "{first} {second}");

    let document = clients.create("a", json!({ "title": "Shopping" }));
    clients.ask("acknowledged", "a", &document);
    let found = clients.find("b", &document);
    assert_eq!((&found["state"], &found["value"]["title"]), (&json!("ready"), &json!("Shopping")));
    clients.change("b", &document, "milk", json!(2));
    clients.wait("a", &document, "milk", json!(2));
    clients.change("a", &document, "bread", json!(1));
    clients.wait("b", &document, "bread", json!(1));
}
