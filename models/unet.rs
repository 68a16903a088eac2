//! UNet2DConditionModel: the denoising network of Stable Diffusion 1.x, 2.x and XL; and its inflations to clips,
//! AnimateAnyone's UNet3DConditionModel and diffusers' UNetMotionModel.
//!
//! Rombach et al., "High-resolution image synthesis with latent diffusion models" (2022).

use std::path::Path;

use muybridge_loaders::{Config, LoadReport, Weights};
use muybridge_runtime::{Device, Pins, PlanOptions, Value};

use crate::backbone::{Backbone, FusionBlocks, add_residual, add_residuals};
use crate::config::UnetConfig;
use crate::controlnet::ControlNet;
use crate::error::{Error, Result};
use crate::layers::{Conv2d, GroupNorm};
use crate::stages::{Operands, Stages, StepPlan, UnetShape};
use crate::transformer::SelfAttention;

/// What ControlNets add to a UNet.
#[derive(Clone, Debug, Default)]
pub struct Residuals {
    /// One for each skip, in the order of the launches: `[B,h,w,C]`, or `[B,1,1,C]` for all positions.
    pub down: Vec<Value>,
    /// For the middle.
    pub mid: Option<Value>,
}

/// The denoising network: latents, times and a context to a prediction.
#[derive(Debug)]
pub struct Unet {
    backbone: Backbone,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    report: LoadReport,
    unread: Vec<String>,
    device: Device,
}

impl Unet {
    /// Opens a directory with `config.json` and `*.safetensors`. Weights go to the device when the first plan is made.
    ///
    /// # Errors
    /// A file cannot be read, a field is not supported, a tensor is missing, left over, or has another shape.
    pub fn open(dir: impl AsRef<Path>, device: &Device) -> Result<Unet> {
        let dir = dir.as_ref();
        Unet::of(&Config::open(dir)?, Weights::open(dir)?.strip_wrappers()?, device)
    }

    /// The network of a configuration over a checkpoint.
    ///
    /// # Errors
    /// As [`Unet::open`].
    pub fn of(config: &Config, w: Weights, device: &Device) -> Result<Unet> {
        Unet::over(config, UnetConfig::read_any(config)?, &w, device)
    }

    /// As [`Unet::of`], without the motion modules that configuration and checkpoint have: frames do not see each other.
    ///
    /// # Errors
    /// As [`Unet::open`].
    pub fn still(config: &Config, w: Weights, device: &Device) -> Result<Unet> {
        let mut c = UnetConfig::read_any(config)?;
        c.trunk.levels.iter_mut().chain(&mut c.up).for_each(|level| level.motion.clear());
        c.trunk.mid.iter_mut().for_each(|mid| mid.motion.clear());
        let names = w.census().into_iter().map(|entry| entry.name);
        names.filter(|name| name.split('.').any(|part| part == "motion_modules")).for_each(|name| w.ignore(name));
        Unet::over(config, c, &w, device)
    }

    /// A UNet for pictures joined with motion modules, as `UNetMotionModel.from_unet2d` joins them.
    ///
    /// # Errors
    /// As [`Unet::open`]; modules for other blocks.
    pub fn with_motion(
        (config, w): (&Config, Weights),
        (adapter, modules): (&Config, &Weights),
        device: &Device,
    ) -> Result<Unet> {
        let w = w.and(modules)?;
        // Tensors of what `UNetMotionModel` does not take over.
        w.ignore("class_embedding");
        let unet = Unet::over(config, UnetConfig::read_motion(config, Some(adapter))?, &w, device)?;
        Ok(Unet { unread: [unet.unread, unread(adapter, "MotionAdapter")].concat(), ..unet })
    }

    fn over(config: &Config, c: UnetConfig, w: &Weights, device: &Device) -> Result<Unet> {
        let finest = c.trunk.levels.first().map_or(0, |l| l.channels);
        let (groups, eps) = (c.trunk.resnet.groups, c.trunk.resnet.eps);
        let (out_channels, kernel) = (c.out_channels, c.conv_out_kernel);
        Ok(Unet {
            backbone: Backbone::open(w, c)?,
            conv_norm_out: GroupNorm::open(&w.at("conv_norm_out"), finest, groups, eps)?,
            conv_out: Conv2d::open(&w.at("conv_out"), finest, out_channels, kernel)?,
            report: w.finish()?,
            unread: unread(config, "UNet2DConditionModel"),
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

    /// Number of its motion modules.
    pub fn motion_modules(&self) -> usize {
        let c = self.config();
        let levels = c.trunk.levels.iter().chain(&c.up).map(|l| l.motion.len());
        levels.sum::<usize>() + c.trunk.mid.as_ref().map_or(0, |m| m.motion.len())
    }

    /// Its self-attentions in the given blocks, in the order of the launches, each with the number of halvings before it.
    pub fn self_attentions(&self, blocks: FusionBlocks) -> impl Iterator<Item = (usize, &SelfAttention)> {
        self.backbone.self_attentions(blocks)
    }

    /// Binds the network to its device, with the pins of `MUYBRIDGE_PIN`.
    ///
    /// # Errors
    /// A shape that does not fit the network, and the errors of making a plan.
    pub fn plan(&self, shape: UnetShape) -> Result<StepPlan> {
        self.plan_with(shape, &[], &PlanOptions { pins: Pins::from_env()?, guard: 0 })
    }

    /// Binds the network together with ControlNets: their residuals never leave the plan. Each of them adds the operands
    /// `scales.i [n + 1]` (f32, of each step; see [`ControlNet::scales`]) and `cond.i [B,H,W,C]` (of the clip).
    ///
    /// # Errors
    /// As [`Unet::plan`]; networks that do not fit each other.
    pub fn plan_with(&self, shape: UnetShape, controls: &[&ControlNet], options: &PlanOptions) -> Result<StepPlan> {
        self.plan_on(shape, controls, options, &self.device)
    }

    /// As [`Unet::plan_with`], on another device: on a [`Device::trace`] it tells what a plan would need.
    ///
    /// # Errors
    /// As [`Unet::plan_with`].
    pub fn plan_on(
        &self,
        shape: UnetShape,
        controls: &[&ControlNet],
        options: &PlanOptions,
        device: &Device,
    ) -> Result<StepPlan> {
        StepPlan::with(&self.stages(shape, controls)?, device, options)
    }

    /// As [`Unet::plan_with`], in the arena of a plan for another shape: the two take turns, as halves of guidance do.
    ///
    /// # Errors
    /// As [`Unet::plan_with`].
    pub fn plan_beside(&self, shape: UnetShape, controls: &[&ControlNet], other: &StepPlan) -> Result<StepPlan> {
        StepPlan::beside(&self.stages(shape, controls)?, other, &PlanOptions { pins: Pins::from_env()?, guard: 0 })
    }

    fn stages(&self, shape: UnetShape, controls: &[&ControlNet]) -> Result<Stages> {
        let mut s = Stages::new();
        let c = self.config();
        let o = Operands::declare(&mut s, &shape, &c.trunk, c.encoder_hid_dim.unwrap_or(c.trunk.context))?;
        let residuals = match (shape.residuals, controls) {
            (false, []) => None,
            (true, []) => Some(self.backbone.declare_residuals(&mut s.step, &shape)),
            (false, _) if shape.shared => {
                let reason = "ControlNets need latents of their own for every clip, not shared ones";
                return Err(Error::call("UNet2DConditionModel", reason));
            }
            (false, _) => Some(control_residuals(&mut s, &o, controls)?),
            (true, _) => {
                let reason = "residuals come from operands or from ControlNets, not from both";
                return Err(Error::call("UNet2DConditionModel", reason));
            }
        };
        let sample = self.build(&mut s, &o, residuals)?;
        s.step.output("sample", sample);
        Ok(s)
    }

    /// `sample [B·F,h,w,Cin]`, `timestep [B]`, context `[B,M,K]` → `[B·F,h,w,Cout]`.
    ///
    /// # Errors
    /// An operand that the network needs was not declared; shapes that do not fit.
    pub fn build(&self, s: &mut Stages, o: &Operands, residuals: Option<Residuals>) -> Result<Value> {
        let x = self.backbone.build(s, o, residuals)?;
        let c = self.config();
        let norm = self.conv_norm_out.over(if c.trunk.joint_norms { o.frames } else { 1 });
        let h = norm.activate(&mut s.step, x, c.out_activation)?;
        self.conv_out.apply(&mut s.step, h)
    }
}

/// Fields of a configuration that nothing looked at, told to the log as well.
pub(crate) fn unread(config: &Config, model: &str) -> Vec<String> {
    let unread = config.unread();
    if !unread.is_empty() {
        tracing::warn!("{}: {model}: fields without effect: {}", config.file().display(), unread.join(", "));
    }
    unread
}

/// The sum of the residuals of several ControlNets, each scaled by operands of its own.
fn control_residuals(s: &mut Stages, o: &Operands, controls: &[&ControlNet]) -> Result<Residuals> {
    let mut sum: Option<Residuals> = None;
    for (i, control) in controls.iter().enumerate() {
        s.set_prefix(format!("controlnet.{i}."));
        let mut r = control.build(s, o, &format!(".{i}"))?;
        if let Some(before) = sum.take() {
            let g = &mut s.step;
            r.down = add_residuals(g, &before.down, &r.down)?;
            r.mid = match (before.mid, r.mid) {
                (Some(a), Some(b)) => Some(add_residual(g, "mid_residual", a, b)?),
                (a, b) => a.or(b),
            };
        }
        sum = Some(r);
    }
    s.set_prefix("");
    Ok(sum.unwrap_or_default())
}
