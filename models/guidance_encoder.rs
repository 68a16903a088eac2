//! GuidanceEncoder: a rendered guidance (depth, normals, semantic map, pose) to features for a video UNet.
//!
//! Zhu et al., "Champ: controllable and consistent human image animation with 3D parametric guidance" (2024). The features
//! of several encoders are summed.

use std::path::Path;

use muybridge_kernels as ops;
use muybridge_loaders::{Config, LoadReport, Weights};
use muybridge_runtime::{Device, Graph, Plan, Value};

use crate::controlnet::ConditioningEmbedding;
use crate::error::{Error, Result};
use crate::layers::{GroupNorm, LayerNorm, Linear};
use crate::pose_guider::{GuiderConfig, GuiderShape};
use crate::transformer::{FeedForward, SelfAttention};
use crate::unet::unread;

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

/// The encoder: pictures `[F,H,W,3]` in [0, 1] → features `[F,⌈H/8⌉,⌈W/8⌉,C]`.
///
/// Its files hold a transformer for every convolution, of which it uses the last one only.
#[derive(Debug)]
pub struct GuidanceEncoder {
    embedding: ConditioningEmbedding,
    attention: OwnTransformer,
    config: GuiderConfig,
    report: LoadReport,
    unread: Vec<String>,
    device: Device,
}

impl GuidanceEncoder {
    /// Heads of the published encoders.
    pub const HEADS: usize = 8;

    /// Opens a directory with `config.json` and `*.safetensors`. Weights go to the device when the first plan is made.
    ///
    /// # Errors
    /// A file cannot be read, a field is not supported, a tensor is missing, left over, or has another shape.
    pub fn open(dir: impl AsRef<Path>, device: &Device) -> Result<GuidanceEncoder> {
        let dir = dir.as_ref();
        GuidanceEncoder::of(&Config::open(dir)?, Weights::open(dir)?.strip_wrappers()?, device)
    }

    /// The network of a configuration over a checkpoint.
    ///
    /// # Errors
    /// As [`GuidanceEncoder::open`].
    pub fn of(config: &Config, w: Weights, device: &Device) -> Result<GuidanceEncoder> {
        let widths = GuiderConfig::fields(config, "guidance_input_channels", "guidance_embedding_channels")?;
        let heads = config.or("attention_num_heads", GuidanceEncoder::HEADS)?;
        let last = widths.widths.last().copied().unwrap_or(0);
        if widths.widths.len() < 2 {
            return Err(config.error("block_out_channels", "one width: there is no attention after a halving").into());
        }
        if !(1..=last).contains(&heads) {
            return Err(config.error("attention_num_heads", format!("{heads} heads for {last} channels")).into());
        }
        if !last.is_multiple_of(OwnTransformer::GROUPS) {
            let reason = format!("{last} channels at the end do not divide into {} groups", OwnTransformer::GROUPS);
            return Err(config.error("block_out_channels", reason).into());
        }
        let encoder = GuidanceEncoder::with(widths, heads, &w, device)?;
        Ok(GuidanceEncoder { unread: unread(config, "GuidanceEncoder"), ..encoder })
    }

    /// The network of these widths and this number of heads over a checkpoint: published files come without a
    /// configuration ([`GuiderConfig::default`], [`GuidanceEncoder::HEADS`]).
    ///
    /// # Errors
    /// A tensor is missing, left over, or has another shape; widths or heads that no such network has.
    pub fn with(config: GuiderConfig, heads: usize, w: &Weights, device: &Device) -> Result<GuidanceEncoder> {
        let (halvings, last) = (config.widths.len().saturating_sub(1), config.widths.last().copied().unwrap_or(0));
        if halvings == 0 || !(1..=last).contains(&heads) {
            let reason = format!("{heads} heads at the end of the widths {:?}", config.widths);
            return Err(Error::call("GuidanceEncoder", reason));
        }
        let used = 2 * halvings - 1;
        (0..used).for_each(|i| w.ignore(format!("attentions.{i}")));
        w.ignore("guidance_attention");
        Ok(GuidanceEncoder {
            embedding: ConditioningEmbedding::open(w, config.in_channels, &config.widths, config.out_channels)?,
            attention: OwnTransformer::open(&w.at("attentions").at(used), last, heads)?,
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
        let pixels = g.input("pixels", shape.desc("GuidanceEncoder", self.config.in_channels)?);
        let features = self.build(&mut g, pixels)?;
        g.output("features", features);
        Ok(Plan::new(&g, &self.device)?)
    }

    /// `pixels [F,H,W,Cin]` → `[F,h,w,C]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn build(&self, g: &mut Graph, pixels: Value) -> Result<Value> {
        let h = self.embedding.trunk(g, pixels)?;
        let h = self.attention.build(g, h)?;
        self.embedding.head(g, h)
    }

    /// Binds several encoders as one: `pixels.i [F,H,W,Cin]` for each of them → the sum of their features,
    /// `features [F,h,w,C]`.
    ///
    /// # Errors
    /// No encoder, encoders whose features differ in shape, and as [`GuidanceEncoder::plan`].
    pub fn plan_sum(encoders: &[&GuidanceEncoder], shape: GuiderShape) -> Result<Plan> {
        let first = encoders.first().ok_or_else(|| Error::call("GuidanceEncoder", "no encoders to sum"))?;
        let mut g = Graph::new();
        let mut sum: Option<Value> = None;
        for (i, encoder) in encoders.iter().enumerate() {
            let pixels = g.input(format!("pixels.{i}"), shape.desc("GuidanceEncoder", encoder.config.in_channels)?);
            let features = encoder.build(&mut g, pixels)?;
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
