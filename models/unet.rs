//! UNet2DConditionModel: the denoising network of Stable Diffusion 1.x, 2.x and XL.
//!
//! Rombach et al., "High-resolution image synthesis with latent diffusion models" (2022).

use std::path::Path;

use muybridge_kernels as ops;
use muybridge_loaders::{Config, LoadReport, Weights};
use muybridge_runtime::{Device, Graph, HostTensor, Pins, PlanOptions, TensorDesc, Value, Weight};

use crate::blocks::{Conditions, Trunk, UpBlock2D};
use crate::config::UnetConfig;
use crate::controlnet::ControlNet;
use crate::embeddings::TimeEmbedding;
use crate::error::{Error, Result};
use crate::layers::{Conv2d, GroupNorm, Linear};
use crate::resnet::TimeStack;
use crate::stages::{Operands, Stages, StepPlan, UnetShape};
use crate::transformer::{Context, CrossAttention};

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
    conv_in: Conv2d,
    time: TimeEmbedding,
    time_emb_proj: Option<Linear>,
    encoder_hid_proj: Option<Linear>,
    trunk: Trunk,
    up_blocks: Vec<UpBlock2D>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    config: UnetConfig,
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
        let c = UnetConfig::read(config)?;
        let finest = c.trunk.levels.first().map_or(0, |l| l.channels);
        let resnet = &c.trunk.resnet;
        let mut stack = TimeStack::new(c.trunk.time.width());
        let conv_in = Conv2d::open(&w.at("conv_in"), c.trunk.in_channels, finest, c.trunk.conv_in_kernel)?;
        let trunk = Trunk::open(&w, &c.trunk, &mut stack)?;
        let up_blocks = open_up_blocks(&w, &c, &trunk.skips, &mut stack)?;
        let hid_proj = |n| Linear::open(&w.at("encoder_hid_proj"), n, c.trunk.context);
        let unet = Unet {
            conv_in,
            time: TimeEmbedding::open(&w, &c.trunk.time)?,
            time_emb_proj: stack.finish()?,
            encoder_hid_proj: c.encoder_hid_dim.map(hid_proj).transpose()?,
            trunk,
            up_blocks,
            conv_norm_out: GroupNorm::open(&w.at("conv_norm_out"), finest, resnet.groups, resnet.eps)?,
            conv_out: Conv2d::open(&w.at("conv_out"), finest, c.out_channels, c.conv_out_kernel)?,
            report: w.finish()?,
            unread: unread(config, "UNet2DConditionModel"),
            config: c,
            device: device.clone(),
        };
        Ok(unet)
    }

    /// Its configuration.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// What became of the checkpoint's tensors.
    pub fn load_report(&self) -> &LoadReport {
        &self.report
    }

    /// Fields of the configuration that the engine does not know; they had no effect.
    pub fn unread_fields(&self) -> &[String] {
        &self.unread
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
        let mut s = Stages::new();
        let context = self.config.encoder_hid_dim.unwrap_or(self.config.trunk.context);
        let o = Operands::declare(&mut s, &shape, &self.config.trunk, context)?;
        let residuals = match (shape.residuals, controls) {
            (false, []) => None,
            (true, []) => Some(self.declare_residuals(&mut s.step, &shape)),
            (false, _) => Some(control_residuals(&mut s, &o, controls)?),
            (true, _) => {
                let reason = "residuals come from operands or from ControlNets, not from both";
                return Err(Error::call("UNet2DConditionModel", reason));
            }
        };
        let sample = self.build(&mut s, &o, residuals)?;
        s.step.output("sample", sample);
        StepPlan::with(&s, &self.device, options)
    }

    /// `sample [B,h,w,Cin]`, `timestep [B]`, context `[B,M,K]` → `[B,h,w,Cout]`.
    ///
    /// # Errors
    /// An operand that the network needs was not declared; shapes that do not fit.
    pub fn build(&self, s: &mut Stages, o: &Operands, residuals: Option<Residuals>) -> Result<Value> {
        let c = self.conditions(s, o)?;
        let g = &mut s.step;
        let x = if self.config.center_input_sample { centred(g, o.sample)? } else { o.sample };
        let x = self.conv_in.apply(g, x)?;
        let (mut skips, x) = self.trunk.down(g, x, &c)?;
        let mut x = self.trunk.mid(g, x, &c)?;
        if let Some(r) = residuals {
            skips = add_residuals(g, &skips, &r.down)?;
            x = r.mid.map_or(Ok(x), |mid| add_residual(g, "mid_residual", x, mid))?;
        }
        for block in &self.up_blocks {
            x = block.build(g, x, &c, &mut skips)?;
        }
        let h = self.conv_norm_out.activate(g, x, self.config.trunk.resnet.activation)?;
        self.conv_out.apply(g, h)
    }

    fn conditions(&self, s: &mut Stages, o: &Operands) -> Result<Conditions> {
        let context = match &self.encoder_hid_proj {
            Some(proj) => proj.apply(&mut s.once, o.encoder_hidden_states)?,
            None => o.encoder_hidden_states,
        };
        let cross = self.trunk.cross_attentions().chain(self.up_blocks.iter().flat_map(UpBlock2D::cross_attentions));
        let context = keys_of(s, o, context, cross)?;
        let e = self.time.build(s, o)?;
        let time = self.time_emb_proj.as_ref().map(|proj| proj.apply(&mut s.step, e)).transpose()?;
        Ok(Conditions { time, context })
    }

    /// Operands for residuals that come from elsewhere: their extents follow the halvings.
    fn declare_residuals(&self, g: &mut Graph, shape: &UnetShape) -> Residuals {
        let trunk = &self.config.trunk;
        let mut size = [shape.height, shape.width];
        let mut sizes = vec![size];
        for (i, level) in trunk.levels.iter().enumerate() {
            sizes.extend(vec![size; level.layers]);
            if i + 1 < trunk.levels.len() {
                let zeros = if trunk.downsample_padding == 0 { 1 } else { 2 * trunk.downsample_padding };
                size = size.map(|n| (n + zeros).saturating_sub(3) / 2 + 1);
                sizes.push(size);
            }
        }
        let desc = |[h, w]: [usize; 2], c: usize| TensorDesc::new([shape.batch, h, w, c], shape.dtype);
        let skips = sizes.iter().zip(&self.trunk.skips).enumerate();
        let down = skips.map(|(i, (size, c))| g.input(format!("down_residual.{i}"), desc(*size, *c))).collect();
        let coarsest = trunk.levels.last().map_or(0, |l| l.channels);
        Residuals { down, mid: Some(g.input("mid_residual", desc(size, coarsest))) }
    }
}

fn open_up_blocks(w: &Weights, c: &UnetConfig, skips: &[usize], stack: &mut TimeStack) -> Result<Vec<UpBlock2D>> {
    let mut left = skips.to_vec();
    let mut cin = c.trunk.levels.last().map_or(0, |l| l.channels);
    let mut blocks = Vec::new();
    for (i, level) in c.up.iter().enumerate() {
        let rest = left.len().saturating_sub(level.layers);
        let taken: Vec<usize> = left.drain(rest..).rev().collect();
        let upsamples = i + 1 < c.up.len();
        let at = w.at("up_blocks").at(i);
        blocks.push(UpBlock2D::open(&at, cin, &taken, level, &c.trunk.resnet, upsamples, stack)?);
        cin = level.channels;
    }
    Ok(blocks)
}

/// Fields of a configuration that nothing looked at, told to the log as well.
pub(crate) fn unread(config: &Config, model: &str) -> Vec<String> {
    let unread = config.unread();
    if !unread.is_empty() {
        tracing::warn!("{}: {model}: fields without effect: {}", config.file().display(), unread.join(", "));
    }
    unread
}

/// Keys and values of the context for each cross-attention, once per clip.
pub(crate) fn keys_of<'a>(
    s: &mut Stages,
    o: &Operands,
    context: Value,
    cross: impl Iterator<Item = &'a CrossAttention>,
) -> Result<Context> {
    let mut keys = Context::default();
    for attention in cross {
        let kv = attention.keys(&mut s.once, context)?;
        keys.keys.insert(attention.path().into(), s.hand_over(attention.path(), kv));
    }
    keys.mask = o.mask.map(|mask| s.hand_over("encoder_attention_bias", mask));
    Ok(keys)
}

/// 2x − 1
fn centred(g: &mut Graph, x: Value) -> Result<Value> {
    let desc = g.desc(x);
    let row = HostTensor::from_fn([desc.shape.last()], |_| -1.0).convert(desc.dtype);
    let row = g.weight(&Weight::owned("center_input_sample", row));
    let doubled = g.node("center_input_sample", ops::Elementwise::Scale(2.0), &[x])?;
    Ok(g.node("center_input_sample", ops::Elementwise::ADD, &[doubled, row])?)
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

fn add_residuals(g: &mut Graph, skips: &[Value], residuals: &[Value]) -> Result<Vec<Value>> {
    if skips.len() != residuals.len() {
        let reason = format!("{} residuals for {} skips", residuals.len(), skips.len());
        return Err(Error::call("UNet2DConditionModel", reason));
    }
    let pairs = skips.iter().zip(residuals).enumerate();
    pairs.map(|(i, (a, b))| add_residual(g, &format!("down_residual.{i}"), *a, *b)).collect()
}

/// `a + b`; of two maps of one position and many, the one is added to all.
fn add_residual(g: &mut Graph, path: &str, a: Value, b: Value) -> Result<Value> {
    let pixels = |g: &Graph, v: Value| crate::resnet::map_size(g, v);
    let (big, small) = if pixels(g, a) == [1, 1] { (b, a) } else { (a, b) };
    let size = pixels(g, big);
    let small = if size != [1, 1] && pixels(g, small) == [1, 1] {
        g.node(path, ops::Resample { mode: ops::Mode::Nearest, size }, &[small])?
    } else {
        small
    };
    Ok(g.node(path, ops::Elementwise::ADD, &[big, small])?)
}
