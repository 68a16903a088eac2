//! The command line: one file per verb.

#![forbid(unsafe_code)]
// Both panic where nobody listens: `say!` and `tell!` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod animate;
mod bench;
mod clips;
mod compare;
mod component;
mod content;
mod convert;
mod devices;
mod doctor;
mod embed;
mod evaluate;
mod generate;
mod html;
mod identity;
mod inspect;
mod interrupt;
mod kernels;
mod motion;
mod output;
mod parsed;
mod profile;
mod progress;
mod prompted;
#[cfg(feature = "pull")]
mod pull;
mod run;
mod select;
mod synth;
mod table;
mod tune;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use muybridge::runtime::tuned::Tuned;
use muybridge::runtime::{Device, DeviceOptions};

/// A lean GPU kernel engine for controllable human video diffusion.
///
/// Hand-written kernels run VAE, UNet and ControlNet graphs straight from safetensors weights: on any vendor's GPU through
/// Vulkan, Metal or DirectX 12 (device names wgpu:0, wgpu:1, …) and on plain CPUs (cpu). `auto` takes the best device present.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  muybridge generate sd15 -p \"a cat\" -o cat.png      a picture from words, with a checkpoint in the layout of diffusers
  muybridge devices                                   what this machine offers, and what is missing
  muybridge inspect sd15-unet --shape 64x64           launches, memory and work of a full-size model, without weights
  muybridge inspect checkpoints/sd15/unet             the same for a checkpoint, with a census of its tensors
  muybridge bench sd15-unet --shape 64x64             times one model with random weights
  muybridge animate                                   moves a synthetic person, with the small built-in model
  muybridge animate --model checkpoints/champ --reference me.png --motion walk --output me.webp
  muybridge profile sd15-unet --html unet.html        where its time goes, as a page to look at
  muybridge run tests/golden/vae_mid_attn --check     compares with a recorded case of another implementation";

#[derive(Subcommand)]
enum Verb {
    /// List the devices of this machine, with their limits and features, and why an expected one is missing
    Devices(devices::Args),
    /// Show what a model consists of and what a plan of it takes: tensors, launches, memory, work
    Inspect(inspect::Args),
    /// Make pictures from words, pictures and ControlNets with a Stable Diffusion checkpoint
    Generate(Box<generate::Args>),
    /// Make a clip from words with a Stable Diffusion 1.x checkpoint and motion modules (AnimateDiff)
    Motion(Box<motion::Args>),
    /// Fetch a checkpoint into the cache that Hugging Face's programs share
    #[cfg(feature = "pull")]
    Pull(pull::Args),
    /// Execute the calls of a recorded case and write their outputs, or compare them with the recorded ones
    Run(run::Args),
    /// Move the person of a picture as a motion says: AnimateAnyone and Champ
    Animate(Box<animate::Args>),
    /// Compare generated clips with real ones: PSNR, SSIM, LPIPS, FVD, CSIM, consistency in time; table, JSON, CSV and a page
    Evaluate(Box<evaluate::Args>),
    /// Embed clips by CLIP, into Parquet files
    Embed(embed::Args),
    /// Choose synthetic clips that stand for real ones, by their embeddings
    Select(select::Args),
    /// Turn PyTorch checkpoints into safetensors, and checkpoints of one file into folders
    Convert(convert::Args),
    /// Time one component, with a checkpoint's weights or with random ones
    Bench(bench::Args),
    /// Make clips of synthetic people in motion, with exact ground truth
    Synth(synth::Args),
    /// Time every kernel of one component, and say what would be won at the device's own limits
    Profile(profile::Args),
    /// Compare two profiles: what became faster or slower, and how sure that is
    Compare(compare::Args),
    /// List kernels, show their generated sources, time one case, or try a kernel from a file
    Kernels(kernels::Args),
    /// Measure which kernels are the fastest for a model here, and have later plans take them
    Tune(tune::Args),
    /// Check every kernel on a device: what is wrong or slow there
    Doctor(doctor::Args),
}

/// Which device, and how it is opened.
#[derive(clap::Args)]
struct DeviceArgs {
    /// auto, cpu, wgpu:N, cuda:N or trace (plans without running)
    #[arg(long, default_value = "auto", value_name = "NAME")]
    device: String,
    /// Threads of the cpu device; one per core by default
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Work within WebGPU's default limits even where the device has larger ones
    #[arg(long)]
    webgpu_limits: bool,
    /// Take kernels in the ops' own order, not those that muybridge tune chose
    #[arg(long)]
    no_tune: bool,
    /// Take tuned kernels from this file instead of the user's cache
    #[arg(long, value_name = "FILE", conflicts_with = "no_tune")]
    tuned: Option<PathBuf>,
}

impl DeviceArgs {
    fn options(&self) -> DeviceOptions {
        let tuned = match &self.tuned {
            _ if self.no_tune => Tuned::Off,
            Some(file) => Tuned::File(file.clone()),
            None => Tuned::Usual,
        };
        DeviceOptions { threads: self.threads, default_limits: self.webgpu_limits, tuned, ..DeviceOptions::default() }
    }

    /// The same options for another process.
    fn again(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec!["--device".into(), self.device.as_str().into()];
        if let Some(threads) = self.threads {
            all.extend(["--threads".into(), threads.to_string().into()]);
        }
        all.extend(self.webgpu_limits.then(|| "--webgpu-limits".into()));
        all.extend(self.no_tune.then(|| "--no-tune".into()));
        if let Some(file) = &self.tuned {
            all.extend(["--tuned".into(), file.into()]);
        }
        all
    }

    fn open(&self) -> Result<Device, Failure> {
        Ok(Device::open_with(&self.device, &self.options())?)
    }

    /// With nodes named to the driver, for debuggers of GPUs.
    fn open_labelled(&self) -> Result<Device, Failure> {
        Ok(Device::open_with(&self.device, &DeviceOptions { labels: true, ..self.options() })?)
    }
}

/// Why a verb ended badly: a message for people.
#[derive(Debug)]
struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Transparent wrappers repeat their cause.
            if !text.ends_with(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Failure(text)
    }
}

fn main() -> ExitCode {
    interrupt::install();
    let done = match Cli::parse().verb {
        Verb::Devices(args) => devices::execute(&args),
        Verb::Inspect(args) => inspect::execute(&args),
        Verb::Generate(args) => generate::execute(&args),
        Verb::Motion(args) => motion::execute(&args),
        #[cfg(feature = "pull")]
        Verb::Pull(args) => pull::execute(&args),
        Verb::Run(args) => run::execute(&args),
        Verb::Animate(args) => animate::execute(&args),
        Verb::Evaluate(args) => evaluate::execute(&args),
        Verb::Embed(args) => embed::execute(&args),
        Verb::Select(args) => select::execute(&args),
        Verb::Convert(args) => convert::execute(&args),
        Verb::Bench(args) => bench::execute(&args),
        Verb::Synth(args) => synth::execute(&args),
        Verb::Profile(args) => profile::execute(&args),
        Verb::Compare(args) => compare::execute(&args),
        Verb::Kernels(args) => kernels::execute(&args),
        Verb::Tune(args) => tune::execute(&args),
        Verb::Doctor(args) => doctor::execute(&args),
    };
    match done.and_then(|code| table::written().map(|()| code)) {
        Ok(code) => code,
        Err(Failure(message)) => {
            table::tell!("muybridge: {message}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_options_of_no_verb_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
