//! PSNR and SSIM in the conventions that papers use. They differ visibly, so each has a name; all are computed in f64.
//!
//! Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity" (2004).

use crate::error::{Error, Result};

const MODEL: &str = "metrics";

/// RGB pixels of 8 bits, row by row.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `3 · width · height` bytes.
    pub pixels: &'a [u8],
}

/// A variant of SSIM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ssim {
    /// scikit-image's default on RGB: a uniform 7x7 window, sample covariance, the mean of the channels.
    Default,
    /// The same on grey, `0.299 R + 0.587 G + 0.114 B` in full precision.
    DefaultGray,
    /// The same on grey rounded to 8 bits as OpenCV does: what DisCo and what builds on it report.
    Disco,
    /// Wang et al.: an 11x11 Gaussian window of sigma 1.5, weighted variances, windows within the picture, on RGB.
    Gaussian,
    /// torchmetrics' default: as `Gaussian`, over the whole picture with reflected borders.
    GaussianReflected,
}

/// Radius of the Gaussian window and its deviation.
const RADIUS: usize = 5;
const SIGMA: f64 = 1.5;

/// One channel.
struct Plane {
    width: usize,
    height: usize,
    values: Vec<f64>,
}

impl<'a> Frame<'a> {
    /// Pixels of a picture.
    ///
    /// # Errors
    /// The bytes are not as many as the extents say.
    pub fn new(width: usize, height: usize, pixels: &'a [u8]) -> Result<Frame<'a>> {
        if width.checked_mul(height).and_then(|n| n.checked_mul(3)) != Some(pixels.len()) || pixels.is_empty() {
            return Err(Error::call(MODEL, format!("{} bytes for {width} x {height} pixels of RGB", pixels.len())));
        }
        Ok(Frame { width, height, pixels })
    }

    fn plane(&self, value: impl Fn(&[u8]) -> f64) -> Plane {
        Plane { width: self.width, height: self.height, values: self.pixels.chunks(3).map(value).collect() }
    }
}

fn same_size(a: &Frame<'_>, b: &Frame<'_>) -> Result<()> {
    if (a.width, a.height) == (b.width, b.height) {
        return Ok(());
    }
    let sizes = format!("{} x {} and {} x {}", a.width, a.height, b.width, b.height);
    Err(Error::call(MODEL, format!("pictures of {sizes} pixels")))
}

fn differences<'a>(a: &Frame<'a>, b: &Frame<'a>) -> Result<impl Iterator<Item = f64> + 'a> {
    same_size(a, b)?;
    Ok(a.pixels.iter().zip(b.pixels).map(|(a, b)| f64::from(*a) - f64::from(*b)))
}

/// Mean squared difference of pixels in [0, 1].
///
/// # Errors
/// Pictures of different sizes.
pub fn mse(a: &Frame<'_>, b: &Frame<'_>) -> Result<f64> {
    Ok(differences(a, b)?.map(|d| d * d).sum::<f64>() / a.pixels.len() as f64 / (255.0 * 255.0))
}

/// Mean absolute difference of pixels in [0, 1].
///
/// # Errors
/// Pictures of different sizes.
pub fn l1(a: &Frame<'_>, b: &Frame<'_>) -> Result<f64> {
    Ok(differences(a, b)?.map(f64::abs).sum::<f64>() / a.pixels.len() as f64 / 255.0)
}

/// Peak signal-to-noise ratio in dB; infinite for equal pictures.
///
/// # Errors
/// Pictures of different sizes.
pub fn psnr(a: &Frame<'_>, b: &Frame<'_>) -> Result<f64> {
    Ok(-10.0 * mse(a, b)?.log10())
}

/// PSNR as published video metrics average it: 100 dB where the mean squared error is below 1e-10.
///
/// # Errors
/// Pictures of different sizes.
pub fn psnr_capped(a: &Frame<'_>, b: &Frame<'_>) -> Result<f64> {
    let mse = mse(a, b)?;
    Ok(if mse < 1e-10 { 100.0 } else { -10.0 * mse.log10() })
}

/// What comes of subtracting and squaring 8-bit numbers in 8 bits, as some published tables did by mistake. It is no PSNR,
/// and only of use beside those tables.
///
/// # Errors
/// Pictures of different sizes.
pub fn psnr_wrapped_u8(a: &Frame<'_>, b: &Frame<'_>) -> Result<f64> {
    same_size(a, b)?;
    let wrapped = |(a, b): (&u8, &u8)| {
        let d = a.wrapping_sub(*b);
        f64::from(d.wrapping_mul(d))
    };
    let mse = a.pixels.iter().zip(b.pixels).map(wrapped).sum::<f64>() / a.pixels.len() as f64;
    Ok(if mse == 0.0 { 100.0 } else { 10.0 * (255.0 * 255.0 / mse).log10() })
}

/// Structural similarity: 1 for equal pictures.
///
/// # Errors
/// Pictures of different sizes, or smaller than a window.
pub fn ssim(a: &Frame<'_>, b: &Frame<'_>, variant: Ssim) -> Result<f64> {
    same_size(a, b)?;
    let (window, factor) = match variant {
        Ssim::Default | Ssim::DefaultGray | Ssim::Disco => (vec![1.0 / 7.0; 7], 49.0 / 48.0),
        Ssim::Gaussian | Ssim::GaussianReflected => (gaussian(), 1.0),
    };
    if a.width.min(a.height) < window.len() {
        let reason = format!("{} x {} pixels, smaller than a window of {}", a.width, a.height, window.len());
        return Err(Error::call(MODEL, reason));
    }
    let reflected = variant == Ssim::GaussianReflected;
    let of = |value: &dyn Fn(&[u8]) -> f64| {
        let planes = [a, b].map(|f| {
            let plane = f.plane(value);
            if reflected { plane.reflected(RADIUS) } else { plane }
        });
        similarity(&planes, &window, factor)
    };
    let [r, g, b] = [0.299, 0.587, 0.114];
    Ok(match variant {
        Ssim::DefaultGray => of(&|p| r * f64::from(p[0]) + g * f64::from(p[1]) + b * f64::from(p[2])),
        Ssim::Disco => of(&|p| f64::from(opencv_gray(p))),
        _ => (0..3).map(|c| of(&|p| f64::from(p[c]))).sum::<f64>() / 3.0,
    })
}

/// OpenCV's grey of 8 bits: weights of 15 fractional bits, rounded.
fn opencv_gray(p: &[u8]) -> u32 {
    (9798 * u32::from(p[0]) + 19_235 * u32::from(p[1]) + 3735 * u32::from(p[2]) + (1 << 14)) >> 15
}

fn gaussian() -> Vec<f64> {
    let at = |i: usize| (-(i as f64 - RADIUS as f64).powi(2) / (2.0 * SIGMA * SIGMA)).exp();
    let weights: Vec<f64> = (0..=2 * RADIUS).map(at).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// The mean of the index over all windows within the planes, whose values reach to 255.
fn similarity([a, b]: &[Plane; 2], window: &[f64], factor: f64) -> f64 {
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let mean = |value: &dyn Fn(usize) -> f64| a.windows(window, value);
    let (ma, mb) = (mean(&|i| a.values[i]), mean(&|i| b.values[i]));
    let aa = mean(&|i| a.values[i] * a.values[i]);
    let bb = mean(&|i| b.values[i] * b.values[i]);
    let ab = mean(&|i| a.values[i] * b.values[i]);
    let index = |i: usize| {
        let (x, y) = (ma[i], mb[i]);
        let (vx, vy, vxy) = (factor * (aa[i] - x * x), factor * (bb[i] - y * y), factor * (ab[i] - x * y));
        (2.0 * x * y + c1) * (2.0 * vxy + c2) / ((x * x + y * y + c1) * (vx + vy + c2))
    };
    (0..ma.len()).map(index).sum::<f64>() / ma.len() as f64
}

impl Plane {
    /// Weighted sums of a value per pixel over every window within the plane, row by row.
    fn windows(&self, weights: &[f64], value: &dyn Fn(usize) -> f64) -> Vec<f64> {
        let (w, h, n) = (self.width, self.height, weights.len());
        let columns = w + 1 - n;
        let mut rows = vec![0.0; h * columns];
        let mut line = vec![0.0; w];
        for (y, row) in rows.chunks_mut(columns).enumerate() {
            line.iter_mut().enumerate().for_each(|(x, v)| *v = value(y * w + x));
            for (k, weight) in weights.iter().enumerate() {
                row.iter_mut().zip(&line[k..]).for_each(|(sum, v)| *sum += weight * v);
            }
        }
        let mut all = vec![0.0; (h + 1 - n) * columns];
        for (y, row) in all.chunks_mut(columns).enumerate() {
            for (k, weight) in weights.iter().enumerate() {
                let from = &rows[(y + k) * columns..(y + k + 1) * columns];
                row.iter_mut().zip(from).for_each(|(sum, v)| *sum += weight * v);
            }
        }
        all
    }

    /// The plane with `r` pixels more on every side, mirrored at the outermost ones.
    fn reflected(&self, r: usize) -> Plane {
        let mirror = |i: usize, n: usize| {
            let from_edge = i.abs_diff(r);
            from_edge.min(2 * (n - 1) - from_edge.min(2 * (n - 1)))
        };
        let (width, height) = (self.width + 2 * r, self.height + 2 * r);
        let at = |i: usize| self.values[mirror(i / width, self.height) * self.width + mirror(i % width, self.width)];
        Plane { width, height, values: (0..width * height).map(at).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn black_and_white_have_their_published_values() -> Result<()> {
        let (black, white) = (vec![0; 64 * 64 * 3], vec![255; 64 * 64 * 3]);
        let [a, b] = [Frame::new(64, 64, &black)?, Frame::new(64, 64, &white)?];
        assert_eq!(psnr(&a, &b)?, 0.0);
        // Of the common video metrics on GitHub: SSIM of all-zero and all-one clips.
        assert!((ssim(&a, &b, Ssim::Gaussian)? - 9.999000099990664e-05).abs() < 1e-15);
        assert!((ssim(&a, &a, Ssim::Default)? - 1.0).abs() < 1e-12);
        assert_eq!((psnr(&a, &a)?, psnr_capped(&a, &a)?), (f64::INFINITY, 100.0));
        Ok(())
    }

    #[test]
    fn wrapping_is_what_it_says() -> Result<()> {
        let (a, b) = ([10u8, 0, 0], [26u8, 0, 0]);
        // (10 − 26)² is 256, and 0 in 8 bits.
        assert_eq!(psnr_wrapped_u8(&Frame::new(1, 1, &a)?, &Frame::new(1, 1, &b)?)?, 100.0);
        Ok(())
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() -> Result<()> {
        let bytes = [0; 36];
        assert!(Frame::new(3, 3, &bytes).is_err() && Frame::new(0, 0, &[]).is_err());
        let [a, b] = [Frame::new(3, 4, &bytes)?, Frame::new(4, 3, &bytes)?];
        assert!(mse(&a, &b).is_err() && ssim(&a, &a, Ssim::Default).is_err());
        Ok(())
    }
}
