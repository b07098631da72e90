#![doc = include_str!("crate.md")]

mod builder;
mod callbacks;
mod clock;
mod config;
pub mod contract;
mod driver;
mod error;
mod events;
mod inspect;
mod kernel;
mod lock;
mod manager;
mod op;
mod overview;
mod release;
mod request;
mod shared;
mod status;
mod timer;
mod verify;

pub use builder::Builder;
pub use callbacks::{Callbacks, HintProvider, OnMessage, OnMissing, OnRepair, OnSyncDue};
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::{ReleasePolicy, SYNC_DUE_MS, UNKNOWN_CHANNELS_MAX, UnknownChannels};
pub use driver::{RETRY_MS, UNSAVED_ROWS_MAX};
pub use error::{Error, ErrorKind, Result};
pub use events::{Cause, EVENTS_MAX, Events, Happened, What};
pub use inspect::decode_row;
pub use kernel::{KernelStore, LogosRows, TENANT};
pub use manager::{Receipt, SdsManager, Sent};
pub use op::Op;
pub use overview::{ChannelInfo, channel_rows, channels};
pub use release::Answer;
pub use seabed_sds_core as core;
pub use status::{ChannelStatus, Counters};
pub use verify::{FINDINGS_MAX, VerifyReport, verify};
