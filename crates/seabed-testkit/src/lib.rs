//! What Seabed is tested with: a disk that loses power, random programs, and the model they are held against.
//!
//! Never published, and a dev-dependency only. Everything here is a function of a seed.

pub mod disk;
pub mod fuzz;
pub mod model;
pub mod program;
pub mod rng;
pub mod sim;
mod vfs;

pub use disk::{Counters, Fault};
pub use model::History;
pub use rng::Rng;
pub use vfs::Disk;
