//! One participant in one channel, and what it is asked.

use std::sync::Arc;

use seabed_sds::core::wire::Dialect;
use seabed_sds::core::{Channel, Config, Reception, derive_message_id};
use seabed_sds::{Clock, ConfigPatch, Events, Happened, KernelStore, Receipt, SdsManager, Sent, What};
use serde::Deserialize;
use serde_json::{Value, json};

use super::PeerClock;
use super::codec::DialectName;
use super::reply::{self, Refusal};

/// What a participant is made of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Init {
    channel: String,
    participant: String,
    dialect: DialectName,
    profile: ProfileName,
    pub(super) store: Option<String>,
    #[serde(default)]
    config: ConfigPatch,
    pub(super) clock: Option<u64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProfileName {
    Seabed,
    Nim,
}

/// What a participant is asked.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    Send { message_id: Option<String>, content: String },
    SendEphemeral { content: String },
    Sync {},
    Recv { wire: String },
    MarkMet { message_ids: Vec<String> },
    SetHint { message_id: String, hint: String },
    Tick {},
    NextDue {},
    State {},
    Events {},
    RemoveChannel {},
}

impl Request {
    pub(super) fn read(op: &str, mut fields: Value) -> Result<Self, Refusal> {
        fields.as_object_mut().map(|fields| fields.insert("op".to_owned(), op.into()));
        reply::fields(fields)
    }
}

pub(super) struct Participant {
    manager: SdsManager,
    events: Events,
    channel: String,
    clock: Arc<PeerClock>,
}

impl Participant {
    /// The participant, and whether its channel was there.
    pub(super) fn open(
        init: Init,
        store: Option<seabed_kv::Store>,
        clock: Arc<PeerClock>,
    ) -> Result<(Self, bool), Refusal> {
        let dialect = Dialect::from(init.dialect);
        let mut config = match (init.profile, dialect) {
            (ProfileName::Seabed, dialect) => Config::seabed(dialect),
            (ProfileName::Nim, Dialect::Nim) => Config::nim(),
            (ProfileName::Nim, Dialect::Spec) => {
                return Err(Refusal::request("profile nim speaks dialect nim"));
            }
        };
        init.config.apply(&mut config);
        config.repair &= !init.participant.is_empty();
        let mut builder = SdsManager::builder(init.participant.as_str()).config(config).clock(clock.clone());
        if let Some(store) = store {
            let kept =
                KernelStore::open(&store).wait().map_err(|error| Refusal::request(error.to_string()))?;
            builder = builder.store(Arc::new(kept));
        }
        let manager = builder.build()?;
        let restored = manager.ensure_channel(init.channel.as_str()).wait()?;
        let events = manager.events()?;
        Ok((Self { manager, events, channel: init.channel, clock }, restored))
    }

    pub(super) fn perform(&mut self, request: Request) -> Result<Value, Refusal> {
        let (manager, channel) = (self.manager.clone(), self.channel.as_str());
        let mut reply = match request {
            Request::Send { message_id, content } => {
                let content = reply::bytes("content", &content)?;
                let id = message_id.unwrap_or_else(|| self.derived_id(&content));
                sent(&manager.send(channel, id.as_str(), content).wait()?.release())
            }
            Request::SendEphemeral { content } => {
                let content = reply::bytes("content", &content)?;
                let id = self.derived_id(&content);
                sent(&manager.send_ephemeral(channel, id.as_str(), content).wait()?.release())
            }
            Request::Sync {} => {
                let sync = manager.send_sync(channel).wait()?.release();
                json!({ "wire": sync.map(|sync| hex::encode(sync.wire)) })
            }
            Request::Recv { wire } => {
                let wire = reply::bytes("wire", &wire)?;
                // A participant is in one channel: what is of another one would be kept where nobody can ask for it.
                let other =
                    manager.peek_channel_id(&wire).ok().filter(|id| id.as_bytes() != channel.as_bytes());
                if let Some(other) = other {
                    return Err(Refusal::request(format!(
                        "the message is of channel {other}, and not of {channel}"
                    )));
                }
                received(manager.receive(wire).wait()?.release())
            }
            Request::MarkMet { message_ids } => {
                let ids: Vec<_> = message_ids.iter().map(|id| id.as_str().into()).collect();
                manager.mark_dependencies_met(channel, ids).wait()?;
                json!({})
            }
            Request::SetHint { message_id, hint } => {
                let hint = reply::bytes("hint", &hint)?;
                manager.set_retrieval_hint(channel, message_id.as_str(), hint).wait()?;
                return Ok(json!({}));
            }
            Request::Tick {} => {
                manager.tick().wait()?;
                let happened = self.drain();
                let broadcast = happened.iter().filter_map(|item| match &item.what {
                    What::Broadcast(broadcast) => Some(reply::broadcast(broadcast)),
                    _ => None,
                });
                let broadcast: Vec<_> = broadcast.collect();
                return Ok(json!({ "broadcast": broadcast, "events": events(&happened) }));
            }
            Request::NextDue {} => {
                let due = manager.status(channel).wait()?.and_then(|status| status.next_due_ms);
                return Ok(json!({ "at": due }));
            }
            Request::State {} => {
                let state = manager.read(channel, state).wait()?;
                return state.ok_or_else(|| Refusal::request("the channel was removed"));
            }
            Request::Events {} => json!({}),
            Request::RemoveChannel {} => {
                manager.remove_channel(channel).wait()?;
                return Ok(json!({}));
            }
        };
        let happened = self.drain();
        if let Some(reply) = reply.as_object_mut() {
            reply.insert("events".to_owned(), events(&happened).into());
        }
        Ok(reply)
    }

    fn derived_id(&self, content: &[u8]) -> String {
        // With a clock that stands still, equal contents are told apart by what was sent before.
        let lamport = self.manager.status(self.channel.as_str()).wait().ok().flatten();
        let now_ns = u128::from(self.clock.now_ms()) * 1_000_000
            + u128::from(lamport.map_or(0, |status| status.lamport));
        derive_message_id(self.manager.participant(), now_ns, content).to_string()
    }

    fn drain(&mut self) -> Vec<Happened> {
        std::iter::from_fn(|| self.events.try_next()).collect()
    }
}

fn events(happened: &[Happened]) -> Vec<Value> {
    happened.iter().filter_map(|item| reply::event(&item.what)).collect()
}

fn sent(sent: &Sent) -> Value {
    json!({ "message_id": sent.message_id.to_string(), "wire": hex::encode(&sent.wire) })
}

fn received(receipt: Receipt) -> Value {
    let received = match receipt {
        Receipt::Message(received) => received,
        Receipt::UnknownChannel(_) => return json!({ "outcome": "unknown_channel" }),
    };
    let outcome = match received.reception {
        Reception::Delivered => "delivered",
        Reception::Buffered => "buffered",
        Reception::Duplicate => "duplicate",
        Reception::AlreadyBuffered => "already_buffered",
        Reception::SyncProcessed => "sync_processed",
        Reception::OwnRestored => "own_restored",
        Reception::Ephemeral => "ephemeral",
        Reception::Dropped => "dropped",
    };
    let mut told = json!({ "outcome": outcome, "missing": received.missing.iter().map(reply::entry).collect::<Vec<_>>() });
    if let (Some(content), Some(told)) = (&received.message.content, told.as_object_mut()) {
        told.insert("content".to_owned(), hex::encode(content).into());
    }
    told
}

fn state(channel: &Channel) -> Value {
    let id = |id: &seabed_sds::core::MessageId| id.to_string();
    json!({
        "lamport": channel.lamport(),
        "log": channel.log().map(|entry| json!([entry.message.lamport, id(&entry.message.message_id)])).collect::<Vec<_>>(),
        "outgoing": channel.outgoing().map(|(message, state)| json!({
            "message_id": id(&message.message_id),
            "attempts": state.attempts,
            "possible_acks": state.possible_acks(),
        })).collect::<Vec<_>>(),
        "incoming": channel.incoming().map(|(entry, missing)| json!({
            "message_id": id(&entry.message.message_id),
            "missing": missing.into_iter().map(id).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "repair_out": channel.missing().filter_map(|entry| Some(json!({
            "message_id": id(&entry.entry.message_id),
            "t_req": entry.request_due_ms?,
        }))).collect::<Vec<_>>(),
        "repair_in": channel.answers().map(|entry| json!({
            "message_id": id(&entry.entry.message_id),
            "t_resp": entry.due_ms,
        })).collect::<Vec<_>>(),
    })
}
