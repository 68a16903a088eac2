//! Guiders: pictures of a motion (poses, or renderings of depth, normals, semantic maps) to features that are added to a video
//! UNet's first convolution.
//!
//! Hu et al., "Animate Anyone: consistent and controllable image-to-video synthesis for character animation" (2023): a
//! ControlNet's embedding of its condition image, alone. Zhu et al., "Champ: controllable and consistent human image animation
//! with 3D parametric guidance" (2024): the same with an attention before its last convolution; features of several are summed.

use std::path::Path;

use muybridge_kernels as ops;
use muybridge_loaders::{Config, LoadReport, Weights};
use muybridge_runtime::{DType, Device, Graph, Plan, TensorDesc, Value};

use crate::controlnet::ConditioningEmbedding;
use crate::error::{Error, Result};
use crate::layers::{GroupNorm, LayerNorm, Linear};
use crate::transformer::{FeedForward, SelfAttention};
use crate::unet::unread;

/// Whose guider it is: they differ in the names of their fields, and in the attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuiderKind {
    /// AnimateAnyone's `PoseGuider`.
    Pose,
    /// Champ's `GuidanceEncoder`.
    Guidance,
}

impl GuiderKind {
    fn model(self) -> &'static str {
        match self {
            GuiderKind::Pose => "PoseGuider",
            GuiderKind::Guidance => "GuidanceEncoder",
        }
    }
}

/// Widths of a guider, by either network's names of the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuiderConfig {
    /// Channels of the condition pictures.
    pub in_channels: usize,
    /// Channels at each resolution, the finest first: one fewer than these are the halvings.
    pub widths: Vec<usize>,
    /// Channels of the features.
    pub out_channels: usize,
    /// Heads of the attention, in networks that have one.
    pub heads: usize,
}

impl Default for GuiderConfig {
    /// The published guiders, whose files come without a configuration: RGB, four resolutions, 320 channels, eight heads.
    fn default() -> GuiderConfig {
        GuiderConfig { in_channels: 3, widths: vec![16, 32, 96, 256], out_channels: 320, heads: 8 }
    }
}

impl GuiderConfig {
    /// Most resolutions that a configuration may name.
    const MOST_WIDTHS: usize = 16;

    fn read(c: &Config, kind: GuiderKind) -> Result<GuiderConfig> {
        let (input, output) = match kind {
            GuiderKind::Pose => ("conditioning_channels", "conditioning_embedding_channels"),
            GuiderKind::Guidance => ("guidance_input_channels", "guidance_embedding_channels"),
        };
        let published = GuiderConfig::default();
        let widths = c.opt::<Vec<usize>>("block_out_channels")?.unwrap_or(published.widths);
        if widths.is_empty() || widths.len() > GuiderConfig::MOST_WIDTHS {
            let reason = format!("{} widths, wanted 1 to {}", widths.len(), GuiderConfig::MOST_WIDTHS);
            return Err(c.error("block_out_channels", reason).into());
        }
        let in_channels = c.or(input, published.in_channels)?;
        let heads = match kind {
            GuiderKind::Pose => published.heads,
            GuiderKind::Guidance => c.or("attention_num_heads", published.heads)?,
        };
        Ok(GuiderConfig { in_channels, widths, out_channels: c.or(output, published.out_channels)?, heads })
    }

    /// Height or width of the features of pictures of `n` pixels: each halving rounds up.
    pub fn reduced(&self, n: usize) -> usize {
        (1..self.widths.len()).fold(n, |n, _| n.div_ceil(2))
    }

    /// Whether there can be an attention at the end of these widths; else the field that is wrong, and why.
    fn check_attention(&self) -> Result<(), (&'static str, String)> {
        let (last, heads) = (self.widths.last().copied().unwrap_or(0), self.heads);
        if self.widths.len() < 2 {
            return Err(("block_out_channels", "one width: there is no attention after a halving".into()));
        }
        if !(1..=last).contains(&heads) {
            return Err(("attention_num_heads", format!("{heads} heads for {last} channels")));
        }
        if !last.is_multiple_of(OwnTransformer::GROUPS) {
            let reason = format!("{last} channels at the end do not divide into {} groups", OwnTransformer::GROUPS);
            return Err(("block_out_channels", reason));
        }
        Ok(())
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
    fn desc(&self, model: &'static str, channels: usize) -> Result<TensorDesc> {
        let GuiderShape { frames, height, width, dtype } = *self;
        let fits = |n: usize, bits: u32| (1..=1usize << bits).contains(&n);
        if fits(frames, 12) && fits(height, 16) && fits(width, 16) {
            return Ok(TensorDesc::new([frames, height, width, channels], dtype));
        }
        Err(Error::call(model, format!("extents of zero, or beyond any use: {self:?}")))
    }
}

/// A transformer that attends to its own map only: `x [F,h,w,C]` → `[F,h,w,C]`, in ten launches.
#[derive(Clone, Debug)]
struct OwnTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    norm1: LayerNorm,
    attn1: SelfAttention,
    norm3: LayerNorm,
    ff: FeedForward,
    proj_out: Linear,
}

impl OwnTransformer {
    /// Groups of the norm, in every published encoder.
    const GROUPS: usize = 32;

    fn open(w: &Weights, channels: usize, heads: usize) -> Result<OwnTransformer> {
        let width = heads * (channels / heads);
        let block = w.at("transformer_blocks.0");
        Ok(OwnTransformer {
            norm: GroupNorm::open(&w.at("norm"), channels, OwnTransformer::GROUPS, 1e-6)?,
            proj_in: Linear::open(&w.at("proj_in"), channels, width)?,
            norm1: LayerNorm::open(&block.at("norm1"), width, 1e-5)?,
            attn1: SelfAttention::open(&block.at("attn1"), width, heads, false)?,
            norm3: LayerNorm::open(&block.at("norm3"), width, 1e-5)?,
            ff: FeedForward::open(&block.at("ff"), width)?,
            proj_out: Linear::open(&w.at("proj_out"), width, channels)?,
        })
    }

    fn build(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let h = self.norm.apply(g, x)?;
        let y = self.proj_in.apply(g, h)?;
        let h = self.norm1.apply(g, y)?;
        let y = self.attn1.add(g, h, y)?;
        let h = self.norm3.apply(g, y)?;
        let y = self.ff.add(g, h, y)?;
        self.proj_out.add(g, y, x)
    }
}

/// A guider: pictures `[F,H,W,3]` in [0, 1] → features `[F,⌈H/8⌉,⌈W/8⌉,C]`.
///
/// Champ's files hold a transformer for every convolution, of which it uses the last one only. A file without any is taken
/// for a network without attention.
#[derive(Debug)]
pub struct Guider {
    kind: GuiderKind,
    embedding: ConditioningEmbedding,
    attention: Option<OwnTransformer>,
    config: GuiderConfig,
    report: LoadReport,
    unread: Vec<String>,
    device: Device,
}

impl Guider {
    /// Opens a directory with `config.json` and `*.safetensors`. Weights go to the device when the first plan is made.
    ///
    /// # Errors
    /// A file cannot be read, a field is not supported, a tensor is missing, left over, or has another shape.
    pub fn open(kind: GuiderKind, dir: impl AsRef<Path>, device: &Device) -> Result<Guider> {
        let dir = dir.as_ref();
        Guider::of(kind, &Config::open(dir)?, &Weights::open(dir)?.strip_wrappers()?, device)
    }

    /// The network of a configuration over a checkpoint.
    ///
    /// # Errors
    /// As [`Guider::open`].
    pub fn of(kind: GuiderKind, config: &Config, w: &Weights, device: &Device) -> Result<Guider> {
        let fields = GuiderConfig::read(config, kind)?;
        if kind == GuiderKind::Guidance && w.has_prefix("attentions") {
            fields.check_attention().map_err(|(field, reason)| config.error(field, reason))?;
        }
        let guider = Guider::with(kind, fields, w, device)?;
        Ok(Guider { unread: unread(config, kind.model()), ..guider })
    }

    /// The network of these widths over a checkpoint: published files come without a configuration
    /// ([`GuiderConfig::default`]).
    ///
    /// # Errors
    /// A tensor is missing, left over, or has another shape; widths or heads that no such network has.
    pub fn with(kind: GuiderKind, config: GuiderConfig, w: &Weights, device: &Device) -> Result<Guider> {
        let attention = match kind {
            GuiderKind::Guidance if w.has_prefix("attentions") => Some(last_attention(&config, w)?),
            _ => None,
        };
        Ok(Guider {
            kind,
            embedding: ConditioningEmbedding::open(w, config.in_channels, &config.widths, config.out_channels)?,
            attention,
            config,
            report: w.finish()?,
            unread: Vec::new(),
            device: device.clone(),
        })
    }

    /// Whose guider it is.
    pub fn kind(&self) -> GuiderKind {
        self.kind
    }

    /// Its configuration.
    pub fn config(&self) -> &GuiderConfig {
        &self.config
    }

    /// Whether there is an attention before the last convolution.
    pub fn attends(&self) -> bool {
        self.attention.is_some()
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
        let pixels = g.input("pixels", shape.desc(self.kind.model(), self.config.in_channels)?);
        let features = self.build(&mut g, pixels)?;
        g.output("features", features);
        Ok(Plan::new(&g, &self.device)?)
    }

    /// `pixels [F,H,W,Cin]` → `[F,h,w,C]`, in one launch per convolution and ten for the attention.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn build(&self, g: &mut Graph, pixels: Value) -> Result<Value> {
        let mut h = self.embedding.trunk(g, pixels)?;
        if let Some(attention) = &self.attention {
            h = attention.build(g, h)?;
        }
        self.embedding.head(g, h)
    }

    /// Binds several guiders as one: `pixels.i [F,H,W,Cin]` for each of them → the sum of their features,
    /// `features [F,h,w,C]`.
    ///
    /// # Errors
    /// No guider, guiders whose features differ in shape, and as [`Guider::plan`].
    pub fn plan_sum(guiders: &[&Guider], shape: GuiderShape) -> Result<Plan> {
        let first = guiders.first().ok_or_else(|| Error::call("Guider", "no guiders to sum"))?;
        let mut g = Graph::new();
        let mut sum: Option<Value> = None;
        for (i, guider) in guiders.iter().enumerate() {
            let pixels = g.input(format!("pixels.{i}"), shape.desc(guider.kind.model(), guider.config.in_channels)?);
            let features = guider.build(&mut g, pixels)?;
            sum = Some(match sum {
                Some(before) => g.node("guidance_sum", ops::Elementwise::ADD, &[before, features])?,
                None => features,
            });
        }
        if let Some(sum) = sum {
            g.output("features", sum);
        }
        Ok(Plan::new(&g, &first.device)?)
    }
}

/// The transformer after the last halving.
fn last_attention(config: &GuiderConfig, w: &Weights) -> Result<OwnTransformer> {
    config.check_attention().map_err(|(field, reason)| Error::call("GuidanceEncoder", format!("{field}: {reason}")))?;
    let (halvings, last) = (config.widths.len() - 1, config.widths.last().copied().unwrap_or(0));
    let used = 2 * halvings - 1;
    (0..used).for_each(|i| w.ignore(format!("attentions.{i}")));
    w.ignore("guidance_attention");
    OwnTransformer::open(&w.at("attentions").at(used), last, config.heads)
}
