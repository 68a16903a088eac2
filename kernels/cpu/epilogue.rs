//! What happens to a finished row of sums: bias, activation, residual, rounding.

use muybridge_runtime::DType;

use super::math;
use super::panel::Panels;
use super::storage::{Elements, narrow};
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
        let part = |first: usize| if addend.is_empty() { addend } else { &addend[first..first + count] };
        let mut buffer = [0.0; WIDEST];
        let residual = self.residual.map(|r| r.part(row * columns + column, count).wide(&mut buffer));
        let residual = residual.unwrap_or(&[]);
        let (sums, gate) = sums.split_at_mut(if panels.gated { sums.len() / 2 } else { sums.len() });
        let own = &mut sums[..count];
        if panels.gated {
            let gate = &mut gate[..count];
            finish_gated(own, gate, part(column), part(columns + column), residual);
        } else {
            finish_plain(own, part(column), self.activation, residual);
        }
        let size = self.dtype.size();
        narrow(own, self.dtype, &mut to[column * size..(column + count) * size]);
    }
}

vectorised! {
    fn finish_plain<'a>(own: &'a mut [f32], addend: &'a [f32], activation: Activation, residual: &'a [f32]) -> () {
        add_terms(own, addend);
        math::activate_all(activation, own);
        add_terms(own, residual);
    }

    fn finish_gated<'a>(
        own: &'a mut [f32],
        gate: &'a mut [f32],
        addend: &'a [f32],
        gate_addend: &'a [f32],
        residual: &'a [f32]
    ) -> () {
        add_terms(own, addend);
        add_terms(gate, gate_addend);
        for (v, g) in own.iter_mut().zip(gate) {
            *v *= math::gelu(*g);
        }
        add_terms(own, residual);
    }
}

/// Adds as many elements as there are: none of an absent operand.
#[inline(always)]
fn add_terms(to: &mut [f32], terms: &[f32]) {
    for (t, v) in to.iter_mut().zip(terms) {
        *t += v;
    }
}
