//! The memory of an animation, planned on a device of the same limits that owns none.

use muybridge_runtime::Device;

use super::animate::AnimateOptions;
use super::components::{Components, SCENE};
use super::denoise::Denoiser;
use super::memory::{Halves, MemoryPlan, StageMemory, Way};
use super::stages::{Size, operands, reference_plan, step_operands};
use super::watch::Stage;
use crate::controlnet::ControlNet;
use crate::error::{Error, Result};
use crate::guider::GuiderShape;
use crate::stages::UnetShape;
use crate::tiling::Tiling;
use crate::vae::{Vae, VaeShape};

/// Plans a run on a device of the same limits that owns no memory.
pub(super) struct Planner<'a> {
    pub components: &'a Components,
    pub options: &'a AnimateOptions,
    pub device: &'a Device,
    pub size: Size,
}

impl Planner<'_> {
    /// The plan of the fastest run within the limit.
    pub(super) fn plan(&self) -> Result<MemoryPlan> {
        let limit = self.options.max_memory.unwrap_or(u64::MAX);
        // ControlNets steer halves that run apart.
        let guidance = (self.options.guidance > 1.0, self.components.controls() == 0);
        let frames = self.window(None).frames;
        let Way { halves, spatial_frames, bytes: denoising } =
            Way::choose(guidance, frames, limit, |halves, portion| self.denoising(halves, portion))?;
        let (embedding, encoding, reference) = (self.embedding()?, self.encoding()?, self.reference()?);
        let (guider_frames, guidance) = self.guidance(limit.min(denoising))?;
        let (vae, _) = self.components.vae(&self.device.trace())?;
        let (tiling, decoding) = self.decoding(&vae, limit)?;
        let [h, w] = self.size.latents();
        let maps = (self.options.frames * h * w) as u64;
        let plan = MemoryPlan {
            stages: vec![
                StageMemory { stage: Stage::Embedding, bytes: embedding },
                StageMemory { stage: Stage::Encoding, bytes: encoding },
                StageMemory { stage: Stage::Guidance, bytes: guidance },
                StageMemory { stage: Stage::Reference, bytes: reference },
                StageMemory { stage: Stage::Denoising, bytes: denoising },
                StageMemory { stage: Stage::Decoding, bytes: decoding },
            ],
            halves,
            spatial_frames,
            guider_frames: Some(guider_frames),
            tiling,
            host: maps
                * (self.feature_channels()? * self.options.dtype.size() + 3 * 4 * vae.config().latent_channels) as u64,
        };
        plan.within(self.options.max_memory, self.device)
    }

    /// The most that is held on a device while `make` makes something, and the bytes that it names besides.
    fn peak<T>(&self, make: impl FnOnce(&Device) -> Result<(T, u64)>) -> Result<u64> {
        let trace = self.device.trace();
        let (_made, besides) = make(&trace)?;
        Ok(trace.memory().peak + besides)
    }

    fn embedding(&self) -> Result<u64> {
        self.peak(|device| {
            let (vision, _) = self.components.image_encoder(device)?;
            let plan = vision.plan(1, 0, self.options.dtype)?;
            let bytes = operands(&plan);
            Ok((plan, bytes))
        })
    }

    fn encoding(&self) -> Result<u64> {
        self.peak(|device| {
            let (vae, _) = self.components.vae(device)?;
            let Size { width, height, .. } = self.size;
            let plan = vae.encoder(VaeShape { batch: 1, height, width, dtype: self.options.dtype })?;
            let bytes = operands(&plan);
            Ok((plan, bytes))
        })
    }

    fn reference(&self) -> Result<u64> {
        self.peak(|device| {
            let (net, _) = self.components.reference(device)?;
            let plan = reference_plan(&net, self.size, self.options.dtype)?;
            let bytes = step_operands(&plan);
            Ok((plan, bytes))
        })
    }

    /// The most frames at a time that fit, and what they take.
    fn guidance(&self, limit: u64) -> Result<(usize, u64)> {
        let most = self.options.frames.min(24);
        let mut least = (1, 0);
        for frames in [most, 16, 8, 4, 2, 1].into_iter().filter(|n| *n <= most) {
            let mut bytes = 0;
            let scene = self.components.guided_by_reference().then(|| SCENE.to_string());
            for kind in self.components.kinds().into_iter().chain(scene) {
                let one = self.peak(|device| {
                    let (guider, _) = self.components.guider(&kind, device)?;
                    let Size { width, height, .. } = self.size;
                    let plan = guider.plan(GuiderShape { frames, height, width, dtype: self.options.dtype })?;
                    let bytes = operands(&plan);
                    Ok((plan, bytes))
                })?;
                bytes = one.max(bytes);
            }
            least = (frames, bytes);
            if bytes <= limit {
                break;
            }
        }
        Ok(least)
    }

    fn feature_channels(&self) -> Result<usize> {
        let (unet, _) = self.components.unet(&self.device.trace())?;
        Ok(unet.config().trunk.levels.first().map_or(0, |l| l.channels))
    }

    fn denoising(&self, halves: Halves, portion: Option<usize>) -> Result<u64> {
        self.peak(|device| {
            let (unet, _) = self.components.unet(device)?;
            let nets = self.components.control_nets(device)?;
            let nets: Vec<&ControlNet> = nets.iter().map(|(net, _)| net).collect();
            let way = (halves, self.options.reads_reference);
            let denoiser = Denoiser::open(&unet, &nets, self.window(portion), way)?;
            let bytes = denoiser.operands();
            Ok((denoiser, bytes))
        })
    }

    /// The shape of a window, spatial work being done in portions of so many frames.
    pub(super) fn window(&self, portion: Option<usize>) -> UnetShape {
        let [height, width] = self.size.latents();
        let (frames, at_a_time) = (self.options.frames.min(self.options.window), portion.unwrap_or(0));
        UnetShape { height, width, frames, dtype: self.options.dtype, at_a_time, ..UnetShape::default() }
    }

    fn decoding(&self, vae: &Vae, limit: u64) -> Result<(Option<Tiling>, u64)> {
        let [height, width] = self.size.latents();
        let dtype = self.options.dtype;
        let pixels = (self.size.width * self.size.height * 3 * dtype.size()) as u64;
        let tiling = match vae.tiling_within([1, height, width], dtype, limit.saturating_sub(2 * pixels)) {
            Ok(tiling) => tiling,
            // What the smallest tiles need is told with everything else.
            Err(Error::Runtime(muybridge_runtime::Error::OutOfMemory { .. })) => Some(Tiling::of(8)),
            Err(other) => return Err(other),
        };
        let extent = |n: usize| tiling.map_or(n, |t| n.min(t.tile));
        let shape = VaeShape { batch: 1, height: extent(height), width: extent(width), dtype };
        Ok((tiling, vae.decoder_memory(shape)? + 2 * pixels))
    }
}
