//! Resizing 8-bit pictures exactly as Pillow does, since networks were trained on what it makes.
//!
//! A picture is resampled along its rows and along its columns. Weights are computed in f64, brought to sum 1,
//! rounded to fixed point with 22 fractional bits, and each pass rounds to 8 bits. When a picture shrinks the filter
//! widens with it, so that every source pixel counts.

use std::f64::consts::PI;

pub use muybridge_loaders::Picture;

use crate::error::{Error, Result};

const MODEL: &str = "resize";
/// Fractional bits of a weight: 32 less 8 of the pixel and 2 for overshoot.
const BITS: u32 = 22;
/// Largest extent of a picture.
const MOST: usize = 1 << 16;

/// Resampling filters, by Pillow's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The source pixel under the middle of the new one.
    Nearest,
    /// The mean under the new pixel.
    Box,
    /// Triangle.
    Bilinear,
    /// Hamming-windowed sinc with a support of one pixel.
    Hamming,
    /// Keys' cubic with `a = −1/2`.
    Bicubic,
    /// Lanczos-windowed sinc with a support of three pixels.
    Lanczos,
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(name: &str) -> Result<Filter, String> {
        match name {
            "nearest" => Ok(Filter::Nearest),
            "box" => Ok(Filter::Box),
            "bilinear" => Ok(Filter::Bilinear),
            "hamming" => Ok(Filter::Hamming),
            "bicubic" => Ok(Filter::Bicubic),
            "lanczos" => Ok(Filter::Lanczos),
            _ => Err(format!("unknown filter {name:?}; known: nearest, box, bilinear, hamming, bicubic, lanczos")),
        }
    }
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Nearest | Filter::Box => 0.5,
            Filter::Bilinear | Filter::Hamming => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        let y = x.abs();
        match self {
            Filter::Nearest | Filter::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Filter::Bilinear => (1.0 - y).max(0.0),
            Filter::Hamming if y >= 1.0 => 0.0,
            // Pillow's window is written in f32 numbers.
            Filter::Hamming => sinc(y) * (f64::from(0.54f32) + f64::from(0.46f32) * (y * PI).cos()),
            Filter::Bicubic if y < 1.0 => (1.5 * y - 2.5) * y * y + 1.0,
            Filter::Bicubic if y < 2.0 => (((y - 5.0) * y + 8.0) * y - 4.0) * -0.5,
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Filter::Bicubic | Filter::Lanczos => 0.0,
        }
    }
}

/// A picture in other sizes.
pub trait Resize: Sized {
    /// The picture in another size. Alpha is multiplied into the other channels while they are resampled.
    ///
    /// # Errors
    /// Extents that are 0, beyond 65536, or do not fit the pixels.
    fn resize(&self, width: usize, height: usize, filter: Filter) -> Result<Self>;
}

impl Resize for Picture {
    fn resize(&self, width: usize, height: usize, filter: Filter) -> Result<Picture> {
        let fits = self.width.checked_mul(self.height).and_then(|n| n.checked_mul(self.channels));
        if fits != Some(self.pixels.len()) || !(1..=4).contains(&self.channels) {
            let Picture { width, height, channels, pixels } = self;
            let reason = format!("{} bytes for {width} x {height} pixels of {channels} channels", pixels.len());
            return Err(Error::call(MODEL, reason));
        }
        for (name, extent) in
            [("width", width), ("height", height), ("own width", self.width), ("own height", self.height)]
        {
            if !(1..=MOST).contains(&extent) {
                return Err(Error::call(MODEL, format!("the {name} is {extent}, wanted 1 to {MOST}")));
            }
        }
        if (width, height) == (self.width, self.height) {
            return Ok(self.clone());
        }
        if filter == Filter::Nearest {
            return Ok(nearest(self, width, height));
        }
        let alpha = self.channels.is_multiple_of(2);
        let picture = if alpha { multiplied(self) } else { self.clone() };
        let wide = |p: Picture| if width == self.width { p } else { horizontal(&p, width, filter) };
        let high = |p: Picture| if height == self.height { p } else { vertical(&p, height, filter) };
        // Each pass rounds, so their order shows in the last bit. From version 13 on Pillow takes the columns first where
        // that is much less work.
        let columns_first = height < self.height && self.height - height + 2 * width > 2 * self.width;
        let picture = if columns_first { wide(high(picture)) } else { high(wide(picture)) };
        Ok(if alpha { divided(&picture) } else { picture })
    }
}

fn nearest(from: &Picture, width: usize, height: usize) -> Picture {
    // The position is added up, as Pillow does: its rounding decides which pixel is under a middle.
    let places = |from: usize, to: usize| {
        let stride = from as f64 / to as f64;
        let mut place = stride * 0.5;
        let next = move |_| {
            let here = place as usize;
            place += stride;
            here.min(from - 1)
        };
        (0..to).map(next).collect::<Vec<usize>>()
    };
    let (columns, rows) = (places(from.width, width), places(from.height, height));
    let mut pixels = Vec::with_capacity(width * height * from.channels);
    for row in rows {
        for column in &columns {
            pixels.extend_from_slice(&from.pixels[(row * from.width + column) * from.channels..][..from.channels]);
        }
    }
    Picture { width, height, channels: from.channels, pixels }
}

fn horizontal(from: &Picture, width: usize, filter: Filter) -> Picture {
    let taps = taps(from.width, width, filter);
    let mut pixels = Vec::with_capacity(width * from.height * from.channels);
    for row in from.pixels.chunks(from.width * from.channels) {
        for Taps { first, weights } in &taps {
            for c in 0..from.channels {
                let sources = row[first * from.channels + c..].iter().step_by(from.channels);
                pixels.push(weigh(sources, weights));
            }
        }
    }
    Picture { width, pixels, ..*from }
}

fn vertical(from: &Picture, height: usize, filter: Filter) -> Picture {
    let pitch = from.width * from.channels;
    let mut pixels = Vec::with_capacity(pitch * height);
    for Taps { first, weights } in taps(from.height, height, filter) {
        for x in 0..pitch {
            pixels.push(weigh(from.pixels[first * pitch + x..].iter().step_by(pitch), &weights));
        }
    }
    Picture { height, pixels, ..*from }
}

/// Colour times alpha, rounded.
fn multiplied(from: &Picture) -> Picture {
    map_colour(from, |colour, alpha| {
        let product = u32::from(colour) * u32::from(alpha) + 128;
        (((product >> 8) + product) >> 8) as u8
    })
}

/// Colour over alpha, cut.
fn divided(from: &Picture) -> Picture {
    map_colour(from, |colour, alpha| match alpha {
        0 | 255 => colour,
        _ => (255 * u32::from(colour) / u32::from(alpha)).min(255) as u8,
    })
}

fn map_colour(from: &Picture, f: impl Fn(u8, u8) -> u8) -> Picture {
    let mut picture = from.clone();
    for pixel in picture.pixels.chunks_mut(from.channels) {
        if let Some((alpha, colours)) = pixel.split_last_mut() {
            colours.iter_mut().for_each(|colour| *colour = f(*colour, *alpha));
        }
    }
    picture
}

/// The source pixels of one new pixel.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

fn taps(from: usize, to: usize, filter: Filter) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let widening = scale.max(1.0);
    let support = filter.support() * widening;
    let one = |i: usize| {
        let middle = (i as f64 + 0.5) * scale;
        let first = (middle - support + 0.5).max(0.0) as usize;
        let end = ((middle + support + 0.5) as usize).min(from);
        let raw = |x: usize| filter.at((x as f64 - middle + 0.5) * (1.0 / widening));
        let weights: Vec<f64> = (first..end).map(raw).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |w: &f64| {
            let w = if sum == 0.0 { *w } else { w / sum } * f64::from(1u32 << BITS);
            (w + if w < 0.0 { -0.5 } else { 0.5 }) as i32
        };
        Taps { first, weights: weights.iter().map(fixed).collect() }
    };
    (0..to).map(one).collect()
}

fn weigh<'a>(sources: impl Iterator<Item = &'a u8>, weights: &[i32]) -> u8 {
    let half = 1i64 << (BITS - 1);
    let sum: i64 = sources.zip(weights).map(|(p, w)| i64::from(*p) * i64::from(*w)).sum();
    ((sum + half) >> BITS).clamp(0, 255) as u8
}
