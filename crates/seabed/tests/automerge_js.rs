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

#[allow(clippy::needless_pass_by_value, reason = "a value is written where it is expected")]
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

#[test]
fn edits_made_offline_on_both_sides_meet() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = (Server::start(dir.path()), Clients::new());
    clients.connect("a", &server);
    clients.connect("b", &server);
    let document = clients.create("a", json!({}));
    clients.ask("acknowledged", "a", &document);
    clients.find("b", &document);
    for client in ["a", "b"] {
        clients.0.ok(json!({ "op": "disconnect", "client": client }));
        clients.change(client, &document, client, json!("offline"));
    }
    for client in ["a", "b"] {
        clients.0.ok(json!({ "op": "reconnect", "client": client, "server": url(&server) }));
    }
    clients.wait("a", &document, "b", json!("offline"));
    clients.wait("b", &document, "a", json!("offline"));
}

#[test]
fn ephemeral_messages_reach_the_others_once() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = (Server::start(dir.path()), Clients::new());
    for client in ["a", "b", "c"] {
        clients.connect(client, &server);
    }
    let document = clients.create("a", json!({}));
    clients.ask("acknowledged", "a", &document);
    for client in ["b", "c"] {
        clients.find(client, &document);
    }
    for client in ["a", "b", "c"] {
        clients.ask("listen", client, &document);
    }
    for number in 1..=3 {
        clients.0.ok(json!({ "op": "broadcast", "client": "a", "url": document, "message": number }));
    }
    clients.0.ok(json!({ "op": "broadcast", "client": "b", "url": document, "message": "back" }));
    let mut heard = |client: &str, count: u64| {
        clients.0.ok(json!({ "op": "heard", "client": client, "url": document, "count": count }))["messages"]
            .clone()
    };
    assert_eq!(heard("a", 1), json!(["back"]));
    assert_eq!(heard("b", 3), json!([1, 2, 3]));
    let mut third = heard("c", 4);
    let third = third.as_array_mut().unwrap();
    third.sort_by_key(Value::to_string);
    assert_eq!(*third, [json!("back"), json!(1), json!(2), json!(3)]);
}

#[test]
fn a_document_that_nobody_has_is_unavailable_and_comes_when_it_is_there() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, elsewhere, mut clients) =
        (Server::start(dir.path()), Server::start(other.path()), Clients::new());
    clients.connect("a", &server);
    clients.connect("b", &elsewhere);
    let document = clients.create("b", json!({ "late": true }));
    clients.ask("acknowledged", "b", &document);
    assert_eq!(clients.find("a", &document)["state"], "unavailable");
    clients.0.ok(json!({ "op": "disconnect", "client": "b" }));
    clients.0.ok(json!({ "op": "reconnect", "client": "b", "server": url(&server) }));
    assert_eq!(clients.ask("ready", "a", &document)["value"], json!({ "late": true }));
}

#[test]
fn large_documents_long_histories_and_many_of_them_arrive_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = (Server::start(dir.path()), Clients::new());
    clients.connect("a", &server);
    let many =
        clients.0.ok(json!({ "op": "create", "client": "a", "value": { "kind": "small" }, "count": 200 }));
    let many: Vec<_> =
        many["urls"].as_array().unwrap().iter().map(|url| url.as_str().unwrap().to_owned()).collect();
    let text = "x".repeat(2_000_000);
    let large = clients.create("a", json!({}));
    clients.change("a", &large, "text", json!(text));
    let long = clients.create("a", json!({}));
    clients.0.ok(json!({ "op": "changes", "client": "a", "url": long, "key": "k", "count": 3_000 }));
    for document in many.iter().chain([&large, &long]) {
        clients.ask("acknowledged", "a", document);
    }
    assert!(server.terminate().0.success());

    let server = Server::start(dir.path());
    let mut clients = Clients::new();
    clients.connect("b", &server);
    for document in &many {
        assert_eq!(clients.find("b", document)["value"]["kind"], "small");
    }
    assert_eq!(clients.find("b", &large)["value"]["text"].as_str().map(str::len), Some(text.len()));
    let found = clients.find("b", &long);
    assert_eq!(found["value"]["k99"], 2_999, "{found}");
    let report = common::json(dir.path(), &["verify"]);
    assert_eq!((&report["complete"], &report["findings"]), (&json!(true), &json!(0)), "{report}");
}

#[test]
fn twenty_clients_of_one_document_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = (Server::start(dir.path()), Clients::new());
    let names: Vec<_> = (0..20).map(|number| format!("client {number}")).collect();
    for name in &names {
        clients.connect(name, &server);
    }
    let document = clients.create(&names[0], json!({}));
    clients.ask("acknowledged", &names[0], &document);
    for name in &names[1..] {
        clients.find(name, &document);
    }
    for name in &names {
        clients.change(name, &document, name, json!(true));
    }
    for name in &names {
        for other in &names {
            clients.wait(name, &document, other, json!(true));
        }
    }
}

#[test]
fn what_a_storage_has_is_told_to_who_subscribed() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = (Server::start(dir.path()), Clients::new());
    let connect = |clients: &mut Clients, client: &str| {
        clients.0.ok(json!({ "op": "connect", "client": client, "server": url(&server), "disk": client, "gossip": true }))
    };
    let first = connect(&mut clients, "a");
    connect(&mut clients, "b");
    clients.0.ok(json!({ "op": "subscribe", "client": "b", "storage": first["disk"] }));
    let document = clients.create("a", json!({}));
    clients.ask("acknowledged", "a", &document);
    clients.find("b", &document);
    clients.change("b", &document, "from b", json!(1));
    clients.wait("a", &document, "from b", json!(1));
    clients.0.ok(json!({ "op": "remote", "client": "b", "url": document, "storage": first["disk"] }));
}

#[test]
fn two_servers_of_one_database_converge() {
    let cluster = seabed_testkit::postgres::Cluster::start();
    for scheme in ["postgres", "postgres+portable"] {
        let store = cluster.create_database().replacen("postgres", scheme, 1);
        let serve = || {
            let mut command = common::seabed();
            command.args(["serve", "--listen", "127.0.0.1:0"]).env("SEABED_STORE", &store);
            Server::spawn(command)
        };
        let (one, other, mut clients) = (serve(), serve(), Clients::new());
        let storage = clients.connect("a", &one)["storage"].clone();
        assert_eq!(clients.connect("b", &other)["storage"], storage);
        let document = clients.create("a", json!({}));
        clients.ask("acknowledged", "a", &document);
        clients.find("b", &document);
        for round in 0..5 {
            clients.change("a", &document, "from a", json!(round));
            clients.change("b", &document, "from b", json!(round));
            clients.wait("b", &document, "from a", json!(round));
            clients.wait("a", &document, "from b", json!(round));
        }
    }
}

/// Acknowledged is what the server's own sync message names.
#[test]
fn no_acknowledged_edit_is_lost_when_the_server_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::<(String, u64)>::new();
    for round in 0..3 {
        let (server, mut clients) = (Server::start(dir.path()), Clients::new());
        let names: Vec<_> = (0..4).map(|number| format!("client {number}")).collect();
        for name in &names {
            clients.connect(name, &server);
            let document = clients.create(name, json!({}));
            clients.ask("edit", name, &document);
        }
        for name in &names {
            clients.0.ok(json!({ "op": "edited", "client": name, "count": 20 * (round + 1) }));
        }
        server.kill();
        for name in &names {
            let told = clients.0.ok(json!({ "op": "acknowledgements", "client": name }));
            for edit in told["edits"].as_array().unwrap() {
                let count = edit["acknowledged"].as_u64().unwrap();
                acknowledged.push((edit["url"].as_str().unwrap().to_owned(), count));
            }
        }
        clients.0.kill();

        let (server, mut clients) = (Server::start(dir.path()), Clients::new());
        clients.connect("reader", &server);
        for (document, count) in &acknowledged {
            assert!(*count > 0);
            let found = clients.find("reader", document);
            let lost: Vec<_> =
                (1..=*count).filter(|edit| found["value"][format!("edit {edit}")] != true).collect();
            assert!(lost.is_empty(), "round {round}: of {count} acknowledged edits {lost:?} are gone");
        }
    }
}

#[test]
fn from_the_first_token_on_everybody_needs_one_and_a_revoked_one_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let upgrade = |query: &str| {
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        server.get_head(&format!("/automerge{query}"), &headers)
    };
    assert_eq!(upgrade(""), 101);
    let created = common::json(dir.path(), &["token", "create", "phone", "--access", "read"]);
    let (text, id) = (created["text"].as_str().unwrap(), created["token"]["id"].as_str().unwrap());
    assert_eq!((upgrade(""), upgrade("?token=wrong"), upgrade(&format!("?token={text}"))), (401, 401, 101));

    let writer = common::json(dir.path(), &["token", "create", "laptop"]);
    let mut clients = Clients::new();
    let with = |text: &str| format!("ws://{}/automerge?token={text}", server.address());
    let laptop = with(writer["text"].as_str().unwrap());
    clients.0.ok(json!({ "op": "connect", "client": "laptop", "server": laptop }));
    clients.0.ok(json!({ "op": "connect", "client": "phone", "server": with(text) }));
    let document = clients.create("laptop", json!({ "title": "mine" }));
    clients.ask("acknowledged", "laptop", &document);
    assert_eq!(clients.find("phone", &document)["value"]["title"], "mine");
    clients.change("phone", &document, "title", json!("theirs"));
    clients.change("laptop", &document, "still", json!("mine"));
    clients.wait("phone", &document, "still", json!("mine"));
    assert_eq!(clients.ask("value", "laptop", &document)["value"]["title"], "mine");

    common::json(dir.path(), &["token", "revoke", id]);
    clients.0.ok(json!({ "op": "cut", "client": "phone" }));
    let listed = common::json(dir.path(), &["token", "list"]);
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 2);
    assert_eq!((upgrade(&format!("?token={text}")), upgrade("")), (401, 401));
}
