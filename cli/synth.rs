//! Makes clips of synthetic people with exact ground truth.

use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use muybridge_synth::files::{Job, MAPS};
use muybridge_synth::{ClipOptions, Error, Look, Split};

use crate::table::say;
use crate::{Failure, interrupt};

/// Which clips, how many, and where to.
#[derive(clap::Args)]
#[command(after_help = "\
Each clip becomes a folder: reference.png, frames/, and guidance in normal/, depth/, semantic_map/, dwpose/ and nocs/ (with
reference_nocs.png), which `animate --motion` reads. manifest.jsonl says who, what and where everything is in every frame. The same seed gives the same
bytes on every machine; clips that are there already are kept, so an interrupted run goes on where it stopped.

Examples:
  muybridge synth people --clips 8                              eight clips of 128x128, 16 frames each
  muybridge synth held-out --split test --clips 32 --seed 7     people and motions that training never sees
  muybridge synth train --packed 64 --clips 3000 --maps normal,dwpose    arrays for training scripts")]
pub struct Args {
    /// Folder to write to
    out: PathBuf,
    /// Number of clips
    #[arg(long, default_value_t = 8, value_name = "N")]
    clips: usize,
    /// Frames of a clip
    #[arg(long, default_value_t = 16, value_name = "N")]
    frames: usize,
    /// Size in pixels: one side of a square, or WxH
    #[arg(long, default_value = "128", value_name = "N|WxH")]
    size: String,
    /// Frames a second
    #[arg(long, default_value_t = 12.0, value_name = "N")]
    rate: f32,
    /// real (textures, noise, any light and view), synthetic (plain, even light), or mixed (in turn)
    #[arg(long, default_value = "real", value_name = "LOOK")]
    look: String,
    /// train or test: no person and no kind of motion is in both
    #[arg(long, default_value = "train", value_name = "SPLIT")]
    split: String,
    /// Seed of everything
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Number of persons; by default every clip has one of its own
    #[arg(long, value_name = "N")]
    identities: Option<usize>,
    /// Let the camera of the real look sway and drift
    #[arg(long)]
    moving_camera: bool,
    /// Which maps to write
    #[arg(long, value_delimiter = ',', default_values_t = MAPS.map(String::from), value_name = "NAMES")]
    maps: Vec<String>,
    /// Pack so many clips into one folder of .npy arrays, instead of PNG files
    #[arg(long, default_value_t = 0, value_name = "CLIPS", hide_default_value = true)]
    packed: usize,
}

pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let [width, height] = extents(&args.size)?;
    let look = match args.look.as_str() {
        "mixed" => None,
        name => Some(Look::named(name).ok_or_else(|| unknown("look", name, "real, synthetic, mixed"))?),
    };
    let split = Split::named(&args.split).ok_or_else(|| unknown("split", &args.split, "train, test"))?;
    let options = ClipOptions {
        width,
        height,
        frames: args.frames,
        rate: args.rate,
        look,
        split,
        seed: args.seed,
        identities: args.identities,
        moving_camera: args.moving_camera,
    };
    let bar = ProgressBar::new((args.clips * args.frames) as u64);
    let style = "{bar:40} {pos}/{len} frames, {per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).map_err(|e| Failure(e.to_string()))?);
    let job = Job {
        out: &args.out,
        options: &options,
        clips: args.clips,
        maps: &args.maps,
        packed: args.packed,
        progress: &|frames| bar.inc(frames as u64),
        go_on: &|| interrupt::check().is_ok(),
    };
    let done = job.run();
    bar.finish_and_clear();
    match done {
        Ok(made) => {
            let kept = args.clips - made;
            say!("{made} clips made, {kept} were there; {}", args.out.join("manifest.jsonl").display());
            Ok(ExitCode::SUCCESS)
        }
        Err(e @ Error::Interrupted(_)) => Err(Failure(format!("{e}; the same command goes on where this one stopped"))),
        Err(e) => Err(e.into()),
    }
}

fn unknown(option: &str, value: &str, known: &str) -> Failure {
    Failure(format!("--{option} {value}: known are {known}"))
}

fn extents(text: &str) -> Result<[usize; 2], Failure> {
    let bad = || Failure(format!("--size {text}: wanted a number of pixels, or WxH"));
    let one = |part: &str| part.parse::<usize>().map_err(|_| bad());
    match text.split('x').map(one).collect::<Result<Vec<_>, _>>()?[..] {
        [side] => Ok([side, side]),
        [width, height] => Ok([width, height]),
        _ => Err(bad()),
    }
}
