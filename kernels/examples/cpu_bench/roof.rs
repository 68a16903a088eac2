//! What the machine gives a matrix product that is no part of this engine: the bare `gemm` crate.

use std::time::Instant;

/// The `gemm` crate on all threads, 768³ in f32.
pub struct Roof {
    pool: rayon::ThreadPool,
    matrices: [Vec<f32>; 3],
}

impl Roof {
    const N: usize = 768;

    /// A pool of its own, of so many threads.
    pub fn new(threads: usize) -> Roof {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        Roof { pool, matrices: [0.5, 0.25, 0.0].map(|v| vec![v; Roof::N * Roof::N]) }
    }

    /// Multiplies once and says how long a GFLOP of it took.
    pub fn seconds_per_gflop(&mut self) -> f64 {
        let n = Roof::N;
        let [a, b, c] = &mut self.matrices;
        let threads = self.pool.current_num_threads();
        let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
        let started = Instant::now();
        self.pool.install(|| {
            let (columns, rows) = (1, n as isize);
            // SAFETY: the three matrices are vectors of n·n elements each, row-major without gaps, and `c` is borrowed
            // mutably, so it overlaps neither of the others.
            unsafe {
                gemm::gemm(
                    n,
                    n,
                    n,
                    c.as_mut_ptr(),
                    columns,
                    rows,
                    false,
                    a.as_ptr(),
                    columns,
                    rows,
                    b.as_ptr(),
                    columns,
                    rows,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
        });
        started.elapsed().as_secs_f64() / (2.0 * (n * n * n) as f64 / 1e9)
    }
}
