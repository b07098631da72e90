//! `seabed sds peer`: participants driven by JSON lines, for scripts and for tests in other languages.

mod codec;
mod participant;
mod reply;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use seabed_sds::{Clock, SystemClock};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::output;
use crate::store_url::StoreUrl;
use participant::{Init, Participant, Request};
use reply::Refusal;

/// The longest line that is read, in bytes: the largest message in hexadecimal, and room for everything around it.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "\
One JSON object a line on standard input, one reply a line on standard output; docs/protocols/sds.md has them all.

Examples:
  echo '{\"op\":\"hello\"}' | seabed sds peer
  seabed sds peer < requests.jsonl > replies.jsonl")]
pub(crate) struct PeerArgs {}

pub(crate) fn command(_: &PeerArgs) -> anyhow::Result<ExitCode> {
    let mut peers = Peers::default();
    let mut input = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let read = std::io::Read::take(&mut input, LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let whole = line.last() == Some(&b'\n') || (read as u64) < LINE_BYTES_MAX;
        if !whole {
            input.skip_until(b'\n')?;
        }
        if whole && line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let (reply, goes_on) = if whole { peers.answer(&line) } else { (too_long(), true) };
        output::line(reply.to_string())?;
        if !goes_on {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn too_long() -> Value {
    reply::refused(&Refusal::request(format!("the line is longer than {LINE_BYTES_MAX} bytes")))
}

/// The participants of this process, and the time that they share.
#[derive(Default)]
struct Peers {
    participants: BTreeMap<String, Participant>,
    stores: BTreeMap<String, seabed_kv::Store>,
    clock: Arc<PeerClock>,
}

/// A clock that can be frozen, at any time but the last one.
#[derive(Debug)]
struct PeerClock {
    /// [`RUNNING`] while it is the system's.
    frozen_ms: AtomicU64,
}

/// No time that a clock stands at.
const RUNNING: u64 = u64::MAX;

impl Default for PeerClock {
    fn default() -> Self {
        Self { frozen_ms: AtomicU64::new(RUNNING) }
    }
}

impl Clock for PeerClock {
    fn now_ms(&self) -> u64 {
        match self.frozen_ms.load(Ordering::SeqCst) {
            RUNNING => SystemClock.now_ms(),
            frozen => frozen,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockRequest {
    /// `null` lets it go.
    set: Option<u64>,
    advance: Option<u64>,
}

impl Peers {
    /// The reply to a line, and whether another one is wanted.
    fn answer(&mut self, line: &[u8]) -> (Value, bool) {
        let mut request: Map<String, Value> = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                return (reply::refused(&Refusal::request(format!("no JSON object: {error}"))), true);
            }
        };
        let id = request.remove("id");
        let op = request.remove("op");
        let op = op.as_ref().and_then(Value::as_str).unwrap_or_default();
        let peer = match request.remove("peer") {
            None => Ok("default".to_owned()),
            Some(Value::String(peer)) => Ok(peer),
            Some(_) => Err(Refusal::request("`peer` is no text")),
        };
        let done = peer.and_then(|peer| self.perform(op, &peer, request));
        let mut reply = match done {
            Ok(mut reply) => {
                reply.as_object_mut().map(|reply| reply.insert("ok".to_owned(), true.into()));
                reply
            }
            Err(refusal) => reply::refused(&refusal),
        };
        if let (Some(id), Some(reply)) = (id, reply.as_object_mut()) {
            reply.insert("id".to_owned(), id);
        }
        (reply, op != "quit")
    }

    fn perform(&mut self, op: &str, peer: &str, request: Map<String, Value>) -> Result<Value, Refusal> {
        let fields = Value::Object(request);
        match op {
            "hello" => reply::nothing(fields).map(|()| {
                json!({ "impl": "seabed", "version": env!("CARGO_PKG_VERSION"), "dialects": ["nim", "spec"] })
            }),
            "quit" => reply::nothing(fields).map(|()| json!({})),
            "clock" => {
                let sets = fields.get("set").is_some();
                let ClockRequest { set, advance } = reply::fields(fields)?;
                let now = self.clock.now_ms();
                match (sets, advance) {
                    (true, None) => self.clock.frozen_ms.store(set.unwrap_or(RUNNING), Ordering::SeqCst),
                    (false, Some(by)) => self.clock.frozen_ms.store(now.saturating_add(by), Ordering::SeqCst),
                    _ => return Err(Refusal::request("say either `set` or `advance`")),
                }
                Ok(json!({ "now": self.clock.now_ms() }))
            }
            "init" => {
                let init: Init = reply::fields(fields)?;
                if let Some(clock) = init.clock {
                    self.clock.frozen_ms.store(clock, Ordering::SeqCst);
                }
                let store = match &init.store {
                    Some(directory) => Some(self.store(directory)?),
                    None => None,
                };
                // The one before lets go of its channel first.
                self.participants.remove(peer);
                let (participant, restored) = Participant::open(init, store, self.clock.clone())?;
                self.participants.insert(peer.to_owned(), participant);
                Ok(json!({ "restored": restored }))
            }
            "decode" => codec::decode(&reply::fields(fields)?),
            "encode" => codec::encode(&reply::fields(fields)?),
            "hash" => codec::hash(&reply::fields(fields)?),
            "bloom" => codec::bloom(&reply::fields(fields)?),
            "" => Err(Refusal::request("`op` is missing")),
            _ => {
                let request = Request::read(op, fields)?;
                let known = self.participants.get_mut(peer);
                known.ok_or_else(|| Refusal::request(format!("no peer {peer:?}: init it first")))?.perform(request)
            }
        }
    }

    /// The store in a directory: one for all participants that name it.
    fn store(&mut self, directory: &str) -> Result<seabed_kv::Store, Refusal> {
        if let Some(store) = self.stores.get(directory) {
            return Ok(store.clone());
        }
        let store = crate::open::store(&StoreUrl::Sqlite(directory.into()))
            .map_err(|error| Refusal::request(output::sentence(&error)))?;
        self.stores.insert(directory.to_owned(), store.clone());
        Ok(store)
    }
}
