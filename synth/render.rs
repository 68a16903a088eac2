//! From a person in a scene to pictures: colour, normals, depth, parts, coordinates on the body.
//!
//! Rays march over the distance field of the few shapes that each may meet. Four rays a pixel, on a rotated grid.

use crate::body::Body;
use crate::identity::Identity;
use crate::math::{Vec3, clamp01, mix, smoothstep, vec3};
use crate::nocs::Coordinates;
use crate::paint::Paint;
use crate::pose::Skeleton;
use crate::random::scramble;
use crate::scene::{Camera, Look, Scene};
use crate::shape::{Material, Part, nearest};

/// Pixels in rows, three bytes each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green, blue.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// A black picture.
    pub fn black(width: usize, height: usize) -> Picture {
        Picture { width, height, pixels: vec![0; 3 * width * height] }
    }

    /// Sets a pixel.
    pub fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        let i = 3 * (y * self.width + x);
        self.pixels[i..i + 3].copy_from_slice(&colour);
    }
}

/// What a frame shows, and what is true of it.
#[derive(Clone, Debug)]
pub struct Maps {
    /// The picture.
    pub colour: Picture,
    /// Normals towards the camera: x right, y up, z to the spectator, each as `n/2 + 1/2`; black where nobody is.
    pub normal: Picture,
    /// Nearness: 255 at the nearest pixel of the person, 38 at the farthest, 0 where nobody is.
    pub depth: Picture,
    /// Parts in the colours of [`Part::COLOURS`].
    pub semantic_map: Picture,
    /// Places on the body: x to its left, y up, z to its front, in the cube of a person who stands with arms and legs spread.
    pub nocs: Picture,
    /// Distance of the surface in each pixel, in metres; infinite where nobody is.
    pub distance: Vec<f32>,
}

/// Everything a frame is made of.
pub struct Shot<'a> {
    /// The person.
    pub who: &'a Identity,
    /// The bones.
    pub bones: &'a Skeleton,
    /// Light and surroundings.
    pub scene: &'a Scene,
    /// The camera.
    pub camera: Camera,
    /// Seed of the camera's noise.
    pub noise: u64,
}

/// Pixels of a tile, along one side.
const TILE: usize = 8;
/// Places of the rays in a pixel.
const RAYS: [(f32, f32); 4] = [(0.125, 0.625), (0.375, 0.125), (0.625, 0.875), (0.875, 0.375)];
/// Depth of the farthest pixel of a person in the depth map.
const FAR: f32 = 0.15;

/// Where a ray meets the body.
struct Hit {
    at: f32,
    shape: u16,
}

/// What a camera sees where nobody is; for one that stands still, computed once.
#[derive(Clone, Debug)]
pub struct Backdrop {
    extents: (usize, usize),
    pixels: Vec<(Vec3, Option<Vec3>)>,
}

/// Sums over the rays of a pixel.
#[derive(Default)]
struct Sum {
    colour: Vec3,
    normal: Vec3,
    depth: f32,
    hits: f32,
    /// What each ray met: the part, and the place on the body.
    met: [Option<(Part, Vec3)>; 4],
}

impl Shot<'_> {
    /// Renders the frame before a backdrop, at its size.
    pub fn render(&self, backdrop: &Backdrop) -> Maps {
        let (body, coordinates) = (Body::new(self.who, self.bones), Coordinates::new(self.who, self.bones));
        let (width, height) = backdrop.extents;
        let tiles = self.tiles(&body, width, height);
        let columns = width.div_ceil(TILE);
        let mut maps = Maps {
            colour: Picture::black(width, height),
            normal: Picture::black(width, height),
            depth: Picture::black(width, height),
            semantic_map: Picture::black(width, height),
            nocs: Picture::black(width, height),
            distance: vec![f32::INFINITY; width * height],
        };
        let mut depths = vec![(0.0, 0.0); width * height];
        for y in 0..height {
            for x in 0..width {
                let list = &tiles[(y / TILE) * columns + x / TILE];
                let i = y * width + x;
                let sum = self.pixel((&body, &coordinates), list, (x, y), (width, height), &backdrop.pixels[i]);
                maps.colour.set(x, y, self.developed(sum.colour / 4.0, (x, y), (width, height)));
                if sum.hits > 0.0 {
                    maps.normal.set(x, y, bytes(sum.normal / 4.0));
                    maps.distance[i] = sum.depth / sum.hits;
                    depths[i] = (sum.depth / sum.hits, sum.hits / 4.0);
                }
                if let Some((part, place)) = majority(&sum.met) {
                    maps.semantic_map.set(x, y, part.colour());
                    maps.nocs.set(x, y, bytes(place));
                }
            }
        }
        let near = depths.iter().filter(|d| d.1 > 0.0).fold(f32::MAX, |m, d| m.min(d.0));
        let far = depths.iter().filter(|d| d.1 > 0.0).fold(f32::MIN, |m, d| m.max(d.0));
        for (i, (depth, share)) in depths.into_iter().enumerate().filter(|(_, d)| d.1 > 0.0) {
            let v = mix(1.0, FAR, (depth - near) / (far - near).max(1e-4)) * share;
            maps.depth.set(i % width, i / width, bytes(Vec3::all(v)));
        }
        maps
    }

    fn ray(&self, x: f32, y: f32, (width, height): (usize, usize)) -> Vec3 {
        let h = height as f32;
        self.camera.ray((x - 0.5 * width as f32) / h, (0.5 * h - y) / h)
    }

    /// The scene without the person, at a size in pixels.
    pub fn backdrop(&self, width: usize, height: usize) -> Backdrop {
        let mut pixels = Vec::with_capacity(width * height);
        for y in 0..height {
            for x in 0..width {
                let (mut colour, mut floor) = (Vec3::ZERO, None);
                for (dx, dy) in RAYS {
                    let ray = self.ray(x as f32 + dx, y as f32 + dy, (width, height));
                    let (c, p) = self.scene.behind(self.camera.eye, ray);
                    colour += c / 4.0;
                    floor = floor.or(p);
                }
                pixels.push((colour, floor));
            }
        }
        Backdrop { extents: (width, height), pixels }
    }

    /// For each tile, the shapes whose bounds may show in it.
    fn tiles(&self, body: &Body, width: usize, height: usize) -> Vec<Vec<u16>> {
        let (columns, rows) = (width.div_ceil(TILE), height.div_ceil(TILE));
        let mut tiles = vec![Vec::new(); columns * rows];
        let (w, h) = (width as f32, height as f32);
        for (i, shape) in body.shapes.iter().enumerate() {
            let p = self.camera.project(shape.centre);
            let apart = p.z * p.z - shape.bound * shape.bound;
            let radius = if apart > 1e-3 { 1.15 * h * self.camera.focal * shape.bound / apart.sqrt() } else { w + h };
            let (x, y) = (0.5 * w + p.x * h, 0.5 * h - p.y * h);
            let range = |middle: f32, n: usize| {
                let tile = |v: f32| (v / TILE as f32).floor().clamp(-1.0, n as f32);
                (tile(middle - radius).max(0.0) as usize, (tile(middle + radius) + 1.0).clamp(0.0, n as f32) as usize)
            };
            let (xs, ys) = (range(x, columns), range(y, rows));
            for ty in ys.0..ys.1 {
                for tx in xs.0..xs.1 {
                    tiles[ty * columns + tx].push(i as u16);
                }
            }
        }
        tiles
    }

    fn pixel(
        &self,
        (body, coordinates): (&Body, &Coordinates<'_>),
        list: &[u16],
        (x, y): (usize, usize),
        extents: (usize, usize),
        behind: &(Vec3, Option<Vec3>),
    ) -> Sum {
        let mut sum = Sum::default();
        let mut ground: Option<Vec3> = None;
        let mut local = Vec::new();
        for (i, (dx, dy)) in RAYS.into_iter().enumerate() {
            let hit = if list.is_empty() {
                None
            } else {
                let ray = self.ray(x as f32 + dx, y as f32 + dy, extents);
                self.march(body, list, &mut local, ray).map(|hit| (ray, hit))
            };
            match hit {
                Some((ray, hit)) => {
                    let p = self.camera.eye + ray * hit.at;
                    let normal = self.normal(body, &local, p, ray);
                    sum.colour += self.shade(body, &local, &hit, p, normal, ray);
                    sum.normal += self.camera.axes.local(normal) * 0.5 + Vec3::all(0.5);
                    sum.depth += hit.at * -self.camera.axes.local(ray).z;
                    sum.hits += 1.0;
                    let shape = &body.shapes[hit.shape as usize];
                    sum.met[i] = Some((shape.part, coordinates.at(shape, p)));
                }
                None => {
                    sum.colour += *ground.get_or_insert_with(|| match behind.1 {
                        Some(p) => behind.0 * mix(self.scene.shade(), 1.0, self.floor_light(body, p)),
                        None => behind.0,
                    });
                }
            }
        }
        sum
    }

    /// Sphere tracing (Hart, 1996) over the shapes that the ray may meet, which are left in `local`.
    fn march(&self, body: &Body, list: &[u16], local: &mut Vec<u16>, ray: Vec3) -> Option<Hit> {
        local.clear();
        let (mut t, mut end) = (f32::MAX, f32::MIN);
        for &i in list {
            if let Some((from, to)) = body.shapes[i as usize].interval(self.camera.eye, ray) {
                local.push(i);
                (t, end) = (t.min(from), end.max(to));
            }
        }
        t = t.max(0.05);
        for _ in 0..40 {
            if t > end {
                return None;
            }
            let (d, shape) = nearest(&body.shapes, local, self.camera.eye + ray * t);
            if d < 4e-4 {
                return Some(Hit { at: t, shape });
            }
            t += d.max(6e-4);
        }
        None
    }

    /// Gradient of the distance over the corners of a tetrahedron.
    fn normal(&self, body: &Body, local: &[u16], p: Vec3, ray: Vec3) -> Vec3 {
        const E: f32 = 8e-4;
        let corners = [vec3(1.0, -1.0, -1.0), vec3(-1.0, -1.0, 1.0), vec3(-1.0, 1.0, -1.0), vec3(1.0, 1.0, 1.0)];
        let sum = corners.iter().fold(Vec3::ZERO, |s, c| s + *c * nearest(&body.shapes, local, p + *c * E).0);
        let n = sum.normalized();
        // A visible surface faces the ray; rounding may say otherwise at the silhouette.
        let away = n.dot(ray);
        if away > 0.0 { (n - ray * (away * 1.001)).normalized() } else { n }
    }

    fn shade(&self, body: &Body, local: &[u16], hit: &Hit, p: Vec3, n: Vec3, ray: Vec3) -> Vec3 {
        let scene = self.scene;
        let paint = Paint { who: self.who, bones: self.bones, look: scene.look };
        let surface = paint.at(&body.shapes[hit.shape as usize], p);
        let facing = -n.dot(ray);
        let soft = if scene.look == Look::Real { 0.12 } else { 0.3 };
        let lambert = clamp01((n.dot(scene.key) + soft) / (1.0 + soft));
        let light =
            if lambert > 0.0 { lambert * light_through(body, p + n * 0.025, scene.key, scene.softness) } else { 0.0 };
        let (near, _) = nearest(&body.shapes, local, p + n * 0.045);
        let open = clamp01(near / 0.045);
        // Faces are small and must be read: their folds stay light.
        let is_face = body.shapes[hit.shape as usize].material == Material::Face;
        let open = if is_face { mix(0.8, 1.0, open) } else { mix(0.45, 1.0, open) };
        let floor = 0.75 + 0.25 * smoothstep(0.0, 0.35, p.y);
        let up = 0.5 + 0.5 * n.y;
        let ambient = scene.ambient[1].mix(scene.ambient[0], up) * (open * floor);
        let mut colour = surface.colour.times(scene.key_colour * light + ambient);
        let half = (scene.key - ray).normalized();
        let shine = n.dot(half).max(0.0);
        let shine = shine * shine;
        let shine = shine * shine * shine * shine;
        let shine = shine * shine * shine;
        colour += scene.key_colour * (surface.gloss * shine * light);
        // Grazing light: a little brighter sky at the edge, then the dark that parts a figure from what is behind it.
        let rim = 1.0 - clamp01(facing);
        let rim = rim * rim * rim;
        colour + surface.colour.times(scene.ambient[0]) * (0.55 * rim * up) - colour * (0.30 * rim)
    }

    /// Share of the key light that reaches a place on the floor.
    fn floor_light(&self, body: &Body, p: Vec3) -> f32 {
        let q = p - self.bones.pelvis.at;
        if q.x * q.x + q.z * q.z > 6.5 {
            return 1.0;
        }
        let direct = light_through(body, p, self.scene.key, self.scene.softness);
        // Shoes press darkness to the ground whatever the light.
        let mut contact: f32 = 1.0;
        for leg in &self.bones.legs {
            let middle = leg.foot.at.mix(leg.toe, 0.5);
            let d = vec3(p.x - middle.x, 0.0, p.z - middle.z).length();
            let high = smoothstep(0.25, 0.05, middle.y);
            contact *= 1.0 - 0.55 * high * smoothstep(0.24, 0.03, d);
        }
        direct * contact
    }

    /// Linear light to bytes, with what a camera adds in the real look: shoulders, a darker rim, grain.
    fn developed(&self, light: Vec3, (x, y): (usize, usize), (width, height): (usize, usize)) -> [u8; 3] {
        let curve = |v: f32| {
            let v = v.max(0.0);
            // Straight up to ½, then bent towards 1.
            if v < 0.5 { v } else { 0.5 + 0.5 * (v - 0.5) / (v - 0.5 + 0.5) }
        };
        if self.scene.look == Look::Synthetic {
            return bytes(light.map(curve).map(f32::sqrt));
        }
        let (u, v) = (2.0 * x as f32 / width as f32 - 1.0, 2.0 * y as f32 / height as f32 - 1.0);
        let light = light * (1.0 - 0.10 * (u * u + v * v));
        let shown = light.map(curve).map(f32::sqrt);
        let bits = scramble(self.noise ^ ((y * width + x) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let grain = |shift: u32| {
            // The sum of two bytes: a triangle.
            let pair = ((bits >> shift) & 255) as f32 + ((bits >> (shift + 8)) & 255) as f32;
            (pair / 255.0 - 1.0) * 0.014
        };
        bytes(shown + vec3(grain(0), grain(16), grain(32)))
    }
}

/// Share of a light that passes the limbs on its way to a point: capsules with a penumbra that widens with distance.
fn light_through(body: &Body, p: Vec3, light: Vec3, softness: f32) -> f32 {
    let mut share: f32 = 1.0;
    for c in &body.blockers {
        let (from, axis) = (vec3(c[0], c[1], c[2]) - p, vec3(c[3] - c[0], c[4] - c[1], c[5] - c[2]));
        let (aa, al, fl, fa) = (axis.dot(axis), axis.dot(light), from.dot(light), from.dot(axis));
        let s = ((al * fl - fa) / (aa - al * al).max(1e-6)).clamp(0.0, 1.0);
        let nearest = from + axis * s;
        let along = nearest.dot(light);
        if along < 0.06 {
            continue;
        }
        let aside = (nearest - light * along).length() - c[6];
        let width = 0.012 + 0.5 * softness * along;
        share *= smoothstep(-0.6 * width, width, aside);
        if share < 0.004 {
            return 0.0;
        }
    }
    share
}

fn bytes(v: Vec3) -> [u8; 3] {
    let one = |x: f32| (255.0 * x + 0.5).clamp(0.0, 255.0) as u8;
    [one(v.x), one(v.y), one(v.z)]
}

/// The part that most rays met, if half of them met any, and the mean of their places on it: means over two parts are on neither.
fn majority(met: &[Option<(Part, Vec3)>; 4]) -> Option<(Part, Vec3)> {
    let of = |p: Part| met.iter().flatten().filter(move |(q, _)| *q == p).map(|(_, place)| *place);
    let (best, _) = *met.iter().flatten().max_by_key(|(p, _)| of(*p).count())?;
    let sum = of(best).fold(Vec3::ZERO, |sum, place| sum + place);
    (met.iter().flatten().count() >= 2).then_some((best, sum / of(best).count() as f32))
}
