//! Times whole networks with random weights on one device.
//!
//! Ids are `model/part/shape/device`. `MUYBRIDGE_BENCH_DEVICE` chooses the device (default `auto`). A run ends when its result is on the host.
//!
//!     cargo bench --bench models -- sd15-unet

use criterion::{Criterion, criterion_group, criterion_main};
use muybridge::presets::Preset;
use muybridge::runtime::Weight;
use muybridge::{ControlNet, DType, Device, Plan, Result, Tensor, Unet, UnetShape, Vae, VaeShape, Weights};

fn models(c: &mut Criterion) {
    let name = std::env::var("MUYBRIDGE_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    if let Err(e) = on_device(c, &name) {
        eprintln!("{e}");
        std::process::exit(2);
    }
}

fn on_device(c: &mut Criterion, name: &str) -> Result<()> {
    let device = Device::open(name)?;
    let dtype = if device.name() == "cpu" || !device.caps().f16 { DType::F32 } else { DType::F16 };
    let weights = || Weights::procedural(0, dtype);
    for side in [32, 64] {
        let shape = UnetShape { height: side, width: side, dtype, ..UnetShape::default() };
        time(c, &format!("sd15-unet/step/{side}x{side}"), &device, || {
            let unet = Unet::of(&Preset::find("sd15-unet")?.config()?, weights(), &device)?;
            Ok(unet.plan(shape)?.into_step_plan())
        })?;
        time(c, &format!("sd15-controlnet/step/{side}x{side}"), &device, || {
            let net = ControlNet::of(&Preset::find("sd15-controlnet")?.config()?, weights(), &device)?;
            Ok(net.plan(shape)?.into_step_plan())
        })?;
        time(c, &format!("sd-vae/decode/{side}x{side}"), &device, || {
            let vae = Vae::of(&Preset::find("sd-vae")?.config()?, weights(), &device)?;
            vae.decoder(VaeShape { batch: 1, height: side, width: side, dtype })
        })?;
    }
    Ok(())
}

/// One row. The plan is made only if its id passes the filter: criterion calls the closure then.
fn time(c: &mut Criterion, id: &str, device: &Device, make: impl Fn() -> Result<Plan>) -> Result<()> {
    let mut group = c.benchmark_group(id);
    group.sample_size(10);
    let mut failure = Ok(());
    group.bench_function(device.name(), |b| {
        let ready = || -> Result<(Plan, Vec<Tensor>, Vec<Tensor>)> {
            let plan = make()?;
            let noise = |(i, (name, desc))| -> Result<Tensor> {
                Ok(device.tensor(&Weight::procedural(name, desc, i as u64, 1.0, 0.0).read()?)?)
            };
            let inputs = plan.inputs().enumerate().map(noise).collect::<Result<_>>()?;
            let outputs = plan.empty_outputs()?;
            Ok((plan, inputs, outputs))
        };
        match ready() {
            Err(e) => failure = Err(e),
            Ok((plan, inputs, outputs)) => {
                let inputs: Vec<&Tensor> = inputs.iter().collect();
                b.iter(|| {
                    let ran = plan.run_into(&inputs, &outputs).and_then(|()| outputs[0].to_host());
                    if let Err(e) = ran {
                        failure = Err(e.into());
                    }
                });
            }
        }
    });
    group.finish();
    failure
}

criterion_group!(benches, models);
criterion_main!(benches);
