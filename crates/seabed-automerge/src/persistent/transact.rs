//! Transactions of persistent documents: each is stored before its call answers.

use automerge::sync::Message;
use automerge::transaction::{CommitOptions, Failure, Success, Transaction};
use automerge::{AutoCommit, Automerge, PatchLog};

use super::{PersistError, Persistent, TransactError};
use crate::persister::Persister;

impl<P: Persister> Persistent<Automerge, P> {
    /// The document, to be read.
    pub fn document(&self) -> &Automerge {
        &self.document
    }

    /// Runs a transaction and stores it.
    ///
    /// # Errors
    /// See [`TransactError`].
    pub fn transact<F, O, E>(&mut self, f: F) -> Result<Success<O>, TransactError<E, P::Error>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<O, E>,
    {
        self.local(|document| document.transact(f))
    }

    /// The same, with a message or a time.
    ///
    /// # Errors
    /// See [`TransactError`].
    pub fn transact_with<F, O, E, C>(&mut self, c: C, f: F) -> Result<Success<O>, TransactError<E, P::Error>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<O, E>,
        C: FnOnce(&O) -> CommitOptions,
    {
        self.local(|document| document.transact_with(c, f))
    }

    /// The same as [`transact`](Self::transact), with patches in the answer's log.
    ///
    /// # Errors
    /// See [`TransactError`].
    pub fn transact_and_log_patches<F, O, E>(
        &mut self,
        f: F,
    ) -> Result<Success<O>, TransactError<E, P::Error>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<O, E>,
    {
        self.local(|document| document.transact_and_log_patches(f))
    }

    /// The same as [`transact_with`](Self::transact_with), with patches in the answer's log.
    ///
    /// # Errors
    /// See [`TransactError`].
    pub fn transact_and_log_patches_with<F, O, E, C>(
        &mut self,
        c: C,
        f: F,
    ) -> Result<Success<O>, TransactError<E, P::Error>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<O, E>,
        C: FnOnce(&O) -> CommitOptions,
    {
        self.local(|document| document.transact_and_log_patches_with(c, f))
    }

    /// A panic of the caller's own is passed on; the next call then loads the document again.
    fn local<O, E>(
        &mut self,
        work: impl FnOnce(&mut Automerge) -> automerge::transaction::Result<O, E>,
    ) -> Result<Success<O>, TransactError<E, P::Error>> {
        self.sound()?;
        self.entered = true;
        let result = work(&mut self.document);
        self.entered = false;
        let success = result.map_err(TransactError::Cancelled)?;
        self.persist()?;
        Ok(success)
    }

    /// Takes a message from a peer, stores what it brought, and tells what it changed.
    ///
    /// # Errors
    /// See [`PersistError`].
    pub fn receive_sync_message_with(
        &mut self,
        peer_id: Vec<u8>,
        message: Message,
        patch_log: &mut PatchLog,
    ) -> Result<(), PersistError<P::Error>> {
        self.receive(peer_id, message, Some(patch_log))
    }
}

impl<P: Persister> Persistent<AutoCommit, P> {
    /// The document, to be read.
    pub fn document(&mut self) -> &Automerge {
        self.document.document()
    }

    /// Runs a closure over the document, then commits and stores what it did. When the closure fails, what it has not committed itself is rolled
    /// back.
    ///
    /// # Errors
    /// See [`TransactError`].
    pub fn transact<F, O, E>(&mut self, f: F) -> Result<O, TransactError<E, P::Error>>
    where
        F: FnOnce(&mut AutoCommit) -> Result<O, E>,
    {
        self.sound()?;
        self.entered = true;
        let result = f(&mut self.document).map_err(|error| {
            let cancelled = self.document.rollback();
            TransactError::Cancelled(Failure { error, cancelled })
        });
        // The closure may do with the document what it likes; what is stored must still be in it.
        if !self.persisted.iter().all(|head| self.document.get_change_meta_by_hash(head).is_some()) {
            self.reload()?;
            return Err(PersistError::Replaced.into());
        }
        self.entered = false;
        let result = result?;
        self.persist()?;
        Ok(result)
    }
}
