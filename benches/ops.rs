//! Times every op × full-size case × variant on one device: the rows of the ops' own tables.
//!
//! Ids are `op/case/variant/device`; throughput is in floating-point operations. `MUYBRIDGE_BENCH_DEVICE` chooses the device
//! (default `auto`). Times are of the device's own clock; weights and activations are cold from the last iteration's point of
//! view only where they exceed the caches. The f64 reference is not timed.
//!
//!     cargo bench --bench ops -- conv2d/unet_down0

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use muybridge::kernels::{Case, OPS};
use muybridge::runtime::{DType, Device, Pins, Plan, PlanOptions, Result, Tensor, Variant};

fn ops(c: &mut Criterion) {
    let name = std::env::var("MUYBRIDGE_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    let device = match Device::open(&name) {
        Ok(device) => device,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(2);
        }
    };
    let dtype = if device.name().starts_with("cpu") || !device.caps().f16 { DType::F32 } else { DType::F16 };
    for entry in OPS {
        for case in (entry.cases)().into_iter().filter(|c| c.full_size) {
            for variant in entry.variants.iter().filter(|v| v.target == device.caps().target && v.name != "reference") {
                if matches!(case.lower(variant, dtype, device.caps()), Ok(Some(_)))
                    && let Err(e) = time(c, &case, variant, &device, dtype)
                {
                    eprintln!("{}/{}/{}: {e}", entry.name, case.name, variant.name);
                    std::process::exit(1);
                }
            }
        }
    }
}

/// One row. The plan is made only if the row's id passes the filter: criterion calls the closure then.
fn time(c: &mut Criterion, case: &Case, variant: &Variant, device: &Device, dtype: DType) -> Result<()> {
    let graph = case.graph(dtype, dtype)?;
    let cost = graph.cost(&graph.nodes()[0]);
    let mut group = c.benchmark_group(format!("{}/{}", case.op.name(), case.name));
    group.throughput(Throughput::Elements(cost.flop.max(1))).sample_size(10);
    let mut failure = Ok(());
    group.bench_function(format!("{}/{}", variant.name, device.name()), |b| {
        let timed = || -> Result<(Plan, Vec<Tensor>, Vec<Tensor>)> {
            let options = PlanOptions { pins: Pins::exactly(case.op.name(), variant.name), guard: 0 };
            let plan = Plan::with(&graph, device, &options)?;
            let inputs = case.inputs(dtype)?.iter().map(|t| device.tensor(t)).collect::<Result<Vec<_>>>()?;
            let outputs = plan.empty_outputs()?;
            Ok((plan, inputs, outputs))
        };
        match timed() {
            Err(e) => failure = Err(e),
            Ok((plan, inputs, outputs)) => {
                let inputs: Vec<&Tensor> = inputs.iter().collect();
                b.iter_custom(|n| {
                    let mut total = Duration::ZERO;
                    for _ in 0..n {
                        match plan.profile(&inputs, &outputs) {
                            Ok(profile) => total += Duration::from_secs_f64(profile.busy()),
                            Err(e) => failure = Err(e),
                        }
                    }
                    // Criterion divides by it.
                    total.max(Duration::from_nanos(1))
                });
            }
        }
    });
    group.finish();
    failure
}

criterion_group!(benches, ops);
criterion_main!(benches);
