//! Whether the destination holds what the source has, and nothing else: both are read, row by row.

use std::collections::BTreeMap;

use seabed_kv::{Error, KeyRange, ScanSpec, Tenant};
use seabed_taskchampion::CHUNK_CATEGORY;

use super::{Copy, Failed, Placed, Progress, TenantCopied, is_bookkeeping, leave};
use crate::own;

/// A checksum over rows in any order, because another number of shards brings them in another: the sum of their hashes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Checksum {
    rows: u64,
    bytes: u64,
    sum: [u64; 4],
}

impl Checksum {
    fn add(&mut self, category: &[u8], key: &[u8], payload: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        for part in [category, key, payload] {
            hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
        }
        let hash = hasher.finalize();
        let (words, _) = hash.as_bytes().as_chunks::<8>();
        for (sum, word) in self.sum.iter_mut().zip(words) {
            *sum = sum.wrapping_add(u64::from_be_bytes(*word));
        }
        self.rows += 1;
        self.bytes += (category.len() + key.len() + payload.len()) as u64;
    }

    fn text(&self) -> String {
        hex::encode(self.sum.map(u64::to_be_bytes).as_flattened())
    }
}

type Checksums = BTreeMap<String, Checksum>;

/// Reads both stores, and finds in every tenant of the destination what the source has for it, and nothing else.
pub(super) async fn compare(copy: &mut Copy<'_>) -> Result<Vec<TenantCopied>, Failed> {
    let mut so_far = Progress { comparing: true, ..Progress::default() };
    let mut expected = Checksums::new();
    for id in copy.from.list().await? {
        let tenant = copy.from.open(id.as_str()).await?;
        for category in tenant.categories().await? {
            expect(copy, &tenant, &category, &mut expected).await?;
            so_far.rows = expected.values().map(|checksum| checksum.rows).sum();
            so_far.bytes = expected.values().map(|checksum| checksum.bytes).sum();
            (copy.progress)(so_far);
        }
        leave(&copy.from, id.as_str()).await?;
    }
    let mut tenants = Vec::new();
    for id in copy.to.list().await? {
        let tenant = copy.to.open(id.as_str()).await?;
        let found = found(copy, &tenant).await?;
        let expected = expected.remove(id.as_str()).unwrap_or_default();
        if found != expected {
            return Err(Failed::Differs(differs(id.as_str(), &expected, &found)));
        }
        if id.as_str() != own::TENANT {
            leave(&copy.to, id.as_str()).await?;
        }
        let Checksum { rows, bytes, .. } = found;
        tenants.push(TenantCopied { id: id.as_str().to_owned(), rows, bytes, checksum: found.text() });
        so_far.rows += rows;
        so_far.bytes += bytes;
        (copy.progress)(so_far);
    }
    match expected.first_key_value() {
        None => Ok(tenants),
        Some((id, expected)) => Err(Failed::Differs(differs(id, expected, &Checksum::default()))),
    }
}

fn differs(id: &str, expected: &Checksum, found: &Checksum) -> String {
    format!(
        "tenant {id} has {} rows of {} bytes there, and {} of {} were to be copied: somebody changed the source since the copy began, or the \
         destination. Stop every server, empty the destination, and copy again",
        found.rows, found.bytes, expected.rows, expected.bytes
    )
}

/// Adds what a category of the source is to become.
async fn expect(
    copy: &mut Copy<'_>,
    tenant: &Tenant,
    category: &[u8],
    expected: &mut Checksums,
) -> Result<(), Error> {
    let mut rows = tenant.scan(ScanSpec::new(category, KeyRange::all()));
    while let Some(row) = rows.next().await {
        let row = row?;
        copy.alive().await?;
        let placed = copy.layout.place(tenant.id().as_str(), category, &row.key, &row.payload)?;
        let Some(Placed { tenant: to, staged }) = placed else { continue };
        let checksum = expected.entry(to).or_default();
        checksum.add(category, row.key.as_bytes(), &row.payload);
        if let Some(value) = staged {
            let mut chunks = tenant.scan(ScanSpec::new(CHUNK_CATEGORY, KeyRange::prefix(value)));
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                copy.alive().await?;
                checksum.add(CHUNK_CATEGORY.as_bytes(), chunk.key.as_bytes(), &chunk.payload);
            }
        }
    }
    Ok(())
}

/// What a tenant of the destination holds.
async fn found(copy: &mut Copy<'_>, tenant: &Tenant) -> Result<Checksum, Error> {
    let mut checksum = Checksum::default();
    for category in tenant.categories().await? {
        if is_bookkeeping(tenant.id().as_str(), &category) {
            continue;
        }
        let mut rows = tenant.scan(ScanSpec::new(&category, KeyRange::all()));
        while let Some(row) = rows.next().await {
            let row = row?;
            copy.alive().await?;
            checksum.add(&category, row.key.as_bytes(), &row.payload);
        }
    }
    Ok(checksum)
}
