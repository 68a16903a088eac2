//! Cases of the kinds `unet_motion` and `unet_motion_whole`.

use std::collections::BTreeMap;

use muybridge_runtime::HostTensor;

use super::Call;
use super::guiders::{clips_of, frames_of};
use super::unet2d::{operand, run_plan};
use crate::error::Result;
use crate::stages::UnetShape;
use crate::unet::Unet;

pub(super) fn run(call: &Call<'_>) -> Result<BTreeMap<String, HostTensor>> {
    if call.record.op != "forward" {
        return Err(call.unknown_op());
    }
    let unet = if call.case.kind() == "unet_motion" {
        let (config, weights) = call.component("unet")?;
        let (adapter, modules) = call.component("motion_adapter")?;
        Unet::with_motion((&config, weights), (&adapter, &modules), call.device)?
    } else {
        let (config, weights) = call.component("")?;
        Unet::of(&config, weights, call.device)?
    };
    let (sample, [batch, frames, height, width]) = frames_of(call, "sample")?;
    let context = call.input("encoder_hidden_states")?.shape().dims().get(1).copied().unwrap_or(0);
    let time_ids = if call.has("time_ids") { call.input("time_ids")?.shape().last() } else { 6 };
    let shape = UnetShape {
        batch,
        height,
        width,
        context,
        dtype: call.dtype,
        time_ids,
        frames,
        mask: call.has("encoder_attention_mask"),
        timestep_cond: call.has("timestep_cond"),
        ..UnetShape::default()
    };
    let plan = unet.plan(shape)?;
    let results = run_plan(call, &plan, |name, desc| match name {
        "sample" => Ok(sample.clone()),
        _ => operand(call, &unet.config().trunk, name, desc),
    })?;
    let [prediction] = &results[..] else { return Err(call.wrong("the UNet has other results")) };
    Ok([("sample".to_string(), clips_of(prediction, batch)?)].into())
}
