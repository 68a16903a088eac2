//! Text or pictures to pictures: Stable Diffusion 1.x, 2.x and XL, with any number of ControlNets.
//!
//! Rombach et al. (2022); Podell et al., "SDXL" (2023); Zhang, Rao, Agrawala (2023) for control; Meng et al., "SDEdit" (2022)
//! for pictures to pictures.

use std::path::PathBuf;

use muybridge_loaders::{Config, Weights};
use muybridge_runtime::{DType, Device, HostTensor};

use super::begin::{Begun, Given, nchw, nhwc};
use super::denoise::{Controlled, Denoiser, Request, first_step};
use super::memory::Needs;
use super::pixels::shrink;
use super::prompt::total;
use super::{Checkpoint, Conditioning, PromptOptions, from_pixels, mask, to_pixels};
use crate::controlnet::ControlNet;
use crate::error::{Error, Result};
use crate::noise::TorchCpu;
use crate::pipelines::control::{UNSOUND, sound};
use crate::pipelines::memory::{Halves, MemoryPlan};
use crate::pipelines::watch::{Clock, Event, Flow, Stage, Watch};
use crate::resize::Picture;
use crate::schedulers::{Run, Scheduler, StepInput};
use crate::stages::UnetShape;
use crate::tiling::Tiling;
use crate::unet::Unet;
use crate::vae::{Vae, VaeShape};

const MODEL: &str = "generate";

/// What a run begins with.
#[derive(Clone, Debug, Default)]
pub enum Start {
    /// Noise alone.
    #[default]
    Noise,
    /// A picture, of which `1 − strength` is kept.
    Picture {
        /// The picture, RGB.
        picture: Picture,
        /// Share of the steps that are taken, above 0 and up to 1.
        strength: f32,
    },
    /// A picture that is kept but for a part of it.
    Inpaint {
        /// The picture, RGB.
        picture: Picture,
        /// White where it is painted anew.
        mask: Picture,
        /// Share of the steps that are taken, above 0 and up to 1.
        strength: f32,
    },
}

impl Start {
    /// Share of the steps that are taken.
    pub fn strength(&self) -> f32 {
        match self {
            Start::Noise => 1.0,
            Start::Picture { strength, .. } | Start::Inpaint { strength, .. } => *strength,
        }
    }
}

/// A ControlNet and what it follows.
#[derive(Clone, Debug)]
pub struct Control {
    /// Its directory.
    pub dir: PathBuf,
    /// The condition picture, RGB.
    pub picture: Picture,
    /// Strength, 1 being as trained.
    pub scale: f32,
    /// Shares of the run at which it begins and ends, from 0 to 1.
    pub range: [f32; 2],
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Generate {
    /// The texts, and how they are read. `guided` is set by the run.
    pub prompt: PromptOptions,
    /// Width and height in pixels; those that the network was trained on, or of the picture given, where none.
    pub size: Option<[usize; 2]>,
    /// Steps of the scheduler.
    pub steps: usize,
    /// Class of the scheduler, where not that of the checkpoint.
    pub scheduler: Option<String>,
    /// Strength of guidance; 1 and less is none.
    pub guidance_scale: f32,
    /// Correction of overexposure by strong guidance, from 0 to 1.
    pub guidance_rescale: f32,
    /// Share of fresh noise in each step (DDIM).
    pub eta: f64,
    /// One picture for each seed.
    pub seeds: Vec<u64>,
    /// What the run begins with.
    pub start: Start,
    /// ControlNets, whose residuals are added.
    pub controls: Vec<Control>,
    /// ControlNets guess what their pictures show: they serve the conditional half only.
    pub guess_mode: bool,
    /// Dtype of the activations.
    pub dtype: DType,
    /// Most bytes on the device.
    pub max_memory: Option<u64>,
}

impl Default for Generate {
    /// No words, 50 steps with guidance 7.5 from seed 0, in f32.
    fn default() -> Generate {
        Generate {
            prompt: PromptOptions::default(),
            size: None,
            steps: 50,
            scheduler: None,
            guidance_scale: 7.5,
            guidance_rescale: 0.0,
            eta: 0.0,
            seeds: vec![0],
            start: Start::Noise,
            controls: Vec::new(),
            guess_mode: false,
            dtype: DType::F32,
            max_memory: None,
        }
    }
}

/// What a run gives.
#[derive(Clone, Debug)]
pub struct Generated {
    /// One RGB picture for each seed.
    pub pictures: Vec<Picture>,
    /// The latents that they were decoded from, each `[1,h,w,4]`.
    pub latents: Vec<HostTensor>,
    /// What the run took on the device.
    pub memory: MemoryPlan,
    /// What a reader should know: prompts that were cut.
    pub notes: Vec<String>,
}

/// The networks of a run besides the text towers, on the host, and the extents.
struct Scene {
    unet: Unet,
    vae: Vae,
    controls: Vec<Controlled>,
    /// Width and height in pixels.
    size: [usize; 2],
    /// Dtype of the autoencoder.
    vae_dtype: DType,
    guess: bool,
}

/// Runs a checkpoint. The listener is told what the run will take before it begins, and everything that happens; it can stop
/// the run.
///
/// # Errors
/// Files that cannot be used, options that exclude each other, a memory limit that cannot be kept, the device's errors, and
/// [`Error::Interrupted`].
pub fn generate(
    checkpoint: &Checkpoint,
    request: &Generate,
    device: &Device,
    listener: &mut dyn FnMut(Event<'_>) -> Flow,
) -> Result<Generated> {
    check(request)?;
    let watch = &mut Watch { listener };
    let scene = Scene::open(checkpoint, request, device)?;
    let embedded = scene.unet.config().trunk.time.condition.is_some();
    let guided = request.guidance_scale > 1.0 && !embedded;
    let prompt = PromptOptions { guided, ..request.prompt.clone() };
    let mut scheduler = checkpoint.scheduler(request.scheduler.as_deref())?;
    scheduler.set_timesteps(&Run { eta: request.eta, ..Run::of(request.steps) })?;
    let memory = scene.memory(checkpoint, request, guided, &*scheduler, device)?;
    watch.tell(Event::Planned(&memory))?;

    let mut clock = Clock::start(Stage::Text, 1, watch)?;
    let conditioning = checkpoint.condition(&prompt, request.dtype, device)?;
    clock.tick(1, watch)?;
    let given = scene.encode(request, watch)?;
    let Scene { unet, vae, controls, size, vae_dtype, guess } = scene;
    let inputs = Request {
        unet: &unet,
        controls: &controls,
        shape: shape(&vae, size, request.dtype),
        conditioning: &conditioning,
        time_ids: time_ids(size),
        guidance: request.guidance_scale,
        rescale: request.guidance_rescale,
        guess,
        apart: memory.halves == Halves::InTurn,
    };
    let latents = denoise(request, &vae, inputs, &given, &mut *scheduler, device, watch)?;
    drop((unet, controls));
    let pictures = decode(&vae, &latents, memory.tiling, vae_dtype, watch)?;
    Ok(Generated { pictures, latents, memory, notes: conditioning.notes })
}

fn check(r: &Generate) -> Result<()> {
    let unit = |v: f32| (0.0..=1.0).contains(&v);
    let strength = r.start.strength();
    let controls = r.controls.iter().all(|c| sound(c.scale, c.range));
    let wrong = match () {
        () if r.seeds.is_empty() => "no seeds, so no pictures",
        () if !(unit(strength) && strength > 0.0) => "the strength is not above 0 and up to 1",
        () if !unit(r.guidance_rescale) => "guidance_rescale is not from 0 to 1",
        () if !r.guidance_scale.is_finite() => "guidance_scale is no number",
        () if !controls => UNSOUND,
        () if r.controls.is_empty() && r.guess_mode => "guess mode without a ControlNet",
        () => return Ok(()),
    };
    Err(Error::call(MODEL, wrong))
}

impl Scene {
    fn open(checkpoint: &Checkpoint, r: &Generate, device: &Device) -> Result<Scene> {
        let (unet, vae) = (checkpoint.unet(device)?, checkpoint.vae(device)?);
        let factor = vae.config().factor();
        let size = match (r.size, &r.start) {
            (Some(size), _) => size,
            // As the field does: the picture's own size, cut to whole latents.
            (None, Start::Picture { picture, .. }) => {
                [picture.width / factor * factor, picture.height / factor * factor]
            }
            (None, _) => {
                let [height, width] = checkpoint.sample_size()?;
                [width * factor, height * factor]
            }
        };
        if size.iter().any(|n| *n == 0 || !n.is_multiple_of(factor)) {
            let reason = format!("{} x {} pixels: wanted multiples of {factor}", size[0], size[1]);
            return Err(Error::call(MODEL, reason));
        }
        let open = |c: &Control| -> Result<Controlled> {
            let net = ControlNet::of(&Config::open(&c.dir)?, Weights::open(&c.dir)?.strip_wrappers()?, device)?;
            let pixels = to_pixels(&c.picture, size, false)?;
            Ok(Controlled { net, pixels, scale: c.scale, range: c.range })
        };
        let controls = r.controls.iter().map(open).collect::<Result<Vec<_>>>()?;
        let (channels, own) = (unet.config().trunk.in_channels, vae.config().latent_channels);
        let paints = matches!(r.start, Start::Inpaint { .. }) && channels == 2 * own + 1;
        if channels != own && !paints {
            let reason =
                format!("the UNet reads {channels} channels, where latents have {own}: it wants a picture and a mask");
            return Err(Error::call(MODEL, reason));
        }
        let upcast = vae.config().force_upcast && r.dtype == DType::F16;
        let vae_dtype = if upcast { DType::F32 } else { r.dtype };
        // Networks that pool their residuals were trained to guess.
        let guess = r.guess_mode || controls.iter().any(|c| c.net.config().global_pool_conditions);
        Ok(Scene { unet, vae, controls, size, vae_dtype, guess })
    }

    fn memory(
        &self,
        checkpoint: &Checkpoint,
        r: &Generate,
        guided: bool,
        scheduler: &dyn Scheduler,
        device: &Device,
    ) -> Result<MemoryPlan> {
        let trace = device.trace();
        let rows = if guided { 2 } else { 1 };
        let context = self.unet.config().encoder_hid_dim.unwrap_or(self.unet.config().trunk.context);
        let tokens = checkpoint.tokenizer("tokenizer")?.length();
        // Only extents count here.
        let conditioning = Conditioning {
            states: HostTensor::from_fn([rows, tokens, context], |_| 0.0),
            pooled: None,
            notes: Vec::new(),
        };
        let strength = r.start.strength();
        let steps = scheduler.timesteps().len().saturating_sub(first_step(scheduler, r.steps, strength));
        let denoise = |halves: Halves, _: Option<usize>| {
            let request = Request {
                unet: &self.unet,
                controls: &self.controls,
                shape: shape(&self.vae, self.size, r.dtype),
                conditioning: &conditioning,
                time_ids: time_ids(self.size),
                guidance: r.guidance_scale,
                rescale: r.guidance_rescale,
                guess: self.guess,
                apart: halves == Halves::InTurn,
            };
            request.memory(steps, &trace)
        };
        let [width, height] = self.size;
        let encode = match r.start {
            Start::Noise => 0,
            _ => {
                let shape = VaeShape { batch: 1, height, width, dtype: self.vae_dtype };
                total(self.vae.encoder_on(shape, &trace)?.report())
            }
        };
        let factor = self.vae.config().factor();
        let text = checkpoint.text_memory(r.dtype, &trace)?;
        let latents = [1, height / factor, width / factor];
        Needs { text, encode, denoise: &denoise, guided, frames: 1, vae: &self.vae, latents, dtype: self.vae_dtype }
            .choose(r.max_memory, device)
    }

    /// Encodes the pictures given.
    fn encode(&self, r: &Generate, watch: &mut Watch<'_>) -> Result<Given> {
        let [width, height] = self.size;
        let factor = self.vae.config().factor();
        let encode = |pixels: &HostTensor| -> Result<[HostTensor; 2]> {
            let plan = self.vae.encoder(VaeShape { batch: 1, height, width, dtype: self.vae_dtype })?;
            let moments = plan.run_host(&[&pixels.convert(self.vae_dtype)])?;
            let moments: Vec<HostTensor> = moments.iter().map(|m| m.convert(DType::F32)).collect();
            moments.try_into().map_err(|_| Error::call(MODEL, "the encoder has other results"))
        };
        let mut given = Given { picture: None, kept: None };
        let (picture, marked) = match &r.start {
            Start::Noise => return Ok(given),
            Start::Picture { picture, .. } => (picture, None),
            Start::Inpaint { picture, mask, .. } => (picture, Some(mask)),
        };
        let parts = if marked.is_some() { 2 } else { 1 };
        let mut clock = Clock::start(Stage::Encoding, parts, watch)?;
        let pixels = to_pixels(picture, self.size, true)?;
        given.picture = Some(encode(&pixels)?);
        clock.tick(1, watch)?;
        if let Some(marked) = marked {
            let marked = mask(marked, self.size)?;
            let (values, anew) = (pixels.to_f32(), marked.to_f32());
            let kept = HostTensor::from_fn(pixels.shape(), |i| if anew[i / 3] < 0.5 { values[i] } else { 0.0 });
            given.kept = Some((shrink(&marked, [height / factor, width / factor]), encode(&kept)?));
            clock.tick(1, watch)?;
        }
        Ok(given)
    }
}

fn shape(vae: &Vae, [width, height]: [usize; 2], dtype: DType) -> UnetShape {
    let factor = vae.config().factor();
    UnetShape { batch: 1, height: height / factor, width: width / factor, dtype, ..UnetShape::default() }
}

/// Original size, place of the crop and wanted size of an XL picture.
fn time_ids([width, height]: [usize; 2]) -> [f32; 6] {
    let (w, h) = (width as f32, height as f32);
    [h, w, 0.0, 0.0, h, w]
}

/// The latents of every seed, `[1,h,w,C]`, by one bound network.
fn denoise(
    r: &Generate,
    vae: &Vae,
    inputs: Request<'_>,
    given: &Given,
    scheduler: &mut dyn Scheduler,
    device: &Device,
    watch: &mut Watch<'_>,
) -> Result<Vec<HostTensor>> {
    let strength = r.start.strength();
    let first = first_step(scheduler, r.steps, strength);
    let count = scheduler.timesteps().len();
    if first >= count {
        return Err(Error::call(MODEL, format!("a strength of {strength} leaves none of {} steps", r.steps)));
    }
    let [height, width] = [inputs.shape.height, inputs.shape.width];
    let extents = [1, vae.config().latent_channels, height, width];
    let reads_mask = inputs.unet.config().trunk.in_channels != extents[1];
    let denoiser = Denoiser::new(inputs, count - first, &[vec![0]], device)?;
    let mut clock = Clock::start(Stage::Denoising, (count - first) * r.seeds.len(), watch)?;
    let mut all = Vec::new();
    for seed in &r.seeds {
        scheduler.set_timesteps(&Run { eta: r.eta, ..Run::of(r.steps) })?;
        let mut noise = TorchCpu::new(*seed);
        let begun = Begun::new(vae, extents, given, (&r.start, first), reads_mask, scheduler, &mut noise)?;
        let mut sample = begun.sample.clone();
        for i in first..count {
            let scaled = nhwc(scheduler.scale_model_input(&sample, i)?, extents)?;
            let input = begun.input(scaled, reads_mask)?;
            let timestep = scheduler.timesteps()[i];
            let output = denoiser.predict(&input, timestep, i - first, 0)?;
            let output = nchw(&output)?;
            let step = StepInput { sample: &sample, output: &output, batch: 1 };
            let taken = scheduler.step(i, &step, &mut noise)?;
            sample = taken.prev_sample;
            if !reads_mask {
                begun.blend(&mut sample, (i + 1 < count).then_some(i + 1), scheduler)?;
            }
            let latents = nhwc(sample.clone(), extents)?;
            let estimate = taken.pred_original.map(|values| nhwc(values, extents)).transpose()?;
            watch.tell(Event::Step { step: i, timestep, latents: &latents, estimate: estimate.as_ref() })?;
            clock.tick(1, watch)?;
        }
        all.push(nhwc(sample, extents)?);
    }
    Ok(all)
}

/// Decodes latents `[1,h,w,C]` one after the other, with one plan for all of them where they are not cut into tiles.
pub(super) fn decode(
    vae: &Vae,
    latents: &[HostTensor],
    tiling: Option<Tiling>,
    dtype: DType,
    watch: &mut Watch<'_>,
) -> Result<Vec<Picture>> {
    let mut clock = Clock::start(Stage::Decoding, latents.len(), watch)?;
    let whole = match (tiling, latents.first()) {
        (None, Some(first)) => {
            let (height, width) = (first.shape()[1], first.shape()[2]);
            Some(vae.decoder(VaeShape { batch: 1, height, width, dtype })?)
        }
        _ => None,
    };
    let mut pictures = Vec::new();
    for latents in latents {
        let own = vae.config().unscale(latents);
        let pixels = match &whole {
            Some(plan) => plan.run_host(&[&own.convert(dtype)])?,
            None => vec![vae.decode_tiled(&own, tiling.unwrap_or_default(), dtype)?],
        };
        for pixels in &pixels {
            pictures.extend(from_pixels(pixels)?);
        }
        clock.tick(1, watch)?;
    }
    Ok(pictures)
}
