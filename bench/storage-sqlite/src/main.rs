//! The peer: the original's storage for SQLite, as it is published.

use taskchampion_sync_server_storage_sqlite::SqliteStorage;

fn main() {
    storage_load::main(|directory| SqliteStorage::new(directory).expect("a storage"));
}
