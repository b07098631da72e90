//! A crowd of automerge-repo's clients: `live-load URL one|many|documents COUNT SECONDS PID COUNT_FILE`.
//!
//! COUNT clients edit one document, or one each; an edit is over when the server's sync message names heads that hold it. `documents`
//! makes so many documents from one connection, one after the other, and leaves. PID and COUNT_FILE say which server's CPU and flushes are
//! counted. Prints a line of JSON. The clients take a good part of the machine: read the server's CPU and flushes for an edit.

#[path = "../../../../crates/seabed-automerge/tests/common/client.rs"]
mod client;

use ciborium::value::Value;
use client::{Client, text};
use futures_util::FutureExt as _;
use measure::{Laps, Meter, Observed};
use seabed_automerge::DocumentId;

type Said = std::collections::BTreeMap<String, Value>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, case, count, seconds, pid, flush_count] = arguments.as_slice() else {
        eprintln!("usage: live-load URL one|many|documents COUNT SECONDS PID COUNT_FILE");
        std::process::exit(2);
    };
    let count: u64 = count.parse().expect("a number");
    let pids = vec![pid.parse().expect("a pid")];
    let observed = Observed::Server { pids, flush_count: flush_count.into() };
    if case == "documents" {
        return documents(url, count).await;
    }
    let shared = fresh();
    let mut clients = Vec::new();
    for number in 0..count {
        let document = if case == "one" { shared } else { fresh() };
        let mut client = Client::join(url, &format!("{document}-{number}")).await;
        // Everybody is known to the server before the first lap.
        edit(&mut client, document, number, 0).await;
        clients.push((client, document));
        // Who does not read answers no pings, and a server gives it up.
        for (client, document) in &mut clients {
            while let Some(message) = client.next().now_or_never() {
                take(client, *document, message).await;
            }
        }
    }
    let meter = Meter::start(seconds.parse().expect("seconds"), observed);
    let crowd = tokio::task::LocalSet::new();
    let running: Vec<_> = (0..)
        .zip(clients)
        .map(|(number, (client, document))| crowd.spawn_local(run(client, document, number, meter.laps())))
        .collect();
    crowd.await;
    let mut laps = Vec::new();
    for client in running {
        laps.push(client.await.expect("no panic"));
    }
    meter.print(&format!("{case}_{count}"), laps, &[]);
}

async fn run(mut client: Client, document: DocumentId, number: u64, mut laps: Laps) -> Laps {
    while let Some(lap) = laps.next() {
        edit(&mut client, document, number, lap + 1).await;
    }
    laps
}

/// One edit, until the server has named it.
async fn edit(client: &mut Client, document: DocumentId, number: u64, lap: u64) {
    client.edit(document, &format!("{number}-{}", lap % 20), &format!("{lap:016}"));
    let ours = client.document(document).0.get_heads();
    client.say(document, "sync").await;
    loop {
        let (automerge, state) = client.document(document);
        let theirs = state.their_heads.clone().unwrap_or_default();
        // An edit that is not behind heads that are known here may not be theirs yet.
        let known =
            !theirs.is_empty() && theirs.iter().all(|head| automerge.get_change_meta_by_hash(head).is_some());
        if known && !automerge.get_changes_meta(&theirs).iter().any(|change| ours.contains(&change.hash)) {
            return;
        }
        let message = client.next().await;
        take(client, document, message).await;
    }
}

/// What the server says.
async fn take(client: &mut Client, document: DocumentId, message: Option<Said>) {
    let message = message.unwrap_or_else(|| panic!("the server has ended a connection of {document}"));
    if text(&message, "type") == "sync" {
        client.hear(&message).await;
    }
}

async fn documents(url: &str, count: u64) {
    let mut client = Client::join(url, "documents").await;
    for number in 0..count {
        let document = fresh();
        for lap in 0..10 {
            edit(&mut client, document, number, lap).await;
        }
        client.documents.clear();
    }
    println!(r#"{{"documents":{count}}}"#);
}

fn fresh() -> DocumentId {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a random id");
    let digits = text.trim().replace('-', "");
    DocumentId::from_bytes(u128::from_str_radix(&digits, 16).expect("hexadecimal").to_be_bytes())
}
