//! Text to clips: a Stable Diffusion UNet with motion modules, and any number of ControlNets that follow pictures of every frame.
//!
//! Guo et al., "AnimateDiff" (2023). Clips longer than the modules know are denoised in overlapping windows whose predictions
//! are averaged.

use std::path::{Path, PathBuf};

use muybridge_loaders::{Config, Weights};
use muybridge_runtime::{DType, Device, HostTensor};

use super::denoise::{Controlled, Denoiser, Request, frames_of};
use super::generate::decode;
use super::memory::Needs;
use super::{Checkpoint, Conditioning, PromptOptions, to_pixels};
use crate::context::{Weighting, Windows};
use crate::controlnet::ControlNet;
use crate::error::{Error, Result};
use crate::noise::{NoiseSource, TorchCpu};
use crate::pipelines::control::{UNSOUND, sound};
use crate::pipelines::memory::{Halves, MemoryPlan};
use crate::pipelines::watch::{Clock, Event, Flow, Stage, Watch};
use crate::resize::Picture;
use crate::schedulers::{Run, Scheduler, StepInput};
use crate::stages::UnetShape;
use crate::unet::Unet;
use crate::vae::Vae;

const MODEL: &str = "motion";

/// A ControlNet and the pictures that it follows.
#[derive(Clone, Debug)]
pub struct MotionControl {
    /// Its directory.
    pub dir: PathBuf,
    /// A condition picture for each frame, RGB, or one for all.
    pub pictures: Vec<Picture>,
    /// Strength, 1 being as trained.
    pub scale: f32,
    /// Shares of the run at which it begins and ends, from 0 to 1.
    pub range: [f32; 2],
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Motion {
    /// The texts, and how they are read. `guided` is set by the run.
    pub prompt: PromptOptions,
    /// Width and height in pixels; those that the network was trained on, where none.
    pub size: Option<[usize; 2]>,
    /// Frames of the clip.
    pub frames: usize,
    /// Frames that are denoised together: more than the motion modules know are refused by them.
    pub window: usize,
    /// Frames that neighbouring windows share.
    pub overlap: usize,
    /// Steps of the scheduler.
    pub steps: usize,
    /// Class of the scheduler, where not that of the checkpoint.
    pub scheduler: Option<String>,
    /// Strength of guidance; 1 and less is none.
    pub guidance_scale: f32,
    /// Share of fresh noise in each step (DDIM).
    pub eta: f64,
    /// Seed of the noise.
    pub seed: u64,
    /// ControlNets, whose residuals are added.
    pub controls: Vec<MotionControl>,
    /// Dtype of the activations.
    pub dtype: DType,
    /// Most bytes on the device.
    pub max_memory: Option<u64>,
}

impl Default for Motion {
    /// No words, 16 frames in one window, 25 steps with guidance 7.5 from seed 0, in f32.
    fn default() -> Motion {
        Motion {
            prompt: PromptOptions::default(),
            size: None,
            frames: 16,
            window: 16,
            overlap: 4,
            steps: 25,
            scheduler: None,
            guidance_scale: 7.5,
            eta: 0.0,
            seed: 0,
            controls: Vec::new(),
            dtype: DType::F32,
            max_memory: None,
        }
    }
}

/// What a run gives.
#[derive(Clone, Debug)]
pub struct Moved {
    /// RGB pictures, in order.
    pub frames: Vec<Picture>,
    /// The latents that they were decoded from, `[F,h,w,4]`.
    pub latents: HostTensor,
    /// What the run took on the device.
    pub memory: MemoryPlan,
    /// What a reader should know: prompts that were cut.
    pub notes: Vec<String>,
}

/// Runs a checkpoint with the motion modules of `adapter`, a directory with `config.json` and `*.safetensors`. Without one,
/// the checkpoint's own `motion_adapter` is taken; a checkpoint whose UNet has motion modules already needs none.
///
/// # Errors
/// Files that cannot be used, options that exclude each other, a memory limit that cannot be kept, the device's errors, and
/// [`Error::Interrupted`].
pub fn motion(
    checkpoint: &Checkpoint,
    adapter: Option<&Path>,
    request: &Motion,
    device: &Device,
    listener: &mut dyn FnMut(Event<'_>) -> Flow,
) -> Result<Moved> {
    let watch = &mut Watch { listener };
    if checkpoint.is_xl()? {
        return Err(Error::call(MODEL, "motion modules for XL checkpoints are not supported"));
    }
    let unet = open_unet(checkpoint, adapter, device)?;
    let vae = checkpoint.vae(device)?;
    let size = extents(checkpoint, request, &vae)?;
    let controls = open_controls(request, size, device)?;
    let guided = request.guidance_scale > 1.0 && unet.config().trunk.time.condition.is_none();
    let cut = Windows {
        frames: request.frames,
        size: request.window.min(request.frames),
        strides: 1,
        overlap: request.overlap,
        closed: true,
    };
    let windows = cut.at(0)?;
    let weights = cut.weights(&windows, Weighting::Flat);
    let mut scheduler = checkpoint.scheduler(request.scheduler.as_deref())?;
    scheduler.set_timesteps(&Run { eta: request.eta, ..Run::of(request.steps) })?;
    let parts =
        Parts { unet: &unet, controls: &controls, request, size, frames: cut.size, factor: vae.config().factor() };
    let memory = parts.memory(checkpoint, &vae, guided, &*scheduler, device)?;
    watch.tell(Event::Planned(&memory))?;

    let mut clock = Clock::start(Stage::Text, 1, watch)?;
    let prompt = PromptOptions { guided, ..request.prompt.clone() };
    let conditioning = checkpoint.condition(&prompt, request.dtype, device)?;
    clock.tick(1, watch)?;
    let inputs = parts.inputs(&conditioning, (memory.halves, memory.spatial_frames));
    let latents = denoise(request, inputs, (&windows, &weights), &mut *scheduler, device, watch)?;
    drop((unet, controls));
    let [frames, h, w, c] = [request.frames, latents.shape()[1], latents.shape()[2], latents.shape()[3]];
    let all = latents.to_f32();
    let one = |f: usize| HostTensor::new([1, h, w, c], all[f * h * w * c..(f + 1) * h * w * c].to_vec());
    let split = (0..frames).map(one).collect::<Result<Vec<_>, _>>()?;
    let frames = decode(&vae, &split, memory.tiling, vae_dtype(&vae, request), watch)?;
    Ok(Moved { frames, latents, memory, notes: conditioning.notes })
}

fn open_unet(checkpoint: &Checkpoint, adapter: Option<&Path>, device: &Device) -> Result<Unet> {
    let own = checkpoint.dir().join("motion_adapter");
    let config = checkpoint.config("unet")?;
    if config.opt::<String>("_class_name")?.as_deref() == Some("UNetMotionModel") {
        if adapter.is_some() {
            return Err(Error::call(MODEL, "the checkpoint's UNet has motion modules of its own already"));
        }
        return checkpoint.unet(device);
    }
    let dir = match adapter {
        Some(dir) => dir,
        None if own.exists() => &own,
        None => return Err(Error::call(MODEL, "the checkpoint has no motion_adapter, and none is given")),
    };
    let (adapter, modules) = (Config::open(dir)?, Weights::open(dir)?.strip_wrappers()?);
    Unet::with_motion((&config, checkpoint.weights("unet")?), (&adapter, &modules), device)
}

fn extents(checkpoint: &Checkpoint, r: &Motion, vae: &Vae) -> Result<[usize; 2]> {
    let factor = vae.config().factor();
    let size = match r.size {
        Some(size) => size,
        None => {
            let [height, width] = checkpoint.sample_size()?;
            [width * factor, height * factor]
        }
    };
    let controls = r.controls.iter().all(|c| sound(c.scale, c.range));
    let wrong = match () {
        () if size.iter().any(|n| *n == 0 || !n.is_multiple_of(factor)) => {
            format!("{} x {} pixels: wanted multiples of {factor}", size[0], size[1])
        }
        () if r.frames == 0 || r.window == 0 || r.frames > 1 << 12 => {
            format!("{} frames in windows of {}", r.frames, r.window)
        }
        () if !r.guidance_scale.is_finite() => "guidance_scale is no number".into(),
        () if !controls => UNSOUND.into(),
        () => return Ok(size),
    };
    Err(Error::call(MODEL, wrong))
}

fn open_controls(r: &Motion, size: [usize; 2], device: &Device) -> Result<Vec<Controlled>> {
    let open = |c: &MotionControl| -> Result<Controlled> {
        let net = ControlNet::of(&Config::open(&c.dir)?, Weights::open(&c.dir)?.strip_wrappers()?, device)?;
        if c.pictures.len() != 1 && c.pictures.len() != r.frames {
            let reason = format!("{}: {} pictures for {} frames", c.dir.display(), c.pictures.len(), r.frames);
            return Err(Error::call(MODEL, reason));
        }
        let frames = c.pictures.iter().map(|p| to_pixels(p, size, false)).collect::<Result<Vec<_>>>()?;
        let all: Vec<f32> = frames.iter().flat_map(HostTensor::to_f32).collect();
        let pixels = HostTensor::new([frames.len(), size[1], size[0], 3], all)?;
        Ok(Controlled { net, pixels, scale: c.scale, range: c.range })
    };
    r.controls.iter().map(open).collect()
}

fn vae_dtype(vae: &Vae, r: &Motion) -> DType {
    if vae.config().force_upcast && r.dtype == DType::F16 { DType::F32 } else { r.dtype }
}

/// The networks of a run on the host, and its extents.
struct Parts<'a> {
    unet: &'a Unet,
    controls: &'a [Controlled],
    request: &'a Motion,
    size: [usize; 2],
    /// Frames of a window.
    frames: usize,
    factor: usize,
}

impl Parts<'_> {
    fn inputs<'a>(&'a self, conditioning: &'a Conditioning, (halves, portion): (Halves, Option<usize>)) -> Request<'a> {
        let ([width, height], r) = (self.size, self.request);
        let shape = UnetShape {
            batch: 1,
            height: height / self.factor,
            width: width / self.factor,
            frames: self.frames,
            dtype: r.dtype,
            at_a_time: portion.unwrap_or(0),
            ..UnetShape::default()
        };
        Request {
            unet: self.unet,
            controls: self.controls,
            shape,
            conditioning,
            time_ids: [0.0; 6],
            guidance: r.guidance_scale,
            rescale: 0.0,
            guess: false,
            apart: halves == Halves::InTurn,
        }
    }

    fn memory(
        &self,
        checkpoint: &Checkpoint,
        vae: &Vae,
        guided: bool,
        scheduler: &dyn Scheduler,
        device: &Device,
    ) -> Result<MemoryPlan> {
        let (trace, rows) = (device.trace(), if guided { 2 } else { 1 });
        let config = self.unet.config();
        let context = config.encoder_hid_dim.unwrap_or(config.trunk.context);
        // Only extents count here.
        let tokens = checkpoint.tokenizer("tokenizer")?.length();
        let states = HostTensor::from_fn([rows, tokens, context], |_| 0.0);
        let conditioning = Conditioning { states, pooled: None, notes: Vec::new() };
        let steps = scheduler.timesteps().len();
        let denoise = |halves, portion| self.inputs(&conditioning, (halves, portion)).memory(steps, &trace);
        let text = checkpoint.text_memory(self.request.dtype, &trace)?;
        let [width, height] = self.size;
        let latents = [1, height / self.factor, width / self.factor];
        let dtype = vae_dtype(vae, self.request);
        Needs { text, encode: 0, denoise: &denoise, guided, frames: self.frames, vae, latents, dtype }
            .choose(self.request.max_memory, device)
    }
}

/// The latents of the clip, `[F,h,w,C]`.
fn denoise(
    r: &Motion,
    inputs: Request<'_>,
    (windows, weights): (&[Vec<usize>], &[Vec<f32>]),
    scheduler: &mut dyn Scheduler,
    device: &Device,
    watch: &mut Watch<'_>,
) -> Result<HostTensor> {
    let UnetShape { height, width, .. } = inputs.shape;
    let extents = [inputs.unet.config().trunk.in_channels, r.frames, height, width];
    let count = scheduler.timesteps().len();
    let denoiser = Denoiser::new(inputs, count, windows, device)?;
    let mut clock = Clock::start(Stage::Denoising, count * windows.len(), watch)?;
    let mut noise = TorchCpu::new(r.seed);
    let sigma = scheduler.init_noise_sigma();
    let mut sample: Vec<f32> = noise.normal(extents.iter().product())?.iter().map(|n| n * sigma).collect();
    for i in 0..count {
        let timestep = scheduler.timesteps()[i];
        let scaled = fhwc(scheduler.scale_model_input(&sample, i)?, extents)?;
        let mut output = vec![0.0; sample.len()];
        let map = height * width * extents[0];
        for (w, (window, weights)) in windows.iter().zip(weights).enumerate() {
            let part = HostTensor::new([window.len(), height, width, extents[0]], frames_of(&scaled, window))?;
            let predicted = denoiser.predict(&part, timestep, i, w)?.to_f32();
            for ((f, weight), maps) in window.iter().zip(weights).zip(predicted.chunks(map)) {
                output[f * map..(f + 1) * map].iter_mut().zip(maps).for_each(|(o, p)| *o += weight * p);
            }
            clock.tick(1, watch)?;
        }
        let output = HostTensor::new([r.frames, height, width, extents[0]], output)?;
        let output = output.permute(&[3, 0, 1, 2])?.to_f32();
        let step = StepInput { sample: &sample, output: &output, batch: 1 };
        let taken = scheduler.step(i, &step, &mut noise)?;
        sample = taken.prev_sample;
        let latents = fhwc(sample.clone(), extents)?;
        let estimate = taken.pred_original.map(|values| fhwc(values, extents)).transpose()?;
        watch.tell(Event::Step { step: i, timestep, latents: &latents, estimate: estimate.as_ref() })?;
    }
    fhwc(sample, extents)
}

/// Values `[C,F,h,w]`, in whose order noise is drawn, as a tensor `[F,h,w,C]`.
fn fhwc(values: Vec<f32>, extents: [usize; 4]) -> Result<HostTensor> {
    Ok(HostTensor::new(extents, values)?.permute(&[1, 2, 3, 0])?)
}
