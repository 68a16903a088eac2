//! AutoencoderKL: pictures to latents and back.
//!
//! Kingma, Welling, "Auto-encoding variational Bayes" (2014), in the shape of Esser, Rombach, Ommer (2021) and Rombach et
//! al. (2022). The encoder halves with zeros added below and to the right only.

mod config;

use std::path::Path;

use muybridge_kernels as ops;
use muybridge_loaders::{Config, LoadReport, Weights};
use muybridge_runtime::{DType, Device, Graph, Plan, TensorDesc, Value};

use crate::error::{Error, Result};
use crate::layers::{Conv2d, GroupNorm, Linear};
use crate::resnet::{ResnetBlock2D, map_size, open_downsampler, open_upsampler};
use crate::transformer::SelfAttention;
use crate::unet::unread;
pub use config::VaeConfig;

/// The middle: two residual blocks, with attention of one head between.
#[derive(Clone, Debug)]
struct VaeMid {
    resnets: [ResnetBlock2D; 2],
    attention: Option<(GroupNorm, SelfAttention)>,
}

impl VaeMid {
    fn open(w: &Weights, channels: usize, c: &VaeConfig) -> Result<VaeMid> {
        let options = c.resnet();
        let resnet = |j: usize| ResnetBlock2D::open(&w.at("resnets").at(j), channels, channels, &options, None);
        let at = w.at("attentions.0");
        let attention = || -> Result<_> {
            let norm = GroupNorm::open(&at.at("group_norm"), channels, c.groups, options.eps)?;
            Ok((norm, SelfAttention::open(&at, channels, 1, true)?))
        };
        Ok(VaeMid { resnets: [resnet(0)?, resnet(1)?], attention: c.mid_attention.then(attention).transpose()? })
    }

    fn build(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let mut x = self.resnets[0].build(g, x, None)?;
        if let Some((norm, attention)) = &self.attention {
            let h = norm.apply(g, x)?;
            x = attention.add(g, h, x)?;
        }
        self.resnets[1].build(g, x, None)
    }
}

/// Residual blocks of one resolution, and the convolution that leads to the next.
#[derive(Clone, Debug)]
struct VaeLevel {
    resnets: Vec<ResnetBlock2D>,
    sampler: Option<Conv2d>,
}

impl VaeLevel {
    fn open(w: &Weights, cin: usize, cout: usize, layers: usize, c: &VaeConfig) -> Result<VaeLevel> {
        let resnet = |j| {
            let cin = if j == 0 { cin } else { cout };
            ResnetBlock2D::open(&w.at("resnets").at(j), cin, cout, &c.resnet(), None)
        };
        Ok(VaeLevel { resnets: (0..layers).map(resnet).collect::<Result<_>>()?, sampler: None })
    }

    fn build(&self, g: &mut Graph, mut x: Value) -> Result<Value> {
        for resnet in &self.resnets {
            x = resnet.build(g, x, None)?;
        }
        Ok(x)
    }
}

#[derive(Clone, Debug)]
struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<VaeLevel>,
    mid_block: VaeMid,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn open(w: &Weights, c: &VaeConfig) -> Result<Encoder> {
        let (first, last) = (c.channels[0], c.channels[c.channels.len() - 1]);
        let mut cin = first;
        let mut down_blocks = Vec::new();
        for (i, cout) in c.channels.iter().enumerate() {
            let at = w.at("down_blocks").at(i);
            let mut level = VaeLevel::open(&at, cin, *cout, c.layers, c)?;
            if i + 1 < c.channels.len() {
                level.sampler = Some(open_downsampler(&at, *cout, 0)?);
            }
            down_blocks.push(level);
            cin = *cout;
        }
        Ok(Encoder {
            conv_in: Conv2d::open(&w.at("conv_in"), c.in_channels, first, 3)?,
            down_blocks,
            mid_block: VaeMid::open(&w.at("mid_block"), last, c)?,
            conv_norm_out: GroupNorm::open(&w.at("conv_norm_out"), last, c.groups, 1e-6)?,
            conv_out: Conv2d::open(&w.at("conv_out"), last, 2 * c.latent_channels, 3)?,
        })
    }

    fn build(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let mut x = self.conv_in.apply(g, x)?;
        for level in &self.down_blocks {
            x = level.build(g, x)?;
            x = level.sampler.as_ref().map_or(Ok(x), |down| down.apply(g, x))?;
        }
        let x = self.mid_block.build(g, x)?;
        let h = self.conv_norm_out.silu(g, x)?;
        self.conv_out.apply(g, h)
    }
}

#[derive(Clone, Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: VaeMid,
    up_blocks: Vec<VaeLevel>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn open(w: &Weights, c: &VaeConfig) -> Result<Decoder> {
        let (first, last) = (c.channels[0], c.channels[c.channels.len() - 1]);
        let mut cin = last;
        let mut up_blocks = Vec::new();
        for (i, cout) in c.channels.iter().rev().enumerate() {
            let at = w.at("up_blocks").at(i);
            let mut level = VaeLevel::open(&at, cin, *cout, c.layers + 1, c)?;
            if i + 1 < c.channels.len() {
                level.sampler = Some(open_upsampler(&at, *cout)?);
            }
            up_blocks.push(level);
            cin = *cout;
        }
        Ok(Decoder {
            conv_in: Conv2d::open(&w.at("conv_in"), c.latent_channels, last, 3)?,
            mid_block: VaeMid::open(&w.at("mid_block"), last, c)?,
            up_blocks,
            conv_norm_out: GroupNorm::open(&w.at("conv_norm_out"), first, c.groups, 1e-6)?,
            conv_out: Conv2d::open(&w.at("conv_out"), first, c.out_channels, 3)?,
        })
    }

    fn build(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let x = self.conv_in.apply(g, x)?;
        let mut x = self.mid_block.build(g, x)?;
        for level in &self.up_blocks {
            x = level.build(g, x)?;
            if let Some(up) = &level.sampler {
                let size = map_size(g, x).map(|n| 2 * n);
                x = up.upsample(g, x, size)?;
            }
        }
        let h = self.conv_norm_out.silu(g, x)?;
        self.conv_out.apply(g, h)
    }
}

/// Extents and dtype of a plan of a VAE, in pixels for the encoder and in latents for the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaeShape {
    /// Pictures at a time.
    pub batch: usize,
    /// Height of the operand.
    pub height: usize,
    /// Width of the operand.
    pub width: usize,
    /// Dtype of the activations. Weights stay as they are on disk.
    pub dtype: DType,
}

impl VaeShape {
    fn desc(&self, channels: usize) -> Result<TensorDesc> {
        let VaeShape { batch, height, width, dtype } = *self;
        let fits = |n: usize, bits: u32| (1..=1usize << bits).contains(&n);
        // Within these extents no product of the three overflows.
        if fits(batch, 12) && fits(height, 16) && fits(width, 16) && fits(batch * height * width, 32) {
            return Ok(TensorDesc::new([batch, height, width, channels], dtype));
        }
        Err(Error::call("AutoencoderKL", format!("extents of zero, or beyond any use: {self:?}")))
    }
}

/// The autoencoder.
#[derive(Debug)]
pub struct Vae {
    encoder: Encoder,
    quant_conv: Option<Linear>,
    post_quant_conv: Option<Linear>,
    decoder: Decoder,
    config: VaeConfig,
    report: LoadReport,
    unread: Vec<String>,
    device: Device,
}

impl Vae {
    /// Opens a directory with `config.json` and `*.safetensors`. Weights go to the device when the first plan is made.
    ///
    /// # Errors
    /// A file cannot be read, a field is not supported, a tensor is missing, left over, or has another shape.
    pub fn open(dir: impl AsRef<Path>, device: &Device) -> Result<Vae> {
        let dir = dir.as_ref();
        Vae::of(&Config::open(dir)?, Weights::open(dir)?.strip_wrappers()?, device)
    }

    /// The network of a configuration over a checkpoint. Its attention may have the names of 2022 (`query`, `key`,
    /// `value`, `proj_attn`) or those of today.
    ///
    /// # Errors
    /// As [`Vae::open`].
    pub fn of(config: &Config, w: Weights, device: &Device) -> Result<Vae> {
        let names = [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
        let w = w.rename_parts(&names)?;
        let c = VaeConfig::read(config)?;
        let n = c.latent_channels;
        let quant = || Linear::open(&w.at("quant_conv"), 2 * n, 2 * n);
        let post_quant = || Linear::open(&w.at("post_quant_conv"), n, n);
        Ok(Vae {
            encoder: Encoder::open(&w.at("encoder"), &c)?,
            quant_conv: c.quant_conv.then(quant).transpose()?,
            post_quant_conv: c.post_quant_conv.then(post_quant).transpose()?,
            decoder: Decoder::open(&w.at("decoder"), &c)?,
            report: w.finish()?,
            unread: unread(config, "AutoencoderKL"),
            config: c,
            device: device.clone(),
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The device that its plans run on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What became of the checkpoint's tensors.
    pub fn load_report(&self) -> &LoadReport {
        &self.report
    }

    /// Fields of the configuration that the engine does not know; they had no effect.
    pub fn unread_fields(&self) -> &[String] {
        &self.unread
    }

    /// Binds the encoder: `pixels [B,H,W,3]` in [−1, 1] → `mean` and `logvar`, both `[B,⌊H/8⌋,⌊W/8⌋,4]`, the second held
    /// within [−30, 20].
    ///
    /// # Errors
    /// A shape that does not fit the network, and the errors of making a plan.
    pub fn encoder(&self, shape: VaeShape) -> Result<Plan> {
        self.encoder_on(shape, &self.device)
    }

    /// As [`Vae::encoder`], on another device: on a [`Device::trace`] it tells what a plan would need.
    ///
    /// # Errors
    /// As [`Vae::encoder`].
    pub fn encoder_on(&self, shape: VaeShape, device: &Device) -> Result<Plan> {
        let mut g = Graph::new();
        let pixels = g.input("pixels", shape.desc(self.config.in_channels)?);
        let (mean, logvar) = self.encode(&mut g, pixels)?;
        g.output("mean", mean);
        g.output("logvar", logvar);
        Ok(Plan::new(&g, device)?)
    }

    /// `pixels [B,H,W,3]` → mean and logvar.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn encode(&self, g: &mut Graph, pixels: Value) -> Result<(Value, Value)> {
        let h = self.encoder.build(g, pixels)?;
        let h = self.quant_conv.as_ref().map_or(Ok(h), |conv| conv.apply(g, h))?;
        let n = self.config.latent_channels;
        let mean = g.node("latent_dist.mean", ops::Layout::Slice { from: 0, to: n }, &[h])?;
        let logvar = g.node("latent_dist.logvar", ops::Layout::Slice { from: n, to: 2 * n }, &[h])?;
        let logvar = g.node("latent_dist.logvar", ops::Elementwise::Clamp(-30.0, 20.0), &[logvar])?;
        Ok((mean, logvar))
    }

    /// Binds the decoder: `latents [B,h,w,4]` as the VAE has them → `pixels [B,8h,8w,3]`.
    ///
    /// # Errors
    /// A shape that does not fit the network, and the errors of making a plan.
    pub fn decoder(&self, shape: VaeShape) -> Result<Plan> {
        self.decoder_on(shape, &self.device)
    }

    /// Bytes that [`Vae::decoder`] would take on the device, weights included.
    ///
    /// # Errors
    /// As for [`Vae::decoder`], but for want of memory.
    pub fn decoder_memory(&self, shape: VaeShape) -> Result<u64> {
        let plan = self.decoder_on(shape, &self.device.trace())?;
        Ok(plan.report().arena + plan.report().weights)
    }

    fn decoder_on(&self, shape: VaeShape, device: &Device) -> Result<Plan> {
        let mut g = Graph::new();
        let latents = g.input("latents", shape.desc(self.config.latent_channels)?);
        let pixels = self.decode(&mut g, latents)?;
        g.output("pixels", pixels);
        Ok(Plan::new(&g, device)?)
    }

    /// `latents [B,h,w,4]` → pixels.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn decode(&self, g: &mut Graph, latents: Value) -> Result<Value> {
        let h = self.post_quant_conv.as_ref().map_or(Ok(latents), |conv| conv.apply(g, latents))?;
        self.decoder.build(g, h)
    }
}
