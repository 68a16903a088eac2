//! Configurations of published networks, for planning and timing without their files.

use muybridge_loaders::Config;

use crate::error::{Error, Result};

/// A published network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// The name to ask for it by.
    pub name: &'static str,
    /// Its class in diffusers.
    pub class: &'static str,
    /// Its `config.json`.
    pub json: &'static str,
}

/// All of them.
pub const PRESETS: &[Preset] = &[
    Preset { name: "sd15-unet", class: "UNet2DConditionModel", json: include_str!("configs/sd15-unet.json") },
    Preset { name: "sd21-unet", class: "UNet2DConditionModel", json: include_str!("configs/sd21-unet.json") },
    Preset { name: "sdxl-unet", class: "UNet2DConditionModel", json: include_str!("configs/sdxl-unet.json") },
    Preset { name: "sd15-controlnet", class: "ControlNetModel", json: include_str!("configs/sd15-controlnet.json") },
    Preset {
        name: "animateanyone-unet3d",
        class: "UNet3DConditionModel",
        json: include_str!("configs/animateanyone-unet3d.json"),
    },
    Preset {
        name: "animateanyone-reference",
        class: "ReferenceUNet2DConditionModel",
        json: include_str!("configs/animateanyone-reference.json"),
    },
    Preset { name: "sd-vae", class: "AutoencoderKL", json: include_str!("configs/sd-vae.json") },
];

impl Preset {
    /// A preset by name.
    ///
    /// # Errors
    /// No preset has this name.
    pub fn find(name: &str) -> Result<&'static Preset> {
        let known = || PRESETS.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
        let found = PRESETS.iter().find(|p| p.name == name);
        found.ok_or_else(|| Error::call("preset", format!("no preset {name:?}; known: {}", known())))
    }

    /// Its configuration.
    ///
    /// # Errors
    /// None: the files are part of the engine, and read in its tests.
    pub fn config(&self) -> Result<Config> {
        Ok(Config::parse(self.json.as_bytes(), self.name)?)
    }
}
