//! Filters: how a participant tells in few bytes which messages it has received (sds.md section 5).
//!
//! Both dialects size and fill a filter alike and differ in everything else: the hash, the order of the bytes, and whether the
//! parameters travel with it. A filter from a peer is used for one thing, to find which of our messages it may have received, and a false
//! answer costs little; but its parameters are the peer's choice, so [`Filter::read`] looks at them before anything is
//! calculated with them.

mod rolling;

use std::num::NonZeroU64;
use std::sync::Arc;

pub use self::rolling::RollingFilter;
use crate::limits::{FILTER_BITS_MAX, FILTER_BITS_MIN, FILTER_HASHES_MAX};
use crate::wire::Dialect;
use crate::wire::protobuf::{Fields, Rules, Value, bytes_len, put_bytes, put_number, varint_len};
use crate::{DecodeError, hash};

/// How many ids a filter is for, unless told otherwise.
pub const CAPACITY_DEFAULT: usize = 10_000;

/// How often a full filter finds an id that is not in it, unless told otherwise.
pub const ERROR_RATE_DEFAULT: f64 = 0.001;

/// The fewest ids that [`Filter::sized_for`] makes room for.
const CAPACITY_MIN: usize = 16;

const WORD_BYTES: usize = 8;

const WORDS: u64 = 1;
const CAPACITY: u64 = 2;
const ERROR_PPM: u64 = 3;
const HASHES: u64 = 4;
const BITS: u64 = 5;

/// What an id is in every filter of a dialect: its two hashes, calculated once and kept beside the id.
///
/// ```
/// use seabed_sds_core::{bloom::{Filter, Hashed}, wire::Dialect};
///
/// let mut filter = Filter::new(Dialect::Nim, 100, 0.001);
/// let hashed = Hashed::new(Dialect::Nim, b"msg-1");
/// assert!(!filter.contains_hashed(hashed));
/// filter.insert_hashed(hashed);
/// assert!(filter.contains(b"msg-1"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    first: u64,
    second: u64,
}

impl Hashed {
    /// Of an id that no filter holds. No magnitude is as large.
    const NOWHERE: Self = Self { first: u64::MAX, second: u64::MAX };

    /// The hashes of an id. In [`Dialect::Spec`] one that is not ASCII is in no filter, whatever was inserted.
    pub fn new(dialect: Dialect, id: &[u8]) -> Self {
        let second = [id, b" b"].concat();
        match dialect {
            Dialect::Nim => {
                Self { first: hash::magnitude(hash::nim(id)), second: hash::magnitude(hash::nim(&second)) }
            }
            Dialect::Spec => match (hash::spec(id), hash::spec(&second)) {
                (Some(first), Some(second)) => Self {
                    first: first.cast_signed().unsigned_abs().into(),
                    second: second.cast_signed().unsigned_abs().into(),
                },
                _ => Self::NOWHERE,
            },
        }
    }
}

/// How large a filter is, calculated as every peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizing {
    /// How many bits an id sets at most.
    pub hashes: u64,
    /// Among how many bits.
    pub bits: NonZeroU64,
    /// In how many words of 64 bits they lie; one more than needed, or part of it.
    pub words: u64,
}

impl Sizing {
    /// For so many ids and that rate of false answers. No ids, or a rate that is not between 0 and 1, is the default's.
    pub fn new(capacity: usize, error_rate: f64) -> Self {
        let (capacity, error_rate) = or_default(capacity, error_rate);
        let bits_per_id = (-error_rate.ln() / std::f64::consts::LN_2.powi(2)).ceil();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
        let (bits_per_id, hashes) =
            (bits_per_id as u64, (std::f64::consts::LN_2 * bits_per_id).round() as u64);
        let bits = NonZeroU64::new((capacity as u64).saturating_mul(bits_per_id)).unwrap_or(NonZeroU64::MIN);
        Self { hashes, bits, words: words_of(bits) }
    }
}

fn or_default(capacity: usize, error_rate: f64) -> (usize, f64) {
    let capacity = if capacity == 0 { CAPACITY_DEFAULT } else { capacity };
    let usable = error_rate > 0.0 && error_rate < 1.0;
    (capacity, if usable { error_rate } else { ERROR_RATE_DEFAULT })
}

fn words_of(bits: NonZeroU64) -> u64 {
    1 + bits.get() / 64
}

/// A set of ids that answers "certainly not" or "probably".
///
/// ```
/// use seabed_sds_core::{bloom::Filter, wire::Dialect};
///
/// let mut ours = Filter::sized_for(3, 0.001);
/// for id in ["m1", "m2", "m3"] {
///     ours.insert(id.as_bytes());
/// }
/// let sent = ours.to_bytes();
/// assert_eq!(sent.len(), 44);
///
/// let theirs = Filter::read(Dialect::Nim, &sent)?;
/// assert!(theirs.contains(b"m2") && !theirs.contains(b"m4"));
/// # Ok::<(), seabed_sds_core::DecodeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    dialect: Dialect,
    /// The bits in the order of the wire.
    array: Vec<u8>,
    capacity: u64,
    error_ppm: u64,
    hashes: u64,
    bits: NonZeroU64,
    /// `2^64 / bits`, for [`Self::rest`].
    reciprocal: u64,
}

/// Of how many bits of an id at most one answer is made. Each alone is as likely as not, and a processor that guesses wrong loses more than
/// the next bits cost.
const BITS_AT_ONCE: u64 = 4;

impl Filter {
    /// An empty filter for so many ids and that rate of false answers. No ids, or a rate that is not between 0 and 1, is the
    /// default's, as in nim. A filter of more than [`FILTER_BITS_MAX`] bits is for fewer ids: no peer would look at it.
    pub fn new(dialect: Dialect, capacity: usize, error_rate: f64) -> Self {
        let (capacity, error_rate) = or_default(capacity, error_rate);
        let mut capacity = capacity;
        let mut sizing = Sizing::new(capacity, error_rate);
        if sizing.bits.get() > FILTER_BITS_MAX {
            let bits_per_id = Sizing::new(1, error_rate).bits.get();
            capacity = usize::try_from(FILTER_BITS_MAX / bits_per_id).unwrap_or(usize::MAX);
            sizing = Sizing::new(capacity, error_rate);
        }
        let array_bytes = usize::try_from(sizing.words).unwrap_or(usize::MAX).saturating_mul(WORD_BYTES);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a million")]
        let error_ppm = (error_rate * 1e6) as u64;
        Self {
            dialect,
            array: vec![0; array_bytes],
            capacity: capacity as u64,
            error_ppm,
            hashes: sizing.hashes,
            bits: sizing.bits,
            reciprocal: u64::MAX / sizing.bits,
        }
    }

    /// An empty filter of nim's dialect, whose readers take any size, with room for so many ids: for the next power of two from
    /// 16 on, so that one filter serves while the ids become more. From 8,193 ids on it has the sizes of nim's own filter,
    /// for 10,000 and for 12,000, where they suffice.
    pub fn sized_for(ids: usize, error_rate: f64) -> Self {
        let step = ids.max(CAPACITY_MIN).checked_next_power_of_two().unwrap_or(usize::MAX);
        let nims = [CAPACITY_DEFAULT, CAPACITY_DEFAULT / 5 * 6];
        let capacity = nims.into_iter().find(|capacity| (ids..step).contains(capacity)).unwrap_or(step);
        Self::new(Dialect::Nim, capacity, error_rate)
    }

    /// Reads a filter that came with a message of this dialect. [`Dialect::Spec`]'s has no parameters: it is taken for one of the default
    /// size, as its readers do.
    ///
    /// # Errors
    /// [`DecodeError`] when it is malformed, or has parameters that no honest peer has: go on as if the message had none.
    pub fn read(dialect: Dialect, bytes: &[u8]) -> Result<Self, DecodeError> {
        match dialect {
            Dialect::Nim => Self::read_nim(bytes),
            Dialect::Spec => Self::read_spec(bytes, CAPACITY_DEFAULT, ERROR_RATE_DEFAULT),
        }
    }

    fn read_nim(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut array, mut numbers) = (None, [None; 4]);
        for field in Fields::new(bytes, Rules::Nim) {
            match field? {
                (WORDS, Value::Bytes(bytes)) => array = Some(bytes),
                (number @ CAPACITY..=BITS, Value::Varint(value)) => {
                    for (place, slot) in (CAPACITY..).zip(&mut numbers) {
                        if place == number {
                            *slot = Some(value);
                        }
                    }
                }
                _ => {}
            }
        }
        let (Some(array), [Some(capacity), Some(error_ppm), Some(hashes), Some(bits)]) = (array, numbers)
        else {
            return Err(DecodeError::Filter("one of its five fields is missing"));
        };
        // nim calculates with signed numbers, and stops at others.
        if [capacity, error_ppm].iter().any(|number| *number > i64::MAX.cast_unsigned()) {
            return Err(DecodeError::Filter("a number in it is beyond 63 bits"));
        }
        // Without hashes it would hold every id, and so acknowledge everything.
        if !(1..=FILTER_HASHES_MAX).contains(&hashes) {
            return Err(DecodeError::Filter("its number of hashes is 0 or beyond 64"));
        }
        if !(FILTER_BITS_MIN..=FILTER_BITS_MAX).contains(&bits) {
            return Err(DecodeError::Filter("its number of bits is below 64 or beyond 80,000,000"));
        }
        let bits = NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN);
        let words = array.len() / WORD_BYTES;
        if (words as u64) < words_of(bits) {
            return Err(DecodeError::Filter("it has fewer words than its bits need"));
        }
        let array = array.get(..words * WORD_BYTES).unwrap_or_default().to_vec();
        let reciprocal = u64::MAX / bits;
        Ok(Self { dialect: Dialect::Nim, array, capacity, error_ppm, hashes, bits, reciprocal })
    }

    /// Reads a filter of [`Dialect::Spec`] whose size was agreed upon otherwise. What is longer is cut off, as by its readers.
    ///
    /// # Errors
    /// [`DecodeError`] when it is shorter.
    pub fn read_spec(bytes: &[u8], capacity: usize, error_rate: f64) -> Result<Self, DecodeError> {
        let mut filter = Self::new(Dialect::Spec, capacity, error_rate);
        let array = bytes.get(..filter.array.len());
        filter
            .array
            .copy_from_slice(array.ok_or(DecodeError::Filter("it is shorter than its dialect's filters"))?);
        Ok(filter)
    }

    /// The bytes that travel in a message of the filter's dialect.
    pub fn to_bytes(&self) -> Vec<u8> {
        if self.dialect == Dialect::Spec {
            return self.array.clone();
        }
        let numbers = [
            (CAPACITY, self.capacity),
            (ERROR_PPM, self.error_ppm),
            (HASHES, self.hashes),
            (BITS, self.bits.get()),
        ];
        let length: usize = numbers.iter().map(|(_, value)| 1 + varint_len(*value)).sum();
        let mut out = Vec::with_capacity(bytes_len(WORDS, self.array.len()) + length);
        put_bytes(&mut out, WORDS, &self.array);
        for (field, value) in numbers {
            put_number(&mut out, field, value);
        }
        out
    }

    /// The same, to be shared: the filters of dialect S are long, so they are copied once and not twice.
    pub(crate) fn to_shared_bytes(&self) -> Arc<[u8]> {
        match self.dialect {
            Dialect::Nim => self.to_bytes().into(),
            Dialect::Spec => self.array.as_slice().into(),
        }
    }

    /// Adds an id.
    pub fn insert(&mut self, id: &[u8]) {
        self.insert_hashed(Hashed::new(self.dialect, id));
    }

    /// Adds an id whose hashes, of the filter's dialect, are known.
    pub fn insert_hashed(&mut self, id: Hashed) {
        if id == Hashed::NOWHERE {
            return;
        }
        let (mut bit, step) = (self.rest(id.first), self.rest(id.second));
        for _ in 0..self.hashes {
            let (byte, mask) = self.place(bit);
            if let Some(byte) = self.array.get_mut(byte) {
                *byte |= mask;
            }
            bit = self.next(bit, step);
        }
    }

    /// Whether the id was added, or looks so.
    pub fn contains(&self, id: &[u8]) -> bool {
        self.contains_hashed(Hashed::new(self.dialect, id))
    }

    /// Whether the id with these hashes, of the filter's dialect, was added, or looks so.
    pub fn contains_hashed(&self, id: Hashed) -> bool {
        if id == Hashed::NOWHERE {
            return false;
        }
        let (mut bit, step) = (self.rest(id.first), self.rest(id.second));
        let mut asked = 0;
        while asked < self.hashes {
            let next = self.hashes.min(asked + BITS_AT_ONCE);
            let mut all = true;
            for _ in asked..next {
                let (byte, mask) = self.place(bit);
                all &= self.array.get(byte).is_some_and(|byte| byte & mask != 0);
                bit = self.next(bit, step);
            }
            if !all {
                return false;
            }
            asked = next;
        }
        true
    }

    /// `hash mod bits`, without a division, of which a received message would cost one or two for each own message that nobody has acknowledged.
    fn rest(&self, hash: u64) -> u64 {
        // One or two less than the quotient at most, because the reciprocal is rounded down.
        #[allow(clippy::cast_possible_truncation, reason = "a product's upper half")]
        let quotient = ((u128::from(hash) * u128::from(self.reciprocal)) >> 64) as u64;
        let mut rest = hash - quotient * self.bits.get();
        while rest >= self.bits.get() {
            rest -= self.bits.get();
        }
        rest
    }

    /// `(bit + step) mod bits` of two that are less.
    fn next(&self, bit: u64, step: u64) -> u64 {
        let sum = bit + step;
        if sum < self.bits.get() { sum } else { sum - self.bits.get() }
    }

    /// Where a bit lies: byte and mask.
    fn place(&self, bit: u64) -> (usize, u8) {
        // In a word the low bits come first in nim's bytes and last in the specification's.
        let swap = if self.dialect == Dialect::Spec { WORD_BYTES - 1 } else { 0 };
        // Less than the length of the array, which was allocated.
        #[allow(clippy::cast_possible_truncation, reason = "see above")]
        let byte = (bit / 8) as usize;
        (byte ^ swap, 1 << (bit % 8))
    }

    /// Whose hashes and bytes it has.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// How many ids it is for, by its own account.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Its rate of false answers when it is full, by its own account, in parts per million.
    pub fn error_ppm(&self) -> u64 {
        self.error_ppm
    }

    /// Its size.
    pub fn sizing(&self) -> Sizing {
        Sizing { hashes: self.hashes, bits: self.bits, words: (self.array.len() / WORD_BYTES) as u64 }
    }
}

impl Extend<Hashed> for Filter {
    fn extend<I: IntoIterator<Item = Hashed>>(&mut self, ids: I) {
        for id in ids {
            self.insert_hashed(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HistoryEntry, Message, wire};

    #[test]
    fn positions_are_nims() {
        let filter = Filter::new(Dialect::Nim, CAPACITY_DEFAULT, ERROR_RATE_DEFAULT);
        let bits = |id: &[u8]| {
            let id = Hashed::new(Dialect::Nim, id);
            let (first, step) = (id.first % filter.bits, id.second % filter.bits);
            std::iter::successors(Some(first), |bit| Some(filter.next(*bit, step)))
                .take(10)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            bits(b"msg-1"),
            [111_300, 113_491, 115_682, 117_873, 120_064, 122_255, 124_446, 126_637, 128_828, 131_019]
        );
        assert_eq!(
            bits(b"a"),
            [137_677, 145_554, 3_431, 11_308, 19_185, 27_062, 34_939, 42_816, 50_693, 58_570]
        );
    }

    #[test]
    fn the_rest_is_that_of_a_division() {
        for bits in [64, 65, 127, 128, 240, 3_840, 150_000, 1 << 20, FILTER_BITS_MAX - 1, FILTER_BITS_MAX] {
            let mut filter = Filter::new(Dialect::Nim, 1, ERROR_RATE_DEFAULT);
            filter.bits = NonZeroU64::new(bits).unwrap();
            filter.reciprocal = u64::MAX / filter.bits;
            for hash in [0, 1, bits - 1, bits, bits + 1, 1 << 63, u64::MAX - bits, u64::MAX - 1, u64::MAX] {
                assert_eq!(filter.rest(hash), hash % bits, "{hash} mod {bits}");
            }
            for number in 0..10_000_u64 {
                let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                assert_eq!(filter.rest(hash), hash % bits, "{hash} mod {bits}");
            }
        }
    }

    /// Published in docs/formats/sds.md. The first three are those that a real nim-sds was asked with.
    #[test]
    fn filters_are_as_large_as_their_ids_need() {
        for (ids, capacity, bytes) in [
            (0, 16, 44),
            (16, 16, 44),
            (64, 64, 141),
            (200, 256, 502),
            (1_000, 1_024, 1_942),
            (8_192, 8_192, 15_383),
            (8_193, 10_000, 18_768),
            (10_000, 10_000, 18_768),
            (10_001, 12_000, 22_520),
            (12_001, 16_384, 30_745),
        ] {
            let filter = Filter::sized_for(ids, ERROR_RATE_DEFAULT);
            assert_eq!((filter.capacity(), filter.to_bytes().len()), (capacity, bytes), "{ids} ids");
        }
    }

    /// Published there, too.
    #[test]
    fn a_message_is_as_large_as_what_it_says() {
        let id = "0123456789abcdef".repeat(4);
        let entry = HistoryEntry {
            message_id: id.as_str().into(),
            sender_id: Some("alice".into()),
            retrieval_hint: None,
        };
        for (ids, bytes) in [(16, 983), (64, 1_081), (200, 1_442), (1_000, 2_882), (10_000, 19_709)] {
            let message = Message {
                message_id: id.as_str().into(),
                channel_id: "room".into(),
                sender_id: "alice".into(),
                lamport: Some(1_760_000_000),
                causal_history: vec![entry.clone(); 10],
                content: Some([7; 100].as_slice().into()),
                bloom_filter: Some(Filter::sized_for(ids, ERROR_RATE_DEFAULT).to_bytes().into()),
                ..Message::default()
            };
            assert_eq!(wire::encode(&message, Dialect::Nim).len(), bytes, "{ids} ids");
        }
    }

    #[test]
    fn a_filter_is_never_larger_than_peers_accept() {
        for dialect in [Dialect::Nim, Dialect::Spec] {
            let filter = Filter::new(dialect, usize::MAX, 1e-12);
            assert!(filter.sizing().bits.get() <= FILTER_BITS_MAX);
        }
        let largest = Filter::sized_for(usize::MAX, ERROR_RATE_DEFAULT);
        assert!(Filter::read(Dialect::Nim, &largest.to_bytes()).is_ok());
    }

    #[test]
    fn an_id_that_the_specification_cannot_hash_is_nowhere() {
        let mut filter = Filter::new(Dialect::Spec, 10, 0.01);
        filter.insert("鯨".as_bytes());
        assert!(!filter.contains("鯨".as_bytes()));
        assert!(filter.to_bytes().iter().all(|byte| *byte == 0), "nothing was set");
    }
}
