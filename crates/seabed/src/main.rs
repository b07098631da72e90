//! Seabed: durable state for sync protocols. This binary serves them and looks after what they stored.

mod access;
mod backup;
mod bytes;
mod cli;
mod config;
mod copy;
mod node;
mod open;
mod output;
mod own;
mod server;
mod store_url;
mod tokens;

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Gives back what documents have taken: the system's own keeps it for the little that lies between.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    // Once a process, and the library never does it: an embedder's SQLite is the embedder's.
    seabed_kv::sqlite::tune_process();
    match cli::Cli::read().run() {
        Ok(code) => code,
        Err(error) => output::failure(&error),
    }
}
