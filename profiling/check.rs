//! Kernels against the f64 reference: right or wrong, and where.

use std::fmt;

use muybridge_kernels::{Case, OPS};
use muybridge_runtime::{Caches, DType, Device, DeviceOptions, HostTensor, Pins, Plan, PlanOptions, Tensor, Variant};

use crate::Sample;
use crate::error::{Error, Result};

/// Dtype of the activations, and of the weights as stored.
pub type Numbers = (DType, DType);

/// Bytes round every buffer that must stay untouched.
const GUARD: u64 = 256;

/// The element that is farthest off.
#[derive(Clone, Debug, PartialEq)]
pub struct Worst {
    /// Its index along each axis.
    pub place: Vec<usize>,
    /// What the kernel gave.
    pub got: f32,
    /// What the reference gave.
    pub want: f32,
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worst element {:?}: {} is not {}", self.place, self.got, self.want)
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Normalised mean squared error: Σ (got − want)² / Σ want².
    pub error: f64,
    /// The most that may be.
    pub tolerance: f64,
    /// The element that is farthest off, where there are any.
    pub worst: Option<Worst>,
    /// Why the kernel is wrong.
    pub fault: Option<String>,
}

/// Highest normalised mean squared error: a few roundings of the result's dtype.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-10,
        DType::F16 => 1e-6,
        DType::BF16 => 4e-5,
    }
}

/// Kernels of a case's op that fit it on a device: variants, and each of their tilings (`tiled@32x64`).
pub fn kernels(case: &Case, device: &Device, dtype: DType) -> Vec<String> {
    let fits =
        |v: &&Variant| v.target == device.caps().target && matches!(case.lower(v, dtype, device.caps()), Ok(Some(_)));
    let of = |v: &Variant| {
        let tiled = case.op.tiles(v).iter().map(|t| format!("{}@{t}", v.name));
        std::iter::once(v.name.to_string()).chain(tiled).collect::<Vec<_>>()
    };
    case.op.variants().iter().filter(fits).flat_map(of).collect()
}

/// A row of an op's table by name.
///
/// # Errors
/// There is none; says which there are.
pub fn case(op: &str, name: &str) -> Result<Case> {
    let entry = OPS.iter().find(|e| e.name == op);
    let entry = entry.ok_or_else(|| {
        Error::Call(format!("no op {op:?}; known: {}", OPS.iter().map(|e| e.name).collect::<Vec<_>>().join(", ")))
    })?;
    let cases = (entry.cases)();
    let names = || cases.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
    let found = cases.iter().find(|c| c.name == name).cloned();
    found.ok_or_else(|| Error::Call(format!("{op} has no case {name:?}; cases: {}", names())))
}

/// The f64 reference on the rounded operands, with its result kept in f32.
///
/// # Errors
/// The case does not fit its op: a defect of the row.
pub fn reference(case: &Case, (dtype, stored): Numbers) -> Result<HostTensor> {
    let cpu = Device::open_with("cpu", &DeviceOptions { threads: Some(1), ..DeviceOptions::default() })?;
    let options = PlanOptions { pins: Pins::exactly(case.op.name(), "reference"), ..PlanOptions::default() };
    let plan = Plan::with(&case.graph(DType::F32, stored)?, &cpu, &options)?;
    let inputs: Vec<_> = case.inputs(dtype)?.iter().map(|t| t.convert(DType::F32)).collect();
    Ok(plan.run_host(&inputs.iter().collect::<Vec<_>>())?.remove(0))
}

/// Runs one kernel of a case on poisoned memory with guards round every buffer, twice, and compares with [`reference()`]'s result.
///
/// # Errors
/// The device's errors; what the kernel computes is no error but a verdict.
pub fn check(case: &Case, kernel: &str, device: &Device, numbers: Numbers, want: &HostTensor) -> Result<Verdict> {
    let (dtype, stored) = numbers;
    let options = PlanOptions { pins: Pins::exactly(case.op.name(), kernel), guard: GUARD };
    let plan = Plan::with(&case.graph(dtype, stored)?, device, &options)?;
    plan.poison()?;
    let inputs = case.inputs(dtype)?;
    let inputs: Vec<_> = inputs.iter().collect();
    let result = plan.run_host(&inputs)?.remove(0);
    let out = result.dtype();
    let dims = result.desc().shape.dims().to_vec();
    let (got, want) = (result.to_f32(), want.to_f32());
    let power = want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().max(1e-30);
    let error = got.iter().zip(&want).map(|(g, w)| f64::from(g - w).powi(2)).sum::<f64>() / power;
    // tf32 has the digits of f16.
    let rounded = if kernel.split('@').next() == Some("tf32") { DType::F16 } else { dtype };
    let tolerance = tolerance(if out.size() < rounded.size() { out } else { rounded });
    let mut verdict = Verdict { error, tolerance, worst: worst(&got, &want, &dims), fault: None };
    let mixed = got.iter().zip(&want).any(|(g, w)| g.is_finite() != w.is_finite());
    verdict.fault = if mixed {
        Some("not finite where the reference is".into())
    } else if error.is_nan() || error > tolerance {
        Some(format!("NMSE {error:.2e} > {tolerance:.0e}"))
    } else if !plan.guards_intact()? {
        Some("wrote out of bounds".into())
    } else if plan.run_host(&inputs)?.remove(0).to_f32() != got {
        // Nothing may depend on old contents.
        Some("a second run differs".into())
    } else {
        None
    };
    Ok(verdict)
}

fn worst(got: &[f32], want: &[f32], dims: &[usize]) -> Option<Worst> {
    // What is not finite is farther off than anything that is.
    let far = |i: &usize| {
        let away = (got[*i] - want[*i]).abs();
        if away.is_nan() { f32::INFINITY } else { away }
    };
    let i = (0..want.len().min(got.len())).max_by(|a, b| far(a).total_cmp(&far(b)))?;
    let mut rest = i;
    let mut place: Vec<usize> = dims
        .iter()
        .rev()
        .map(|&d| {
            let at = rest % d.max(1);
            rest /= d.max(1);
            at
        })
        .collect();
    place.reverse();
    Some(Worst { place, got: got[i], want: want[i] })
}

/// Seconds of one kernel of a case, as [`time_in_turns`] takes them.
///
/// # Errors
/// The device's errors.
pub fn time(case: &Case, kernel: &str, device: &Device, numbers: Numbers, runs: usize) -> Result<Sample> {
    let [sample] = time_in_turns([(case, kernel)], device, numbers, runs)?;
    Ok(sample)
}

/// Seconds of several kernels on the device's clock with nothing of use in its caches, as a plan leaves them to a node with weights,
/// after a run each to warm up. They take turns round by round, so that what else the machine does and how warm it gets falls on
/// all of them alike.
///
/// # Errors
/// The device's errors.
pub fn time_in_turns<const N: usize>(
    kernels: [(&Case, &str); N],
    device: &Device,
    (dtype, stored): Numbers,
    runs: usize,
) -> Result<[Sample; N]> {
    let mut ready = Vec::with_capacity(N);
    for (case, kernel) in kernels {
        let options = PlanOptions { pins: Pins::exactly(case.op.name(), kernel), ..PlanOptions::default() };
        let plan = Plan::with(&case.graph(dtype, stored)?, device, &options)?;
        let inputs = case.inputs(dtype)?.iter().map(|t| Ok(device.tensor(t)?)).collect::<Result<Vec<_>>>()?;
        let outputs = plan.empty_outputs()?;
        plan.profile(&inputs.iter().collect::<Vec<&Tensor>>(), &outputs)?;
        ready.push((plan, inputs, outputs));
    }
    let mut samples = [const { Sample(Vec::new()) }; N];
    for round in 0..runs.max(1) {
        for turn in 0..N {
            // Nobody is always the first.
            let i = (round + turn) % N;
            let (plan, inputs, outputs) = &ready[i];
            let inputs: Vec<&Tensor> = inputs.iter().collect();
            samples[i].0.push(plan.profile_in(Caches::Flushed, &inputs, outputs)?.busy());
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_element_is_named_by_its_axes() {
        let want = [0.0; 12];
        let mut got = [0.0; 12];
        got[7] = -3.0;
        got[3] = 2.0;
        let found = worst(&got, &want, &[2, 3, 2]).expect("there are elements");
        assert_eq!(found, Worst { place: vec![1, 0, 1], got: -3.0, want: 0.0 });
        got[2] = f32::NAN;
        assert_eq!(worst(&got, &want, &[2, 3, 2]).map(|w| w.place), Some(vec![0, 1, 0]));
        assert_eq!(worst(&[], &[], &[0]), None);
    }

    #[test]
    fn every_kernel_of_a_small_case_is_right() -> Result<()> {
        let cpu = Device::open("cpu")?;
        let ragged = case("matmul", "ragged")?;
        let numbers = (DType::F32, DType::F32);
        let want = reference(&ragged, numbers)?;
        for kernel in kernels(&ragged, &cpu, DType::F32) {
            assert_eq!(check(&ragged, &kernel, &cpu, numbers, &want)?.fault, None, "{kernel}");
        }
        assert!(case("matmul", "no such case").is_err() && case("no such op", "one").is_err());
        Ok(())
    }
}
