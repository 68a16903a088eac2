//! `muybridge doctor`

use std::path::PathBuf;
use std::process::ExitCode;

use muybridge::Device;
use muybridge::profiling::doctor::{self, Options, examine};
use muybridge::profiling::error::write;

use crate::profile::bar;
use crate::table::say;
use crate::{DeviceArgs, Failure};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// Only trials whose name (op/case/kernel/dtype) contains this
    #[arg(default_value = "")]
    filter: String,
    /// Only what the instructions of a CUDA device give, one by one, against the record of the tests' emulator
    #[arg(long, conflicts_with_all = ["filter", "output"])]
    wrappers: bool,
    /// Judge results only, not times
    #[arg(long)]
    untimed: bool,
    /// Write all findings, to be attached to a report of a bug
    #[arg(long, short, value_name = "FILE.json")]
    output: Option<PathBuf>,
}

/// Examines a device. Exits with 1 if a kernel is wrong there.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let device = args.device.open()?;
    if args.wrappers {
        return wrappers(&device);
    }
    let options = Options { filter: args.filter.clone(), timed: !args.untimed };
    let found = examine(&device, &options, &mut bar("examining"))?;
    say!("{} ({}; {})", device.name(), device.caps().name, device.caps().driver);
    let mut wrong = 0;
    for f in &found.findings {
        if let Some(reason) = &f.wrong {
            wrong += 1;
            say!("WRONG {}: {reason}", f.trial);
        }
        if let Some(reason) = &f.slow {
            say!("slow  {}: {reason}", f.trial);
        }
    }
    let slow = found.findings.iter().filter(|f| f.slow.is_some()).count();
    say!("{} trials: {wrong} wrong, {slow} slow", found.findings.len());
    if let Some(file) = &args.output {
        write(file, &serde_json::to_vec_pretty(&found)?)?;
        say!("written: {}", file.display());
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn wrappers(device: &Device) -> Result<ExitCode, Failure> {
    let findings = doctor::wrappers(device)?;
    if findings.is_empty() {
        return Err(Failure(format!("{}: only a CUDA device has these instructions", device.name())));
    }
    for f in &findings {
        say!("{} {}", if f.wrong.is_some() { "WRONG" } else { "ok   " }, f.trial);
        f.wrong.iter().for_each(|reason| say!("      {reason}"));
    }
    let wrong = findings.iter().filter(|f| f.wrong.is_some()).count();
    say!("{} wrappers: {wrong} wrong", findings.len());
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
