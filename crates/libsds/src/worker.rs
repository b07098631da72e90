//! The thread of a context: one request after another, and what is due between them.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use seabed_sds::core::{ChannelId, Received};
use seabed_sds::{Clock, Events, Receipt, SdsManager, SystemClock};

use crate::context::{Context, Ended, Job, Next, Speech};
use crate::error::{Failure, Kind};
use crate::event;
use crate::json::{self, Object};
use crate::request::Request;
use crate::status::status;
use crate::text::{Results, Text};

/// The longest sleep while periodic tasks run: a clock that was set forward is noticed after that.
const SLEEP_MS_MAX: u64 = 60_000;

/// How long what is due waits after a defect.
const RETRY: Duration = Duration::from_secs(5);

/// What the thread has to itself.
pub(crate) struct Worker {
    context: Arc<Context>,
    manager: SdsManager,
    /// Read between the steps of every operation, so that it is never full.
    events: Events,
    /// Closed at the end, so that its path is free when the cleanup returns.
    store: Option<seabed_kv::Store>,
    periodic: bool,
    /// What is due was not done, so it is not tried at once again.
    not_before: Option<Instant>,
    results: Results,
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(
        context: Arc<Context>,
        events: Events,
        store: Option<seabed_kv::Store>,
    ) -> std::io::Result<thread::JoinHandle<()>> {
        let manager = context.manager().clone();
        let results = Results::default();
        let worker = Self { context, manager, events, store, periodic: false, not_before: None, results };
        thread::Builder::new().name("sds".into()).spawn(move || worker.run())
    }

    fn run(mut self) {
        self.context.begin();
        let mut was_due = false;
        loop {
            let due = self.due();
            match self.context.next(due, was_due) {
                Next::Job(job) => self.work(job),
                Next::Due => {
                    let ticked = self.guarded(|worker| {
                        let tick = worker.manager.tick();
                        worker.drive(tick).map(drop).map_err(Failure::from)
                    });
                    // A channel whose store fails is tried again by itself. What is left is a panic, which its message was printed of.
                    self.not_before = ticked.is_err().then(|| Instant::now() + RETRY);
                    was_due = true;
                    continue;
                }
                Next::End => break,
            }
            was_due = false;
        }
        let context = self.context.clone();
        let ended = self.guarded(Self::close).map_or_else(Ended::Failed, |()| Ended::Well);
        // The results that a program may still read, and the files of the store, are let go before anybody is told.
        drop(self);
        context.ended(ended);
    }

    fn close(&mut self) -> Result<(), Failure> {
        let ended = self.manager.cleanup().wait().map_err(Failure::from);
        // Its path becomes free whatever came of that.
        let closed = self.store.take().map(|store| store.close().wait().map_err(Failure::from));
        ended.and(closed.unwrap_or(Ok(())))
    }

    /// How long there is nothing to do by itself.
    fn due(&self) -> Option<Duration> {
        if !self.periodic {
            return None;
        }
        let now_ms = SystemClock.now_ms();
        let sleep_ms =
            self.manager.next_due_ms().map_or(SLEEP_MS_MAX, |due_ms| due_ms.saturating_sub(now_ms));
        let sleep = Duration::from_millis(sleep_ms.min(SLEEP_MS_MAX));
        let pause = self.not_before.map(|at| at.saturating_duration_since(Instant::now()));
        Some(sleep.max(pause.unwrap_or_default()))
    }

    fn work(&mut self, Job { request, callback }: Job) {
        let of = request.name();
        let result = self.guarded(|worker| worker.perform(request));
        let (code, text) = self.context.told(of, result);
        let text = self.results.keep(text);
        self.context.answer(callback, code, text);
    }

    /// A panic ends the request and not the program.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        // What a panic leaves behind is behind the manager's locks, which take it.
        catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            Err(Failure::new(Kind::Internal, format!("a defect of the library; please report it: {said}")))
        })
    }

    /// Carries an operation on to its end, and tells what happens on the way.
    fn drive<T>(&mut self, operation: impl Future<Output = T>) -> T {
        let (events, context) = (&mut self.events, &self.context);
        let mut operation = pin!(operation);
        pollster::block_on(poll_fn(|waker| {
            loop {
                let polled = operation.as_mut().poll(waker);
                let mut told = false;
                while let Some(happened) = events.try_next() {
                    told = true;
                    if let Some(event) =
                        context.wants_events().then(|| event::written(context.speech, &happened)).flatten()
                    {
                        context.tell(&event);
                    }
                }
                // Room in the stream may be what it waits for.
                if polled.is_ready() || !told {
                    return polled;
                }
            }
        }))
    }

    fn perform(&mut self, request: Request) -> Result<Text, Failure> {
        let manager = self.manager.clone();
        match request {
            Request::New => {}
            Request::Hopeless { failure, .. } => return Err(failure),
            Request::Wrap { channel, message_id, content } => {
                let sent = self.drive(manager.send(channel, message_id, content))?;
                return Ok(json::decimal_list(&sent.wire));
            }
            Request::Unwrap { wire } => {
                return match self.drive(manager.receive(wire))?.release() {
                    Receipt::Message(received) => Ok(self.received(&received)),
                    Receipt::UnknownChannel(channel) => Err(Failure::new(
                        Kind::InvalidArgument,
                        format!(
                            "channel {channel} is not known here, and messages may make no more channels"
                        ),
                    )),
                };
            }
            Request::MarkDependenciesMet { channel, message_ids } => {
                self.drive(manager.mark_dependencies_met(channel, message_ids))?;
            }
            Request::Reset => self.drive(manager.reset())?,
            Request::StartPeriodicTasks => {
                // A channel that does not load is told of, and keeps no other one waiting.
                self.periodic = true;
                // What was due before a restart is due now.
                self.drive(manager.restore())?;
            }
            Request::SendSync { channel } => {
                let sent = self.drive(manager.send_sync(channel))?.release();
                return Ok(json::decimal_list(&sent.map(|sent| sent.wire).unwrap_or_default()));
            }
            Request::Status { channel } => return self.status(&channel),
            Request::Channels => {
                self.drive(manager.restore())?;
                return Ok(json::ids(manager.channels().iter().map(ChannelId::as_bytes)));
            }
            Request::RemoveChannel { channel } => self.drive(manager.remove_channel(channel))?,
        }
        Ok(Vec::new().into())
    }

    fn status(&mut self, channel: &ChannelId) -> Result<Text, Failure> {
        let manager = self.manager.clone();
        let numbers = self.drive(manager.status(channel.clone()))?;
        let held =
            numbers.map(|numbers| manager.read(channel.clone(), move |channel| status(channel, &numbers)));
        match held {
            Some(held) => self.drive(held)?,
            None => None,
        }
        .ok_or_else(|| Failure::new(Kind::InvalidArgument, format!("there is no channel {channel}")))
    }

    fn received(&self, received: &Received) -> Text {
        let message = &received.message;
        let told = Object::new()
            .bytes("message", message.content.as_deref().unwrap_or_default())
            .text("channelId", received.channel_id.as_bytes())
            .entries("missingDeps", &received.missing);
        match self.context.speech {
            Speech::Nim => told,
            Speech::Full => told
                .text("messageId", message.message_id.as_bytes())
                .text("senderId", message.sender_id.as_bytes())
                .text("reception", event::reception(received.reception)),
        }
        .end()
    }
}

#[cfg(test)]
mod tests {
    use seabed_kv::{KeyRange, ScanSpec, Store};
    use seabed_sds::KernelStore;

    use super::*;

    fn worker(store: &Store) -> Worker {
        let kept = KernelStore::open(store).wait().unwrap();
        let manager = SdsManager::builder("alice").store(Arc::new(kept)).build().unwrap();
        Worker {
            events: manager.events().unwrap(),
            context: Arc::new(Context::new(Speech::Full, manager.clone())),
            manager,
            store: None,
            periodic: false,
            not_before: None,
            results: Results::default(),
        }
    }

    #[test]
    fn a_channel_that_does_not_load_is_told_of_and_keeps_no_other_one_waiting() {
        let store = Store::memory();
        let mut before = worker(&store);
        for channel in ["bad", "good"] {
            let (channel, message_id) = (channel.into(), "m1".into());
            before.perform(Request::Wrap { channel, message_id, content: b"hello".to_vec() }).unwrap();
        }
        before.close().unwrap();
        let tenant = store.open("sds").wait().unwrap();
        let rows = tenant.scan(ScanSpec::new("sds.channel", KeyRange::all())).collect().wait().unwrap();
        for row in rows.iter().filter(|row| row.key.as_bytes().windows(3).any(|part| part == b"bad")) {
            tenant.put("sds.channel", row.key.as_bytes(), b"damaged").wait().unwrap();
        }

        let mut worker = worker(&store);
        assert_eq!(worker.due(), None);
        let failure = worker.perform(Request::StartPeriodicTasks).unwrap_err();
        assert!(failure.kind == Kind::Persistence && failure.text.contains("bad"), "{}", failure.text);
        assert!(worker.due().is_some(), "the other is going to be sent again");
        assert_eq!(worker.manager.channels(), ["good".into()]);
        worker.perform(Request::RemoveChannel { channel: "bad".into() }).unwrap();
        worker.perform(Request::StartPeriodicTasks).unwrap();
        assert!(worker.due().is_some());
    }
}
