//! Every op × case × CPU variant × dtype against the f64 reference: this crate's own quick loop, without the other devices.
//!
//! `CPU_TEST=conv2d/up cargo test -p muybridge-kernels --test cpu` runs the rows whose id contains the text.

use muybridge_kernels::{Case, OPS, Role};
use muybridge_runtime::{DType, Device, DeviceOptions, HostTensor, Pins, Plan, PlanOptions, Target, Variant};

/// Dtype of the activations, dtype of the stored weights, highest normalised mean squared error.
const NUMBERS: [(DType, DType, f64); 4] = [
    (DType::F32, DType::F32, 1e-10),
    (DType::F32, DType::F16, 1e-10),
    (DType::F16, DType::F16, 1e-6),
    (DType::BF16, DType::BF16, 6.4e-5),
];

#[test]
fn every_variant_meets_its_reference() {
    let filter = std::env::var("CPU_TEST").unwrap_or_default();
    // More threads than cores, and one alone: tasks fall differently.
    let open = |n| Device::open_with("cpu", &DeviceOptions { threads: Some(n), ..DeviceOptions::default() });
    let devices = [open(3).unwrap(), open(1).unwrap()];
    let (mut ran, mut failures) = (0, Vec::new());
    for entry in OPS {
        for case in (entry.cases)().iter().filter(|c| !c.full_size) {
            for (dtype, stored, tolerance) in NUMBERS {
                let weights = case.operands.iter().any(|o| o.role == Role::Weight);
                let id = format!("{}/{}/{dtype}/{stored}", entry.name, case.name);
                if !id.contains(&filter) || (dtype != stored && !weights) {
                    continue;
                }
                let want = reference(case, dtype, stored, &devices[1]);
                for (variant, device) in entry.variants.iter().flat_map(|v| devices.iter().map(move |d| (v, d))) {
                    let fits = || matches!(case.lower(variant, dtype, device.caps()), Ok(Some(_)));
                    if variant.target != Target::Cpu || variant.name == "reference" || !fits() {
                        continue;
                    }
                    ran += 1;
                    let error = error(case, variant, device, (dtype, stored), &want);
                    if std::env::var_os("CPU_TEST").is_some() {
                        println!(
                            "{id}/{}: relative rms {:.2e}",
                            variant.name,
                            error.as_ref().map_or(f64::NAN, |e| e.sqrt())
                        );
                    }
                    if error.as_ref().is_ok_and(|e| *e <= tolerance) {
                        continue;
                    }
                    failures.push(format!(
                        "{id}/{}/{}: {error:?} > {tolerance:e}",
                        variant.name,
                        device.caps().threads
                    ));
                }
            }
        }
    }
    println!("{ran} trials");
    assert!(failures.is_empty(), "{} of {ran} failed:\n{}", failures.len(), failures.join("\n"));
}

/// The result in f32 of the f64 reference on rounded operands.
fn reference(case: &Case, dtype: DType, stored: DType, device: &Device) -> Vec<f32> {
    let pins = Pins::exactly(case.op.name(), "reference");
    let plan = Plan::with(&case.graph(DType::F32, stored).unwrap(), device, &PlanOptions { pins, guard: 0 }).unwrap();
    let inputs: Vec<HostTensor> = case.inputs(dtype).unwrap().iter().map(|t| t.convert(DType::F32)).collect();
    plan.run_host(&inputs.iter().collect::<Vec<_>>()).unwrap().remove(0).to_f32()
}

fn error(
    case: &Case,
    variant: &Variant,
    device: &Device,
    (dtype, stored): (DType, DType),
    want: &[f32],
) -> Result<f64, String> {
    let pins = Pins::exactly(case.op.name(), variant.name);
    let graph = case.graph(dtype, stored).map_err(|e| e.to_string())?;
    let plan = Plan::with(&graph, device, &PlanOptions { pins, guard: 256 }).map_err(|e| e.to_string())?;
    let inputs = case.inputs(dtype).map_err(|e| e.to_string())?;
    let inputs: Vec<&HostTensor> = inputs.iter().collect();
    let run = || -> Result<Vec<f32>, String> {
        plan.poison().map_err(|e| e.to_string())?;
        let y = plan.run_host(&inputs).map_err(|e| e.to_string())?.remove(0).to_f32();
        if !plan.guards_intact().map_err(|e| e.to_string())? {
            return Err("wrote out of bounds".into());
        }
        Ok(y)
    };
    let got = run()?;
    if run()? != got {
        return Err("a second run differs".into());
    }
    if got.iter().zip(want).any(|(g, w)| g.is_finite() != w.is_finite()) {
        return Err("not finite where the reference is".into());
    }
    let power: f64 = want.iter().map(|w| f64::from(*w).powi(2)).sum();
    Ok(got.iter().zip(want).map(|(g, w)| f64::from(g - w).powi(2)).sum::<f64>() / power.max(1e-30))
}
