//! Cases of kind `vae`.

use std::collections::BTreeMap;

use muybridge_runtime::HostTensor;

use super::{Call, recorded_layout};
use crate::error::Result;
use crate::tiling::Tiling;
use crate::vae::{Vae, VaeShape};

pub(super) fn run(call: &Call<'_>) -> Result<BTreeMap<String, HostTensor>> {
    let (config, weights) = call.component("")?;
    let vae = Vae::of(&config, weights, call.device)?;
    match call.record.op.as_str() {
        "encode" | "encode_sample" => encode(call, &vae),
        "decode" | "decode_scaled" => decode(call, &vae),
        "decode_tiled" => tiled(call, &vae),
        _ => Err(call.unknown_op()),
    }
}

/// An op of this repository's own cases: latents as they are, in tiles of `args.tile` latents.
fn tiled(call: &Call<'_>, vae: &Vae) -> Result<BTreeMap<String, HostTensor>> {
    let tiling = Tiling::of(call.number("tile")? as usize);
    let pixels = vae.decode_tiled(&call.map("latents")?, tiling, call.dtype)?;
    Ok([("pixels".to_string(), recorded_layout(&pixels)?)].into())
}

fn encode(call: &Call<'_>, vae: &Vae) -> Result<BTreeMap<String, HostTensor>> {
    let [batch, _, height, width] = call.map_extents("pixels")?;
    let plan = vae.encoder(VaeShape { batch, height, width, dtype: call.dtype })?;
    let results = plan.run_host(&[&call.map("pixels")?])?;
    let [mean, logvar] = &results[..] else { return Err(call.wrong("the encoder has other results")) };
    if call.record.op == "encode" {
        let named = [("mean", mean), ("logvar", logvar)];
        return named.into_iter().map(|(name, t)| Ok((name.to_string(), recorded_layout(t)?))).collect();
    }
    let sample = vae.config().sample(mean, logvar, &call.map("noise")?)?;
    Ok([("latents".to_string(), recorded_layout(&vae.config().scale(&sample))?)].into())
}

fn decode(call: &Call<'_>, vae: &Vae) -> Result<BTreeMap<String, HostTensor>> {
    let [batch, _, height, width] = call.map_extents("latents")?;
    let plan = vae.decoder(VaeShape { batch, height, width, dtype: call.dtype })?;
    let latents = call.input("latents")?.nchw_to_nhwc()?;
    let latents = if call.record.op == "decode_scaled" { vae.config().unscale(&latents) } else { latents };
    let results = plan.run_host(&[&latents.convert(call.dtype)])?;
    let [pixels] = &results[..] else { return Err(call.wrong("the decoder has other results")) };
    Ok([("pixels".to_string(), recorded_layout(pixels)?)].into())
}
