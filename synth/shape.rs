//! Shapes that bodies are made of: round cones, stretched along their axes, that melt into their neighbours.

use crate::math::{Frame, Vec3, smooth_min, vec3};

/// Parts of a body, as the semantic map tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Part {
    Head,
    Neck,
    Chest,
    Hips,
    LeftUpperArm,
    RightUpperArm,
    LeftForearm,
    RightForearm,
    LeftHand,
    RightHand,
    LeftThigh,
    RightThigh,
    LeftCalf,
    RightCalf,
    LeftFoot,
    RightFoot,
}

impl Part {
    /// All of them, in the order of [`Part::COLOURS`].
    pub const ALL: [Part; 16] = [
        Part::Head,
        Part::Neck,
        Part::Chest,
        Part::Hips,
        Part::LeftUpperArm,
        Part::RightUpperArm,
        Part::LeftForearm,
        Part::RightForearm,
        Part::LeftHand,
        Part::RightHand,
        Part::LeftThigh,
        Part::RightThigh,
        Part::LeftCalf,
        Part::RightCalf,
        Part::LeftFoot,
        Part::RightFoot,
    ];

    /// Their colours in the semantic map; what is nobody's is black.
    pub const COLOURS: [[u8; 3]; 16] = [
        [240, 60, 60],
        [240, 150, 60],
        [240, 230, 60],
        [150, 220, 60],
        [60, 200, 90],
        [60, 200, 180],
        [60, 160, 240],
        [60, 90, 240],
        [120, 60, 240],
        [200, 60, 240],
        [240, 60, 200],
        [240, 60, 130],
        [150, 90, 60],
        [90, 120, 60],
        [170, 170, 170],
        [250, 250, 250],
    ];

    /// Its colour in the semantic map.
    pub fn colour(self) -> [u8; 3] {
        Part::COLOURS[self as usize]
    }
}

/// What a surface is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Material {
    Skin,
    Face,
    Hair,
    Top,
    Bottom,
    Shoe,
    Glasses,
}

/// A round cone along local −y, from the origin (radius `r0`) over `length` (radius `r1`).
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Where it is.
    pub frame: Frame,
    /// How far the cone is pulled in x, y and z; divided out before distances are taken.
    pub stretch: Vec3,
    /// Between the centres of its ends, before stretching.
    pub length: f32,
    /// Radius at the origin, before stretching.
    pub r0: f32,
    /// Radius at the other end.
    pub r1: f32,
    /// A plane in local coordinates that cuts it: what has `n · p > d` is left out.
    pub cut: Option<(Vec3, f32)>,
    /// Shapes of one group melt into each other; groups stand side by side in the list of a body.
    pub group: u8,
    /// Over what width they melt.
    pub melt: f32,
    /// The part of the body.
    pub part: Part,
    /// What it is made of.
    pub material: Material,
    /// Middle of a ball round it.
    pub centre: Vec3,
    /// Radius of that ball, with what melting may reach: a neighbour bends a surface that it does not touch.
    pub bound: f32,
    /// The other end of the axis, in the world.
    pub end: Vec3,
    /// Radius of a capsule round the axis.
    pub reach: f32,
    /// The least of the stretches: distances scale with it.
    scale: f32,
    /// `1 / stretch`.
    shrink: Vec3,
    slope: [f32; 2],
}

impl Shape {
    /// A shape of unit stretch.
    pub fn new(frame: Frame, length: f32, r0: f32, r1: f32, part: Part, material: Material) -> Shape {
        let shape = Shape {
            frame,
            stretch: Vec3::all(1.0),
            length,
            r0,
            r1,
            cut: None,
            group: 0,
            melt: 0.02,
            part,
            material,
            centre: frame.at,
            bound: 0.0,
            end: frame.at,
            reach: 0.0,
            scale: 1.0,
            shrink: Vec3::all(1.0),
            slope: [0.0; 2],
        };
        shape.settled()
    }

    /// The same, from one point to another; local z is as near as possible to `front`.
    pub fn between(a: Vec3, b: Vec3, front: Vec3, radii: [f32; 2], part: Part, material: Material) -> Shape {
        let axes = crate::math::Axes::along(a - b, front);
        Shape::new(Frame { at: a, axes }, (a - b).length(), radii[0], radii[1], part, material)
    }

    /// Pulled along its axes.
    pub fn stretched(mut self, x: f32, y: f32, z: f32) -> Shape {
        self.stretch = vec3(x, y, z);
        self.settled()
    }

    /// In a group, melting over a width.
    pub fn grouped(mut self, group: u8, melt: f32) -> Shape {
        (self.group, self.melt) = (group, melt);
        self.settled()
    }

    /// Cut by a plane.
    pub fn cut(mut self, normal: Vec3, at: f32) -> Shape {
        self.cut = Some((normal.normalized(), at));
        self
    }

    fn settled(mut self) -> Shape {
        let s = self.stretch;
        self.scale = s.x.min(s.y).min(s.z);
        self.shrink = s.map(|v| 1.0 / v);
        // An end that the other swallows leaves a ball.
        self.length = self.length.max((self.r0 - self.r1).abs() * 1.0001).max(1e-5);
        let b = (self.r0 - self.r1) / self.length;
        self.slope = [b, (1.0 - b * b).max(0.0).sqrt()];
        self.centre = self.frame.out(vec3(0.0, -0.5 * self.length * s.y, 0.0));
        let widest = s.x.max(s.y).max(s.z);
        self.reach = self.r0.max(self.r1) * widest + 0.75 * self.melt + 0.002;
        self.bound = 0.5 * self.length * s.y + self.reach;
        self.end = self.frame.out(vec3(0.0, -self.length * s.y, 0.0));
        self
    }

    /// Where a ray from `eye` may meet the shape: the nearest and the farthest distance, if at all.
    pub fn interval(&self, eye: Vec3, ray: Vec3) -> Option<(f32, f32)> {
        let to = self.centre - eye;
        let along = to.dot(ray);
        let within = self.bound * self.bound - (to.dot(to) - along * along);
        if within <= 0.0 {
            return None;
        }
        // How near the ray comes to the axis.
        let (from, axis) = (self.frame.at - eye, self.end - self.frame.at);
        let (aa, ar, fr, fa) = (axis.dot(axis), axis.dot(ray), from.dot(ray), from.dot(axis));
        let apart = (aa - ar * ar).max(1e-9);
        let s = ((ar * fr - fa) / apart).clamp(0.0, 1.0);
        let nearest = from + axis * s;
        let aside = nearest - ray * nearest.dot(ray);
        if aside.dot(aside) > self.reach * self.reach {
            return None;
        }
        let half = within.sqrt();
        Some((along - half, along + half))
    }

    /// Not more than the distance to the surface; negative inside.
    pub fn distance(&self, p: Vec3) -> f32 {
        let full = self.frame.local(p);
        let q = full.times(self.shrink);
        // Exact distance to a round cone (the profile is a segment between two circles).
        let (x, y) = ((q.x * q.x + q.z * q.z).sqrt(), -q.y);
        let [b, a] = self.slope;
        let k = a * y - b * x;
        let d = if k < 0.0 {
            (x * x + y * y).sqrt() - self.r0
        } else if k > a * self.length {
            let up = y - self.length;
            (x * x + up * up).sqrt() - self.r1
        } else {
            x * a + y * b - self.r0
        };
        let d = d * self.scale;
        match self.cut {
            Some((n, at)) => d.max(n.dot(full) - at),
            None => d,
        }
    }
}

/// The distance to the union of shapes and which of them is nearest; groups melt within themselves. `shapes` are
/// indices into `all`, with groups side by side.
pub fn nearest(all: &[Shape], shapes: &[u16], p: Vec3) -> (f32, u16) {
    let (mut best, mut which) = (f32::MAX, u16::MAX);
    let (mut melted, mut group, mut closest) = (f32::MAX, u8::MAX, f32::MAX);
    let mut owner = u16::MAX;
    for &i in shapes {
        let s = &all[i as usize];
        let d = s.distance(p);
        if s.group != group {
            if melted < best {
                (best, which) = (melted, owner);
            }
            (group, melted, closest, owner) = (s.group, d, d, i);
            continue;
        }
        melted = smooth_min(melted, d, s.melt);
        if d < closest {
            (closest, owner) = (d, i);
        }
    }
    if melted < best { (melted, owner) } else { (best, which) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Axes;

    #[test]
    fn a_round_cone_is_two_balls_and_what_lies_between() {
        let frame = Frame { at: vec3(0.0, 1.0, 0.0), axes: Axes::WORLD };
        let s = Shape::new(frame, 1.0, 0.3, 0.1, Part::Chest, Material::Top);
        let of = |x: f32, y: f32, z: f32| s.distance(vec3(x, y, z));
        assert!((of(0.0, 2.0, 0.0) - 0.7).abs() < 1e-5);
        assert!((of(0.0, -1.0, 0.0) - 0.9).abs() < 1e-5);
        // A ball of the interpolated radius touches the side: sin of the slope is 0.2.
        let d = of(1.0, 0.5, 0.0);
        let expected = (1..1000)
            .map(|i| i as f32 / 1000.0)
            .fold(f32::MAX, |m, u| m.min((1.0 + (0.5 - u) * (0.5 - u)).sqrt() - (0.3 - 0.2 * u)));
        assert!((d - expected).abs() < 1e-3, "{d} {expected}");
    }
}
