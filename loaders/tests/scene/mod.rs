//! What the tests of pictures and videos look at.

use muybridge_loaders::Picture;

/// A smooth picture with an edge that moves, and colours that differ.
pub fn scene(width: usize, height: usize, channels: usize, step: usize) -> Picture {
    let mut pixels = Vec::with_capacity(width * height * channels);
    for y in 0..height {
        for x in 0..width {
            let wave = |k: f64| (127.5 + 120.0 * (k * (x as f64 + 2.0 * step as f64) / width as f64).sin()) as u8;
            let square = x.abs_diff(width / 2 + step) < width / 6 && y.abs_diff(height / 2) < height / 5;
            let pixel =
                [wave(5.0), (255 * y / height) as u8, if square { 220 } else { wave(3.0) }, 255 - wave(1.0) / 2];
            pixels.extend_from_slice(&pixel[..channels]);
        }
    }
    Picture { width, height, channels, pixels }
}

/// Peak signal-to-noise ratio in decibels.
pub fn psnr(a: &Picture, b: &Picture) -> f64 {
    assert_eq!((a.width, a.height, a.channels), (b.width, b.height, b.channels));
    let squares = a.pixels.iter().zip(&b.pixels).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let mean = squares.sum::<f64>() / a.pixels.len() as f64;
    10.0 * (255.0f64.powi(2) / mean.max(1e-9)).log10()
}
