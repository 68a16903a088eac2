//! CPU kernel `winograd`: 3x3 convolutions of stride 1 with a quarter of the multiplications.
//!
//! F(4x4, 3x3) of Lavin, Gray, "Fast algorithms for convolutional neural networks" (2016): a tile of 4x4 results comes from
//! 6x6 inputs by 36 products instead of 144. Channels are summed between the transforms, so those are 36 matrix products,
//! one per element of the transformed tile, of tiles by channels. The points are 0, ±5/8, ±3/2 and ∞ instead of the usual
//! 0, ±1, ±2: error 1.6e-6 of the result's rms over 320 channels instead of 3.6e-6, where direct summation in order has 0.9e-6
//! (compare Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution", 2020).
//!
//! Rows of tiles are taken in blocks whose transformed inputs fit the last-level cache. For each: transform the inputs (in
//! parallel by tiles); multiply and transform back (by panels of output channels and tiles; weights are transformed there, a
//! row of the 6x6 at a time, as they are used, and never stored); finish (by rows of the result).

use std::sync::Arc;

use muybridge_runtime::{HostCall, Lowering, Site};

use super::cpu::{Map, addend, addend_len, panels};
use super::transform::{self, TILE, TILE_IN};
use super::{Conv2d, Extents};
use crate::cpu::epilogue::{Epilogue, WIDEST};
use crate::cpu::panel::Panels;
use crate::cpu::product::{self, Block, Sink, multiply};
use crate::cpu::storage::Elements;
use crate::cpu::{floats, for_each};

/// Elements of a transformed tile.
const POINTS: usize = TILE_IN * TILE_IN;

/// Tiles that lie together in the transformed inputs: a tile of the product.
const GROUP: usize = product::TILE;

/// Most elements of a block's transformed inputs: 16 MiB.
const BLOCK: usize = 4 << 20;

/// Most tiles of a block: more spare no more transforms of weights, and leave the cache to fewer channels.
const BLOCK_TILES: usize = 256;

/// Most input channels that are multiplied at a time, so that a row of transformed weights stays in the second-level cache.
const DEPTH: usize = 320;

/// Most tiles of a task: their products stay near, and each task transforms its weights anew.
const TASK: usize = 22 * GROUP;

/// Fewest channels, of either side, for which the transforms pay.
const CHANNELS: usize = 32;

/// Fewest tiles: with fewer, transforming the weights costs as much as is saved.
const TILES: usize = 6;

#[derive(Clone, Copy)]
struct Cut {
    map: Map,
    panels: Panels,
    /// Tiles along a row of the result, and rows of tiles of a batch item.
    tiles: [usize; 2],
    /// Rows of tiles (through all batch items) of a block.
    rows: usize,
    /// Tiles of a task of the products.
    task: usize,
    /// Input channels.
    c: usize,
}

pub(super) fn lower(op: &Conv2d, e: &Extents, site: &Site<'_>) -> Option<Lowering> {
    let w = op.weight_index();
    let c = e.channels[0] + e.channels[1];
    let tiles = [e.output[1].div_ceil(TILE), e.output[0].div_ceil(TILE)];
    let count = tiles[0] * tiles[1] * e.batch;
    let fits = op.kernel == [3, 3] && op.stride == 1 && c.min(e.out_channels) >= CHANNELS && count >= TILES;
    if !fits || !site.is_weight[w] {
        return None;
    }
    let threads = site.caps.threads;
    let panels = panels(op, e);
    let (all, fit) = (tiles[1] * e.batch, ((BLOCK / (POINTS * c)).min(BLOCK_TILES) / tiles[0]).max(1));
    let rows = all.div_ceil(all.div_ceil(fit));
    // Several tasks a thread, unless the weights' transforms would then cost more than they save.
    let per_panel = (3 * threads).div_ceil(panels.count());
    let task = (rows * tiles[0]).div_ceil(per_panel).clamp(4 * GROUP, TASK).next_multiple_of(GROUP);
    let cut = Cut { map: Map { op: *op, e: *e }, panels, tiles, rows, task, c };
    let floats = addend_len(op, e) + cut.inputs() + cut.results() + threads * cut.thread();
    let run = Arc::new(move |call: HostCall<'_>| cut.run(call));
    let mut lowering = Lowering::host("conv2d:winograd", site.inputs.len(), 4 * floats as u64, run);
    lowering.prepare.push((w, panels.prepare(site.inputs[w].dtype)));
    Some(lowering)
}

impl Cut {
    /// Tiles of a block.
    fn block(&self) -> usize {
        self.rows * self.tiles[0]
    }

    /// Elements of a block's transformed inputs: `[groups][stretches of channels][POINTS][GROUP][channels]`.
    fn inputs(&self) -> usize {
        self.block().div_ceil(GROUP) * self.group()
    }

    fn group(&self) -> usize {
        POINTS * GROUP * self.c
    }

    /// Elements of a block's results before the epilogue: `[panels][tiles][TILE · TILE][width]`.
    fn results(&self) -> usize {
        self.panels.count() * self.block() * TILE * TILE * self.panels.full_width()
    }

    /// Elements of a thread's scratch: a row of transformed weights, products, stored weights of one channel.
    fn thread(&self) -> usize {
        let [weights, products] = self.parts();
        weights + products
    }

    fn parts(&self) -> [usize; 2] {
        let width = self.panels.full_width();
        [TILE_IN * self.c.min(DEPTH) * width, POINTS * self.task * width]
    }

    /// Input channels `at..` that are multiplied together.
    fn stretch(&self, at: usize) -> usize {
        let even = self.c.div_ceil(self.c.div_ceil(DEPTH)).next_multiple_of(transform::LANES);
        even.min(DEPTH).min(self.c - at)
    }

    fn run(&self, call: HostCall<'_>) {
        let (op, e) = (&self.map.op, &self.map.e);
        let (added, scratch) = floats(call.scratch).split_at_mut(addend_len(op, e));
        let last = Epilogue {
            addend: addend(op, e, call.inputs, added),
            item: e.output[0] * e.output[1],
            activation: op.activation,
            residual: op.residual_index().map(|i| Elements::of(&call.inputs[i])),
            dtype: call.output.desc.dtype,
        };
        let (inputs, scratch) = scratch.split_at_mut(self.inputs());
        let (results, scratch) = scratch.split_at_mut(self.results());
        let sources = [Elements::of(&call.inputs[0]), Elements::of(&call.inputs[usize::from(op.two_sources)])];
        let weights = Elements::of(&call.inputs[op.weight_index()]);
        let mut out = call.output.bytes;
        let rows = self.tiles[1] * e.batch;
        for first in (0..rows).step_by(self.rows) {
            let rows = self.rows.min(rows - first);
            let tiles = rows * self.tiles[0];
            let groups = inputs.chunks_mut(self.group()).take(tiles.div_ceil(GROUP)).enumerate();
            for_each(groups, scratch, 0, |(g, to), _| {
                self.transform_inputs(&sources, first * self.tiles[0] + g * GROUP, first * self.tiles[0] + tiles, to);
            });
            let inputs = &*inputs;
            let step = TILE * TILE * self.panels.full_width();
            let by_panel = results.chunks_mut(tiles * step).take(self.panels.count()).enumerate();
            let tasks = by_panel.flat_map(|(p, all)| all.chunks_mut(self.task * step).enumerate().map(move |t| (p, t)));
            for_each(tasks, scratch, self.thread(), |(p, (t, to)), own| {
                self.multiply(inputs, weights, p, t * self.task, to, own);
            });
            out = self.finish(&last, results, first, rows, out);
        }
    }

    /// Where tile `tile` lies: batch item, and first row and column of its results.
    fn place(&self, tile: usize) -> [usize; 3] {
        let (row, x) = (tile / self.tiles[0], tile % self.tiles[0]);
        [row / self.tiles[1], row % self.tiles[1] * TILE, x * TILE]
    }

    /// Transforms the inputs of a group of tiles; those from `end` on are left as they are, for they are not used.
    fn transform_inputs(&self, sources: &[Elements<'_>; 2], first: usize, end: usize, to: &mut [f32]) {
        let e = &self.map.e;
        for m in 0..GROUP.min(end - first) {
            let [b, y0, x0] = self.place(first + m);
            let rows: [_; TILE_IN] = std::array::from_fn(|i| self.map.input(0, y0 + i));
            let columns: [_; TILE_IN] = std::array::from_fn(|i| self.map.input(1, x0 + i));
            // First element of the pixel under each point; `None` in the padding.
            let pixels: [Option<usize>; POINTS] = std::array::from_fn(|i| {
                Some((b * e.source[0] + rows[i / TILE_IN]?) * e.source[1] + columns[i % TILE_IN]?)
            });
            let mut at = 0;
            while at < self.c {
                let depth = self.stretch(at);
                let part = &mut to[POINTS * GROUP * at..][..POINTS * GROUP * depth];
                for c in (0..depth).step_by(transform::LANES) {
                    let tile = pixels.map(|pixel| match pixel {
                        Some(pixel) => self.load(sources, pixel, at + c),
                        None => [0.0; transform::LANES],
                    });
                    transform::input(&tile, &mut part[m * depth + c..], GROUP * depth, depth - c);
                }
                at += depth;
            }
        }
    }

    /// Channels `c..` of both sources at a pixel, zeros beyond the last.
    #[inline]
    fn load(&self, sources: &[Elements<'_>; 2], pixel: usize, c: usize) -> [f32; transform::LANES] {
        let [c1, c2] = self.map.e.channels;
        if let (Some(all), true) = (sources[0].f32(), c + transform::LANES <= c1)
            && let Some(values) = all[pixel * c1 + c..].first_chunk()
        {
            return *values;
        }
        let mut to = [0.0; transform::LANES];
        let count = transform::LANES.min(c1 + c2 - c);
        let own = c1.saturating_sub(c).min(count);
        let (first, second) = to[..count].split_at_mut(own);
        if own > 0 {
            sources[0].part(pixel * c1 + c, own).widen(first);
        }
        if !second.is_empty() {
            sources[1].part(pixel * c2 + c + own - c1, second.len()).widen(second);
        }
        to
    }

    /// Results of panel `p` for the tiles `first..` of the block, as many as fit `to`, before the epilogue.
    fn multiply(&self, inputs: &[f32], weights: Elements<'_>, p: usize, first: usize, to: &mut [f32], own: &mut [f32]) {
        let (width, full) = (self.panels.width(p), self.panels.full_width());
        let tiles = to.len() / (TILE * TILE * full);
        let [weight_len, _] = self.parts();
        let (transformed, products) = own.split_at_mut(weight_len);
        let stored = weights.part(self.panels.start(p), self.panels.depth * width);
        for row in 0..TILE_IN {
            let mut at = 0;
            while at < self.c {
                let depth = self.stretch(at);
                transform_weights(&stored, self.c, width, row, at, depth, transformed);
                for column in 0..TILE_IN {
                    let point = row * TILE_IN + column;
                    let piece = |_: usize, m: usize| -> &[f32] {
                        let (group, m) = ((first + m) / GROUP, (first + m) % GROUP);
                        &inputs[group * self.group() + GROUP * (POINTS * at + point * depth) + m * depth..][..depth]
                    };
                    let panel = &transformed[column * depth * width..(column + 1) * depth * width];
                    let products = &mut products[point * tiles * width..(point + 1) * tiles * width];
                    let sink = Sink::Rows { to: products, stride: width, add: at > 0 };
                    multiply(&Block { rows: tiles, piece: &piece, panel, width }, sink);
                }
                at += depth;
            }
        }
        for (m, to) in to.chunks_mut(TILE * TILE * full).enumerate() {
            transform::output(&products[m * width..], tiles * width, width, full, to);
        }
    }

    /// Epilogues of the rows of tiles `first..first + rows` into the front of `out`; returns the rest of it.
    fn finish<'o>(
        &self,
        last: &Epilogue<'_>,
        results: &[f32],
        first: usize,
        rows: usize,
        out: &'o mut [u8],
    ) -> &'o mut [u8] {
        let [h, w] = self.map.e.output;
        let (full, bytes) = (self.panels.full_width(), self.panels.columns * last.dtype.size());
        let tiles = rows * self.tiles[0];
        // Result rows (through all batch items) that a row of tiles starts at.
        let start = |row: usize| row / self.tiles[1] * h + (row % self.tiles[1] * TILE).min(h);
        let (own, rest) = out.split_at_mut((start(first + rows) - start(first)) * w * bytes);
        for_each(own.chunks_mut(w * bytes).enumerate(), &mut [], 0, |(i, out), _| {
            let y = start(first) + i;
            let tile_row = y / h * self.tiles[1] + y % h / TILE - first;
            for (x, out) in out.chunks_mut(bytes).enumerate() {
                let tile = tile_row * self.tiles[0] + x / TILE;
                let pixel = y % h % TILE * TILE + x % TILE;
                for p in 0..self.panels.count() {
                    let at = ((p * tiles + tile) * TILE * TILE + pixel) * full;
                    let mut sums = [0.0; WIDEST];
                    let sums = &mut sums[..self.panels.width(p)];
                    sums.copy_from_slice(&results[at..at + sums.len()]);
                    last.finish(&self.panels, p, sums, y * w + x, out);
                }
            }
        });
        rest
    }
}

/// Row `row` of the transformed weights of channels `at..at + depth`: `[TILE_IN][depth][width]` from `[taps][c][width]`.
fn transform_weights(
    stored: &Elements<'_>,
    c: usize,
    width: usize,
    row: usize,
    at: usize,
    depth: usize,
    to: &mut [f32],
) {
    if let Some(all) = stored.f32() {
        return transform::weight_rows(&all[at * width..], c * width, width, row, depth, depth * width, to);
    }
    for k in 0..depth {
        let mut wide = [0.0; 9 * WIDEST];
        for (t, wide) in wide.chunks_mut(width).take(9).enumerate() {
            stored.part((t * c + at + k) * width, width).widen(wide);
        }
        transform::weight_rows(&wide, width, width, row, 1, depth * width, &mut to[k * width..]);
    }
}
