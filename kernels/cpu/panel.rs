//! The right-hand side of a product, in panels: `[N / W][K][W]`, so that one step along K reads W contiguous columns.
//!
//! W is as many vector registers as a tile of the product is wide. A weight is stored in this order from the start
//! ([`prepare`](Panels::prepare)): the same size and type, so nothing is kept twice and an f32 panel needs no packing at all.
//! A right-hand side that a run computes is packed panel by panel.

use std::sync::Arc;

use bytemuck::Pod;
use muybridge_runtime::{DType, HostTensor, Prepare, Result, Shape, TensorDesc, TensorView};

use super::storage::Elements;
use super::vectors;

/// How the columns of a right-hand side `[N, taps · K]` fall into panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panels {
    /// Columns N. With `gated`, columns of each half.
    pub columns: usize,
    /// Length of the sums, over all taps.
    pub depth: usize,
    /// Row n of a weight is `[K, taps]`; a panel's depth runs over `[taps, K]`.
    pub taps: usize,
    /// A panel's first half holds columns n.., its second half columns N + n..: a value beside its gate.
    pub gated: bool,
    /// Lanes of a vector.
    pub lanes: usize,
    /// Vectors across a full panel.
    pub vectors: usize,
}

impl Panels {
    /// Panels as wide as this processor likes them.
    pub fn new(columns: usize, depth: usize) -> Panels {
        let (lanes, vectors) = vectors();
        Panels { columns, depth, taps: 1, gated: false, lanes, vectors }
    }

    /// Columns of the result that a full panel covers.
    pub fn step(&self) -> usize {
        self.lanes * self.vectors / if self.gated { 2 } else { 1 }
    }

    pub fn count(&self) -> usize {
        self.columns.div_ceil(self.step())
    }

    /// Columns of the result that panel `p` covers.
    pub fn covers(&self, p: usize) -> usize {
        self.step().min(self.columns - p * self.step())
    }

    /// Columns that panel `p` stores: whole vectors, the last of them filled up with zeros.
    pub fn width(&self, p: usize) -> usize {
        let halves = if self.gated { 2 } else { 1 };
        self.covers(p).next_multiple_of(self.lanes) * halves
    }

    /// Width of a full panel.
    pub fn full_width(&self) -> usize {
        self.lanes * self.vectors
    }

    /// First element of panel `p`.
    pub fn start(&self, p: usize) -> usize {
        p * self.full_width() * self.depth
    }

    /// Elements of all panels.
    pub fn elements(&self) -> usize {
        let last = self.count() - 1;
        self.start(last) + self.width(last) * self.depth
    }

    /// The row of the weight that column `c` of panel `p` holds; `None` for filling.
    fn row(&self, p: usize, c: usize) -> Option<usize> {
        let half = if self.gated { self.width(p) / 2 } else { self.width(p) };
        let n = p * self.step() + c % half;
        (c % half < self.covers(p)).then_some(n + if c >= half { self.columns } else { 0 })
    }

    /// Packs panel `p` of rows `[columns][K, taps]`.
    pub fn pack<T: Pod>(&self, rows: &[T], p: usize, to: &mut [T]) {
        let (width, depth, k) = (self.width(p), self.depth, self.depth / self.taps);
        // A stretch of each row at a time, so that the lines of the panel that it is scattered over stay cached.
        let stretch = (64 / self.taps).max(1);
        for k0 in (0..k).step_by(stretch) {
            let k1 = (k0 + stretch).min(k);
            for c in 0..width {
                let row = self.row(p, c).map(|n| &rows[n * depth..(n + 1) * depth]);
                for tap in 0..self.taps {
                    let column = to[(tap * k + k0) * width + c..].iter_mut().step_by(width);
                    match row {
                        Some(row) if self.taps == 1 => column.zip(&row[k0..k1]).for_each(|(t, v)| *t = *v),
                        Some(row) => {
                            let taps = row[k0 * self.taps + tap..].iter().step_by(self.taps);
                            column.zip(taps.take(k1 - k0)).for_each(|(t, v)| *t = *v);
                        }
                        None => column.take(k1 - k0).for_each(|t| *t = T::zeroed()),
                    }
                }
            }
        }
    }

    /// Packs panel `p` of `rows`, widened to f32. `row` holds a row's elements in between.
    pub fn pack_wide(&self, rows: Elements<'_>, p: usize, buffer: &mut [f32], to: &mut [f32]) {
        if let Some(rows) = rows.f32() {
            return self.pack(rows, p, to);
        }
        let (width, depth, k) = (self.width(p), self.depth, self.depth / self.taps);
        for c in 0..width {
            let row = match self.row(p, c) {
                Some(n) => rows.part(n * depth, depth).wide(buffer),
                None => {
                    buffer[..depth].fill(0.0);
                    &buffer[..depth]
                }
            };
            for tap in 0..self.taps {
                let column = to[tap * k * width + c..].iter_mut().step_by(width);
                column.zip(row[tap..].iter().step_by(self.taps)).for_each(|(t, v)| *t = *v);
            }
        }
    }

    /// The weight's layout: all panels, one after the other, in the stored type.
    pub fn prepare(self, dtype: DType) -> Prepare {
        let (w, gate) = (self.full_width(), if self.gated { ".gated" } else { "" });
        let layout = format!("panels.{w}x{}.taps{}{gate}.{dtype}", self.lanes, self.taps);
        let desc = TensorDesc::new([self.elements()], dtype);
        let make = move |view: TensorView<'_>| -> Result<HostTensor> {
            let mut packed = HostTensor::zeros(desc);
            match dtype {
                DType::F32 => self.pack_all::<u32>(view.bytes, packed.bytes_mut()),
                DType::F16 | DType::BF16 => self.pack_all::<u16>(view.bytes, packed.bytes_mut()),
            }
            packed.reshape(Shape::from([self.elements()]))
        };
        Prepare { layout, desc, make: Arc::new(make) }
    }

    fn pack_all<T: Pod>(&self, from: &[u8], to: &mut [u8]) {
        // A weight straight from a file may be unaligned.
        let copied: Vec<T>;
        let rows: &[T] = match bytemuck::try_cast_slice(from) {
            Ok(rows) => rows,
            Err(_) => {
                copied = bytemuck::pod_collect_to_vec(from);
                &copied
            }
        };
        let to: &mut [T] = bytemuck::cast_slice_mut(to);
        for p in 0..self.count() {
            let start = self.start(p);
            self.pack(rows, p, &mut to[start..start + self.width(p) * self.depth]);
        }
    }
}

/// The right-hand side of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rhs<'a> {
    pub panels: Panels,
    pub elements: Elements<'a>,
    /// Stored in panels, not in rows.
    pub packed: bool,
}

impl<'a> Rhs<'a> {
    /// f32 elements of a buffer for [`Rhs::panel`].
    pub fn buffer(panels: &Panels, dtype: DType, packed: bool) -> usize {
        match (packed, dtype) {
            (true, DType::F32) => 0,
            (true, _) => panels.full_width() * panels.depth,
            (false, _) => (panels.full_width() + 1) * panels.depth,
        }
    }

    /// Panel `p` as f32 `[K][width]`: in place, or made in `buffer`.
    pub fn panel<'b>(&self, p: usize, buffer: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        let count = self.panels.width(p) * self.panels.depth;
        if self.packed {
            return self.elements.part(self.panels.start(p), count).wide(buffer);
        }
        let (to, row) = buffer.split_at_mut(self.panels.full_width() * self.panels.depth);
        self.panels.pack_wide(self.elements, p, row, &mut to[..count]);
        &to[..count]
    }
}
