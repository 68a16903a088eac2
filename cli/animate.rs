//! `muybridge animate`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use muybridge::context::{Between, Weighting};
use muybridge::loaders::{FrameRate, Frames, Guidance, Picture, VideoWriter, read_tensors, write_tensors};
use muybridge::pipelines::{
    AnimateInput, AnimateOptions, Animator, Checkpoint, Components, ControlInput, Event, Flow, Motion,
};
use muybridge::{DType, Error, HostTensor};

use crate::identity::{self, Scorer, Subject};
use crate::parsed::{ControlArg, Size, bytes, dtype_for};
use crate::progress::Shown;
use crate::table::say;
use crate::{DeviceArgs, Failure};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the checkpoint: denoising_unet, reference_unet, vae, image_encoder, and pose_guider (AnimateAnyone) or
    /// guidance_encoder_KIND (Champ)
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Picture of the person: PNG, JPEG or WebP
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// The motion: pictures of poses (a folder, a GIF or WebP animation), or for Champ a folder with one of these for each
    /// kind (depth, normal, semantic_map, dwpose)
    #[arg(long, value_name = "PATH")]
    motion: PathBuf,
    /// A ControlNet beside the guiders: its folder and what it follows, a video, a folder of pictures, or one picture for all
    /// frames; maybe with its strength and the part of the run that it is active in. Any number of them
    #[arg(long, value_name = "DIR:PATH[:SCALE[:FROM-TO]]")]
    control: Vec<ControlArg>,
    /// The video: what it is, the end of its name tells; without an ending, a folder of PNG pictures
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// Size in pixels; by default 512x784, or 512x512 for Champ, as published
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    /// Only the first frames of the motion
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Denoising steps; by default 30, or 20 for Champ
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// How much reference and motion count; 1 halves the work
    #[arg(long, default_value_t = 3.5, value_name = "X")]
    guidance: f32,
    /// Where noise begins: the same seed gives the same video on every device
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// Numbers of the activations; by default f16, or f32 where the device has no f16 or is the CPU
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<DType>,
    /// Frames that are denoised together
    #[arg(long, default_value_t = 24, value_name = "N")]
    window: usize,
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
    #[command(flatten)]
    identity: identity::Args,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Makes the video. Interrupted, it keeps what is done beside the output, and the same command goes on from there.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let device = args.device.open()?;
    let dtype = dtype_for(args.dtype, &device);
    let mut components = Components::open(&args.model, dtype)?;
    for control in &args.control {
        components = components.with_control(&control.dir, dtype)?;
    }
    let (motion, rate) = read_motion(args, &components.kinds())?;
    let frames = motion.first().map_or(0, |m| m.frames.len());
    let reference = Picture::open(&args.reference)?;
    let options = options(args, &components.kinds(), frames, dtype);
    let control = |c: &ControlArg| -> Result<ControlInput, Failure> {
        Ok(ControlInput { pictures: c.pictures(frames)?, scale: c.scale, range: c.range })
    };
    let controls = args.control.iter().map(control).collect::<Result<_, _>>()?;
    let input = AnimateInput { reference, motion, controls, latents: None, resume: None };
    let subject = Subject {
        reference: &input.reference,
        reference_file: &args.reference,
        motion: &args.motion,
        size: [options.width, options.height],
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
    let rate =
        FrameRate::new(rate.frames().saturating_mul(args.interpolate.max(1) as u32), rate.seconds()).unwrap_or(rate);
    let mut input = input;
    for seed in args.identity.seeds(args.seed) {
        if args.output.exists() && scorer.as_ref().is_some_and(|s| s.knows(seed)) {
            continue;
        }
        animator = animator.seeded(seed);
        let mut state = State::of(&args.output, fingerprint(args, &AnimateOptions { seed, ..options.clone() }, &input));
        let pictures = one(args, &animator, &mut input, &mut state, seed, scorer.as_mut())?;
        if scorer.as_mut().is_none_or(Scorer::end) {
            let mut writer = VideoWriter::create(&args.output, rate)?;
            pictures.iter().try_for_each(|picture| writer.push(picture))?;
            writer.finish()?;
            say!("{} frames written to {}", pictures.len(), args.output.display());
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
        eprintln!("going on after step {} and {} frames", done.steps, done.frames);
    }
    let mut job = Job { shown: Shown::new(args.preview.as_deref(), false), pictures, state, scorer };
    let ran = animator.run(input, &mut |event| job.hear(&event));
    job.shown.end()?;
    let pictures = std::mem::take(&mut job.pictures);
    if let Err(Error::Interrupted) = ran {
        return Err(Failure(job.state.keep(&pictures)?));
    }
    ran?;
    Ok(pictures)
}

fn options(args: &Args, kinds: &[String], frames: usize, dtype: DType) -> AnimateOptions {
    let champ = kinds.iter().all(|k| k != "pose");
    let Size([width, height]) = args.size.unwrap_or(Size(if champ { [512, 512] } else { [512, 784] }));
    AnimateOptions {
        width,
        height,
        frames,
        steps: args.steps.unwrap_or(if champ { 20 } else { 30 }),
        guidance: args.guidance,
        seed: args.seed,
        dtype,
        window: args.window,
        strides: 1,
        overlap: args.overlap,
        weighting: if args.blend { Weighting::Pyramid } else { Weighting::Flat },
        moving: args.blend,
        between: (args.interpolate > 1).then_some((args.interpolate, Between::Slerp)),
        max_memory: args.max_memory,
    }
}

/// Pictures of every kind that the model reads, and their rate.
fn read_motion(args: &Args, kinds: &[String]) -> Result<(Vec<Motion>, FrameRate), Failure> {
    let most = args.frames.unwrap_or(usize::MAX);
    let named = FrameRate::new(args.fps, 1).ok_or_else(|| Failure(format!("--fps {}: no such rate", args.fps)))?;
    if kinds.iter().any(|k| k == "pose") {
        let stream = Frames::open(&args.motion)?;
        let rate = stream.rate().unwrap_or(named);
        let frames = stream.take(most).collect::<Result<Vec<_>, _>>()?;
        return Ok((vec![Motion { kind: "pose".into(), frames }], rate));
    }
    let there: Vec<String> = Guidance::open(&args.motion, &[] as &[&str])?.types().to_vec();
    let wanted: Vec<&String> = kinds.iter().filter(|k| there.contains(k)).collect();
    if wanted.is_empty() {
        let (has, reads) = (there.join(", "), kinds.join(", "));
        return Err(Failure(format!("{}: has {has}, where the model reads {reads}", args.motion.display())));
    }
    let stream = Guidance::open(&args.motion, &wanted)?;
    let rate = stream.rate().unwrap_or(named);
    let mut motion: Vec<Motion> = wanted.iter().map(|k| Motion { kind: k.to_string(), frames: Vec::new() }).collect();
    for pictures in stream.take(most) {
        motion.iter_mut().zip(pictures?).for_each(|(m, picture)| m.frames.push(picture));
    }
    Ok((motion, rate))
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
    input.motion.iter().flat_map(|m| &m.frames).for_each(|p| add(&p.pixels));
    add(format!("{:?}", args.control).as_bytes());
    input.controls.iter().flat_map(|c| &c.pictures).for_each(|p| add(&p.pixels));
    hash
}

/// What is kept of an interrupted run, beside its output: `OUTPUT.state.safetensors` and `OUTPUT.frames`.
struct State {
    file: PathBuf,
    folder: PathBuf,
    fingerprint: Vec<f32>,
    /// Steps taken, and the latents after them.
    last: Option<(usize, HostTensor)>,
    written: Instant,
}

/// Time between two savings of the latents, at least.
const SAVED_EVERY: Duration = Duration::from_secs(60);

impl State {
    fn of(output: &Path, fingerprint: u64) -> State {
        let beside = |end: &str| {
            let mut name = output.as_os_str().to_os_string();
            name.push(end);
            PathBuf::from(name)
        };
        // Sixteen bits each, which a float holds.
        let fingerprint = (0..4).map(|i| (fingerprint >> (16 * i) & 0xFFFF) as f32).collect();
        let (file, folder) = (beside(".state.safetensors"), beside(".frames"));
        State { file, folder, fingerprint, last: None, written: Instant::now() }
    }

    /// The state of a run of the same options and pictures, if there is one.
    fn read(&mut self) -> Result<Option<Checkpoint>, Failure> {
        if !self.file.exists() {
            return Ok(None);
        }
        let tensors = read_tensors(&self.file)?;
        let get = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
        if get("fingerprint") != self.fingerprint {
            eprintln!("{}: the state of another run, left alone; it is replaced", self.file.display());
            return Ok(None);
        }
        let (Some(steps), Some(latents)) = (get("steps").first().copied(), tensors.get("latents")) else {
            return Err(Failure(format!("{}: no steps and latents; remove it to begin anew", self.file.display())));
        };
        self.last = Some((steps as usize, latents.clone()));
        Ok(Some(Checkpoint { steps: steps as usize, latents: latents.clone(), frames: 0 }))
    }

    /// Frames that the interrupted run finished.
    fn finished(&self, resume: Option<&Checkpoint>) -> Result<Vec<Picture>, Failure> {
        if resume.is_none() || !self.folder.is_dir() {
            return Ok(Vec::new());
        }
        Ok(Frames::open(&self.folder)?.map(|p| p.map(Picture::rgb)).collect::<Result<_, _>>()?)
    }

    fn save(&self) -> Result<(), Failure> {
        let Some((steps, latents)) = &self.last else { return Ok(()) };
        let tensors = BTreeMap::from([
            ("latents".to_string(), latents.clone()),
            ("steps".to_string(), HostTensor::from_fn([1], |_| *steps as f32)),
            ("fingerprint".to_string(), HostTensor::new([4], self.fingerprint.clone()).map_err(Error::from)?),
        ]);
        Ok(write_tensors(&self.file, &tensors)?)
    }

    /// A step was taken: saved now and then, in case that nothing else is.
    fn step(&mut self, steps: usize, latents: &HostTensor) -> Result<(), Failure> {
        self.last = Some((steps, latents.clone()));
        if self.written.elapsed() > SAVED_EVERY {
            self.save()?;
            self.written = Instant::now();
        }
        Ok(())
    }

    /// Keeps everything that is done, and says so.
    fn keep(&self, pictures: &[Picture]) -> Result<String, Failure> {
        let Some((steps, _)) = &self.last else { return Ok("interrupted before the first step".into()) };
        self.save()?;
        if !pictures.is_empty() {
            std::fs::create_dir_all(&self.folder)?;
        }
        for (i, picture) in pictures.iter().enumerate() {
            let file = self.folder.join(format!("{i:06}.png"));
            if !file.exists() {
                picture.write_png(&file)?;
            }
        }
        let kept = format!("{} after {steps} steps", self.file.display());
        let frames = if pictures.is_empty() { String::new() } else { format!(", {} frames", pictures.len()) };
        Ok(format!("interrupted; kept {kept}{frames}: the same command goes on from there"))
    }

    /// The video is done: nothing needs to be kept. What cannot be removed does no harm.
    fn clear(&self) {
        let _ = std::fs::remove_file(&self.file);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A run, as it is watched and kept.
struct Job<'a> {
    shown: Shown<'a>,
    pictures: Vec<Picture>,
    state: &'a mut State,
    scorer: Option<&'a mut Scorer>,
}

impl Job<'_> {
    fn hear(&mut self, event: &Event<'_>) -> Flow {
        let kept = match event {
            Event::Step { step, latents, .. } => self.state.step(step + 1, latents),
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
