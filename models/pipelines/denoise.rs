//! The denoising stage: a video network over windows of frames, with both halves of guidance.

use std::collections::BTreeMap;

use muybridge_runtime::{Device, HostTensor, Pins, PlanOptions, Tensor, TensorDesc};

use super::memory::Halves;
use crate::backbone::FusionBlocks;
use crate::controlnet::ControlNet;
use crate::error::{Error, Result};
use crate::stages::{Features, ReferenceShape, StepPlan, UnetShape};
use crate::unet::Unet;

const MODEL: &str = "Animator";

/// The network's plans for windows of one length.
pub(super) struct Denoiser {
    halves: Halves,
    /// Both halves, or the conditional one.
    main: StepPlan,
    /// The unconditional half, where it runs apart.
    uncond: Option<StepPlan>,
}

/// What the clip's features are.
pub(super) struct Ready {
    main: Features,
    uncond: Option<Features>,
}

impl Denoiser {
    /// Binds the network for `frames` maps of `height × width` latents, the reference being of the same extents.
    /// ControlNets steer both halves, which then run apart. Without `reads` no half reads the reference.
    pub(super) fn open(
        unet: &Unet,
        nets: &[&ControlNet],
        shape: UnetShape,
        (halves, reads): (Halves, bool),
    ) -> Result<Denoiser> {
        let options = PlanOptions { pins: Pins::from_env()?, guard: 0 };
        let plan = |shape| unet.plan_with(shape, nets, &options);
        let UnetShape { height, width, .. } = shape;
        let blocks = FusionBlocks::Full;
        let reference = |first_clip| reads.then_some(ReferenceShape { items: 1, height, width, first_clip, blocks });
        let single = UnetShape { batch: 1, context: 1, pose_features: true, ..shape };
        let (main, uncond) = match halves {
            Halves::Together => {
                let both = UnetShape { batch: 2, shared: true, reference: reference(1), ..single };
                (plan(both)?, None)
            }
            Halves::InTurn => {
                let cond = plan(UnetShape { reference: reference(0), ..single })?;
                let uncond = unet.plan_beside(single, nets, &cond)?;
                (cond, Some(uncond))
            }
            Halves::Conditional => (plan(UnetShape { reference: reference(0), ..single })?, None),
        };
        Ok(Denoiser { halves, main, uncond })
    }

    /// Bytes of operands, features and results, which lie outside the plans.
    pub(super) fn operands(&self) -> u64 {
        let bytes = |plan: &StepPlan| -> u64 {
            let io = plan.inputs().chain(plan.outputs()).chain(plan.clip_plan().outputs());
            io.map(|(_, desc)| desc.bytes()).sum()
        };
        bytes(&self.main) + self.uncond.as_ref().map_or(0, bytes)
    }

    /// The features of a clip: from the reference's embedding `[1,1,C]`, its features by block, and the pictures `[n,H,W,3]`
    /// that each ControlNet follows.
    pub(super) fn prepare(
        &self,
        device: &Device,
        embedding: &HostTensor,
        bank: &BTreeMap<String, Tensor>,
        followed: &[HostTensor],
    ) -> Result<Ready> {
        let none = HostTensor::from_fn(embedding.shape(), |_| 0.0);
        let context = |plan: &StepPlan, rows: &[&HostTensor]| -> Result<Features> {
            let mut operands: Vec<Tensor> = Vec::new();
            for (name, desc) in plan.clip_inputs() {
                let picture = name.strip_prefix("cond.").and_then(|i| followed.get(i.parse::<usize>().ok()?));
                operands.push(match picture {
                    Some(pictures) => device.tensor(&repeated(pictures, desc)?)?,
                    None => clip_operand(device, name, desc, rows, bank)?,
                });
            }
            plan.features(&operands.iter().collect::<Vec<_>>())
        };
        let rows: &[&HostTensor] = if self.halves == Halves::Together { &[&none, embedding] } else { &[embedding] };
        let uncond = self.uncond.as_ref().map(|plan| context(plan, &[&none])).transpose()?;
        Ok(Ready { main: context(&self.main, rows)?, uncond })
    }

    /// The guided prediction for a window: latents `[n,h,w,C]`, the features of its poses, the scales of the ControlNets, and
    /// the timestep.
    pub(super) fn predict(
        &self,
        ready: &Ready,
        device: &Device,
        latents: &HostTensor,
        (pose, scales): (&Tensor, &[HostTensor]),
        (timestep, guidance): (f32, f32),
    ) -> Result<Vec<f32>> {
        let latents = device.tensor(latents)?;
        let run = |plan: &StepPlan, features: &Features| -> Result<Vec<f32>> {
            let mut operands: Vec<Tensor> = Vec::new();
            for (name, desc) in plan.step_inputs() {
                let scale = name.strip_prefix("scales.").and_then(|i| scales.get(i.parse::<usize>().ok()?));
                operands.push(match (name, scale) {
                    (_, Some(scale)) => device.tensor(scale)?,
                    ("sample", _) => latents.clone(),
                    ("pose_features", _) => pose.clone(),
                    ("timestep", _) => device.tensor(&HostTensor::from_fn(desc.shape, |_| timestep))?,
                    (other, _) => return Err(Error::call(MODEL, format!("the UNet asks for {other}"))),
                });
            }
            let results = plan.step(&operands.iter().collect::<Vec<_>>(), features)?;
            let [prediction] = &results[..] else { return Err(Error::call(MODEL, "the UNet has other results")) };
            Ok(prediction.to_host()?.to_f32())
        };
        let main = run(&self.main, &ready.main)?;
        // Classifier-free guidance (Ho, Salimans, 2022).
        let guided = |(u, c): (&f32, &f32)| u + guidance * (c - u);
        match (self.halves, &self.uncond, &ready.uncond) {
            (Halves::Together, ..) => {
                let (uncond, cond) = main.split_at(main.len() / 2);
                Ok(uncond.iter().zip(cond).map(guided).collect())
            }
            (Halves::InTurn, Some(plan), Some(features)) => {
                let uncond = run(plan, features)?;
                Ok(uncond.iter().zip(&main).map(guided).collect())
            }
            _ => Ok(main),
        }
    }
}

/// Pictures for every frame, or one picture for all of them, in an operand's extents and dtype.
fn repeated(pictures: &HostTensor, desc: TensorDesc) -> Result<HostTensor> {
    let values = pictures.to_f32();
    if values.is_empty() || !desc.shape.count().is_multiple_of(values.len()) {
        return Err(Error::call(MODEL, format!("a ControlNet wants {desc}, and follows {}", pictures.desc())));
    }
    Ok(HostTensor::from_fn(desc.shape, |i| values[i % values.len()]).convert(desc.dtype))
}

fn clip_operand(
    device: &Device,
    name: &str,
    desc: TensorDesc,
    rows: &[&HostTensor],
    bank: &BTreeMap<String, Tensor>,
) -> Result<Tensor> {
    if name == "encoder_hidden_states" {
        let values: Vec<f32> = rows.iter().flat_map(|r| r.to_f32()).collect();
        if values.len() != desc.shape.count() {
            let reason = format!("an embedding of {} numbers for a context {desc}", values.len() / rows.len().max(1));
            return Err(Error::call(MODEL, reason));
        }
        return Ok(device.tensor(&HostTensor::new(desc.shape, values)?.convert(desc.dtype))?);
    }
    let path = name.strip_prefix("reference.").unwrap_or(name);
    let found = bank.get(path).cloned();
    found.ok_or_else(|| Error::call(MODEL, format!("the reference network has no features for {path}")))
}
