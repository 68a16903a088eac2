//! From a picture to what SCRFD takes, and from what it gives to faces.

use muybridge_loaders::Picture;

use super::{Face, MODEL};
use crate::error::{Error, Result};

/// A picture in the upper left corner of `[height, width]`, its sides' ratio kept and black beside it, as `(v − 127.5) / 128`;
/// and how many times larger it became. Bilinear without antialiasing, rounded to 8 bits: OpenCV's `resize`.
pub(super) fn boxed(picture: &Picture, [height, width]: [usize; 2]) -> Result<(Vec<f32>, f32)> {
    if picture.pixels.is_empty() || picture.pixels.len() != picture.width * picture.height * 3 {
        let reason = format!("{} bytes for {} x {} pixels", picture.pixels.len(), picture.width, picture.height);
        return Err(Error::call(MODEL, reason));
    }
    let ratio = picture.height as f64 / picture.width as f64;
    let (w, h) = if ratio > height as f64 / width as f64 {
        (((height as f64 / ratio) as usize).max(1), height)
    } else {
        (width, ((width as f64 * ratio) as usize).max(1))
    };
    let (rows, columns) = (taps(picture.height, h), taps(picture.width, w));
    let mut out = vec![-127.5 / 128.0; height * width * 3];
    for (y, (top, bottom, down)) in rows.iter().enumerate() {
        for (x, (left, right, across)) in columns.iter().enumerate() {
            for c in 0..3 {
                let at = |y: &usize, x: &usize| f64::from(picture.pixels[(y * picture.width + x) * 3 + c]);
                let upper = at(top, left) * (1.0 - across) + at(top, right) * across;
                let lower = at(bottom, left) * (1.0 - across) + at(bottom, right) * across;
                let value = (upper * (1.0 - down) + lower * down).round();
                out[(y * width + x) * 3 + c] = ((value - 127.5) / 128.0) as f32;
            }
        }
    }
    Ok((out, h as f32 / picture.height as f32))
}

/// For each new cell the two old ones that it lies between, and how far it is along.
fn taps(from: usize, to: usize) -> Vec<(usize, usize, f64)> {
    let scale = from as f64 / to as f64;
    let one = |i: usize| {
        let place = ((i as f64 + 0.5) * scale - 0.5).clamp(0.0, (from - 1) as f64);
        (place as usize, (place as usize + 1).min(from - 1), place.fract())
    };
    (0..to).map(one).collect()
}

/// What the network gave at one level: `A` anchors in each cell, row by row.
pub(super) struct Level<'a> {
    pub stride: usize,
    pub columns: usize,
    pub anchors: usize,
    /// What boxes are multiplied by.
    pub factor: f32,
    /// `A` logits a cell.
    pub scores: &'a [f32],
    /// Distances to left, top, right and bottom of each anchor, in strides.
    pub bounds: &'a [f32],
    /// Offsets of five points of each anchor, in strides.
    pub points: &'a [f32],
}

impl Level<'_> {
    /// Faces with this score or more.
    pub fn faces(&self, threshold: f32) -> Vec<Face> {
        let (anchors, step) = (self.anchors.max(1), self.stride as f32);
        let mut found = Vec::new();
        let each = self.scores.iter().zip(self.bounds.as_chunks::<4>().0).zip(self.points.as_chunks::<10>().0);
        for (i, ((logit, bounds), points)) in each.enumerate() {
            let score = 1.0 / (1.0 + (-logit).exp());
            if score.is_nan() || score < threshold {
                continue;
            }
            let cell = i / anchors;
            let [x, y] = [cell % self.columns, cell / self.columns].map(|n| n as f32 * step);
            let [left, top, right, bottom] = bounds.map(|d| d * self.factor * step);
            let point = |p: usize| [x + points[2 * p] * step, y + points[2 * p + 1] * step];
            let face =
                Face { score, bounds: [x - left, y - top, x + right, y + bottom], points: [0, 1, 2, 3, 4].map(point) };
            if face.bounds.iter().chain(face.points.iter().flatten()).all(|v| v.is_finite()) {
                found.push(face);
            }
        }
        found
    }
}

/// The surest of every group of faces whose boxes share more of their area than `overlap`, the surest first.
pub(super) fn suppressed(mut faces: Vec<Face>, overlap: f32) -> Vec<Face> {
    faces.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Face> = Vec::new();
    for face in faces {
        if kept.iter().all(|k| shared(k, &face) <= overlap) {
            kept.push(face);
        }
    }
    kept
}

/// The area of both over the area of either, boxes taken to their last pixel.
fn shared(a: &Face, b: &Face) -> f32 {
    let side = |low: f32, high: f32| (high - low + 1.0).max(0.0);
    let area = |[left, top, right, bottom]: [f32; 4]| side(left, right) * side(top, bottom);
    let both = [
        a.bounds[0].max(b.bounds[0]),
        a.bounds[1].max(b.bounds[1]),
        a.bounds[2].min(b.bounds[2]),
        a.bounds[3].min(b.bounds[3]),
    ];
    let (both, either) = (area(both), area(a.bounds) + area(b.bounds));
    both / (either - both)
}

#[cfg(test)]
mod tests {
    use super::super::main_face;
    use super::*;

    fn picture(width: usize, height: usize) -> Picture {
        let value = |i: usize| (i / 3 % width * 4 + i / 3 / width) as u8;
        Picture { width, height, channels: 3, pixels: (0..width * height * 3).map(value).collect() }
    }

    #[test]
    fn pictures_keep_their_ratio_and_stand_in_the_corner() -> Result<()> {
        let same = picture(32, 32);
        let (pixels, scale) = boxed(&same, [32, 32])?;
        assert_eq!(scale, 1.0);
        assert!(pixels.iter().zip(&same.pixels).all(|(p, v)| *p == (f32::from(*v) - 127.5) / 128.0));
        // Twice as wide as high: the lower half stays black.
        let (pixels, scale) = boxed(&picture(16, 8), [32, 32])?;
        assert_eq!(scale, 2.0);
        assert!(pixels[16 * 32 * 3..].iter().all(|p| *p == -127.5 / 128.0));
        // Between pixels 0 and 1 of a row, a quarter along: 0 + 4/4.
        assert_eq!(pixels[3], (1.0 - 127.5) / 128.0);
        // 9 of 31 rows give 64 / 31 · 9 = 18.58 columns, cut.
        let (pixels, scale) = boxed(&picture(9, 31), [64, 32])?;
        assert_eq!(scale, 64.0 / 31.0);
        let black = |x: usize| (0..64).all(|y| pixels[(y * 32 + x) * 3] == -127.5 / 128.0);
        assert!(!black(17) && black(18), "18 columns hold the picture");
        let empty = Picture { width: 0, height: 3, channels: 3, pixels: Vec::new() };
        assert!(boxed(&empty, [32, 32]).is_err());
        Ok(())
    }

    #[test]
    fn cells_and_anchors_say_where_a_face_is() {
        // Three columns, two rows, two anchors: the second anchor of the cell in column 2, row 1.
        let mut scores = [-9.0f32; 12];
        scores[11] = 2.0;
        let (mut bounds, mut points) = ([0.0f32; 48], [0.0f32; 120]);
        bounds[44..].copy_from_slice(&[1.0, 0.5, 2.0, 0.25]);
        points[110..].copy_from_slice(&[-0.5, 0.0, 0.5, 0.0, 0.0, 0.25, -0.5, 1.0, 0.5, 1.0]);
        let level =
            Level { stride: 8, columns: 3, anchors: 2, factor: 2.0, scores: &scores, bounds: &bounds, points: &points };
        let found = level.faces(0.5);
        assert_eq!(found.len(), 1);
        assert!((found[0].score - 0.880_797).abs() < 1e-6);
        assert_eq!(found[0].bounds, [0.0, 0.0, 48.0, 12.0]);
        assert_eq!(found[0].points, [[12.0, 8.0], [20.0, 8.0], [16.0, 10.0], [12.0, 16.0], [20.0, 16.0]]);
        assert_eq!(level.faces(0.9), []);
        let scores = [&[f32::NAN], &scores[1..]].concat();
        let level = Level { scores: &scores, ..level };
        assert_eq!(level.faces(0.0).len(), 11);
    }

    fn face(score: f32, bounds: [f32; 4]) -> Face {
        Face { score, bounds, points: [[0.0; 2]; 5] }
    }

    #[test]
    fn of_boxes_that_overlap_the_surest_stays() {
        // 10 x 10 pixels each; the second shares 10 x 5 of 150, a third; the third shares 9 x 10 of 110.
        let (a, b, c) =
            (face(0.7, [0.0, 0.0, 9.0, 9.0]), face(0.6, [0.0, 5.0, 9.0, 14.0]), face(0.9, [1.0, 0.0, 10.0, 9.0]));
        assert!((shared(&a, &b) - 1.0 / 3.0).abs() < 1e-6 && (shared(&a, &c) - 9.0 / 11.0).abs() < 1e-6);
        assert_eq!(suppressed(vec![a, b, c], 0.4), [c, b]);
        assert_eq!(suppressed(vec![a, b, c], 0.3), [c, b], "c and b share 9 x 5 of 155");
        assert_eq!(suppressed(vec![a, b, c], 0.2), [c]);
        assert_eq!(suppressed(vec![a, b, c], 1.0).len(), 3);
    }

    #[test]
    fn the_main_face_is_large_and_in_the_middle() {
        let (middle, corner) = (face(0.6, [40.0, 40.0, 60.0, 60.0]), face(0.9, [0.0, 0.0, 24.0, 24.0]));
        assert_eq!(main_face(&[corner, middle], [100, 100]), Some(&middle));
        assert_eq!(main_face(&[], [100, 100]), None);
    }
}
