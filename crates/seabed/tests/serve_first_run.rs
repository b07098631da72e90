//! The first ten minutes: `seabed serve`, what it says, and how it ends.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use common::{NIL, SEGMENT, Server, read_answer, run, seabed, stderr};
use rustix::process::Signal;
use uuid::Uuid;

#[test]
fn without_settings_it_makes_a_store_here_and_says_what_to_paste() {
    let home = tempfile::tempdir().unwrap();
    let mut command = seabed();
    // All defaults but the port, which on a machine that builds may be taken.
    command.args(["serve", "--listen", "127.0.0.1:0"]).current_dir(&home);
    let server = Server::spawn(command);

    let root = home.path().canonicalize().unwrap().join("seabed-data");
    let banner = &server.banner;
    assert!(banner.contains(&format!("store   {}", root.display())), "{banner}");
    assert!(banner.contains(env!("CARGO_PKG_VERSION")) && banner.contains("SQLite 3."), "{banner}");
    assert!(banner.contains(&format!("task config sync.server.url {}", server.url())), "{banner}");
    let pasted = |name: &str| {
        let line = banner.lines().find_map(|line| line.trim().strip_prefix(&format!("task config {name} ")));
        line.unwrap_or_else(|| panic!("no line for {name} in {banner}")).to_owned()
    };
    let client: Uuid = pasted("sync.server.client_id").parse().unwrap();
    assert!(pasted("sync.encryption_secret").len() >= 32);

    assert!(server.get("/", &[]).text().starts_with("TaskChampion sync server v"));
    assert_eq!(server.add_version(&client.to_string(), NIL, b"pasted").status, 200);
    let mode = std::fs::metadata(root.join("seabed.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the socket is the owner's alone");

    let (status, logs) = server.terminate();
    assert_eq!((status.code(), logs.as_str()), (Some(0), ""));
    assert!(!root.join("seabed.sock").exists());

    let server = Server::start(&root);
    assert!(server.banner.contains("1 client\n"), "{}", server.banner);
    // What is printed may end up in a log: no credentials once somebody has some.
    assert!(server.banner.contains("sync.server.client_id THE-ID-OF"), "{}", server.banner);
    assert!(server.banner.contains("sync.encryption_secret THE-SECRET-OF"), "{}", server.banner);
    assert_eq!(server.get_child(&client.to_string(), NIL).body, b"pasted");
}

#[test]
fn everything_it_prints_to_paste_may_be_pasted() {
    let id = Uuid::new_v4().to_string();
    for (args, only_here, fresh) in [
        (vec![], true, "# The id and the secret were made just now"),
        (vec!["--allow-client-id", &id], true, "# The secret was made just now"),
        (vec!["--no-create-clients"], true, "# The secret was made just now"),
        (vec!["--listen", "0.0.0.0:0"], false, "# The id and the secret were made just now"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for started in ["first", "again"] {
            let server = Server::start_with(&dir.path().join("data"), &args, &[]);
            let banner = server.banner.clone();
            let (_, paste) = banner.split_once("\n\n").unwrap();
            let (paste, _) = paste.split_once("\n# automerge-repo").unwrap();
            for line in paste.lines().filter(|line| !line.is_empty()) {
                let command = line.split('#').next().unwrap();
                assert!(command.is_empty() || command.starts_with("  task config "), "{line}");
                assert!(!command.contains(['(', ')']), "{line}");
            }
            assert_eq!(banner.contains("# Only this machine reaches that address."), only_here, "{banner}");
            assert_eq!(banner.contains("on each of your devices"), !only_here, "{banner}");
            assert_eq!(banner.contains(fresh), started == "first", "{banner}");
            if started == "first" {
                assert_eq!(
                    server.add_version(&id, NIL, b"x").status == 200,
                    !args.contains(&"--no-create-clients")
                );
            }
            if args.contains(&"--no-create-clients") {
                break;
            }
        }
    }
}

#[test]
fn the_directory_of_another_program_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    // Of a file system, and hidden: an empty directory all the same.
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    std::fs::write(dir.path().join(".keep"), "").unwrap();
    for name in ["wallet.dat", "LOCK"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let output = run(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("holds no store, but something else (wallet.dat)"), "{said}");
    assert!(said.contains(&dir.path().join("seabed-data").display().to_string()), "{said}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 4, "nothing was made there");

    std::fs::remove_file(dir.path().join("wallet.dat")).unwrap();
    assert!(Server::start(dir.path()).terminate().0.success());
    // What somebody puts beside a store later keeps nobody from it.
    std::fs::write(dir.path().join("notes.txt"), "").unwrap();
    assert!(Server::start(dir.path()).terminate().0.success());
}

#[test]
fn health_is_asked_of_the_parts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    assert_eq!(server.get("/healthz", &[]).status, 200);
    let ready = server.get("/readyz", &[("Host", "sync.example")]);
    assert_eq!(ready.status, 200);
    let ready = ready.json();
    assert_eq!(ready["ready"], true);
    for part in ["store", "taskchampion"] {
        assert_eq!(ready["parts"][part]["ready"], true, "{ready}");
    }
}

#[test]
fn a_taken_port_is_named_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listener = TcpListener::bind(taken).unwrap();
    let data = dir.path().join("data");
    let output = run(&data, &["serve", "--listen", &taken.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains(&taken.to_string()) && said.contains("another program listens there"), "{said}");
    assert!(said.contains("--listen"), "{said}");
    assert!(!data.exists());
    drop(listener);
    // Named twice it is not taken.
    let twice = format!("{taken},{taken}");
    let server = Server::start_with(&data, &["--listen", &twice], &[]);
    assert_eq!(server.addresses, [taken.to_string()]);
}

#[test]
fn one_server_owns_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let output = run(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another process"), "{}", stderr(&output));
    assert_eq!(server.get("/healthz", &[]).status, 200);
    // The one that was refused has not taken the socket away.
    assert!(run(dir.path(), &["tenants"]).status.success());
    drop(server);
}

#[test]
fn the_originals_data_is_not_served_around() {
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("taskchampion-sync-server.sqlite3");
    std::fs::write(&original, "tasks of years").unwrap();
    let output = run(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    for part in
        ["seabed import taskchampion", "not touched", "empty --data-dir", &original.display().to_string()]
    {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "nothing was created beside it");
}

#[test]
fn a_store_of_a_later_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    assert!(server.terminate().0.success());
    let store = seabed_kv::Store::sqlite(dir.path()).unwrap();
    let own = store.open("seabed").wait().unwrap();
    own.put("seabed.format", b"", b"\0\0\0\x02seabed 9.0".as_slice()).wait().unwrap();
    drop(own);
    store.close().wait().unwrap();
    drop(store);
    let output = run(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("format is 2") && said.contains("seabed 9.0") && said.contains("reads format 1"),
        "{said}"
    );
}

#[test]
fn one_damaged_client_does_not_keep_the_others_from_being_served() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let client = Uuid::new_v4().to_string();
    assert_eq!(server.add_version(&client, NIL, b"sound").status, 200);
    assert!(server.terminate().0.success());
    let store = seabed_kv::Store::sqlite(dir.path()).unwrap();
    let tenant = store.open("taskchampion-00").wait().unwrap();
    tenant.put("taskchampion.client", [7; 16], b"damage".as_slice()).wait().unwrap();
    drop(tenant);
    store.close().wait().unwrap();
    drop(store);

    let server = Server::start(dir.path());
    // They are counted without being read.
    assert!(server.banner.contains("2 clients"), "{}", server.banner);
    assert_eq!(server.get_child(&client, NIL).body, b"sound");
    // The list tells of both.
    let list = run(dir.path(), &["clients", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let entries = list["clients"].as_array().unwrap();
    let error = |of: &str| &entries.iter().find(|entry| entry["client"] == of).unwrap()["error"];
    assert_eq!(error(&client), &serde_json::Value::Null);
    let error = error("07070707-0707-0707-0707-070707070707").as_str().unwrap();
    assert!(error.contains("the row 07070707... of taskchampion.client is damaged"), "{error}");
    for command in [["clients", "list"].as_slice(), &["verify"]] {
        assert_eq!(run(dir.path(), command).status.code(), Some(1), "{command:?}");
    }
}

#[test]
fn requests_under_way_are_answered_before_it_ends() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::start(dir.path());
        let client = Uuid::new_v4();
        let mut idle = server.connect();
        let mut upload = server.connect();
        let head = format!(
            "POST /v1/client/add-version/{NIL} HTTP/1.1\r\nHost: x\r\nX-Client-Id: {client}\r\n\
             Content-Type: {SEGMENT}\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
        );
        upload.write_all(head.as_bytes()).unwrap();
        // The interim answer says that the request is under way.
        let mut interim = [0; 25];
        upload.read_exact(&mut interim).unwrap();
        assert!(interim.starts_with(b"HTTP/1.1 100 Continue"));
        upload.write_all(b"01234").unwrap();

        server.signal(signal);
        // An idle connection is closed at once, which also says that the signal has arrived.
        assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
        upload.write_all(b"56789").unwrap();
        assert_eq!(read_answer(&mut upload).unwrap().status, 200);
        assert_eq!(server.wait().0.code(), Some(0));

        let server = Server::start(dir.path());
        assert_eq!(server.get_child(&client.to_string(), NIL).body, b"0123456789");
    }
}

#[test]
fn a_request_that_never_ends_does_not_keep_it_from_ending() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--silence-ms-max", "3600000"], &[]);
    let mut upload = server.connect();
    let head = format!(
        "POST /v1/client/add-version/{NIL} HTTP/1.1\r\nHost: x\r\nX-Client-Id: {}\r\n\
         Content-Type: {SEGMENT}\r\nContent-Length: 10\r\n\r\n01234",
        Uuid::new_v4()
    );
    upload.write_all(head.as_bytes()).unwrap();
    assert_eq!(server.get("/healthz", &[]).status, 200);
    assert_eq!(server.terminate().0.code(), Some(0));
}
