//! `muybridge motion`

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use muybridge::loaders::{FrameRate, Frames, Picture, VideoWriter};
use muybridge::pipelines::stable::{MemoryPlan, Motion, MotionControl, Progress, PromptOptions, motion, preview};
use muybridge::runtime::DType;

use crate::generate::{ControlArg, LoraArg, Size, bar, checkpoint, dtype_for, scheduler_class, show};
use crate::{DeviceArgs, Failure, interrupt};

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
    /// What the clip shows
    #[arg(long, short, default_value = "", value_name = "TEXT")]
    prompt: String,
    /// What it must not show
    #[arg(long, short, value_name = "TEXT")]
    negative: Option<String>,
    /// The video: what it is, the end of its name tells; without an ending, a folder of PNG pictures
    #[arg(long, short, default_value = "motion.gif", value_name = "PATH")]
    output: PathBuf,
    /// Width and height in pixels; by default what the network was trained on
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
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
    /// Strength of guidance: how literally the prompt is taken. 1 is none, and twice as fast
    #[arg(long, short = 'g', default_value_t = 7.5, value_name = "G")]
    guidance: f32,
    /// Seed of the noise
    #[arg(long, short, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Another scheduler than the checkpoint's: ddim, euler, unipc, …, or a class name
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// Share of fresh noise in each step (ddim)
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    eta: f64,
    /// Layers of the text network left out at its end
    #[arg(long, default_value_t = 0, value_name = "N")]
    clip_skip: usize,
    /// A ControlNet's folder and what it follows: a video, a folder of pictures, or one picture for all frames; maybe with
    /// its strength and the part of the run that it is active in. Any number of them
    #[arg(long, value_name = "DIR:PATH[:SCALE[:FROM-TO]]")]
    control: Vec<ControlArg>,
    /// A LoRA and its weight (1 by default), added to the weights before the run. Any number of them
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    lora: Vec<LoraArg>,
    /// Files of a variant, where components have them: fp16
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Numbers of the activations: f32, f16 or bf16; by default f16 on GPUs that have it
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<DType>,
    /// Most memory on the device; if a run cannot keep to it, the least possible is named. 4.5G, 800M, 6Gi
    #[arg(long, value_name = "BYTES", value_parser = crate::animate::bytes)]
    max_memory: Option<u64>,
    /// Write a rough preview of the first frame here during the run, now and then
    #[arg(long, value_name = "FILE.png")]
    preview: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Makes a clip.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let rate = FrameRate::new(args.fps, 1).ok_or_else(|| Failure(format!("{} frames per second", args.fps)))?;
    // What cannot be written is told before the work, not after it.
    let mut writer = VideoWriter::create(&args.output, rate)?;
    let device = args.device.open()?;
    let checkpoint = checkpoint(&args.checkpoint, args.variant.as_deref(), &args.lora)?;
    let control = |c: &ControlArg| -> Result<MotionControl, Failure> {
        let pictures = pictures(&c.file, args.frames)?;
        Ok(MotionControl { dir: c.dir.clone(), pictures, scale: c.scale, range: c.range })
    };
    let request = Motion {
        prompt: PromptOptions {
            prompt: args.prompt.clone(),
            negative_prompt: args.negative.clone(),
            clip_skip: args.clip_skip,
            guided: false,
        },
        size: args.size.map(|s| s.0),
        frames: args.frames,
        window: args.window,
        overlap: args.overlap,
        steps: args.steps,
        scheduler: args.scheduler.as_deref().map(scheduler_class),
        guidance_scale: args.guidance,
        eta: args.eta,
        seed: args.seed,
        controls: args.control.iter().map(control).collect::<Result<_, _>>()?,
        dtype: dtype_for(args.dtype, &device),
        max_memory: args.max_memory,
    };
    let bar = bar();
    let mut failed = None;
    let mut watch = |p: &Progress<'_>| {
        show(&bar, p);
        if let (Some(file), Some(picture)) = (&args.preview, p.latents.and_then(|l| preview(l, false)))
            && (p.done.is_multiple_of(5) || p.done == p.steps)
            && let Err(e) = picture.write_png(file)
        {
            failed = Some(Failure::from(e));
            return ControlFlow::Break(());
        }
        if interrupt::check().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut plan = |memory: &MemoryPlan| eprintln!("{} in {}: {memory}", device.name(), request.dtype);
    let made = motion(&checkpoint, args.adapter.as_deref(), &request, &device, &mut plan, &mut watch);
    bar.finish_and_clear();
    let moved = match (made, failed) {
        (_, Some(failure)) => return Err(failure),
        (Err(muybridge::Error::Interrupted), None) => return interrupt::check().map(|()| ExitCode::FAILURE),
        (made, None) => made?,
    };
    for note in &moved.notes {
        eprintln!("muybridge: {note}");
    }
    for frame in &moved.frames {
        writer.push(frame)?;
    }
    writer.finish()?;
    eprintln!("{}: {} frames, seed {}", args.output.display(), moved.frames.len(), args.seed);
    Ok(ExitCode::SUCCESS)
}

/// The first `count` pictures of a motion, or one picture for all frames.
fn pictures(path: &Path, count: usize) -> Result<Vec<Picture>, Failure> {
    let still =
        path.extension().is_some_and(|e| ["png", "jpg", "jpeg"].iter().any(|name| e.eq_ignore_ascii_case(name)));
    if still {
        return Ok(vec![Picture::open(path)?.over([0; 3])]);
    }
    let frames = Frames::open(path)?.take(count).map(|f| Ok(f?.over([0; 3]))).collect::<Result<Vec<_>, Failure>>()?;
    if frames.len() < count {
        return Err(Failure(format!("{}: {} frames, where {count} are to be made", path.display(), frames.len())));
    }
    Ok(frames)
}
