//! Where a person is: room, light and camera.

use crate::identity::Identity;
use crate::math::{Axes, TURN, Vec3, clamp01, degrees, fract, mix, sin, smoothstep, vec3};
use crate::random::{Random, cell, clouds, derive, noise};

/// How the world looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Textures, noise, varied light and background, a camera from many sides (that moves where it is asked to).
    Real,
    /// Plain colours, even light, a camera that stands still.
    Synthetic,
}

impl Look {
    /// The look of a name: `real` or `synthetic`.
    pub fn named(name: &str) -> Option<Look> {
        match name {
            "real" => Some(Look::Real),
            "synthetic" => Some(Look::Synthetic),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Look::Real => "real",
            Look::Synthetic => "synthetic",
        }
    }
}

/// A pinhole camera.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    /// Where it is.
    pub eye: Vec3,
    /// x to the right of the picture, y up, z back to the spectator.
    pub axes: Axes,
    /// Focal length in heights of the picture.
    pub focal: f32,
}

impl Camera {
    /// The ray through a point of the picture: x and y from −½ to ½ of its height, y up.
    pub fn ray(&self, x: f32, y: f32) -> Vec3 {
        self.axes.out(vec3(x, y, -self.focal)).normalized()
    }

    /// A point of the world: its place in the picture as for [`Camera::ray`], and its depth.
    pub fn project(&self, p: Vec3) -> Vec3 {
        let q = self.axes.local(p - self.eye);
        let depth = (-q.z).max(1e-3);
        vec3(q.x * self.focal / depth, q.y * self.focal / depth, depth)
    }
}

/// What is behind the person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Studio,
    Room,
    Tiles,
    Bricks,
    Park,
    Street,
}

/// Light and surroundings.
#[derive(Clone, Debug)]
pub struct Scene {
    /// How the world looks.
    pub look: Look,
    place: Place,
    seed: u32,
    wall: Vec3,
    wall_print: Vec3,
    floor: Vec3,
    floor_print: Vec3,
    /// Distance of the wall behind the person.
    back: f32,
    /// To the light.
    pub key: Vec3,
    /// Its linear colour.
    pub key_colour: Vec3,
    /// Light from above, and from below.
    pub ambient: [Vec3; 2],
    /// Width of the edge of shadows: 0 sharp.
    pub softness: f32,
    camera: Camera,
    shake: f32,
    drift: Vec3,
    phases: [f32; 3],
}

fn soft(random: &mut Random, low: f32, high: f32, colourful: f32) -> Vec3 {
    let v = random.range(low, high);
    let tint = vec3(random.bell(), random.bell(), random.bell()) * colourful;
    (Vec3::all(v) + tint * v).map(|c| c.clamp(0.01, 0.9))
}

impl Scene {
    /// The scene of a seed, with the camera set for a person.
    pub fn new(seed: u64, look: Look, who: &Identity) -> Scene {
        let r = &mut Random::new(derive(seed, 0x5CE));
        let real = look == Look::Real;
        let places = [Place::Studio, Place::Room, Place::Room, Place::Tiles, Place::Bricks, Place::Park, Place::Street];
        let place = if real { r.pick(&places) } else { Place::Studio };
        let vivid = if real { 0.45 } else { 0.6 };
        let wall = soft(r, 0.10, 0.62, vivid);
        let around = degrees(if real { r.range(-60.0, 60.0) } else { r.range(-25.0, 25.0) });
        let high = degrees(if real { r.range(32.0, 66.0) } else { 52.0 });
        let ((s, c), (up, flat)) = (crate::math::sin_cos(around), crate::math::sin_cos(high));
        let warm = if real { r.range(-0.16, 0.16) } else { 0.0 };
        let power = if real { r.range(0.75, 1.25) } else { 0.78 };
        let fill = if real { r.range(0.20, 0.42) } else { 0.46 };
        let mut scene = Scene {
            look,
            place,
            seed: r.bits() as u32,
            wall,
            wall_print: (wall * r.range(0.55, 0.85)).mix(soft(r, 0.1, 0.6, 0.5), 0.3),
            floor: if real { soft(r, 0.08, 0.42, 0.3) } else { wall * r.range(0.7, 0.95) },
            floor_print: soft(r, 0.05, 0.35, 0.3),
            back: r.range(1.3, 2.6),
            key: vec3(flat * s, up, flat * c),
            key_colour: vec3(1.0 + warm, 1.0, 1.0 - warm) * power,
            ambient: [vec3(0.92, 0.97, 1.08) * fill, vec3(1.0, 0.93, 0.86) * (0.55 * fill)],
            softness: if real { r.range(0.10, 0.35) } else { 0.4 },
            camera: Camera { eye: Vec3::ZERO, axes: Axes::WORLD, focal: 1.0 },
            shake: if real { r.unit() * r.unit() * 0.020 } else { 0.0 },
            drift: if real && r.chance(0.5) { vec3(r.bell(), 0.4 * r.bell(), r.bell()) * 0.16 } else { Vec3::ZERO },
            phases: [r.unit(), r.unit(), r.unit()],
        };
        scene.natural_colours(r);
        scene.aim(r, who);
        scene
    }

    fn natural_colours(&mut self, r: &mut Random) {
        match self.place {
            Place::Park => {
                self.floor = vec3(0.10, 0.20, 0.05) * r.range(0.7, 1.5);
                self.floor_print = vec3(0.16, 0.22, 0.07);
                self.wall = vec3(0.30, 0.50, 0.82).mix(vec3(0.75, 0.80, 0.86), r.unit());
                self.wall_print = vec3(0.05, 0.13, 0.05) * r.range(0.6, 1.5);
            }
            Place::Street => {
                self.floor = Vec3::all(r.range(0.10, 0.24));
                self.floor_print = Vec3::all(r.range(0.28, 0.5));
                self.wall = vec3(0.38, 0.54, 0.78).mix(vec3(0.8, 0.7, 0.6), 0.7 * r.unit());
            }
            Place::Bricks => {
                self.wall = vec3(0.33, 0.12, 0.075).mix(soft(r, 0.15, 0.5, 0.2), 0.6 * r.unit());
                self.wall_print = Vec3::all(r.range(0.25, 0.5));
            }
            Place::Room => self.floor = vec3(0.32, 0.19, 0.10).mix(soft(r, 0.1, 0.4, 0.2), 0.5 * r.unit()),
            _ => {}
        }
    }

    /// Sets the camera: the whole person, or down to the knees, with room for raised arms.
    fn aim(&mut self, r: &mut Random, who: &Identity) {
        let h = who.build.height;
        let real = self.look == Look::Real;
        let close = r.chance(0.22);
        let (low, high) = if close { (0.42 * h, 1.30 * h) } else { (-0.08 * h, 1.22 * h) };
        let focal = r.range(1.5, 2.3);
        let distance = (high - low) * focal * r.range(0.97, 1.06);
        let (around, lift) =
            if real { (r.range(-28.0, 28.0), r.range(-0.25, 0.55)) } else { (r.range(-12.0, 12.0), 0.1) };
        let middle = vec3(0.06 * r.bell(), 0.5 * (low + high), 0.0);
        let (s, c) = crate::math::sin_cos(degrees(around));
        let eye = middle + vec3(s * distance, lift, c * distance);
        let back = (eye - middle).normalized();
        let right = Vec3::UP.cross(back).normalized();
        self.camera = Camera { eye, axes: Axes { x: right, y: back.cross(right), z: back }, focal };
    }

    /// Fixes the camera where it begins.
    pub(crate) fn hold_still(&mut self) {
        (self.shake, self.drift) = (0.0, Vec3::ZERO);
    }

    /// Whether the camera stands still.
    pub fn is_still(&self) -> bool {
        self.shake == 0.0 && self.drift == Vec3::ZERO
    }

    /// The camera after so many seconds.
    pub fn camera(&self, time: f32) -> Camera {
        if self.is_still() {
            return self.camera;
        }
        let wave = |i: usize, period: f32| {
            let at = |p: f32| sin(TURN * (time / p + self.phases[i]));
            at(period) + 0.5 * at(0.43 * period)
        };
        let start = self.camera;
        let sway = vec3(wave(0, 1.9), wave(1, 1.4), 0.0) * self.shake;
        let eye = start.eye + start.axes.out(sway + self.drift * time.min(8.0));
        // It keeps looking at about the same place.
        let target =
            start.eye - start.axes.z * 2.5 + start.axes.out(vec3(wave(2, 2.3), wave(0, 2.9), 0.0) * (0.5 * self.shake));
        let back = (eye - target).normalized();
        let right = Vec3::UP.cross(back).normalized();
        Camera { eye, axes: Axes { x: right, y: back.cross(right), z: back }, focal: start.focal }
    }

    /// What a ray meets behind the person: its linear colour without shadows, and the place if it is on the floor.
    pub fn behind(&self, eye: Vec3, ray: Vec3) -> (Vec3, Option<Vec3>) {
        let to_floor = if ray.y < -1e-4 { -eye.y / ray.y } else { f32::MAX };
        let wall = self.wall_distance(eye, ray);
        if to_floor < wall {
            let p = eye + ray * to_floor;
            let far = smoothstep(5.0, 16.0, to_floor);
            let lit = self.lit(self.floor_at(p, to_floor), Vec3::UP);
            let horizon = self.sky(vec3(ray.x, 0.02, ray.z));
            return (if self.is_outside() { lit.mix(horizon, far) } else { lit }, Some(p));
        }
        if self.is_outside() {
            return (self.sky(ray), None);
        }
        let p = eye + ray * wall;
        if self.place == Place::Studio {
            // Floor and wall run into each other.
            let t = smoothstep(0.0, 0.55, p.y);
            let near = self.lit(self.floor_at(vec3(p.x, 0.0, -self.back), wall), Vec3::UP);
            return (near.mix(self.lit(self.wall_at(p), vec3(0.0, 0.0, 1.0)), t), None);
        }
        (self.lit(self.wall_at(p), vec3(0.0, 0.0, 1.0)), None)
    }

    fn wall_distance(&self, eye: Vec3, ray: Vec3) -> f32 {
        if self.is_outside() || ray.z > -1e-4 { f32::MAX } else { (-self.back - eye.z) / ray.z }
    }

    fn is_outside(&self) -> bool {
        matches!(self.place, Place::Park | Place::Street)
    }

    /// Light that falls on a matt surface where nothing is in the way.
    fn lit(&self, colour: Vec3, normal: Vec3) -> Vec3 {
        let up = 0.5 + 0.5 * normal.y;
        let ambient = self.ambient[1].mix(self.ambient[0], up);
        colour.times(self.key_colour * (0.75 * self.key.dot(normal).max(0.0)) + ambient)
    }

    /// The share of light that is left in full shadow on the floor.
    pub fn shade(&self) -> f32 {
        let ambient = self.ambient[0].y;
        ambient / (ambient + 0.75 * self.key.y * self.key_colour.y)
    }

    fn floor_at(&self, p: Vec3, distance: f32) -> Vec3 {
        let s = self.seed;
        let flat = vec3(p.x, 0.0, p.z);
        let fade = 1.0 / (1.0 + 0.02 * distance * distance);
        match self.place {
            Place::Studio if self.look == Look::Synthetic => self.floor,
            Place::Studio => self.floor * (0.93 + 0.14 * clouds(s, flat * 3.0, 3)),
            Place::Room => {
                let row = (p.x / 0.16).floor();
                let shift = cell(s, row as i32, 3);
                let plank = cell(s, row as i32, (p.z / 1.1 + 3.0 * shift).floor() as i32);
                let grain = noise(s, vec3(p.x * 38.0, 0.0, p.z * 2.5)) - 0.5;
                let gap = smoothstep(0.0, 0.05, (fract(p.x / 0.16) - 0.5).abs() - 0.44) * fade;
                self.floor * ((0.82 + 0.36 * plank + 0.22 * grain) * (1.0 - 0.45 * gap))
            }
            Place::Tiles => {
                let (u, v) = (p.x / 0.4, p.z / 0.4);
                let odd = (u.floor() as i32 + v.floor() as i32).rem_euclid(2) == 1;
                let tile = if odd { self.floor } else { self.floor.mix(self.floor_print, 0.75) };
                let line = (fract(u) - 0.5).abs().max((fract(v) - 0.5).abs());
                tile * (1.0 - 0.4 * fade * smoothstep(0.46, 0.49, line)) * (0.94 + 0.12 * noise(s, flat * 7.0))
            }
            Place::Park => {
                let blades = clouds(s, vec3(p.x * 9.0, 0.0, p.z * 6.0), 3);
                let bare = smoothstep(0.55, 0.75, clouds(s ^ 5, flat * 0.7, 2));
                (self.floor * (0.55 + 0.9 * blades)).mix(self.floor_print * (0.7 + 0.5 * blades), bare)
            }
            Place::Street | Place::Bricks => {
                let rough = clouds(s, flat * 14.0, 2);
                let (u, v) = (p.x / 0.8, p.z / 0.8);
                let line = (fract(u) - 0.5).abs().max((fract(v) - 0.5).abs());
                self.floor * (0.78 + 0.44 * rough) * (1.0 - 0.35 * fade * smoothstep(0.475, 0.49, line))
            }
        }
    }

    fn wall_at(&self, p: Vec3) -> Vec3 {
        let s = self.seed;
        let broad = if self.look == Look::Real { 0.90 + 0.2 * clouds(s, vec3(p.x, p.y, 0.0) * 0.9, 2) } else { 1.0 };
        match self.place {
            Place::Bricks => {
                let row = (p.y / 0.085).floor();
                let u = p.x / 0.25 + if row as i32 % 2 == 0 { 0.0 } else { 0.5 };
                let brick = cell(s, u.floor() as i32, row as i32);
                let (du, dv) = (0.5 - (fract(u) - 0.5).abs(), 0.5 - (fract(p.y / 0.085) - 0.5).abs());
                let mortar = 1.0 - smoothstep(0.02, 0.07, du) * smoothstep(0.06, 0.17, dv);
                (self.wall * (0.72 + 0.5 * brick)).mix(self.wall_print, 0.8 * mortar) * broad
            }
            Place::Room => self.papered(p) * broad,
            Place::Tiles => {
                let (u, v) = (p.x / 0.3, p.y / 0.15);
                let line = (0.5 - (fract(u) - 0.5).abs()) * 0.3;
                let line = line.min((0.5 - (fract(v) - 0.5).abs()) * 0.15);
                let tile = 0.9 + 0.16 * cell(s, u.floor() as i32, v.floor() as i32);
                self.wall * (tile * broad * mix(0.72, 1.0, smoothstep(0.0, 0.014, line)))
            }
            _ => self.wall * broad,
        }
    }

    /// A wall with a skirting board, paper or panels, and a picture.
    fn papered(&self, p: Vec3) -> Vec3 {
        let s = self.seed;
        if p.y < 0.11 {
            return Vec3::all(0.62) * (1.0 - 0.3 * smoothstep(0.09, 0.11, p.y));
        }
        let mut colour = self.wall;
        match s % 4 {
            0 => colour = colour.mix(self.wall_print, smoothstep(0.30, 0.34, (fract(p.x / 0.3) - 0.5).abs())),
            1 => colour = if p.y < 0.95 { self.wall_print } else { colour },
            2 => {
                let (u, v) = (fract(p.x / 0.22) - 0.5, fract(p.y / 0.22 + 0.5 * (p.x / 0.22).floor()) - 0.5);
                colour = colour.mix(self.wall_print, 1.0 - smoothstep(0.03, 0.06, u * u + v * v));
            }
            _ => {}
        }
        // A framed picture, or a window.
        let middle = 1.5 * (cell(s, 1, 1) - 0.5);
        let (w, h) = (0.28 + 0.25 * cell(s, 2, 2), 0.25 + 0.2 * cell(s, 3, 3));
        let (u, v) = ((p.x - middle).abs() / w, (p.y - 1.45).abs() / h);
        let inside = u.max(v);
        if inside < 1.0 && !s.is_multiple_of(3) {
            let frame = smoothstep(0.86, 0.9, inside);
            let art = self.floor_print.mix(self.wall_print, clouds(s ^ 9, vec3(p.x * 5.0, p.y * 5.0, 0.0), 3));
            colour = (art * 1.5).mix(vec3(0.09, 0.07, 0.05), frame);
        }
        colour
    }

    fn sky(&self, ray: Vec3) -> Vec3 {
        let flat = (ray.x * ray.x + ray.z * ray.z).sqrt().max(1e-3);
        let (up, aside) = (ray.y / flat, ray.x / (-ray.z).max(0.05));
        let high = clamp01(up * 1.6);
        let mist = self.wall.mix(Vec3::all(0.85), 0.55);
        let cloud = smoothstep(0.5, 0.8, clouds(self.seed, vec3(aside * 3.0, up * 8.0, 0.0), 4));
        let sky = mist.mix(self.wall, high).mix(Vec3::all(0.9), 0.6 * cloud * smoothstep(0.02, 0.2, up));
        if self.place == Place::Street {
            return self.houses(sky, aside, up);
        }
        let ridge = 0.05 + 0.16 * clouds(self.seed ^ 3, vec3(aside * 2.2, 0.0, 0.0), 4);
        let leaves = 0.6 + 0.8 * clouds(self.seed ^ 4, vec3(aside * 22.0, up * 26.0, 0.0), 3);
        let trees = (self.wall_print * leaves).mix(mist, 0.18);
        sky.mix(trees, smoothstep(0.012, -0.012, up - ridge - 0.02 * leaves))
    }

    fn houses(&self, sky: Vec3, aside: f32, up: f32) -> Vec3 {
        let s = self.seed;
        let wide = 0.36;
        let n = (aside / wide).floor();
        let roof = 0.22 + 0.5 * cell(s, n as i32, 9);
        if up > roof {
            return sky;
        }
        let tone = cell(s, n as i32, 4);
        let front = self.wall_print.mix(vec3(0.45, 0.30, 0.22), tone) * (0.5 + 0.6 * cell(s, n as i32, 6));
        let (u, v) = (fract(aside / wide) * 4.0, up / 0.09);
        let pane = (fract(u) - 0.5).abs().max((fract(v) - 0.55).abs() * 0.8);
        let glass = vec3(0.10, 0.13, 0.17).mix(sky, 0.35 * cell(s, (n * 4.0 + u.floor()) as i32, v.floor() as i32));
        let window = smoothstep(0.30, 0.26, pane) * smoothstep(0.05, 0.07, up);
        front.mix(glass, window).mix(sky, 0.12)
    }
}
