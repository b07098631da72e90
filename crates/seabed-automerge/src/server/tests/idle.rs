//! What is left of documents that came and went: nothing.

use super::*;

/// Opens documents and says something of each.
async fn edited(
    live: &LiveServer,
    session: &Arc<Session>,
    count: u128,
) -> Vec<(DocumentId, mpsc::Sender<Mail>)> {
    let mut opened = Vec::new();
    for number in 0..count {
        let document = DocumentId::from_bytes(number.to_be_bytes());
        let mailbox = Inner::attach(&live.0, document).unwrap();
        mailbox.send(Mail::Open { session: session.clone() }).await.unwrap();
        let mut automerge = Automerge::new();
        automerge.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "value")).unwrap();
        let mut state = SyncState::new();
        say(session, &mailbox, automerge.generate_sync_message(&mut state).unwrap()).await;
        heard(session).await;
        opened.push((document, mailbox));
    }
    opened
}

/// As a connection does when it ends.
async fn leave(live: &LiveServer, session: &Session, opened: Vec<(DocumentId, mpsc::Sender<Mail>)>) {
    for (document, mailbox) in opened {
        live.0.rooms.detach(document, &mailbox);
        mailbox.send(Mail::Leave { session: session.number }).await.unwrap();
    }
    live.0.leave(session);
}

#[tokio::test(start_paused = true)]
async fn of_documents_that_came_and_went_nothing_is_left_after_a_minute() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let live = LiveServer::open(documents, LiveOptions::default(), Everybody).await.unwrap();
    let session = live.0.enter("me".to_owned(), None, Identity::anonymous()).unwrap();
    let opened = edited(&live, &session, 100).await;
    let mailboxes: Vec<_> = opened.iter().map(|(_, mailbox)| mailbox.clone()).collect();
    leave(&live, &session, opened).await;
    let metrics = live.metrics();
    assert_eq!((metrics.sessions, metrics.documents_open, metrics.documents_resident), (0, 100, 100));

    let began = Instant::now();
    for mailbox in &mailboxes {
        mailbox.closed().await;
    }
    assert!(began.elapsed() < Duration::from_millis(2 * limits::IDLE_MS_MAX));
    let metrics = live.metrics();
    assert_eq!((metrics.documents_open, metrics.documents_resident, metrics.resident_bytes), (0, 0, 0));
    assert_eq!(Arc::strong_count(&live.0), 1);
    assert_eq!(Arc::strong_count(&session), 1);
}

#[tokio::test(start_paused = true)]
async fn of_a_document_that_is_not_in_memory_nothing_is_left_when_the_last_one_leaves() {
    let documents = DocStore::open(&seabed_kv::Store::memory()).await.unwrap();
    let options = LiveOptions { resident_bytes_max: 1, ..LiveOptions::default() };
    let live = LiveServer::open(documents, options, Everybody).await.unwrap();
    let session = live.0.enter("me".to_owned(), None, Identity::anonymous()).unwrap();
    let opened = edited(&live, &session, 100).await;
    let mailboxes: Vec<_> = opened.iter().map(|(_, mailbox)| mailbox.clone()).collect();
    let began = Instant::now();
    leave(&live, &session, opened).await;
    for mailbox in &mailboxes {
        mailbox.closed().await;
    }
    assert!(began.elapsed() < Duration::from_millis(limits::IDLE_MS_MAX), "nobody has to wait for that");
    let metrics = live.metrics();
    assert_eq!((metrics.documents_open, metrics.documents_resident), (0, 0));
}
