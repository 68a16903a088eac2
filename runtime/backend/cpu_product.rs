//! The one matrix product that host kernels build on: a bounds-checked door to the `gemm` crate.

/// A read-only matrix in a slice: element `(r, c)` is `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Elements from a row to the next.
    pub row_stride: usize,
    /// Elements from a column to the next.
    pub col_stride: usize,
}

/// A row-major matrix in a slice that a product writes.
#[derive(Debug)]
pub struct MatMut<'a> {
    /// The elements.
    pub data: &'a mut [f32],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Elements from a row to the next.
    pub row_stride: usize,
}

impl<'a> MatRef<'a> {
    /// Rows of `cols` contiguous elements, `row_stride` apart.
    pub fn rows(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> MatRef<'a> {
        MatRef { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose, with no copy.
    pub fn t(self) -> MatRef<'a> {
        let MatRef { data, rows, cols, row_stride, col_stride } = self;
        MatRef { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }
}

fn last(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

/// `c = beta·c + a·b` in f32; with `parallel`, over the threads of the current pool.
///
/// # Panics
/// A matrix reaches beyond its slice, or the extents do not match: a defect of the calling kernel.
pub fn product(c: MatMut<'_>, a: MatRef<'_>, b: MatRef<'_>, beta: f32, parallel: bool) {
    assert!(a.cols == b.rows && c.rows == a.rows && c.cols == b.cols, "extents of a matrix product");
    assert!(last(a.rows, a.cols, a.row_stride, a.col_stride) <= a.data.len(), "left matrix beyond its slice");
    assert!(last(b.rows, b.cols, b.row_stride, b.col_stride) <= b.data.len(), "right matrix beyond its slice");
    assert!(last(c.rows, c.cols, c.row_stride, 1) <= c.data.len(), "result beyond its slice");
    assert!(c.rows <= 1 || c.row_stride >= c.cols, "rows of the result overlap");
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    let threads = if parallel { rayon::current_num_threads() } else { 1 };
    let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    // SAFETY: the asserts above prove that every element of the three strided matrices lies within its slice, that the
    // result's rows are disjoint, and `c` is borrowed mutably, so it aliases neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.data.as_mut_ptr(),
            1,
            c.row_stride as isize,
            beta != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            beta,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_and_transposed_products() {
        let a: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..20).map(|i| (i % 7) as f32).collect();
        let mut c = vec![1.0f32; 15];
        // a is 3x4; b is stored as 5x4 and used transposed.
        let (am, bm) = (MatRef::rows(&a, 3, 4, 4), MatRef::rows(&b, 5, 4, 4).t());
        product(MatMut { data: &mut c, rows: 3, cols: 5, row_stride: 5 }, am, bm, 1.0, false);
        for r in 0..3 {
            for n in 0..5 {
                let want: f32 = 1.0 + (0..4).map(|k| a[r * 4 + k] * b[n * 4 + k]).sum::<f32>();
                assert_eq!(c[r * 5 + n], want);
            }
        }
    }

    #[test]
    #[should_panic(expected = "beyond its slice")]
    fn a_matrix_beyond_its_slice_is_refused() {
        let mut c = vec![0.0; 4];
        let m = |d| MatRef::rows(d, 2, 2, 2);
        product(MatMut { data: &mut c, rows: 2, cols: 2, row_stride: 2 }, m(&[0.0; 3]), m(&[0.0; 4]), 0.0, false);
    }
}
