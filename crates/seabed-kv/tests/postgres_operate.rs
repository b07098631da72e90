//! What the page for operators says about PostgreSQL: who needs which rights, and an address that names the standby, too.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, reason = "helpers of tests; a failure is the test's")]

mod dialects;

use std::path::Path;

use dialects::{Dialect, database, eventually, in_each_dialect};
use seabed_kv::{Batch, Durability, Store};
use seabed_testkit::postgres::Cluster;

in_each_dialect!(
    servers_run_as_a_role_that_owns_nothing,
    an_address_with_two_hosts_leads_to_the_one_that_takes_writes,
);

/// The same database by another role.
fn by(role: &str, url: &str) -> String {
    url.replacen("postgres@", &format!("{role}@"), 1)
}

/// Everything that a server asks of its database.
fn use_everything(store: &Store) {
    for id in ["t", "other"] {
        let tenant = store.open(id).wait().unwrap();
        tenant.put("c", b"k", b"x").wait().unwrap();
        let mut batch = Batch::new();
        batch.check_exists("c", b"k").put("c", b"l", b"y").delete_prefix("d", b"");
        assert!(tenant.apply(batch, Durability::Relaxed).wait().unwrap().is_applied());
        tenant.flush().wait().unwrap();
        assert!(tenant.delete("c", b"l").wait().unwrap());
        assert_eq!(tenant.snapshot().wait().unwrap().get("c", b"k").wait().unwrap(), Some(b"x".to_vec()));
        assert!(tenant.verify().wait().unwrap().findings.is_empty());
    }
    store.drop_tenant("other").wait().unwrap();
    assert_eq!(store.list().wait().unwrap().len(), 1);
    store.close().wait().unwrap();
}

fn servers_run_as_a_role_that_owns_nothing(dialect: Dialect) {
    let cluster = Cluster::start_with(&["fsync=off"]);
    // As createuser and createdb do.
    cluster.sql("postgres", "CREATE ROLE seabed LOGIN");
    cluster.sql("postgres", "CREATE DATABASE seabed OWNER seabed");
    let url = cluster.url("seabed");
    let owner = dialect.store(&by("seabed", &url));
    use_everything(&owner);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operate/postgres.md");
    let page = std::fs::read_to_string(page).unwrap();
    let commands: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with("CREATE ROLE") || line.starts_with("GRANT"))
        .collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    for command in commands {
        cluster.sql("seabed", command);
    }
    use_everything(&dialect.store(&by("worker", &url)));
    // Without a schema, somebody must be allowed to make it.
    let empty = cluster.create_database();
    let error = dialect.store(&by("worker", &empty)).own().unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{dialect:?}: {error}");
    assert_eq!(
        cluster.sql(database(&empty), "SELECT count(*) FROM pg_namespace WHERE nspname = 'seabed'"),
        "0"
    );
}

fn an_address_with_two_hosts_leads_to_the_one_that_takes_writes(dialect: Dialect) {
    let mut primary = Cluster::start();
    let standby = primary.standby();
    let url = |first: &Cluster, second: &Cluster| {
        format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres", first.port(), second.port())
    };
    // In either order.
    let stores = [url(&primary, &standby), url(&standby, &primary)].map(|url| dialect.store(&url));
    let tenants = stores.each_ref().map(|store| store.open("t").wait().unwrap());
    for (tenant, key) in tenants.iter().zip([b"1", b"2"]) {
        tenant.put("c", key, b"before").wait().unwrap();
    }
    primary.kill9();
    standby.promote();
    // It waits for nobody, as after a failover whose operator has said so.
    for (tenant, key) in tenants.iter().zip([b"3", b"4"]) {
        eventually(|| tenant.put("c", key, b"after").wait());
        for key in [b"1", b"2"] {
            assert_eq!(tenant.get("c", key).wait().unwrap(), Some(b"before".to_vec()), "{dialect:?}");
        }
    }
}
