//! Cases of the kinds `controlnet` and `controlnet_chain`.

use std::collections::BTreeMap;

use muybridge_runtime::{HostTensor, Pins, PlanOptions, TensorDesc};
use serde_json::Value as Json;

use super::unet2d::{operand, outputs, run_plan, shape};
use super::{Call, recorded_layout};
use crate::controlnet::ControlNet;
use crate::error::Result;
use crate::stages::UnetShape;
use crate::unet::Unet;

pub(super) fn run(call: &Call<'_>) -> Result<BTreeMap<String, HostTensor>> {
    if call.record.op != "forward" {
        return Err(call.unknown_op());
    }
    let (config, weights) = call.component("")?;
    let net = ControlNet::of(&config, weights, call.device)?;
    let plan = net.plan(shape(call, "sample")?)?;
    let scale = call.number_or("conditioning_scale", 1.0)? as f32;
    let results = run_plan(call, &plan, |name, desc| match name {
        "scales" => Ok(net.scales(scale, call.flag("guess_mode"))),
        "cond" => call.map("controlnet_cond"),
        _ => operand(call, &net.config().trunk, name, desc),
    })?;
    outputs(&plan, &results)
}

/// A UNet and its ControlNets.
struct Chain<'a> {
    call: &'a Call<'a>,
    unet: Unet,
    names: Vec<String>,
    controls: Vec<ControlNet>,
    scales: Vec<f32>,
}

pub(super) fn run_chain(call: &Call<'_>) -> Result<BTreeMap<String, HostTensor>> {
    let chain = Chain::open(call)?;
    let single = shape(call, "latents")?;
    match call.record.op.as_str() {
        "forward" => {
            let sample = chain.run(single, &["encoder_hidden_states"], true)?;
            Ok([("sample".to_string(), recorded_layout(&sample)?)].into())
        }
        "cfg_step" => chain.guided(single),
        _ => Err(call.unknown_op()),
    }
}

impl<'a> Chain<'a> {
    fn open(call: &'a Call<'a>) -> Result<Chain<'a>> {
        let (config, weights) = call.component("unet")?;
        let unet = Unet::of(&config, weights, call.device)?;
        let list = |name: &str| call.record.args.get(name).and_then(Json::as_array).cloned().unwrap_or_default();
        let names: Vec<String> = list("controlnets").iter().filter_map(|n| n.as_str().map(String::from)).collect();
        let scales: Vec<f32> = list("scales").iter().filter_map(|s| s.as_f64().map(|s| s as f32)).collect();
        if names.len() != scales.len() {
            return Err(call.wrong(format!("{} ControlNets, {} scales", names.len(), scales.len())));
        }
        let open = |name: &String| {
            let (config, weights) = call.component(name)?;
            ControlNet::of(&config, weights, call.device)
        };
        let controls = names.iter().map(open).collect::<Result<_>>()?;
        Ok(Chain { call, unet, names, controls, scales })
    }

    /// The UNet's prediction for the latents, repeated for each of the contexts.
    fn run(&self, shape: UnetShape, contexts: &[&str], controlled: bool) -> Result<HostTensor> {
        let call = self.call;
        let controls: Vec<&ControlNet> = self.controls.iter().filter(|_| controlled).collect();
        let options = PlanOptions { pins: Pins::from_env()?, guard: 0 };
        let plan = self.unet.plan_with(shape, &controls, &options)?;
        let mut results = run_plan(call, &plan, |name, desc| self.operand(name, desc, contexts))?;
        results.pop().ok_or_else(|| call.wrong("the UNet has no result"))
    }

    fn operand(&self, name: &str, desc: TensorDesc, contexts: &[&str]) -> Result<HostTensor> {
        let (call, n) = (self.call, contexts.len());
        if let Some(i) = name.strip_prefix("scales.").and_then(|i| i.parse::<usize>().ok()) {
            return Ok(self.controls[i].scales(self.scales[i], call.flag("guess_mode")));
        }
        if let Some(i) = name.strip_prefix("cond.").and_then(|i| i.parse::<usize>().ok()) {
            return stacked(&vec![call.map(&format!("cond.{}", self.names[i]))?; n]);
        }
        match name {
            "sample" => stacked(&vec![call.map("latents")?; n]),
            "encoder_hidden_states" => {
                let parts = contexts.iter().map(|c| Ok(call.input(c)?.convert(desc.dtype)));
                stacked(&parts.collect::<Result<Vec<_>>>()?)
            }
            "timestep" => call.timesteps(desc.shape.count()),
            _ => stacked(&vec![operand(call, &self.unet.config().trunk, name, halved(desc, n))?; n]),
        }
    }

    /// Classifier-free guidance (Ho, Salimans, 2022). In guess mode ControlNets serve the conditional half only.
    fn guided(&self, single: UnetShape) -> Result<BTreeMap<String, HostTensor>> {
        let call = self.call;
        let (uncond, cond) = if call.flag("guess_mode") {
            let uncond = self.run(single, &["uncond_hidden_states"], false)?;
            (uncond, self.run(single, &["encoder_hidden_states"], true)?)
        } else {
            let both = UnetShape { batch: 2 * single.batch, ..single };
            let both = self.run(both, &["uncond_hidden_states", "encoder_hidden_states"], true)?;
            halves(&both)?
        };
        let g = call.number("guidance_scale")? as f32;
        let (u, c) = (uncond.to_f32(), cond.to_f32());
        let guided = HostTensor::from_fn(cond.shape(), |i| u[i] + g * (c[i] - u[i]));
        let named = [("uncond", uncond), ("cond", cond), ("guided", guided)];
        named.into_iter().map(|(name, t)| Ok((name.to_string(), recorded_layout(&t)?))).collect()
    }
}

fn halved(mut desc: TensorDesc, n: usize) -> TensorDesc {
    let mut extents = desc.shape.dims().to_vec();
    if let Some(first) = extents.first_mut() {
        *first /= n.max(1);
    }
    desc.shape = muybridge_runtime::Shape::new(&extents).unwrap_or(desc.shape);
    desc
}

/// Tensors of one shape, one after the other along the batch.
pub(super) fn stacked(parts: &[HostTensor]) -> Result<HostTensor> {
    let Some(first) = parts.first() else { return Ok(HostTensor::from_fn([0], |_| 0.0)) };
    let mut extents = first.shape().dims().to_vec();
    if let Some(batch) = extents.first_mut() {
        *batch *= parts.len();
    }
    let desc = TensorDesc { shape: muybridge_runtime::Shape::new(&extents)?, dtype: first.dtype() };
    let bytes: Vec<u8> = parts.iter().flat_map(|p| p.bytes()).copied().collect();
    Ok(HostTensor::from_bytes(desc, &bytes)?)
}

/// The two halves of a batch.
pub(super) fn halves(both: &HostTensor) -> Result<(HostTensor, HostTensor)> {
    let desc = halved(both.desc(), 2);
    let (a, b) = both.bytes().split_at(both.bytes().len() / 2);
    Ok((HostTensor::from_bytes(desc, a)?, HostTensor::from_bytes(desc, b)?))
}
