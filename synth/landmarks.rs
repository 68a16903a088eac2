//! Where joints, hands and face are in the picture.

use crate::identity::Identity;
use crate::math::{TURN, Vec3, sin_cos, vec3};
use crate::pose::{Skeleton, side};
use crate::scene::Camera;

/// A point of the picture: x and y in pixels from the upper left corner, and how well it is seen: 1 plainly, 0.6 behind
/// something, 0 not at all.
pub type Point = [f32; 3];

/// Points of one person in one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Landmarks {
    /// OpenPose's eighteen: nose, neck, right and left arm, right and left leg, eyes, ears.
    pub body: [Point; 18],
    /// Left and right hand: wrist, then four points a finger from the thumb.
    pub hands: [[Point; 21]; 2],
    /// Sixty-eight of the face: jaw, brows, nose, eyes, mouth.
    pub face: Vec<Point>,
    /// For alignment: left and right eye as the spectator sees them, nose, corners of the mouth.
    pub five: [Point; 5],
    /// Round the face: left, upper, right and lower edge in pixels.
    pub face_box: [f32; 4],
    /// Whether the face is turned to the camera.
    pub face_visible: bool,
}

/// Puts points of the world into a picture.
struct Eye<'a> {
    camera: &'a Camera,
    extents: (usize, usize),
    distance: &'a [f32],
}

impl Eye<'_> {
    fn at(&self, p: Vec3) -> (f32, f32, f32) {
        let (w, h) = (self.extents.0 as f32, self.extents.1 as f32);
        let q = self.camera.project(p);
        (0.5 * w + q.x * h, 0.5 * h - q.y * h, q.z)
    }

    /// A point that lies up to `deep` metres under the surface.
    fn point(&self, p: Vec3, deep: f32) -> Point {
        let (x, y, z) = self.at(p);
        let (w, h) = self.extents;
        if x < 0.0 || y < 0.0 || x >= w as f32 || y >= h as f32 {
            return [x, y, 0.0];
        }
        let seen = self.distance[y as usize * w + x as usize];
        [x, y, if z > seen + deep { 0.6 } else { 1.0 }]
    }

    fn faces(&self, p: Vec3, normal: Vec3) -> f32 {
        normal.dot((self.camera.eye - p).normalized())
    }
}

impl Landmarks {
    /// The landmarks of a person, given how far away the surface in each pixel is.
    pub fn new(
        who: &Identity,
        bones: &Skeleton,
        camera: &Camera,
        extents: (usize, usize),
        distance: &[f32],
    ) -> Landmarks {
        let eye = Eye { camera, extents, distance };
        let (head, r) = (&bones.head, who.build.head);
        let on_head = |x: f32, y: f32, z: f32| head.out(vec3(x, y, z) * r);
        let turned = |p: Vec3, axis: Vec3, least: f32| {
            let [x, y, seen] = eye.point(p, 0.5);
            [x, y, if eye.faces(p, axis) > least { seen } else { 0.0 }]
        };
        let front = head.axes.z;
        let joint = |p: Vec3| eye.point(p, 0.13);
        let mut body = [[0.0; 3]; 18];
        body[0] = turned(on_head(0.0, -0.12, 1.0), front, -0.1);
        body[1] = joint(bones.chest.at);
        for i in 0..2 {
            let (arm, leg) = (&bones.arms[i], &bones.legs[i]);
            // OpenPose begins with the right side.
            let (a, l) = (if i == 0 { 5 } else { 2 }, if i == 0 { 11 } else { 8 });
            for (k, p) in [arm.upper.at, arm.lower.at, arm.hand.at].into_iter().enumerate() {
                body[a + k] = joint(p);
            }
            for (k, p) in [leg.upper.at, leg.lower.at, leg.foot.at].into_iter().enumerate() {
                body[l + k] = joint(p);
            }
            let s = side(i);
            let aside = (front * 0.8 + head.axes.x * (0.6 * s)).normalized();
            body[if i == 0 { 15 } else { 14 }] = turned(on_head(0.34 * s, 0.06, 0.82), aside, 0.0);
            body[if i == 0 { 17 } else { 16 }] = turned(on_head(0.9 * s, -0.05, -0.1), head.axes.x * s, -0.30);
        }
        let hands = [0, 1].map(|i| {
            let arm = &bones.arms[i];
            let mut points = [joint(arm.hand.at); 21];
            for (f, joints) in arm.fingers.iter().enumerate() {
                for (k, p) in joints.iter().enumerate() {
                    points[1 + 4 * f + k] = eye.point(*p, 0.04);
                }
            }
            points
        });
        let face_visible = eye.faces(head.at, front) > 0.15;
        let face = mask().into_iter().map(|q| {
            let [x, y, seen] = eye.point(head.out(q * r), 0.25);
            let outward = head.axes.out((q - vec3(0.0, 0.0, 0.1)).normalized());
            [x, y, if face_visible && eye.faces(head.out(q * r), outward) > 0.05 { seen } else { 0.0 }]
        });
        let five =
            [(-0.34, 0.06, 0.84), (0.34, 0.06, 0.84), (0.0, -0.14, 1.0), (-0.24, -0.46, 0.72), (0.24, -0.46, 0.72)];
        Landmarks {
            body,
            hands,
            face: face.collect(),
            five: five.map(|(x, y, z)| eye.point(on_head(x, y, z), 0.25)),
            face_box: face_box(&eye, on_head),
            face_visible,
        }
    }
}

/// The smallest upright box round chin, temples and forehead.
fn face_box(eye: &Eye<'_>, on_head: impl Fn(f32, f32, f32) -> Vec3) -> [f32; 4] {
    let mut edges = [f32::MAX, f32::MAX, f32::MIN, f32::MIN];
    for y in [-0.95, -0.5, 0.0, 0.5, 0.85] {
        let wide = if y < -0.4 { 0.55 } else { 0.84 };
        for (x, z) in [(-wide, 0.1), (wide, 0.1), (0.0, 0.75)] {
            let (u, v, _) = eye.at(on_head(x, y, z));
            edges = [edges[0].min(u), edges[1].min(v), edges[2].max(u), edges[3].max(v)];
        }
    }
    edges
}

/// The points of the face in radii of the head, in the usual order of sixty-eight; the person's right side first.
fn mask() -> Vec<Vec3> {
    let mut points = Vec::with_capacity(68);
    for i in 0..17 {
        let (s, c) = sin_cos(TURN * 0.5 * i as f32 / 16.0);
        points.push(vec3(-0.86 * c, 0.05 - 0.98 * s, 0.05 + 0.50 * s));
    }
    for s in [-1.0, 1.0] {
        for i in 0..5 {
            let u = i as f32 / 4.0;
            let x = if s < 0.0 { 0.55 - 0.41 * u } else { 0.14 + 0.41 * u };
            points.push(vec3(s * x, 0.28 + 0.06 * (1.0 - (2.0 * u - 1.0) * (2.0 * u - 1.0)), 0.86 - 0.3 * x));
        }
    }
    points.extend((0..4).map(|i| vec3(0.0, 0.12 - 0.08 * i as f32, 0.86 + 0.04 * i as f32)));
    points.extend((0..5).map(|i| vec3(-0.14 + 0.07 * i as f32, -0.22, 0.88)));
    for s in [-1.0, 1.0] {
        for i in 0..6 {
            let (up, along) = sin_cos(TURN * (0.5 - i as f32 / 6.0));
            points.push(vec3(0.34 * s + 0.185 * along, 0.06 + 0.13 * up, 0.80));
        }
    }
    for (n, a, b) in [(12, 0.27, 0.085), (8, 0.19, 0.03)] {
        for i in 0..n {
            let (up, along) = sin_cos(TURN * (0.5 - i as f32 / n as f32));
            points.push(vec3(a * along, -0.47 + b * up, 0.76));
        }
    }
    points
}
