//! Document ids: sixteen bytes, written as automerge-repo writes them.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// How many bytes of checksum follow the id inside its text.
const CHECKSUM_BYTES: usize = 4;

/// Text longer than this is no id: sixteen bytes and a checksum take at most 28 characters.
const TEXT_BYTES_MAX: usize = 28;

/// The id of a document: sixteen random bytes, which automerge-repo writes in base58 with a checksum, and as a URL with `automerge:` in
/// front. Whoever knows it may ask for the document, so it is logged in part only.
///
/// ```
/// use seabed_automerge::DocumentId;
///
/// let id: DocumentId = "4NMNnkMhL8jXrdJ9jamS58PAVdXu".parse()?;
/// assert_eq!(format!("automerge:{id}").parse::<DocumentId>()?, id);
/// assert!("4NMNnkMhL8jXrdJ9jamS58PAVdXv".parse::<DocumentId>().is_err());
/// # Ok::<(), seabed_automerge::ParseDocumentIdError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentId([u8; 16]);

/// The text is no document id: not base58, of another length, or its checksum does not fit, as when a character was mistyped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "this is no document id: it is base58 text of sixteen bytes and a checksum, as automerge-repo prints it"
)]
pub struct ParseDocumentIdError;

impl DocumentId {
    /// The id of these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

fn checksum(id: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest: [u8; 32] = Sha256::digest(Sha256::digest(id)).into();
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0.to_vec();
        bytes.extend_from_slice(&checksum(&self.0));
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

/// Eight characters tell one document from another; the whole id is a credential.
impl fmt::Debug for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self.to_string().chars().take(8).collect();
        write!(f, "DocumentId({text}..)")
    }
}

impl FromStr for DocumentId {
    type Err = ParseDocumentIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_prefix("automerge:").unwrap_or(text);
        if text.len() > TEXT_BYTES_MAX {
            return Err(ParseDocumentIdError);
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| ParseDocumentIdError)?;
        let (id, sum) = bytes.split_at_checked(16).ok_or(ParseDocumentIdError)?;
        if sum != checksum(id) {
            return Err(ParseDocumentIdError);
        }
        Ok(Self(id.try_into().map_err(|_| ParseDocumentIdError)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_as_they_are_written_and_in_no_other_way() {
        for bytes in [[0; 16], [0xFF; 16], *b"sixteen bytes ok"] {
            let id = DocumentId::from_bytes(bytes);
            let text = id.to_string();
            assert_eq!(text.parse(), Ok(id), "{text}");
            for (at, _) in text.char_indices() {
                let mut typo = text.clone().into_bytes();
                typo[at] = if typo[at] == b'2' { b'3' } else { b'2' };
                assert!(String::from_utf8(typo).unwrap().parse::<DocumentId>().is_err(), "{text} at {at}");
            }
        }
        for text in ["", "automerge:", "0OIl", &"1".repeat(29), &"z".repeat(10_000), "é"] {
            assert_eq!(text.parse::<DocumentId>(), Err(ParseDocumentIdError), "{text}");
        }
    }
}
