//! UNet and ControlNet: blocks that LDM numbers one after another, and diffusers by level and place.

use muybridge_loaders::Cut;
use serde_json::{Value, json};

use super::Part;
use super::names::{Names, Rename, Rule};
use crate::error::Result;

const RESNET: &[Rule] = &[
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];
const EMBEDDING: &[Rule] = &[("0", "linear_1"), ("2", "linear_2")];

/// One level of resolution.
struct Level {
    channels: usize,
    resnets: usize,
    /// Layers of its transformers; 0 where it has none.
    depth: usize,
}

/// What the encoder's blocks tell.
struct Form {
    levels: Vec<Level>,
    mid_depth: usize,
    /// Channels of the context.
    context: Option<usize>,
    /// Transformers begin and end with matrices, not convolutions.
    linear: bool,
}

/// The encoder and the middle, which both networks have.
fn encoder(names: &Names<'_>, rename: &mut Rename<'_>) -> Result<Form> {
    let first = names.extent("input_blocks.0.0.weight", 0)?;
    let mut form = Form { levels: Vec::new(), mid_depth: 0, context: None, linear: false };
    let mut level = Level { channels: first, resnets: 0, depth: 0 };
    rename.block("input_blocks.0.0", "conv_in", &[]);
    rename.block("time_embed", "time_embedding", EMBEDDING);
    for i in 1..names.count("input_blocks") {
        let (from, to) = (format!("input_blocks.{i}"), format!("down_blocks.{}", form.levels.len()));
        if names.has_below(&format!("{from}.0.op")) {
            rename.block(&format!("{from}.0.op"), &format!("{to}.downsamplers.0.conv"), &[]);
            form.levels.push(std::mem::replace(&mut level, Level { channels: 0, resnets: 0, depth: 0 }));
            continue;
        }
        level.channels = names.extent(&format!("{from}.0.out_layers.3.weight"), 0)?;
        rename.block(&format!("{from}.0"), &format!("{to}.resnets.{}", level.resnets), RESNET);
        if names.has_below(&format!("{from}.1")) {
            level.depth = transformer(names, &format!("{from}.1"), &mut form)?;
            rename.block(&format!("{from}.1"), &format!("{to}.attentions.{}", level.resnets), &[]);
        }
        level.resnets += 1;
    }
    form.levels.push(level);
    rename.block("middle_block.0", "mid_block.resnets.0", RESNET);
    form.mid_depth = transformer(names, "middle_block.1", &mut form)?;
    rename.block("middle_block.1", "mid_block.attentions.0", &[]);
    rename.block("middle_block.2", "mid_block.resnets.1", RESNET);
    Ok(form)
}

/// The layers of a transformer, whose form is noted.
fn transformer(names: &Names<'_>, at: &str, form: &mut Form) -> Result<usize> {
    let key = format!("{at}.transformer_blocks.0.attn2.to_k.weight");
    form.context = Some(names.extent(&key, 1)?);
    form.linear = names.shape(&format!("{at}.proj_in.weight"))?.len() == 2;
    Ok(names.count(&format!("{at}.transformer_blocks")))
}

/// What both configurations say.
fn config(names: &Names<'_>, form: &Form, class: &str) -> Result<Value> {
    let Form { levels, mid_depth, context, linear } = form;
    let kinds = |cross: &str, plain: &str| {
        levels.iter().map(|l| if l.depth > 0 { cross } else { plain }.to_string()).collect::<Vec<String>>()
    };
    let channels: Vec<usize> = levels.iter().map(|l| l.channels).collect();
    // Stability AI's networks have heads of 64 channels, CompVis' have eight heads.
    let heads = if *linear { json!(channels.iter().map(|c| (c / 64).max(1)).collect::<Vec<_>>()) } else { json!(8) };
    let mut config = json!({
        "_class_name": class,
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": channels,
        "cross_attention_dim": context,
        "down_block_types": kinds("CrossAttnDownBlock2D", "DownBlock2D"),
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": names.extent("input_blocks.0.0.weight", 1)?,
        "layers_per_block": levels[0].resnets,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "use_linear_projection": linear,
    });
    // The middle's transformer is as deep as the last level says.
    let mut depths: Vec<usize> = levels.iter().map(|l| l.depth.max(1)).collect();
    if let Some(last) = levels.last() {
        if last.depth > 0 && last.depth != *mid_depth {
            let reason = format!("has {mid_depth} layers in its transformer, the last level has {}", last.depth);
            return Err(names.wrong("middle_block.1", &reason));
        }
        depths[levels.len() - 1] = *mid_depth;
    }
    if depths.iter().any(|depth| *depth != 1) {
        config["transformer_layers_per_block"] = json!(depths);
    }
    if levels.iter().any(|l| l.resnets != levels[0].resnets) {
        return Err(names.wrong("input_blocks", "have levels with different numbers of resnets"));
    }
    if let Ok(width) = names.extent("label_emb.0.0.weight", 1) {
        if *context == Some(1024) {
            config["class_embed_type"] = json!("projection");
        } else {
            config["addition_embed_type"] = json!("text_time");
            config["addition_time_embed_dim"] = json!(256);
        }
        config["projection_class_embeddings_input_dim"] = json!(width);
    }
    if let Ok(classes) = names.extent("label_emb.weight", 0) {
        config["num_class_embeds"] = json!(classes);
    }
    Ok(config)
}

fn labels(rename: &mut Rename<'_>, config: &Value) {
    let added = config.get("addition_embed_type").is_some();
    rename.block("label_emb.0", if added { "add_embedding" } else { "class_embedding" }, EMBEDDING);
    rename.piece("label_emb.weight", "class_embedding.weight".into(), Cut::Whole);
}

/// Other networks and the trainer's tables lie beside a network that has no prefix.
fn foreign(name: &str) -> bool {
    let others = ["first_stage_model.", "cond_stage_model.", "conditioner.", "model_ema.", "alphas", "betas", "sqrt_"];
    others.iter().any(|other| name.starts_with(other))
}

/// The UNet.
pub(super) fn unet(names: &Names<'_>) -> Result<Part> {
    let mut rename = names.rename();
    let form = encoder(names, &mut rename)?;
    let mut config = config(names, &form, "UNet2DConditionModel")?;
    labels(&mut rename, &config);
    let resnets = form.levels[0].resnets + 1;
    for i in 0..names.count("output_blocks") {
        let (from, to) = (format!("output_blocks.{i}"), format!("up_blocks.{}", i / resnets));
        rename.block(&format!("{from}.0"), &format!("{to}.resnets.{}", i % resnets), RESNET);
        for place in 1..=2 {
            if names.has_below(&format!("{from}.{place}.conv")) {
                rename.block(&format!("{from}.{place}.conv"), &format!("{to}.upsamplers.0.conv"), &[]);
            } else {
                rename.block(&format!("{from}.{place}"), &format!("{to}.attentions.{}", i % resnets), &[]);
            }
        }
    }
    rename.block("out.0", "conv_norm_out", &[]);
    rename.block("out.2", "conv_out", &[]);
    let (pieces, left_out) = rename.finish(foreign)?;
    config["out_channels"] = json!(names.extent("out.2.weight", 0)?);
    config["center_input_sample"] = json!(false);
    let up = form.levels.iter().rev().map(|l| if l.depth > 0 { "CrossAttnUpBlock2D" } else { "UpBlock2D" });
    config["up_block_types"] = json!(up.collect::<Vec<_>>());
    // Which networks overflow halves in their scores, Stability AI's own configurations say; these have matrices.
    config["upcast_attention"] = json!(form.linear && form.context == Some(1024));
    config["sample_size"] = json!(match form.context {
        Some(2048 | 1280) => 128,
        Some(1024) => 96,
        _ => 64,
    });
    Ok(Part { folder: "unet", stem: "diffusion_pytorch_model", pieces, config, left_out })
}

/// The ControlNet.
pub(super) fn controlnet(names: &Names<'_>) -> Result<Part> {
    let mut rename = names.rename();
    let form = encoder(names, &mut rename)?;
    let mut config = config(names, &form, "ControlNetModel")?;
    labels(&mut rename, &config);
    for i in 0..names.count("zero_convs") {
        rename.block(&format!("zero_convs.{i}.0"), &format!("controlnet_down_blocks.{i}"), &[]);
    }
    rename.block("middle_block_out.0", "controlnet_mid_block", &[]);
    // Convolutions stand at even places, with an activation after each but the last.
    let hints = (0..).step_by(2).take_while(|i| names.has_below(&format!("input_hint_block.{i}"))).count();
    let mut widths = vec![names.extent("input_hint_block.0.weight", 0)?];
    for i in 0..hints {
        let from = format!("input_hint_block.{}", 2 * i);
        let to = match i {
            0 => "conv_in".to_string(),
            _ if i + 1 == hints => "conv_out".to_string(),
            _ => format!("blocks.{}", i - 1),
        };
        if i > 0 && i + 1 < hints && i % 2 == 0 {
            widths.push(names.extent(&format!("{from}.weight"), 0)?);
        }
        rename.block(&from, &format!("controlnet_cond_embedding.{to}"), &[]);
    }
    let (pieces, left_out) = rename.finish(foreign)?;
    config["conditioning_channels"] = json!(names.extent("input_hint_block.0.weight", 1)?);
    config["conditioning_embedding_out_channels"] = json!(widths);
    config["controlnet_conditioning_channel_order"] = json!("rgb");
    config["global_pool_conditions"] = json!(false);
    Ok(Part { folder: "controlnet", stem: "diffusion_pytorch_model", pieces, config, left_out })
}
