//! ControlNetModel: a copy of a UNet's first half that reads a condition image and adds to the UNet's skips.
//!
//! Zhang, Rao, Agrawala, "Adding conditional control to text-to-image diffusion models" (2023).

use std::path::Path;

use muybridge_kernels as ops;
use muybridge_kernels::Activation;
use muybridge_loaders::{Config, LoadReport, Weights};
use muybridge_runtime::{DType, Device, Graph, HostTensor, Pins, PlanOptions, Shape, TensorDesc, Value};

use crate::backbone::{keys_of, repeat_rows};
use crate::blocks::{Conditions, Trunk};
use crate::config::ControlNetConfig;
use crate::embeddings::TimeEmbedding;
use crate::error::{Error, Result};
use crate::layers::{Conv2d, Linear};
use crate::resnet::{TimeStack, map_size};
use crate::stages::{Operands, Stages, StepPlan, UnetShape};
use crate::unet::{Residuals, unread};

/// Image `[B,H,W,3]` → `[B,H/8,W/8,C]`: convolutions with SiLU, halved between widths.
#[derive(Clone, Debug)]
pub struct ConditioningEmbedding {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl ConditioningEmbedding {
    /// The embedding at the cursor, from `cin` channels through `widths` to `cout`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(w: &Weights, cin: usize, widths: &[usize], cout: usize) -> Result<ConditioningEmbedding> {
        let mut blocks = Vec::new();
        for pair in widths.windows(2) {
            let at = |i: usize| w.at("blocks").at(i);
            blocks.push(Conv2d::open(&at(blocks.len()), pair[0], pair[0], 3)?);
            blocks.push(Conv2d::open(&at(blocks.len()), pair[0], pair[1], 3)?.halving([1; 4]));
        }
        let (first, last) = (widths.first().copied().unwrap_or(cout), widths.last().copied().unwrap_or(cin));
        Ok(ConditioningEmbedding {
            conv_in: Conv2d::open(&w.at("conv_in"), cin, first, 3)?,
            blocks,
            conv_out: Conv2d::open(&w.at("conv_out"), last, cout, 3)?,
        })
    }

    /// Builds the embedding.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn build(&self, g: &mut Graph, image: Value) -> Result<Value> {
        let h = self.trunk(g, image)?;
        self.head(g, h)
    }

    /// All but the last convolution: `[B,H,W,Cin]` → `[B,h,w,C]`, C being the last of the widths.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn trunk(&self, g: &mut Graph, image: Value) -> Result<Value> {
        let mut h = self.conv_in.activate(g, image, Activation::Silu)?;
        for block in &self.blocks {
            h = block.activate(g, h, Activation::Silu)?;
        }
        Ok(h)
    }

    /// The last convolution: `[B,h,w,C]` → `[B,h,w,Cout]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn head(&self, g: &mut Graph, h: Value) -> Result<Value> {
        self.conv_out.apply(g, h)
    }
}

/// The network: latents, times, a context and a condition image to residuals of a UNet's skips and middle.
#[derive(Debug)]
pub struct ControlNet {
    conv_in: Conv2d,
    controlnet_cond_embedding: ConditioningEmbedding,
    time: TimeEmbedding,
    time_emb_proj: Option<Linear>,
    trunk: Trunk,
    controlnet_down_blocks: Vec<Linear>,
    controlnet_mid_block: Linear,
    config: ControlNetConfig,
    report: LoadReport,
    unread: Vec<String>,
    device: Device,
}

impl ControlNet {
    /// Opens a directory with `config.json` and `*.safetensors`. Weights go to the device when the first plan is made.
    ///
    /// # Errors
    /// A file cannot be read, a field is not supported, a tensor is missing, left over, or has another shape.
    pub fn open(dir: impl AsRef<Path>, device: &Device) -> Result<ControlNet> {
        let dir = dir.as_ref();
        ControlNet::of(&Config::open(dir)?, Weights::open(dir)?.strip_wrappers()?, device)
    }

    /// The network of a configuration over a checkpoint.
    ///
    /// # Errors
    /// As [`ControlNet::open`].
    pub fn of(config: &Config, w: Weights, device: &Device) -> Result<ControlNet> {
        let c = ControlNetConfig::read(config)?;
        let finest = c.trunk.levels.first().map_or(0, |l| l.channels);
        let coarsest = c.trunk.levels.last().map_or(0, |l| l.channels);
        let mut stack = TimeStack::new(c.trunk.time.width());
        let trunk = Trunk::open(&w, &c.trunk, &mut stack)?;
        let zero = |(i, n): (usize, &usize)| Linear::open(&w.at("controlnet_down_blocks").at(i), *n, *n);
        let embedding = w.at("controlnet_cond_embedding");
        let (image, widths) = (c.conditioning_channels, &c.embedding_channels);
        Ok(ControlNet {
            conv_in: Conv2d::open(&w.at("conv_in"), c.trunk.in_channels, finest, c.trunk.conv_in_kernel)?,
            controlnet_cond_embedding: ConditioningEmbedding::open(&embedding, image, widths, finest)?,
            time: TimeEmbedding::open(&w, &c.trunk.time)?,
            time_emb_proj: stack.finish()?,
            controlnet_down_blocks: trunk.skips.iter().enumerate().map(zero).collect::<Result<_>>()?,
            controlnet_mid_block: Linear::open(&w.at("controlnet_mid_block"), coarsest, coarsest)?,
            trunk,
            report: w.finish()?,
            unread: unread(config, "ControlNetModel"),
            config: c,
            device: device.clone(),
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &ControlNetConfig {
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

    /// Binds the network to its device. Operands of a step are `sample`, `timestep` and `scales` (see
    /// [`ControlNet::scales`]); of a clip `encoder_hidden_states` and `cond [B,H,W,C]`, the image in [0, 1]. Results are
    /// `down.i` and `mid`.
    ///
    /// # Errors
    /// A shape that does not fit the network, and the errors of making a plan.
    pub fn plan(&self, shape: UnetShape) -> Result<StepPlan> {
        self.plan_with(shape, &PlanOptions { pins: Pins::from_env()?, guard: 0 })
    }

    /// As [`ControlNet::plan`], with options.
    ///
    /// # Errors
    /// As [`ControlNet::plan`].
    pub fn plan_with(&self, shape: UnetShape, options: &PlanOptions) -> Result<StepPlan> {
        if shape.mask || shape.residuals || shape.shared || shape.reference.is_some() {
            return Err(Error::call(
                "ControlNetModel",
                "it takes no mask of the context, no residuals, no reference and no shared latents",
            ));
        }
        let mut s = Stages::new();
        let o = Operands::declare(&mut s, &shape, &self.config.trunk, self.config.trunk.context)?;
        let residuals = self.build(&mut s, &o, "")?;
        for (i, value) in residuals.down.iter().enumerate() {
            s.step.output(format!("down.{i}"), *value);
        }
        if let Some(mid) = residuals.mid {
            s.step.output("mid", mid);
        }
        StepPlan::with(&s, &self.device, options)
    }

    /// Builds the network, and declares its operands `scales` and `cond`, their names followed by `suffix`.
    ///
    /// # Errors
    /// An operand that the network needs was not declared; shapes that do not fit.
    pub fn build(&self, s: &mut Stages, o: &Operands, suffix: &str) -> Result<Residuals> {
        let count = self.controlnet_down_blocks.len() + 1;
        let scales = s.step.input(format!("scales{suffix}"), TensorDesc::new([count], DType::F32));
        let cond = self.condition(s, o, suffix)?;
        let context =
            keys_of(s, &Operands { mask: None, ..*o }, o.encoder_hidden_states, self.trunk.cross_attentions())?;
        let e = self.time.build(s, o)?;
        let g = &mut s.step;
        let time = self.time_emb_proj.as_ref().map(|proj| proj.apply(g, e)).transpose()?;
        let time = time.map(|rows| repeat_rows(g, "time_emb_proj", rows, o.frames)).transpose()?;
        let c = Conditions::new(time, context, o.frames, 1).in_portions(g, o.at_a_time)?;
        let x = self.conv_in.add(g, o.sample, cond)?;
        let (skips, x) = self.trunk.down(g, x, &c)?;
        let mid = self.trunk.mid(g, x, &c)?;
        let zero_convs = self.controlnet_down_blocks.iter().zip(&skips).enumerate();
        let down = zero_convs.map(|(i, (zero, x))| self.residual(g, zero, *x, scales, i));
        let down = down.collect::<Result<_>>()?;
        let mid = self.residual(g, &self.controlnet_mid_block, mid, scales, count - 1)?;
        Ok(Residuals { down, mid: Some(mid) })
    }

    /// The image's embedding, once per clip. Its extents are those of the latents, doubled for every halving.
    fn condition(&self, s: &mut Stages, o: &Operands, suffix: &str) -> Result<Value> {
        let factor = 1 << (self.config.embedding_channels.len() - 1);
        let [h, w] = map_size(&s.step, o.sample).map(|n| n * factor);
        let batch = s.step.desc(o.sample).shape[0];
        let shape = Shape::new(&[batch, h, w, self.config.conditioning_channels])?;
        let desc = TensorDesc { shape, dtype: o.dtype };
        let mut image = s.once.input(format!("cond{suffix}"), desc);
        if self.config.bgr {
            image = s.once.node("controlnet_cond", ops::Layout::Reverse, &[image])?;
        }
        let embedded = self.controlnet_cond_embedding.build(&mut s.once, image)?;
        Ok(s.hand_over("controlnet_cond_embedding", embedded))
    }

    /// Zero convolution, then its scale. A mean over space commutes with both, so it comes first, where it is cheap.
    fn residual(&self, g: &mut Graph, zero: &Linear, x: Value, scales: Value, i: usize) -> Result<Value> {
        let x = if self.config.global_pool_conditions {
            g.node(zero.path(), ops::Resample { mode: ops::Mode::Mean, size: [1, 1] }, &[x])?
        } else {
            x
        };
        let h = zero.apply(g, x)?;
        Ok(g.node(zero.path(), ops::Elementwise::ScaleBy(i), &[h, scales])?)
    }

    /// The operand `scales`: one factor for each residual, the middle's last. In guess mode they rise from a tenth of
    /// `conditioning_scale` to the whole of it, in equal ratios, unless the network pools its residuals.
    pub fn scales(&self, conditioning_scale: f32, guess_mode: bool) -> HostTensor {
        let count = self.controlnet_down_blocks.len() + 1;
        let last = (count - 1).max(1) as f64;
        HostTensor::from_fn([count], |i| {
            let rises = guess_mode && !self.config.global_pool_conditions;
            let ratio = if rises { 10f64.powf(i as f64 / last - 1.0) as f32 } else { 1.0 };
            ratio * conditioning_scale
        })
    }
}
