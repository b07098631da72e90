//! Every flag and every variable of the original taskchampion-sync-server.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails is a test that fails"
)]

mod common;

use std::process::Output;

use common::{Answer, NIL, SEGMENT, SNAPSHOT, Server, run, seabed, stderr, stdout};
use uuid::Uuid;

fn serving(args: &[&str], variables: &[(&str, &str)]) -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(&dir.path().join("data"), args, variables);
    (dir, server)
}

/// A start that must fail.
fn refused(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut command = seabed();
    command.args(["serve", "--data-dir"]).arg(dir.path().join("data")).args(args);
    command.envs(variables.iter().copied()).output().unwrap()
}

#[test]
fn listen_takes_several_addresses_in_every_spelling() {
    for (args, variables) in [
        (["-l", "127.0.0.1:0", "-l", "127.0.0.1:0"].as_slice(), [].as_slice()),
        (&["--listen", "127.0.0.1:0,127.0.0.1:0"], &[]),
        (&["--listen=127.0.0.1:0", "--listen", "127.0.0.1:0"], &[]),
        (&[], &[("LISTEN", "127.0.0.1:0,127.0.0.1:0")]),
    ] {
        let (_dir, server) = serving(args, variables);
        assert_eq!(server.addresses.len(), 2, "{args:?} {variables:?}");
        for address in &server.addresses {
            let answer = common::request(address, "GET", "/", &[], b"").unwrap();
            assert_eq!(answer.status, 200);
        }
    }
}

#[test]
fn a_flag_wins_over_its_variable() {
    let dir = tempfile::tempdir().unwrap();
    let [flag, variable] = ["flag", "variable"].map(|name| dir.path().join(name));
    let server = Server::start_with(&variable, &["-d", flag.to_str().unwrap()], &[]);
    assert!(flag.join("LOCK").exists() && !variable.exists());
    drop(server);
    let long = dir.path().join("long");
    let _server = Server::start_with(&variable, &["--data-dir", long.to_str().unwrap()], &[]);
    assert!(long.join("LOCK").exists() && !variable.exists());
}

#[test]
fn only_allowed_clients_are_let_in() {
    let [one, two, other] = [(); 3].map(|()| Uuid::new_v4().to_string());
    let both = format!("{one},{two}");
    for (args, variables) in [
        (vec!["-C", &one, "-C", &two], vec![]),
        (vec!["--allow-client-id", &both], vec![]),
        (vec![], vec![("CLIENT_ID", both.as_str())]),
    ] {
        let (_dir, server) = serving(&args, &variables);
        assert_eq!(server.add_version(&one, NIL, b"1").status, 200);
        assert_eq!(server.add_version(&two, NIL, b"2").status, 200);
        assert_eq!(server.add_version(&other, NIL, b"3").status, 403);
        assert_eq!(server.get_child(&other, NIL).status, 403);
        assert!(!server.banner.contains(&one), "an allowed id is a credential and stays out of the log");
    }
}

#[test]
fn an_empty_allow_list_is_an_error_and_not_everybody() {
    for (args, variables) in [
        (["-C", ""].as_slice(), [].as_slice()),
        (&[], &[("CLIENT_ID", "")]),
        (&[], &[("CLIENT_ID", "nonsense")]),
    ] {
        let output = refused(args, variables);
        assert_eq!(output.status.code(), Some(2), "{args:?} {variables:?}");
    }
    assert!(stderr(&refused(&[], &[("CLIENT_ID", "")])).contains("leave CLIENT_ID unset"));
}

/// Its PostgreSQL build reads its database from there: an empty store in that place would fork the history of every device.
#[test]
fn the_database_of_the_original_is_not_passed_over() {
    let output = refused(&[], &[("CONNECTION", "postgresql://user:secret@db.example/taskchampion")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("seabed import taskchampion"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("secret"));
    let (_dir, server) = serving(&[], &[("CONNECTION", "")]);
    assert_eq!(server.add_version(&Uuid::new_v4().to_string(), NIL, b"x").status, 200);
}

#[test]
fn clients_are_created_unless_told_otherwise() {
    for (args, variables, status) in [
        ([].as_slice(), [].as_slice(), 200),
        (&[], &[("CREATE_CLIENTS", "true")], 200),
        (&[], &[("CREATE_CLIENTS", "false")], 404),
        (&["--no-create-clients"], &[], 404),
        (&["--no-create-clients"], &[("CREATE_CLIENTS", "true")], 404),
    ] {
        let (_dir, server) = serving(args, variables);
        let answer = server.add_version(&Uuid::new_v4().to_string(), NIL, b"x");
        assert_eq!(answer.status, status, "{args:?} {variables:?}");
    }
    for value in ["maybe", "1", "False", ""] {
        assert_eq!(refused(&[], &[("CREATE_CLIENTS", value)]).status.code(), Some(2), "{value:?}");
    }
}

/// What five pushes after a snapshot are asked for.
fn urgencies(server: &Server) -> Vec<String> {
    let client = Uuid::new_v4().to_string();
    let pushed = |parent: &str| {
        let answer: Answer =
            server.ask("POST", &format!("/v1/client/add-version/{parent}"), &client, SEGMENT, b"x");
        assert_eq!(answer.status, 200);
        let request = answer.header("x-snapshot-request").unwrap_or("none").to_owned();
        (answer.header("x-version-id").unwrap().to_owned(), request)
    };
    let (mut latest, first) = pushed(NIL);
    assert_eq!(first, "urgency=high", "a client without a snapshot is always asked for one");
    let path = format!("/v1/client/add-snapshot/{latest}");
    assert_eq!(server.ask("POST", &path, &client, SNAPSHOT, b"snapshot").status, 200);
    let mut asked = Vec::new();
    for _ in 0..5 {
        let (version, request) = pushed(&latest);
        latest = version;
        asked.push(request);
    }
    asked
}

#[test]
fn snapshots_are_asked_for_after_so_many_versions() {
    let expected = ["none", "none", "urgency=low", "urgency=high", "urgency=high"];
    for (args, variables) in
        [(["--snapshot-versions", "2"].as_slice(), [].as_slice()), (&[], &[("SNAPSHOT_VERSIONS", "2")])]
    {
        let (_dir, server) = serving(args, variables);
        assert_eq!(urgencies(&server), expected);
    }
    let (_dir, server) = serving(&[], &[]);
    assert_eq!(urgencies(&server), ["none"; 5]);
    assert_eq!(refused(&["--snapshot-versions", "many"], &[]).status.code(), Some(2));
}

#[test]
fn snapshots_are_asked_for_after_so_many_days() {
    for (args, variables) in
        [(["--snapshot-days", "0"].as_slice(), [].as_slice()), (&[], &[("SNAPSHOT_DAYS", "0")])]
    {
        let (_dir, server) = serving(args, variables);
        assert_eq!(urgencies(&server), ["urgency=high"; 5]);
    }
    assert_eq!(refused(&[], &[("SNAPSHOT_DAYS", "-1")]).status.code(), Some(2));
}

#[test]
fn the_log_has_a_line_a_request_when_asked_and_calls_nothing_ordinary_an_error() {
    let client = Uuid::new_v4().to_string();
    let (_dir, server) = serving(&[], &[("RUST_LOG", "info")]);
    let version = server.add_version(&client, NIL, b"x").header("x-version-id").unwrap().to_owned();
    assert_eq!(server.get_child(&client, &version).status, 404);
    let (_, logs) = server.terminate();
    let line = logs.lines().find(|line| line.contains("/get-child-version/")).unwrap();
    for part in ["INFO", "GET", "404", &client[..8], "ms=", "bytes="] {
        assert!(line.contains(part), "{line} lacks {part}");
    }
    assert!(!logs.contains(&client), "a client id is a credential");
    assert!(!logs.contains("ERROR") && !logs.contains("WARN"), "{logs}");

    let (_dir, server) = serving(&[], &[]);
    assert_eq!(server.get_child(&client, NIL).status, 404);
    assert_eq!(server.terminate().1, "", "quiet unless asked");
    let (_dir, server) = serving(&[], &[("RUST_LOG", "=,=")]);
    assert!(server.terminate().1.contains("RUST_LOG"));
}

#[test]
fn wrong_usage_is_2_and_failure_to_start_is_1() {
    for args in
        [["--nonsense"].as_slice(), &["-l", "nonsense"], &["-l", ":80"], &["-l", "host:http"], &["extra"]]
    {
        assert_eq!(refused(args, &[]).status.code(), Some(2), "{args:?}");
    }
    for args in [["-l", "192.0.2.1:8080"].as_slice(), &["-l", "name.invalid:8080"]] {
        let output = refused(args, &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(said.starts_with("error: cannot listen on") && said.lines().count() == 1, "{said}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = run(file.path(), &["serve", "-l", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("not a directory"), "{}", stderr(&output));
}

#[test]
fn help_and_version_are_where_they_were() {
    for flag in ["-h", "--help"] {
        let output = seabed().args(["serve", flag]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        // Long lines are folded anywhere.
        let help = stdout(&output).split_whitespace().collect::<Vec<_>>().join(" ");
        for variable in
            ["LISTEN", "CLIENT_ID", "CREATE_CLIENTS", "SNAPSHOT_VERSIONS", "SNAPSHOT_DAYS", "DATA_DIR"]
        {
            assert!(help.contains(&format!("[env: {variable}")), "{flag}: {variable}");
        }
    }
    for args in [["-V"].as_slice(), &["--version"], &["serve", "-V"]] {
        assert!(stdout(&seabed().args(args).output().unwrap()).contains(env!("CARGO_PKG_VERSION")));
    }
}
