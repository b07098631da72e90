//! The protocol on a bad network, in virtual time: participants, loss, duplicates, reordering, partitions, clocks that jump, restarts and
//! commits that fail. One seed gives one run, to the byte; [`Report::trace_hash`] is the proof.
//!
//! Each run is checked all the way: causes come before what rests on them, nothing is delivered twice, nothing that was committed
//! is forgotten, a restart changes nothing, no buffer grows beyond its bound, and in the end all logs are equal.
//!
//! ```
//! use seabed_sds_core::sim::{Scenario, run};
//!
//! let scenario = Scenario { messages: 20, loss_per_mille: 300, ..Scenario::default() };
//! let report = run(7, &scenario)?;
//! assert!(report.messages >= 20, "those that keep the run going are counted, too");
//! assert_eq!(report.trace_hash, run(7, &scenario)?.trace_hash);
//! # Ok::<(), seabed_sds_core::sim::Violation>(())
//! ```

mod figures;
mod node;
mod rng;

use std::collections::{BTreeMap, BTreeSet};

use self::figures::Figures;
use self::node::{Commit, Node, is_sync};
use self::rng::Rng;
use crate::config::{Config, Profile};
use crate::wire::Dialect;
use crate::{Input, MessageId, Output, Reason, Sweep, hash};

pub use self::figures::{Report, Times, Traffic};

/// When a run begins: late enough that clocks may go back.
const START_MS: u64 = 1_700_000_000_000;

/// After how long without agreement a run has failed, in virtual milliseconds after the last message.
const AGREEMENT_MS_MAX: u64 = 20 * 24 * 60 * 60 * 1_000;

/// How many operations a run may take.
const OPERATIONS_MAX: u64 = 5_000_000;

/// What happens in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// How many participants there are.
    pub participants: usize,
    /// How many of them are in profile `nim`. They neither send again nor ask twice, so only the others have to agree.
    pub nim_participants: usize,
    /// The dialect that all speak.
    pub dialect: Dialect,
    /// How those of profile `seabed` behave, in that dialect; `None` for [`Config::seabed`].
    pub config: Option<Config>,
    /// How many messages are said that all must have in the end.
    pub messages: usize,
    /// How often somebody says something, in milliseconds: the `S` of the project's targets.
    pub interval_ms: u64,
    /// How many bytes a message has at least: shorter ones are filled up.
    pub content_bytes: usize,
    /// How many of a thousand copies are lost.
    pub loss_per_mille: u32,
    /// How many of a thousand arrive twice.
    pub duplicates_per_mille: u32,
    /// The shortest and the longest time that a copy is under way, in milliseconds.
    pub delay_ms: (u64, u64),
    /// At how many of a thousand messages the network falls apart, for up to ten intervals.
    pub partitions_per_mille: u32,
    /// At how many of a thousand operations a clock jumps, by up to ten minutes.
    pub clock_jumps_per_mille: u32,
    /// At how many of a thousand operations a participant starts anew.
    pub restarts_per_mille: u32,
    /// How many of a thousand commits fail, or end the process just after.
    pub faults_per_mille: u32,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            participants: 4,
            nim_participants: 0,
            dialect: Dialect::Nim,
            config: None,
            messages: 60,
            interval_ms: 60_000,
            content_bytes: 0,
            loss_per_mille: 200,
            duplicates_per_mille: 100,
            delay_ms: (20, 2_000),
            partitions_per_mille: 0,
            clock_jumps_per_mille: 0,
            restarts_per_mille: 0,
            faults_per_mille: 0,
        }
    }
}

/// A promise that a run has broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub(crate) String);

/// What happens at some time.
#[derive(Debug, Clone)]
enum Happening {
    /// Somebody says something; the rest of the run depends on it when it is counted.
    Speak { counted: bool },
    /// Bytes arrive.
    Arrive { to: usize, wire: Vec<u8> },
    /// A participant wanted to be woken.
    Wake { who: usize },
    /// The network is whole again.
    Heal,
}

impl Scenario {
    /// Whether such a run can end.
    fn check(&self) -> Result<(), Violation> {
        let dialect = self.config.as_ref().map_or(self.dialect, |config| config.dialect);
        for (possible, otherwise) in [
            (self.participants >= 2, "nobody hears what a participant says that is alone"),
            (self.nim_participants < self.participants, "nobody has to agree"),
            (self.messages > 0, "nothing is said"),
            (self.loss_per_mille < 1_000, "everything is lost"),
            (dialect == self.dialect, "the configuration speaks another dialect"),
        ] {
            if !possible {
                return Err(Violation(otherwise.to_owned()));
            }
        }
        Ok(())
    }
}

/// A run of a scenario.
///
/// # Errors
/// The scenario makes no sense, or a promise was broken: the same seed shows it again.
pub fn run(seed: u64, scenario: &Scenario) -> Result<Report, Violation> {
    scenario.check()?;
    let mut world = World::new(seed, scenario)?;
    while let Some(((time_ms, _), happening)) = world.queue.pop_first() {
        world.time_ms = time_ms;
        world.operations += 1;
        if world.operations > OPERATIONS_MAX {
            return Err(Violation(format!("is busy after {OPERATIONS_MAX} operations, at {time_ms} ms")));
        }
        world.happen(happening)?;
        // Only a message that was delivered can have made them agree.
        if std::mem::take(&mut world.delivered) && world.said == scenario.messages && world.is_agreed() {
            return world.end();
        }
        if world.last_said_ms.saturating_add(AGREEMENT_MS_MAX) < time_ms {
            return Err(world.disagreement());
        }
    }
    Err(Violation("nothing happens any more".to_owned()))
}

struct World<'a> {
    scenario: &'a Scenario,
    rng: Rng,
    time_ms: u64,
    nodes: Vec<Node>,
    queue: BTreeMap<(u64, u64), Happening>,
    next_number: u64,
    /// When each participant is going to be woken.
    wakes: Vec<Option<u64>>,
    /// Which participants hear each other: those of the same side.
    sides: Vec<u8>,
    said: usize,
    spoken: u64,
    last_said_ms: u64,
    operations: u64,
    /// Whether the last happening delivered something.
    delivered: bool,
    /// What all must have in the end.
    counted: BTreeSet<MessageId>,
    figures: Figures,
    trace: u64,
}

impl<'a> World<'a> {
    fn new(seed: u64, scenario: &'a Scenario) -> Result<Self, Violation> {
        let seabed = scenario.config.clone().unwrap_or_else(|| Config::seabed(scenario.dialect));
        let names = (0..scenario.participants).map(|number| format!("peer-{number}"));
        let nodes: Result<Vec<Node>, Violation> = names
            .enumerate()
            .map(|(number, name)| {
                let nim = number < scenario.nim_participants;
                let config = if nim { Config::nim() } else { seabed.clone() };
                Node::new(name.as_str().into(), config, START_MS)
            })
            .collect();
        let mut world = Self {
            scenario,
            rng: Rng::new(seed),
            time_ms: START_MS,
            nodes: nodes?,
            queue: BTreeMap::new(),
            next_number: 0,
            wakes: vec![None; scenario.participants],
            sides: vec![0; scenario.participants],
            said: 0,
            spoken: 0,
            last_said_ms: START_MS,
            operations: 0,
            delivered: false,
            counted: BTreeSet::new(),
            figures: Figures::new(scenario.interval_ms),
            trace: 0,
        };
        world.later(scenario.interval_ms, Happening::Speak { counted: true });
        Ok(world)
    }

    fn later(&mut self, after_ms: u64, happening: Happening) {
        self.next_number += 1;
        self.queue.insert((self.time_ms.saturating_add(after_ms), self.next_number), happening);
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Speak { counted } => self.speak(counted),
            Happening::Arrive { to, wire } => {
                self.trace(b"arrive", to, &wire);
                self.handle(to, Input::Receive { wire: &wire, retrieval_hint: None })?;
                Ok(())
            }
            Happening::Wake { who } => {
                if self.wakes.get(who).copied().flatten() == Some(self.time_ms) {
                    if let Some(wake) = self.wakes.get_mut(who) {
                        *wake = None;
                    }
                    self.trace(b"tick", who, &[]);
                    self.handle(who, Input::Tick(Sweep::All))?;
                }
                Ok(())
            }
            Happening::Heal => {
                self.sides.fill(0);
                Ok(())
            }
        }
    }

    fn speak(&mut self, counted: bool) -> Result<(), Violation> {
        let count = self.nodes.len() as u64;
        let who = usize::try_from(self.rng.next() % count).unwrap_or(0);
        self.spoken += 1;
        let message_id = MessageId::from(format!("m{}", self.spoken).as_str());
        let text = format!("message {} of the run", self.spoken);
        let content = format!("{text:.<0$}", self.scenario.content_bytes);
        if counted {
            self.disturb(who);
        }
        let input = Input::Send { message_id: &message_id, content: content.as_bytes(), hints: &[] };
        self.trace(b"send", who, content.as_bytes());
        let held = self.handle(who, input)?;
        if counted && held {
            self.said += 1;
            self.last_said_ms = self.time_ms;
            self.counted.insert(message_id);
        }
        let interval_ms = self.scenario.interval_ms;
        if self.said < self.scenario.messages {
            let pause_ms = self.rng.between(interval_ms / 5, interval_ms);
            self.later(pause_ms, Happening::Speak { counted: true });
        } else if self.agreeing().any(|node| node.channel().config().sync_interval_ms.is_none()) {
            // Without sync messages those who have to agree hear of what they missed from whoever speaks next, so somebody always does.
            let pause_ms = self.rng.between(30_000, 120_000.max(interval_ms));
            self.later(pause_ms, Happening::Speak { counted: false });
        }
        Ok(())
    }

    /// Partitions and clocks that jump: only while messages are said that count.
    fn disturb(&mut self, who: usize) {
        if self.rng.chance(self.scenario.partitions_per_mille) {
            for side in &mut self.sides {
                *side = u8::from(self.rng.chance(500));
            }
            let lasts_ms = self.rng.between(0, self.scenario.interval_ms.saturating_mul(10));
            self.later(lasts_ms, Happening::Heal);
        }
        if self.rng.chance(self.scenario.clock_jumps_per_mille) {
            let jump_ms = i64::try_from(self.rng.between(0, 1_200_000)).unwrap_or(0) - 600_000;
            if let Some(node) = self.nodes.get_mut(who) {
                node.clock_ms = jump_ms;
            }
        }
    }

    /// A participant does one thing; what it says goes to the others. True when it was committed.
    fn handle(&mut self, who: usize, input: Input<'_>) -> Result<bool, Violation> {
        let disturbed = self.said < self.scenario.messages;
        let commit = if disturbed && self.rng.chance(self.scenario.faults_per_mille) {
            if self.rng.chance(500) { Commit::Failed } else { Commit::AppliedThenCrashed }
        } else {
            Commit::Applied
        };
        let restart = disturbed && self.rng.chance(self.scenario.restarts_per_mille);
        let time_ms = self.time_ms;
        let Some(node) = self.nodes.get_mut(who) else { return Ok(false) };
        let sends =
            if let Input::Send { message_id, .. } = &input { Some((*message_id).clone()) } else { None };
        let released = node.handle(input, time_ms, commit)?;
        if restart {
            node.restart(time_ms)?;
        }
        self.delivered |= node.take_delivered();
        let committed = sends.as_ref().is_none_or(|id| node.held.contains(id));
        if let (Some(id), true) = (&sends, committed) {
            self.figures.said(id, who, self.nodes.len(), time_ms);
        }
        for output in released.into_iter().flat_map(|released| released.outputs) {
            match output {
                Output::Broadcast(broadcast) => {
                    self.figures.sent(broadcast.reason, broadcast.wire.len());
                    self.broadcast(who, &broadcast.message_id, broadcast.reason, &broadcast.wire);
                }
                Output::Event(event) => self.figures.note(who, &event, time_ms),
            }
        }
        self.wake_later(who);
        Ok(committed)
    }

    fn broadcast(&mut self, who: usize, id: &MessageId, reason: Reason, wire: &[u8]) {
        self.trace(b"out", who, wire);
        for to in (0..self.nodes.len()).filter(|to| *to != who) {
            let apart = self.sides.get(who) != self.sides.get(to);
            if apart || self.rng.chance(self.scenario.loss_per_mille) {
                if reason == Reason::Send {
                    self.figures.lost(to, id);
                }
                continue;
            }
            let copies = 1 + u32::from(self.rng.chance(self.scenario.duplicates_per_mille));
            for _ in 0..copies {
                let (shortest_ms, longest_ms) = self.scenario.delay_ms;
                let delay_ms = self.rng.between(shortest_ms, longest_ms);
                self.later(delay_ms, Happening::Arrive { to, wire: wire.to_vec() });
            }
        }
    }

    fn wake_later(&mut self, who: usize) {
        let Some(wakes_ms) = self.nodes.get(who).and_then(Node::wakes_ms) else { return };
        // Never at once: who is woken in vain must not keep the world from going on.
        let at_ms = wakes_ms.max(self.time_ms.saturating_add(1));
        if self.wakes.get(who).copied().flatten().is_some_and(|planned_ms| planned_ms <= at_ms) {
            return;
        }
        if let Some(wake) = self.wakes.get_mut(who) {
            *wake = Some(at_ms);
        }
        self.later(at_ms - self.time_ms, Happening::Wake { who });
    }

    fn trace(&mut self, what: &[u8], who: usize, bytes: &[u8]) {
        let parts = [
            &self.trace.to_be_bytes()[..],
            &self.time_ms.to_be_bytes(),
            what,
            &(who as u64).to_be_bytes(),
            bytes,
        ];
        self.trace = hash::nim(&parts.concat());
    }

    fn agreeing(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.channel().config().profile == Profile::Seabed)
    }

    /// What all must have: not what only participants heard that need not agree.
    fn to_agree_on(&self) -> BTreeSet<&MessageId> {
        let all = self.counted.iter();
        all.filter(|id| self.agreeing().any(|node| node.held.contains(*id))).collect()
    }

    fn is_agreed(&self) -> bool {
        let expected = self.to_agree_on();
        self.agreeing().all(|node| expected.iter().all(|id| node.held.contains(*id)))
    }

    fn disagreement(&self) -> Violation {
        let expected = self.to_agree_on();
        let mut lines = vec!["the logs are not equal in the end".to_owned()];
        for node in self.agreeing() {
            let missing: Vec<String> =
                expected.iter().filter(|id| !node.held.contains(**id)).map(ToString::to_string).collect();
            lines.push(format!("{} has not {}", node.name, missing.join(" ")));
        }
        Violation(lines.join("\n"))
    }

    fn end(self) -> Result<Report, Violation> {
        let expected = self.to_agree_on();
        let mut logs = Vec::new();
        for node in self.agreeing() {
            node.check_disk()?;
            let ids = node.channel().log().map(|entry| &entry.message.message_id);
            let log: Vec<&MessageId> = ids.filter(|id| expected.contains(id) && !is_sync(id)).collect();
            if log.len() != expected.len() {
                return Err(node.wrong("has forgotten what it had committed"));
            }
            logs.push(log);
        }
        if logs.windows(2).any(|pair| matches!(pair, [one, other] if one != other)) {
            return Err(Violation("the logs have the same messages in different orders".to_owned()));
        }
        for node in self.agreeing() {
            if let Some(id) = node.acknowledged.iter().find(|id| !self.is_held_by_another(id, node)) {
                return Err(node.wrong(&format!("was told that {id} arrived, and nobody has it")));
            }
        }
        let rows = self.nodes.iter().map(Node::rows).max().unwrap_or(0);
        Ok(Report {
            trace_hash: self.trace,
            operations: self.operations,
            duration_ms: self.time_ms - START_MS,
            settled_ms: self.time_ms - self.last_said_ms,
            rows_max: rows,
            ..self.figures.report(self.time_ms)
        })
    }

    /// A filter may be wrong, so this holds for what all have agreed on.
    fn is_held_by_another(&self, id: &MessageId, sender: &Node) -> bool {
        !self.counted.contains(id)
            || self.nodes.iter().any(|node| node.name != sender.name && node.held.contains(id))
    }
}
