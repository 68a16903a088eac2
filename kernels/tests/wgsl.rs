//! Every WGSL variant of every op on the machine's first GPU (or its software driver) against the f64 reference: the short
//! loop of a kernel's author, which needs this crate alone.
//!
//! A trial passes if the error is within tolerance, no element is finite on one side only, the guard bands round every
//! activation are untouched, and a second run over what the first one left gives the same; the arena is poisoned with NaN
//! before the run. Three ways to open the device: with all it has, with bindings so small that operands must be split,
//! and, in a child process each, with other subgroup sizes where the software driver lets us choose.

use std::process::Command;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use muybridge_kernels::{Activation, Case, Elementwise, OPS, Role, TimestepEmbedding};
use muybridge_runtime::{
    DType, Device, DeviceOptions, Graph, HostTensor, Op, Pins, Plan, PlanOptions, Target, Variant,
};

/// Dtypes of the activations, and of the weights as stored.
const NUMBERS: [(DType, DType); 3] = [(DType::F32, DType::F32), (DType::F16, DType::F16), (DType::F32, DType::F16)];

/// Bytes of small bindings: the first cuts maps into a few parts, the second also single rows of them.
const SMALL: [(&str, u64); 2] = [("split", 8192), ("split-fine", 1024)];

/// Bits of lavapipe's vectors: its subgroup has a lane for each 32 of them.
const LANES: &str = "LP_NATIVE_VECTOR_WIDTH";
const WIDTHS: [&str; 3] = ["128", "256", "512"];

fn main() {
    let args = Arguments::from_args();
    let small = SMALL.map(|(label, bytes)| (label, Some(bytes)));
    let mut trials = Vec::new();
    for (label, max_binding) in [("whole", None)].into_iter().chain(small) {
        let options = DeviceOptions { max_binding, ..DeviceOptions::default() };
        match Device::open_with("wgpu:0", &options) {
            Ok(device) => trials.extend(device_trials(label, &device)),
            Err(e) => trials.push(missing(label, &e.to_string())),
        }
    }
    if let Ok(device) = Device::open("wgpu:0") {
        trials.extend(WIDTHS.map(|bits| subgroup_size(bits, &device)));
        trials.push(Trial::test("device/subgroup/whole/size", {
            let device = device.clone();
            move || has_wanted_subgroups(&device)
        }));
        let more: [(&str, Check); 3] = [
            ("elementwise/more_workgroups_than_a_line", long_line),
            ("elementwise/activations_everywhere", activations),
            ("timestep_embedding/angles", angles),
        ];
        trials.extend(more.map(|(name, run)| {
            let device = device.clone();
            Trial::test(name, move || run(&device))
        }));
    }
    libtest_mimic::run(&args, trials).exit();
}

/// A trial of its own on a device.
type Check = fn(&Device) -> Result<(), Failed>;

/// A device that is not there is reported as ignored with its reason; where CI promises it, it fails.
fn missing(label: &str, reason: &str) -> Trial {
    let promised = std::env::var_os("CI").is_some();
    let text = reason.to_string();
    Trial::test(format!("{label} [no device: {reason}]"), move || Err(Failed::from(text))).with_ignored_flag(!promised)
}

/// The trials of the kernels that use subgroups, again with a subgroup of another size.
fn subgroup_size(bits: &'static str, device: &Device) -> Trial {
    let software = device.caps().name.contains("llvmpipe");
    let why = if software { "" } else { " [the size is fixed: not lavapipe]" };
    Trial::test(format!("subgroup_size/{bits}-bits{why}"), move || {
        let mut command = Command::new(std::env::current_exe()?);
        let out = command.env(LANES, bits).args(["/subgroup/whole", "--test-threads=1"]).output()?;
        if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stdout).into_owned().into()) }
    })
    // A child has no children.
    .with_ignored_flag(!software || std::env::var_os(LANES).is_some())
}

/// In a child: the size is what the parent asked for.
fn has_wanted_subgroups(device: &Device) -> Result<(), Failed> {
    let bits: Option<u32> = std::env::var(LANES).ok().and_then(|bits| bits.parse().ok());
    match (bits, device.caps().subgroups) {
        (Some(bits), sizes) if sizes != Some((bits / 32, bits / 32)) => {
            Err(format!("{bits} bits gave subgroups of {sizes:?}").into())
        }
        _ => Ok(()),
    }
}

/// Runs one op on one input, with its only variant that is called `simple`.
fn run_simple(device: &Device, op: impl Op + 'static, x: &HostTensor) -> Result<Vec<f32>, Failed> {
    let mut graph = Graph::new();
    let pins = Pins::exactly(op.name(), "simple");
    let input = graph.input("x", x.desc());
    let y = graph.node("node", op, &[input])?;
    graph.output("y", y);
    let plan = Plan::with(&graph, device, &PlanOptions { pins, guard: 256 })?;
    plan.poison()?;
    let y = plan.run_host(&[x])?.remove(0).to_f32();
    if plan.guards_intact()? { Ok(y) } else { Err("wrote out of bounds".into()) }
}

/// Activations are good to a few roundings near zero, and finite far from it.
fn activations(device: &Device) -> Result<(), Failed> {
    let all = [Activation::Silu, Activation::Gelu, Activation::QuickGelu, Activation::Relu, Activation::Mish];
    let far = [0.0, -0.0, 30.0, -30.0, 90.0, -90.0, 1e4, -1e4, 1e30, -1e30];
    let near = (0..8192).map(|i| (i as f32 - 4096.0) / 400.0);
    let x: Vec<f32> = near.chain(far).collect();
    for activation in all {
        let y = run_simple(device, Elementwise::Activate(activation), &HostTensor::new([x.len()], x.clone())?)?;
        for (x, y) in x.iter().zip(y) {
            let want = activation.exact(f64::from(*x));
            let error = (f64::from(y) - want).abs();
            if error.is_nan() || error > 5e-7 * f64::from(x.abs().max(1.0)) {
                return Err(format!("{activation:?}({x}) is {want}, not {y}").into());
            }
        }
    }
    Ok(())
}

/// Every timestep, and the sizes that SDXL embeds, to 1e-6 of the reference, which rounds the same angle.
fn angles(device: &Device) -> Result<(), Failed> {
    let t: Vec<f32> = (0..1000).chain([1024, 2048, 4096, 6000]).map(|t| t as f32).chain([0.5, 998.75, -3.0]).collect();
    let t = HostTensor::new([t.len()], t)?;
    let op = TimestepEmbedding::new(320, DType::F32);
    let got = run_simple(device, op, &t)?;
    let mut graph = Graph::new();
    let input = graph.input("t", t.desc());
    let y = graph.node("time", op, &[input])?;
    graph.output("y", y);
    let want = Plan::new(&graph, &Device::open("cpu")?)?.run_host(&[&t])?.remove(0).to_f32();
    match got.iter().zip(&want).enumerate().find(|(_, (g, w))| g.is_nan() || (**g - **w).abs() > 1e-6) {
        Some((i, (g, w))) => Err(format!("t {}, column {}: {g} is not {w}", t.to_f32()[i / 320], i % 320).into()),
        None => Ok(()),
    }
}

/// A line of more workgroups than one dimension of a grid may have.
fn long_line(device: &Device) -> Result<(), Failed> {
    let count = 65_535 * 256 + 1000;
    let x = HostTensor::from_fn([count], |i| (i % 4093) as f32);
    let y = run_simple(device, Elementwise::Scale(-1.5), &x)?;
    match (0..count).find(|&i| y[i] != -1.5 * (i % 4093) as f32) {
        Some(i) => Err(format!("element {i}: {}", y[i]).into()),
        None => Ok(()),
    }
}

fn device_trials(label: &'static str, device: &Device) -> Vec<Trial> {
    let mut trials = Vec::new();
    for entry in OPS {
        for case in (entry.cases)().into_iter().filter(|c| !c.full_size) {
            let case = Arc::new(case);
            for (dtype, stored) in NUMBERS {
                let has_weights = case.operands.iter().any(|o| o.role == Role::Weight);
                if (dtype == DType::F16 && !device.caps().f16) || (dtype != stored && !has_weights) {
                    continue;
                }
                let oracle = Arc::new(OnceLock::new());
                for variant in entry.variants.iter().filter(|v| v.target == Target::Wgsl) {
                    if !matches!(case.lower(variant, dtype, device.caps()), Ok(Some(_))) {
                        continue;
                    }
                    let numbers = if dtype == stored { dtype.to_string() } else { format!("{dtype}-on-{stored}") };
                    let name = format!("{}/{}/{}/{label}/{numbers}", entry.name, case.name, variant.name);
                    let (case, device, oracle, variant) = (case.clone(), device.clone(), oracle.clone(), *variant);
                    trials.push(Trial::test(name, move || {
                        check(&case, &variant, &device, (dtype, stored), &oracle).map_err(Failed::from)
                    }));
                }
            }
        }
    }
    trials
}

type Oracle = OnceLock<Result<Vec<f32>, String>>;

fn check(
    case: &Case,
    variant: &Variant,
    device: &Device,
    (dtype, stored): (DType, DType),
    oracle: &Oracle,
) -> Result<(), String> {
    let text = |e: muybridge_runtime::Error| e.to_string();
    let want = oracle.get_or_init(|| reference(case, dtype, stored).map_err(text)).as_ref().map_err(String::clone)?;
    let options = PlanOptions { pins: Pins::exactly(case.op.name(), variant.name), guard: 256 };
    let plan = Plan::with(&case.graph(dtype, stored).map_err(text)?, device, &options).map_err(text)?;
    plan.poison().map_err(text)?;
    let inputs = case.inputs(dtype).map_err(text)?;
    let run = || plan.run_host(&inputs.iter().collect::<Vec<_>>()).map(|mut out| out.remove(0)).map_err(text);
    let got = run()?;
    // Two roundings of the narrowest dtype on the way.
    let half = dtype == DType::F16 || got.dtype() == DType::F16;
    compare(&got.to_f32(), want, if half { 1.5e-3f64.powi(2) } else { 1e-10 })?;
    if !plan.guards_intact().map_err(text)? {
        return Err("wrote out of bounds".into());
    }
    if run()? != got {
        return Err("a second run differs".into());
    }
    Ok(())
}

/// Normalised mean squared error within `tolerance`, and finite together.
fn compare(got: &[f32], want: &[f32], tolerance: f64) -> Result<(), String> {
    let far = |i: &usize| (got[*i] - want[*i]).abs();
    let worst = || {
        let i = (0..want.len()).max_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or(0);
        format!("worst element {i} of {}: {} is not {}", want.len(), got[i], want[i])
    };
    if got.len() != want.len() || got.iter().zip(want).any(|(g, w)| g.is_finite() != w.is_finite()) {
        return Err(format!("not finite where the reference is; {}", worst()));
    }
    let power = want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().max(1e-30);
    let error = got.iter().zip(want).map(|(g, w)| f64::from(g - w).powi(2)).sum::<f64>() / power;
    if error.is_nan() || error > tolerance {
        return Err(format!("NMSE {error:.2e} > {tolerance:.1e}; {}", worst()));
    }
    Ok(())
}

/// The f64 reference on the rounded operands, with its result kept in f32.
fn reference(case: &Case, dtype: DType, stored: DType) -> muybridge_runtime::Result<Vec<f32>> {
    static CPU: OnceLock<Device> = OnceLock::new();
    let cpu = match CPU.get() {
        Some(cpu) => cpu,
        None => {
            let opened = Device::open_with("cpu", &DeviceOptions { threads: Some(1), ..DeviceOptions::default() })?;
            CPU.get_or_init(|| opened)
        }
    };
    let options = PlanOptions { pins: Pins::exactly(case.op.name(), "reference"), guard: 0 };
    let plan = Plan::with(&case.graph(DType::F32, stored)?, cpu, &options)?;
    let inputs: Vec<HostTensor> = case.inputs(dtype)?.iter().map(|t| t.convert(DType::F32)).collect();
    Ok(plan.run_host(&inputs.iter().collect::<Vec<_>>())?.remove(0).to_f32())
}
