//! `muybridge doctor`

mod isolated;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use muybridge::Device;
use muybridge::profiling::doctor::{self, Finding, Findings, Options, examine};
use muybridge::profiling::error::write;

use crate::profile::bar;
use crate::table::{say, tell};
use crate::{DeviceArgs, Failure, output};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// Only trials whose names (op/case/kernel/dtype) contain all of these; one with * in it is a whole name
    filters: Vec<String>,
    /// Only what the instructions of a CUDA device give, one by one, against the record of the tests' emulator
    #[arg(long, conflicts_with_all = ["filters", "untimed", "isolate"])]
    wrappers: bool,
    /// Judge results only, not times
    #[arg(long)]
    untimed: bool,
    /// Run each kernel in a process of its own: one that hangs or takes the device along costs no other finding
    #[arg(long)]
    isolate: bool,
    /// With --isolate: processes at once; times are those of a busy device then
    #[arg(long, requires = "isolate", default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// With --isolate: most seconds that all trials of a kernel may take
    #[arg(long, requires = "isolate", default_value_t = 300, value_name = "SECONDS")]
    limit: u64,
    /// Say each trial's name on standard error before it runs
    #[arg(long, conflicts_with = "isolate")]
    names: bool,
    /// Write all findings, to be attached to a report of a bug
    #[arg(long, short, value_name = "FILE.json")]
    output: Option<PathBuf>,
}

/// Examines a device. Exits with 1 if a kernel is wrong there.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    args.output.iter().try_for_each(|file| output::file(file))?;
    let device = args.device.open()?;
    let keep = |found: &Findings| -> Result<(), Failure> {
        let Some(file) = &args.output else { return Ok(()) };
        Ok(write(file, &serde_json::to_vec_pretty(found)?)?)
    };
    let options = Options { filters: args.filters.clone(), timed: !args.untimed };
    let found = if args.wrappers {
        let findings = doctor::wrappers(&device)?;
        if findings.is_empty() {
            return Err(Failure(format!("{}: only a CUDA device has these instructions", device.name())));
        }
        Findings { findings, ..Findings::of(&device) }
    } else if args.isolate {
        let limits = isolated::Limits { jobs: args.jobs as usize, time: Duration::from_secs(args.limit) };
        isolated::examine(&device, &args.device, &options, &limits, &mut { keep })?
    } else {
        let mut begins = |name: &str| {
            if args.names {
                tell!("{}{name}", isolated::BEGINS);
            }
        };
        examine(&device, &options, &mut bar("examining"), &mut begins)?
    };
    let wrong = print(&device, &found, args.wrappers);
    if let Some(file) = &args.output {
        keep(&found)?;
        say!("written: {}", file.display());
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what was found, of right trials their names only where all are `listed`. Returns how many are wrong.
fn print(device: &Device, found: &Findings, listed: bool) -> usize {
    let Findings { findings, not_run, .. } = found;
    say!("{} ({}; {})", device.name(), device.caps().name, device.caps().driver);
    for Finding { trial, wrong, slow, .. } in findings {
        match (wrong, slow) {
            (Some(reason), _) => say!("WRONG {trial}: {reason}"),
            (None, Some(reason)) => say!("slow  {trial}: {reason}"),
            (None, None) if listed => say!("ok    {trial}"),
            (None, None) => {}
        }
    }
    let count = |is: fn(&Finding) -> bool| findings.iter().filter(|f| is(f)).count();
    let (wrong, slow) = (count(|f| f.wrong.is_some()), count(|f| f.slow.is_some()));
    say!("{} trials: {wrong} wrong, {slow} slow", findings.len());
    if let Some(first) = not_run.first() {
        say!("{} trials were not run, because the device was lost: {first} and those after it", not_run.len());
    }
    wrong
}
