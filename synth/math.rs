//! Vectors, rotations and the few functions that pictures need, the same to the last bit on every machine.
//!
//! Only operations that IEEE 754 rounds exactly are used: + − × ÷, square root, floor and comparisons. Sine and cosine are
//! polynomials over these. The platform's `sin`, `exp` or `powf` differ between systems, so no source of this crate calls them.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// A point, a direction or a linear colour.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Vec3 {
    /// To the right of a person's spectator; red.
    pub x: f32,
    /// Up; green.
    pub y: f32,
    /// To the front; blue.
    pub z: f32,
}

/// Shorthand for a vector.
pub const fn vec3(x: f32, y: f32, z: f32) -> Vec3 {
    Vec3 { x, y, z }
}

impl Vec3 {
    /// The origin; black.
    pub const ZERO: Vec3 = vec3(0.0, 0.0, 0.0);
    /// Up.
    pub const UP: Vec3 = vec3(0.0, 1.0, 0.0);

    /// The same value three times.
    pub const fn all(v: f32) -> Vec3 {
        vec3(v, v, v)
    }

    /// Scalar product.
    pub fn dot(self, o: Vec3) -> f32 {
        self.x * o.x + self.y * o.y + self.z * o.z
    }

    /// Vector product.
    pub fn cross(self, o: Vec3) -> Vec3 {
        vec3(self.y * o.z - self.z * o.y, self.z * o.x - self.x * o.z, self.x * o.y - self.y * o.x)
    }

    /// Length.
    pub fn length(self) -> f32 {
        self.dot(self).sqrt()
    }

    /// The direction; the zero vector stays as it is.
    pub fn normalized(self) -> Vec3 {
        let l = self.length();
        if l > 0.0 { self / l } else { self }
    }

    /// Component by component.
    pub fn times(self, o: Vec3) -> Vec3 {
        vec3(self.x * o.x, self.y * o.y, self.z * o.z)
    }

    /// `self` at 0, `o` at 1.
    pub fn mix(self, o: Vec3, t: f32) -> Vec3 {
        self + (o - self) * t
    }

    /// Each component by a function.
    pub fn map(self, f: impl Fn(f32) -> f32) -> Vec3 {
        vec3(f(self.x), f(self.y), f(self.z))
    }
}

impl Add for Vec3 {
    type Output = Vec3;
    fn add(self, o: Vec3) -> Vec3 {
        vec3(self.x + o.x, self.y + o.y, self.z + o.z)
    }
}

impl AddAssign for Vec3 {
    fn add_assign(&mut self, o: Vec3) {
        *self = *self + o;
    }
}

impl Sub for Vec3 {
    type Output = Vec3;
    fn sub(self, o: Vec3) -> Vec3 {
        vec3(self.x - o.x, self.y - o.y, self.z - o.z)
    }
}

impl Mul<f32> for Vec3 {
    type Output = Vec3;
    fn mul(self, s: f32) -> Vec3 {
        vec3(self.x * s, self.y * s, self.z * s)
    }
}

impl Div<f32> for Vec3 {
    type Output = Vec3;
    fn div(self, s: f32) -> Vec3 {
        self * (1.0 / s)
    }
}

impl Neg for Vec3 {
    type Output = Vec3;
    fn neg(self) -> Vec3 {
        vec3(-self.x, -self.y, -self.z)
    }
}

/// Three orthogonal unit axes of a local frame, in the coordinates of the world.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axes {
    /// Local x.
    pub x: Vec3,
    /// Local y.
    pub y: Vec3,
    /// Local z.
    pub z: Vec3,
}

impl Axes {
    /// Those of the world.
    pub const WORLD: Axes = Axes { x: vec3(1.0, 0.0, 0.0), y: Vec3::UP, z: vec3(0.0, 0.0, 1.0) };

    /// A rotation about local x: y turns to z. Radians.
    pub fn turn_x(angle: f32) -> Axes {
        let (s, c) = sin_cos(angle);
        Axes { x: vec3(1.0, 0.0, 0.0), y: vec3(0.0, c, s), z: vec3(0.0, -s, c) }
    }

    /// A rotation about local y: z turns to x.
    pub fn turn_y(angle: f32) -> Axes {
        let (s, c) = sin_cos(angle);
        Axes { x: vec3(c, 0.0, -s), y: Vec3::UP, z: vec3(s, 0.0, c) }
    }

    /// A rotation about local z: x turns to y.
    pub fn turn_z(angle: f32) -> Axes {
        let (s, c) = sin_cos(angle);
        Axes { x: vec3(c, s, 0.0), y: vec3(-s, c, 0.0), z: vec3(0.0, 0.0, 1.0) }
    }

    /// A local direction in the world.
    pub fn out(&self, v: Vec3) -> Vec3 {
        self.x * v.x + self.y * v.y + self.z * v.z
    }

    /// A direction of the world in the local frame.
    pub fn local(&self, v: Vec3) -> Vec3 {
        vec3(self.x.dot(v), self.y.dot(v), self.z.dot(v))
    }

    /// `inner`, which is given in this frame, in the world.
    pub fn then(&self, inner: Axes) -> Axes {
        Axes { x: self.out(inner.x), y: self.out(inner.y), z: self.out(inner.z) }
    }

    /// Axes with the given y, and z as near as possible to `front`.
    pub fn along(y: Vec3, front: Vec3) -> Axes {
        let y = y.normalized();
        let mut z = front - y * front.dot(y);
        if z.length() < 1e-4 {
            let other = if y.x.abs() < 0.9 { vec3(1.0, 0.0, 0.0) } else { vec3(0.0, 0.0, 1.0) };
            z = other - y * other.dot(y);
        }
        let z = z.normalized();
        Axes { x: y.cross(z), y, z }
    }
}

/// A frame: where its origin is, and its axes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// The origin, in the world.
    pub at: Vec3,
    /// The axes.
    pub axes: Axes,
}

impl Frame {
    /// A local point in the world.
    pub fn out(&self, p: Vec3) -> Vec3 {
        self.at + self.axes.out(p)
    }

    /// A point of the world in the frame.
    pub fn local(&self, p: Vec3) -> Vec3 {
        self.axes.local(p - self.at)
    }
}

/// π.
pub const PI: f32 = std::f32::consts::PI;
/// A whole turn, in radians.
pub const TURN: f32 = 2.0 * PI;

/// Degrees in radians.
pub const fn degrees(d: f32) -> f32 {
    d * (PI / 180.0)
}

/// Sine and cosine: Taylor polynomials of degree 13 over ±π/2 in f64, within 1e-9, then rounded.
pub fn sin_cos(angle: f32) -> (f32, f32) {
    (sine(f64::from(angle)) as f32, sine(f64::from(angle) + std::f64::consts::FRAC_PI_2) as f32)
}

/// Sine, as [`sin_cos`].
pub fn sin(angle: f32) -> f32 {
    sine(f64::from(angle)) as f32
}

fn sine(x: f64) -> f64 {
    use std::f64::consts::{PI, TAU};
    let r = x - (x / TAU + 0.5).floor() * TAU; // −π ≤ r ≤ π
    let r = if r > PI / 2.0 {
        PI - r
    } else if r < -PI / 2.0 {
        -PI - r
    } else {
        r
    };
    let q = r * r;
    let inverse = [1.0, -6.0, 120.0, -5040.0, 362_880.0, -39_916_800.0, 6_227_020_800.0];
    r * inverse.iter().rev().fold(0.0, |sum, f| sum * q + 1.0 / f)
}

/// Between 0 and 1.
pub fn clamp01(x: f32) -> f32 {
    x.clamp(0.0, 1.0)
}

/// `a` at 0, `b` at 1.
pub fn mix(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// 0 below `a`, 1 above `b`, `3u² − 2u³` between them; `a > b` falls instead.
pub fn smoothstep(a: f32, b: f32, x: f32) -> f32 {
    let u = clamp01((x - a) / (b - a));
    u * u * (3.0 - 2.0 * u)
}

/// The part behind the point: `x − ⌊x⌋`.
pub fn fract(x: f32) -> f32 {
    x - x.floor()
}

/// The lesser of two, with its corner rounded over a width of `k` (quadratic polynomial, C1).
pub fn smooth_min(a: f32, b: f32, k: f32) -> f32 {
    let h = (k - (a - b).abs()).max(0.0);
    a.min(b) - h * h / (4.0 * k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sine_is_sine() {
        for i in -4000..4000 {
            let x = i as f32 * 0.01;
            assert!((f64::from(sin(x)) - f64::from(x).sin()).abs() < 1e-7, "{x}");
            assert!((f64::from(sin_cos(x).1) - f64::from(x).cos()).abs() < 1e-7, "{x}");
        }
    }

    #[test]
    fn axes_stay_orthogonal() {
        let a = Axes::turn_x(0.4).then(Axes::turn_z(1.3)).then(Axes::turn_y(-2.0));
        let b = Axes::along(vec3(0.3, -2.0, 0.7), a.z);
        for axes in [a, b] {
            assert!((axes.x.cross(axes.y) - axes.z).length() < 1e-5);
            let v = vec3(0.1, 0.2, 0.3);
            assert!((axes.local(axes.out(v)) - v).length() < 1e-5);
        }
    }
}
