//! The published bounds of the live server. Those of documents are in [`crate::limits`].

/// The longest message that is taken, unless [`LiveOptions`](super::LiveOptions) say otherwise, in bytes. A document that a client has and the
/// server has not arrives as one message.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The longest id of a peer, a session or a storage, in bytes.
pub const ID_BYTES_MAX: usize = 256;

/// How many documents one connection has open, unless [`LiveOptions`](super::LiveOptions) say otherwise.
pub const DOCUMENTS_PER_CONNECTION_MAX: usize = 10_000;

/// How many heads a sync message may have, and how many hashes it may ask for or start from: each of them.
pub const SYNC_HASHES_MAX: usize = 65_536;

/// How many summaries of what a client has a sync message may have; clients send one.
pub const SYNC_HAVES_MAX: usize = 16;

/// How many bytes of what clients have said last is kept for one connection, of all its documents: heads, and summaries of what they have.
pub const SYNC_STATE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The longest ephemeral message, in bytes.
pub const EPHEMERAL_BYTES_MAX: usize = 1024 * 1024;

/// How many messages of one connection wait for documents at once; it is not read from meanwhile.
pub const MESSAGES_WAITING_MAX: usize = 64;

/// How many bytes the messages of one connection have that wait for documents at once, unless one alone has more; it is not read from
/// meanwhile.
pub const MESSAGE_BYTES_WAITING_MAX: usize = 8 * 1024 * 1024;

/// How many messages the mailbox of one document holds; who sends more waits.
pub const MAILBOX_MESSAGES_MAX: usize = 4_096;

/// How many waiting messages one batch takes.
pub const BATCH_MESSAGES_MAX: usize = 1_024;

/// After how many bytes of messages a batch takes no further one.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How many messages a connection sends in a second, unless [`LiveOptions`](super::LiveOptions) say otherwise; it is not read from until it may
/// send again. As many are taken at once after a pause.
pub const MESSAGES_PER_SECOND_MAX: u32 = 2_000;

/// How many bytes wait to be written to one connection before it is given no more of what can be told later; what cannot is dropped.
pub const OUTBOX_BYTES: usize = 4 * 1024 * 1024;

/// How many frames wait to be written to one connection before the same.
pub const OUTBOX_FRAMES: usize = 1_024;

/// How many bytes wait to be written to all connections before none is given more of what can be told later, but for those that keep up of
/// documents of no more than [`SMALL_BYTES`]; what cannot is dropped. Bytes that go to many count once. Each document may be over it by what it
/// is making.
pub const OUTBOXES_BYTES: usize = 256 * 1024 * 1024;

/// For how long that may be so, in milliseconds. Then the connection that most waits for is ended, of those that have taken nothing for as long;
/// and as long after it the next one.
pub const OUTBOXES_MS_MAX: u64 = 10_000;

/// How many bytes are kept of messages that are not whole yet, of all connections, beyond 16 KiB each; their buffers may take twice as much.
/// Then the connection with the most of it is ended, and the others wait until that is free. Where longer messages are taken than a quarter of
/// it: four times the longest.
pub const INBOXES_BYTES: usize = 256 * 1024 * 1024;

/// How large a document is that connections are told of also then, as long as nothing waits for them, in bytes.
pub const SMALL_BYTES: usize = 64 * 1024;

/// The longest piece that is written to a connection at once, in bytes; longer frames are written as WebSocket fragments.
pub const FRAGMENT_BYTES_MAX: usize = 64 * 1024;

/// After how many bytes of answers a document lets them leave before it writes further ones.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How many storages one connection hears of.
pub const SUBSCRIPTIONS_MAX: usize = 1_024;

/// Of how many storages the server remembers what they have of one document.
pub const REMOTES_PER_DOCUMENT_MAX: usize = 256;

/// How many bytes of that it remembers of one document; the oldest go first. They count as the document's memory, and go with it when others
/// need it.
pub const REMOTES_BYTES_PER_DOCUMENT_MAX: usize = 64 * 1024;

/// How many heads a storage may have that others are told of.
pub const HEADS_MAX: usize = 1_024;

/// Of how many senders of ephemeral messages one document remembers what they sent last.
pub const EPHEMERAL_SESSIONS_MAX: usize = 1_024;

/// How many sync states of peers are stored of one document; those beyond cost their peers a round trip.
pub const STORED_PEERS_MAX: u64 = 4_096;

/// How many bytes of documents are kept in memory, as far as that can be told, unless [`LiveOptions`](super::LiveOptions) say otherwise. Beyond
/// it those go that were not used for the longest time.
pub const RESIDENT_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// How long a document that nobody uses stays in memory, in milliseconds.
pub const IDLE_MS_MAX: u64 = 60_000;

/// How long a document is quiet before it is compacted, in milliseconds.
pub const QUIET_MS: u64 = 250;

/// How often connections are pinged, in milliseconds.
pub const PING_MS: u64 = 5_000;

/// How long a connection may be silent, answers to pings included, in milliseconds. While a frame is written to it, it need only go on taking
/// that.
pub const SILENCE_MS_MAX: u64 = 30_000;

/// How long a new connection may take to say who it is, in milliseconds.
pub const JOIN_MS_MAX: u64 = 10_000;

/// How long writing one frame may take, in milliseconds, and one more for each [`WRITE_BYTES_PER_MS`] of it.
pub const WRITE_MS_MAX: u64 = 30_000;

/// How long the end of a connection takes that has sent part of a message, its last words included, in milliseconds: others may wait for what
/// it keeps.
pub const HASTY_END_MS_MAX: u64 = 1_000;

/// How quickly a connection must take what it asked for, in bytes a millisecond.
pub const WRITE_BYTES_PER_MS: u64 = 8;

/// How often documents in use are looked at for what others have stored, in milliseconds.
pub const POLL_MS: u64 = 1_000;
