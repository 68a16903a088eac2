//! ReferenceNet: a UNet over a reference picture, of which only the tokens that enter its self-attentions are wanted.
//!
//! Hu et al., "Animate Anyone" (2023). A denoising network of the same layout sees them behind its own tokens, by path.

use std::path::Path;

use muybridge_loaders::{Config, LoadReport, Weights};
use muybridge_runtime::{Device, Pins, PlanOptions};

use crate::backbone::{Backbone, FusionBlocks, block_of};
use crate::config::UnetConfig;
use crate::error::{Error, Result};
use crate::stages::{Operands, Stages, StepPlan, UnetShape};
use crate::unet::unread;

/// The network: a reference's latents and a context to features for every transformer block.
#[derive(Debug)]
pub struct ReferenceNet {
    backbone: Backbone,
    report: LoadReport,
    unread: Vec<String>,
    device: Device,
}

impl ReferenceNet {
    /// Opens a directory with `config.json` and `*.safetensors`. Weights go to the device when the first plan is made.
    ///
    /// # Errors
    /// A file cannot be read, a field is not supported, a tensor is missing, left over, or has another shape.
    pub fn open(dir: impl AsRef<Path>, device: &Device) -> Result<ReferenceNet> {
        let dir = dir.as_ref();
        ReferenceNet::of(&Config::open(dir)?, Weights::open(dir)?.strip_wrappers()?, device)
    }

    /// The network of a `UNet2DConditionModel`'s configuration over a checkpoint, which may lack the last norm and the last
    /// convolution: nothing reads them.
    ///
    /// # Errors
    /// As [`ReferenceNet::open`].
    pub fn of(config: &Config, w: Weights, device: &Device) -> Result<ReferenceNet> {
        let backbone = Backbone::open(&w, UnetConfig::read(config)?)?;
        w.ignore("conv_norm_out");
        w.ignore("conv_out");
        Ok(ReferenceNet {
            backbone,
            report: w.finish()?,
            unread: unread(config, "ReferenceNet"),
            device: device.clone(),
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &UnetConfig {
        &self.backbone.config
    }

    /// What became of the checkpoint's tensors.
    pub fn load_report(&self) -> &LoadReport {
        &self.report
    }

    /// Fields of the configuration that the engine does not know; they had no effect.
    pub fn unread_fields(&self) -> &[String] {
        &self.unread
    }

    /// Paths of the transformer blocks that give features, in the order of the results.
    pub fn blocks(&self, blocks: FusionBlocks) -> impl Iterator<Item = &str> {
        self.backbone.self_attentions(blocks).map(|(_, attention)| block_of(attention))
    }

    /// Binds the network to its device. Operands are those of a UNet: `sample [B,h,w,C]`, `timestep [B]` (0 in published
    /// pipelines) and the clip's `encoder_hidden_states`; results are the normed tokens `[B,h',w',C']` of the blocks, by
    /// their paths. Nothing is computed that no result needs.
    ///
    /// # Errors
    /// A shape that does not fit the network, and the errors of making a plan.
    pub fn plan(&self, shape: UnetShape, blocks: FusionBlocks) -> Result<StepPlan> {
        let c = self.config();
        let mut s = Stages::new();
        let context = c.encoder_hid_dim.unwrap_or(c.trunk.context);
        let o = Operands::declare(&mut s, &shape, &c.trunk, context)?;
        self.backbone.build(&mut s, &o, None)?;
        for path in self.blocks(blocks) {
            let name = format!("{path}.norm1");
            let node = s.step.nodes().iter().find(|n| n.path == name).map(|n| n.output);
            let missing = || Error::call("ReferenceNet", format!("{name} is not part of the graph"));
            let features = node.ok_or_else(missing)?;
            s.step.output(path, features);
        }
        s.step = s.step.pruned();
        StepPlan::with(&s, &self.device, &PlanOptions { pins: Pins::from_env()?, guard: 0 })
    }
}
