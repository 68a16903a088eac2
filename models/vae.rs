//! AutoencoderKL: pictures to latents and back.
//!
//! Kingma, Welling, "Auto-encoding variational Bayes" (2014), in the shape of Esser, Rombach, Ommer (2021) and Rombach et
//! al. (2022). The encoder halves with zeros added below and to the right only.

use std::path::Path;

use muybridge_kernels as ops;
use muybridge_kernels::Activation;
use muybridge_loaders::{Config, LoadReport, Weights};
use muybridge_runtime::{DType, Device, Graph, HostTensor, Plan, TensorDesc, Value};

use crate::config::{activation, look_at, unknown};
use crate::error::{Error, Result};
use crate::layers::{Conv2d, GroupNorm, Linear};
use crate::resnet::{ResnetBlock2D, ResnetOptions, map_size, open_downsampler, open_upsampler};
use crate::transformer::SelfAttention;
use crate::unet::unread;

/// The configuration of a VAE.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels of a picture that is encoded.
    pub in_channels: usize,
    /// Channels of a picture that is decoded.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each resolution, the finest first.
    pub channels: Vec<usize>,
    /// Residual blocks of each resolution; the decoder has one more.
    pub layers: usize,
    /// Activation of the residual blocks.
    pub activation: Activation,
    /// Groups of the norms.
    pub groups: usize,
    /// The middle attends.
    pub mid_attention: bool,
    /// A layer follows the encoder.
    pub quant_conv: bool,
    /// A layer precedes the decoder.
    pub post_quant_conv: bool,
    /// Latents of a diffusion model are those of the VAE, less the shift, times this.
    pub scaling_factor: f32,
    /// Subtracted before scaling.
    pub shift_factor: f32,
    /// Mean and deviation of each latent channel, where the diffusion model wants them normalised.
    pub latents: Option<(Vec<f32>, Vec<f32>)>,
    /// The network overflows f16: use f32 or bf16.
    pub force_upcast: bool,
}

impl VaeConfig {
    /// Reads the fields of an `AutoencoderKL`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that the engine does not support.
    pub fn read(c: &Config) -> Result<VaeConfig> {
        let channels: Vec<usize> = c.get("block_out_channels")?;
        if channels.is_empty() || channels.len() > 12 {
            return Err(c.error("block_out_channels", format!("{} blocks, wanted 1 to 12", channels.len())).into());
        }
        for (field, only) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
            let types = c.opt::<Vec<String>>(field)?.unwrap_or_else(|| vec![only.into(); channels.len()]);
            if let Some(other) = types.iter().find(|t| *t != only) {
                return Err(unknown(c, field, other, only));
            }
            if types.len() != channels.len() {
                let reason = format!("{} blocks, and {} in block_out_channels", types.len(), channels.len());
                return Err(c.error(field, reason).into());
            }
        }
        let latent_channels = c.or("latent_channels", 4)?;
        let layers = c.or("layers_per_block", 1)?;
        if layers > 128 {
            return Err(c.error("layers_per_block", format!("{layers}, at most 128 are read")).into());
        }
        let scaling_factor: f32 = c.or("scaling_factor", 0.18215)?;
        if scaling_factor == 0.0 {
            return Err(c.error("scaling_factor", "0 takes everything from the latents").into());
        }
        look_at(c, &["sample_size"]);
        Ok(VaeConfig {
            in_channels: c.or("in_channels", 3)?,
            out_channels: c.or("out_channels", 3)?,
            latents: latent_statistics(c, latent_channels)?,
            latent_channels,
            channels,
            layers,
            activation: activation(c, "act_fn")?.unwrap_or(Activation::Silu),
            groups: c.or("norm_num_groups", 32)?,
            mid_attention: c.or("mid_block_add_attention", true)?,
            quant_conv: c.or("use_quant_conv", true)?,
            post_quant_conv: c.or("use_post_quant_conv", true)?,
            scaling_factor,
            shift_factor: c.or("shift_factor", 0.0)?,
            force_upcast: c.or("force_upcast", true)?,
        })
    }

    fn resnet(&self) -> ResnetOptions {
        let (groups, activation) = (self.groups, self.activation);
        ResnetOptions { groups, eps: 1e-6, activation, scale_shift: false, output_scale: 1.0 }
    }

    /// Pixels of a picture along one side of a latent.
    pub fn factor(&self) -> usize {
        1 << (self.channels.len() - 1)
    }
}

fn latent_statistics(c: &Config, n: usize) -> Result<Option<(Vec<f32>, Vec<f32>)>> {
    let read = |field: &str| -> Result<Option<Vec<f32>>> {
        let list = c.opt::<Vec<f32>>(field)?;
        match list.as_ref().map(Vec::len).filter(|len| *len != n) {
            Some(len) => Err(c.error(field, format!("{len} values for {n} channels")).into()),
            None => Ok(list),
        }
    };
    match (read("latents_mean")?, read("latents_std")?) {
        (None, None) => Ok(None),
        (Some(mean), Some(std)) if std.iter().all(|s| *s != 0.0) => Ok(Some((mean, std))),
        (Some(_), Some(_)) => Err(c.error("latents_std", "a deviation of 0").into()),
        _ => Err(c.error("latents_mean", "latents_mean and latents_std come together").into()),
    }
}

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
        let mut g = Graph::new();
        let extents = [shape.batch, shape.height, shape.width, self.config.in_channels];
        let pixels = g.input("pixels", TensorDesc::new(extents, shape.dtype));
        let (mean, logvar) = self.encode(&mut g, pixels)?;
        g.output("mean", mean);
        g.output("logvar", logvar);
        Ok(Plan::new(&g, &self.device)?)
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
        let mut g = Graph::new();
        let extents = [shape.batch, shape.height, shape.width, self.config.latent_channels];
        let latents = g.input("latents", TensorDesc::new(extents, shape.dtype));
        let pixels = self.decode(&mut g, latents)?;
        g.output("pixels", pixels);
        Ok(Plan::new(&g, &self.device)?)
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

impl VaeConfig {
    /// Latents of the VAE as a diffusion model reads them: `(x − shift) · scale`, by channel where it has statistics.
    pub fn scale(&self, latents: &HostTensor) -> HostTensor {
        self.each(latents, |x, mean, std| (x - mean) / std * self.scaling_factor)
    }

    /// Latents of a diffusion model as the VAE decodes them: `x / scale + shift`.
    pub fn unscale(&self, latents: &HostTensor) -> HostTensor {
        self.each(latents, |x, mean, std| x / self.scaling_factor * std + mean)
    }

    fn each(&self, x: &HostTensor, f: impl Fn(f32, f32, f32) -> f32) -> HostTensor {
        let (values, n) = (x.to_f32(), self.latent_channels);
        HostTensor::from_fn(x.shape(), |i| match &self.latents {
            Some((mean, std)) => f(values[i], mean[i % n], std[i % n]),
            None => f(values[i], self.shift_factor, 1.0),
        })
    }

    /// A sample of the encoder's distribution: `mean + exp(logvar / 2) · noise`, all of one shape.
    ///
    /// # Errors
    /// The shapes differ.
    pub fn sample(&self, mean: &HostTensor, logvar: &HostTensor, noise: &HostTensor) -> Result<HostTensor> {
        if mean.shape() != logvar.shape() || mean.shape() != noise.shape() {
            let reason = format!("mean {}, logvar {}, noise {}", mean.desc(), logvar.desc(), noise.desc());
            return Err(Error::call("AutoencoderKL", reason));
        }
        let (m, v, n) = (mean.to_f32(), logvar.to_f32(), noise.to_f32());
        Ok(HostTensor::from_fn(mean.shape(), |i| m[i] + (0.5 * v[i]).exp() * n[i]))
    }
}
