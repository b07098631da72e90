//! What `Automerge` and `AutoCommit` have in common.

use automerge::sync::{Message, State, SyncDoc as _};
use automerge::{
    ActorId, AutoCommit, Automerge, AutomergeError, Change, ChangeHash, LoadOptions, OnPartialLoad, PatchLog,
    ReadDoc as _,
};

use crate::chunks;

/// A document of automerge's, with or without transactions of its own. Nobody else's: only [`Automerge`] and [`AutoCommit`] are.
pub trait Engine: Sized + std::fmt::Debug + sealed::Sealed {}

impl Engine for Automerge {}
impl Engine for AutoCommit {}

/// Lets automerge take a message of a peer.
///
/// It takes heads that a peer says, when they are ours and nothing comes with them, for heads that the peer was told. It was not when the changes
/// came just before: they would never be acknowledged. (Empty is what begins anew with a peer that has lost everything.)
pub(crate) fn receiving<T>(state: &mut State, receive: impl FnOnce(&mut State) -> T) -> T {
    let told = state.last_sent_heads.clone();
    let received = receive(state);
    if !state.last_sent_heads.is_empty() {
        state.last_sent_heads = told;
    }
    received
}

pub(crate) mod sealed {
    use super::*;

    /// Every call ends an open transaction first.
    #[allow(unnameable_types, reason = "a seal is not to be named")]
    pub trait Sealed: Sized {
        fn empty() -> Self;
        fn load(buffer: &[u8]) -> Result<Self, AutomergeError>;
        fn heads(&mut self) -> Vec<ChangeHash>;
        fn changes_since(&mut self, heads: &[ChangeHash]) -> Vec<Change>;
        fn addresses(&mut self) -> Vec<(ActorId, u64)>;
        fn has(&mut self, hash: &ChangeHash) -> bool;
        fn apply(&mut self, changes: Vec<Change>) -> Result<(), AutomergeError>;
        fn save(&mut self) -> Vec<u8>;
        /// Whether changes wait in it for others.
        fn has_waiting(&mut self) -> bool;
        /// Which do. Costs a save.
        fn waiting(&mut self) -> Vec<Change>;
        fn generate(&mut self, state: &mut State) -> Option<Message>;
        fn receive(
            &mut self,
            state: &mut State,
            message: Message,
            log: Option<&mut PatchLog>,
        ) -> Result<(), AutomergeError>;
        fn set_actor_id(&mut self, actor: ActorId);
    }

    macro_rules! sealed {
        ($type:ty, $sync:ident => $of:expr) => {
            impl Sealed for $type {
                fn empty() -> Self {
                    Self::new()
                }

                fn load(buffer: &[u8]) -> Result<Self, AutomergeError> {
                    let options = |partial| LoadOptions::new().on_partial_load(partial);
                    match Self::load_with_options(buffer, options(OnPartialLoad::Error)) {
                        // Every chunk was read and applied; only here this is an error.
                        Err(AutomergeError::MissingDeps) => {
                            Self::load_with_options(buffer, options(OnPartialLoad::Ignore))
                        }
                        loaded => loaded,
                    }
                }

                fn heads(&mut self) -> Vec<ChangeHash> {
                    self.get_heads()
                }

                fn changes_since(&mut self, heads: &[ChangeHash]) -> Vec<Change> {
                    self.get_changes(heads)
                }

                fn addresses(&mut self) -> Vec<(ActorId, u64)> {
                    let changes = self.get_changes_meta(&[]);
                    changes.into_iter().map(|change| (change.actor.into_owned(), change.seq)).collect()
                }

                fn has(&mut self, hash: &ChangeHash) -> bool {
                    self.get_change_meta_by_hash(hash).is_some()
                }

                fn apply(&mut self, changes: Vec<Change>) -> Result<(), AutomergeError> {
                    self.apply_changes(changes)
                }

                fn save(&mut self) -> Vec<u8> {
                    Self::save(self)
                }

                fn has_waiting(&mut self) -> bool {
                    !self.get_missing_deps(&[]).is_empty()
                }

                fn waiting(&mut self) -> Vec<Change> {
                    let saved = Self::save(self);
                    chunks::sift(&saved).whole.iter().filter_map(chunks::Chunk::change).collect()
                }

                fn generate(&mut self, state: &mut State) -> Option<Message> {
                    let $sync = self;
                    $of.generate_sync_message(state)
                }

                fn receive(
                    &mut self,
                    state: &mut State,
                    message: Message,
                    log: Option<&mut PatchLog>,
                ) -> Result<(), AutomergeError> {
                    let $sync = self;
                    receiving(state, |state| match log {
                        Some(log) => $of.receive_sync_message_log_patches(state, message, log),
                        None => $of.receive_sync_message(state, message),
                    })
                }

                fn set_actor_id(&mut self, actor: ActorId) {
                    self.set_actor(actor);
                }
            }
        };
    }

    sealed!(Automerge, document => document);
    sealed!(AutoCommit, document => document.sync());
}
