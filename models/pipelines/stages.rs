//! The stages before and after denoising: each loads its component, does its work, and frees it.

use std::collections::BTreeMap;

use muybridge_runtime::{DType, Device, HostTensor, Plan, Tensor, TensorDesc};

use super::components::{Components, Loaded};
use crate::backbone::FusionBlocks;
use crate::clip::Preprocess;
use crate::error::{Error, Result};
use crate::guider::{Guider, GuiderKind};
use crate::referencenet::ReferenceNet;
use crate::resize::{Filter, Picture};
use crate::stages::{StepPlan, UnetShape};
use crate::vae::{Vae, VaeShape};

const MODEL: &str = "Animator";

/// The size of a video, in pixels and in latents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub width: usize,
    pub height: usize,
    /// Pixels along each side of a latent cell.
    pub factor: usize,
}

impl Size {
    pub(super) fn latents(&self) -> [usize; 2] {
        [self.height / self.factor, self.width / self.factor]
    }
}

/// Bytes of a plan's operands and results, which lie outside it.
pub(super) fn operands(plan: &Plan) -> u64 {
    plan.inputs().chain(plan.outputs()).map(|(_, desc)| desc.bytes()).sum()
}

/// As [`operands`], for a plan in two stages.
pub(super) fn step_operands(plan: &StepPlan) -> u64 {
    plan.inputs().chain(plan.outputs()).chain(plan.clip_plan().outputs()).map(|(_, desc)| desc.bytes()).sum()
}

/// An RGB picture: grey is spread over the channels, alpha left away.
pub(super) fn rgb(picture: &Picture) -> Result<Picture> {
    let Picture { width, height, channels, pixels } = picture;
    let of = |pixel: &[u8]| match *pixel {
        [grey] | [grey, _] => [grey; 3],
        [r, g, b, ..] => [r, g, b],
        [] => [0; 3],
    };
    if !(1..=4).contains(channels) {
        return Err(Error::call(MODEL, format!("a picture of {channels} channels")));
    }
    let pixels = pixels.chunks(*channels).flat_map(of).collect();
    Ok(Picture { width: *width, height: *height, channels: 3, pixels })
}

/// RGB pictures of one size as `[n,H,W,3]`, bytes times `scale` plus `offset`.
pub(super) fn pixels(pictures: &[Picture], scale: f32, offset: f32) -> Result<HostTensor> {
    let Some(first) = pictures.first() else { return Err(Error::call(MODEL, "no pictures")) };
    let shape = [pictures.len(), first.height, first.width, 3];
    let bytes = pictures.iter().flat_map(|p| &p.pixels);
    Ok(HostTensor::new(shape, bytes.map(|b| f32::from(*b) * scale + offset).collect())?)
}

/// The reference as CLIP sees it, normalised, and its embedding `[1,C]`.
pub(super) fn embed(
    c: &Components,
    device: &Device,
    dtype: DType,
    reference: &Picture,
) -> Result<(HostTensor, HostTensor, Loaded)> {
    let (vision, loaded) = c.image_encoder(device)?;
    let seen = Preprocess::squeezed(vision.config().image).apply(&rgb(reference)?)?;
    let states = vision.encode(&seen, 0, dtype)?;
    let missing = || Error::call(MODEL, "image_encoder has no visual_projection");
    Ok((seen, states.image_embeds.ok_or_else(missing)?, loaded))
}

/// The reference's pixels in [−1, 1] as the latents `[1,h,w,C]` that a diffusion model reads: the encoder's mean.
pub(super) fn encode(vae: &Vae, size: Size, dtype: DType, pixels: &HostTensor) -> Result<HostTensor> {
    let plan = vae.encoder(VaeShape { batch: 1, height: size.height, width: size.width, dtype })?;
    let results = plan.run_host(&[&pixels.convert(dtype)])?;
    let [mean, _] = &results[..] else { return Err(Error::call(MODEL, "the VAE's encoder has other results")) };
    Ok(vae.config().scale(mean))
}

/// The filter that a guider's pipeline resizes pictures with.
pub(super) fn filter(guider: &Guider) -> Filter {
    match guider.kind() {
        GuiderKind::Pose => Filter::Lanczos,
        GuiderKind::Guidance => Filter::Bicubic,
    }
}

/// Features of every frame, in host memory and in the activations' dtype.
#[derive(Clone, Debug, Default)]
pub(super) struct FrameFeatures {
    frames: Vec<HostTensor>,
}

impl FrameFeatures {
    /// Puts, or adds, the features `[n,h,w,C]` of frames from `first` on.
    pub(super) fn add(&mut self, first: usize, features: &HostTensor) -> Result<()> {
        let n = features.shape()[0];
        let each = features.bytes().len() / n.max(1);
        let shape = features.shape();
        let dims = &shape.dims()[1..];
        for (i, bytes) in features.bytes().chunks(each.max(1)).enumerate() {
            let desc = TensorDesc { shape: muybridge_runtime::Shape::new(dims)?, dtype: features.dtype() };
            let frame = HostTensor::from_bytes(desc, bytes)?;
            match self.frames.get_mut(first + i) {
                Some(there) => *there = sum(there, &frame)?,
                None => self.frames.push(frame),
            }
        }
        Ok(())
    }

    /// The features `[n,h,w,C]` of some frames.
    pub(super) fn gather(&self, frames: &[usize]) -> Result<HostTensor> {
        let missing = || Error::call(MODEL, format!("features of {} frames, wanted {frames:?}", self.frames.len()));
        let parts: Option<Vec<&HostTensor>> = frames.iter().map(|f| self.frames.get(*f)).collect();
        let parts = parts.ok_or_else(missing)?;
        let first = parts.first().ok_or_else(missing)?;
        let extents: Vec<usize> = [parts.len()].into_iter().chain(first.shape().dims().iter().copied()).collect();
        let desc = TensorDesc { shape: muybridge_runtime::Shape::new(&extents)?, dtype: first.dtype() };
        let bytes: Vec<u8> = parts.iter().flat_map(|p| p.bytes()).copied().collect();
        Ok(HostTensor::from_bytes(desc, &bytes)?)
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }
}

fn sum(a: &HostTensor, b: &HostTensor) -> Result<HostTensor> {
    if a.desc() != b.desc() {
        return Err(Error::call(MODEL, format!("features {} and {} of two guiders do not add up", a.desc(), b.desc())));
    }
    let (x, y) = (a.to_f32(), b.to_f32());
    Ok(HostTensor::from_fn(a.shape(), |i| x[i] + y[i]).convert(a.dtype()))
}

/// Binds the reference network for one reference.
pub(super) fn reference_plan(net: &ReferenceNet, size: Size, dtype: DType) -> Result<StepPlan> {
    let [height, width] = size.latents();
    let shape = UnetShape { height, width, context: 1, dtype, ..UnetShape::default() };
    net.plan(shape, FusionBlocks::Full)
}

/// Features of the reference's latents by block, on the device.
pub(super) fn reference(
    plan: &StepPlan,
    device: &Device,
    latents: &HostTensor,
    embedding: &HostTensor,
) -> Result<BTreeMap<String, Tensor>> {
    let mut given: Vec<Tensor> = Vec::new();
    for (name, desc) in plan.inputs() {
        let host = match name {
            "sample" => latents.convert(desc.dtype),
            "timestep" => HostTensor::from_fn(desc.shape, |_| 0.0),
            "encoder_hidden_states" => HostTensor::new(desc.shape, embedding.to_f32())?.convert(desc.dtype),
            other => return Err(Error::call(MODEL, format!("the reference network asks for {other}"))),
        };
        given.push(device.tensor(&host)?);
    }
    let results = plan.run(&given.iter().collect::<Vec<_>>())?;
    Ok(plan.outputs().map(|(name, _)| name.to_string()).zip(results).collect())
}
