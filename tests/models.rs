//! Networks against recorded cases of other implementations: one trial per case, call, device and dtype.
//!
//! Cases lie in `tests/golden`; `MUYBRIDGE_GOLDEN` names a folder with more of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use muybridge::case::{Case, Verdict};
use muybridge::runtime::{DType, Device, HostTensor, Tensor};
use muybridge::{Unet, UnetShape};

/// A device, or why it is missing.
type Opened = Result<Device, String>;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    let devices = devices();
    for dir in folders() {
        match Case::open(&dir) {
            Ok(case) if Case::KINDS.contains(&case.kind()) => add(&mut trials, Arc::new(case), &devices),
            Ok(_) => {}
            Err(e) => trials.push(Trial::test(dir.display().to_string(), move || Err(Failed::from(e.to_string())))),
        }
    }
    trials.push(Trial::test("features_of_a_clip_serve_every_step", || features().map_err(|e| e.to_string().into())));
    libtest_mimic::run(&arguments, trials).exit();
}

fn devices() -> Vec<(&'static str, Opened, &'static [DType])> {
    let open = |name: &str| Device::open(name).map_err(|e| e.to_string());
    let mut list: Vec<(_, _, &[DType])> = vec![("cpu", open("cpu"), &[DType::F32, DType::F16, DType::BF16])];
    if cfg!(feature = "wgpu") {
        list.push(("wgpu", open("wgpu:0"), &[DType::F32, DType::F16]));
    }
    // Where there is no such GPU, the test `cuda` runs the same cases on the emulator.
    if let Ok(cuda) = Device::open("cuda:0") {
        list.push(("cuda", Ok(cuda), &[DType::F32, DType::F16, DType::BF16]));
    }
    list
}

fn folders() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let more = std::env::var_os("MUYBRIDGE_GOLDEN").map(PathBuf::from);
    let mut folders: Vec<PathBuf> = [own]
        .into_iter()
        .chain(more)
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flat_map(|entries| entries.filter_map(|e| e.ok().map(|e| e.path())))
        .filter(|dir| dir.join("case.json").exists())
        .collect();
    folders.sort();
    folders
}

fn add(trials: &mut Vec<Trial>, case: Arc<Case>, devices: &[(&'static str, Opened, &'static [DType])]) {
    for call in case.calls() {
        for (device_name, device, dtypes) in devices {
            for &dtype in *dtypes {
                let name = format!("{}/{call}/{device_name}/{dtype}", case.name());
                let (case, call, opened) = (case.clone(), call.to_string(), device.clone());
                // A missing adapter is reported as ignored with its reason, except where CI relies on one.
                let reason = match &opened {
                    Ok(device) if dtype == DType::F16 && !device.caps().f16 => Some("no f16 in kernels".to_string()),
                    Ok(_) => None,
                    Err(_) if std::env::var_os("CI").is_some() => None,
                    Err(reason) => Some(reason.clone()),
                };
                let ignored = reason.is_some();
                let name = reason.map_or(name.clone(), |r| format!("{name} ({r})"));
                trials.push(Trial::test(name, move || check(&case, &call, opened, dtype)).with_ignored_flag(ignored));
            }
        }
    }
}

fn check(case: &Case, call: &str, device: Opened, dtype: DType) -> Result<(), Failed> {
    let report = case.check(call, &device?, dtype).map_err(|e| e.to_string())?;
    let failed = report.rows.iter().any(|r| matches!(r.verdict, Verdict::Fail(_)));
    if failed { Err(report.to_string().into()) } else { Ok(()) }
}

/// The public API on a folder of a checkpoint: one run is features and a step, and the features last.
fn features() -> muybridge::Result<()> {
    let device = Device::open("cpu")?;
    let unet = Unet::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/unet_sd15"), &device)?;
    let plan = unet.plan(UnetShape { batch: 2, height: 8, width: 6, context: 5, ..UnetShape::default() })?;
    let names: Vec<&str> = plan.inputs().map(|(name, _)| name).collect();
    assert_eq!(names, ["sample", "timestep", "encoder_hidden_states"]);
    let noise = |seed: usize| move |i: usize| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0;
    let upload = |t: HostTensor| -> muybridge::Result<Tensor> { Ok(device.tensor(&t)?) };
    let latents = upload(HostTensor::from_fn([2, 8, 6, 4], noise(1)))?;
    let context = upload(HostTensor::from_fn([2, 5, 40], noise(2)))?;
    let features = plan.features(&[&context])?;
    assert_eq!(features.tensors().len(), plan.clip_plan().outputs().count());
    for t in [900.0, 20.0] {
        let time = upload(HostTensor::from_fn([2], |_| t))?;
        let step = plan.step(&[&latents, &time], &features)?;
        let whole = plan.run(&[&latents, &time, &context])?;
        assert_eq!(step[0].to_host()?, whole[0].to_host()?);
        plan.step_into(&[&latents, &time], &features, &whole)?;
        assert_eq!(step[0].to_host()?, whole[0].to_host()?);
    }
    assert!(plan.run(&[&latents]).is_err(), "operands are missing");
    assert!(plan.step(&[&latents, &context], &features).is_err(), "the context is no time");
    Ok(())
}
