//! Every op's cases on one device: what is wrong there, and what is slow.

use muybridge_kernels::{Case, OPS, Role, wrappers};
use muybridge_runtime::{DType, Device, Graph, HostTensor, Plan};
use serde::Serialize;

use crate::check::{Numbers, check, kernels, reference, time};
use crate::error::{Error, Result};
use crate::report::DeviceInfo;
use crate::stats::Ratio;
use crate::{Sample, step};

/// What was found of one kernel on one case.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Op, case, kernel and dtypes: `matmul/ragged/tiled@32x64/f16`.
    pub trial: String,
    /// Normalised mean squared error, where it ran.
    pub error: Option<f64>,
    /// What is wrong.
    pub wrong: Option<String>,
    /// What is slow.
    pub slow: Option<String>,
    /// Median seconds on the device's clock, where it was timed.
    pub seconds: Option<f64>,
}

/// A device's findings.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// Version of the engine.
    pub engine: String,
    /// The device.
    pub device: DeviceInfo,
    /// Its limits and features, in words.
    pub capabilities: String,
    /// One entry for each kernel, case and pair of dtypes.
    pub findings: Vec<Finding>,
}

/// What is examined.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only trials whose name contains this.
    pub filter: String,
    /// Whether kernels are timed, too.
    pub timed: bool,
}

/// A kernel that is slower than a sibling by this factor is slow, if the op's order puts it first.
const SLOW: f64 = 1.5;

/// Kernels that take less are not compared: launching them is all that is timed.
const SHORTEST: f64 = 20e-6;

/// Runs every kernel of every op on every small case, in every dtype that the device has.
///
/// # Errors
/// The device is lost, or the caller wishes to stop. A kernel that fails otherwise is a finding.
pub fn examine(device: &Device, options: &Options, progress: crate::Progress<'_>) -> Result<Findings> {
    let mut all = Vec::new();
    for entry in OPS {
        for case in (entry.cases)().into_iter().filter(|c| !c.full_size) {
            for numbers in numbers(&case, device) {
                let named: Vec<(String, String)> = kernels(&case, device, numbers.0)
                    .into_iter()
                    .map(|k| (name(&case, &k, numbers), k))
                    .filter(|(n, _)| n.contains(&options.filter))
                    .collect();
                if !named.is_empty() {
                    all.push((case.clone(), numbers, named));
                }
            }
        }
    }
    let mut findings = Vec::new();
    let of = all.len() as u64;
    for (i, (case, numbers, named)) in all.iter().enumerate() {
        step(progress, i as u64, of)?;
        let want = reference(case, *numbers)?;
        let mut group = Vec::new();
        for (name, kernel) in named {
            group.push(one(case, name, kernel, device, *numbers, &want, options.timed)?);
        }
        judge_speed(&mut group);
        findings.extend(group.into_iter().map(|(finding, _)| finding));
    }
    step(progress, of, of)?;
    let capabilities = format!("{:?}", device.caps());
    Ok(Findings { engine: env!("CARGO_PKG_VERSION").into(), device: DeviceInfo::of(device), capabilities, findings })
}

/// Runs each wrapper of CUDA's instructions that the device has, and compares with what the tests' emulator gives: a finding is
/// wrong where they differ, word by word.
///
/// # Errors
/// The device is lost.
pub fn wrappers(device: &Device) -> Result<Vec<Finding>> {
    let recorded = wrappers::recorded();
    let mut findings = Vec::new();
    for wrapper in wrappers::WRAPPERS {
        let operand = wrapper.operand();
        let mut g = Graph::new();
        let x = g.input("x", operand.desc());
        let y = g.node(wrapper.name, wrapper, &[x])?;
        g.output("y", y);
        let got = match Plan::new(&g, device).and_then(|plan| plan.run_host(&[&operand])) {
            Ok(mut all) => all.remove(0),
            // The device does not have it.
            Err(muybridge_runtime::Error::NoVariant { .. }) => continue,
            Err(e) => return Err(e.into()),
        };
        let sum = wrappers::checksum(got.bytes());
        let first: Vec<String> = got
            .bytes()
            .chunks_exact(4)
            .take(8)
            .map(|w| format!("{:02x}{:02x}{:02x}{:02x}", w[3], w[2], w[1], w[0]))
            .collect();
        let wrong = (recorded.get(wrapper.name) != Some(&sum)).then(|| {
            format!("not the recorded words but those of checksum {sum:016x}, which begin {}", first.join(" "))
        });
        let trial = format!("wrapper/{}", wrapper.name);
        findings.push(Finding { trial, error: None, wrong, slow: None, seconds: None });
    }
    Ok(findings)
}

/// Dtypes that the device computes in; f32 on half-size weights where the case has weights.
fn numbers(case: &Case, device: &Device) -> Vec<Numbers> {
    let mut all = vec![(DType::F32, DType::F32)];
    if device.caps().f16 {
        all.push((DType::F16, DType::F16));
    }
    if device.caps().bf16 {
        all.push((DType::BF16, DType::BF16));
    }
    if case.operands.iter().any(|o| o.role == Role::Weight) {
        all.push((DType::F32, DType::F16));
    }
    all
}

fn name(case: &Case, kernel: &str, (dtype, stored): Numbers) -> String {
    let numbers = if dtype == stored { dtype.to_string() } else { format!("{dtype}-on-{stored}") };
    format!("{}/{}/{kernel}/{numbers}", case.op.name(), case.name)
}

fn one(
    case: &Case,
    name: &str,
    kernel: &str,
    device: &Device,
    numbers: Numbers,
    want: &HostTensor,
    timed: bool,
) -> Result<(Finding, Sample)> {
    let mut finding = Finding { trial: name.into(), error: None, wrong: None, slow: None, seconds: None };
    let lost = |e: &Error| matches!(e, Error::Runtime(muybridge_runtime::Error::DeviceLost { .. }));
    match check(case, kernel, device, numbers, want) {
        Ok(verdict) => {
            finding.error = Some(verdict.error);
            let place = verdict.worst.map(|w| format!("; {w}")).unwrap_or_default();
            finding.wrong = verdict.fault.map(|f| f + &place);
        }
        Err(e) if lost(&e) => return Err(e),
        Err(e) => finding.wrong = Some(e.to_string()),
    }
    let mut sample = Sample::default();
    if timed && finding.wrong.is_none() && kernel != "reference" && device.caps().timestamps {
        sample = time(case, kernel, device, numbers, 3)?;
        finding.seconds = Some(sample.median());
    }
    Ok((finding, sample))
}

/// Says so where a sibling is clearly faster than the kernel that the op's order puts first.
fn judge_speed(group: &mut [(Finding, Sample)]) {
    let Some(((first, own), others)) = group.split_first_mut() else { return };
    let fastest = others.iter().filter(|(_, s)| !s.is_empty()).min_by(|a, b| a.1.median().total_cmp(&b.1.median()));
    let Some((sibling, other)) = fastest.filter(|_| own.median() > SHORTEST) else { return };
    if let Some(r) = Ratio::of(other, own)
        && r.ratio - 2.0 * r.uncertainty > SLOW
    {
        let [own, other] = [&*own, other].map(|s| s.median() * 1e3);
        first.slow = Some(format!("{own:.3} ms, and {} takes {other:.3} ms", sibling.trial));
    }
}
