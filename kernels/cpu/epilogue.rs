//! What happens to a finished row of sums: bias, activation, residual, rounding.

use muybridge_runtime::DType;

use super::panel::Panels;
use super::storage::{Elements, narrow};
use super::{math, vectorised};
use crate::Activation;

/// The widest panel on any processor.
pub(crate) const WIDEST: usize = 64;

/// The epilogue of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epilogue<'a> {
    /// Added to the sums: one row per item, one element per column of the right-hand side; empty for none.
    pub addend: &'a [f32],
    /// Rows of the result that share a row of `addend`.
    pub item: usize,
    pub activation: Activation,
    /// Added last, in the result's shape and type.
    pub residual: Option<Elements<'a>>,
    /// Storage type of the result.
    pub dtype: DType,
}

impl Epilogue<'_> {
    /// Finishes the columns of panel `p` in row `row` of the result: from its `sums` to the bytes `to` of the whole row.
    #[inline]
    pub fn finish(&self, panels: &Panels, p: usize, sums: &mut [f32], row: usize, to: &mut [u8]) {
        let (column, count) = (p * panels.step(), panels.covers(p));
        let columns = panels.columns;
        let right = if panels.gated { 2 * columns } else { columns };
        let addend = if self.addend.is_empty() { &[] } else { &self.addend[row / self.item * right..][..right] };
        let (sums, gate) = sums.split_at_mut(if panels.gated { sums.len() / 2 } else { sums.len() });
        let own = &mut sums[..count];
        if panels.gated {
            let gate = &mut gate[..count];
            add(gate, addend, columns + column);
            add(own, addend, column);
            vectorised(|| own.iter_mut().zip(gate.iter()).for_each(|(v, g)| *v *= math::gelu(*g)));
        } else {
            add(own, addend, column);
            if self.activation != Activation::None {
                vectorised(|| math::activate(self.activation, own));
            }
        }
        if let Some(residual) = self.residual {
            let mut buffer = [0.0; WIDEST];
            let residual = residual.part(row * columns + column, count).wide(&mut buffer);
            vectorised(|| own.iter_mut().zip(residual).for_each(|(v, r)| *v += r));
        }
        let size = self.dtype.size();
        narrow(own, self.dtype, &mut to[column * size..(column + count) * size]);
    }
}

#[inline]
fn add(values: &mut [f32], addend: &[f32], column: usize) {
    if !addend.is_empty() {
        let addend = &addend[column..column + values.len()];
        vectorised(|| values.iter_mut().zip(addend).for_each(|(v, a)| *v += a));
    }
}
