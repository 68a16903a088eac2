//! Every CUDA kernel under ThreadSanitizer and AddressSanitizer, at sizes that are small and ragged.

use std::path::Path;

use libtest_mimic::{Failed, Trial};
use muybridge::kernels::{Case, OPS};
use muybridge::runtime::{DType, Device, Pins, Plan, PlanOptions, Result, Target, Variant};

use crate::sanitizer::Sanitizer;

/// Set in the child that runs the kernels.
const CHILD: &str = "MUYBRIDGE_SANITIZED";

/// Work of the largest case that is run wherever there are smaller ones: sanitized threads are up to fifty times slower.
const MOST_FLOP: u64 = 1_000_000;

/// One trial per sanitizer.
pub fn trials(folder: &'static Path) -> [Trial; 2] {
    [Sanitizer::Address, Sanitizer::Thread].map(|sanitizer| {
        let name = format!("every_kernel_passes_the_{}_sanitizer", sanitizer.name());
        sanitizer.trial(&name, move || parent(sanitizer, folder))
    })
}

/// Whether this process is such a child.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

fn parent(sanitizer: Sanitizer, folder: &Path) -> std::result::Result<(), Failed> {
    let out = sanitizer.run(folder, &[], (CHILD, "1"))?;
    let (text, messages) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let reports = sanitizer.reports(&messages);
    if !out.status.success() || reports > 0 {
        // From the case that the first report is about.
        let first = sanitizer.first(&messages).map_or(0, |at| messages[..at].trim_end().rfind('\n').unwrap_or(0));
        let shown: String = messages[first..].chars().take(6000).collect();
        return Err(format!("{}, {reports} reports\n{text}\n{shown}", out.status).into());
    }
    // Every variant says so, or its name is missing.
    let missing = variants().find(|(op, v)| !text.contains(&format!("{op}:{} passes", v.name)));
    match missing {
        Some((op, v)) => Err(format!("{op}:{} was not run\n{text}", v.name).into()),
        None => Ok(()),
    }
}

fn variants() -> impl Iterator<Item = (&'static str, &'static Variant)> {
    OPS.iter().flat_map(|e| e.variants.iter().filter(|v| v.target == Target::Cuda).map(|v| (e.name, v)))
}

/// Runs every variant on its small cases, in both orders of threads that matter most: in turn, and at random with late copies.
pub fn child() -> Result<()> {
    for device in ["cuda:0", "cuda:6"].map(Device::open) {
        let device = device?;
        for (op, variant) in variants() {
            let entry = OPS.iter().find(|e| e.name == op);
            let cases = entry.map_or_else(Vec::new, |e| (e.cases)());
            let mut runs = 0;
            for dtype in [DType::F16, DType::F32] {
                if dtype == DType::F32 && device.name() != "cuda:0" {
                    continue;
                }
                let mut fitting: Vec<(u64, &Case)> = cases
                    .iter()
                    .filter(|c| !c.full_size)
                    .filter(|c| matches!(c.lower(variant, dtype, device.caps()), Ok(Some(_))))
                    .map(|c| Ok((work(c, dtype)?, c)))
                    .collect::<Result<_>>()?;
                fitting.sort_by_key(|(flop, _)| *flop);
                let small = fitting.iter().filter(|(flop, _)| *flop <= MOST_FLOP).count().max(2).min(fitting.len());
                for (_, case) in &fitting[..small] {
                    eprintln!("{op}/{}/{}/{dtype}/{}", case.name, variant.name, device.name());
                    run(case, dtype, op, variant, &device)?;
                    runs += 1;
                }
            }
            println!("{op}:{} passes in {runs} runs on {}", variant.name, device.name());
        }
    }
    Ok(())
}

fn work(case: &Case, dtype: DType) -> Result<u64> {
    let graph = case.graph(dtype, dtype)?;
    Ok(Plan::new(&graph, &Device::open("trace:cpu")?)?.report().cost().flop)
}

fn run(case: &Case, dtype: DType, op: &'static str, variant: &Variant, device: &Device) -> Result<()> {
    let options = PlanOptions { pins: Pins::exactly(op, variant.name), guard: 256 };
    let plan = Plan::with(&case.graph(dtype, dtype)?, device, &options)?;
    plan.poison()?;
    let inputs = case.inputs(dtype)?;
    plan.run_host(&inputs.iter().collect::<Vec<_>>()).map(drop)
}
