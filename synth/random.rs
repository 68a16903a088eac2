//! Random numbers and noise, the same on every machine.

use crate::math::Vec3;

/// Scrambles 64 bits (the finaliser of SplitMix64: Steele, Lea, Flood, 2014).
pub fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A seed from a seed and a purpose: streams of different purposes are independent.
pub fn derive(seed: u64, purpose: u64) -> u64 {
    scramble(scramble(seed.wrapping_add(0x9E37_79B9_7F4A_7C15)) ^ purpose.wrapping_mul(0xD1B5_4A32_D192_ED03))
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A stream.
    pub fn new(seed: u64) -> Random {
        Random(scramble(seed))
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        scramble(self.0)
    }

    /// Uniform in [0, 1), of 24 bits.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 24) as f32
    }

    /// Uniform between two numbers.
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Around 0, at most 1 in size, nearer to 0 more often: the mean of three uniform numbers.
    pub fn bell(&mut self) -> f32 {
        (self.range(-1.0, 1.0) + self.range(-1.0, 1.0) + self.range(-1.0, 1.0)) / 3.0
    }

    /// Whether something happens that has this probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// Uniform below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// One of a list that is not empty.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

fn lattice(seed: u32, x: i32, y: i32, z: i32) -> f32 {
    let mut h = seed ^ (x as u32).wrapping_mul(0x8DA6_B343) ^ (y as u32).wrapping_mul(0xD816_3841);
    h ^= (z as u32).wrapping_mul(0xCB1A_B31F);
    h = (h ^ (h >> 15)).wrapping_mul(0x2C1B_3C6D);
    h = (h ^ (h >> 12)).wrapping_mul(0x297A_2D39);
    ((h ^ (h >> 15)) >> 8) as f32 / (1 << 24) as f32
}

/// Value noise in [0, 1] on a lattice of cells of size 1.
pub fn noise(seed: u32, p: Vec3) -> f32 {
    let base = p.map(f32::floor);
    let u = (p - base).map(|t| t * t * (3.0 - 2.0 * t));
    let (x, y, z) = (base.x as i32, base.y as i32, base.z as i32);
    let row = |dy, dz| {
        let (a, b) = (lattice(seed, x, y + dy, z + dz), lattice(seed, x + 1, y + dy, z + dz));
        a + (b - a) * u.x
    };
    let plane = |dz| {
        let (a, b) = (row(0, dz), row(1, dz));
        a + (b - a) * u.y
    };
    let (a, b) = (plane(0), plane(1));
    a + (b - a) * u.z
}

/// Noise of several octaves, in [0, 1].
pub fn clouds(seed: u32, p: Vec3, octaves: u32) -> f32 {
    let (mut sum, mut weight, mut amplitude, mut at) = (0.0, 0.0, 1.0, p);
    for octave in 0..octaves {
        sum += amplitude * noise(seed.wrapping_add(octave), at);
        weight += amplitude;
        amplitude *= 0.5;
        at = at * 2.03;
    }
    sum / weight
}

/// Uniform in [0, 1) for each cell of a plane.
pub fn cell(seed: u32, x: i32, y: i32) -> f32 {
    lattice(seed, x, y, 77)
}
