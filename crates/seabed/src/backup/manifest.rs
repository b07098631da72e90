//! `manifest.json`: what a backup consists of. It is JSON, and its last member is the hash of everything in front of it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use seabed_kv::TenantId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::sync;

/// Its name in the directory of a backup.
pub(crate) const FILE: &str = "manifest.json";
/// Its name until it is whole.
pub(crate) const PARTIAL_FILE: &str = "manifest.json.partial";

/// The layout that this program writes and reads.
const FORMAT: u32 = 1;
/// How many digits of its hash a copy has in its name.
const NAME_DIGITS: usize = 16;
/// How much of a tenant's file name a copy has in its own: file systems allow 255 bytes.
const NAME_STEM_BYTES_MAX: usize = 200;

/// What stands in front of the hash, and behind it.
const BEFORE_HASH: &str = ",\n  \"blake3\": \"";
const AFTER_HASH: &str = "\"\n}\n";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) writer: String,
    /// The directory of the store, as it was called when it was copied.
    pub(crate) store: String,
    /// Which store that is; `None` where an earlier version made the backup, or nobody has given the store an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) store_id: Option<Uuid>,
    pub(crate) created_unix_s: u64,
    pub(crate) tenants: Vec<Entry>,
    /// Tenants that the store had and the backup has not.
    pub(crate) missing: Vec<Missing>,
    /// Of tenants whose copy has findings, the last one that had none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) kept: Vec<Entry>,
}

/// A tenant's copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    pub(crate) blake3: String,
    pub(crate) copied_unix_s: u64,
    /// What its layer found wrong with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) findings: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's way to ask")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Missing {
    pub(crate) id: String,
    pub(crate) error: String,
}

/// What is said of a directory without a manifest, by whoever is to read the backup in it.
pub(crate) fn absent(place: &str) -> String {
    format!(
        "there is no backup in {place}: it has no {FILE}, which is written last, so one that was begun there did not end; make it again"
    )
}

/// Why there is no manifest.
#[derive(Debug)]
pub(crate) enum NotRead {
    Absent,
    /// A later version wrote it.
    Unsupported(String),
    /// It is not what was written.
    Damaged(String),
    Failed(io::Error),
}

impl Manifest {
    pub(crate) fn new(store: String, created_unix_s: u64) -> Self {
        Self {
            format: FORMAT,
            writer: crate::own::writer(),
            store,
            store_id: None,
            created_unix_s,
            tenants: Vec::new(),
            missing: Vec::new(),
            kept: Vec::new(),
        }
    }

    pub(crate) fn entry(&self, id: &TenantId) -> Option<&Entry> {
        self.tenants.iter().find(|entry| entry.id == id.as_str())
    }

    /// Whether a file of that name belongs to the backup.
    pub(crate) fn names(&self, name: &str) -> bool {
        name == FILE || self.tenants.iter().chain(&self.kept).any(|entry| entry.file == name)
    }

    /// The tenants with their ids; `read` has seen that they are ones.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (TenantId, &Entry)> {
        self.tenants.iter().filter_map(|entry| Some((TenantId::new(&entry.id).ok()?, entry)))
    }

    /// Reads and checks the manifest of a backup.
    pub(crate) fn read(directory: &Path) -> Result<Self, NotRead> {
        match fs::read(directory.join(FILE)) {
            Ok(bytes) => Self::from_bytes(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NotRead::Absent),
            Err(error) => Err(NotRead::Failed(error)),
        }
    }

    /// Puts it in its place, in one step and for good.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        let partial = directory.join(PARTIAL_FILE);
        // One that was left, or that somebody has put there: what a link leads to is not ours to write.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(self.to_text()?.as_bytes())?;
        file.sync_all()?;
        drop(file);
        fs::rename(&partial, directory.join(FILE))?;
        sync(directory)
    }

    fn to_text(&self) -> io::Result<String> {
        let text = serde_json::to_string_pretty(self)?;
        let text = text.strip_suffix("\n}").unwrap_or(&text);
        let hash = blake3::hash(text.as_bytes());
        Ok(format!("{text}{BEFORE_HASH}{}{AFTER_HASH}", hash.to_hex()))
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, NotRead> {
        let damaged = |what: String| NotRead::Damaged(format!("{FILE} {what}"));
        if !ends_in_its_hash(bytes) {
            // A later version may say it otherwise, if it is one.
            let value: Option<Value> = serde_json::from_slice(bytes).ok();
            let format = value.as_ref().and_then(|value| value.get("format")?.as_u64());
            return Err(match format {
                Some(format) if format > u64::from(FORMAT) => newer(format, value.as_ref()),
                _ => damaged("is not what was written: its hash is another, or it was cut off".to_owned()),
            });
        }
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| damaged(format!("does not read: {error}")))?;
        match value.get("format").and_then(Value::as_u64) {
            Some(format) if format > u64::from(FORMAT) => return Err(newer(format, Some(&value))),
            Some(format) if format == u64::from(FORMAT) => {}
            _ => return Err(damaged("names no format".to_owned())),
        }
        let manifest: Self =
            serde_json::from_value(value).map_err(|error| damaged(format!("does not read: {error}")))?;
        let mut ids = BTreeSet::new();
        for (position, entry) in manifest.tenants.iter().chain(&manifest.kept).enumerate() {
            let id =
                TenantId::new(&entry.id).map_err(|error| damaged(format!("names no tenant: {error}")))?;
            // So no entry can name a file outside the directory either.
            let is_hash =
                entry.blake3.len() == 64 && entry.blake3.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_hash || entry.file != file_name(&id, &entry.blake3) {
                return Err(damaged(format!(
                    "has '{}' as the copy of {id}, which cannot be its name",
                    entry.file
                )));
            }
            if position < manifest.tenants.len() && !ids.insert(id.clone()) {
                return Err(damaged(format!("names {id} twice")));
            }
        }
        Ok(manifest)
    }
}

fn ends_in_its_hash(bytes: &[u8]) -> bool {
    let tail = |bytes: &[u8]| {
        let rest = bytes.strip_suffix(AFTER_HASH.as_bytes())?;
        let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        let text = rest.strip_suffix(BEFORE_HASH.as_bytes())?;
        Some(blake3::hash(text).to_hex().as_bytes() == hash)
    };
    tail(bytes).unwrap_or(false)
}

fn newer(format: u64, value: Option<&Value>) -> NotRead {
    let writer = value.and_then(|value| value.get("writer")?.as_str()).unwrap_or("an unknown program");
    NotRead::Unsupported(format!(
        "{FILE} has format {format}, written by '{writer}'; this is {}, which reads format {FORMAT}: use that version or a later one",
        crate::own::writer()
    ))
}

/// The name of a tenant's copy: the name of the tenant's file, and what it contains.
pub(crate) fn file_name(id: &TenantId, blake3: &str) -> String {
    let digits: String = blake3.chars().take(NAME_DIGITS).collect();
    format!("{}.{digits}.db", stem(id))
}

fn stem(id: &TenantId) -> String {
    let name = id.file_name();
    name.strip_suffix(".db").unwrap_or(&name).chars().take(NAME_STEM_BYTES_MAX).collect()
}

/// Whether a copy of that tenant may have that name.
pub(crate) fn is_copy_of(id: &str, name: &str) -> bool {
    let of = name.strip_suffix(".db").and_then(|name| Some(name.rsplit_once('.')?.0));
    is_copy(name) && TenantId::new(id).is_ok_and(|id| of == Some(stem(&id).as_str()))
}

/// Whether a copy may have that name.
pub(crate) fn is_copy(name: &str) -> bool {
    let digits = name.strip_suffix(".db").and_then(|name| Some(name.rsplit_once('.')?.1));
    digits.is_some_and(|digits| {
        digits.len() == NAME_DIGITS && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let mut manifest = Manifest::new("/data".to_owned(), 7);
        for id in ["one", "t/w\"o"] {
            let blake3 = blake3::hash(id.as_bytes()).to_hex().to_string();
            let file = file_name(&id.parse().unwrap(), &blake3);
            let id = id.to_owned();
            manifest.tenants.push(Entry {
                id,
                file,
                bytes: 8192,
                rows: 3,
                blake3,
                copied_unix_s: 7,
                findings: 0,
            });
        }
        manifest.missing.push(Missing { id: "three".to_owned(), error: "damaged".to_owned() });
        manifest
    }

    #[test]
    fn it_reads_back_and_is_json() {
        let text = manifest().to_text().unwrap();
        assert_eq!(Manifest::from_bytes(text.as_bytes()).unwrap(), manifest());
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["tenants"][1]["id"], "t/w\"o");
        assert_eq!(value["blake3"].as_str().unwrap().len(), 64);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let text = manifest().to_text().unwrap().into_bytes();
        for position in 0..text.len() {
            for bit in 0..8 {
                let mut flipped = text.clone();
                flipped[position] ^= 1 << bit;
                assert!(Manifest::from_bytes(&flipped).is_err(), "bit {bit} of byte {position}");
            }
            assert!(Manifest::from_bytes(&text[..position]).is_err(), "cut at {position}");
        }
        assert!(Manifest::from_bytes(&[text.as_slice(), b"\n"].concat()).is_err());
    }

    #[test]
    fn a_later_format_is_named_with_its_writer() {
        let later = Manifest { format: 2, writer: "seabed 9.9.9".to_owned(), ..manifest() };
        for text in [later.to_text().unwrap(), serde_json::to_string(&later).unwrap()] {
            let Err(NotRead::Unsupported(why)) = Manifest::from_bytes(text.as_bytes()) else { panic!() };
            assert!(
                why.contains("format 2, written by 'seabed 9.9.9'") && why.contains("reads format 1"),
                "{why}"
            );
        }
    }

    #[test]
    fn what_it_names_is_plausible_even_with_a_right_hash() {
        let mut outside = manifest();
        outside.tenants[0].file = "../../etc/passwd".to_owned();
        let mut twice = manifest();
        twice.tenants[1] = twice.tenants[0].clone();
        let mut kept_outside = manifest();
        kept_outside.kept.push(outside.tenants[0].clone());
        let mut unnamed = manifest();
        unnamed.tenants[0].id = String::new();
        for wrong in [outside, twice, kept_outside, unnamed] {
            let text = wrong.to_text().unwrap();
            assert!(matches!(Manifest::from_bytes(text.as_bytes()), Err(NotRead::Damaged(_))));
        }
    }

    #[test]
    fn names_are_short_and_known_again() {
        let hash = blake3::hash(b"").to_hex();
        for id in ["a", "a.0123456789abcdef", &"x".repeat(200), &"ä".repeat(40), "..", "copy.partial"] {
            let name = file_name(&id.parse().unwrap(), &hash);
            assert!(
                name.len() <= 255 && is_copy(&name) && !name.starts_with('.') && !name.contains('/'),
                "{name}"
            );
            assert!(is_copy_of(id, &name) && !is_copy_of("another", &name), "{name}");
        }
        for name in
            ["a.db", "taskchampion-00.db", "a.0123456789ABCDEF.db", "a.0123456789abcde.db", ".db", "x"]
        {
            assert!(!is_copy(name), "{name}");
        }
    }
}
