//! Checkpoints of one file in the names of CompVis and Stability AI ("LDM"), taken apart into the folders that diffusers and
//! this crate open: `unet/`, `vae/`, `text_encoder/`, …, each with its tensors under their other names and a `config.json`.
//!
//! Nothing is guessed from a file's name: which networks are inside, and of what form, the tensors tell.

mod names;
mod text;
mod unet;
mod vae;

use muybridge_loaders::{Piece, Weights};
use serde_json::{Value, json};

use self::names::Names;
use crate::error::Result;

/// A network that a checkpoint holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The folder that it belongs to: `unet`.
    pub folder: &'static str,
    /// The name of its file of tensors, without the ending.
    pub stem: &'static str,
    /// Its tensors, and what they are made of.
    pub pieces: Vec<Piece>,
    /// Its `config.json`.
    pub config: Value,
    /// Names of the checkpoint that belong to it and that no network reads.
    pub left_out: Vec<String>,
}

/// A network whose names begin with a prefix.
type Read = fn(&Names<'_>) -> Result<Part>;

/// Where networks are to be found: a prefix, a name below it that tells, and who reads it. The first of a folder counts.
const PLACES: &[(&str, &str, Read)] = &[
    ("model.diffusion_model.", "input_blocks.0.0.weight", unet::unet),
    ("control_model.", "input_hint_block.0.weight", unet::controlnet),
    ("", "input_hint_block.0.weight", unet::controlnet),
    ("", "input_blocks.0.0.weight", unet::unet),
    ("first_stage_model.", "encoder.down.0.block.0.norm1.weight", vae::vae),
    ("vae.", "encoder.down.0.block.0.norm1.weight", vae::vae),
    ("", "encoder.down.0.block.0.norm1.weight", vae::vae),
    ("cond_stage_model.transformer.", "text_model.final_layer_norm.weight", text::clip),
    ("cond_stage_model.model.", "transformer.resblocks.0.ln_1.weight", text::penultimate),
    ("conditioner.embedders.0.transformer.", "text_model.final_layer_norm.weight", text::clip),
    ("conditioner.embedders.1.model.", "transformer.resblocks.0.ln_1.weight", text::open_clip),
    ("conditioner.embedders.0.model.", "transformer.resblocks.0.ln_1.weight", text::open_clip),
];

/// The networks of a checkpoint, if its names are LDM's: none where they are not.
///
/// # Errors
/// The names are LDM's, but some of a network have no place in it or are missing.
pub fn parts(weights: &Weights) -> Result<Vec<Part>> {
    let census = weights.census();
    let mut parts: Vec<Part> = Vec::new();
    for (prefix, tells, read) in PLACES {
        let names = Names::below(&census, prefix, weights.label());
        if names.has(tells) {
            let part = read(&names)?;
            if parts.iter().all(|other| other.folder != part.folder) {
                parts.push(part);
            }
        }
    }
    // SDXL is known by its second text encoder; its autoencoder has a scale of its own, and overflows halves.
    if parts.iter().any(|part| part.folder == "text_encoder_2") {
        for part in parts.iter_mut().filter(|part| part.folder == "vae") {
            part.config["scaling_factor"] = json!(0.13025);
            part.config["force_upcast"] = json!(true);
            part.config["sample_size"] = json!(1024);
        }
    }
    Ok(parts)
}
