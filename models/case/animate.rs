//! Cases of the kinds `aa_denoise` and `champ_denoise`: one denoising step of a person's video.

use std::collections::BTreeMap;

use muybridge_runtime::{DType, HostTensor, TensorDesc};
use serde_json::Value as Json;

use super::Call;
use super::controlnet::{halves, stacked};
use super::guiders::{clips_of, frames_of};
use super::unet2d::run_plan;
use crate::backbone::FusionBlocks;
use crate::error::Result;
use crate::guider::{Guider, GuiderKind, GuiderShape};
use crate::referencenet::ReferenceNet;
use crate::stages::{ReferenceShape, UnetShape};
use crate::unet::Unet;

type Named = BTreeMap<String, HostTensor>;

pub(super) fn run(call: &Call<'_>) -> Result<Named> {
    let (config, weights) = call.component("denoising_unet")?;
    let unet = Unet::of(&config, weights, call.device)?;
    match call.record.op.as_str() {
        "unet3d" => {
            let (latents, shape) = latents(call)?;
            let states = call.input("clip_embeds")?.convert(call.dtype);
            let prediction = Step { call, latents, states, pose: None, bank: &Named::new() }.run(&unet, shape)?;
            Ok([("pred".to_string(), clips_of(&prediction, shape.batch)?)].into())
        }
        "denoise" => denoise(call, &unet),
        _ => Err(call.unknown_op()),
    }
}

/// Latents, and the shape of the UNet that they ask for.
fn latents(call: &Call<'_>) -> Result<(HostTensor, UnetShape)> {
    let (latents, [batch, frames, height, width]) = frames_of(call, "latents")?;
    let context = call.input("clip_embeds")?.shape().dims().get(1).copied().unwrap_or(0);
    let shape = UnetShape { batch, frames, height, width, context, dtype: call.dtype, ..UnetShape::default() };
    Ok((latents, shape))
}

fn denoise(call: &Call<'_>, unet: &Unet) -> Result<Named> {
    let guidance =
        call.record.args.get("guidance_scale").filter(|g| !g.is_null()).map(|_| call.number("guidance_scale"));
    let guidance = guidance.transpose()?;
    let blocks = match call.record.args.get("fusion_blocks").and_then(Json::as_str) {
        None | Some("full") => FusionBlocks::Full,
        Some("midup") => FusionBlocks::MidUp,
        Some(other) => return Err(call.wrong(format!("fusion_blocks {other:?}; known: full, midup"))),
    };
    let mut named = Named::new();
    let pose = pose_features(call)?;
    let (latents, shape) = latents(call)?;
    if let Some(pose) = &pose {
        named.insert("pose_features".into(), clips_of(pose, shape.batch)?);
    }
    let (bank, reference) = references(call, blocks, guidance.is_some(), &mut named)?;
    // The unconditional half comes first; its context is zero.
    let halves = if guidance.is_some() { 2 } else { 1 };
    let states = call.input("clip_embeds")?.convert(call.dtype);
    let states = if halves == 2 { stacked(&[zeros(&states), states])? } else { states };
    let items = reference[0];
    let first_clip = (halves - 1) * shape.batch;
    let shape = UnetShape {
        batch: halves * shape.batch,
        // Halves of one clip denoise the same latents.
        shared: halves == 2 && shape.batch == 1,
        pose_features: pose.is_some(),
        reference: Some(ReferenceShape { items, height: reference[2], width: reference[3], first_clip, blocks }),
        ..shape
    };
    let twice = |t: HostTensor| if halves == 2 && !shape.shared { stacked(&[t.clone(), t]) } else { Ok(t) };
    let (latents, pose) = (twice(latents)?, pose.map(twice).transpose()?);
    let prediction = Step { call, latents, states, pose, bank: &bank }.run(unet, shape)?;
    named.insert("pred".into(), clips_of(&prediction, shape.batch)?);
    if let Some(g) = guidance {
        named.insert("guided".into(), guided(&prediction, g as f32, shape.batch / 2)?);
    }
    Ok(named)
}

/// Classifier-free guidance (Ho, Salimans, 2022) of a batch of two halves.
fn guided(prediction: &HostTensor, g: f32, clips: usize) -> Result<HostTensor> {
    let (uncond, cond) = halves(prediction)?;
    let (u, c) = (uncond.to_f32(), cond.to_f32());
    clips_of(&HostTensor::from_fn(cond.shape(), |i| u[i] + g * (c[i] - u[i])), clips)
}

/// Features of the pose, or the sum of those of several guidances.
fn pose_features(call: &Call<'_>) -> Result<Option<HostTensor>> {
    let shape = |[clips, frames, height, width]: [usize; 4]| GuiderShape {
        frames: clips * frames,
        height,
        width,
        dtype: call.dtype,
    };
    if call.has("pose_pixels") {
        let (config, weights) = call.component("pose_guider")?;
        let (pixels, extents) = frames_of(call, "pose_pixels")?;
        let plan = Guider::of(GuiderKind::Pose, &config, &weights, call.device)?.plan(shape(extents))?;
        return Ok(plan.run_host(&[&pixels])?.pop());
    }
    let types = call.record.args.get("guidance_types").and_then(Json::as_array).cloned().unwrap_or_default();
    let mut sum: Option<HostTensor> = None;
    for name in types.iter().filter_map(Json::as_str) {
        let (config, weights) = call.component(&format!("guidance_encoder_{name}"))?;
        let (pixels, extents) = frames_of(call, &format!("guidance.{name}"))?;
        let plan = Guider::of(GuiderKind::Guidance, &config, &weights, call.device)?.plan(shape(extents))?;
        let features = plan.run_host(&[&pixels])?.pop();
        sum = match (sum, features) {
            (Some(a), Some(b)) => Some(added(&a, &b)),
            (a, b) => a.or(b),
        };
    }
    Ok(sum)
}

fn added(a: &HostTensor, b: &HostTensor) -> HostTensor {
    let (x, y) = (a.to_f32(), b.to_f32());
    HostTensor::from_fn(a.shape(), |i| x[i] + y[i]).convert(a.dtype())
}

fn zeros(like: &HostTensor) -> HostTensor {
    HostTensor::from_fn(like.shape(), |_| 0.0).convert(like.dtype())
}

/// Features of the reference network by block, for the conditional half, and the extents of its latents `[B,C,h,w]`. The
/// recorded pipelines run it for both halves, which only shows in the exported features.
fn references(call: &Call<'_>, blocks: FusionBlocks, guided: bool, named: &mut Named) -> Result<(Named, [usize; 4])> {
    let (config, weights) = call.component("reference_unet")?;
    let net = ReferenceNet::of(&config, weights, call.device)?;
    let extents = call.map_extents("ref_latents")?;
    let [references, _, height, width] = extents;
    let both = guided && call.flag("export_bank");
    let batch = if both { 2 * references } else { references };
    let states = call.input("clip_embeds")?.convert(call.dtype);
    let context = states.shape().dims().get(1).copied().unwrap_or(0);
    let shape = UnetShape { batch, height, width, context, dtype: call.dtype, ..UnetShape::default() };
    let plan = net.plan(shape, blocks)?;
    let twice = |t: HostTensor| if both { stacked(&[t.clone(), t]) } else { Ok(t) };
    let results = run_plan(call, &plan, |name, desc| match name {
        "sample" => twice(call.map("ref_latents")?),
        "timestep" => Ok(HostTensor::from_fn(desc.shape, |_| 0.0)),
        "encoder_hidden_states" if both => stacked(&[zeros(&states), states.clone()]),
        "encoder_hidden_states" => Ok(states.clone()),
        other => Err(call.wrong(format!("the reference network asks for {other}"))),
    })?;
    let narrow = call.record.args.get("bank_dtype").and_then(Json::as_str) == Some("float16");
    let mut bank = Named::new();
    for ((path, _), features) in plan.outputs().zip(&results) {
        if call.flag("export_bank") {
            let wide = features.convert(DType::F32);
            let (items, c) = (wide.shape()[0], wide.shape().last());
            let tokens = wide.shape().count() / (items * c).max(1);
            named.insert(format!("bank.{path}"), wide.reshape([items, tokens, c])?);
        }
        let read = if both { halves(features)?.1 } else { features.clone() };
        let read = if narrow { read.convert(DType::F16).convert(read.dtype()) } else { read };
        bank.insert(path.to_string(), read);
    }
    Ok((bank, extents))
}

/// One run of a denoising network.
struct Step<'a> {
    call: &'a Call<'a>,
    latents: HostTensor,
    states: HostTensor,
    pose: Option<HostTensor>,
    bank: &'a Named,
}

impl Step<'_> {
    fn run(&self, unet: &Unet, shape: UnetShape) -> Result<HostTensor> {
        let plan = unet.plan(shape)?;
        let results = run_plan(self.call, &plan, |name, desc| self.operand(name, desc))?;
        results.into_iter().next().ok_or_else(|| self.call.wrong("the UNet has no result"))
    }

    fn operand(&self, name: &str, desc: TensorDesc) -> Result<HostTensor> {
        let missing = || self.call.wrong(format!("the UNet asks for {name}"));
        match name {
            "sample" => Ok(self.latents.clone()),
            "timestep" => self.call.timesteps(desc.shape.count()),
            "encoder_hidden_states" => Ok(self.states.clone()),
            "pose_features" => self.pose.clone().ok_or_else(missing),
            _ => {
                let path = name.strip_prefix("reference.").ok_or_else(missing)?;
                self.bank.get(path).cloned().ok_or_else(missing)
            }
        }
    }
}
