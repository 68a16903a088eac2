//! Elements in their storage type, widened to f32 and narrowed back by whole rows.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use muybridge_runtime::{DType, TensorView};

/// Elements of some storage type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Elements<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
}

impl<'a> Elements<'a> {
    /// The elements of an operand. Operands of a host call are aligned.
    pub fn of(view: &TensorView<'a>) -> Elements<'a> {
        match view.desc.dtype {
            DType::F32 => Elements::F32(view.try_as().unwrap_or(&[])),
            DType::F16 => Elements::F16(view.try_as().unwrap_or(&[])),
            DType::BF16 => Elements::BF16(view.try_as().unwrap_or(&[])),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Elements::F32(s) => s.len(),
            Elements::F16(s) => s.len(),
            Elements::BF16(s) => s.len(),
        }
    }

    /// The elements themselves, where they are f32 already.
    pub fn f32(&self) -> Option<&'a [f32]> {
        match self {
            Elements::F32(s) => Some(s),
            _ => None,
        }
    }

    /// `count` elements from `start`.
    #[inline]
    pub fn part(&self, start: usize, count: usize) -> Elements<'a> {
        match self {
            Elements::F32(s) => Elements::F32(&s[start..start + count]),
            Elements::F16(s) => Elements::F16(&s[start..start + count]),
            Elements::BF16(s) => Elements::BF16(&s[start..start + count]),
        }
    }

    /// Copies all elements to f32.
    #[inline]
    pub fn widen(&self, to: &mut [f32]) {
        match self {
            Elements::F32(s) => to.copy_from_slice(s),
            Elements::F16(s) => s.convert_to_f32_slice(to),
            Elements::BF16(s) => widen_bf16(s, to),
        }
    }

    /// The elements as f32: in place, or widened into the front of `buffer`.
    pub fn wide<'b>(&self, buffer: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        match self.f32() {
            Some(s) => s,
            None => {
                let own = &mut buffer[..self.len()];
                self.widen(own);
                own
            }
        }
    }
}

/// f32 elements that a buffer for [`Elements::wide`] needs: none where the operand is f32.
pub(crate) fn wide_len(dtype: DType, count: usize) -> usize {
    if dtype == DType::F32 { 0 } else { count }
}

/// Rounds to the storage type and stores; `to` is as many elements as `from`, aligned for the type.
#[inline]
pub(crate) fn narrow(from: &[f32], dtype: DType, to: &mut [u8]) {
    match dtype {
        DType::F32 => bytemuck::cast_slice_mut::<u8, f32>(to).copy_from_slice(from),
        DType::F16 => bytemuck::cast_slice_mut::<u8, f16>(to).convert_from_f32_slice(from),
        DType::BF16 => narrow_bf16(from, bytemuck::cast_slice_mut(to)),
    }
}

vectorised! {
    fn widen_bf16<'a>(from: &'a [bf16], to: &'a mut [f32]) -> () {
        for (t, f) in to.iter_mut().zip(from) {
            *t = f32::from_bits(u32::from(f.to_bits()) << 16);
        }
    }

    fn narrow_bf16<'a>(from: &'a [f32], to: &'a mut [u16]) -> () {
        for (t, f) in to.iter_mut().zip(from) {
            *t = round_to_bf16(*f);
        }
    }
}

/// To nearest, ties to even; a NaN stays one though its payload's low half is cut.
#[inline(always)]
fn round_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    (if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_as_half_does() {
        for i in 0..200_000u32 {
            let x = f32::from_bits(i.wrapping_mul(21_473));
            assert_eq!(round_to_bf16(x), bf16::from_f32(x).to_bits(), "{x}");
        }
        for x in [f32::NAN, -f32::NAN, f32::INFINITY, f32::MAX, -0.0, 1e-45] {
            assert_eq!(round_to_bf16(x), bf16::from_f32(x).to_bits(), "{x}");
        }
    }
}
