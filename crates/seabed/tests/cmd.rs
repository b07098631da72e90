//! The commands: the same answer with and without a server, exit codes that mean something, help with examples.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::fs;
use std::path::Path;

use common::{NIL, SNAPSHOT, Server, json, run, seabed, stderr, stdout};
use uuid::Uuid;

/// A store with two clients: one with a chain and a snapshot, one with a body that is stored in pieces.
fn filled(dir: &Path) -> [String; 2] {
    let server = Server::start(dir);
    let clients = [Uuid::from_u128(1), Uuid::from_u128(2)].map(|id| id.to_string());
    let mut parent = NIL.to_owned();
    for number in 0..5 {
        let answer = server.add_version(&clients[0], &parent, format!("version {number}").as_bytes());
        answer.header("x-version-id").unwrap().clone_into(&mut parent);
    }
    let path = format!("/v1/client/add-snapshot/{parent}");
    assert_eq!(server.ask("POST", &path, &clients[0], SNAPSHOT, b"snapshot").status, 200);
    assert_eq!(server.add_version(&clients[1], NIL, &vec![b'x'; 200_000]).status, 200);
    assert!(server.terminate().0.success());
    clients
}

#[test]
fn every_command_has_help_with_examples() {
    let help = stdout(&seabed().arg("--help").output().unwrap());
    let commands: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    let all = [
        "serve",
        "tenants",
        "inspect",
        "clients",
        "docs",
        "verify",
        "backup",
        "restore",
        "copy",
        "import",
        "export",
        "token",
        "sds",
        "conformance",
        "bench",
        "completions",
        "man",
    ];
    assert_eq!(commands, all);
    assert!(help.contains("Examples:") && help.contains("Exit codes:"));
    for command in commands {
        let help = stdout(&seabed().args([command, "--help"]).output().unwrap());
        assert!(
            help.contains("Examples:") && help.contains(&format!("seabed {command}")),
            "{command}: {help}"
        );
    }
    let output = seabed().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("Usage: seabed"));
}

#[test]
fn completions_and_the_manual_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&seabed().args(["completions", shell]).output().unwrap());
        assert!(script.contains("conformance") && script.contains("allow-client-id"), "{shell}");
    }
    let page = stdout(&seabed().arg("man").output().unwrap());
    assert!(page.starts_with(".ie") || page.contains(".TH seabed"));
    assert!(!page.contains("seabed\\-serve(1)"), "there is one page");
    for part in [
        "serve",
        "verify",
        "snapshot\\-versions",
        "SNAPSHOT_DAYS",
        "keys\\-only",
        "SEABED CLIENTS DELETE",
        "\\-\\-yes",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn the_answers_are_the_same_with_and_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let [one, _] = filled(dir.path());
    let questions: Vec<Vec<&str>> = vec![
        vec!["tenants", "--rows"],
        vec!["inspect", "taskchampion-00"],
        vec!["inspect", "taskchampion-00", "--keys-only", "--reverse", "--limit", "3"],
        vec!["inspect", "taskchampion-00", "--category", "taskchampion.version", "--prefix", "0x00000000"],
        vec!["inspect", "seabed"],
        vec!["clients", "list"],
        vec!["clients", "show", &one],
        vec!["clients", "prune", "--older-than-days", "1", "--dry-run"],
        vec!["verify"],
        vec!["verify", "taskchampion-00"],
    ];
    let ask_all = || questions.iter().map(|question| json(dir.path(), question)).collect::<Vec<_>>();
    let offline = ask_all();
    let server = Server::start(dir.path());
    // The log's size alone depends on who has the file open.
    let without_log = |mut answer: serde_json::Value| {
        for tenant in answer["tenants"].as_array_mut().into_iter().flatten() {
            tenant.as_object_mut().unwrap().remove("log_bytes");
            tenant.as_object_mut().unwrap().remove("data_bytes");
        }
        answer
    };
    for ((question, offline), online) in questions.iter().zip(offline).zip(ask_all()) {
        assert_eq!(without_log(online), without_log(offline), "{question:?}");
    }
    // What cannot be answered is told alike too.
    let nonsense = [["inspect", "nothing"].as_slice(), &["clients", "show", NIL], &["verify", "nothing"]];
    let errors = || {
        nonsense
            .map(|question| run(dir.path(), question))
            .map(|output| (output.status.code(), stderr(&output)))
    };
    let online = errors();
    assert!(server.terminate().0.success());
    assert_eq!(online, errors());
    for (code, said) in online {
        assert!(code == Some(2) && said.starts_with("error: "), "{code:?} {said}");
    }
}

#[test]
fn inspect_pages_through_everything_and_decodes_it() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = filled(dir.path());
    let all = json(dir.path(), &["inspect", "taskchampion-00", "--limit", "100000"]);
    let rows = all["rows"].as_array().unwrap();
    assert!(rows.len() > 12);
    assert!(rows.iter().any(|row| row["value"].to_string().contains(&one)), "rows are decoded: {all}");
    let prefix = format!("0x{two}");
    let some = json(
        dir.path(),
        &["inspect", "taskchampion-00", "--category", "taskchampion.version", "--prefix", &prefix],
    );
    assert_eq!(some["rows"].as_array().unwrap().len(), 1);
    // What is shown can be given back: the second row as a start leaves one fewer.
    let category = rows[0]["category"].as_str().unwrap();
    let of = |args: &[&str]| {
        let args =
            [&["inspect", "taskchampion-00", "--category", "taskchampion.version", "--keys-only"], args]
                .concat();
        json(dir.path(), &args)["rows"].as_array().unwrap().clone()
    };
    let versions = of(&[]);
    assert_eq!(versions.len(), 6, "{category}");
    let second = versions[1]["key"].as_str().unwrap();
    assert_eq!(of(&["--start", second]), versions[1..]);
    assert_eq!(of(&["--stop", second]), versions[..1]);
    assert_eq!(of(&["--limit", "0"]).len(), 0);
    let mut reversed = of(&["--reverse"]);
    reversed.reverse();
    assert_eq!(reversed, versions);
    assert_eq!(run(dir.path(), &["inspect", "taskchampion-00", "--prefix", "0xabc"]).status.code(), Some(2));
    let nothing = run(dir.path(), &["inspect", "taskchampion-00", "--category", "nope"]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(stderr(&nothing).contains("no category nope; it has taskchampion."), "{}", stderr(&nothing));
    let text = stdout(&run(dir.path(), &["inspect", "taskchampion-00", "--category", "taskchampion.client"]));
    assert!(text.contains("[taskchampion.client]"), "{text}");
}

#[test]
fn a_client_is_deleted_only_on_purpose() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = filled(dir.path());
    let output = run(dir.path(), &["clients", "delete", &one]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--yes"), "{}", stderr(&output));
    assert!(run(dir.path(), &["clients", "show", &one]).status.success());

    assert!(run(dir.path(), &["clients", "delete", &one, "--yes"]).status.success());
    assert_eq!(run(dir.path(), &["clients", "show", &one]).status.code(), Some(2));
    let server = Server::start(dir.path());
    assert_eq!(server.get_child(&one, NIL).text(), "no such client");
    assert!(run(dir.path(), &["clients", "delete", &two, "--yes"]).status.success());
    assert_eq!(server.get_child(&two, NIL).text(), "no such client");
    let verified = json(dir.path(), &["verify"]);
    assert_eq!((&verified["examined"]["clients"], &verified["findings"]), (&0.into(), &0.into()));
    assert_eq!(run(dir.path(), &["clients", "delete", &two, "--yes"]).status.code(), Some(2));
}

/// A store with a client whose five versions came in 2023, with a snapshot at the fourth.
fn filled_long_ago(dir: &Path) -> String {
    use seabed_taskchampion::{Config, TaskChampion};
    let store = seabed_kv::Store::sqlite(dir).unwrap();
    let client = Uuid::from_u128(3);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let taskchampion = TaskChampion::open(&store, Config::default()).await.unwrap();
        let upload = async |bytes: &[u8]| {
            let mut upload = taskchampion.upload(client, Uuid::new_v4(), 0);
            upload.write(bytes).await.unwrap();
            upload.finish().await.unwrap()
        };
        for number in 0..5 {
            let (parent, version) = (Uuid::from_u128(number), Uuid::from_u128(number + 1));
            let bytes = upload(&vec![7; 10_000]).await;
            taskchampion.add_version(bytes, parent, version, 1_700_000_000).await.unwrap().release();
        }
        let bytes = upload(b"snapshot").await;
        let version = Uuid::from_u128(4);
        taskchampion.add_snapshot(bytes, version, 1_700_000_000).await.unwrap().release();
    });
    store.close().wait().unwrap();
    client.to_string()
}

#[test]
fn old_versions_are_dropped_only_on_purpose() {
    for served in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let client = filled_long_ago(dir.path());
        // The setting is taken, and by itself drops nothing in the first minute.
        let variables = [("SEABED_RETENTION_DAYS", "30")];
        let server = served.then(|| Server::start_with(dir.path(), &[], &variables));
        let prune = ["clients", "prune", "--older-than-days", "30"];
        let shown = json(dir.path(), &["clients", "show", &client]);
        assert_eq!((&shown["covered_versions"], &shown["covered_bytes"]), (&3.into(), &30_000.into()));

        let foretold = json(dir.path(), &[&prune[..], &["--dry-run"]].concat());
        assert_eq!(
            (&foretold["versions"], &foretold["clients"][0]["client"]),
            (&3.into(), &client.clone().into())
        );
        let output = run(dir.path(), &prune);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("--yes"), "{}", stderr(&output));
        assert_eq!(json(dir.path(), &["clients", "show", &client])["client"]["versions"], 5);

        let said = stdout(&run(dir.path(), &[&prune[..], &["--yes"]].concat()));
        assert!(said.contains(&client) && said.contains("dropped 3 versions (29.3 KiB)"), "{said}");
        let list = json(dir.path(), &["clients", "list"]);
        let told = &list["clients"][0];
        assert_eq!(
            (&told["versions"], &told["dropped_versions"], &told["dropped_bytes"]),
            (&2.into(), &3.into(), &30_000.into())
        );
        assert_eq!(json(dir.path(), &["verify"])["findings"], 0);
        let said = stdout(&run(dir.path(), &prune));
        assert!(said.contains("dropped 0 versions"), "nothing to ask about: {said}");
        let server = server.unwrap_or_else(|| Server::start(dir.path()));
        assert_eq!(server.get_child(&client, NIL).status, 410);
        assert_eq!(server.get_child(&client, &Uuid::from_u128(3).to_string()).status, 200);
        assert_eq!(server.add_version(&client, NIL, b"stale").status, 409);
    }
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["serve", "--retention-days", "0"]);
    assert_eq!(output.status.code(), Some(2), "what is covered is not dropped at once");
}

#[test]
fn verify_counts_what_it_examined() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let report = json(dir.path(), &["verify"]);
    let examined = &report["examined"];
    assert_eq!(
        (&examined["tenants"], &examined["clients"], &examined["versions"]),
        (&3.into(), &2.into(), &6.into())
    );
    assert!(examined["rows"].as_u64().unwrap() > 12 && examined["bytes"].as_u64().unwrap() > 200_000);
    let said = stdout(&run(dir.path(), &["verify"]));
    assert!(said.trim_end().ends_with("bytes, 2 clients, 6 versions: sound"), "{said}");
}

#[test]
fn verify_finds_a_broken_chain() {
    let dir = tempfile::tempdir().unwrap();
    let [one, _] = filled(dir.path());
    let store = seabed_kv::Store::sqlite(dir.path()).unwrap();
    let tenant = store.open("taskchampion-00").wait().unwrap();
    let range = seabed_kv::KeyRange::prefix(one.parse::<Uuid>().unwrap().as_bytes());
    let rows = tenant.scan(seabed_kv::ScanSpec::new("taskchampion.version", range)).collect().wait().unwrap();
    assert!(tenant.delete("taskchampion.version", &rows[2].key).wait().unwrap());
    drop(tenant);
    store.close().wait().unwrap();
    drop(store);
    for server in [None, Some(())] {
        let server = server.map(|()| Server::start(dir.path()));
        let output = run(dir.path(), &["verify", "--json"]);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report["findings"].as_u64().unwrap() > 0 && report["complete"] == true, "{report}");
        drop(server);
    }
}

#[test]
fn verify_finds_a_damaged_file_and_says_when_it_could_not_look() {
    // A page of zeroes in the middle of a file.
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let file = dir.path().join("taskchampion-00.db");
    let sound = fs::read(&file).unwrap();
    let mut damaged = sound.clone();
    let page = 8192;
    damaged[2 * page..3 * page].fill(0);
    fs::write(&file, &damaged).unwrap();
    let output = run(dir.path(), &["verify"]);
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("finding"), "{}", stdout(&output));

    // A file of another program is not damaged: it cannot be checked.
    let mut foreign = sound.clone();
    foreign[60..64].copy_from_slice(&77_u32.to_be_bytes());
    fs::write(&file, &foreign).unwrap();
    let output = run(dir.path(), &["verify"]);
    assert_eq!(output.status.code(), Some(2), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("could not be checked"), "{}", stdout(&output));
    // The others are shown all the same.
    let listed = run(dir.path(), &["tenants", "--json"]);
    assert_eq!(listed.status.code(), Some(1), "{}", stderr(&listed));
    let tenants: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert!(
        tenants["tenants"][2]["error"].is_string() && tenants["tenants"][0]["error"].is_null(),
        "{tenants}"
    );

    // Somebody who owns the store and does not answer.
    fs::write(&file, &sound).unwrap();
    let store = seabed_kv::Store::sqlite(dir.path()).unwrap();
    store.own().unwrap();
    let output = run(dir.path(), &["verify"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("another process owns the store"), "{}", stderr(&output));
}

#[test]
fn a_store_in_memory_is_refused_where_it_would_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("taskchampion-sync-server.sqlite3");
    fs::write(&original, "").unwrap();
    let file = original.to_str().unwrap();
    for args in [
        ["import", "taskchampion", file].as_slice(),
        &["export", "taskchampion", "out"],
        &["docs", "import", file],
        &["docs", "list"],
        &["clients", "list"],
        &["token", "create", "phone"],
        &["token", "list"],
        &["tenants"],
        &["inspect", "x"],
        &["verify"],
        &["backup", "copies"],
        &["restore", "copies"],
        &["sds", "channels"],
    ] {
        let args = [args, &["--store", "memory:"]].concat();
        let output = seabed().args(&args).current_dir(&dir).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stdout(&output));
        assert!(
            stderr(&output).contains("memory: is for `seabed serve` alone"),
            "{args:?}: {}",
            stderr(&output)
        );
    }
    let here = format!("sqlite:{}", dir.path().join("data").display());
    for args in [["copy", "memory:", &here], ["copy", &here, "memory:"]] {
        let output = seabed().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stdout(&output));
        assert!(stderr(&output).contains("memory: is for `seabed serve` alone"), "{}", stderr(&output));
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    for command in [["tenants", "--help"], ["import", "--help"], ["copy", "--help"]] {
        assert!(!stdout(&seabed().args(command).output().unwrap()).contains("memory:"), "{command:?}");
    }
    assert!(stdout(&seabed().args(["serve", "--help"]).output().unwrap()).contains("memory:"));
}

#[test]
fn a_directory_of_something_else_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("places.db"), "SQLite format 3 of a browser").unwrap();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    for command in
        [["clients", "list"].as_slice(), &["tenants"], &["verify"], &["export", "taskchampion", "out"]]
    {
        let output = run(dir.path(), command);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {}", stdout(&output));
        let said = stderr(&output);
        assert!(said.contains("no store in") && said.contains("(notes.txt, places.db)"), "{said}");
    }
    // Nor does anything come into it.
    let saved = dir.path().join("saved");
    fs::write(&saved, automerge::Automerge::new().save()).unwrap();
    let output = run(dir.path(), &["docs", "import", saved.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("holds no store, but something else"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
}

#[test]
fn a_directory_that_may_not_be_read_is_told_from_one_that_is_not_there() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    filled(&data);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything while it has its privileges.
    let root = rustix::process::geteuid().is_root();
    let mut command = std::process::Command::new(if root { "setpriv" } else { "env" });
    command.args(root.then_some("--bounding-set=-all")).arg(seabed().get_program()).arg("tenants");
    let output = command.arg("--data-dir").arg(&data).output().unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    let said = stderr(&output);
    assert!(said.contains("permission denied; run this as the user of the server"), "{said}");
    assert!(said.contains(&data.display().to_string()), "{said}");
}

#[test]
fn what_is_wrong_in_a_command_is_said_about_what_was_given() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let here = format!("sqlite:{}", dir.path().display());
    for (args, part) in [
        (["clients", "show", "bla"].as_slice(), "a client id is a UUID"),
        (&["copy", &here, &here], "is both source and destination"),
        (&["copy", "data", &here], "the source: the URL of a store is"),
        (&["copy", &here, "data"], "the destination: the URL of a store is"),
        (&["copy", "sqlite:/no/such", &here], "there is no store in /no/such: no such directory"),
        (&["backup", dir.path().to_str().unwrap()], "is the store itself; choose another directory"),
    ] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_variable_that_is_wrong_or_unknown_is_named() {
    for (name, value) in [
        ("LISTEN", ""),
        ("CREATE_CLIENTS", "no"),
        ("SEABED_BODY_BYTES_MAX", "100MB"),
        ("SNAPSHOT_DAYS", "-1"),
        ("CLIENT_ID", "nonsense"),
    ] {
        let output = seabed().arg("serve").env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}");
        let said = stderr(&output);
        assert!(said.contains(&format!("the environment variable {name}")), "{said}");
    }
    // The flag wins, so the variable has nothing to do with it.
    let output = seabed().args(["serve", "--listen", "bad"]).env("LISTEN", "worse").output().unwrap();
    assert!(!stderr(&output).contains("variable"), "{}", stderr(&output));

    let mut command = seabed();
    let variables =
        [("SEABED_STORES", "sqlite:x"), ("SEABED_TEST_SEED", "1"), ("SEABED_COPY_TO", "sqlite:x")];
    let output = command.args(["completions", "bash"]).envs(variables).output().unwrap();
    assert!(output.status.success());
    let said = stderr(&output);
    assert!(said.starts_with("warning: nothing reads the environment variable SEABED_STORES;"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn every_error_of_the_admin_api_is_json() {
    let dir = tempfile::tempdir().unwrap();
    let _server = Server::start(dir.path());
    let document = "/api/docs/4NMNnkMhL8jXrdJ9jamS58PAVdXu/merge";
    for (method, path, status, part) in [
        ("GET", "/api/nothing", 404, "the admin API has no /nothing"),
        ("PUT", "/api/tenants", 405, "the admin API has no PUT /tenants; see docs/api.md"),
        ("GET", "/api/tenants?rows=perhaps", 400, "the query does not read"),
        ("GET", "/api/tenants?lines=true", 400, "unknown field `lines`, expected `rows`"),
        ("POST", "/api/backup", 400, "missing field `to`"),
        ("GET", "/api/tenants/%FF", 400, "UTF-8"),
        ("POST", document, 400, "it is empty"),
    ] {
        let answer = common::owner_request(dir.path(), method, path).unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {path}");
        let said = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(said.contains(part), "{method} {path}: {said}");
    }
    let refused = common::owner_request(dir.path(), "PUT", "/api/tenants").unwrap();
    assert_eq!(refused.header("allow"), Some("GET,HEAD"));
}

#[test]
fn a_command_never_makes_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    for place in [dir.path(), &missing] {
        for command in [
            ["tenants"].as_slice(),
            &["inspect", "x"],
            &["clients", "list"],
            &["clients", "delete", NIL, "-y"],
            &["verify"],
            &["backup", "copies"],
        ] {
            let output = run(place, command);
            assert_eq!(output.status.code(), Some(2), "{command:?}");
            assert!(
                stderr(&output).contains(&format!("no store in {}", place.display())),
                "{}",
                stderr(&output)
            );
        }
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn looking_at_a_store_of_another_protocol_leaves_it_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = seabed_kv::Store::sqlite(dir.path()).unwrap();
    store.open("sds").wait().unwrap().put("sds.meta", b"\0\x01a", b"\x01".as_slice()).wait().unwrap();
    store.close().wait().unwrap();
    drop(store);
    assert_eq!(stdout(&run(dir.path(), &["clients", "list"])), "no clients\n");
    let rows = json(dir.path(), &["inspect", "sds"]);
    assert_eq!((&rows["rows"][0]["key"], &rows["rows"][0]["payload"]), (&"0x000161".into(), &"0x01".into()));
    let tenants = json(dir.path(), &["tenants"]);
    assert_eq!(tenants["tenants"].as_array().unwrap().len(), 1, "{tenants}");
    assert_eq!(tenants["tenants"][0]["layer"], "sds");
}

#[test]
fn bench_measures_and_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let output = seabed().args(["bench", "--json"]).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let parts = report["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 4);
    assert!(parts.iter().all(|part| part["operations"].as_u64().unwrap() > 0), "{report}");
    assert!(parts[1]["against_flush"].is_number() && parts[2]["against_flush"].is_number());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    assert_eq!(seabed().args(["bench", "/no/such/place"]).output().unwrap().status.code(), Some(2));
    for args in [["bench", "/proc"].as_slice(), &["export", "taskchampion", "/proc/out"]] {
        let store = tempfile::tempdir().unwrap();
        filled(store.path());
        let said = stderr(&run(store.path(), args));
        assert!(said.starts_with("error: cannot write in /proc: ") && !said.contains("seabed-"), "{said}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::process::Stdio;
    let mut child = seabed().arg("man").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));

    // What was found is in the exit code, read or not.
    let vectors = tempfile::tempdir().unwrap();
    fs::write(
        vectors.path().join("keys.json"),
        r#"{"encode": [{"type": "bool", "value": true, "bytes": "00"}]}"#,
    )
    .unwrap();
    let mut child = seabed();
    child.arg("conformance").arg(vectors.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), ""));
}

/// Adds an SDS channel named `room` to a store.
fn with_a_channel(dir: &Path) {
    let mut command = seabed();
    command.args(["sds", "peer"]);
    let mut peer = common::lines::Lines::spawn(command);
    let init = serde_json::json!({
        "op": "init", "channel": "room", "participant": "alice", "dialect": "nim", "profile": "seabed", "store": dir,
    });
    peer.ok(init);
    peer.ok(serde_json::json!({ "op": "send", "content": "01" }));
    assert!(peer.wait().success());
}

#[test]
fn each_route_in_the_manual_exists_and_each_that_exists_is_in_it() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md")).unwrap();
    let documented: Vec<(&str, &str)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .filter_map(|(route, _)| route.split_once(' '))
        .filter(|(_, path)| path.starts_with('/'))
        .collect();
    assert!(documented.len() >= 9, "{documented:?}");
    let dir = tempfile::tempdir().unwrap();
    let [one, _] = filled(dir.path());
    with_a_channel(dir.path());
    let document = automerge::Automerge::new().save();
    let saved = dir.path().join("empty.automerge");
    fs::write(&saved, &document).unwrap();
    let id = "4NMNnkMhL8jXrdJ9jamS58PAVdXu";
    let imported = run(dir.path(), &["docs", "import", saved.to_str().unwrap(), "--document", id]);
    assert!(imported.status.success(), "{}", stderr(&imported));
    let repo = dir.path().join("repo");
    assert!(run(dir.path(), &["docs", "export", "--all", repo.to_str().unwrap()]).status.success());
    let _server = Server::start(dir.path());
    let token = json(dir.path(), &["token", "create", "phone"])["token"]["id"].as_str().unwrap().to_owned();
    // Deletion last, so that what the others need is there.
    let (deletes, others): (Vec<_>, Vec<_>) = documented.iter().partition(|(method, _)| *method == "DELETE");
    for (method, path) in others.into_iter().chain(deletes) {
        let path = path
            .replace("/tenants/{id}", "/tenants/taskchampion-00")
            .replace("/sds/channels/{id}", "/sds/channels/room")
            .replace("/docs/{id}", &format!("/docs/{id}"))
            .replace("/tokens/{id}", &format!("/tokens/{token}"))
            .replace("/clients/{id}", &format!("/clients/{one}"));
        let body: &[u8] = if path.ends_with("/merge") { &document } else { b"" };
        let to = dir.path().join("copies");
        let query = match path.rsplit('/').next() {
            Some("rows") => "?category=taskchampion.version".to_owned(),
            Some("tokens") if method == "POST" => "?name=laptop&access=read".to_owned(),
            Some("prune") => "?older_than_days=1".to_owned(),
            Some("import") => format!("?from={}", repo.display()),
            Some("export") => format!("?to={}", repo.display()),
            Some("backup") if method == "POST" => format!("?to={}", to.display()),
            _ => String::new(),
        };
        let answer = common::owner_request_with(dir.path(), method, &format!("{path}{query}"), body).unwrap();
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    }
    let source =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/admin.rs")).unwrap();
    for route in source.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")?.split('"').next()) {
        let path = format!("/api{}", route.trim_end_matches('/'));
        assert!(documented.iter().any(|(_, documented)| *documented == path), "{path} is not in docs/api.md");
    }
}
