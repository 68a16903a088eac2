//! Between RGB and the planes of a video: luma for each pixel, two colour differences for each square of four.

use crate::picture::Picture;

/// Planes of 4:2:0. Extents are even.
pub(crate) struct Planes {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) y: Vec<u8>,
    pub(crate) u: Vec<u8>,
    pub(crate) v: Vec<u8>,
}

/// How numbers mean colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matrix {
    Bt601,
    Bt709,
    Bt2020,
}

impl Matrix {
    /// Weights of red and blue in the luma.
    fn weights(self) -> (f64, f64) {
        match self {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
            Matrix::Bt2020 => (0.2627, 0.0593),
        }
    }
}

/// How a video says its numbers are to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Coding {
    pub(crate) matrix: Matrix,
    /// All 256 values, not 16 to 235.
    pub(crate) full: bool,
}

/// Fractional bits of a weight.
const BITS: u32 = 16;

fn fixed(value: f64) -> i32 {
    (value * f64::from(1 << BITS)).round() as i32
}

fn cut(sum: i32) -> u8 {
    ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}

impl Planes {
    /// RGB in BT.601 with 16 to 235: what readers that don't look take for granted. An odd last row or column is repeated,
    /// because the planes can't have one.
    pub(crate) fn of_rgb(picture: &Picture) -> Planes {
        let (width, height) = (picture.width.next_multiple_of(2), picture.height.next_multiple_of(2));
        let (red, blue) = Matrix::Bt601.weights();
        let green = 1.0 - red - blue;
        let luma = [red, green, blue].map(|w| fixed(w * 219.0 / 255.0));
        // A difference of blue and luma is at most 1 − blue either way.
        let down = |own: f64, w: f64| fixed((if w == own { 1.0 - w } else { -w }) * 112.0 / 255.0 / (1.0 - own));
        let [cb, cr] = [blue, red].map(|own| [red, green, blue].map(|w| down(own, w)));
        let weigh = |w: [i32; 3], p: [i32; 3]| w[0] * p[0] + w[1] * p[1] + w[2] * p[2];
        let at = |x: usize, y: usize| {
            let from = (y.min(picture.height - 1) * picture.width + x.min(picture.width - 1)) * 3;
            [0, 1, 2].map(|c| i32::from(picture.pixels[from + c]))
        };
        let mut y_plane = Vec::with_capacity(width * height);
        for y in 0..height {
            y_plane.extend((0..width).map(|x| cut(weigh(luma, at(x, y)) + (16 << BITS))));
        }
        let (mut u, mut v) = (Vec::with_capacity(width * height / 4), Vec::with_capacity(width * height / 4));
        for y in (0..height).step_by(2) {
            for x in (0..width).step_by(2) {
                let four = [at(x, y), at(x + 1, y), at(x, y + 1), at(x + 1, y + 1)];
                let sum = [0, 1, 2].map(|c| four.iter().map(|p| p[c]).sum::<i32>());
                u.push(cut(weigh(cb, sum) / 4 + (128 << BITS)));
                v.push(cut(weigh(cr, sum) / 4 + (128 << BITS)));
            }
        }
        Planes { width, height, y: y_plane, u, v }
    }
}

/// Planes as a decoder gives them: rows of `strides` bytes, of which the first count.
pub(crate) struct Decoded<'a> {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) planes: [&'a [u8]; 3],
    pub(crate) strides: (usize, usize, usize),
}

impl Decoded<'_> {
    /// RGB; each colour difference serves its four pixels, as in the field's readers. None where a plane is too short.
    pub(crate) fn rgb(&self, coding: Coding) -> Option<Picture> {
        let (red, blue) = coding.matrix.weights();
        let green = 1.0 - red - blue;
        let (floor, luma, chroma) = if coding.full { (0, 1.0, 1.0) } else { (16, 255.0 / 219.0, 255.0 / 224.0) };
        let luma = fixed(luma);
        let (to_red, to_blue) = (2.0 * (1.0 - red) * chroma, 2.0 * (1.0 - blue) * chroma);
        let green_of_red = fixed(-to_red * red / green);
        let green_of_blue = fixed(-to_blue * blue / green);
        let (to_red, to_blue) = (fixed(to_red), fixed(to_blue));
        let row =
            |plane: usize, stride: usize, y: usize, width: usize| self.planes[plane].get(y * stride..)?.get(..width);
        let half = self.width.div_ceil(2);
        let mut pixels = Vec::with_capacity(self.width * self.height * 3);
        for y in 0..self.height {
            let lumas = row(0, self.strides.0, y, self.width)?;
            let (us, vs) = (row(1, self.strides.1, y / 2, half)?, row(2, self.strides.2, y / 2, half)?);
            for (x, value) in lumas.iter().enumerate() {
                let base = (i32::from(*value) - floor) * luma;
                let (u, v) = (i32::from(us[x / 2]) - 128, i32::from(vs[x / 2]) - 128);
                pixels.push(cut(base + to_red * v));
                pixels.push(cut(base + green_of_blue * u + green_of_red * v));
                pixels.push(cut(base + to_blue * u));
            }
        }
        Some(Picture { width: self.width, height: self.height, channels: 3, pixels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coded(colour: [u8; 3]) -> [u8; 3] {
        let planes = Planes::of_rgb(&Picture { width: 1, height: 1, channels: 3, pixels: colour.into() });
        assert_eq!((planes.width, planes.height, planes.y.len(), planes.u.len()), (2, 2, 4, 1));
        [planes.y[3], planes.u[0], planes.v[0]]
    }

    #[test]
    fn colours_are_coded_as_bt_601_says() {
        // The bars of the recommendation.
        let rows = [
            ([0, 0, 0], [16, 128, 128]),
            ([255, 255, 255], [235, 128, 128]),
            ([255, 0, 0], [81, 90, 240]),
            ([0, 255, 0], [145, 54, 34]),
            ([0, 0, 255], [41, 240, 110]),
            ([191, 191, 0], [161, 44, 142]),
        ];
        rows.iter().for_each(|(colour, expected)| assert_eq!(coded(*colour), *expected, "{colour:?}"));
    }

    #[test]
    fn every_coding_brings_white_black_and_primaries_back() {
        let decoded = |[y, u, v]: [u8; 3], matrix, full| {
            let planes: [&[u8]; 3] = [&[y], &[u], &[v]];
            let picture = Decoded { width: 1, height: 1, planes, strides: (1, 1, 1) }.rgb(Coding { matrix, full });
            picture.unwrap().pixels
        };
        for matrix in [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020] {
            assert_eq!(decoded([16, 128, 128], matrix, false), [0, 0, 0]);
            assert_eq!(decoded([235, 128, 128], matrix, false), [255, 255, 255]);
            assert_eq!(decoded([255, 128, 128], matrix, true), [255, 255, 255]);
        }
        assert_eq!(decoded([81, 90, 240], Matrix::Bt601, false), [254, 0, 0]);
        assert_eq!(decoded([63, 102, 240], Matrix::Bt709, false), [255, 1, 0]);
        assert_eq!(decoded([76, 85, 255], Matrix::Bt601, true), [254, 0, 0]);
        let short = Decoded { width: 2, height: 2, planes: [&[0; 3], &[0], &[0]], strides: (2, 1, 1) };
        assert!(short.rgb(Coding { matrix: Matrix::Bt601, full: true }).is_none());
    }
}
