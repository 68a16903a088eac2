//! Two ops for the tests: one with operands of every kind and parameters, split where it must be; one with neither.

use muybridge_runtime::source::{Binding, Constant};
use muybridge_runtime::{
    Arg, Code, Cost, DType, KernelSource, Launch, Lowering, Mismatch, Op, Site, Target, TensorDesc, Variant,
};

/// Invocations per workgroup.
const GROUP: u64 = 64;

/// `out = scale * x + w`.
#[derive(Debug)]
pub struct ScaleAdd(pub f32);

const SCALE_ADD: &[Variant] = &[Variant { name: "simple", target: Target::Wgsl, launches: 1 }];
const NEGATE: &[Variant] = &[Variant { name: "simple", target: Target::Wgsl, launches: 1 }];

impl Op for ScaleAdd {
    fn name(&self) -> &'static str {
        "scale_add"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        match inputs {
            [x, w] if x == w => Ok(*x),
            _ => Err(Mismatch("two equal operands".into())),
        }
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        Cost::with_traffic(2 * output.shape.count() as u64, inputs, output)
    }

    fn variants(&self) -> &'static [Variant] {
        SCALE_ADD
    }

    fn lower(&self, _: &Variant, site: &Site<'_>) -> Option<Lowering> {
        let caps = site.caps;
        if site.output.dtype == DType::F16 && !caps.f16 {
            return None;
        }
        let (total, size) = (site.output.bytes(), site.output.dtype.size() as u64);
        let dtype = site.output.dtype;
        let buffer = |name, constant| Binding::Buffer { name, dtype, lanes: 1, constant };
        let source = KernelSource {
            file: "runtime/tests/wgpu/scale_add.wgsl",
            text: include_str!("scale_add.wgsl"),
            entry: "scale_add",
            bindings: vec![buffer("x", site.is_weight[0]), buffer("w", site.is_weight[1]), buffer("out", false)],
            ..KernelSource::default()
        };
        let mut launches = Vec::new();
        let mut start = 0;
        while start < total {
            let bytes = (total - start).min(caps.max_binding);
            let count = bytes / size;
            let groups = count.div_ceil(GROUP);
            let width = groups.min(u64::from(caps.max_workgroups));
            let params = [count as u32, width as u32, self.0.to_bits()];
            let args = [Arg::input(0), Arg::input(1), Arg::output()];
            launches.push(Launch {
                code: Code::Kernel(source.clone()),
                grid: [width as u32, groups.div_ceil(width) as u32, 1],
                block: [GROUP as u32, 1, 1],
                shared: 0,
                args: args.map(|a| a.range(start, bytes)).to_vec(),
                maps: Vec::new(),
                params: params.iter().flat_map(|p| p.to_le_bytes()).collect(),
            });
            start += bytes;
        }
        Some(Lowering { launches, ..Lowering::default() })
    }
}

/// `out = -x` by one of several texts.
#[derive(Debug)]
pub struct Negate(pub &'static str);

/// The plain kernel.
pub const PLAIN: &str = include_str!("negate.wgsl");
/// The kernel by way of a subgroup operation.
pub const SUBGROUP: &str = include_str!("negate_subgroup.wgsl");
/// No kernel: a text that every compiler refuses.
pub const BROKEN: &str = "fn negate() { not WGSL }";

impl Op for Negate {
    fn name(&self) -> &'static str {
        "negate"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        match inputs {
            [x] => Ok(*x),
            _ => Err(Mismatch("one operand".into())),
        }
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        Cost::with_traffic(output.shape.count() as u64, inputs, output)
    }

    fn variants(&self) -> &'static [Variant] {
        NEGATE
    }

    fn lower(&self, _: &Variant, site: &Site<'_>) -> Option<Lowering> {
        let count = site.output.shape.count() as u32;
        let source = KernelSource {
            file: "runtime/tests/wgpu/negate.wgsl",
            text: self.0,
            entry: "negate",
            constants: vec![("COUNT", Constant::U32(count))],
            ..KernelSource::default()
        };
        let launch = Launch {
            code: Code::Kernel(source),
            grid: [count.div_ceil(GROUP as u32), 1, 1],
            block: [GROUP as u32, 1, 1],
            shared: 0,
            args: vec![Arg::input(0), Arg::output()],
            maps: Vec::new(),
            params: Vec::new(),
        };
        Some(Lowering { launches: vec![launch], ..Lowering::default() })
    }
}
