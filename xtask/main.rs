//! `cargo xtask`: tasks of the repository. They fetch nothing: `tests/compilers` does.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use muybridge::runtime::backend::cuda;
use xtask::budgets::{Scope, selection};
use xtask::compile::{Kept, write};
use xtask::{Outcome, bundle, machine, pack, table};

/// Tasks of the muybridge repository.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Compile CUDA kernels for every architecture, and write what they need and consist of
    Budgets {
        /// Every kernel in every dtype on every architecture, not the usual choice
        #[arg(long)]
        all: bool,
        /// Only kernels whose op/variant contains this: their lines are printed, and no file is written
        #[arg(long, value_name = "TEXT")]
        kernel: Option<String>,
        /// Folder of static-budgets.tsv and static-budgets.md
        #[arg(long, default_value = "benches/results")]
        output: PathBuf,
    },
    /// Compile the kernels of the published networks in f16 into a pack, for machines without NVRTC
    KernelPack {
        /// Where the pack is written: `kernels.pack` beside the program, or where MUYBRIDGE_KERNELS says, it is found
        #[arg(default_value = "target/kernels.pack")]
        file: PathBuf,
        /// Only this network (again for more)
        #[arg(long, value_name = "PRESET")]
        network: Vec<String>,
        /// Only this architecture, as sm_90a or compute_80 (again for more)
        #[arg(long, value_name = "NAME")]
        chip: Vec<String>,
    },
    /// Make a folder that checks and times the engine on a machine with an NVIDIA GPU: there, ./run.sh
    GpuBundle {
        /// The folder
        #[arg(default_value = "target/gpu-bundle")]
        folder: PathBuf,
        /// Take this program, and build none
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
        /// The pack of `cargo xtask kernel-pack`
        #[arg(long, value_name = "FILE", default_value = "target/kernels.pack")]
        pack: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Outcome<ExitCode> {
    if !matches!(task, Task::GpuBundle { .. }) {
        machine::enter()?;
    }
    match task {
        Task::Budgets { all, kernel, output } => budgets(all, kernel.as_deref(), &output),
        Task::KernelPack { file, network, chip } => {
            println!("{}", pack::make(&file, &network, &chip, &kept())?);
            Ok(ExitCode::SUCCESS)
        }
        Task::GpuBundle { folder, program, pack } => {
            println!("{}: {} bytes; there, ./run.sh", folder.display(), bundle::make(&folder, program, &pack)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Compiled kernels, from run to run.
fn kept() -> Kept {
    Kept::at("target/kernels")
}

const HEAD: &str = "\
# Static budgets of the CUDA kernels

Written by `cargo xtask budgets` with NVRTC @; no GPU was there, and nothing here is a time. Ranges are over all kernels of a
variant that the plans of SD 1.5's and SDXL's UNet, ControlNet and the VAE's decoder (f16) and the ops' cases need; counts of
instructions (HMMA to calls) are those of the kernels with the largest launches. The last two columns are the largest launch:
operations of its node, and bytes of its operands, each moved once. One line per kernel is in `static-budgets.tsv`.

";

fn budgets(all: bool, only: Option<&str>, output: &std::path::Path) -> Outcome<ExitCode> {
    let scope = if all { Scope::All } else { Scope::Usual };
    let mut chosen = selection(scope)?;
    if let Some(only) = only {
        for (_, uses) in &mut chosen {
            uses.retain(|_, u| format!("{}/{}", u.kernel.0, u.kernel.1).contains(only));
        }
    }
    let rows = table::rows(&chosen, &kept(), all)?;
    if only.is_some() {
        print!("{}", table::lines(&rows));
    } else {
        let compiler = cuda::compiler().map(|v| format!("{}.{}", v / 1000, v % 1000)).unwrap_or_default();
        let head = HEAD.replace('@', &compiler);
        write(&output.join("static-budgets.tsv"), table::lines(&rows).as_bytes())?;
        write(&output.join("static-budgets.md"), (head + &table::summary(&rows)).as_bytes())?;
    }
    let mut broken = 0;
    for row in &rows {
        for what in row.broken() {
            broken += 1;
            let (u, chip) = (&row.usage, row.chip.name());
            println!("{chip} {} {} {}: {what} ({}; {})", row.kernel(), row.entry, u.dtype, u.constants, u.site);
        }
    }
    println!("{} kernels, {broken} broken budgets", rows.len());
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
