//! What the runtime knows of an operation: how it infers, what it costs, and what it lowers to.
//!
//! A lowering is plain data: launches with their source, geometry, arguments and parameters. An op never calls a driver.

use std::fmt;
use std::sync::Arc;

use crate::backend::{Caps, Target};
use crate::error::Result;
use crate::host::{HostTensor, TensorView, TensorViewMut};
use crate::tensor::TensorDesc;

/// An operation on dense tensors with one output.
pub trait Op: fmt::Debug + Send + Sync {
    /// The op's name: also its folder, its kernels' entry and the first word of test and bench ids.
    fn name(&self) -> &'static str;

    /// Checks the operands and gives the output's description.
    ///
    /// # Errors
    /// Says what was wanted and what was there.
    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch>;

    /// Floating-point operations and memory traffic that the mathematics needs (not what a kernel happens to do).
    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost;

    /// Every kernel of the op, the preferred one first for each target.
    fn variants(&self) -> &'static [Variant];

    /// Launches of `variant` for these operands, or `None` where it does not fit the shapes or the device.
    fn lower(&self, variant: &Variant, site: &Site<'_>) -> Option<Lowering>;

    /// Names of the tilings that [`Site::tile`] may ask of `variant`; none where it has no parameters to choose.
    fn tiles(&self, _variant: &Variant) -> &'static [&'static str] {
        &[]
    }

    /// Whether a kernel of the op could use a [`Summary`] of this operand instead of reading it once more.
    fn reads_summary(&self, _operand: usize) -> bool {
        false
    }

    /// Whether `variant` is chosen by a pin only: because its numbers are not those that the dtypes promise, or because it has
    /// not been compared on hardware yet.
    fn by_pin(&self, _variant: &Variant) -> bool {
        false
    }

    /// What tells this op from others of its name, apart from what cannot change its speed: with the operands, the key of
    /// what was measured.
    fn identity(&self) -> String {
        format!("{self:?}")
    }

    /// Changes whenever the sources of its host kernels do, so that what was measured is measured again.
    fn revision(&self) -> &'static str {
        ""
    }
}

/// Why operands do not fit an op: what was wanted and what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch(pub String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mismatch {}

/// Work of a node: 2 flop per multiply-add, and each operand moved once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations.
    pub flop: u64,
    /// Bytes read from memory.
    pub read: u64,
    /// Bytes written to memory.
    pub write: u64,
}

impl Cost {
    /// A cost whose traffic is every operand once.
    pub fn with_traffic(flop: u64, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        Cost { flop, read: inputs.iter().map(TensorDesc::bytes).sum(), write: output.bytes() }
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, o: Cost) {
        self.flop += o.flop;
        self.read += o.read;
        self.write += o.write;
    }
}

/// One way to run an op: a function in the op's folder and, for a GPU, one source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// What differs from its siblings: `reference`, `simple`, `tiled`, `one_pass`, …
    pub name: &'static str,
    /// The kind of device it runs on.
    pub target: Target,
    /// The most launches it ever lowers to while every tensor fits one binding.
    pub launches: u32,
}

/// Where an op is lowered: its operands, and what the device can do.
#[derive(Debug)]
pub struct Site<'a> {
    /// Operands, in the op's order.
    pub inputs: &'a [TensorDesc],
    /// For each operand, whether it is a weight (constant, and available in another layout by [`Prepare`]).
    pub is_weight: &'a [bool],
    /// The result.
    pub output: TensorDesc,
    /// The device's limits and features.
    pub caps: &'a Caps,
    /// The tiling that is asked for, one of [`Op::tiles`]; the variant's own choice where `None`.
    pub tile: Option<&'static str>,
    /// Whether a node that reads the result would take a summary of it.
    pub summarise: bool,
    /// The summary of each operand that comes with one; shorter than `inputs` where no later one does.
    pub summaries: &'a [Option<Summary>],
}

/// A small second result, made while the first is still in registers: what a node that reads the first would otherwise have to
/// gather by reading it once more, sums say. What it holds is between the two ops; the runtime knows only its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What it holds, by the name that both ops have for it.
    pub kind: &'static str,
    /// Its extents, as `kind` defines them.
    pub extents: [usize; 4],
    /// Its size.
    pub bytes: u64,
}

/// What a variant lowers to.
#[derive(Clone, Debug, Default)]
pub struct Lowering {
    /// Launches, in order. A launch sees everything that those before it wrote.
    pub launches: Vec<Launch>,
    /// Bytes of scratch memory that all launches of the node share.
    pub scratch: u64,
    /// Bytes of memory that is zero before the first launch, and that the last one leaves zero. All nodes of a plan share it.
    pub counters: u64,
    /// Weights that are wanted in another layout: operand index and layout.
    pub prepare: Vec<(usize, Prepare)>,
    /// The summary of the result that the launches write, where the site asks for one and the variant has one.
    pub summary: Option<Summary>,
}

/// The function of a [`Prepare`].
pub type PrepareFn = Arc<dyn Fn(TensorView<'_>) -> Result<HostTensor> + Send + Sync>;

/// A layout of a weight that a kernel wants instead of the stored one. A device keeps one copy per layout.
#[derive(Clone)]
pub struct Prepare {
    /// Name of the layout, equal for equal functions: `ohwi.f32`, `geglu_interleaved.f16`.
    pub layout: String,
    /// What comes out.
    pub desc: TensorDesc,
    /// Makes it from the stored tensor. Runs once per device, when a plan is made.
    pub make: PrepareFn,
}

impl fmt::Debug for Prepare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prepare({} → {})", self.layout, self.desc)
    }
}

/// One kernel launch, as data.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What runs.
    pub code: Code,
    /// Workgroups (blocks) per dimension; `[1, 1, 1]` for host code.
    pub grid: [u32; 3],
    /// Invocations (threads) per workgroup and dimension.
    pub block: [u32; 3],
    /// Bytes of dynamic workgroup (shared) memory.
    pub shared: u32,
    /// Buffers: inputs in order, then output, then scratch, as the source binds them.
    pub args: Vec<Arg>,
    /// Arguments as boxes of them are copied (CUDA only).
    pub maps: Vec<BoxMap>,
    /// One struct of 32-bit fields, the same bytes for every kernel language.
    pub params: Vec<u8>,
}

/// An argument as hardware copies boxes of it to shared memory (a tensor map of compute capability 9.0): dense elements of 16
/// bits. What a box holds beyond the edges is zeros. A box of 64 columns has rows of 128 bytes, in groups of eight, with chunk
/// c of row r at place c ^ r % 8; one of 8 columns has rows of 16 bytes, as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxMap {
    /// Index of the argument.
    pub arg: usize,
    /// Its extents, the innermost first; that one is a multiple of 8.
    pub extents: [u32; 4],
    /// Extents of a box, the innermost first (64 or 8); all outer ones together are its rows.
    pub of_box: [u32; 4],
}

/// What a launch runs.
#[derive(Clone, Debug)]
pub enum Code {
    /// A kernel that the device's compiler builds from source.
    Kernel(KernelSource),
    /// A function that runs on the host's threads.
    Host(HostKernel),
}

/// A kernel's source, specialised by constants and bindings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelSource {
    /// Path of the source file in the repository, for messages and profiles.
    pub file: &'static str,
    /// Functions that all kernels of a language share, put before the file's text.
    pub prelude: &'static str,
    /// The file's text.
    pub text: &'static str,
    /// Entry point.
    pub entry: &'static str,
    /// Constants that the generated header defines, in order.
    pub constants: Vec<(&'static str, crate::source::Constant)>,
    /// Buffers that the generated header declares, in the order of the launch's arguments; a text that declares its own
    /// buffers has none here.
    pub bindings: Vec<crate::source::Binding>,
}

/// A host function and its name.
#[derive(Clone)]
pub struct HostKernel {
    /// Name for profiles.
    pub name: &'static str,
    /// The function.
    pub run: HostFn,
}

impl fmt::Debug for HostKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKernel({})", self.name)
    }
}

/// The function of a [`HostKernel`]. It runs inside the device's thread pool and may fork in it.
pub type HostFn = Arc<dyn Fn(HostCall<'_>) + Send + Sync>;

/// Operands of a host kernel. All are aligned to 64 bytes, and the output and scratch overlap nothing.
#[derive(Debug)]
pub struct HostCall<'a> {
    /// The launch's arguments in slot `Input`, in the order of its `args`.
    pub inputs: &'a [TensorView<'a>],
    /// The node's output.
    pub output: TensorViewMut<'a>,
    /// The node's scratch, with arbitrary contents.
    pub scratch: &'a mut [u8],
}

/// Which operand an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// An operand by index.
    Input(usize),
    /// The result.
    Output,
    /// The node's scratch memory.
    Scratch,
    /// The plan's counters, zero between nodes.
    Counters,
    /// The summary of the result.
    Summary,
    /// The summary of an operand by index.
    SummaryOf(usize),
}

/// How a kernel uses an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads it.
    Read,
    /// Writes it, and may read it.
    Write,
}

/// A buffer argument: a byte range of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Which operand.
    pub slot: Slot,
    /// First byte; a multiple of the device's binding alignment.
    pub offset: u64,
    /// Bytes; `None` reaches to the operand's end.
    pub bytes: Option<u64>,
    /// How the kernel uses it.
    pub access: Access,
}

impl Arg {
    /// A whole operand that is read.
    pub const fn input(index: usize) -> Arg {
        Arg { slot: Slot::Input(index), offset: 0, bytes: None, access: Access::Read }
    }

    /// The whole output, written.
    pub const fn output() -> Arg {
        Arg { slot: Slot::Output, offset: 0, bytes: None, access: Access::Write }
    }

    /// The whole scratch, written.
    pub const fn scratch() -> Arg {
        Arg { slot: Slot::Scratch, offset: 0, bytes: None, access: Access::Write }
    }

    /// The plan's counters, written.
    pub const fn counters() -> Arg {
        Arg { slot: Slot::Counters, offset: 0, bytes: None, access: Access::Write }
    }

    /// The summary of the result, written.
    pub const fn summary() -> Arg {
        Arg { slot: Slot::Summary, offset: 0, bytes: None, access: Access::Write }
    }

    /// The summary of an operand, read.
    pub const fn summary_of(index: usize) -> Arg {
        Arg { slot: Slot::SummaryOf(index), ..Arg::input(index) }
    }

    /// The same operand cut to `bytes` from `offset`.
    pub const fn range(mut self, offset: u64, bytes: u64) -> Arg {
        self.offset = offset;
        self.bytes = Some(bytes);
        self
    }

    /// The same argument, only read.
    pub const fn read_only(mut self) -> Arg {
        self.access = Access::Read;
        self
    }
}

impl Lowering {
    /// A lowering to one host function over all operands.
    pub fn host(name: &'static str, inputs: usize, scratch: u64, run: HostFn) -> Lowering {
        let mut args: Vec<Arg> = (0..inputs).map(Arg::input).collect();
        args.push(Arg::output());
        if scratch > 0 {
            args.push(Arg::scratch());
        }
        let code = Code::Host(HostKernel { name, run });
        let launch =
            Launch { code, grid: [1; 3], block: [1; 3], shared: 0, args, maps: Vec::new(), params: Vec::new() };
        Lowering { launches: vec![launch], scratch, ..Lowering::default() }
    }
}
