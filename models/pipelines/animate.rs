//! A person in a picture, moved as in a video: AnimateAnyone (Hu et al., 2023) and Champ (Zhu et al., 2024).
//!
//! The picture becomes a token (CLIP), latents (VAE) and features (reference network); pictures of poses, or renderings of a
//! body, become features of every frame (guiders). A video network denoises windows of frames with both, a sampler takes the
//! steps, and the VAE decodes frame by frame.

use muybridge_runtime::{DType, Device, HostTensor};

use super::components::{Components, SCENE};
use super::control::{UNSOUND, sound};
use super::decode::FrameDecoder;
use super::denoise::Denoiser;
use super::input::AnimateInput;
use super::memory::MemoryPlan;
use super::planner::Planner;
use super::stages::{FrameFeatures, Size, embed, encode, filter, pixels, reference, reference_plan, rgb};
use super::steps::{Clip, Windowed, accumulate, frames_of};
use super::watch::{Clock, Event, Flow, Stage, Watch};
use crate::context::{Between, Weighting, Windows, interpolate, lengthened};
use crate::controlnet::ControlNet;
use crate::error::{Error, Result};
use crate::guider::GuiderShape;
use crate::noise::{NoiseSource, TorchCpu};
use crate::resize::{Filter, Picture, Resize};
use crate::schedulers::{Run, Scheduler, StepInput};

const MODEL: &str = "Animator";

/// What to make, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct AnimateOptions {
    /// Width of the video, in pixels.
    pub width: usize,
    /// Height of the video, in pixels.
    pub height: usize,
    /// Frames of the motion.
    pub frames: usize,
    /// Denoising steps.
    pub steps: usize,
    /// How much the reference and the motion count; up to 1 there is no guidance, and half the work.
    pub guidance: f32,
    /// Where noise begins.
    pub seed: u64,
    /// Numbers of the activations. Weights stay as they are on disk.
    pub dtype: DType,
    /// Frames that are denoised together.
    pub window: usize,
    /// Strides of windows: 1 is neighbours only, 2 adds windows of every second frame, …
    pub strides: usize,
    /// Frames that neighbouring windows share.
    pub overlap: usize,
    /// How predictions of a frame in several windows are averaged. Published pipelines: flat.
    pub weighting: Weighting,
    /// Windows begin at another frame in every step, so that seams do not stay. Published pipelines: no.
    pub moving: bool,
    /// Frames between frames, made of the latents: a factor, and how.
    pub between: Option<(usize, Between)>,
    /// The most device memory, in bytes.
    pub max_memory: Option<u64>,
    /// Whether the network reads the reference network's features; without them its embedding is left, and what a guider makes of
    /// it where there is one, which shows what they do.
    pub reads_reference: bool,
}

impl Default for AnimateOptions {
    /// The published defaults of AnimateAnyone: 24 frames of 512 × 784 in f32.
    fn default() -> AnimateOptions {
        AnimateOptions {
            width: 512,
            height: 784,
            frames: 24,
            steps: 30,
            guidance: 3.5,
            seed: 42,
            dtype: DType::F32,
            window: 24,
            strides: 1,
            overlap: 4,
            weighting: Weighting::Flat,
            moving: false,
            between: None,
            max_memory: None,
            reads_reference: true,
        }
    }
}

/// The pipeline on a device, its memory planned.
#[derive(Debug)]
pub struct Animator {
    components: Components,
    device: Device,
    options: AnimateOptions,
    size: Size,
    /// Channels of the latents.
    channels: usize,
    memory: MemoryPlan,
}

impl Animator {
    /// Checks the options and plans the memory of a run.
    ///
    /// # Errors
    /// Extents that the networks cannot have, a limit of memory that cannot be kept (the error names the smallest that can),
    /// and errors of the components.
    pub fn open(components: Components, device: &Device, options: AnimateOptions) -> Result<Animator> {
        let (vae, _) = components.vae(&device.trace())?;
        let factor = vae.config().factor();
        let AnimateOptions { width, height, frames, steps, window, overlap, .. } = options;
        let sound = |n: usize| n > 0 && n.is_multiple_of(factor) && n <= 1 << 13;
        if !sound(width) || !sound(height) {
            let reason = format!("{width} x {height} pixels, wanted multiples of {factor} up to 8192");
            return Err(Error::call(MODEL, reason));
        }
        if frames == 0 || frames > 1 << 14 || steps == 0 || window == 0 || overlap >= window {
            let reason = format!("{frames} frames, {steps} steps, windows of {window} with an overlap of {overlap}");
            return Err(Error::call(MODEL, reason));
        }
        let size = Size { width, height, factor };
        let (channels, [h, w]) = (vae.config().latent_channels, size.latents());
        if let Some((factor, _)) = options.between {
            lengthened(frames, factor, h * w * channels)?;
        }
        let memory = Planner { components: &components, options: &options, device, size }.plan()?;
        Ok(Animator { components, device: device.clone(), options, size, channels, memory })
    }

    /// The same video from other noise.
    pub fn seeded(self, seed: u64) -> Animator {
        Animator { options: AnimateOptions { seed, ..self.options }, ..self }
    }

    /// What a run takes.
    pub fn memory(&self) -> &MemoryPlan {
        &self.memory
    }

    /// Frames of the video: more than those of the motion where frames are made between them.
    pub fn frames(&self) -> usize {
        match self.options.between {
            Some((factor, _)) if factor > 1 => (self.options.frames - 1) * factor + 1,
            _ => self.options.frames,
        }
    }

    /// Makes the video. The listener is told everything: components, progress, latents after each step, every frame when it
    /// is done; and it can stop the run.
    ///
    /// # Errors
    /// Motion that does not fit the components or the options, [`Error::Interrupted`], and the networks' errors.
    pub fn run(&self, input: &AnimateInput, listener: &mut dyn FnMut(Event<'_>) -> Flow) -> Result<()> {
        self.check(input)?;
        let mut watch = Watch { listener };
        let mut scheduler = self.components.scheduler()?;
        scheduler.set_timesteps(&Run::of(self.options.steps))?;
        let steps = scheduler.timesteps().len();
        let latents = match &input.resume {
            Some(done) if done.steps >= steps => self.fits(&done.latents)?,
            _ => self.denoise(input, &mut *scheduler, &mut watch)?,
        };
        let latents = self.interpolated(latents)?;
        let done = input.resume.as_ref().filter(|done| done.steps >= steps).map_or(0, |done| done.frames);
        self.decode(&latents, done, &mut watch)
    }

    fn check(&self, input: &AnimateInput) -> Result<()> {
        let known = self.components.kinds();
        let frames = self.options.frames;
        if input.motion.is_empty() {
            return Err(Error::call(MODEL, format!("no motion; guiders read {}", known.join(", "))));
        }
        for motion in &input.motion {
            if !known.contains(&motion.kind) {
                let reason = format!("motion of kind {:?}; guiders read {}", motion.kind, known.join(", "));
                return Err(Error::call(MODEL, reason));
            }
            if motion.frames.len() != frames {
                let reason = format!("{} frames of {}, wanted {frames}", motion.frames.len(), motion.kind);
                return Err(Error::call(MODEL, reason));
            }
        }
        if !input.carried.is_empty() && !self.components.guided_by_reference() {
            return Err(Error::call(
                MODEL,
                format!("a carried reference, and no guidance_encoder_{SCENE} that reads it"),
            ));
        }
        if ![0, frames].contains(&input.carried.len()) {
            let reason = format!("{} frames of the carried reference, wanted {frames}", input.carried.len());
            return Err(Error::call(MODEL, reason));
        }
        let controls = self.components.controls();
        if input.controls.len() != controls {
            let reason = format!("{controls} ControlNets, and pictures for {} of them", input.controls.len());
            return Err(Error::call(MODEL, reason));
        }
        for control in &input.controls {
            if !sound(control.scale, control.range) {
                return Err(Error::call(MODEL, UNSOUND));
            }
            if ![1, frames].contains(&control.pictures.len()) {
                let reason = format!("{} pictures for a ControlNet, wanted {frames}", control.pictures.len());
                return Err(Error::call(MODEL, reason));
            }
        }
        Ok(())
    }

    /// Everything up to the latents of the video, `[F,h,w,C]`.
    fn denoise(
        &self,
        input: &AnimateInput,
        scheduler: &mut dyn Scheduler,
        watch: &mut Watch<'_>,
    ) -> Result<HostTensor> {
        let (embedding, reference_latents) = self.see(&input.reference, watch)?;
        let pose = self.guide(input, watch)?;
        let mut clock = Clock::start(Stage::Reference, 1, watch)?;
        let bank = {
            let (net, loaded) = self.components.reference(&self.device)?;
            watch.tell(Event::Loaded(&loaded))?;
            let plan = reference_plan(&net, self.size, self.options.dtype)?;
            reference(&plan, &self.device, &reference_latents, &embedding)?
        };
        clock.tick(1, watch)?;
        let mut network =
            self.network(Clip { embedding, bank, pose, controls: &input.controls, size: self.size }, watch)?;
        let mut noise = TorchCpu::new(self.options.seed);
        let (first, mut latents) = self.start(input, scheduler, &mut noise)?;
        let steps = scheduler.timesteps().len();
        let count = self.windows()?.at(0)?.len();
        let mut clock = Clock::start(Stage::Denoising, (steps - first) * count, watch)?;
        for step in first..steps {
            let timestep = scheduler.timesteps()[step];
            let scaled = scheduler.scale_model_input(&latents.to_f32(), step)?;
            let scaled = HostTensor::new(latents.shape(), scaled)?;
            let windows = self.windows()?.at(if self.options.moving { step as u64 } else { 0 })?;
            let weights = self.windows()?.weights(&windows, self.options.weighting);
            let mut output = vec![0.0; scaled.shape().count()];
            for (window, weights) in windows.iter().zip(&weights) {
                let part = frames_of(&scaled, window)?.convert(self.options.dtype);
                let numbers = (timestep, self.options.guidance);
                let predicted = network.predict(window, &part, (step, steps), numbers)?;
                accumulate(&mut output, &predicted, window, weights);
                clock.tick(1, watch)?;
            }
            let sample = latents.to_f32();
            let taken = scheduler.step(step, &StepInput { sample: &sample, output: &output, batch: 1 }, &mut noise)?;
            latents = HostTensor::new(latents.shape(), taken.prev_sample)?;
            let estimate = taken.pred_original.map(|values| HostTensor::new(latents.shape(), values)).transpose()?;
            watch.tell(Event::Step { step, timestep, latents: &latents, estimate: estimate.as_ref() })?;
        }
        Ok(latents)
    }

    /// The denoising network, bound for the windows of a clip.
    fn network<'a>(&'a self, clip: Clip<'a>, watch: &mut Watch<'_>) -> Result<Windowed<'a>> {
        let (unet, loaded) = self.components.unet(&self.device)?;
        watch.tell(Event::Loaded(&loaded))?;
        let mut nets = Vec::new();
        for (net, loaded) in self.components.control_nets(&self.device)? {
            watch.tell(Event::Loaded(&loaded))?;
            nets.push(net);
        }
        let beside: Vec<&ControlNet> = nets.iter().collect();
        let way = (self.memory.halves, self.options.reads_reference);
        let denoiser = Denoiser::open(&unet, &beside, self.window_shape(), way)?;
        Ok(Windowed::new(&self.device, denoiser, nets, clip))
    }

    /// The reference's embedding `[1,C]` and latents `[1,h,w,C]`.
    fn see(&self, picture: &Picture, watch: &mut Watch<'_>) -> Result<(HostTensor, HostTensor)> {
        let mut clock = Clock::start(Stage::Embedding, 1, watch)?;
        let (clip_pixels, embedding, loaded) = embed(&self.components, &self.device, self.options.dtype, picture)?;
        watch.tell(Event::Loaded(&loaded))?;
        clock.tick(1, watch)?;
        let mut clock = Clock::start(Stage::Encoding, 1, watch)?;
        let (vae, loaded) = self.components.vae(&self.device)?;
        watch.tell(Event::Loaded(&loaded))?;
        let resized = rgb(picture)?.resize(self.size.width, self.size.height, Filter::Lanczos)?;
        let seen = pixels(&[resized], 2.0 / 255.0, -1.0)?;
        let latents = encode(&vae, self.size, self.options.dtype, &seen)?;
        watch.tell(Event::Reference {
            clip_pixels: &clip_pixels,
            embedding: &embedding,
            pixels: &seen,
            latents: &latents,
        })?;
        clock.tick(1, watch)?;
        Ok((embedding, latents))
    }

    /// Features of every frame: the sum of all guiders'.
    fn guide(&self, input: &AnimateInput, watch: &mut Watch<'_>) -> Result<FrameFeatures> {
        let mut features = FrameFeatures::default();
        let wanted = self.options.frames;
        let sees = self.components.guided_by_reference();
        let carried = if sees { input.carried.len().max(1) } else { 0 };
        let mut clock = Clock::start(Stage::Guidance, input.motion.len() * wanted + carried, watch)?;
        // In the order in which the published pipeline sums them.
        for kind in self.components.kinds() {
            let Some(motion) = input.motion.iter().find(|m| m.kind == kind) else { continue };
            self.read(&kind, &motion.frames, &mut features, &mut clock, watch)?;
        }
        if features.len() != wanted {
            return Err(Error::call(MODEL, format!("features of {} frames, wanted {wanted}", features.len())));
        }
        if sees && !input.carried.is_empty() {
            self.read(SCENE, &input.carried, &mut features, &mut clock, watch)?;
        } else if sees {
            let mut scene = FrameFeatures::default();
            self.read(SCENE, std::slice::from_ref(&input.reference), &mut scene, &mut clock, watch)?;
            let same = scene.gather(&[0])?;
            (0..wanted).try_for_each(|frame| features.add(frame, &same))?;
        }
        Ok(features)
    }

    /// Adds what one guider makes of some pictures, a few at a time.
    fn read(
        &self,
        kind: &str,
        pictures: &[Picture],
        features: &mut FrameFeatures,
        clock: &mut Clock,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let (guider, loaded) = self.components.guider(kind, &self.device)?;
        watch.tell(Event::Loaded(&loaded))?;
        let (height, width, dtype) = (self.size.height, self.size.width, self.options.dtype);
        let mut plan = None;
        let at_a_time = self.memory.guider_frames.unwrap_or(1).max(1);
        for (i, pictures) in pictures.chunks(at_a_time).enumerate() {
            let fit = |p: &Picture| rgb(p)?.resize(width, height, filter(&guider));
            let seen = pixels(&pictures.iter().map(fit).collect::<Result<Vec<_>>>()?, 1.0 / 255.0, 0.0)?;
            if kind != SCENE {
                watch.tell(Event::Motion(&seen))?;
            }
            let frames = pictures.len();
            let bound = match plan.take() {
                Some((n, bound)) if n == frames => bound,
                other => {
                    drop(other);
                    guider.plan(GuiderShape { frames, height, width, dtype })?
                }
            };
            let results = bound.run_host(&[&seen.convert(dtype)])?;
            plan = Some((frames, bound));
            let [made] = &results[..] else { return Err(Error::call(MODEL, "a guider has other results")) };
            features.add(i * at_a_time, made)?;
            clock.tick(frames, watch)?;
        }
        Ok(())
    }

    fn window_shape(&self) -> crate::stages::UnetShape {
        let Animator { components, device, options, size, .. } = self;
        Planner { components, options, device, size: *size }.window(self.memory.spatial_frames)
    }

    fn windows(&self) -> Result<Windows> {
        let AnimateOptions { frames, window: size, strides, overlap, .. } = self.options;
        Ok(Windows { frames, size, strides, overlap, closed: true })
    }

    /// Extents of the latents of the motion's frames.
    fn latents(&self) -> [usize; 4] {
        let [h, w] = self.size.latents();
        [self.options.frames, h, w, self.channels]
    }

    /// Latents that were given, if they are as many as the options ask for.
    fn fits(&self, given: &HostTensor) -> Result<HostTensor> {
        let wanted = self.latents();
        match given.shape().dims() == wanted {
            true => Ok(given.convert(DType::F32)),
            false => Err(Error::call(MODEL, format!("latents {}, wanted {wanted:?}", given.desc()))),
        }
    }

    /// The first step and the latents before it.
    fn start(
        &self,
        input: &AnimateInput,
        scheduler: &dyn Scheduler,
        noise: &mut TorchCpu,
    ) -> Result<(usize, HostTensor)> {
        if let Some(done) = &input.resume {
            return Ok((done.steps, self.fits(&done.latents)?));
        }
        let latents = match &input.latents {
            Some(given) => self.fits(given)?,
            // Drawn as the published pipelines draw them: channels first.
            None => {
                let [frames, h, w, channels] = self.latents();
                let drawn = noise.normal(frames * h * w * channels)?;
                HostTensor::new([channels, frames, h, w], drawn)?.permute(&[1, 2, 3, 0])?
            }
        };
        let (sigma, values) = (scheduler.init_noise_sigma(), latents.to_f32());
        Ok((0, HostTensor::from_fn(latents.shape(), |i| values[i] * sigma)))
    }

    fn interpolated(&self, latents: HostTensor) -> Result<HostTensor> {
        let Some((factor, between)) = self.options.between.filter(|(factor, _)| *factor > 1) else {
            return Ok(latents);
        };
        let [frames, h, w, c] = *latents.shape().dims() else { return Ok(latents) };
        let values = interpolate(&latents.to_f32(), [1, frames, h * w * c], factor, between)?;
        Ok(HostTensor::new([values.len() / (h * w * c).max(1), h, w, c], values)?)
    }

    /// Decodes frame by frame, from `first` on.
    fn decode(&self, latents: &HostTensor, first: usize, watch: &mut Watch<'_>) -> Result<()> {
        let (vae, _) = self.components.vae(&self.device)?;
        let scaled = vae.config().unscale(latents);
        let frames = latents.shape()[0];
        let mut clock = Clock::start(Stage::Decoding, frames.saturating_sub(first), watch)?;
        let decoder = FrameDecoder::open(&vae, self.size, self.options.dtype, self.memory.tiling)?;
        for index in first..frames {
            let decoded = decoder.decode(&frames_of(&scaled, &[index])?)?;
            let values = decoded.to_f32();
            let pixels = HostTensor::from_fn(decoded.shape(), |i| (values[i] / 2.0 + 0.5).clamp(0.0, 1.0));
            watch.tell(Event::Frame { index, pixels: &pixels })?;
            clock.tick(1, watch)?;
        }
        Ok(())
    }
}
