//! Any number of channels of one participant.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use seabed_sds_core::wire;
use seabed_sds_core::{
    Broadcast, CONTENT_BYTES_MAX, Channel, ChannelId, MessageId, Outcome, Output, ParticipantId, Received,
    Released,
};

use crate::builder::Builder;
use crate::driver::{Guard, Loaded, Maker};
use crate::events::Events;
use crate::request::{Performed, Request};
use crate::shared::Shared;
use crate::status::ChannelStatus;
use crate::timer::{Sweeps, Timer};
use crate::{Answer, Callbacks, Error, Op, Result};

/// The channels of one participant: each is loaded when it is first used, and each operation on it is one commit, after which its
/// effects leave. Cheap to clone; every clone is the same manager. [`Builder`] makes one.
///
/// Operations on one channel happen in the order in which they came for it; channels never wait for each other. Every operation
/// answers [`Closed`](Error::Closed) after [`cleanup`](SdsManager::cleanup), and waits while the reader of a full
/// [stream](SdsManager::events) has left no room.
///
/// ```
/// use seabed_sds::SdsManager;
///
/// let alice = SdsManager::builder("alice").build()?;
/// let bob = SdsManager::builder("bob").build()?;
/// let sent = alice.send("room", "m1", b"hello").wait()?;
/// let received = bob.receive(sent.release().wire).wait()?.release();
/// assert_eq!(received.message().unwrap().message.content.as_deref(), Some(b"hello".as_slice()));
/// # Ok::<(), seabed_sds::Error>(())
/// ```
#[derive(Clone)]
pub struct SdsManager {
    shared: Arc<Shared>,
    timer: Arc<Timer>,
}

/// A message that was sent: what every other participant is to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its name.
    pub message_id: MessageId,
    /// Its bytes.
    pub wire: Vec<u8>,
}

/// What became of bytes that were received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// Their channel has looked at them.
    Message(Received),
    /// They are of a channel that is not known here and that they may not make ([`UnknownChannels`](crate::UnknownChannels)). Nothing
    /// was stored.
    UnknownChannel(ChannelId),
}

impl Receipt {
    /// The message, when its channel is known.
    pub fn message(&self) -> Option<&Received> {
        match self {
            Self::Message(received) => Some(received),
            Self::UnknownChannel(_) => None,
        }
    }
}

impl SdsManager {
    /// What makes a manager. An empty participant takes no part in repair and has to be asked for with `repair: false`.
    pub fn builder(participant: impl Into<ParticipantId>) -> Builder {
        Builder::new(participant.into())
    }

    pub(crate) fn new(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        Self { timer: Arc::new(Timer::new(shared.clone())), shared }
    }

    /// Who this is.
    pub fn participant(&self) -> &ParticipantId {
        &self.shared.participant
    }

    /// Says something: at least one byte, under a name that is unique in the channel for ever. A channel that is not in memory is
    /// loaded, or made. The bytes that are answered are for every other participant; they are in the stream, too.
    ///
    /// # Errors
    /// Empty or too large content, a name that was used before, too much that nobody has acknowledged, or the store.
    pub fn send(
        &self,
        channel: impl Into<ChannelId>,
        message_id: impl Into<MessageId>,
        content: impl Into<Vec<u8>>,
    ) -> Op<Answer<Sent>> {
        let request = Request::Send { message_id: message_id.into(), content: content.into() };
        self.operation(channel.into(), request, |released| sent(released).ok_or(Error::Closed))
    }

    /// Says something that nobody has to remember; dialect S only. Nothing is stored.
    ///
    /// # Errors
    /// Empty or too large content, a dialect without such messages, or the store when the channel is loaded.
    pub fn send_ephemeral(
        &self,
        channel: impl Into<ChannelId>,
        message_id: impl Into<MessageId>,
        content: impl Into<Vec<u8>>,
    ) -> Op<Answer<Sent>> {
        let request = Request::SendEphemeral { message_id: message_id.into(), content: content.into() };
        self.operation(channel.into(), request, |released| sent(released).ok_or(Error::Closed))
    }

    /// Tells the others what this participant knows, now; answers None when there is nothing to tell.
    ///
    /// # Errors
    /// A dialect or profile without such messages, or the store.
    pub fn send_sync(&self, channel: impl Into<ChannelId>) -> Op<Answer<Option<Sent>>> {
        self.operation(channel.into(), Request::SendSync, |released| Ok(sent(released)))
    }

    /// Takes in what came from the network, whichever channel it is of.
    ///
    /// # Errors
    /// Bytes that are no message, or the store. Then nothing of the message is kept, and a later copy is a new one.
    pub fn receive(&self, wire: impl Into<Vec<u8>>) -> Op<Answer<Receipt>> {
        self.receive_from(wire, None)
    }

    /// The same, with what helps to fetch the same bytes again, when the transport knows it.
    ///
    /// # Errors
    /// As [`receive`](SdsManager::receive).
    pub fn receive_from(&self, wire: impl Into<Vec<u8>>, hint: Option<Vec<u8>>) -> Op<Answer<Receipt>> {
        let (this, wire) = (self.clone(), wire.into());
        self.op(async move {
            let channel = this.peek_channel_id(&wire)?;
            let request = Request::Receive { wire, hint };
            match this.perform(&channel, &request).await? {
                Performed::Done(answer) => answer.try_map(|released| match released.outcome {
                    Outcome::Received(received) => Ok(Receipt::Message(received)),
                    _ => Err(Error::Closed),
                }),
                Performed::UnknownChannel => Ok(Answer::Committed(Receipt::UnknownChannel(channel))),
            }
        })
    }

    /// Declares dependencies met: the application has got these messages by other means, or does without them.
    ///
    /// # Errors
    /// A channel that is not there, more ids than a call may name, or the store.
    pub fn mark_dependencies_met(
        &self,
        channel: impl Into<ChannelId>,
        message_ids: impl Into<Vec<MessageId>>,
    ) -> Op<Answer<()>> {
        let request = Request::MarkDependenciesMet { message_ids: message_ids.into() };
        self.operation(channel.into(), request, |_| Ok(()))
    }

    /// Says where a message of the log, or one that waits, can be fetched again.
    ///
    /// # Errors
    /// A channel or a message that is not there, a hint that is too long, or the store.
    pub fn set_retrieval_hint(
        &self,
        channel: impl Into<ChannelId>,
        message_id: impl Into<MessageId>,
        hint: impl Into<Vec<u8>>,
    ) -> Op<Answer<()>> {
        let request = Request::SetRetrievalHint { message_id: message_id.into(), hint: hint.into() };
        self.operation(channel.into(), request, |_| Ok(()))
    }

    /// Loads a channel, or makes it; answers whether it was in memory or the store. Nothing is written.
    ///
    /// # Errors
    /// The store's.
    pub fn ensure_channel(&self, channel: impl Into<ChannelId>) -> Op<bool> {
        let (shared, channel) = (self.shared.clone(), channel.into());
        self.op(async move {
            shared.require_open()?;
            let mut guard = shared.enter(&channel).await?;
            let loaded = guard.load(|| Some(Maker::Program)).await?;
            guard.settle();
            Ok(loaded == Loaded::There)
        })
    }

    /// Loads every channel of the store, so that what is due in them happens; answers how many there are.
    ///
    /// # Errors
    /// The store's, of the first channel that failed; the others are loaded all the same.
    pub fn restore(&self) -> Op<usize> {
        let this = self.clone();
        self.op(async move {
            this.shared.require_open()?;
            let nowhere = ChannelId::default();
            let channels = this.shared.store.list().await.map_err(Error::persistence(&nowhere))?;
            let mut first_failure = Ok(());
            for channel in &channels {
                let loaded = this.ensure_channel(channel.clone()).await;
                first_failure = first_failure.and(loaded.map(drop));
            }
            first_failure.map(|()| channels.len())
        })
    }

    /// Removes a channel from memory and from the store, in one transaction, whether or not it is in memory. Ok when it is not there.
    /// What stands in line for the channel then is answered [`Removed`](Error::Removed); what comes later begins it anew.
    ///
    /// # Errors
    /// The store's; the channel is then still there, as far as its store has kept it.
    pub fn remove_channel(&self, channel: impl Into<ChannelId>) -> Op<()> {
        let (shared, channel) = (self.shared.clone(), channel.into());
        self.op(async move {
            shared.require_open()?;
            shared.enter(&channel).await?.remove().await
        })
    }

    /// Removes every channel, those in memory and those in the store.
    ///
    /// # Errors
    /// The first of the store's; the other channels are removed all the same. Call it again for those that are left.
    pub fn reset(&self) -> Op<()> {
        let this = self.clone();
        self.op(async move {
            this.shared.require_open()?;
            let nowhere = ChannelId::default();
            let listed = this.shared.store.list().await.map_err(Error::persistence(&nowhere));
            let (mut channels, mut first_failure) = match listed {
                Ok(channels) => (channels, Ok(())),
                Err(error) => (Vec::new(), Err(error)),
            };
            channels.extend(this.shared.registry.all().iter().map(|slot| slot.id.clone()));
            channels.sort();
            channels.dedup();
            for channel in channels {
                let removed = this.remove_channel(channel).await;
                first_failure = first_failure.and(removed);
            }
            first_failure
        })
    }

    /// What a channel holds, as numbers; `None` when it is neither in memory nor in the store.
    ///
    /// # Errors
    /// The store's.
    pub fn status(&self, channel: impl Into<ChannelId>) -> Op<Option<ChannelStatus>> {
        self.look(channel.into(), |guard| {
            let counters = guard.state.counters;
            guard.channel().map(|channel| ChannelStatus::of(channel, counters))
        })
    }

    /// Reads a channel as it is between two operations; `None` when it is neither in memory nor in the store. `read` runs under the
    /// channel's lock: it should be short, and cannot call back in.
    ///
    /// # Errors
    /// The store's.
    pub fn read<T: Send + 'static>(
        &self,
        channel: impl Into<ChannelId>,
        read: impl FnOnce(&Channel) -> T + Send + 'static,
    ) -> Op<Option<T>> {
        self.look(channel.into(), move |guard| guard.channel().map(read))
    }

    /// The channels in memory, in ascending order.
    pub fn channels(&self) -> Vec<ChannelId> {
        self.shared.registry.all().iter().map(|slot| slot.id.clone()).collect()
    }

    /// The channel that a message is of, without touching any.
    ///
    /// # Errors
    /// Bytes that are no message of a dialect that is read here.
    pub fn peek_channel_id(&self, wire: &[u8]) -> Result<ChannelId> {
        let peeked = wire::peek_channel_id(wire, self.shared.config.read);
        peeked.map(ChannelId::from).map_err(|error| Error::refused(&ChannelId::default())(error.into()))
    }

    /// The stream of everything that happens from now on. Somebody has to read it: see [`Events`].
    ///
    /// # Errors
    /// It has a reader already.
    pub fn events(&self) -> Result<Events> {
        self.shared.events.subscribe()
    }

    /// Sets nim-sds' six callbacks, replacing all of them.
    pub fn set_callbacks(&self, callbacks: Callbacks) {
        self.shared.dispatcher.set(callbacks);
    }

    /// How many callbacks have panicked. Each is logged.
    pub fn panicked_callbacks(&self) -> u64 {
        self.shared.dispatcher.panicked()
    }

    /// Does everything that is due, in every channel in memory at once; answers how many channels had something to do. For programs
    /// that keep the time themselves: others [`start`](SdsManager::start) the timer. What comes of it is in the stream. A channel whose store
    /// fails is logged and tried again later. It never waits for a full stream: what there is no room for stays due, so read and call it
    /// again.
    ///
    /// # Errors
    /// Only `Closed`.
    pub fn tick(&self) -> Op<usize> {
        let this = self.clone();
        self.op(async move {
            this.shared.require_open()?;
            let now_ms = this.shared.clock.now_ms();
            this.shared.tell_sync_due(now_ms);
            let due = this.shared.registry.due(now_ms);
            let channels = due.len();
            let mut sweeps = Sweeps::new(&this.shared, false);
            sweeps.add(due);
            std::future::poll_fn(|context| sweeps.poll(context)).await;
            Ok(channels)
        })
    }

    /// When [`tick`](SdsManager::tick) is wanted next, in milliseconds of Unix time; `None` when nothing is going to be due.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.shared.next_due_ms()
    }

    /// Starts the timer, a thread that does what is due when it is. Once is enough, twice is the same.
    ///
    /// # Errors
    /// `Closed`, and `InvalidArgument` when the system has no thread left.
    pub fn start(&self) -> Result<()> {
        self.shared.require_open()?;
        self.timer.start()
    }

    /// Stops the timer. What it has begun ends, at the latest with the next operation on that channel. Twice is the same.
    pub fn stop(&self) {
        self.timer.stop();
    }

    /// Ends: stops the timer, lets the commits in progress end, and forgets every channel in memory. What is stored stays. Later
    /// calls, and those that stand in line, answer `Closed`, the stream ends, and the callbacks are let go when they have been told what
    /// happened. Twice is fine; dropped before it is done, call it again.
    ///
    /// # Errors
    /// None; it answers a Result like every other operation.
    pub fn cleanup(&self) -> Op<()> {
        let this = self.clone();
        self.op(async move {
            this.shared.closed.store(true, Ordering::SeqCst);
            this.timer.stop();
            for slot in this.shared.registry.all() {
                if let Ok(mut guard) = slot.enter(&this.shared).await {
                    guard.leave();
                }
            }
            this.shared.events.close();
            this.shared.dispatcher.close();
            Ok(())
        })
    }

    fn op<T>(&self, future: impl Future<Output = Result<T>> + Send + 'static) -> Op<T> {
        Op::new(&self.shared, future)
    }

    fn operation<T: 'static>(
        &self,
        channel: ChannelId,
        request: Request,
        convert: impl FnOnce(Released) -> Result<T> + Send + 'static,
    ) -> Op<Answer<T>> {
        let this = self.clone();
        self.op(async move {
            match this.perform(&channel, &request).await? {
                Performed::Done(answer) => answer.try_map(convert),
                Performed::UnknownChannel => {
                    let message = format!("there is no channel {channel}; ensure it first, or send in it");
                    Err(Error::InvalidArgument(message))
                }
            }
        })
    }

    /// One operation on a channel, when those who listen have left room for what it brings about.
    async fn perform(&self, channel: &ChannelId, request: &Request) -> Result<Performed> {
        self.shared.require_open()?;
        self.shared.room().await;
        let hints = match request {
            // Not for what is going to be refused.
            Request::Send { content, .. } if (1..=CONTENT_BYTES_MAX).contains(&content.len()) => {
                self.provided_hints(channel).await?
            }
            _ => Vec::new(),
        };
        self.shared.perform(channel, request, &hints).await
    }

    /// What the application knows of the messages that the next one will name, asked for while no lock is held.
    async fn provided_hints(&self, channel: &ChannelId) -> Result<Vec<(MessageId, Arc<[u8]>)>> {
        let Some(callbacks) = self.shared.dispatcher.callbacks() else { return Ok(Vec::new()) };
        let Some(provider) = &callbacks.retrieval_hint else { return Ok(Vec::new()) };
        let mut guard = self.shared.enter(channel).await?;
        if guard.load(|| None).await? == Loaded::Absent {
            return Ok(Vec::new());
        }
        let history = guard.channel().map(Channel::causal_history);
        drop(guard);
        let unknown = history.into_iter().flatten().filter(|entry| entry.retrieval_hint.is_none());
        let hint =
            |id: &MessageId| self.shared.dispatcher.contained(channel, || provider(id)).unwrap_or_default();
        let hints = unknown.map(|entry| (hint(&entry.message_id), entry.message_id));
        Ok(hints.filter(|(hint, _)| !hint.is_empty()).map(|(hint, id)| (id, hint.into())).collect())
    }

    fn look<T: Send + 'static>(
        &self,
        channel: ChannelId,
        look: impl FnOnce(&Guard) -> Option<T> + Send + 'static,
    ) -> Op<Option<T>> {
        let shared = self.shared.clone();
        self.op(async move {
            shared.require_open()?;
            let mut guard = shared.enter(&channel).await?;
            if guard.load(|| None).await? == Loaded::Absent {
                return Ok(None);
            }
            Ok(look(&guard))
        })
    }
}

/// The bytes among what was released, with the name of the message.
fn sent(released: Released) -> Option<Sent> {
    released.outputs.into_iter().find_map(|output| match output {
        Output::Broadcast(Broadcast { message_id, wire, .. }) => Some(Sent { message_id, wire }),
        Output::Event(_) => None,
    })
}

impl fmt::Debug for SdsManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SdsManager")
            .field("participant", &self.shared.participant)
            .field("channels", &self.channels())
            .finish_non_exhaustive()
    }
}
