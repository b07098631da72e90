//! The hashes that peers agree on: over ids, for filters and for the timing of repairs (sds.md section 4).
#![allow(clippy::many_single_char_names, reason = "the letters of the specification")]

use sha2::{Digest, Sha256};

const K0: u64 = 0xC3A5_C85C_97CB_3127;
const K1: u64 = 0xB492_B66F_BE98_F273;
const K2: u64 = 0x9AE1_6A3B_2F90_404F;
/// The hash eats blocks of this size.
const BLOCK_BYTES: usize = 64;

/// Nim's `hash(string)` since 2.2, which is `FarmHash`'s `Fingerprint64`. nim takes it for signed and then its [`magnitude`].
///
/// Ours, because the published crate differs from every peer where the length is a multiple of 64 from 128 on.
///
/// ```
/// assert_eq!(seabed_sds_core::hash::nim(b"msg-1"), 0x6ef3_f2c1_9608_7e44);
/// ```
pub fn nim(bytes: &[u8]) -> u64 {
    let n = bytes.len() as u64;
    let m = K2.wrapping_add(n.wrapping_mul(2));
    let r64 = |at: usize| word(bytes, at);
    let from_end = |distance: usize| word(bytes, bytes.len().saturating_sub(distance));
    match bytes {
        [] => K2,
        [first, .., last] | [first @ last] if bytes.len() <= 3 => {
            let middle = bytes.get(bytes.len() / 2).copied().unwrap_or_default();
            let y = u64::from(*first) + (u64::from(middle) << 8);
            let z = n + (u64::from(*last) << 2);
            mix(y.wrapping_mul(K2) ^ z.wrapping_mul(K0)).wrapping_mul(K2)
        }
        _ if bytes.len() <= 7 => {
            let head = half_word(bytes, 0);
            fold(n + (head << 3), half_word(bytes, bytes.len() - 4), m)
        }
        _ if bytes.len() <= 16 => {
            let a = r64(0).wrapping_add(K2);
            let b = from_end(8);
            let c = b.rotate_right(37).wrapping_mul(m).wrapping_add(a);
            let d = a.rotate_right(25).wrapping_add(b).wrapping_mul(m);
            fold(c, d, m)
        }
        _ if bytes.len() <= 32 => {
            let a = r64(0).wrapping_mul(K1);
            let (y, z) = pair(a, r64(8), from_end(8).wrapping_mul(m), from_end(16).wrapping_mul(K2));
            fold(y, z, m)
        }
        _ if bytes.len() <= 64 => {
            let a = r64(0).wrapping_mul(K2);
            let (y, z) = pair(a, r64(8), from_end(8).wrapping_mul(m), from_end(16).wrapping_mul(K2));
            let z = fold(y, z, m);
            let e = r64(16).wrapping_mul(m);
            let f = r64(24);
            let g = y.wrapping_add(from_end(32)).wrapping_mul(m);
            let h = z.wrapping_add(from_end(24)).wrapping_mul(m);
            let left = e.wrapping_add(f).rotate_right(43).wrapping_add(g.rotate_right(30)).wrapping_add(h);
            let right = e.wrapping_add(f.wrapping_add(a).rotate_right(18)).wrapping_add(g);
            fold(left, right, m)
        }
        _ => nim_long(bytes),
    }
}

/// The state over inputs of more than one block.
struct State {
    x: u64,
    y: u64,
    z: u64,
    v: (u64, u64),
    w: (u64, u64),
}

fn nim_long(bytes: &[u8]) -> u64 {
    let y = 81_u64.wrapping_mul(K1).wrapping_add(113);
    let mut state = State {
        x: 81_u64.wrapping_mul(K2).wrapping_add(word(bytes, 0)),
        y,
        z: mix(y.wrapping_mul(K2).wrapping_add(113)).wrapping_mul(K2),
        v: (0, 0),
        w: (0, 0),
    };
    let remainder = (bytes.len() - 1) % BLOCK_BYTES;
    // Every block but the last, which may be a whole one.
    for block in bytes.get(..bytes.len() - 1 - remainder).unwrap_or_default().chunks_exact(BLOCK_BYTES) {
        state.step(block, K1, 1, 1);
    }
    let m = K1.wrapping_add((state.z & 0xFF) << 1);
    state.w.0 = state.w.0.wrapping_add(remainder as u64);
    state.v.0 = state.v.0.wrapping_add(state.w.0);
    state.w.0 = state.w.0.wrapping_add(state.v.0);
    // The last block's worth of bytes, some of which may have been eaten before.
    state.step(bytes.get(bytes.len() - BLOCK_BYTES..).unwrap_or_default(), m, 9, 9);
    let State { x, y, z, v, w } = state;
    let left = fold(v.0, w.0, m).wrapping_add(mix(y).wrapping_mul(K0)).wrapping_add(z);
    fold(left, fold(v.1, w.1, m).wrapping_add(x), m)
}

impl State {
    fn step(&mut self, block: &[u8], m: u64, w_factor: u64, v_factor: u64) {
        let r64 = |at: usize| word(block, at);
        let Self { mut x, mut y, mut z, v, w } = *self;
        x = x.wrapping_add(y).wrapping_add(v.0).wrapping_add(r64(8)).rotate_right(37).wrapping_mul(m);
        y = y.wrapping_add(v.1).wrapping_add(r64(48)).rotate_right(42).wrapping_mul(m);
        x ^= w.1.wrapping_mul(w_factor);
        y = y.wrapping_add(v.0.wrapping_mul(v_factor)).wrapping_add(r64(40));
        z = z.wrapping_add(w.0).rotate_right(33).wrapping_mul(m);
        self.v = weak(block, 0, v.1.wrapping_mul(m), x.wrapping_add(w.0));
        self.w = weak(block, 32, z.wrapping_add(w.1), y.wrapping_add(r64(16)));
        (self.x, self.y, self.z) = (z, y, x);
    }
}

/// The two values that lengths from 17 to 64 have in common.
fn pair(a: u64, b: u64, c: u64, d: u64) -> (u64, u64) {
    let y = a.wrapping_add(b).rotate_right(43).wrapping_add(c.rotate_right(30)).wrapping_add(d);
    let z = a.wrapping_add(b.wrapping_add(K2).rotate_right(18)).wrapping_add(c);
    (y, z)
}

fn mix(value: u64) -> u64 {
    value ^ (value >> 47)
}

fn fold(u: u64, v: u64, m: u64) -> u64 {
    let a = mix((u ^ v).wrapping_mul(m));
    mix((v ^ a).wrapping_mul(m)).wrapping_mul(m)
}

fn weak(bytes: &[u8], at: usize, a: u64, b: u64) -> (u64, u64) {
    let [w, x, y, z] = [0, 8, 16, 24].map(|offset| word(bytes, at + offset));
    let a = a.wrapping_add(w);
    let b = b.wrapping_add(a).wrapping_add(z).rotate_right(21);
    let c = a;
    let a = a.wrapping_add(x).wrapping_add(y);
    (a.wrapping_add(z), b.wrapping_add(a.rotate_right(44)).wrapping_add(c))
}

/// Eight bytes, little-endian. Whoever asks has looked at the length.
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word))
}

/// Four bytes, likewise.
fn half_word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |half| u32::from_le_bytes(*half).into())
}

/// The absolute value of a hash that is taken for signed. That of the least value is its magnitude, where nim wraps or aborts.
pub fn magnitude(hash: u64) -> u64 {
    hash.cast_signed().unsigned_abs()
}

/// What `@waku/sds` hashes ids with for its filters: `MurmurHash3` (x86, 32 bit, seed 0), taken for signed.
///
/// `None` for what is not ASCII: there the original mixes halves of characters, and no id of it looks so (sds.md section 4.2).
///
/// ```
/// # use seabed_sds_core::hash;
/// assert_eq!(hash::spec(b"hello"), Some(0x248b_fa47));
/// assert_eq!(hash::spec("鯨".as_bytes()), None);
/// ```
pub fn spec(text: &[u8]) -> Option<u32> {
    if !text.is_ascii() {
        return None;
    }
    let scramble = |lane: u32| lane.wrapping_mul(0xCC9E_2D51).rotate_left(15).wrapping_mul(0x1B87_3593);
    let lanes = text.chunks_exact(4);
    let tail = lanes.remainder().iter().rev().fold(0, |lane, byte| (lane << 8) | u32::from(*byte));
    let mut hash = lanes.fold(0_u32, |hash, lane| {
        let lane = lane.first_chunk().map_or(0, |lane| u32::from_le_bytes(*lane));
        (hash ^ scramble(lane)).rotate_left(13).wrapping_mul(5).wrapping_add(0xE654_6B64)
    });
    // A remainder of nothing scrambles to nothing.
    hash ^= scramble(tail);
    // The length is a number of 32 bits in the original, too.
    #[allow(clippy::cast_possible_truncation, reason = "the algorithm's own width")]
    let length = text.len() as u32;
    hash ^= length;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85EB_CA6B);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xC2B2_AE35);
    Some(hash ^ (hash >> 16))
}

/// What `@waku/sds` times repairs with: the first eight bytes of SHA-256, big-endian (sds.md section 4.3).
pub fn spec_repair(bytes: &[u8]) -> u64 {
    Sha256::digest(bytes).first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of sds.md section 4.1, made with the reference library.
    #[test]
    fn nim_agrees_with_the_reference() {
        let x = "x".repeat(200);
        for (text, expected) in [
            ("", 0x9ae1_6a3b_2f90_404f),
            ("a", 0xb345_4265_b6df_75e3),
            ("abc", 0x24a5_b3a0_74e7_f369),
            ("hello", 0xb48b_e5a9_3138_0ce8),
            ("hello b", 0xc68a_6b0e_2848_5d89),
            ("msg-1", 0x6ef3_f2c1_9608_7e44),
            ("msg-1 b", 0xaacf_3efe_6c9a_b8f1),
            ("0123456789abcdef", 0x54b9_61e5_dc83_4067),
            ("0123456789abcdefg", 0xa6dd_ff87_a449_d24a),
            ("alicemsg-1", 0xc2a7_6d56_297c_cba4),
            ("Привет", 0x8829_789c_4d55_4e61),
            ("日本語", 0xd99e_eda0_7b1c_b847),
            (&x[..32], 0xb30b_9bac_cc74_dc05),
            (&x[..33], 0xaa49_1854_43e6_1637),
            (&x[..64], 0x5ffb_3c75_4f69_13b8),
            (&x[..65], 0x447c_b9fd_96f2_5f39),
            (&x[..128], 0x5170_af09_fd87_0c17),
            (&x, 0xc171_3bf9_d998_a3bf),
        ] {
            assert_eq!(nim(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn the_least_hash_has_a_magnitude() {
        assert_eq!(magnitude(1 << 63), 1 << 63);
        assert_eq!(magnitude(u64::MAX), 1);
        assert_eq!(magnitude(7), 7);
    }
}
