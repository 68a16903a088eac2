//! Every op's cases on one device: what is wrong there, and what is slow.

use muybridge_kernels::{Case, OPS, Role, wrappers};
use muybridge_runtime::{DType, Device, Graph, HostTensor, Plan};
use serde::{Deserialize, Serialize};

use crate::check::{Numbers, check, kernels, reference, time};
use crate::error::{Error, Result};
use crate::report::DeviceInfo;
use crate::stats::Ratio;
use crate::{Sample, step};

/// What was found of one kernel on one case.
#[derive(Clone, Debug, Serialize, Deserialize)]
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

impl Finding {
    /// A trial in which something is wrong.
    pub fn wrong(trial: impl Into<String>, reason: impl ToString) -> Finding {
        Finding { trial: trial.into(), error: None, wrong: Some(reason.to_string()), slow: None, seconds: None }
    }
}

/// A device's findings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Findings {
    /// Version of the engine.
    pub engine: String,
    /// The device.
    pub device: DeviceInfo,
    /// Its limits and features, in words.
    pub capabilities: String,
    /// One entry for each kernel, case and pair of dtypes.
    pub findings: Vec<Finding>,
    /// Trials that were not run, because the device was lost before.
    pub not_run: Vec<String>,
}

impl Findings {
    /// None yet, of this device.
    pub fn of(device: &Device) -> Findings {
        Findings {
            engine: env!("CARGO_PKG_VERSION").into(),
            device: DeviceInfo::of(device),
            capabilities: format!("{:?}", device.caps()),
            findings: Vec::new(),
            not_run: Vec::new(),
        }
    }
}

/// What is examined.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only trials whose names contain all of these; one with `*` in it is a whole name, where `*` stands for anything.
    pub filters: Vec<String>,
    /// Whether kernels are timed, too.
    pub timed: bool,
}

/// Whether a trial of this name is asked for.
fn matches(filter: &str, name: &str) -> bool {
    let Some((first, rest)) = filter.split_once('*') else { return name.contains(filter) };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    true
}

/// One row of an op's table in one pair of dtypes, and its kernels: the trial's name, and the kernel's.
type Group = (Case, Numbers, Vec<(String, String)>);

fn trials(device: &Device, filters: &[String]) -> Vec<Group> {
    let mut all = Vec::new();
    for entry in OPS {
        for case in (entry.cases)().into_iter().filter(|c| !c.full_size) {
            for numbers in numbers(&case, device) {
                let named: Vec<(String, String)> = kernels(&case, device, numbers.0)
                    .into_iter()
                    .map(|k| (name(&case, &k, numbers), k))
                    .filter(|(n, _)| filters.iter().all(|f| matches(f, n)))
                    .collect();
                if !named.is_empty() {
                    all.push((case.clone(), numbers, named));
                }
            }
        }
    }
    all
}

/// Filters that divide what these let through by op and kernel, in the order of the ops' tables: `matmul/*/mma@64x64x4/*`.
pub fn divided(device: &Device, filters: &[String]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for (case, _, named) in trials(device, filters) {
        for (_, kernel) in named {
            let one = format!("{}/*/{kernel}/*", case.op.name());
            if !all.contains(&one) {
                all.push(one);
            }
        }
    }
    all
}

/// A kernel that is slower than a sibling by this factor is slow, if the op's order puts it first.
const SLOW: f64 = 1.5;

/// Kernels that take less are not compared: launching them is all that is timed.
const SHORTEST: f64 = 20e-6;

/// Runs every kernel of every op on every small case, in every dtype that the device has. `begins` is told each trial before it
/// runs, so that one that never ends has a name.
///
/// # Errors
/// A case does not fit its op, or the caller wishes to stop. A kernel that fails is a finding; where it takes the device along, the
/// others are not run.
pub fn examine(
    device: &Device,
    options: &Options,
    progress: crate::Progress<'_>,
    begins: &mut dyn FnMut(&str),
) -> Result<Findings> {
    let all = trials(device, &options.filters);
    let mut found = Findings::of(device);
    let of = all.len() as u64;
    let mut lost = false;
    for (i, (case, numbers, named)) in all.iter().enumerate() {
        step(progress, i as u64, of)?;
        let judge = Judge { case, numbers: *numbers, want: reference(case, *numbers)?, device, timed: options.timed };
        let mut group = Vec::new();
        for (name, kernel) in named {
            if lost {
                found.not_run.push(name.clone());
                continue;
            }
            begins(name);
            group.push(judge.trial(name, kernel, &mut lost));
        }
        judge_speed(&mut group);
        found.findings.extend(group.into_iter().map(|(finding, _)| finding));
    }
    step(progress, of, of)?;
    Ok(found)
}

/// Runs each wrapper of CUDA's instructions that the device has, and compares with what the tests' emulator gives: a finding is
/// wrong where they differ, word by word. Nothing is run any more once the device is lost.
///
/// # Errors
/// A wrapper that does not fit its operand.
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
            Err(e) => {
                findings.push(Finding::wrong(format!("wrapper/{}", wrapper.name), &e));
                if matches!(e, muybridge_runtime::Error::DeviceLost { .. }) {
                    break;
                }
                continue;
            }
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

/// What the kernels of a case are judged by.
struct Judge<'a> {
    case: &'a Case,
    numbers: Numbers,
    want: HostTensor,
    device: &'a Device,
    timed: bool,
}

impl Judge<'_> {
    /// Runs, judges and times a kernel. `lost` is set where it takes the device along.
    fn trial(&self, name: &str, kernel: &str, lost: &mut bool) -> (Finding, Sample) {
        let Judge { case, numbers, ref want, device, timed } = *self;
        let mut finding = Finding { trial: name.into(), error: None, wrong: None, slow: None, seconds: None };
        let mut failed = |e: Error| {
            *lost = matches!(e, Error::Runtime(muybridge_runtime::Error::DeviceLost { .. }));
            Some(e.to_string())
        };
        match check(case, kernel, device, numbers, want) {
            Ok(verdict) => {
                finding.error = Some(verdict.error);
                let place = verdict.worst.map(|w| format!("; {w}")).unwrap_or_default();
                finding.wrong = verdict.fault.map(|f| f + &place);
            }
            Err(e) => finding.wrong = failed(e),
        }
        let mut sample = Sample::default();
        if timed && finding.wrong.is_none() && kernel != "reference" && device.caps().timestamps {
            match time(case, kernel, device, numbers, 3) {
                Ok(times) => sample = times,
                Err(e) => finding.wrong = failed(e),
            }
            finding.seconds = (!sample.is_empty()).then(|| sample.median());
        }
        (finding, sample)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_parts_of_names_or_patterns() {
        let name = "matmul/ragged/mma@64x64x4/f16";
        for yes in ["", "ragged", "matmul/ragged", "matmul/*/mma@64x64x4/*", "*/f16", "matmul/*", "*ragged*"] {
            assert!(matches(yes, name), "{yes:?}");
        }
        for no in ["conv2d", "matmul/*/mma/*", "*/f32", "mma*", "*ragged*ragged*", "matmul/*/wgmma@64x64x4/*"] {
            assert!(!matches(no, name), "{no:?}");
        }
    }

    #[test]
    fn kernels_are_divided_among_filters_without_rest() -> Result<()> {
        let device = Device::open("cpu")?;
        let names = |filters: &[String]| {
            let mut all: Vec<String> =
                trials(&device, filters).into_iter().flat_map(|(_, _, named)| named).map(|(name, _)| name).collect();
            all.sort();
            all
        };
        let filter = "/f32".to_string();
        let both = |one: &String| names(&[filter.clone(), one.clone()]);
        let mut parts: Vec<String> = divided(&device, std::slice::from_ref(&filter)).iter().flat_map(both).collect();
        parts.sort();
        assert!(!parts.is_empty());
        assert_eq!(parts, names(&[filter]));
        Ok(())
    }
}
