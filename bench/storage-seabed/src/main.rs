//! Ours, through the original's traits.

use seabed_kv::Store;
use seabed_taskchampion::{Config, TaskChampion};

fn main() {
    storage_load::main(|directory| {
        let store = Store::sqlite(directory).expect("a store");
        storage_load::block_on(TaskChampion::open(&store, Config::default())).expect("a storage")
    });
}
