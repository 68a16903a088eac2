//! Text encoders: CLIP's under transformers' own names, and OpenCLIP's, which keeps queries, keys and values together.

use muybridge_loaders::Cut;
use serde_json::{Value, json};

use super::Part;
use super::names::{Names, Rule};
use crate::error::Result;

const LAYER: &[Rule] = &[
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("attn.out_proj", "self_attn.out_proj"),
];

/// The part of a configuration that every text encoder has. A head has 64 channels.
fn config(class: &str, act: &str, [vocabulary, positions, width, inside, layers, projection]: [usize; 6]) -> Value {
    json!({
        "architectures": [class],
        "model_type": "clip_text_model",
        "hidden_act": act,
        "hidden_size": width,
        "intermediate_size": inside,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": positions,
        "num_attention_heads": (width / 64).max(1),
        "num_hidden_layers": layers,
        "projection_dim": projection,
        "vocab_size": vocabulary,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    })
}

/// OpenAI's CLIP.
pub(super) fn clip(names: &Names<'_>) -> Result<Part> {
    let mut rename = names.rename();
    let kept = names.all().filter(|name| !name.ends_with("position_ids")).collect::<Vec<_>>();
    kept.iter().for_each(|name| rename.piece(name, name.to_string(), Cut::Whole));
    let (pieces, left_out) = rename.finish(|_| true)?;
    let token = "text_model.embeddings.token_embedding.weight";
    let config = config(
        "CLIPTextModel",
        "quick_gelu",
        [
            names.extent(token, 0)?,
            names.extent("text_model.embeddings.position_embedding.weight", 0)?,
            names.extent(token, 1)?,
            names.extent("text_model.encoder.layers.0.mlp.fc1.weight", 0)?,
            names.count("text_model.encoder.layers"),
            names.extent(token, 1)?,
        ],
    );
    Ok(Part { folder: "text_encoder", stem: "model", pieces, config, left_out })
}

/// OpenCLIP as Stable Diffusion 2 uses it: without its last layer and without the projection.
pub(super) fn penultimate(names: &Names<'_>) -> Result<Part> {
    let layers = names.count("transformer.resblocks").saturating_sub(1);
    let mut part = resblocks(names, layers)?;
    part.pieces.retain(|piece| piece.cut != Cut::Transposed);
    part.left_out.extend(names.all().filter(|name| *name == "text_projection").map(String::from));
    part.config["architectures"] = json!(["CLIPTextModel"]);
    Ok(Part { folder: "text_encoder", ..part })
}

/// OpenCLIP as SDXL uses it: with the projection.
pub(super) fn open_clip(names: &Names<'_>) -> Result<Part> {
    resblocks(names, names.count("transformer.resblocks"))
}

fn resblocks(names: &Names<'_>, layers: usize) -> Result<Part> {
    let mut rename = names.rename();
    rename.block("token_embedding", "text_model.embeddings.token_embedding", &[]);
    rename.block("ln_final", "text_model.final_layer_norm", &[]);
    rename.piece("positional_embedding", "text_model.embeddings.position_embedding.weight".into(), Cut::Whole);
    rename.piece("text_projection", "text_projection.weight".into(), Cut::Transposed);
    for i in 0..layers {
        let (from, to) = (format!("transformer.resblocks.{i}"), format!("text_model.encoder.layers.{i}"));
        for (index, part) in ["q", "k", "v"].into_iter().enumerate() {
            for end in ["weight", "bias"] {
                let source = format!("{from}.attn.in_proj_{end}");
                let cut = Cut::Part { index, of: 3 };
                rename.piece(&source, format!("{to}.self_attn.{part}_proj.{end}"), cut);
            }
        }
        for (old, new) in LAYER {
            rename.block(&format!("{from}.{old}"), &format!("{to}.{new}"), &[]);
        }
    }
    let last = format!("transformer.resblocks.{layers}.");
    let (pieces, left_out) =
        rename.finish(|name| name == "logit_scale" || name == "attn_mask" || name.starts_with(&last))?;
    let width = names.extent("token_embedding.weight", 1)?;
    let config = config(
        "CLIPTextModelWithProjection",
        "gelu",
        [
            names.extent("token_embedding.weight", 0)?,
            names.extent("positional_embedding", 0)?,
            width,
            names.extent("transformer.resblocks.0.mlp.c_fc.weight", 0)?,
            layers,
            names.extent("text_projection", 1).unwrap_or(width),
        ],
    );
    Ok(Part { folder: "text_encoder_2", stem: "model", pieces, config, left_out })
}
