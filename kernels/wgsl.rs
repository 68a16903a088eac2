//! What the WGSL lowerings of all ops share: a kernel with its operands, from which launches are made.
//!
//! # Writing a kernel
//!
//! A lowering names the operands once, in the order of the bindings; the header that is generated from the names (see
//! [`Binding`]) declares the buffers, so a text holds no index and no element type:
//!
//! ```ignore
//! let kernel = Kernel::new(site, "kernels/layer_norm/simple.wgsl", include_str!("simple.wgsl"), "layer_norm")
//!     .constant("EPS", op.eps)
//!     .input("x", 0)                               // read_x(i), read4_x(i), or x[i] itself
//!     .weight("weight", Some(1), DType::F32, 1.0)  // converted once per device where it is stored otherwise
//!     .weight("bias", None, DType::F32, 0.0)       // absent: read_bias(i) is 0.0 and there is no binding
//!     .output("y");                                // write_y(i, value)
//! kernel.lower([kernel.launch(grid, [64, 1, 1], &[rows, columns])])
//! ```
//!
//! * An optional operand that is absent costs no flag and no second text: its reader returns the given value.
//! * `input4`, `output4`, `weight4` declare arrays of vectors of four: `read4_x(i)` is then one load. Use them where every
//!   extent that an index is made of is a multiple of four. (`read4_x` also works on plain arrays, as four loads.)
//! * Weights are bound `read`, all else `read_write`; that follows from `site.is_weight`, not from the caller.
//! * `struct Params { .. }` of 32-bit fields in the text is bound after the last buffer, as `params`.
//! * `ACTIVATION` is always defined; the prelude's `activate(x)` follows it. `elem` is the output's element type.
//! * What several texts share is a file of its own, put before them by `concat!`: `total.wgsl` (a sum over a workgroup), an
//!   op's `operands.wgsl`.
//! * Anything that does not fit (bf16, f16 without the feature, an operand larger than one binding that was not cut, a grid
//!   that is too large) makes [`Kernel::lower`] return `None`, so a lowering need not test for it.
//!
//! # Splitting
//!
//! An operand larger than `caps.max_binding` is handed to several launches in parts. [`Kernel::cut`] binds a range of one
//! operand's elements, begun at the last aligned byte before it, and gives the index of the range's first element there,
//! which a text adds to its indices. [`pieces`] divides rows so that every operand's part fits.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::NoUninit;
use muybridge_runtime::source::{Binding, Constant};
use muybridge_runtime::{
    Arg, BoxMap, Caps, Code, DType, KernelSource, Launch, Lowering, Prepare, Site, Slot, Summary, TensorDesc,
};

use crate::Activation;

const PRELUDE: &str = include_str!("prelude.wgsl");

/// Most invocations that every device gives a workgroup.
pub(crate) const WIDE: u32 = 256;

/// A kernel with its operands: what all launches of one source share.
#[derive(Clone)]
pub(crate) struct Kernel<'a> {
    site: &'a Site<'a>,
    source: KernelSource,
    args: Vec<Arg>,
    prepare: Vec<(usize, Prepare)>,
    scratch: u64,
    summary: Option<Summary>,
    counters: u64,
    maps: Vec<BoxMap>,
    /// Every operand so far has a dtype that the device's kernels can read.
    fits: bool,
}

impl<'a> Kernel<'a> {
    /// A kernel without operands. `file` is its path in the repository, `entry` the op's name.
    pub fn new(site: &'a Site<'a>, file: &'static str, text: &'static str, entry: &'static str) -> Kernel<'a> {
        let constants = vec![("elem", site.output.dtype.into()), ("ACTIVATION", Constant::U32(0))];
        let source = KernelSource { file, prelude: PRELUDE, text, entry, constants, bindings: Vec::new() };
        let fits = readable(site.caps, site.output.dtype);
        Kernel {
            site,
            source,
            args: Vec::new(),
            prepare: Vec::new(),
            scratch: 0,
            summary: None,
            counters: 0,
            maps: Vec::new(),
            fits,
        }
    }

    /// Defines a constant of the text: a number, a flag, or a dtype (with its vectors of two and four).
    pub fn constant(mut self, name: &'static str, value: impl Into<Constant>) -> Self {
        self.source.constants.retain(|(n, _)| *n != name);
        self.source.constants.push((name, value.into()));
        self
    }

    /// The same kernel with another entry point of its text.
    pub fn entry(mut self, entry: &'static str) -> Self {
        self.source.entry = entry;
        self
    }

    /// Chooses what `activate` does.
    pub fn activation(self, activation: Activation) -> Self {
        self.constant("ACTIVATION", activation.code())
    }

    /// The next binding: operand `index` as it is stored.
    pub fn input(self, name: &'static str, index: usize) -> Self {
        self.stored(name, index, 1)
    }

    /// As [`Kernel::input`], in vectors of four.
    pub fn input4(self, name: &'static str, index: usize) -> Self {
        self.stored(name, index, 4)
    }

    /// The next binding: operand `index` as `dtype` if it is a weight (converted once per device where it is stored
    /// otherwise), as it is stored if it is an activation. Without an index, `name` reads as `absent` everywhere.
    pub fn weight(self, name: &'static str, index: Option<usize>, dtype: DType, absent: f32) -> Self {
        self.converted(name, index, dtype, absent, 1)
    }

    /// As [`Kernel::weight`], in vectors of four.
    pub fn weight4(self, name: &'static str, index: Option<usize>, dtype: DType, absent: f32) -> Self {
        self.converted(name, index, dtype, absent, 4)
    }

    /// The next binding: operand `index` as it is stored, or `absent` everywhere.
    pub fn optional(self, name: &'static str, index: Option<usize>, absent: f32) -> Self {
        match index {
            Some(index) => self.stored(name, index, 1),
            None => self.absent(name, absent),
        }
    }

    /// As [`Kernel::optional`], in vectors of four.
    pub fn optional4(self, name: &'static str, index: Option<usize>, absent: f32) -> Self {
        match index {
            Some(index) => self.stored(name, index, 4),
            None => self.absent(name, absent),
        }
    }

    /// The next binding: weight `index` in a layout of the op's own.
    pub fn prepared(mut self, name: &'static str, index: usize, prepare: Prepare, lanes: u32) -> Self {
        let dtype = prepare.desc.dtype;
        self.fits &= self.site.is_weight[index];
        self.prepare.push((index, prepare));
        self.buffer(name, Arg::input(index), dtype, lanes)
    }

    /// The next binding: the output.
    pub fn output(self, name: &'static str) -> Self {
        let dtype = self.site.output.dtype;
        self.buffer(name, Arg::output(), dtype, 1)
    }

    /// As [`Kernel::output`], in vectors of four.
    pub fn output4(self, name: &'static str) -> Self {
        let dtype = self.site.output.dtype;
        self.buffer(name, Arg::output(), dtype, 4)
    }

    /// The next binding: scratch memory of `elements` elements of `dtype`, which all launches of the node share.
    pub fn scratch(mut self, name: &'static str, dtype: DType, elements: u64) -> Self {
        self.scratch = elements * dtype.size() as u64;
        self.buffer(name, Arg::scratch(), dtype, 1)
    }

    /// The next binding: a summary of the output, in f32, where the site asks for one; what is written to `name` is lost where
    /// it does not.
    pub fn summary(mut self, name: &'static str, summary: Summary) -> Self {
        if !self.site.summarise {
            return self.absent(name, 0.0);
        }
        self.summary = Some(summary);
        self.buffer(name, Arg::summary(), DType::F32, 1)
    }

    /// The next binding: this many words that are zero before the launches, and that they leave zero.
    pub fn counters(mut self, name: &'static str, words: u64) -> Self {
        self.counters = 4 * words;
        self.buffer(name, Arg::counters(), DType::F32, 1)
    }

    /// An array that the text names where it never uses it: a null pointer.
    pub fn missing(self, name: &'static str) -> Self {
        self.constant(name, Constant::Missing)
    }

    /// The operand `of` of these extents (the innermost first), as boxes of it are copied, by the name `name` in the text.
    pub fn map(mut self, name: &'static str, of: &str, extents: [u32; 4], of_box: [u32; 4]) -> Self {
        let arg = self.buffers().position(|(n, _)| n == of);
        self.fits &= arg.is_some();
        self.maps.push(BoxMap { arg: arg.unwrap_or(0), extents, of_box });
        self.source.bindings.push(Binding::Map { name });
        self
    }

    /// The next binding: the summary of operand `index`, in f32.
    pub fn summary_of(self, name: &'static str, index: usize) -> Self {
        self.buffer(name, Arg::summary_of(index), DType::F32, 1)
    }

    fn stored(self, name: &'static str, index: usize, lanes: u32) -> Self {
        let dtype = self.site.inputs[index].dtype;
        self.buffer(name, Arg::input(index), dtype, lanes)
    }

    fn converted(mut self, name: &'static str, index: Option<usize>, dtype: DType, absent: f32, lanes: u32) -> Self {
        let Some(index) = index else { return self.absent(name, absent) };
        let stored = self.site.inputs[index];
        if !self.site.is_weight[index] || stored.dtype == dtype {
            return self.stored(name, index, lanes);
        }
        self.prepare.push((index, as_dtype(stored, dtype)));
        self.buffer(name, Arg::input(index), dtype, lanes)
    }

    /// An operand that reads as `value` everywhere, and keeps nothing that is written to it.
    pub fn absent(mut self, name: &'static str, value: f32) -> Self {
        self.source.bindings.push(Binding::Absent { name, value });
        self
    }

    fn buffer(mut self, name: &'static str, arg: Arg, dtype: DType, lanes: u32) -> Self {
        self.fits &= readable(self.site.caps, dtype);
        let constant = matches!(arg.slot, Slot::Input(i) if self.site.is_weight[i]);
        self.source.bindings.push(Binding::Buffer { name, dtype, lanes, constant });
        self.args.push(arg);
        self
    }

    /// What the device can do.
    pub fn caps(&self) -> &'a Caps {
        self.site.caps
    }

    /// Whether the operand `name` is there and does not fit one binding.
    pub fn too_large(&self, name: &str) -> bool {
        let found = self.buffers().zip(&self.args).find(|((n, _), _)| *n == name);
        found.is_some_and(|(_, arg)| self.bytes(arg.slot) > self.site.caps.max_binding)
    }

    /// Name and element type of each argument.
    fn buffers(&self) -> impl Iterator<Item = (&'static str, DType)> {
        self.source.bindings.iter().filter_map(|b| match b {
            Binding::Buffer { name, dtype, .. } => Some((*name, *dtype)),
            Binding::Absent { .. } | Binding::Map { .. } => None,
        })
    }

    /// Binds only these elements of the operand `name`. Gives the index in the binding of the first of them.
    pub fn cut(&mut self, name: &str, elements: Range<u64>) -> u32 {
        let Some((k, (_, dtype))) = self.buffers().enumerate().find(|(_, (n, _))| *n == name) else { return 0 };
        let size = dtype.size() as u64;
        let start = elements.start * size;
        let offset = start - start % self.site.caps.binding_align;
        self.args[k] = self.args[k].range(offset, elements.end * size - offset);
        ((start - offset) / size) as u32
    }

    /// A launch over the operands as they are bound now. `params` are the fields of the text's `struct Params`, in order: an
    /// array of u32 (floats by `to_bits`), or a `#[repr(C)]` struct. `None` where a grid or a binding is too large.
    pub fn launch<P: NoUninit>(&self, grid: Option<[u32; 3]>, block: [u32; 3], params: &P) -> Option<Launch> {
        self.launch_bytes(grid, block, bytemuck::bytes_of(params).to_vec())
    }

    /// As [`Kernel::launch`], with parameters whose number varies.
    pub fn launch_bytes(&self, grid: Option<[u32; 3]>, block: [u32; 3], params: Vec<u8>) -> Option<Launch> {
        let bound = |arg: &Arg| arg.bytes.unwrap_or_else(|| self.bytes(arg.slot));
        if !self.fits || self.args.iter().any(|a| bound(a) > self.site.caps.max_binding) {
            return None;
        }
        let code = Code::Kernel(self.source.clone());
        Some(Launch { code, grid: grid?, block, shared: 0, args: self.args.clone(), maps: self.maps.clone(), params })
    }

    /// Bytes of an operand in the layout that the kernel sees.
    fn bytes(&self, slot: Slot) -> u64 {
        match slot {
            Slot::Input(i) => match self.prepare.iter().find(|(p, _)| *p == i) {
                Some((_, prepare)) => prepare.desc.bytes(),
                None => self.site.inputs[i].bytes(),
            },
            Slot::Output => self.site.output.bytes(),
            Slot::Scratch => self.scratch,
            Slot::Counters => self.counters,
            Slot::Summary => self.summary.as_ref().map_or(0, |s| s.bytes),
            Slot::SummaryOf(i) => self.site.summaries.get(i).and_then(Option::as_ref).map_or(0, |s| s.bytes),
        }
    }

    /// The lowering to these launches, or `None` where one of them does not fit the device.
    pub fn lower(self, launches: impl IntoIterator<Item = Option<Launch>>) -> Option<Lowering> {
        let launches: Vec<Launch> = launches.into_iter().collect::<Option<_>>()?;
        let Kernel { scratch, prepare, summary, counters, .. } = self;
        (!launches.is_empty()).then_some(Lowering { launches, scratch, prepare, summary, counters })
    }
}

/// Whether kernels of the device can read elements of this type.
fn readable(caps: &Caps, dtype: DType) -> bool {
    match dtype {
        DType::F32 => true,
        DType::F16 => caps.f16,
        DType::BF16 => caps.bf16,
    }
}

/// A weight in another dtype, otherwise as it is stored.
pub(crate) fn as_dtype(stored: TensorDesc, dtype: DType) -> Prepare {
    Prepare {
        layout: format!("as.{dtype}"),
        desc: TensorDesc { dtype, ..stored },
        make: Arc::new(move |view| Ok(view.to_host()?.convert(dtype))),
    }
}

/// A grid of `groups` workgroups in a line, folded where the line is longer than the device allows; the text finds its place
/// by the prelude's `linear_group` and must return where that is beyond the end. `None` for no workgroups or too many.
pub(crate) fn line(caps: &Caps, groups: u64) -> Option<[u32; 3]> {
    let most = u64::from(caps.max_workgroups);
    let rows = groups.div_ceil(most);
    (groups > 0 && rows <= most).then(|| [groups.div_ceil(rows) as u32, rows as u32, 1])
}

/// Divides `rows` into ranges of at most as many rows as let every operand's part fit one binding: `row_bytes` are the bytes
/// of one row of each operand that is cut. All ranges but the last start at multiples of `unit` rows. `None` where not even
/// `unit` rows fit.
pub(crate) fn pieces(caps: &Caps, rows: u64, row_bytes: &[u64], unit: u64) -> Option<Vec<Range<u64>>> {
    let widest = row_bytes.iter().copied().max().unwrap_or(0).max(1);
    // A part that starts inside an aligned unit is bound from the unit's start.
    let most = if rows * widest <= caps.max_binding {
        rows
    } else {
        caps.max_binding.saturating_sub(caps.binding_align) / widest / unit * unit
    };
    if most == 0 {
        return None;
    }
    Some((0..rows.div_ceil(most)).map(|i| i * most..((i + 1) * most).min(rows)).collect())
}

/// Invocations of a workgroup of `kernels/tile.wgsl`.
pub(crate) const TILE_BLOCK: u32 = 128;

/// Columns of its tile.
pub(crate) const TILE_COLUMNS: u64 = 64;

/// Workgroups of tiles that let a large device's units each have one or two.
const TILE_GROUPS: u64 = 128;

/// Tilings that may be asked for: rows and columns.
pub(crate) const TILES: &[&str] = &["16x64", "32x64", "64x64"];

/// `ROWS` of `kernels/tile.wgsl`, whose tile has eight times as many rows: a tall tile reads less for the same work, unless
/// so few of them make up the result that most of a large device would be idle.
pub(crate) fn tile_rows(site: &Site<'_>, rows: u64, columns: u64) -> u64 {
    if let Some(i) = TILES.iter().position(|t| site.tile == Some(t)) {
        return 2 << i;
    }
    let enough = |r: &u64| rows.div_ceil(8 * r) * columns.div_ceil(TILE_COLUMNS) >= TILE_GROUPS;
    [8, 4].into_iter().find(enough).unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use muybridge_runtime::Device;

    fn caps(max_binding: u64) -> Caps {
        let device = Device::open("trace:wgpu").expect("the trace device needs nothing");
        Caps { max_binding, binding_align: 256, ..device.caps().clone() }
    }

    #[test]
    fn a_long_line_is_folded_and_covered() {
        let caps = caps(1 << 20);
        for groups in [1, 65_535, 65_536, 65_537, 1_000_000, 65_535 * 65_535] {
            let [x, y, z] = line(&caps, groups).expect("fits");
            assert!(x <= 65_535 && y <= 65_535 && z == 1);
            let all = u64::from(x) * u64::from(y);
            assert!(groups <= all && all < groups + u64::from(y), "{groups}: {x} by {y}");
        }
        assert_eq!(line(&caps, 0), None);
        assert_eq!(line(&caps, 65_535 * 65_535 + 1), None);
    }

    #[test]
    fn pieces_cover_all_rows_and_fit_wherever_they_start() {
        let caps = caps(4096);
        for (rows, row) in [(1, 4096), (1000, 12), (999, 1000), (7, 3840), (64, 64)] {
            let parts = pieces(&caps, rows, &[row, 4], 1).expect("fits");
            assert_eq!(parts[0].start, 0);
            assert!(parts.windows(2).all(|w| w[0].end == w[1].start));
            assert_eq!(parts[parts.len() - 1].end, rows);
            let bound = |p: &Range<u64>| p.end * row - p.start * row / 256 * 256;
            assert!(parts.iter().all(|p| bound(p) <= 4096), "{rows} rows of {row} bytes");
        }
        assert_eq!(pieces(&caps, 2, &[4000], 1), None, "a row and what lies before it do not fit");
        assert!(pieces(&caps, 1001, &[16], 4).expect("fits").iter().all(|p| p.start % 4 == 0));
    }
}
