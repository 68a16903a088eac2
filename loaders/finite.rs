//! Finding NaN and infinities at the speed of memory.

use half::{bf16, f16};
use muybridge_runtime::DType;

/// Elements per block: the block is scanned without a branch, and only a block that has something is searched.
const BLOCK: usize = 4096;

/// Position and value of the first NaN or infinity among little-endian elements, which may be unaligned.
pub fn first_non_finite(dtype: DType, bytes: &[u8]) -> Option<(usize, f32)> {
    match dtype {
        DType::F32 => scan(bytes, any_f32, f32::from_le_bytes),
        DType::F16 => scan(bytes, |block| any_16(block, 0x0400), |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => scan(bytes, |block| any_16(block, 0x0080), |b| bf16::from_le_bytes(b).to_f32()),
    }
}

fn scan<const N: usize>(
    bytes: &[u8],
    any: impl Fn(&[u8]) -> bool,
    value: impl Fn([u8; N]) -> f32,
) -> Option<(usize, f32)> {
    let block = bytes.chunks(BLOCK * N).position(any)?;
    let elements = bytes[block * BLOCK * N..].as_chunks::<N>().0;
    let (i, v) = elements.iter().map(|e| value(*e)).enumerate().find(|(_, v)| !v.is_finite())?;
    Some((block * BLOCK + i, v))
}

/// An exponent of all ones, plus its lowest bit, carries into the sign bit that was cleared: no compare, no branch.
fn any_f32(block: &[u8]) -> bool {
    let mut carries = 0u32;
    for e in block.as_chunks::<4>().0 {
        carries |= (u32::from_le_bytes(*e) & 0x7FFF_FFFF) + 0x0080_0000;
    }
    carries >> 31 != 0
}

/// As [`any_f32`]; `one` is the lowest bit of the exponent.
fn any_16(block: &[u8], one: u16) -> bool {
    let mut carries = 0u16;
    for e in block.as_chunks::<2>().0 {
        carries |= (u16::from_le_bytes(*e) & 0x7FFF) + one;
    }
    carries >> 15 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_judged_as_the_half_crate_judges_it() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            assert_eq!(first_non_finite(DType::F16, &bytes).is_none(), f16::from_bits(bits).is_finite(), "{bits:#x}");
            assert_eq!(first_non_finite(DType::BF16, &bytes).is_none(), bf16::from_bits(bits).is_finite(), "{bits:#x}");
            let wide = (u32::from(bits) << 16 | 0x1234).to_le_bytes();
            assert_eq!(
                first_non_finite(DType::F32, &wide).is_none(),
                f32::from_le_bytes(wide).is_finite(),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn the_first_of_several_is_found_in_any_block() {
        for at in [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 17] {
            let mut values = vec![f32::MAX; 4 * BLOCK];
            values[at] = f32::NEG_INFINITY;
            values[4 * BLOCK - 1] = f32::NAN;
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(first_non_finite(DType::F32, &bytes), Some((at, f32::NEG_INFINITY)));
        }
    }
}
