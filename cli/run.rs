//! `muybridge run`

use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use muybridge::DType;
use muybridge::case::{Case, Outputs, Report, Verdict};
use muybridge::loaders::write_tensors;

use crate::table::{Table, say, tell};
use crate::{DeviceArgs, Failure, interrupt, output};

/// Options of the verb.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("result").args(["output", "check"]).multiple(true).required(true))]
pub struct Args {
    /// Folder of the case: case.json, inputs, weights (tests/golden/README.md describes it)
    case: PathBuf,
    /// Only this call; all of them by default
    #[arg(long, value_name = "NAME")]
    call: Option<String>,
    /// Numbers of the activations: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_name = "DTYPE")]
    dtype: DType,
    #[command(flatten)]
    device: DeviceArgs,
    /// Write every output here, under its key of expected.safetensors
    #[arg(long, short, value_name = "FILE.safetensors")]
    output: Option<PathBuf>,
    /// Compare with the recorded outputs; exit with 1 if one is too far off, with 3 if the case has no tolerance for this dtype
    #[arg(long)]
    check: bool,
}

/// What the process ends with where nothing could be judged.
const NOT_JUDGED: u8 = 3;

/// Runs the calls. Exits with 1 if an output is not near enough, and with [`NOT_JUDGED`] if no output could be judged.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    args.output.iter().try_for_each(|file| output::file(file))?;
    let case = Case::open(&args.case)?;
    let device = args.device.open()?;
    let calls: Vec<&str> = match &args.call {
        Some(name) => vec![name],
        None => case.calls().collect(),
    };
    let bar = ProgressBar::new(calls.len() as u64).with_style(
        ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} calls {eta} left")
            .unwrap_or(ProgressStyle::default_bar()),
    );
    let (mut outputs, mut reports) = (Outputs::new(), Vec::new());
    for name in calls {
        interrupt::check()?;
        bar.set_message(name.to_string());
        let of_call = case.run_call(name, &device, args.dtype)?;
        if args.check {
            reports.push(case.judge(name, &of_call, args.dtype)?);
        }
        outputs.extend(of_call);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Some(file) = &args.output {
        write_tensors(file, &outputs)?;
        tell!("{} outputs written to {}", outputs.len(), file.display());
    }
    if !args.check {
        return Ok(ExitCode::SUCCESS);
    }
    say!("{} ({}) on {} in {}", case.name(), case.kind(), device.name(), args.dtype);
    rows(&reports).print();
    if !reports.iter().any(Report::judged) {
        tell!("muybridge: no output of this case has a tolerance in {}", args.dtype);
        return Ok(ExitCode::from(NOT_JUDGED));
    }
    Ok(if reports.iter().all(Report::passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn rows(reports: &[Report]) -> Table {
    let mut out = Table::new(&["call", "output", ">max abs", ">rel rms", ">tolerance", "verdict"]);
    for report in reports {
        for row in &report.rows {
            let verdict = match &row.verdict {
                Verdict::Pass => "pass".to_string(),
                Verdict::Fail(reason) => format!("FAIL: {reason}"),
                Verdict::NotJudged => "not judged".to_string(),
            };
            out.row([
                report.call.clone(),
                row.output.clone(),
                format!("{:.2e}", row.max_abs),
                format!("{:.2e}", row.rel_rms),
                row.tolerance.map_or("-".into(), |t| format!("{t:.2e}")),
                verdict,
            ]);
        }
    }
    out
}
