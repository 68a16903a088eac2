//! Sources of normally distributed numbers: the same ones for the same seed on every device.
//!
//! Seeds that people share were drawn with PyTorch's generators, so these are its generators: [`TorchCpu`] gives what
//! `torch.randn` gives on a CPU, [`TorchCuda`] what it gives on a GPU. They draw whole tensors at once; the numbers depend
//! on how many are drawn, not on the tensor's shape.

use std::f64::consts::TAU;

use crate::error::{Error, Result};

/// Draws numbers with mean 0 and variance 1.
pub trait NoiseSource {
    /// The next `n` numbers.
    ///
    /// # Errors
    /// The source has no more.
    fn normal(&mut self, n: usize) -> Result<Vec<f32>>;
}

/// No source: for samplers that draw nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoNoise;

impl NoiseSource for NoNoise {
    fn normal(&mut self, _: usize) -> Result<Vec<f32>> {
        Err(Error::call("NoNoise", "this scheduler draws noise, and was given no source of it"))
    }
}

/// `torch.Generator("cpu")`: the Mersenne twister MT19937 (Matsumoto and Nishimura 1998) and the Box-Muller transform.
#[derive(Clone, Debug)]
pub struct TorchCpu {
    twister: Twister,
    /// The second number of a pair that was drawn one by one.
    spare: Option<f64>,
}

impl TorchCpu {
    /// A generator with a seed, of which the lower 32 bits count.
    pub fn new(seed: u64) -> TorchCpu {
        TorchCpu { twister: Twister::new(seed as u32), spare: None }
    }

    /// Sixteen uniform numbers become sixteen normal ones: eight radii, eight angles.
    fn fill_16(block: &mut [f32]) {
        for j in 0..8 {
            let (u1, u2) = (1.0 - f64::from(block[j]), f64::from(block[j + 8]));
            let (radius, (sin, cos)) = ((-2.0 * u1.ln()).sqrt(), (TAU * u2).sin_cos());
            block[j] = (radius * cos) as f32;
            block[j + 8] = (radius * sin) as f32;
        }
    }

    /// One number, drawn in f64.
    fn one(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (u1, u2) = (self.twister.uniform_f64(), self.twister.uniform_f64());
        let (radius, (sin, cos)) = ((-2.0 * (-u2).ln_1p()).sqrt(), (TAU * u1).sin_cos());
        self.spare = Some(radius * sin);
        radius * cos
    }
}

impl NoiseSource for TorchCpu {
    /// Fewer than sixteen numbers come one by one. More come in blocks of sixteen, and where the last block is not full,
    /// the last sixteen numbers are drawn again.
    fn normal(&mut self, n: usize) -> Result<Vec<f32>> {
        if n < 16 {
            return Ok((0..n).map(|_| self.one() as f32).collect());
        }
        let mut numbers: Vec<f32> = (0..n).map(|_| self.twister.uniform_f32()).collect();
        numbers.as_chunks_mut::<16>().0.iter_mut().for_each(|block| TorchCpu::fill_16(block));
        if !n.is_multiple_of(16) {
            let last = &mut numbers[n - 16..];
            last.iter_mut().for_each(|u| *u = self.twister.uniform_f32());
            TorchCpu::fill_16(last);
        }
        Ok(numbers)
    }
}

/// Words of the twister's state.
const WORDS: usize = 624;

#[derive(Clone)]
struct Twister {
    state: [u32; WORDS],
    next: usize,
}

impl std::fmt::Debug for Twister {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Twister(word {})", self.next)
    }
}

impl Twister {
    fn new(seed: u32) -> Twister {
        let mut state = [seed; WORDS];
        for i in 1..WORDS {
            let before = state[i - 1];
            state[i] = (before ^ (before >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Twister { state, next: WORDS }
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..WORDS {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % WORDS] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + 397) % WORDS] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// 24 random bits in [0, 1).
    fn uniform_f32(&mut self) -> f32 {
        (self.word() & 0x00ff_ffff) as f32 / 16_777_216.0
    }

    /// 53 random bits in [0, 1).
    fn uniform_f64(&mut self) -> f64 {
        let (high, low) = (u64::from(self.word()), u64::from(self.word()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / 9_007_199_254_740_992.0
    }
}

/// `torch.Generator("cuda")`: the counter-based Philox4x32-10 ([Salmon et al. 2011](https://doi.org/10.1145/2063384.2063405))
/// laid over a grid of threads as PyTorch's kernel does. Where a tensor has more elements than the GPU has resident
/// threads, the numbers depend on their count.
#[derive(Clone, Debug)]
pub struct TorchCuda {
    seed: u64,
    offset: u64,
    most_blocks: u64,
}

/// Threads of a block in PyTorch's kernel, and numbers that each draws at once.
const BLOCK: u64 = 256;
const UNROLL: u64 = 4;

impl TorchCuda {
    /// A generator for tensors that the GPU's threads cover at once: the same numbers on every GPU that is large enough.
    pub fn new(seed: u64) -> TorchCuda {
        TorchCuda { seed, offset: 0, most_blocks: u64::from(u32::MAX) }
    }

    /// The generator of a GPU with so many multiprocessors of so many resident threads each.
    pub fn of_device(seed: u64, multiprocessors: u32, threads_each: u32) -> TorchCuda {
        let most_blocks = (u64::from(multiprocessors) * (u64::from(threads_each) / BLOCK)).max(1);
        TorchCuda { seed, offset: 0, most_blocks }
    }
}

impl NoiseSource for TorchCuda {
    fn normal(&mut self, n: usize) -> Result<Vec<f32>> {
        let n = n as u64;
        if n == 0 {
            return Ok(Vec::new());
        }
        let threads = BLOCK * n.div_ceil(BLOCK).min(self.most_blocks);
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let mut numbers = vec![0.0; n as usize];
        let rounds = n.div_ceil(threads * UNROLL);
        for round in 0..rounds {
            let counter = self.offset / UNROLL + round;
            for thread in 0..threads.min(n) {
                let words = [counter as u32, (counter >> 32) as u32, thread as u32, (thread >> 32) as u32];
                let [a, b, c, d] = philox(words, key);
                let ((w, x), (y, z)) = (box_muller(a, b), box_muller(c, d));
                for (k, number) in [w, x, y, z].into_iter().enumerate() {
                    let place = (round * UNROLL + k as u64) * threads + thread;
                    if let Some(slot) = numbers.get_mut(place as usize) {
                        *slot = number;
                    }
                }
            }
        }
        self.offset += rounds * UNROLL;
        Ok(numbers)
    }
}

/// Two normal numbers from 64 random bits, as cuRAND makes them.
fn box_muller(a: u32, b: u32) -> (f32, f32) {
    let scale = 1.0 / 4_294_967_296.0;
    let (u, v) = (f64::from(a) * scale + scale / 2.0, (f64::from(b) * scale + scale / 2.0) * TAU);
    let (radius, (sin, cos)) = ((-2.0 * u.ln()).sqrt(), v.sin_cos());
    ((radius * sin) as f32, (radius * cos) as f32)
}

/// Ten rounds over a counter.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let (left, right) = (u64::from(counter[0]) * 0xd251_1f53, u64::from(counter[2]) * 0xcd9e_8d57);
        counter = [
            (right >> 32) as u32 ^ counter[1] ^ key[0],
            right as u32,
            (left >> 32) as u32 ^ counter[3] ^ key[1],
            left as u32,
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::{NoiseSource, TorchCuda, Twister, philox};

    /// The ten-thousandth word of the default seed: Matsumoto and Nishimura, and the C++ standard ([rand.predef]).
    #[test]
    fn twister_as_published() {
        let mut twister = Twister::new(5489);
        let words: Vec<u32> = (0..10_000).map(|_| twister.word()).collect();
        assert_eq!((words[0], words[9_999]), (3_499_211_612, 4_123_659_995));
    }

    /// Known answers of Random123 for `philox4x32 10`.
    #[test]
    fn philox_as_published() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    /// `torch.manual_seed(0); torch.randn(12, device="cuda")`.
    #[test]
    fn cuda_noise_as_published() {
        let published = [
            -0.924_662_6,
            -0.425_344_15,
            -2.643_845_8,
            0.145_183_88,
            -0.120_866_47,
            -0.579_725_6,
            -0.622_851_2,
            -0.328_387_1,
            -1.074_542_3,
            -0.363_144_07,
            -1.671_050_7,
            2.265_505,
        ];
        let drawn = TorchCuda::new(0).normal(12).unwrap_or_default();
        let near = drawn.iter().zip(published).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-5);
        assert!(drawn.len() == 12 && near, "{drawn:?}");
    }

    /// A GPU with fewer threads than numbers takes the further words of each counter.
    #[test]
    fn cuda_noise_of_small_gpus() {
        let large = TorchCuda::new(7).normal(512).unwrap_or_default();
        let mut small = TorchCuda::of_device(7, 1, 256);
        let drawn = small.normal(2048).unwrap_or_default();
        assert_eq!(drawn[..256], large[..256]);
        assert_ne!(drawn[256..512], large[256..]);
        assert_eq!(small.offset, 8);
    }
}
