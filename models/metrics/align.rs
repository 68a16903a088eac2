//! Faces brought to where ArcFace's networks expect them: five points onto a template, by a similarity transform.
//!
//! Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (1991), in the plane, where a
//! similarity is a complex number times z plus another.

use super::image::Frame;
use crate::error::{Error, Result};

/// Side of an aligned face.
pub const SIDE: usize = 112;

/// Both eyes, the nose, both corners of the mouth, x before y: left is left in the picture. As in insightface.
pub const TEMPLATE: [[f32; 2]; 5] =
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];

/// `x' = a x − b y + c`, `y' = b x + a y + d`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity {
    /// Scale times the cosine of the rotation.
    pub a: f64,
    /// Scale times its sine.
    pub b: f64,
    /// Shift to the right.
    pub c: f64,
    /// Shift down.
    pub d: f64,
}

impl Similarity {
    /// The transform that brings `from` nearest to `to`, in the sum of squared distances.
    ///
    /// # Errors
    /// Points that are not finite, or all in one place.
    pub fn between(from: &[[f32; 2]; 5], to: &[[f32; 2]; 5]) -> Result<Similarity> {
        let mean = |p: &[[f32; 2]; 5]| [0, 1].map(|i| p.iter().map(|p| f64::from(p[i])).sum::<f64>() / 5.0);
        let (m, n) = (mean(from), mean(to));
        let (mut a, mut b, mut power) = (0.0, 0.0, 0.0);
        for (p, q) in from.iter().zip(to) {
            let [x, y] = [0, 1].map(|i| f64::from(p[i]) - m[i]);
            let [u, v] = [0, 1].map(|i| f64::from(q[i]) - n[i]);
            a += x * u + y * v;
            b += x * v - y * u;
            power += x * x + y * y;
        }
        (a, b) = (a / power, b / power);
        if !(a.is_finite() && b.is_finite()) || a * a + b * b == 0.0 {
            return Err(Error::call("alignment", format!("five points that span nothing: {from:?}")));
        }
        Ok(Similarity { a, b, c: n[0] - (a * m[0] - b * m[1]), d: n[1] - (b * m[0] + a * m[1]) })
    }

    /// Where a point goes.
    pub fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.a * x - self.b * y + self.c, self.b * x + self.a * y + self.d]
    }

    /// The transform back.
    pub fn inverse(&self) -> Similarity {
        let power = self.a * self.a + self.b * self.b;
        let (a, b) = (self.a / power, -self.b / power);
        Similarity { a, b, c: -(a * self.c - b * self.d), d: -(b * self.c + a * self.d) }
    }
}

/// The face with these five points, upright in `112 · 112 · 3` bytes: bilinear, black beyond the picture's edges.
///
/// # Errors
/// Points that span nothing.
pub fn align(picture: &Frame<'_>, points: &[[f32; 2]; 5]) -> Result<Vec<u8>> {
    let back = Similarity::between(points, &TEMPLATE)?.inverse();
    let at = |x: i64, y: i64, c: usize| -> f64 {
        let inside = x >= 0 && y >= 0 && x < picture.width as i64 && y < picture.height as i64;
        if inside { f64::from(picture.pixels[(y as usize * picture.width + x as usize) * 3 + c]) } else { 0.0 }
    };
    let mut face = Vec::with_capacity(SIDE * SIDE * 3);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let [sx, sy] = back.apply([x as f64, y as f64]);
            let (left, top) = (sx.floor(), sy.floor());
            let (p, q, left, top) = (sx - left, sy - top, left as i64, top as i64);
            for c in 0..3 {
                let upper = at(left, top, c) * (1.0 - p) + at(left.saturating_add(1), top, c) * p;
                let below = top.saturating_add(1);
                let lower = at(left, below, c) * (1.0 - p) + at(left.saturating_add(1), below, c) * p;
                face.push((upper * (1.0 - q) + lower * q).round() as u8);
            }
        }
    }
    Ok(face)
}

/// Pixels of 8 bits as the network takes them: in [−1, 1].
pub fn face_input(face: &[u8]) -> Vec<f32> {
    face.iter().map(|v| (f32::from(*v) - 127.5) / 127.5).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_template_is_brought_back() -> Result<()> {
        let move_to = Similarity { a: 1.7, b: -0.6, c: 30.0, d: 55.0 };
        let moved = TEMPLATE.map(|p| move_to.apply(p.map(f64::from)).map(|v| v as f32));
        let back = Similarity::between(&moved, &TEMPLATE)?;
        for (p, want) in moved.iter().zip(TEMPLATE) {
            let got = back.apply(p.map(f64::from));
            assert!((got[0] - f64::from(want[0])).abs() < 1e-4 && (got[1] - f64::from(want[1])).abs() < 1e-4);
        }
        let round = move_to.inverse().apply(move_to.apply([3.0, 4.0]));
        assert!((round[0] - 3.0).abs() < 1e-12 && (round[1] - 4.0).abs() < 1e-12);
        assert!(Similarity::between(&[[1.0, 2.0]; 5], &TEMPLATE).is_err());
        Ok(())
    }

    #[test]
    fn points_on_the_template_leave_the_picture_as_it_is() -> Result<()> {
        let pixels: Vec<u8> = (0..SIDE * SIDE * 3).map(|i| (i * 31 % 251) as u8).collect();
        let face = align(&Frame::new(SIDE, SIDE, &pixels)?, &TEMPLATE)?;
        assert_eq!(face, pixels);
        // Ten pixels to the right: the left edge comes from beyond the picture.
        let shifted = TEMPLATE.map(|[x, y]| [x - 10.0, y]);
        let face = align(&Frame::new(SIDE, SIDE, &pixels)?, &shifted)?;
        assert!(face[..27].iter().all(|v| *v == 0));
        assert_eq!(face[33..36], pixels[3..6]);
        Ok(())
    }
}
