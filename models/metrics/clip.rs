//! Frames as the networks of the video metrics want them.

use crate::error::{Error, Result};

/// Most pixels of a side.
const MOST: usize = 1 << 14;

/// Pixels `[height][width][channels]` with the shorter side brought to `side` and the middle of the longer one: bilinear with
/// pixel centres aligned and no antialiasing, the longer side rounded up, as the usual code for the Fréchet video distance does.
///
/// # Errors
/// An extent of 0, a side of more than 16384 pixels, or pixels that are not as many as the extents say.
pub fn shorter_side(pixels: &[f32], [height, width]: [usize; 2], channels: usize, side: usize) -> Result<Vec<f32>> {
    let count = height.checked_mul(width).and_then(|n| n.checked_mul(channels));
    if pixels.is_empty() || count != Some(pixels.len()) || !(1..=MOST).contains(&side) {
        let reason = format!("{} numbers for {width} x {height} pixels, wanted {side}", pixels.len());
        return Err(Error::call("preprocessing", reason));
    }
    let scale = side as f64 / height.min(width) as f64;
    let longer = |n: usize| (n as f64 * scale).ceil() as usize;
    let size = if height < width { [side, longer(width)] } else { [longer(height), side] };
    let first = size.map(|n| (n - side) / 2);
    let rows = taps(height, size[0], first[0], side);
    let columns = taps(width, size[1], first[1], side);
    let mut out = Vec::with_capacity(side * side * channels);
    for (top, bottom, down) in &rows {
        for (left, right, across) in &columns {
            for c in 0..channels {
                let at = |y: &usize, x: &usize| pixels[(y * width + x) * channels + c];
                let upper = at(top, left) * (1.0 - across) + at(top, right) * across;
                let lower = at(bottom, left) * (1.0 - across) + at(bottom, right) * across;
                out.push(upper * (1.0 - down) + lower * down);
            }
        }
    }
    Ok(out)
}

/// For each new cell the two old ones that it lies between, and how far it is along.
fn taps(from: usize, to: usize, first: usize, count: usize) -> Vec<(usize, usize, f32)> {
    let scale = from as f32 / to as f32;
    let one = |i: usize| {
        let place = ((i as f32 + 0.5) * scale - 0.5).max(0.0);
        let low = (place as usize).min(from - 1);
        (low, (low + 1).min(from - 1), place - low as f32)
    };
    (first..first + count).map(one).collect()
}

/// Pixels in [0, 1] as the I3D network takes them: `side` by `side`, in [−1, 1].
///
/// # Errors
/// As [`shorter_side`].
pub fn i3d_frame(pixels: &[f32], size: [usize; 2], side: usize) -> Result<Vec<f32>> {
    let mut frame = shorter_side(pixels, size, 3, side)?;
    frame.iter_mut().for_each(|v| *v = (*v - 0.5) * 2.0);
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_of_the_right_size_is_only_cut() -> Result<()> {
        let wide: Vec<f32> = (0..2 * 5).map(|i| i as f32).collect();
        assert_eq!(shorter_side(&wide, [2, 5], 1, 2)?, [1.0, 2.0, 6.0, 7.0]);
        assert_eq!(i3d_frame(&[0.0, 0.5, 1.0], [1, 1], 2)?[..3], [-1.0, 0.0, 1.0]);
        assert!(shorter_side(&wide, [2, 4], 1, 2).is_err() && shorter_side(&[], [0, 0], 1, 2).is_err());
        assert!(shorter_side(&wide, [2, 5], 1, 1 << 20).is_err());
        Ok(())
    }
}
