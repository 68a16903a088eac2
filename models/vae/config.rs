//! The configuration of a VAE, and the scale of its latents.

use muybridge_kernels::Activation;
use muybridge_loaders::Config;
use muybridge_runtime::HostTensor;

use crate::config::{activation, look_at, unknown};
use crate::error::{Error, Result};
use crate::resnet::ResnetOptions;

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

    pub(super) fn resnet(&self) -> ResnetOptions {
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
