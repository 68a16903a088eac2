//! Long videos from short windows: which frames are denoised together, and frames between frames.
//!
//! Windows overlap and wrap round, so that every frame is seen in more than one company; predictions of one frame are
//! averaged. The schedule is the "uniform" one of AnimateDiff's command-line tool, which published pose-to-video pipelines
//! use with `step` 0.

use crate::error::{Error, Result};

const MODEL: &str = "context";

/// How a video is cut into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Frames of the video.
    pub frames: usize,
    /// Frames of a window.
    pub size: usize,
    /// Number of strides: windows of neighbours, of every second frame, of every fourth, …
    pub strides: usize,
    /// Frames that neighbouring windows share.
    pub overlap: usize,
    /// Windows run over the end and on from the first frame.
    pub closed: bool,
}

/// How predictions of one frame are averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// All windows alike.
    Flat,
    /// Less towards the ends of a window: `min(k + 1, size − k)`.
    Pyramid,
}

impl Windows {
    /// The windows at a denoising step: each a list of frames. Different steps shift them, so that seams move; at step 0
    /// they begin at frame 0.
    ///
    /// # Errors
    /// No frame, no window, or an overlap that does not leave a window.
    pub fn at(&self, step: u64) -> Result<Vec<Vec<usize>>> {
        let Windows { frames, size, overlap, .. } = *self;
        // Frames that are named in all windows together, at the finest stride.
        let named = frames.checked_mul(size).map(|n| n / size.saturating_sub(overlap).max(1));
        if frames == 0 || size == 0 || overlap >= size || named.is_none_or(|n| n > 1 << 26) {
            return Err(Error::call(
                MODEL,
                format!("{frames} frames in windows of {size} with an overlap of {overlap}"),
            ));
        }
        if frames <= size {
            return Ok(vec![(0..frames).collect()]);
        }
        let doublings = (frames as f64 / size as f64).log2().ceil() as usize;
        let shift = halving(step);
        let pad = (frames as f64 * shift).round_ties_even() as usize;
        let mut windows = Vec::new();
        for stride in (0..self.strides.min(doublings + 1)).map(|k| 1usize << k) {
            let first = (shift * stride as f64) as usize + pad;
            let end = frames + pad - if self.closed { 0 } else { overlap };
            for from in (first..end).step_by(size * stride - overlap) {
                windows.push((0..size).map(|k| (from + k * stride) % frames).collect());
            }
        }
        Ok(windows)
    }

    /// For each window the weight of each of its frames. Over all windows, the weights of a frame that is in any sum to 1.
    /// Where a frame is in a window twice, its last place counts.
    pub fn weights(&self, windows: &[Vec<usize>], weighting: Weighting) -> Vec<Vec<f32>> {
        let raw = |window: &Vec<usize>, k: usize| match weighting {
            _ if window[k + 1..].contains(&window[k]) => 0.0,
            Weighting::Flat => 1.0,
            Weighting::Pyramid => (k + 1).min(window.len() - k) as f64,
        };
        let frames = self.frames.max(1);
        let mut totals = vec![0.0; frames];
        for window in windows {
            for (k, frame) in window.iter().enumerate() {
                totals[*frame % frames] += raw(window, k);
            }
        }
        let share = |window: &Vec<usize>| {
            let of = |(k, frame): (usize, &usize)| (raw(window, k) / totals[*frame % frames]) as f32;
            window.iter().enumerate().map(of).collect()
        };
        windows.iter().map(share).collect()
    }
}

/// The bits of `value` mirrored at the binary point: 0, 1/2, 1/4, 3/4, 1/8, … (van der Corput's sequence).
fn halving(value: u64) -> f64 {
    value.reverse_bits() as f64 / 18_446_744_073_709_551_616.0
}

/// How frames between two frames are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// On the straight line.
    Linear,
    /// On the great circle (Shoemake 1985); on the line where the two are almost parallel.
    Slerp,
}

/// Latents with `factor − 1` frames between neighbours. Latents are `[outer, frames, inner]`, row-major: `outer` is batch
/// and channels, `inner` is space.
///
/// # Errors
/// Extents that do not fit the latents.
pub fn interpolate(
    latents: &[f32],
    [outer, frames, inner]: [usize; 3],
    factor: usize,
    between: Between,
) -> Result<Vec<f32>> {
    let count = outer.checked_mul(frames).and_then(|n| n.checked_mul(inner));
    if count != Some(latents.len()) || frames == 0 {
        let reason = format!("{} elements for latents [{outer}, {frames}, {inner}]", latents.len());
        return Err(Error::call(MODEL, reason));
    }
    if factor < 2 {
        return Ok(latents.to_vec());
    }
    let longer = lengthened(frames, factor, outer * inner)?;
    let frame = |f: usize| -> Vec<f32> {
        (0..outer).flat_map(|o| &latents[(o * frames + f) * inner..][..inner]).copied().collect()
    };
    let mut result = vec![0.0; longer * outer * inner];
    let mut put = |place: usize, values: &[f32]| {
        for o in 0..outer {
            result[(o * longer + place) * inner..][..inner].copy_from_slice(&values[o * inner..][..inner]);
        }
    };
    for f in 0..frames {
        let here = frame(f);
        put(f * factor, &here);
        if f + 1 == frames {
            break;
        }
        let next = frame(f + 1);
        for k in 1..factor {
            let (a, b) = shares(&here, &next, k as f64 / factor as f64, between);
            let mix = |(x, y): (&f32, &f32)| (a * f64::from(*x) + b * f64::from(*y)) as f32;
            put(f * factor + k, &here.iter().zip(&next).map(mix).collect::<Vec<_>>());
        }
    }
    Ok(result)
}

/// Frames of a video with `factor − 1` made between neighbours, each of `count` numbers.
///
/// # Errors
/// 2³² numbers or more in all.
pub(crate) fn lengthened(frames: usize, factor: usize, count: usize) -> Result<usize> {
    let longer = frames.saturating_sub(1).checked_mul(factor.max(1)).and_then(|n| n.checked_add(1));
    let fits = |n: &usize| n.checked_mul(count).is_some_and(|all| all < 1 << 32);
    let reason = || format!("{frames} frames times {factor}, of {count} numbers each, are too many");
    longer.filter(fits).ok_or_else(|| Error::call(MODEL, reason()))
}

/// Cosine above which two frames count as parallel.
const PARALLEL: f64 = 0.9995;

fn shares(v0: &[f32], v1: &[f32], t: f64, between: Between) -> (f64, f64) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = dot(v0, v1) / (dot(v0, v0) * dot(v1, v1)).sqrt();
    if between == Between::Linear || cosine.is_nan() || cosine.abs() > PARALLEL {
        return (1.0 - t, t);
    }
    let angle = cosine.acos();
    (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_beyond_any_use_are_refused() -> Result<()> {
        assert_eq!(interpolate(&[0.0, 1.0], [1, 2, 1], 2, Between::Linear)?, [0.0, 0.5, 1.0]);
        for factor in [usize::MAX, usize::MAX / 2, 1 << 40] {
            assert!(interpolate(&[0.0, 1.0], [1, 2, 1], factor, Between::Linear).is_err());
        }
        Ok(())
    }

    #[test]
    fn a_video_without_frames_has_no_weights() {
        let none = Windows { frames: 0, size: 4, strides: 1, overlap: 1, closed: true };
        assert!(none.at(0).is_err());
        assert!(none.weights(&[], Weighting::Flat).is_empty());
        assert_eq!(none.weights(&[vec![0]], Weighting::Flat), [[1.0]]);
    }
}
