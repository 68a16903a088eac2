//! The autoencoder: levels that LDM counts from the picture inwards on both sides, and diffusers in the order of the work.

use muybridge_loaders::Cut;
use serde_json::json;

use super::Part;
use super::names::{Names, Rename, Rule};
use crate::error::Result;

const RESNET: &[Rule] = &[("nin_shortcut", "conv_shortcut")];
const ATTENTION: &[Rule] =
    &[("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];

/// The part of one side that both have: the first and the last convolution and the middle.
fn side(rename: &mut Rename<'_>, names: &Names<'_>, side: &str) {
    rename.block(&format!("{side}.conv_in"), &format!("{side}.conv_in"), &[]);
    rename.block(&format!("{side}.norm_out"), &format!("{side}.conv_norm_out"), &[]);
    rename.block(&format!("{side}.conv_out"), &format!("{side}.conv_out"), &[]);
    for (old, new) in [("block_1", 0), ("block_2", 1)] {
        rename.block(&format!("{side}.mid.{old}"), &format!("{side}.mid_block.resnets.{new}"), RESNET);
    }
    for (old, new) in ATTENTION {
        for end in ["weight", "bias"] {
            let from = format!("{side}.mid.attn_1.{old}.{end}");
            // Its matrices are stored as convolutions of one point.
            if names.has(&from) {
                rename.piece(&from, format!("{side}.mid_block.attentions.0.{new}.{end}"), Cut::Squeezed);
            }
        }
    }
}

/// The autoencoder.
pub(super) fn vae(names: &Names<'_>) -> Result<Part> {
    let mut rename = names.rename();
    let levels = names.count("encoder.down");
    side(&mut rename, names, "encoder");
    side(&mut rename, names, "decoder");
    rename.block("quant_conv", "quant_conv", &[]);
    rename.block("post_quant_conv", "post_quant_conv", &[]);
    let (mut channels, mut resnets) = (Vec::new(), 0);
    for i in 0..levels {
        let (down, up) = (format!("encoder.down.{i}"), format!("decoder.up.{}", levels - 1 - i));
        let (new_down, new_up) = (format!("encoder.down_blocks.{i}"), format!("decoder.up_blocks.{i}"));
        resnets = names.count(&format!("{down}.block"));
        channels.push(names.extent(&format!("{down}.block.0.conv1.weight"), 0)?);
        for j in 0..resnets {
            rename.block(&format!("{down}.block.{j}"), &format!("{new_down}.resnets.{j}"), RESNET);
        }
        for j in 0..names.count(&format!("{up}.block")) {
            rename.block(&format!("{up}.block.{j}"), &format!("{new_up}.resnets.{j}"), RESNET);
        }
        rename.block(&format!("{down}.downsample.conv"), &format!("{new_down}.downsamplers.0.conv"), &[]);
        rename.block(&format!("{up}.upsample.conv"), &format!("{new_up}.upsamplers.0.conv"), &[]);
    }
    // What only its training needs.
    let (pieces, left_out) = rename.finish(|name| {
        let others = ["loss.", "model_ema.", "model.", "cond_stage_model.", "conditioner.", "alphas", "betas", "sqrt_"];
        others.iter().any(|other| name.starts_with(other))
    })?;
    let config = json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "in_channels": names.extent("encoder.conv_in.weight", 1)?,
        "out_channels": names.extent("decoder.conv_out.weight", 0)?,
        "latent_channels": names.extent("decoder.conv_in.weight", 1)?,
        "layers_per_block": resnets,
        "norm_num_groups": 32,
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "force_upcast": false,
    });
    Ok(Part { folder: "vae", stem: "diffusion_pytorch_model", pieces, config, left_out })
}
