//! What a sequence parameter set of H.264 says (ITU-T H.264, 7.3.2.1.1 and annex E), as far as it is needed here.

use crate::video::mp4::colour::{Coding, Matrix};

/// What a reader must know of a stream before it decodes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) coding: Coding,
}

/// Bits of a parameter set, without the bytes that keep it from looking like a start code.
struct Bits {
    bytes: Vec<u8>,
    at: usize,
}

impl Bits {
    fn of(unit: &[u8]) -> Bits {
        let mut bytes = Vec::with_capacity(unit.len());
        let mut zeros = 0;
        for byte in unit {
            if zeros >= 2 && *byte == 3 {
                zeros = 0;
                continue;
            }
            zeros = if *byte == 0 { zeros + 1 } else { 0 };
            bytes.push(*byte);
        }
        Bits { bytes, at: 0 }
    }

    fn bit(&mut self) -> Option<u32> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit.into())
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.bit()? == 1)
    }

    fn bits(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0, |value, _| Some(value << 1 | self.bit()?))
    }

    /// An Exp-Golomb number.
    fn number(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.bits(zeros)?)
    }

    fn signed(&mut self) -> Option<i64> {
        let number = i64::from(self.number()?);
        Some(if number % 2 == 1 { (number + 1) / 2 } else { -number / 2 })
    }

    fn skip_numbers(&mut self, count: u32) -> Option<()> {
        (0..count).try_for_each(|_| self.number().map(drop))
    }

    fn skip_scaling_list(&mut self, size: u32) -> Option<()> {
        let (mut last, mut next) = (8i64, 8i64);
        for _ in 0..size {
            if next != 0 {
                next = (last + self.signed()?).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
        Some(())
    }
}

/// Profiles whose sets begin with the form of the colours.
const HIGH: [u32; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

impl Parameters {
    /// Reads a sequence parameter set, with its first byte that says it is one.
    ///
    /// # Errors
    /// It ends early, or names pictures that are not decoded here.
    pub(crate) fn of(unit: &[u8]) -> Result<Parameters, String> {
        let mut bits = Bits::of(unit.get(1..).unwrap_or_default());
        let unsupported = read(&mut bits).ok_or("its parameter set ends early")?;
        unsupported.map_err(String::from)
    }
}

fn read(bits: &mut Bits) -> Option<Result<Parameters, &'static str>> {
    let profile = bits.bits(8)?;
    bits.bits(16)?;
    bits.number()?;
    if HIGH.contains(&profile) {
        let chroma = bits.number()?;
        if chroma == 3 {
            bits.flag()?;
        }
        let (luma_bits, chroma_bits) = (8 + u64::from(bits.number()?), 8 + u64::from(bits.number()?));
        if chroma != 1 {
            return Some(Err("its colours are not 4:2:0"));
        }
        if (luma_bits, chroma_bits) != (8, 8) {
            return Some(Err("it has more than 8 bits a value"));
        }
        bits.flag()?;
        if bits.flag()? {
            for list in 0..8 {
                if bits.flag()? {
                    bits.skip_scaling_list(if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.number()?;
    match bits.number()? {
        0 => bits.skip_numbers(1)?,
        1 => {
            bits.flag()?;
            bits.skip_numbers(2)?;
            let cycle = bits.number()?;
            bits.skip_numbers(cycle)?;
        }
        _ => {}
    }
    bits.number()?;
    bits.flag()?;
    bits.skip_numbers(2)?;
    if !bits.flag()? {
        return Some(Err("it is interlaced"));
    }
    bits.flag()?;
    if bits.flag()? {
        bits.skip_numbers(4)?;
    }
    // What most readers take for granted where nothing is said.
    let mut coding = Coding { matrix: Matrix::Bt601, full: false };
    if bits.flag()? {
        if bits.flag()? && bits.bits(8)? == 255 {
            bits.bits(32)?;
        }
        if bits.flag()? {
            bits.flag()?;
        }
        if bits.flag()? {
            bits.bits(3)?;
            coding.full = bits.flag()?;
            if bits.flag()? {
                bits.bits(16)?;
                coding.matrix = match bits.bits(8)? {
                    1 => Matrix::Bt709,
                    2 | 4 | 5 | 6 => Matrix::Bt601,
                    9 => Matrix::Bt2020,
                    _ => return Some(Err("its colour matrix is none of BT.601, BT.709 and BT.2020")),
                };
            }
        }
    }
    Some(Ok(Parameters { coding }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_exp_golomb_says() {
        // 1, 010, 011, 00100, 00101 are 0 to 4.
        let mut bits = Bits { bytes: vec![0b1010_0110, 0b0100_0010, 0b1000_0000], at: 0 };
        assert_eq!((0..5).map(|_| bits.number().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let mut bits = Bits { bytes: vec![0b1010_0110, 0b0100_0010, 0b1000_0000], at: 0 };
        assert_eq!((0..5).map(|_| bits.signed().unwrap()).collect::<Vec<_>>(), [0, 1, -1, 2, -2]);
        assert!(Bits { bytes: vec![0; 9], at: 0 }.number().is_none());
        assert!(Parameters::of(&[]).is_err() && Parameters::of(&[0x67, 66, 0, 30]).is_err());
    }
}
