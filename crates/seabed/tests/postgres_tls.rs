//! The way to a database is encrypted and its certificate verified, or there is no way.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::path::Path;
use std::process::{Output, Stdio};

use common::{seabed, stderr};
use seabed_kv::Store;
use seabed_testkit::postgres::Cluster;

/// A database with a store in it, and what follows the user in its URL.
fn database(cluster: &Cluster) -> String {
    let url = cluster.create_database();
    let store = Store::postgres(&url).unwrap();
    store.open("t").wait().unwrap();
    store.close().wait().unwrap();
    format!("{}/{}", cluster.port(), url.rsplit('/').next().unwrap())
}

/// Lists the tenants as the role that may come over TLS alone.
fn tenants(place: &str, authority: Option<&Path>) -> Output {
    let mut command = seabed();
    command.args(["tenants", "--json"]).env("SEABED_STORE", format!("postgres://seabed@{place}"));
    match authority {
        Some(authority) => command.env("SSL_CERT_FILE", authority),
        None => command.env_remove("SSL_CERT_FILE"),
    };
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_database_is_reached_over_tls_when_its_certificate_holds_and_else_not() {
    let cluster = Cluster::start_tls();
    let place = database(&cluster);
    let authority = cluster.authority();
    for mode in ["require", "verify-full", "prefer"] {
        let output = tenants(&format!("localhost:{place}?sslmode={mode}"), Some(&authority));
        assert!(output.status.success(), "{mode}: {}", stderr(&output));
    }
    let refused = |place: &str, authority: Option<&Path>, why: &str| {
        let output = tenants(place, authority);
        assert_eq!(output.status.code(), Some(1), "{place}");
        assert!(stderr(&output).contains(why), "{place}: {}", stderr(&output));
    };
    // The certificate is for a name.
    refused(&format!("127.0.0.1:{place}?sslmode=verify-full"), Some(&authority), "certificate");
    refused(&format!("127.0.0.1:{place}?sslmode=require"), Some(&authority), "certificate");
    // Nobody trusts who signed it.
    refused(&format!("localhost:{place}?sslmode=require"), None, "certificate");
    // The server wants encryption; the address of this machine does not ask for it.
    refused(&format!("localhost:{place}?sslmode=disable"), Some(&authority), "no encryption");
    refused(&format!("localhost:{place}"), Some(&authority), "no encryption");
    // An encryption that is wanted is not gone without.
    let plain = Cluster::start();
    plain.sql("postgres", "CREATE ROLE seabed SUPERUSER LOGIN");
    let place = database(&plain);
    refused(&format!("localhost:{place}?sslmode=require"), Some(&authority), "TLS");
    assert!(tenants(&format!("localhost:{place}"), None).status.success());
}
