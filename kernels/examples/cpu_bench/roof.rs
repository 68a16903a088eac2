//! What the machine gives a matrix product that is no part of this engine: the bare `gemm` crate.

use std::time::Instant;

/// The `gemm` crate on all threads, one product in f32 over and over.
pub struct Roof {
    pool: rayon::ThreadPool,
    /// Rows, columns, and length of the sums.
    extents: [usize; 3],
    matrices: [Vec<f32>; 3],
}

impl Roof {
    /// A pool of its own, of so many threads, for `[M,K]` times the transpose of `[N,K]`.
    pub fn of(threads: usize, [m, n, k]: [usize; 3]) -> Roof {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let matrices = [(m * k, 0.5), (n * k, 0.25), (m * n, 0.0)].map(|(count, v)| vec![v; count]);
        Roof { pool, extents: [m, n, k], matrices }
    }

    /// Work of the product.
    pub fn gflop(&self) -> f64 {
        2.0 * self.extents.iter().product::<usize>() as f64 / 1e9
    }

    /// Multiplies once and says how long a GFLOP of it took.
    pub fn seconds_per_gflop(&mut self) -> f64 {
        let [m, n, k] = self.extents;
        let [a, b, c] = &mut self.matrices;
        let threads = self.pool.current_num_threads();
        let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
        let started = Instant::now();
        self.pool.install(|| {
            // SAFETY: the matrices are vectors of m·k, n·k and m·n elements, row-major without gaps, `b` read across its
            // rows, and `c` is borrowed mutably, so it overlaps neither of the others.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    c.as_mut_ptr(),
                    1,
                    n as isize,
                    false,
                    a.as_ptr(),
                    1,
                    k as isize,
                    b.as_ptr(),
                    k as isize,
                    1,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
        });
        started.elapsed().as_secs_f64() / self.gflop()
    }
}
