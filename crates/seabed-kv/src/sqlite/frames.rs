//! The frames of a log, each of which carries a checksum of all before it.

/// How long the header of a log is.
pub(super) const HEADER_BYTES: usize = 32;

/// What stands before each page: its number, the salts of the log, and the checksum.
const FRAME_HEADER_BYTES: usize = 24;

/// A log from its header up to some frame, as a recovery follows it.
#[derive(Debug)]
pub(super) struct FrameChain {
    is_big_endian: bool,
    page_bytes: usize,
    salts: [u8; 8],
    sums: [u32; 2],
}

impl FrameChain {
    /// The beginning of the log with that header; `None` when it is damaged.
    pub(super) fn begin(header: &[u8; HEADER_BYTES]) -> Option<Self> {
        let [magic, _, page_bytes, _, salts @ .., _, _] = header.as_chunks::<4>().0 else { return None };
        let (magic, page_bytes) = (u32::from_be_bytes(*magic), u32::from_be_bytes(*page_bytes));
        let mut chain = Self {
            // The lowest bit of the magic number says in which byte order the checksums are made.
            is_big_endian: magic & 1 == 1,
            page_bytes: usize::try_from(page_bytes).ok()?,
            salts: *salts.as_flattened().first_chunk()?,
            sums: [0; 2],
        };
        let (checked, sums) = header.split_last_chunk::<8>()?;
        chain.add(checked);
        let has_pages = (512..=65_536).contains(&page_bytes) && page_bytes.is_power_of_two();
        (magic & !1 == 0x377F_0682 && has_pages && chain.has_come_to(*sums)).then_some(chain)
    }

    /// How long each frame is.
    pub(super) fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.page_bytes
    }

    /// Goes on to the next frame; `false` when that is another.
    pub(super) fn extend(&mut self, frame: &[u8]) -> bool {
        let Some((header, page)) = frame.split_first_chunk::<FRAME_HEADER_BYTES>() else { return false };
        let Some(([number, salts], sums)) = header
            .as_chunks::<8>()
            .0
            .split_last()
            .and_then(|(sums, rest)| rest.first_chunk::<2>().map(|rest| (rest, sums)))
        else {
            return false;
        };
        self.add(number);
        self.add(page);
        *salts == self.salts && self.has_come_to(*sums)
    }

    fn add(&mut self, bytes: &[u8]) {
        let read = if self.is_big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
        let [mut first, mut second] = self.sums;
        for [a, b, c, d, e, f, g, h] in bytes.as_chunks::<8>().0 {
            first = first.wrapping_add(read([*a, *b, *c, *d])).wrapping_add(second);
            second = second.wrapping_add(read([*e, *f, *g, *h])).wrapping_add(first);
        }
        self.sums = [first, second];
    }

    fn has_come_to(&self, sums: [u8; 8]) -> bool {
        *sums.as_chunks::<4>().0 == self.sums.map(u32::to_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log of a file that another program wrote, of which every frame is known to be read.
    #[test]
    fn a_log_is_followed_to_its_end_and_no_further_than_a_bit_that_has_changed() {
        let log = include_bytes!("../../../../vectors/persistency/upstream.db-wal");
        let (header, frames) = log.split_first_chunk::<HEADER_BYTES>().unwrap();
        let followed = |frames: &[u8]| {
            let mut chain = FrameChain::begin(header).unwrap();
            frames.chunks_exact(chain.frame_bytes()).take_while(|frame| chain.extend(frame)).count()
        };
        let count = frames.len() / (FRAME_HEADER_BYTES + 4_096);
        assert_eq!(followed(frames), count);
        for at in (0..frames.len()).step_by(1_013) {
            let mut frames = frames.to_vec();
            frames[at] ^= 1 << (at % 8);
            assert_eq!(followed(&frames), at / (FRAME_HEADER_BYTES + 4_096), "byte {at}");
        }
        for at in 0..HEADER_BYTES {
            let mut header = *header;
            header[at] ^= 1 << (at % 8);
            assert!(FrameChain::begin(&header).is_none(), "byte {at}");
        }
    }
}
