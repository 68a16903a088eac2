//! What a run takes of the device's memory, planned before it begins, and how it is kept within a limit.

use std::fmt;

use muybridge_runtime::Device;

use super::animate::AnimateOptions;
use super::components::Components;
use super::denoise::Denoiser;
use super::stages::{Size, operands, reference_plan, step_operands};
use super::watch::Stage;
use crate::error::{Error, Result};
use crate::pose_guider::GuiderShape;
use crate::stages::UnetShape;
use crate::tiling::Tiling;
use crate::vae::{Vae, VaeShape};

/// How the halves of guidance are computed. The choice changes results in the last bits only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halves {
    /// In one batch.
    Together,
    /// One after the other, in the same memory.
    InTurn,
    /// There is no guidance: only the conditional half.
    Conditional,
}

/// The most memory that a stage holds at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageMemory {
    /// The stage.
    pub stage: Stage,
    /// Weights, activations, operands and results, in bytes.
    pub bytes: u64,
}

/// What a run takes, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// Stages in their order. Each frees what it holds before the next begins.
    pub stages: Vec<StageMemory>,
    /// How the halves of guidance are computed.
    pub halves: Halves,
    /// Frames that a guider reads at a time. The choice does not change results.
    pub guider_frames: usize,
    /// Tiles of the decoder, where whole frames do not fit. Tiled frames differ a little from whole ones.
    pub tiling: Option<Tiling>,
    /// Bytes of host memory for latents and features of all frames.
    pub host: u64,
}

impl MemoryPlan {
    /// The most device memory at once, in bytes.
    pub fn peak(&self) -> u64 {
        self.stages.iter().map(|s| s.bytes).max().unwrap_or(0)
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let halves = match self.halves {
            Halves::Together => "both halves of guidance at once",
            Halves::InTurn => "halves of guidance in turn",
            Halves::Conditional => "no guidance",
        };
        let tiles =
            self.tiling.map_or("whole frames decoded".into(), |t| format!("frames decoded in tiles of {}", t.tile));
        write!(f, "at most {} on the device ({halves}, {tiles}, ", size(self.peak()))?;
        write!(
            f,
            "{} frames of motion at a time), {} of features in host memory",
            self.guider_frames,
            size(self.host)
        )?;
        self.stages.iter().try_for_each(|s| write!(f, "\n  {:<24} {:>10}", s.stage.to_string(), size(s.bytes)))
    }
}

fn size(bytes: u64) -> String {
    if bytes < 1_000_000_000 {
        format!("{:.1} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.2} GB", bytes as f64 / 1e9)
    }
}

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
        let guided = self.options.guidance > 1.0;
        let mut halves = if guided { Halves::Together } else { Halves::Conditional };
        let mut denoising = self.denoising(halves)?;
        if denoising > limit && guided {
            halves = Halves::InTurn;
            denoising = self.denoising(halves)?;
        }
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
            guider_frames,
            tiling,
            host: maps
                * (self.feature_channels()? * self.options.dtype.size() + 3 * 4 * vae.config().latent_channels) as u64,
        };
        if plan.peak() <= limit {
            return Ok(plan);
        }
        let largest = plan.stages.iter().max_by_key(|s| s.bytes).map_or(Stage::Denoising, |s| s.stage);
        let what = format!("{largest}, which is the least that this size, length and dtype can do with");
        let (device, wanted) = (self.device.name().into(), plan.peak());
        Err(muybridge_runtime::Error::OutOfMemory { device, what, wanted, limit: self.options.max_memory }.into())
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
            for kind in self.components.kinds() {
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

    fn denoising(&self, halves: Halves) -> Result<u64> {
        self.peak(|device| {
            let (unet, _) = self.components.unet(device)?;
            let denoiser = Denoiser::open(&unet, self.window(), halves)?;
            let bytes = denoiser.operands();
            Ok((denoiser, bytes))
        })
    }

    /// The shape of a window.
    pub(super) fn window(&self) -> UnetShape {
        let [height, width] = self.size.latents();
        let frames = self.options.frames.min(self.options.window);
        UnetShape { height, width, frames, dtype: self.options.dtype, ..UnetShape::default() }
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
