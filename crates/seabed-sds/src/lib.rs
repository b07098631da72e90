#![doc = include_str!("crate.md")]

mod alarm;
mod builder;
mod callbacks;
mod caught;
mod clock;
mod config;
pub mod contract;
mod dispatcher;
mod doubt;
mod driver;
mod error;
mod events;
mod inspect;
mod kernel;
mod limits;
mod line;
mod lock;
mod manager;
mod op;
mod overview;
mod patch;
mod registry;
mod release;
mod request;
mod shared;
mod status;
mod timer;
mod unsaved;
mod verify;

pub use builder::Builder;
pub use callbacks::{Callbacks, HintProvider, OnMessage, OnMissing, OnRepair, OnSyncDue};
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::{ReleasePolicy, UnknownChannels};
pub use error::{Error, ErrorKind, Result};
pub use events::{Cause, Events, Happened, What};
pub use inspect::decode_row;
pub use kernel::{KernelStore, LogosRows, TENANT};
pub use limits::{
    CALLBACKS_BYTES_MAX, CALLBACKS_WAITING_MAX, EVENTS_BYTES_MAX, EVENTS_MAX, FINDINGS_MAX, RETRY_MS,
    SLEEP_MS_MAX, SYNC_DUE_MS, UNKNOWN_CHANNELS_MAX, UNSAVED_ROWS_MAX,
};
pub use manager::{Receipt, SdsManager, Sent};
pub use op::Op;
pub use overview::{ChannelInfo, channel_rows, channels};
pub use patch::ConfigPatch;
pub use release::Answer;
pub use seabed_sds_core as core;
pub use status::{ChannelStatus, Counters};
pub use verify::{VerifyReport, verify};
