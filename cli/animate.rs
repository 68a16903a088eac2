//! `muybridge animate`

mod held_out;
mod person;
mod scene;
mod state;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use muybridge::context::{Between, Weighting};
use muybridge::loaders::{FrameRate, Picture, VideoWriter};
use muybridge::pipelines::{AnimateInput, AnimateOptions, Animator, Components, ControlInput, Event, Flow, Stage};
use muybridge::{DType, Error, HostTensor, bundled};

use self::person::sheet;
use self::scene::Scene;
use self::state::State;
use crate::identity::{self, Scorer, Subject};
use crate::parsed::{ControlArg, Size, bytes, dtype_for};
use crate::progress::Shown;
use crate::table::{say, tell};
use crate::{DeviceArgs, Failure, output};

/// Options of the verb.
#[derive(clap::Args)]
#[command(after_help = "\
With no options it moves a synthetic person, whom the small built-in model never saw, in a motion that it never saw either, and
writes animate.mp4, animate.webp and animate.png: a contact sheet of reference, guidance, result and ground truth.

Examples:
  muybridge animate                                             the main job, with nothing to fetch
  muybridge animate --person 5 --frames 32 -o five.gif          another person and motion, twice as long
  muybridge animate --held-out 32 -o sheets                     how good the model is, beside what it does without its parts
  muybridge animate --model checkpoints/champ --reference me.png --motion walk -o me.mp4")]
pub struct Args {
    /// Folder of the checkpoint: denoising_unet, reference_unet, vae, image_encoder, and pose_guider (AnimateAnyone) or
    /// guidance_encoder_KIND (Champ); by default the small model that is built in
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Picture of the person: PNG, JPEG or WebP; by default a synthetic person
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// The motion: pictures of poses (a folder, a GIF or WebP animation), or for Champ a folder with one of these for each
    /// kind (depth, normal, semantic_map, dwpose); by default that of a synthetic person
    #[arg(long, value_name = "PATH")]
    motion: Option<PathBuf>,
    /// Where on the body each pixel of the reference is, as a picture (`synth` writes both as reference_nocs.png and nocs/): with nocs
    /// pictures beside the motion, the reference is carried along with the body, and its patterns with it
    #[arg(long, value_name = "FILE", requires = "reference")]
    reference_nocs: Option<PathBuf>,
    /// Which synthetic person and motion, where reference or motion is not given; even ones have textures and noise about them
    #[arg(long, default_value_t = 7, value_name = "N")]
    person: u64,
    /// A ControlNet beside the guiders: its folder and what it follows, a video, a folder of pictures, or one picture for all
    /// frames; maybe with its strength and the part of the run that it is active in. Any number of them. The folder `bundled` is
    /// the built-in one, which follows depth
    #[arg(long, value_name = "DIR:PATH[:SCALE[:FROM-TO]]")]
    control: Vec<ControlArg>,
    /// The video: what it is, the end of its name tells; without an ending, a folder of PNG pictures. By default animate.mp4,
    /// with animate.webp and the contact sheet animate.png beside it
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    /// A contact sheet: reference, guidance, result, and the ground truth where it is known
    #[arg(long, value_name = "FILE.png")]
    sheet: Option<PathBuf>,
    /// Size in pixels; by default 512x784, or 512x512 for Champ, as published, or 128x128 for the built-in model
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    /// Only the first frames of the motion; of a synthetic one, 16 by default
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Denoising steps; by default 30, or 20 for Champ, or 4 for the built-in model
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// How much reference and motion count: by default 3.5, or 1 for the built-in model, which halves the work
    #[arg(long, value_name = "X")]
    guidance: Option<f32>,
    /// Where noise begins: the same seed gives the same video on every device
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// Numbers of the activations; by default f16, or f32 where the device has no f16 or is the CPU
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<DType>,
    /// Frames that are denoised together: by default 24, or 16 for the built-in model
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Frames that neighbouring windows share
    #[arg(long, default_value_t = 4, value_name = "N")]
    overlap: usize,
    /// Let windows fade into each other, and begin at another frame in every step: seams show less
    #[arg(long)]
    blend: bool,
    /// Frames to make of each: 2 doubles the rate, by interpolation of latents
    #[arg(long, default_value_t = 1, value_name = "N")]
    interpolate: usize,
    /// Frames per second of the motion, where it does not say
    #[arg(long, default_value_t = 24, value_name = "N")]
    fps: u32,
    /// The most device memory: 4.5G, 800M, or bytes
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_memory: Option<u64>,
    /// Keep a small picture of what is coming here, renewed after each step
    #[arg(long, value_name = "FILE.png")]
    preview: Option<PathBuf>,
    /// Only say what it would take
    #[arg(long)]
    plan: bool,
    /// Make so many clips of synthetic people, no video, and print how near they come to the truth, beside baselines: the
    /// reference repeated, not carried along, no features of the reference, no motion modules. Contact sheets go to the folder --output
    #[arg(long, value_name = "N", conflicts_with_all = ["reference", "reference_nocs", "motion", "control", "person", "sheet", "plan", "report", "preview", "interpolate"])]
    held_out: Option<usize>,
    #[command(flatten)]
    identity: identity::Args,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Where the video goes, where nothing else is said.
const OUTPUT: &str = if cfg!(feature = "h264") { "animate.mp4" } else { "animate.webp" };

impl Args {
    fn output(&self) -> &Path {
        self.output.as_deref().unwrap_or(Path::new(OUTPUT))
    }

    /// The videos to write.
    fn videos(&self) -> Vec<&Path> {
        let mut videos = vec![self.output()];
        if self.output.is_none() {
            videos.push(Path::new("animate.webp"));
            videos.dedup();
        }
        videos
    }

    /// The contact sheet to write.
    fn sheet(&self) -> Option<&Path> {
        self.sheet.as_deref().or(self.output.is_none().then_some(Path::new("animate.png")))
    }

    /// Looks whether all outputs can be written.
    fn look_at_outputs(&self, rate: FrameRate) -> Result<(), Failure> {
        for file in self.videos() {
            // A writer that is dropped leaves nothing behind.
            VideoWriter::create(file, rate)?;
        }
        [self.sheet(), self.preview.as_deref(), self.identity.report()].into_iter().flatten().try_for_each(output::file)
    }

    fn components(&self, dtype: DType) -> Result<Components, Failure> {
        let mut components = match &self.model {
            Some(dir) => Components::open(dir, dtype)?,
            None => bundled::components()?,
        };
        for control in &self.control {
            components = if control.dir == Path::new(bundled::CONTROL) {
                let (config, weights) = bundled::control_net()?;
                components.with_control_of(bundled::CONTROL, config, weights)
            } else {
                components.with_control(&control.dir, dtype)?
            };
        }
        Ok(components)
    }
}

/// Makes the video. Interrupted, it keeps what is done beside the output, and the same command goes on from there.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let device = args.device.open()?;
    let dtype = dtype_for(args.dtype, &device);
    let components = args.components(dtype)?;
    let kinds = components.kinds();
    let drawn = args.frames.unwrap_or(bundled::FRAMES);
    let usual = options(args, &kinds, drawn, dtype);
    let size = [usual.width, usual.height];
    if let Some(count) = args.held_out {
        args.output.iter().try_for_each(|folder| output::folder(folder))?;
        held_out::execute(&|| args.components(dtype), &device, &usual, count, args.output.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let Scene { input, rate, truth } = Scene::of(args, &components, size, drawn)?;
    let rate =
        FrameRate::new(rate.frames().saturating_mul(args.interpolate.max(1) as u32), rate.seconds()).unwrap_or(rate);
    if !args.plan {
        args.look_at_outputs(rate)?;
    }
    let frames = input.motion.first().map_or(0, |m| m.frames.len());
    let options = AnimateOptions { frames, ..usual };
    let control = |c: &ControlArg| -> Result<ControlInput, Failure> {
        Ok(ControlInput { pictures: c.pictures(frames)?, scale: c.scale, range: c.range })
    };
    let controls = args.control.iter().map(control).collect::<Result<_, _>>()?;
    let input = AnimateInput { controls, ..input };
    let subject = Subject {
        reference: &input.reference,
        reference_file: args.reference.as_deref().unwrap_or(Path::new("")),
        motion: args.motion.as_deref().unwrap_or(Path::new("")),
        size,
        interpolate: args.interpolate,
        fingerprint: fingerprint(args, &AnimateOptions { seed: 0, ..options.clone() }, &input),
    };
    let mut scorer = if args.plan { None } else { args.identity.open(&device, dtype, args.seed, &subject)? };
    let mut animator = Animator::open(components, &device, options.clone())?;
    say!(
        "{frames} frames of {}x{} on {} in {dtype}: {}",
        options.width,
        options.height,
        device.name(),
        animator.memory()
    );
    if args.plan {
        return Ok(ExitCode::SUCCESS);
    }
    let mut input = input;
    for seed in args.identity.seeds(args.seed) {
        if args.output().exists() && scorer.as_ref().is_some_and(|s| s.knows(seed)) {
            continue;
        }
        animator = animator.seeded(seed);
        let mut state =
            State::of(args.output(), fingerprint(args, &AnimateOptions { seed, ..options.clone() }, &input));
        let pictures = one(args, &animator, &mut input, &mut state, seed, scorer.as_mut())?;
        if scorer.as_mut().is_none_or(Scorer::end) {
            write(args, &input, &pictures, truth.as_deref(), rate)?;
        }
        if let Some(scorer) = &scorer {
            scorer.write()?;
        }
        state.clear();
    }
    if let Some(scorer) = &scorer {
        scorer.print();
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the video, what stands beside it, and how near it comes to the truth where that is known.
fn write(
    args: &Args,
    input: &AnimateInput,
    pictures: &[Picture],
    truth: Option<&[Picture]>,
    rate: FrameRate,
) -> Result<(), Failure> {
    for file in args.videos() {
        let mut writer = VideoWriter::create(file, rate)?;
        pictures.iter().try_for_each(|picture| writer.push(picture))?;
        writer.finish()?;
        say!("{} frames written to {}", pictures.len(), file.display());
    }
    if let Some(file) = args.sheet() {
        let mut rows: Vec<&[Picture]> = input.motion.iter().take(1).map(|m| &m.frames[..]).collect();
        rows.push(pictures);
        rows.extend(truth);
        sheet(&input.reference, &rows)?.write_png(file)?;
        say!("contact sheet written to {}", file.display());
    }
    if let Some(truth) = truth {
        let [psnr, ssim] = held_out::likeness(pictures, truth)?;
        say!("against the ground truth: PSNR {psnr:.2} dB, SSIM {ssim:.4}");
    }
    Ok(())
}

/// The frames of one seed, scored as they come where faces are.
fn one(
    args: &Args,
    animator: &Animator,
    input: &mut AnimateInput,
    state: &mut State,
    seed: u64,
    mut scorer: Option<&mut Scorer>,
) -> Result<Vec<Picture>, Failure> {
    input.resume = state.read()?;
    let pictures = state.finished(input.resume.as_ref())?;
    if let Some(scorer) = &mut scorer {
        scorer.begin(seed);
        pictures.iter().try_for_each(|picture| scorer.frame(picture))?;
    }
    if let Some(done) = &mut input.resume {
        done.frames = pictures.len();
        tell!("going on after step {} and {} frames", done.steps, done.frames);
    }
    let (shown, now) = (Shown::new(args.preview.as_deref(), false), Instant::now());
    let mut job = Job { shown, pictures, state, scorer, began: now, denoising: now, denoised: (0, Duration::ZERO) };
    let ran = animator.run(input, &mut |event| job.hear(&event));
    job.shown.end()?;
    let pictures = std::mem::take(&mut job.pictures);
    if let Err(Error::Interrupted) = ran {
        return Err(Failure(job.state.keep(&pictures)?));
    }
    ran?;
    if let (steps @ 1.., spent) = job.denoised {
        let (each, all) = (spent.as_secs_f64() / steps as f64, job.began.elapsed().as_secs_f64());
        say!("{steps} steps of {each:.2} s, {all:.1} s in all");
    }
    Ok(pictures)
}

fn options(args: &Args, kinds: &[String], frames: usize, dtype: DType) -> AnimateOptions {
    let (size, steps, guidance, window) = match &args.model {
        None => ([bundled::SIDE; 2], bundled::STEPS, bundled::GUIDANCE, bundled::FRAMES),
        Some(_) if kinds.iter().all(|k| k != "pose") => ([512, 512], 20, 3.5, 24),
        Some(_) => ([512, 784], 30, 3.5, 24),
    };
    let Size([width, height]) = args.size.unwrap_or(Size(size));
    AnimateOptions {
        width,
        height,
        frames,
        steps: args.steps.unwrap_or(steps),
        guidance: args.guidance.unwrap_or(guidance),
        seed: args.seed,
        dtype,
        window: args.window.unwrap_or(window),
        strides: 1,
        overlap: args.overlap,
        weighting: if args.blend { Weighting::Pyramid } else { Weighting::Flat },
        moving: args.blend,
        between: (args.interpolate > 1).then_some((args.interpolate, Between::Slerp)),
        max_memory: args.max_memory,
        reads_reference: true,
    }
}

/// Everything that decides about the video, in 64 bits (FNV-1a).
fn fingerprint(args: &Args, options: &AnimateOptions, input: &AnimateInput) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        bytes.iter().for_each(|b| hash = (hash ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01B3));
    };
    // Where it runs and in how much memory may change.
    add(format!("{:?} {:?}", args.model, AnimateOptions { max_memory: None, ..options.clone() }).as_bytes());
    add(&input.reference.pixels);
    input.motion.iter().flat_map(|m| &m.frames).chain(&input.carried).for_each(|p| add(&p.pixels));
    add(format!("{:?}", args.control).as_bytes());
    input.controls.iter().flat_map(|c| &c.pictures).for_each(|p| add(&p.pixels));
    hash
}

/// A run, as it is watched and kept.
struct Job<'a> {
    shown: Shown<'a>,
    pictures: Vec<Picture>,
    state: &'a mut State,
    scorer: Option<&'a mut Scorer>,
    began: Instant,
    /// When denoising began.
    denoising: Instant,
    /// Steps of this run, and their time.
    denoised: (usize, Duration),
}

impl Job<'_> {
    fn hear(&mut self, event: &Event<'_>) -> Flow {
        let kept = match event {
            Event::Step { step, latents, .. } => {
                self.denoised = (self.denoised.0 + 1, self.denoising.elapsed());
                self.state.step(step + 1, latents)
            }
            Event::Progress(p) if p.stage == Stage::Denoising && p.done == 0 => {
                self.denoising = Instant::now();
                Ok(())
            }
            Event::Frame { pixels, .. } => {
                let picture = picture(pixels);
                let scored = self.scorer.as_mut().map_or(Ok(()), |s| s.frame(&picture));
                self.pictures.push(picture);
                scored
            }
            _ => Ok(()),
        };
        match self.shown.judge(kept) {
            Flow::Continue => self.shown.hear(event),
            Flow::Stop => Flow::Stop,
        }
    }
}

/// A frame `[1,H,W,3]` in [0, 1] in bytes, rounded.
fn picture(pixels: &HostTensor) -> Picture {
    let [_, height, width, channels] = [0, 1, 2, 3].map(|i| pixels.shape()[i]);
    let byte = |v: f32| (v * 255.0).round().clamp(0.0, 255.0) as u8;
    Picture { width, height, channels, pixels: pixels.to_f32().into_iter().map(byte).collect() }
}
