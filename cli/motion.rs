//! `muybridge motion`

use std::path::PathBuf;
use std::process::ExitCode;

use muybridge::loaders::{FrameRate, VideoWriter};
use muybridge::pipelines::stable::{Motion, MotionControl, motion};

use crate::parsed::ControlArg;
use crate::table::tell;
use crate::{Failure, prompted};

const EXAMPLES: &str = "\
Examples:
  muybridge motion sd15 --adapter motion-v1-5-2 -p \"a cat walking in the snow\" -o cat.gif
  muybridge motion sd15 --adapter motion-v1-5-2 -p \"a dancer\" --control openpose:dance.mp4 --frames 48 -o dance.mp4
  muybridge motion animatediff -p \"waves at night\" --max-memory 6G -o frames

The checkpoint is a folder of a Stable Diffusion 1.x pipeline in the layout of diffusers; the adapter is a folder with the
config.json and weights of AnimateDiff's motion modules. Clips longer than --window are denoised in windows that overlap.";

/// Options of the verb.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of a Stable Diffusion 1.x pipeline
    checkpoint: PathBuf,
    /// Folder of the motion modules; by default the checkpoint's own motion_adapter
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The video: what it is, the end of its name tells; without an ending, a folder of PNG pictures
    #[arg(long, short, default_value = "motion.gif", value_name = "PATH")]
    output: PathBuf,
    /// Frames of the clip
    #[arg(long, default_value_t = 16, value_name = "N")]
    frames: usize,
    /// Frames that are denoised together; motion modules were trained on 16
    #[arg(long, default_value_t = 16, value_name = "N")]
    window: usize,
    /// Frames that neighbouring windows share
    #[arg(long, default_value_t = 4, value_name = "N")]
    overlap: usize,
    /// Frames per second of the video
    #[arg(long, default_value_t = 8, value_name = "N")]
    fps: u32,
    /// Denoising steps
    #[arg(long, default_value_t = 25, value_name = "N")]
    steps: usize,
    /// A ControlNet's folder and what it follows: a video, a folder of pictures, or one picture for all frames; maybe with
    /// its strength and the part of the run that it is active in. Any number of them
    #[arg(long, value_name = "DIR:PATH[:SCALE[:FROM-TO]]")]
    control: Vec<ControlArg>,
    #[command(flatten)]
    common: prompted::Args,
}

/// Makes a clip.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let rate = FrameRate::new(args.fps, 1).ok_or_else(|| Failure(format!("{} frames per second", args.fps)))?;
    // What cannot be written is told before the work, not after it.
    let mut writer = VideoWriter::create(&args.output, rate)?;
    let (device, checkpoint) = args.common.open(&args.checkpoint)?;
    let control = |c: &ControlArg| -> Result<MotionControl, Failure> {
        Ok(MotionControl { dir: c.dir.clone(), pictures: c.pictures(args.frames)?, scale: c.scale, range: c.range })
    };
    let common = &args.common;
    let request = Motion {
        prompt: common.prompt(),
        size: common.size(),
        frames: args.frames,
        window: args.window,
        overlap: args.overlap,
        steps: args.steps,
        scheduler: common.scheduler(),
        guidance_scale: common.guidance,
        eta: common.eta,
        seed: common.seed,
        controls: args.control.iter().map(control).collect::<Result<_, _>>()?,
        dtype: common.dtype(&device),
        max_memory: common.max_memory,
    };
    let adapter = args.adapter.as_deref();
    let moved = common.watched(&device, false, |listener| motion(&checkpoint, adapter, &request, &device, listener))?;
    for note in &moved.notes {
        tell!("muybridge: {note}");
    }
    for frame in &moved.frames {
        writer.push(frame)?;
    }
    writer.finish()?;
    tell!("{}: {} frames, seed {}", args.output.display(), moved.frames.len(), common.seed);
    Ok(ExitCode::SUCCESS)
}
