//! The published bounds. What a program hands in beyond one is refused with a text that names it.

/// The most contexts that live at once; nim-sds has 32.
pub const CONTEXTS_MAX: usize = 1_024;

/// How many contexts a process makes before the address of one that was cleaned up names a new one.
pub const HANDLES_COUNT: usize = 1_048_576;

/// The most requests of a context that wait for its thread. Beyond it the caller waits for room, and is refused inside a callback.
pub const REQUESTS_WAITING_MAX: usize = 1_024;

/// The most bytes of requests that wait for a context's thread, each with 64 more, and so each id of a list: likewise.
pub const REQUESTS_WAITING_BYTES_MAX: usize = 64 * 1_024 * 1_024;

/// How long a caller waits for room among the requests, in milliseconds, before the request is refused.
pub const ROOM_WAIT_MS_MAX: u64 = 20_000;

/// How long a cleanup waits for a callback to return, from when both have begun, in milliseconds, before it leaves the context's thread to itself.
pub const CALLBACK_WAIT_MS_MAX: u64 = 1_500;

/// The largest message that is taken from the network, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1_088 * 1_024;

/// The largest content that is sent, in bytes.
pub const CONTENT_BYTES_MAX: usize = 1_024 * 1_024;

/// The longest id that is passed in, in bytes.
pub const ID_BYTES_MAX: usize = 1_024;

/// The most ids that one call declares met.
pub const MARKED_IDS_MAX: usize = 10_000;

/// The longest retrieval hint that a provider gives, in bytes.
pub const HINT_BYTES_MAX: usize = 1_024;

/// The longest path of a store, in bytes.
pub const PATH_BYTES_MAX: usize = 4_096;

/// The longest configuration, in bytes.
pub const CONFIG_BYTES_MAX: usize = 65_536;

/// How many results of a context stay readable after their callback has returned.
pub const RESULTS_KEPT_MAX: usize = 64;

/// How many bytes of them, the newest two apart.
pub const RESULTS_KEPT_BYTES_MAX: usize = 8 * 1_024 * 1_024;

/// How many channels received messages make in a context of `SdsNewReliabilityManager`. nim-sds has no bound; profile `nim` has none, either, on
/// what waits or is missing in a channel.
pub const CHANNELS_BY_MESSAGES_MAX: usize = 10_000;

const _: () = {
    use seabed_sds::core;
    let same = CONTENT_BYTES_MAX == core::CONTENT_BYTES_MAX
        && MESSAGE_BYTES_MAX == core::limits::WIRE_BYTES_MAX
        && ID_BYTES_MAX == core::ID_BYTES_MAX
        && HINT_BYTES_MAX == core::HINT_BYTES_MAX
        && MARKED_IDS_MAX == core::MARKED_IDS_MAX;
    assert!(same, "a channel has other bounds than those that are published here");
};
