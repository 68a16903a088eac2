//! The skeleton as DWPose's renderer draws it: colours and sizes are those of a picture 512 pixels high, scaled to the
//! picture's own height, with smooth edges.

use crate::landmarks::{Landmarks, Point};
use crate::render::Picture;

/// Colours of OpenPose's eighteen points; limb `i` has colour `i`.
const WHEEL: [[u8; 3]; 18] = [
    [255, 0, 0],
    [255, 85, 0],
    [255, 170, 0],
    [255, 255, 0],
    [170, 255, 0],
    [85, 255, 0],
    [0, 255, 0],
    [0, 255, 85],
    [0, 255, 170],
    [0, 255, 255],
    [0, 170, 255],
    [0, 85, 255],
    [0, 0, 255],
    [85, 0, 255],
    [170, 0, 255],
    [255, 0, 255],
    [255, 0, 170],
    [255, 0, 85],
];
/// Limbs by the points at their ends.
const LIMBS: [(usize, usize); 17] = [
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (0, 14),
    (14, 16),
    (0, 15),
    (15, 17),
];
/// Points below this are not drawn.
const SEEN: f32 = 0.3;

/// Draws a person's points on black.
pub fn dwpose(points: &Landmarks, width: usize, height: usize) -> Picture {
    let mut canvas = Canvas { picture: Picture::black(width, height), scale: height as f32 / 512.0 };
    for (i, (a, b)) in LIMBS.into_iter().enumerate() {
        canvas.limb(points.body[a], points.body[b], WHEEL[i]);
    }
    // Limbs are dimmed before joints are drawn over them.
    for v in &mut canvas.picture.pixels {
        *v = (f32::from(*v) * 0.6) as u8;
    }
    for (i, p) in points.body.iter().enumerate() {
        canvas.dot(*p, 4.0, WHEEL[i]);
    }
    for hand in &points.hands {
        for edge in 0..20 {
            let (finger, k) = (edge / 4, edge % 4);
            let from = if k == 0 { 0 } else { 4 * finger + k };
            canvas.line(hand[from], hand[4 * finger + k + 1], hue(edge as f32 / 20.0));
        }
        for p in hand {
            canvas.dot(*p, 4.0, [0, 0, 255]);
        }
    }
    for p in &points.face {
        canvas.dot(*p, 3.0, [255, 255, 255]);
    }
    canvas.picture
}

/// A full colour of a hue in [0, 1).
fn hue(h: f32) -> [u8; 3] {
    let x = 6.0 * h;
    let v = |shift: f32| {
        let k = (x + shift) % 6.0;
        (255.0 * (1.0 - k.min(4.0 - k).clamp(0.0, 1.0))) as u8
    };
    [v(5.0), v(3.0), v(1.0)]
}

struct Canvas {
    picture: Picture,
    /// Pixels here for a pixel of DWPose's.
    scale: f32,
}

impl Canvas {
    /// Blends a colour in by a signed distance in pixels, within a box.
    fn fill(&mut self, low: (f32, f32), high: (f32, f32), colour: [u8; 3], distance: impl Fn(f32, f32) -> f32) {
        let range =
            |a: f32, b: f32, n: usize| (a.floor().max(0.0) as usize, (b.ceil() + 1.0).clamp(0.0, n as f32) as usize);
        let (xs, ys) = (range(low.0, high.0, self.picture.width), range(low.1, high.1, self.picture.height));
        for y in ys.0..ys.1 {
            for x in xs.0..xs.1 {
                let share = (0.5 - distance(x as f32 + 0.5, y as f32 + 0.5)).clamp(0.0, 1.0);
                let i = 3 * (y * self.picture.width + x);
                for (c, v) in colour.iter().enumerate() {
                    let old = f32::from(self.picture.pixels[i + c]);
                    self.picture.pixels[i + c] = (old + (f32::from(*v) - old) * share + 0.5) as u8;
                }
            }
        }
    }

    fn dot(&mut self, p: Point, radius: f32, colour: [u8; 3]) {
        if p[2] < SEEN {
            return;
        }
        let r = radius * self.scale;
        let far = r + 1.0;
        self.fill((p[0] - far, p[1] - far), (p[0] + far, p[1] + far), colour, |x, y| {
            ((x - p[0]) * (x - p[0]) + (y - p[1]) * (y - p[1])).sqrt() - r
        });
    }

    /// An ellipse from point to point, four pixels of DWPose's to each side.
    fn limb(&mut self, a: Point, b: Point, colour: [u8; 3]) {
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let length = (dx * dx + dy * dy).sqrt();
        if a[2] < SEEN || b[2] < SEEN || length < 1e-3 {
            return;
        }
        let (u, v) = (dx / length, dy / length);
        let (long, wide) = (0.5 * length, 4.0 * self.scale);
        let (x0, y0) = (0.5 * (a[0] + b[0]), 0.5 * (a[1] + b[1]));
        let far = wide + 1.0;
        let low = (a[0].min(b[0]) - far, a[1].min(b[1]) - far);
        let high = (a[0].max(b[0]) + far, a[1].max(b[1]) + far);
        self.fill(low, high, colour, |x, y| {
            let along = ((x - x0) * u + (y - y0) * v) / long;
            let aside = ((y - y0) * u - (x - x0) * v) / wide;
            // First-order distance: the implicit function over its gradient.
            let f = along * along + aside * aside - 1.0;
            let slope = 2.0 * (along * along / (long * long) + aside * aside / (wide * wide)).sqrt();
            f / slope.max(1e-3)
        });
    }

    /// A line two pixels of DWPose's thick.
    fn line(&mut self, a: Point, b: Point, colour: [u8; 3]) {
        if a[2] < SEEN || b[2] < SEEN {
            return;
        }
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let square = (dx * dx + dy * dy).max(1e-6);
        let (low, high) = ((a[0].min(b[0]) - 2.0, a[1].min(b[1]) - 2.0), (a[0].max(b[0]) + 2.0, a[1].max(b[1]) + 2.0));
        let half = self.scale;
        self.fill(low, high, colour, |x, y| {
            let t = (((x - a[0]) * dx + (y - a[1]) * dy) / square).clamp(0.0, 1.0);
            let (ex, ey) = (x - a[0] - t * dx, y - a[1] - t * dy);
            (ex * ex + ey * ey).sqrt() - half
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hues_go_round_the_wheel() {
        assert_eq!(hue(0.0), [255, 0, 0]);
        assert_eq!(hue(0.25), [127, 255, 0]);
        assert_eq!(hue(0.5), [0, 255, 255]);
        assert_eq!(hue(2.0 / 3.0), [0, 0, 255]);
    }
}
