//! How near an output must come.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use muybridge_loaders::{SafetensorsFile, read_tensors};
use muybridge_runtime::{DType, HostTensor};

use super::record::{CallRecord, OutputRecord};
use super::{Case, Outputs};
use crate::error::{Error, Result};

/// What became of one output.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Near enough.
    Pass,
    /// Too far off, of another shape, or absent: the reason.
    Fail(String),
    /// The case has no tolerance for this dtype.
    NotJudged,
}

/// One output beside what was recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name in the call.
    pub output: String,
    /// Largest difference; NaN where one of the two is no number and the other is, or the output is absent.
    pub max_abs: f64,
    /// Root of the mean squared difference, over that of the reference.
    pub rel_rms: f64,
    /// The tolerance: of `max_abs` in f32 (0 where equality is asked for), of `rel_rms` in f16 and bf16.
    pub tolerance: Option<f64>,
    /// What became of it.
    pub verdict: Verdict,
}

/// All outputs of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Name of the case.
    pub case: String,
    /// Name of the call.
    pub call: String,
    /// The dtype it ran in.
    pub dtype: DType,
    /// One row per output, in the order of their names.
    pub rows: Vec<Row>,
}

impl Report {
    /// Whether no output failed.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|r| !matches!(r.verdict, Verdict::Fail(_)))
    }

    /// Whether at least one output was judged.
    pub fn judged(&self) -> bool {
        self.rows.iter().any(|r| r.verdict != Verdict::NotJudged)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} {}", self.case, self.call, self.dtype)?;
        for row in &self.rows {
            let tolerance = row.tolerance.map_or("-".into(), |t| format!("{t:.3e}"));
            let verdict = match &row.verdict {
                Verdict::Pass => "pass".to_string(),
                Verdict::Fail(reason) => format!("FAIL: {reason}"),
                Verdict::NotJudged => "not judged".to_string(),
            };
            let (name, max, rms) = (&row.output, row.max_abs, row.rel_rms);
            writeln!(f, "  {name:<24} max {max:.3e}  rms {rms:.3e}  tolerance {tolerance:<10} {verdict}")?;
        }
        Ok(())
    }
}

/// Reads all tensors of a file as f64, which holds everything that a case stores.
pub(super) fn read_exactly(path: &Path) -> Result<BTreeMap<String, Vec<f64>>> {
    let narrow = read_tensors(path)?;
    let file = SafetensorsFile::open(path)?;
    let mut all = BTreeMap::new();
    for entry in &file.header().tensors {
        let wide = if entry.dtype.to_string() == "F64" {
            file.data(entry)?.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
        } else {
            let tensor = narrow.get(&entry.name).map(HostTensor::to_f32).unwrap_or_default();
            tensor.into_iter().map(f64::from).collect()
        };
        all.insert(entry.name.clone(), wide);
    }
    Ok(all)
}

pub(super) fn judge(case: &Case, call: &CallRecord, outputs: &Outputs, dtype: DType) -> Result<Report> {
    let mut rows = Vec::new();
    for (name, record) in &call.outputs {
        let key = &record.key;
        let wide = if record.exact { None } else { case.expected.get(&format!("{key}.f64")) };
        let missing =
            || Error::Case { file: case.dir.join("expected.safetensors"), reason: format!("no tensor {key}") };
        let reference = wide.or(case.expected.get(key)).ok_or_else(missing)?;
        rows.push(row(name, record, reference, outputs.get(key), dtype));
    }
    Ok(Report { case: case.name().into(), call: call.name.clone(), dtype, rows })
}

fn row(name: &str, record: &OutputRecord, reference: &[f64], output: Option<&HostTensor>, dtype: DType) -> Row {
    let low = |dtype: &str| record.torch_low.get(dtype).map(|l| 1.5 * l.rel_rms);
    let tolerance = match dtype {
        _ if record.exact => Some(0.0),
        DType::F32 => record.atol_f32,
        DType::F16 => low("float16"),
        DType::BF16 => low("bfloat16"),
    };
    let mut row = Row {
        output: name.into(),
        max_abs: f64::NAN,
        rel_rms: f64::NAN,
        tolerance,
        verdict: Verdict::Fail("there is no such output".into()),
    };
    let Some(output) = output else { return row };
    let values = output.to_f32();
    if values.len() != reference.len() {
        row.verdict = Verdict::Fail(format!("{} elements, {} recorded", values.len(), reference.len()));
        return row;
    }
    (row.max_abs, row.rel_rms) = distance(&values, reference);
    let measure = if record.exact || dtype == DType::F32 { row.max_abs } else { row.rel_rms };
    row.verdict = match tolerance {
        None => Verdict::NotJudged,
        Some(t) if measure <= t => Verdict::Pass,
        Some(t) => Verdict::Fail(format!("{measure:.3e} is above {t:.3e}")),
    };
    row
}

/// Largest difference and relative root mean square. Where both are NaN, or the same infinity, they agree.
fn distance(values: &[f32], reference: &[f64]) -> (f64, f64) {
    let (mut max, mut error, mut power) = (0f64, 0f64, 0f64);
    for (value, want) in values.iter().map(|v| f64::from(*v)).zip(reference) {
        let same = value == *want || (value.is_nan() && want.is_nan());
        let difference = if same { 0.0 } else { (value - want).abs() };
        max = if max.is_nan() || difference.is_nan() { f64::NAN } else { max.max(difference) };
        error += difference * difference;
        power += if want.is_finite() { want * want } else { 0.0 };
    }
    let rms = if error == 0.0 { 0.0 } else { (error / power).sqrt() };
    (max, rms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_never_passes_for_a_number() {
        assert!(distance(&[f32::NAN, 1.0], &[0.0, 1.0]).0.is_nan());
        assert_eq!(distance(&[f32::NAN, 1.0], &[f64::NAN, 1.0]), (0.0, 0.0));
        assert_eq!(distance(&[f32::INFINITY], &[1.0]).0, f64::INFINITY);
        assert_eq!(distance(&[1.0, 2.0], &[1.0, 2.5]).0, 0.5);
    }
}
