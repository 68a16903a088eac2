//! Cases of the kinds `clip_text` and `clip_vision`.

use std::collections::BTreeMap;

use muybridge_loaders::Config;
use muybridge_runtime::HostTensor;

use super::{Call, recorded_layout};
use crate::clip::{ClipText, ClipVision, Preprocess};
use crate::error::Result;
use crate::resize::Picture;

/// Recorded cases ask for `hidden_states.-2`: the last layer is left out.
const SKIP: usize = 1;

pub(super) fn run_text(call: &Call<'_>) -> Result<BTreeMap<String, HostTensor>> {
    if call.record.op != "forward" {
        return Err(call.unknown_op());
    }
    let (config, weights) = call.component("")?;
    let text = ClipText::of(&config, weights, call.device)?;
    let ids = table(call, "input_ids", |id| id as u32)?;
    let mask = call.has("attention_mask").then(|| table(call, "attention_mask", |seen| seen != 0.0)).transpose()?;
    let states = text.encode(&ids, mask.as_deref(), SKIP, call.dtype)?;
    let mut named = BTreeMap::from([
        ("last_hidden_state".to_string(), states.last_hidden_state),
        ("hidden_states.-2".to_string(), states.hidden_states),
        ("pooler_output".to_string(), states.pooler_output),
    ]);
    named.extend(states.text_embeds.map(|t| ("text_embeds".to_string(), t)));
    Ok(named)
}

pub(super) fn run_vision(call: &Call<'_>) -> Result<BTreeMap<String, HostTensor>> {
    if call.record.op == "preprocess" {
        return preprocess(call);
    }
    if call.record.op != "forward" {
        return Err(call.unknown_op());
    }
    let (config, weights) = call.component("")?;
    let vision = ClipVision::of(&config, weights, call.device)?;
    let states = vision.encode(&call.map("pixel_values")?, SKIP, call.dtype)?;
    let mut named = BTreeMap::from([
        ("last_hidden_state".to_string(), states.last_hidden_state),
        ("hidden_states.-2".to_string(), states.hidden_states),
        ("pooler_output".to_string(), states.pooler_output),
    ]);
    named.extend(states.image_embeds.map(|t| ("image_embeds".to_string(), t)));
    Ok(named)
}

/// An op of this repository's own cases: a picture by the settings of a `preprocessor_config.json`.
fn preprocess(call: &Call<'_>) -> Result<BTreeMap<String, HostTensor>> {
    let settings = call.record.args.get("settings").cloned().unwrap_or_default();
    let settings = Config::parse(settings.to_string().as_bytes(), "settings")?;
    let image = call.input("image")?;
    let &[height, width, channels] = image.shape().dims() else {
        return Err(call.wrong(format!("input image is {}, wanted [H,W,C]", image.shape())));
    };
    let pixels = image.to_f32().iter().map(|p| *p as u8).collect();
    let pixels = Preprocess::read(&settings)?.apply(&Picture { width, height, channels, pixels })?;
    Ok([("pixel_values".to_string(), recorded_layout(&pixels)?)].into())
}

/// An input `[B,L]` as rows.
fn table<T>(call: &Call<'_>, name: &str, of: impl Fn(f32) -> T) -> Result<Vec<Vec<T>>> {
    let input = call.input(name)?;
    let &[_, tokens] = input.shape().dims() else {
        return Err(call.wrong(format!("input {name} is {}, wanted [B,L]", input.shape())));
    };
    Ok(input.to_f32().chunks(tokens.max(1)).map(|row| row.iter().map(|v| of(*v)).collect()).collect())
}
