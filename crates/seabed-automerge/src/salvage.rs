//! From stored pieces to a document: in one go when all is well, piece by piece when something is damaged.

use automerge::{Automerge, AutomergeError, LoadOptions, OnPartialLoad};

use crate::chunks::{self, Kind, Sifted, guarded, sift};

/// One stored value of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Whether it is a snapshot, and not changes.
    pub(crate) snapshot: bool,
    /// Whether it was stored under an address, and so is no part of what is loaded.
    pub(crate) addressed: bool,
    /// The key of its row.
    pub(crate) key: Vec<u8>,
    /// Its row, as it is stored.
    pub(crate) payload: Vec<u8>,
    /// The bytes of the value, or why they could not be read.
    pub(crate) bytes: Result<Vec<u8>, String>,
}

impl Piece {
    /// A piece that is not known to be a row.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { snapshot: false, addressed: false, key: Vec::new(), payload: Vec::new(), bytes: Ok(bytes) }
    }
}

/// A piece of which not everything could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    pub(crate) piece: Piece,
    /// What of it could: it stays.
    pub(crate) whole: Vec<u8>,
    pub(crate) reason: String,
}

impl Damaged {
    /// What is wrong with it.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// What could be made of a document's pieces.
#[derive(Debug)]
pub(crate) struct Salvaged {
    pub(crate) document: Automerge,
    pub(crate) damaged: Vec<Damaged>,
}

/// Loads one buffer. Changes whose dependencies are not there are kept until those come; everything else that is wrong is an error.
pub(crate) fn load(buffer: &[u8]) -> Result<Automerge, String> {
    let options = |partial| LoadOptions::new().on_partial_load(partial);
    let loaded = guarded(|| match Automerge::load_with_options(buffer, options(OnPartialLoad::Error)) {
        // Every chunk was read and applied; only here this is an error.
        Err(AutomergeError::MissingDeps) => {
            Automerge::load_with_options(buffer, options(OnPartialLoad::Ignore))
        }
        loaded => loaded,
    })?;
    loaded.map_err(|error| error.to_string())
}

/// Adds a stream to a document. On an error, and on nothing else, the document is not to be used any more.
pub(crate) fn absorb(document: &mut Automerge, stream: &[u8]) -> Result<(), String> {
    let Sifted { whole, flaw } = sift(stream);
    if let Some(flaw) = flaw {
        return Err(flaw);
    }
    guarded(|| {
        let mut changes = Vec::new();
        for chunk in whole {
            match chunk.kind {
                Kind::Change | Kind::Compressed => changes.extend(chunk.change()),
                // Read into a document of its own: a snapshot that does not load would only be logged otherwise.
                Kind::Document | Kind::Bundle => document.merge(&mut load_chunk(chunk.bytes)?).map(drop)?,
            }
        }
        document.apply_changes(changes)
    })?
    .map_err(|error| error.to_string())
}

fn load_chunk(bytes: &[u8]) -> Result<Automerge, AutomergeError> {
    Automerge::load_with_options(bytes, LoadOptions::new())
}

/// Loads what can be loaded, and tells what cannot.
pub(crate) fn salvage(pieces: &[Piece]) -> Salvaged {
    let mut damaged = Vec::new();
    let mut usable: Vec<(&Piece, Vec<u8>)> = Vec::new();
    for piece in pieces.iter().filter(|piece| !piece.addressed) {
        let reject = |whole, reason: &str| Damaged { piece: piece.clone(), whole, reason: reason.to_owned() };
        match &piece.bytes {
            Err(reason) => damaged.push(reject(Vec::new(), reason)),
            Ok(bytes) => {
                let sifted = sift(bytes);
                let whole: Vec<u8> = sifted.whole.iter().flat_map(|chunk| chunk.bytes).copied().collect();
                if let Some(flaw) = sifted.flaw {
                    damaged.push(reject(whole.clone(), &flaw));
                }
                usable.push((piece, whole));
            }
        }
    }
    let mut document = Automerge::new();
    let mut refused = Vec::new();
    absorb_all(&mut document, &usable, &mut refused);
    for (piece, reason) in refused {
        damaged.retain(|damaged| damaged.piece != *piece);
        damaged.push(Damaged { piece: piece.clone(), whole: Vec::new(), reason });
    }
    Salvaged { document, damaged }
}

/// All at once, or else each half: a damaged piece among ten thousand costs some fourteen attempts, and not ten thousand.
fn absorb_all<'a>(
    document: &mut Automerge,
    pieces: &[(&'a Piece, Vec<u8>)],
    refused: &mut Vec<(&'a Piece, String)>,
) {
    let stream: Vec<u8> = pieces.iter().flat_map(|(_, bytes)| bytes).copied().collect();
    let mut attempt = document.clone();
    match (absorb(&mut attempt, &stream), pieces) {
        (Ok(()), _) => *document = attempt,
        (Err(reason), [(piece, _)]) => refused.push((piece, reason)),
        (Err(_), _) => {
            let (first, second) = pieces.split_at(pieces.len() / 2);
            absorb_all(document, first, refused);
            absorb_all(document, second, refused);
        }
    }
}

/// How many changes a stored value holds; snapshots and what does not read count none.
pub(crate) fn change_count(bytes: &[u8]) -> u64 {
    chunks::changes(bytes).map_or(0, |changes| changes.len() as u64)
}
