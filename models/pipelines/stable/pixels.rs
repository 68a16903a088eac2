//! Pictures to what networks read, and back.

use muybridge_runtime::HostTensor;

use crate::error::{Error, Result};
use crate::resize::{Filter, Picture, Resize};

/// An RGB picture as `[1,H,W,3]` in f32, resized (Lanczos) to `width` × `height`: from 0 to 1, or `signed` from −1 to 1.
///
/// # Errors
/// A picture that is not RGB, or that cannot be resized.
pub fn to_pixels(picture: &Picture, [width, height]: [usize; 2], signed: bool) -> Result<HostTensor> {
    if picture.channels != 3 {
        return Err(Error::call("picture", format!("{} channels, wanted RGB", picture.channels)));
    }
    let picture = picture.resize(width, height, Filter::Lanczos)?;
    let unit = |i: usize| f32::from(picture.pixels[i]) / 255.0;
    Ok(HostTensor::from_fn([1, height, width, 3], |i| if signed { 2.0 * unit(i) - 1.0 } else { unit(i) }))
}

/// A mask `[1,H,W,1]` of zeros and ones, f32: ones where the picture, made grey and resized, is at least half bright.
///
/// # Errors
/// A picture that is neither grey nor RGB, or that cannot be resized.
pub fn mask(picture: &Picture, [width, height]: [usize; 2]) -> Result<HostTensor> {
    let grey = match picture.channels {
        1 => picture.clone(),
        3 => luma(picture),
        n => return Err(Error::call("mask", format!("{n} channels, wanted grey or RGB"))),
    };
    let grey = grey.resize(width, height, Filter::Lanczos)?;
    Ok(HostTensor::from_fn([1, height, width, 1], |i| if grey.pixels[i] >= 128 { 1.0 } else { 0.0 }))
}

/// Grey by ITU-R 601-2 in Pillow's fixed point.
fn luma(picture: &Picture) -> Picture {
    let grey = |p: &[u8]| {
        let [r, g, b] = [p[0], p[1], p[2]].map(u32::from);
        ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
    };
    Picture { channels: 1, pixels: picture.pixels.chunks_exact(3).map(grey).collect(), ..*picture }
}

/// A mask `[1,H,W,1]` at the extents of latents `[1,h,w,1]`: the nearest pixel above and to the left.
pub(super) fn shrink(mask: &HostTensor, [height, width]: [usize; 2]) -> HostTensor {
    let (rows, columns, values) = (mask.shape()[1], mask.shape()[2], mask.to_f32());
    HostTensor::from_fn([1, height, width, 1], |i| {
        let (y, x) = (i / width * rows / height, i % width * columns / width);
        values[y * columns + x]
    })
}

/// Pixels `[F,H,W,3]` from −1 to 1 as RGB pictures; what lies outside is cut.
///
/// # Errors
/// A tensor of another shape.
pub fn from_pixels(pixels: &HostTensor) -> Result<Vec<Picture>> {
    let &[_, height, width, channels] = pixels.shape().dims() else {
        return Err(Error::call("picture", format!("pixels {}, wanted [F,H,W,C]", pixels.shape())));
    };
    // Halves are rounded to even, as NumPy rounds them.
    let byte = |v: &f32| ((v / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    let values = pixels.to_f32();
    let pictures = values.chunks((height * width * channels).max(1));
    Ok(pictures.map(|p| Picture { width, height, channels, pixels: p.iter().map(byte).collect() }).collect())
}

/// A guess at the pictures behind latents `[F,h,w,4]`, one pixel for each: a linear map fitted to the published autoencoders
/// of Stable Diffusion 1.x and 2.x, or XL. Of a clip, the first, the middle and the last frame side by side. None for latents
/// of other extents.
pub fn preview(latents: &HostTensor, xl: bool) -> Option<Picture> {
    const SD: [[f32; 3]; 4] =
        [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473]];
    const XL: [[f32; 3]; 4] =
        [[0.3651, 0.4232, 0.4341], [-0.2533, -0.0042, 0.1068], [0.1076, 0.1111, -0.0362], [-0.3165, -0.2492, -0.2188]];
    let &[frames, height, width, 4] = latents.shape().dims() else { return None };
    let mut shown = vec![0, frames / 2, frames.saturating_sub(1)];
    shown.dedup();
    let map = if xl { XL } else { SD };
    let byte = |v: f32| ((v / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8;
    let values = latents.to_f32();
    let colour = |cell: &[f32], c: usize| (0..4).map(|k| cell[k] * map[k][c]).sum::<f32>();
    let mut pixels = Vec::with_capacity(shown.len() * height * width * 3);
    for (y, frame) in (0..height).flat_map(|y| shown.iter().map(move |f| (y, f))) {
        let row = values.chunks_exact(4 * width.max(1)).nth(frame * height + y)?;
        pixels.extend(row.chunks_exact(4).flat_map(|cell| (0..3).map(move |c| byte(colour(cell, c)))));
    }
    Some(Picture { width: shown.len() * width, height, channels: 3, pixels })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_shows_three_frames() {
        let latents = HostTensor::from_fn([5, 2, 3, 4], |i| (i as f32).sin());
        let shown = preview(&latents, false).unwrap();
        assert_eq!((shown.width, shown.height, shown.pixels.len()), (9, 2, 54));
        let one = preview(&HostTensor::from_fn([1, 2, 3, 4], |_| 0.0), true).unwrap();
        assert_eq!((one.width, &one.pixels), (3, &vec![128; 18]));
        assert!(preview(&HostTensor::from_fn([1, 2, 3, 5], |_| 0.0), true).is_none());
    }
}
