//! PoseGuider: pictures of poses to features that are added to a video UNet's first convolution.
//!
//! Hu et al., "Animate Anyone: consistent and controllable image-to-video synthesis for character animation" (2023), in the
//! published shape: a ControlNet's embedding of its condition image, alone.

use std::path::Path;

use muybridge_loaders::{Config, LoadReport, Weights};
use muybridge_runtime::{DType, Device, Graph, Plan, TensorDesc, Value};

use crate::controlnet::ConditioningEmbedding;
use crate::error::{Error, Result};
use crate::unet::unread;

/// Widths of a guider, by either network's names of the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuiderConfig {
    /// Channels of the condition pictures.
    pub in_channels: usize,
    /// Channels at each resolution, the finest first: one fewer than these are the halvings.
    pub widths: Vec<usize>,
    /// Channels of the features.
    pub out_channels: usize,
}

impl Default for GuiderConfig {
    /// The published guiders, whose files come without a configuration: RGB, four resolutions, 320 channels.
    fn default() -> GuiderConfig {
        GuiderConfig { in_channels: 3, widths: vec![16, 32, 96, 256], out_channels: 320 }
    }
}

impl GuiderConfig {
    /// Most resolutions that a configuration may name.
    const MOST_WIDTHS: usize = 16;

    /// Reads the fields of a `PoseGuider`.
    ///
    /// # Errors
    /// A field of the wrong type, or no widths, or too many.
    pub fn read(c: &Config) -> Result<GuiderConfig> {
        GuiderConfig::fields(c, "conditioning_channels", "conditioning_embedding_channels")
    }

    pub(crate) fn fields(c: &Config, input: &str, output: &str) -> Result<GuiderConfig> {
        let published = GuiderConfig::default();
        let widths = c.opt::<Vec<usize>>("block_out_channels")?.unwrap_or(published.widths);
        if widths.is_empty() || widths.len() > GuiderConfig::MOST_WIDTHS {
            let reason = format!("{} widths, wanted 1 to {}", widths.len(), GuiderConfig::MOST_WIDTHS);
            return Err(c.error("block_out_channels", reason).into());
        }
        let in_channels = c.or(input, published.in_channels)?;
        Ok(GuiderConfig { in_channels, widths, out_channels: c.or(output, published.out_channels)? })
    }

    /// Height or width of the features of pictures of `n` pixels: each halving rounds up.
    pub fn reduced(&self, n: usize) -> usize {
        (1..self.widths.len()).fold(n, |n, _| n.div_ceil(2))
    }
}

/// Extents and dtype of a plan of a guider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuiderShape {
    /// Pictures at a time: the frames of all clips. No frame reads another, so a clip may be cut anywhere.
    pub frames: usize,
    /// Height of the pictures, in pixels.
    pub height: usize,
    /// Width of the pictures, in pixels.
    pub width: usize,
    /// Dtype of the activations. Weights stay as they are on disk.
    pub dtype: DType,
}

impl GuiderShape {
    pub(crate) fn desc(&self, model: &'static str, channels: usize) -> Result<TensorDesc> {
        let GuiderShape { frames, height, width, dtype } = *self;
        let fits = |n: usize, bits: u32| (1..=1usize << bits).contains(&n);
        if fits(frames, 12) && fits(height, 16) && fits(width, 16) {
            return Ok(TensorDesc::new([frames, height, width, channels], dtype));
        }
        Err(Error::call(model, format!("extents of zero, or beyond any use: {self:?}")))
    }
}

/// The guider: pictures `[F,H,W,3]` in [0, 1] → features `[F,⌈H/8⌉,⌈W/8⌉,C]`.
#[derive(Debug)]
pub struct PoseGuider {
    embedding: ConditioningEmbedding,
    config: GuiderConfig,
    report: LoadReport,
    unread: Vec<String>,
    device: Device,
}

impl PoseGuider {
    /// Opens a directory with `config.json` and `*.safetensors`. Weights go to the device when the first plan is made.
    ///
    /// # Errors
    /// A file cannot be read, a field is not supported, a tensor is missing, left over, or has another shape.
    pub fn open(dir: impl AsRef<Path>, device: &Device) -> Result<PoseGuider> {
        let dir = dir.as_ref();
        PoseGuider::of(&Config::open(dir)?, Weights::open(dir)?.strip_wrappers()?, device)
    }

    /// The network of a configuration over a checkpoint.
    ///
    /// # Errors
    /// As [`PoseGuider::open`].
    pub fn of(config: &Config, w: Weights, device: &Device) -> Result<PoseGuider> {
        let unread = |c| unread(c, "PoseGuider");
        let widths = GuiderConfig::read(config)?;
        Ok(PoseGuider { unread: unread(config), ..PoseGuider::with(widths, &w, device)? })
    }

    /// The network of these widths over a checkpoint: published files come without a configuration
    /// ([`GuiderConfig::default`]).
    ///
    /// # Errors
    /// A tensor is missing, left over, or has another shape.
    pub fn with(config: GuiderConfig, w: &Weights, device: &Device) -> Result<PoseGuider> {
        Ok(PoseGuider {
            embedding: ConditioningEmbedding::open(w, config.in_channels, &config.widths, config.out_channels)?,
            config,
            report: w.finish()?,
            unread: Vec::new(),
            device: device.clone(),
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &GuiderConfig {
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

    /// Binds the network: `pixels [F,H,W,Cin]` → `features [F,h,w,C]`.
    ///
    /// # Errors
    /// Extents of zero or beyond any use, and the errors of making a plan.
    pub fn plan(&self, shape: GuiderShape) -> Result<Plan> {
        let mut g = Graph::new();
        let pixels = g.input("pixels", shape.desc("PoseGuider", self.config.in_channels)?);
        let features = self.build(&mut g, pixels)?;
        g.output("features", features);
        Ok(Plan::new(&g, &self.device)?)
    }

    /// `pixels [F,H,W,Cin]` → `[F,h,w,C]`, in one launch per convolution.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn build(&self, g: &mut Graph, pixels: Value) -> Result<Value> {
        self.embedding.build(g, pixels)
    }
}
