//! Cases of kind `unet2d`, and what other kinds share: operands of a plan by their names.

use std::collections::BTreeMap;

use muybridge_runtime::{HostTensor, Tensor, TensorDesc};

use super::{Call, recorded_layout};
use crate::config::TrunkConfig;
use crate::embeddings::{ClassOptions, one_hot};
use crate::error::Result;
use crate::stages::{StepPlan, UnetShape};
use crate::unet::Unet;

pub(super) fn run(call: &Call<'_>) -> Result<BTreeMap<String, HostTensor>> {
    if call.record.op != "forward" {
        return Err(call.unknown_op());
    }
    let (config, weights) = call.component("")?;
    let unet = Unet::of(&config, weights, call.device)?;
    let shape = UnetShape {
        mask: call.has("encoder_attention_mask"),
        residuals: call.has("down_residual.0"),
        timestep_cond: call.has("timestep_cond"),
        ..shape(call, "sample")?
    };
    let plan = unet.plan(shape)?;
    let results = run_plan(call, &plan, |name, desc| operand(call, &unet.config().trunk, name, desc))?;
    outputs(&plan, &results)
}

/// The shape of a call, from its latents and its context.
pub(super) fn shape(call: &Call<'_>, latents: &str) -> Result<UnetShape> {
    let [batch, _, height, width] = call.map_extents(latents)?;
    let context = call.input("encoder_hidden_states")?.shape().dims().get(1).copied().unwrap_or(0);
    let time_ids = if call.has("time_ids") { call.input("time_ids")?.shape().last() } else { 6 };
    Ok(UnetShape { batch, height, width, context, dtype: call.dtype, time_ids, ..UnetShape::default() })
}

/// Runs a plan on operands that are asked for by name.
pub(super) fn run_plan(
    call: &Call<'_>,
    plan: &StepPlan,
    operand: impl Fn(&str, TensorDesc) -> Result<HostTensor>,
) -> Result<Vec<HostTensor>> {
    let operands = plan.inputs().map(|(name, desc)| operand(name, desc)).collect::<Result<Vec<_>>>()?;
    let tensors = call.upload(&operands)?;
    let refs: Vec<&Tensor> = tensors.iter().collect();
    Ok(plan.run(&refs)?.iter().map(Tensor::to_host).collect::<Result<_, _>>()?)
}

/// An operand of a network from the input of its name: maps in this engine's layout, everything in its dtype.
pub(super) fn operand(call: &Call<'_>, c: &TrunkConfig, name: &str, desc: TensorDesc) -> Result<HostTensor> {
    if name == "timestep" {
        return call.timesteps(desc.shape.count());
    }
    let input = call.input(name)?;
    if let ("class_labels", Some(ClassOptions::Table(n))) = (name, c.time.class) {
        let labels: Vec<usize> = input.to_f32().iter().map(|l| *l as usize).collect();
        return Ok(one_hot(&labels, n)?.convert(desc.dtype));
    }
    let input = if desc.shape.rank() == 4 { input.nchw_to_nhwc()? } else { input.reshape(desc.shape)? };
    Ok(input.convert(desc.dtype))
}

/// Results by their names, in PyTorch's layout.
pub(super) fn outputs(plan: &StepPlan, results: &[HostTensor]) -> Result<BTreeMap<String, HostTensor>> {
    let named = plan.outputs().zip(results);
    named.map(|((name, _), tensor)| Ok((name.to_string(), recorded_layout(tensor)?))).collect()
}
