//! Every op × case × variant × device × dtype against the f64 reference.
//!
//! A trial passes if the normalised mean squared error is within tolerance, no element is finite on one side only, and the
//! guard bands round every buffer are untouched; the arena is poisoned with NaN before the run.

mod emulator;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use muybridge::kernels::{Case, OPS, Role};
use muybridge::profiling::check::{self, Numbers};
use muybridge::runtime::{DType, Device, DeviceOptions, HostTensor, Target, Variant};

/// A way to open a device.
struct Flavour {
    label: &'static str,
    name: &'static str,
    options: DeviceOptions,
    numbers: &'static [Numbers],
}

const F32: Numbers = (DType::F32, DType::F32);
const F16: Numbers = (DType::F16, DType::F16);
const BF16: Numbers = (DType::BF16, DType::BF16);
/// How a half-size checkpoint is used where activations stay f32.
const F32_ON_F16: Numbers = (DType::F32, DType::F16);

/// The emulator's devices: one with every dtype, the adversarial schedules with one.
fn emulated() -> impl Iterator<Item = Flavour> {
    const PLACES: [(&str, &str); 8] = [
        ("cuda-emulated", "cuda:0"),
        ("cuda-emulated-last", "cuda:1"),
        ("cuda-emulated-random", "cuda:2"),
        ("cuda-emulated-late", "cuda:3"),
        ("cuda-emulated-last-late", "cuda:4"),
        ("cuda-emulated-random-late", "cuda:5"),
        ("cuda-emulated-random-late-2", "cuda:6"),
        ("cuda-emulated-random-3", "cuda:7"),
    ];
    PLACES.into_iter().enumerate().map(|(i, (label, name))| {
        let numbers: &[Numbers] = if i == 0 { &[F32, F16, BF16, F32_ON_F16] } else { &[F16] };
        Flavour { label, name, options: DeviceOptions::default(), numbers }
    })
}

fn flavours() -> Vec<Flavour> {
    let default = DeviceOptions::default();
    vec![
        Flavour { label: "cpu", name: "cpu", options: default.clone(), numbers: &[F32, F16, BF16, F32_ON_F16] },
        Flavour { label: "wgpu", name: "wgpu:0", options: default.clone(), numbers: &[F32, F16, F32_ON_F16] },
        Flavour {
            label: "wgpu-webgpu-limits",
            name: "wgpu:0",
            options: DeviceOptions { default_limits: true, no_subgroups: true, checked: true, ..default.clone() },
            numbers: &[F32],
        },
        // Bindings so small that most cases must be split.
        Flavour {
            label: "wgpu-split",
            name: "wgpu:0",
            options: DeviceOptions { max_binding: Some(8192), ..default },
            numbers: &[F32],
        },
    ]
}

fn main() {
    let args = Arguments::from_args();
    // Hardware is taken where there is some, and the emulator where there is none.
    let hardware = !emulator::is_inside() && Device::open("cuda:0").is_ok();
    let entered =
        if hardware { Ok(()) } else { emulator::enter(Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/emulator"))) };
    let mut trials = vec![Trial::test("every_variant_has_a_case", every_variant_has_a_case)];
    let mut flavours = flavours();
    match entered {
        Ok(()) if hardware => flavours.push(Flavour {
            label: "cuda",
            name: "cuda:0",
            options: DeviceOptions::default(),
            numbers: &[F32, F16, BF16, F32_ON_F16],
        }),
        Ok(()) => flavours.extend(emulated()),
        Err(reason) => trials.push(missing("cuda-emulated", &reason)),
    }
    for flavour in flavours {
        match Device::open_with(flavour.name, &flavour.options) {
            Ok(device) => trials.extend(device_trials(&flavour, &device)),
            Err(e) => trials.push(missing(flavour.label, &e.to_string())),
        }
    }
    libtest_mimic::run(&args, trials).exit();
}

/// A device that is not there is reported as ignored with its reason; where CI promises it, it fails.
fn missing(label: &str, reason: &str) -> Trial {
    let promised = std::env::var_os("CI").is_some();
    let text = reason.to_string();
    Trial::test(format!("{label} [no device: {reason}]"), move || Err(Failed::from(text))).with_ignored_flag(!promised)
}

fn device_trials(flavour: &Flavour, device: &Device) -> Vec<Trial> {
    let mut trials = Vec::new();
    for entry in OPS {
        for case in (entry.cases)().into_iter().filter(|c| !c.full_size) {
            let case = Arc::new(case);
            for &(dtype, stored) in flavour.numbers {
                let has_weights = case.operands.iter().any(|o| o.role == Role::Weight);
                if (dtype == DType::F16 && !device.caps().f16) || (dtype != stored && !has_weights) {
                    continue;
                }
                let numbers = if dtype == stored { dtype.to_string() } else { format!("{dtype}-on-{stored}") };
                let oracle = Arc::new(OnceLock::new());
                for variant in entry.variants.iter().filter(|v| v.target == device.caps().target) {
                    // A variant that does not fit a case is no trial; `every_variant_has_a_case` sees to the rest.
                    if !matches!(case.lower(variant, dtype, device.caps()), Ok(Some(_))) {
                        continue;
                    }
                    let name = format!("{}/{}/{}/{}/{numbers}", entry.name, case.name, variant.name, flavour.label);
                    let (case, device, oracle, variant) = (case.clone(), device.clone(), oracle.clone(), *variant);
                    trials.push(Trial::test(name, move || check(&case, &variant, &device, (dtype, stored), &oracle)));
                }
            }
        }
    }
    trials
}

type Oracle = OnceLock<Result<HostTensor, String>>;

fn check(case: &Case, variant: &Variant, device: &Device, numbers: Numbers, oracle: &Oracle) -> Result<(), Failed> {
    let want = oracle.get_or_init(|| check::reference(case, numbers).map_err(|e| e.to_string())).as_ref()?;
    let verdict = check::check(case, variant.name, device, numbers, want)?;
    match (verdict.fault, verdict.worst) {
        (None, _) => Ok(()),
        (Some(fault), Some(worst)) => Err(format!("{fault}; {worst}").into()),
        (Some(fault), None) => Err(fault.into()),
    }
}

/// On devices as capable as the trace devices, every variant fits at least one row of its op's table.
fn every_variant_has_a_case() -> Result<(), Failed> {
    for entry in OPS {
        let cases = (entry.cases)();
        for variant in entry.variants {
            let device = match variant.target {
                Target::Cpu => Device::open("trace:cpu")?,
                Target::Wgsl => Device::open("trace:wgpu")?,
                Target::Cuda => Device::open("trace:cuda")?,
            };
            let takes = |c: &Case, dtype| matches!(c.lower(variant, dtype, device.caps()), Ok(Some(_)));
            let fits = |c: &Case| takes(c, DType::F32) || takes(c, DType::F16);
            if !cases.iter().filter(|c| !c.full_size).any(fits) {
                return Err(format!("no case reaches {}:{} on {}", entry.name, variant.name, variant.target).into());
            }
        }
    }
    Ok(())
}
