//! What makes a manager.

use std::fmt;
use std::sync::Arc;

use seabed_sds_core::wire::Dialect;
use seabed_sds_core::{Config, ParticipantId};

use crate::contract::{
    ChannelStore, FineGrainedPersistence, FineGrainedStore, NoPersistence, SnapshotPersistence, SnapshotStore,
};
use crate::shared::Shared;
use crate::{Clock, Error, ReleasePolicy, Result, SdsManager, SystemClock, UnknownChannels};

/// Collects what a manager is made of; everything but the participant has a default.
///
/// ```
/// use std::sync::Arc;
///
/// use seabed_sds::core::{Config, wire::Dialect};
/// use seabed_sds::{KernelStore, SdsManager};
///
/// let store = seabed_kv::Store::memory();
/// let manager = SdsManager::builder("alice")
///     .config(Config { resend_interval_ms: 5_000, ..Config::seabed(Dialect::Nim) })
///     .store(Arc::new(KernelStore::open(&store).wait()?))
///     .build()?;
/// assert!(manager.send("room", "m1", b"hello").wait()?.is_committed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Builder {
    participant: ParticipantId,
    config: Config,
    backend: Backend,
    policy: Option<ReleasePolicy>,
    unknown: UnknownChannels,
    clock: Arc<dyn Clock>,
}

enum Backend {
    Nothing,
    Store(Arc<dyn ChannelStore>),
    Snapshots(Arc<dyn SnapshotPersistence>),
    FineGrained(Arc<dyn FineGrainedPersistence>),
}

impl Builder {
    pub(crate) fn new(participant: ParticipantId) -> Self {
        Self {
            participant,
            config: Config::seabed(Dialect::Nim),
            backend: Backend::Nothing,
            policy: None,
            unknown: UnknownChannels::default(),
            clock: Arc::new(SystemClock),
        }
    }

    /// How every channel behaves; by default profile `seabed` in dialect N.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Where the channels are kept: a store of contract (C), such as [`KernelStore`](crate::KernelStore).
    #[must_use]
    pub fn store(mut self, store: Arc<dyn ChannelStore>) -> Self {
        self.backend = Backend::Store(store);
        self
    }

    /// Where the channels are kept: a backend of contract (B). What it cannot carry begins anew with each start.
    #[must_use]
    pub fn snapshots(mut self, backend: Arc<dyn SnapshotPersistence>) -> Self {
        self.backend = Backend::Snapshots(backend);
        self
    }

    /// Where the channels are kept: a backend of contract (A). What it cannot carry begins anew with each start.
    #[must_use]
    pub fn fine_grained(mut self, backend: Arc<dyn FineGrainedPersistence>) -> Self {
        self.backend = Backend::FineGrained(backend);
        self
    }

    /// What leaves when the store has failed; by default nothing, except with contract (B) and without a store.
    #[must_use]
    pub fn release_policy(mut self, policy: ReleasePolicy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// What is done with messages of channels that are not known.
    #[must_use]
    pub fn unknown_channels(mut self, unknown: UnknownChannels) -> Self {
        self.unknown = unknown;
        self
    }

    /// Where the time comes from; by default the system.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The manager. Nothing is read yet.
    ///
    /// # Errors
    /// A configuration that cannot work; an empty participant without `repair: false`.
    pub fn build(self) -> Result<SdsManager> {
        self.config.check()?;
        if self.participant.is_empty() && self.config.repair {
            return Err(Error::InvalidArgument(
                "a participant without an id takes no part in repair: name it, or configure `repair: false`"
                    .into(),
            ));
        }
        let (participant, config) = (self.participant, self.config);
        let own = (participant.clone(), config.clone());
        let (store, policy): (Arc<dyn ChannelStore>, _) = match self.backend {
            Backend::Nothing => (Arc::new(NoPersistence), ReleasePolicy::BestEffort),
            Backend::Store(store) => (store, ReleasePolicy::Strict),
            Backend::Snapshots(backend) => {
                let store = SnapshotStore::new(backend, own.0, own.1).with_clock(self.clock.clone());
                (Arc::new(store), ReleasePolicy::BestEffort)
            }
            Backend::FineGrained(backend) => {
                let store = FineGrainedStore::new(backend, own.0, own.1).with_clock(self.clock.clone());
                (Arc::new(store), ReleasePolicy::Strict)
            }
        };
        let policy = self.policy.unwrap_or(policy);
        Ok(SdsManager::new(Shared::new(participant, config, policy, self.unknown, store, self.clock)))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("participant", &self.participant).finish_non_exhaustive()
    }
}
