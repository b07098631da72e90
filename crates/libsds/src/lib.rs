#![doc = include_str!("crate.md")]
#![doc = concat!("```c\n", include_str!("../examples/remembers.c"), "```")]

mod call;
mod callback;
mod classic;
mod context;
mod error;
mod event;
mod extra;
mod input;
mod json;
pub mod limits;
mod lock;
mod options;
mod registry;
mod request;
mod status;
mod text;
mod worker;

pub use callback::{SdsCallBack, SdsRetrievalHintProvider};
pub use classic::{
    SdsCleanupReliabilityManager, SdsMarkDependenciesMet, SdsNewReliabilityManager,
    SdsResetReliabilityManager, SdsSetEventCallback, SdsSetRetrievalHintProvider, SdsStartPeriodicTasks,
    SdsUnwrapReceivedMessage, SdsWrapOutgoingMessage,
};
pub use error::{
    RET_ERR, RET_MISSING_CALLBACK, RET_OK, SEABED_SDS_BACKPRESSURE, SEABED_SDS_BUSY, SEABED_SDS_CLOSED,
    SEABED_SDS_DESERIALIZATION, SEABED_SDS_INTERNAL, SEABED_SDS_INVALID_ARGUMENT,
    SEABED_SDS_MESSAGE_TOO_LARGE, SEABED_SDS_PERSISTENCE, SEABED_SDS_UNSUPPORTED,
};
pub use extra::{
    seabed_sds_channels, seabed_sds_open, seabed_sds_remove_channel, seabed_sds_send_sync, seabed_sds_status,
    seabed_sds_version, seabed_sds_wait,
};
