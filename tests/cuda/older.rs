//! Kernels on devices of other compute capabilities: which of them fit there, in how much shared memory, and that they are
//! right, also where the compiler fuses products and sums as NVIDIA's does.

use std::process::Command;

use libtest_mimic::{Failed, Trial};
use muybridge::kernels::{Case, OPS};
use muybridge::runtime::{DType, Device, HostTensor, Pins, Plan, PlanOptions, Result, Target, Variant};

/// Set in a child that runs the kernels.
const CHILD: &str = "MUYBRIDGE_OLDER";

/// Capabilities, whether products and sums are fused, and kernels of f16 that must fit one case at least.
const WANTED: [(&str, bool, &[&str]); 4] = [
    (
        "75",
        false,
        &["matmul:mma", "matmul:few_rows", "conv2d:mma", "attention:mma", "attention:few_keys", "attention:frames"],
    ),
    ("80", false, &["matmul:split_k", "conv2d:split_k", "attention:mma", "attention:wide", "group_norm:two_pass"]),
    ("86", false, &["matmul:split_k", "conv2d:mma", "attention:mma", "attention:wide"]),
    ("86", true, &["attention:mma", "attention:few_keys", "attention:frames", "attention:wide", "group_norm:two_pass"]),
];

/// Work of the largest case that is run.
const MOST_FLOP: u64 = 20_000_000;

/// One trial per capability.
pub fn trials() -> Vec<Trial> {
    let trial = |(capability, fused, wanted): (&'static str, bool, &'static [&'static str])| {
        let how = if fused { "_with_fused_products_and_sums" } else { "" };
        let name = format!("kernels_of_compute_capability_{capability}{how}");
        Trial::test(name, move || parent(capability, fused, wanted))
    };
    WANTED.into_iter().map(trial).collect()
}

/// Whether this process is such a child.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

fn parent(capability: &str, fused: bool, wanted: &[&str]) -> std::result::Result<(), Failed> {
    let mut child = Command::new(std::env::current_exe()?);
    child.env(CHILD, "1").env("EMULATOR_CAPABILITY", capability);
    if fused {
        // Kept kernels are those of another compiler.
        child.env("EMULATOR_FUSE", "1").env("MUYBRIDGE_CACHE", "");
    }
    let out = child.output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let missing = wanted.iter().find(|w| !text.lines().any(|line| line == **w));
    let unwanted = |line: &&str| line.ends_with(":wgmma") || line.contains("is wrong");
    if let Some(first) = text.lines().find(unwanted) {
        return Err(format!("{first}, compute capability {capability}").into());
    }
    match missing {
        None if out.status.success() => Ok(()),
        _ => Err(format!("{missing:?} did not run\n{text}\n{}", String::from_utf8_lossy(&out.stderr)).into()),
    }
}

/// Runs every variant in f16 on the cases that are not large, and names those that were right.
pub fn child() -> Result<()> {
    let device = Device::open("cuda:0")?;
    for entry in OPS {
        for variant in entry.variants.iter().filter(|v| v.target == Target::Cuda && v.name != "simple") {
            let mut runs = 0;
            for case in (entry.cases)().iter().filter(|c| !c.full_size) {
                if !matches!(case.lower(variant, DType::F16, device.caps()), Ok(Some(_))) || work(case)? > MOST_FLOP {
                    continue;
                }
                let (got, want) = (run(case, variant, &device)?, reference(case)?);
                let power: f64 = want.iter().map(|w| f64::from(*w).powi(2)).sum();
                let error: f64 = got.iter().zip(&want).map(|(g, w)| f64::from(g - w).powi(2)).sum();
                if error.is_nan() || error > 1e-6 * power.max(1e-30) {
                    println!("{}:{} is wrong on {}", entry.name, variant.name, case.name);
                    continue;
                }
                runs += 1;
            }
            if runs > 0 {
                println!("{}:{}", entry.name, variant.name);
            }
        }
    }
    Ok(())
}

fn work(case: &Case) -> Result<u64> {
    let graph = case.graph(DType::F16, DType::F16)?;
    Ok(Plan::new(&graph, &Device::open("trace:cpu")?)?.report().cost().flop)
}

fn run(case: &Case, variant: &Variant, device: &Device) -> Result<Vec<f32>> {
    let options = PlanOptions { pins: Pins::exactly(case.op.name(), variant.name), guard: 256 };
    let plan = Plan::with(&case.graph(DType::F16, DType::F16)?, device, &options)?;
    plan.poison()?;
    values(&plan, case.inputs(DType::F16)?)
}

fn reference(case: &Case) -> Result<Vec<f32>> {
    let options = PlanOptions { pins: Pins::exactly(case.op.name(), "reference"), guard: 0 };
    let plan = Plan::with(&case.graph(DType::F32, DType::F16)?, &Device::open("cpu")?, &options)?;
    values(&plan, case.inputs(DType::F16)?.iter().map(|t| t.convert(DType::F32)).collect())
}

fn values(plan: &Plan, inputs: Vec<HostTensor>) -> Result<Vec<f32>> {
    Ok(plan.run_host(&inputs.iter().collect::<Vec<_>>())?.remove(0).to_f32())
}
