//! What Seabed is tested with: a disk that loses power, random programs, the model they are held against, and servers of
//! others.
//!
//! Never published, and a dev-dependency only. Everything here is a function of a seed, but for the servers.

pub mod disk;
pub mod fuzz;
mod layer;
pub mod linearizable;
pub mod model;
mod on_disk;
pub mod postgres;
pub mod process;
pub mod program;
pub mod proxy;
pub mod rng;
pub mod sim;
mod vfs;

pub use disk::{Counters, Fault};
pub use layer::Layer;
pub use model::History;
pub use on_disk::OnDisk;
pub use rng::Rng;
pub use vfs::Disk;
