//! The small model that travels with the engine, so that a person can be animated with nothing to fetch: Champ's networks, narrow,
//! trained on the synthetic world of `muybridge-synth` by the scripts in `training/`. `models/weights/README.md` is its card.

use std::collections::BTreeMap;

use muybridge_loaders::{Config, Weights};

use crate::error::Result;
use crate::pipelines::Components;

/// Width and height that it was trained for, in pixels.
pub const SIDE: usize = 128;
/// Frames that it was trained to make together.
pub const FRAMES: usize = 16;
/// Few: more make pictures crisper, and no truer.
pub const STEPS: usize = 4;
/// Guidance that it does best with: none.
pub const GUIDANCE: f32 = 1.0;
/// What the name of a ControlNet's folder is taken for: the built-in one, which follows depth.
pub const CONTROL: &str = "bundled";

/// A file's bytes where tensors may lie in the program.
#[repr(C, align(64))]
struct Aligned<B: ?Sized>(B);

/// A component's name, its configuration and its weights.
type Part = (&'static str, &'static [u8], &'static Aligned<[u8]>);

macro_rules! part {
    ($name:literal, $file:literal) => {{
        const CONFIG: &[u8] = include_bytes!(concat!("weights/", $name, "/config.json"));
        static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!("weights/", $name, "/", $file)));
        ($name, CONFIG, WEIGHTS)
    }};
}

fn read((name, config, weights): Part) -> Result<(String, (Config, Weights))> {
    let label = format!("bundled {name}");
    Ok((name.into(), (Config::parse(config, &label)?, Weights::embedded(&label, &weights.0)?)))
}

/// The networks that animate.
///
/// # Errors
/// None that a build could have: the files are in the program.
pub fn components() -> Result<Components> {
    let parts: [Part; 7] = [
        part!("denoising_unet", "diffusion_pytorch_model.safetensors"),
        part!("reference_unet", "diffusion_pytorch_model.safetensors"),
        part!("vae", "diffusion_pytorch_model.safetensors"),
        part!("guidance_encoder_normal", "diffusion_pytorch_model.safetensors"),
        part!("guidance_encoder_dwpose", "diffusion_pytorch_model.safetensors"),
        part!("guidance_encoder_reference", "diffusion_pytorch_model.safetensors"),
        part!("image_encoder", "model.safetensors"),
    ];
    let parts = parts.into_iter().map(read).collect::<Result<BTreeMap<_, _>>>()?;
    let scheduler = include_bytes!("weights/scheduler/scheduler_config.json");
    Components::of(parts, Some(Config::parse(scheduler, "bundled scheduler")?))
}

/// The ControlNet beside them, which follows depth.
///
/// # Errors
/// As [`components`].
pub fn control_net() -> Result<(Config, Weights)> {
    Ok(read(part!("controlnet", "diffusion_pytorch_model.safetensors"))?.1)
}
