//! Files of the original that are damaged here and there.

use std::fs;

use pollster::block_on;
use seabed_kv::Store;
use uuid::Uuid;

use crate::common::{World, assert_sound, rows};
use crate::{Original, import};

/// One page after the other is damaged: whoever it concerns is refused, and the others come to the byte.
#[test]
fn a_damaged_page_costs_only_the_clients_that_it_concerns() {
    const CLIENTS: u128 = 12;
    let original = Original::new();
    for client in 1..=CLIENTS {
        original.chain(client, client * 100, 4);
        for version in client * 100..client * 100 + 4 {
            original.alter(
                "UPDATE versions SET history_segment = CAST(randomblob(900) AS BLOB) WHERE version_id = ?1",
                version,
            );
        }
        if client % 3 == 0 {
            original.snapshot(
                client,
                client * 100 + 2,
                1,
                1_600_000_000,
                &vec![u8::try_from(client).unwrap(); 9_000],
            );
        }
    }
    original.chain(40, 4_000, 0);
    original.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let sound = World::new(Store::memory());
    assert_eq!(import(&sound, &original.file()).refused, 0);
    let of = |world: &World, client: Uuid| -> Vec<_> {
        rows(&world.store)
            .into_iter()
            .filter(|((category, key), _)| {
                key.starts_with(client.as_bytes())
                    && ["taskchampion.version", "taskchampion.parent"].contains(&category.as_str())
            })
            .collect()
    };
    let all = block_on(sound.taskchampion.clients()).unwrap();
    let bytes = fs::read(original.file()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut losses = Vec::new();
    // The first page says what there is.
    for page in 1..bytes.len() / 4_096 {
        let file = directory.path().join(format!("damaged-{page}"));
        let mut damaged = bytes.clone();
        damaged[page * 4_096..(page + 1) * 4_096].fill(0xA5);
        fs::write(&file, damaged).unwrap();
        let world = World::new(Store::memory());
        let report = import(&world, &file);
        let here = block_on(world.taskchampion.clients()).unwrap();
        assert_eq!(here.len() as u64 + report.refused, all.len() as u64, "page {page}: {report:?}");
        for refused in &report.refusals {
            assert!(refused.why.contains("damaged"), "page {page}: {refused:?}");
            assert!(here.iter().all(|client| client.client.to_string() != refused.client), "page {page}");
        }
        for client in &here {
            let same = |other: &&seabed_taskchampion::ClientInfo| other.client == client.client;
            assert_eq!(Some(client), all.iter().find(same), "page {page}");
            assert_eq!(of(&world, client.client), of(&sound, client.client), "page {page}");
        }
        assert_sound(&world.store);
        // Whoever left them out can say so.
        let changed = block_on(world.taskchampion.changed_since_import(&file)).unwrap();
        assert_eq!(changed.len() as u64, report.refused, "page {page}: {changed:?}");
        losses.push(report.refused);
    }
    let with = |lost: &dyn Fn(u64) -> bool| losses.iter().filter(|refused| lost(**refused)).count();
    assert!(with(&|lost| lost == 0) > 0, "an index is not needed: {losses:?}");
    assert!(with(&|lost| lost == 1) >= 4, "a value in pages of its own is one client's: {losses:?}");
    assert!(
        with(&|lost| (2..u64::try_from(CLIENTS).unwrap()).contains(&lost)) > 0,
        "rows of a few clients: {losses:?}"
    );
}
