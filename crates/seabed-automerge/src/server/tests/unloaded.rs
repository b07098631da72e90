//! A document that was in memory and is not there any more, while its peers stay.

use super::*;

const DOCUMENT: DocumentId = DocumentId::from_bytes([7; 16]);

/// A client without a connection.
struct Client {
    session: Arc<Session>,
    mailbox: mpsc::Sender<Mail>,
    document: Automerge,
    state: SyncState,
}

impl Client {
    async fn enter(live: &LiveServer, name: &str) -> Self {
        let storage = Some(format!("disk of {name}"));
        let session = live.0.enter(name.to_owned(), storage, Identity::anonymous()).unwrap();
        let mailbox = Inner::attach(&live.0, DOCUMENT).unwrap();
        mailbox.send(Mail::Open { session: session.clone() }).await.unwrap();
        Self { session, mailbox, document: Automerge::new(), state: SyncState::new() }
    }

    fn edit(&mut self, key: &str) {
        self.document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, key, key)).unwrap();
    }

    async fn say(&mut self) {
        if let Some(message) = self.document.generate_sync_message(&mut self.state) {
            say(&self.session, &self.mailbox, message).await;
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let (_, incoming) = frame::decode(frame).unwrap();
        let frame::Incoming::Document { said: frame::Said::Sync { data, .. }, .. } = incoming else {
            panic!("{incoming:?}")
        };
        self.document.receive_sync_message(&mut self.state, message::read(&data).unwrap().0).unwrap();
    }

    /// Until it has what the server has, these heads, and has said so.
    async fn settle(&mut self, heads: &[ChangeHash]) {
        self.say().await;
        while self.document.get_heads() != heads || self.state.their_heads.as_deref() != Some(heads) {
            let frame = heard(&self.session).await;
            self.take(&frame);
            self.say().await;
        }
    }
}

/// Has the document's memory given back.
async fn unload(live: &LiveServer, mailbox: &mpsc::Sender<Mail>) {
    let unloads = live.metrics().unloads_total;
    mailbox.send(Mail::Evict).await.unwrap();
    while live.metrics().unloads_total == unloads {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_others_stored_meanwhile_is_told_to_everybody_and_not_only_to_who_speaks_first() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let live = LiveServer::open(documents.clone(), LiveOptions::default(), Everybody).await.unwrap();
    let (mut speaker, mut idle) = (Client::enter(&live, "a").await, Client::enter(&live, "b").await);
    speaker.edit("first");
    let heads = speaker.document.get_heads();
    speaker.settle(&heads).await;
    idle.settle(&heads).await;
    unload(&live, &speaker.mailbox).await;

    // As another server of the store does.
    let mut theirs = speaker.document.fork();
    theirs.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "theirs")).unwrap();
    let meta = documents.meta(DOCUMENT).await.unwrap();
    let append = crate::Append { changes: theirs.get_changes(&heads), ..crate::Append::default() };
    documents.append(DOCUMENT, meta.as_ref(), append, ()).await.unwrap();
    let nothing = speaker.document.generate_sync_message(&mut SyncState::new()).unwrap();
    assert!(nothing.changes.is_empty());
    say(&speaker.session, &speaker.mailbox, nothing).await;
    heard(&speaker.session).await;
    // It was told along with it.
    let told = idle.session.next().expect("nobody would tell it before the next edit");
    idle.take(&told.to_vec());
    assert_eq!(idle.document.get_heads(), theirs.get_heads());
}

#[tokio::test]
async fn who_leaves_has_its_state_stored_and_the_others_when_the_memory_goes() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let live = LiveServer::open(documents.clone(), LiveOptions::default(), Everybody).await.unwrap();
    let mut author = Client::enter(&live, "author").await;
    author.edit("first");
    let heads = author.document.get_heads();
    author.settle(&heads).await;
    let (mut leaving, mut staying) = (Client::enter(&live, "a").await, Client::enter(&live, "b").await);
    leaving.settle(&heads).await;
    staying.settle(&heads).await;
    let state = async |name: &str| documents.sync_state(DOCUMENT, name.as_bytes()).await.unwrap();
    leaving.mailbox.send(Mail::Leave { session: leaving.session.number }).await.unwrap();
    while state("disk of a").await.is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(state("disk of b").await, None, "it would be stored again after each edit");
    unload(&live, &staying.mailbox).await;
    assert!(state("disk of b").await.is_some());
}

#[tokio::test]
async fn what_is_stored_for_who_has_left_is_not_taken_for_what_the_next_room_has_seen() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let live = LiveServer::open(documents.clone(), LiveOptions::default(), Everybody).await.unwrap();
    let session = live.0.enter("a".to_owned(), None, Identity::anonymous()).unwrap();
    let mailbox = Inner::attach(&live.0, DOCUMENT).unwrap();
    // A round of nothing, after which the room ends; what came meanwhile is still in its mailbox.
    for _ in 0..limits::BATCH_MESSAGES_MAX {
        mailbox.try_send(Mail::Due { session: session.number }).unwrap();
    }
    mailbox.try_send(Mail::Open { session: session.clone() }).unwrap();
    let mut automerge = Automerge::new();
    automerge.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "last")).unwrap();
    let mut changed = automerge.generate_sync_message(&mut SyncState::new()).unwrap();
    changed.changes = automerge.save_after(&[]).into();
    say(&session, &mailbox, changed).await;
    mailbox.try_send(Mail::Leave { session: session.number }).unwrap();
    live.0.rooms.detach(DOCUMENT, &mailbox);
    while !live.0.rooms.in_use().is_empty() {
        tokio::task::yield_now().await;
    }
    // It comes back, and gets a new room.
    let (next, _mail) = mpsc::channel(1);
    live.0.rooms.attach(DOCUMENT, || next).unwrap();
    mailbox.closed().await;
    assert!(documents.meta(DOCUMENT).await.unwrap().is_some(), "it was stored");
    assert_eq!(live.0.rooms.in_use()[0].seen, None, "or the new room is never told of it");
    assert_eq!(live.metrics().documents_resident, 0);
}
