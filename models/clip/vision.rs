//! The picture tower: pixels to states of every patch and one embedding of the picture.

use std::path::Path;

use muybridge_kernels as ops;
use muybridge_loaders::{Config, LoadReport, Weights};
use muybridge_runtime::{DType, Device, Graph, HostTensor, Plan, TensorDesc, Weight};

use super::{ClipEncoder, ClipVisionConfig, own_part, tower};
use crate::error::{Error, Result};
use crate::layers::{LayerNorm, Linear};
use crate::unet::unread;

const MODEL: &str = "CLIPVisionModel";

/// What the picture tower says about pictures, in f32. The first of the T tokens is the class token.
#[derive(Clone, Debug)]
pub struct VisionStates {
    /// The states after the last layer, as they are, `[B,T,C]`.
    pub last_hidden_state: HostTensor,
    /// The states after all but the last `skip` layers, `[B,T,C]`: with 1, what IP-Adapters read.
    pub hidden_states: HostTensor,
    /// The normed state of the class token, `[B,C]`.
    pub pooler_output: HostTensor,
    /// Its projection `[B,P]`, not normalised, in networks that have one.
    pub image_embeds: Option<HostTensor>,
}

/// The picture tower.
#[derive(Debug)]
pub struct ClipVision {
    patch_embedding: Linear,
    /// Positions `[T,1,C]`, the class token added to the first.
    positions: HostTensor,
    pre_layrnorm: LayerNorm,
    encoder: ClipEncoder,
    post_layernorm: LayerNorm,
    visual_projection: Option<Linear>,
    config: ClipVisionConfig,
    report: LoadReport,
    unread: Vec<String>,
    device: Device,
}

impl ClipVision {
    /// Opens a directory with `config.json` and `*.safetensors`. Weights go to the device when the first plan is made.
    ///
    /// # Errors
    /// A file cannot be read, a field is not supported, a tensor is missing, left over, or has another shape.
    pub fn open(dir: impl AsRef<Path>, device: &Device) -> Result<ClipVision> {
        let dir = dir.as_ref();
        ClipVision::of(&Config::open(dir)?, Weights::open(dir)?, device)
    }

    /// The network of a configuration over a checkpoint: of this tower, with or without `vision_model.` before its
    /// names, or of both towers.
    ///
    /// # Errors
    /// As [`ClipVision::open`].
    pub fn of(config: &Config, w: Weights, device: &Device) -> Result<ClipVision> {
        let part = own_part(config, "vision_config")?;
        let config = part.as_ref().unwrap_or(config);
        let c = ClipVisionConfig::read(config)?;
        let w = tower(w, "vision_model.", ["text_model", "text_projection"])?;
        let (width, eps) = (c.tower.width, c.tower.eps);
        let embeddings = w.at("embeddings");
        let patch = embeddings.get("patch_embedding.weight", [width, c.channels, c.patch, c.patch])?;
        let patch = patch.reshape([width, c.channels * c.patch * c.patch])?;
        let class = embeddings.get("class_embedding", [width])?.read()?.to_f32();
        let positions = embeddings.get("position_embedding.weight", [c.tokens(), width])?.read()?.to_f32();
        let with_class = |i: usize| positions[i] + class.get(i).copied().unwrap_or(0.0);
        let projected = c.tower.projected || w.has("visual_projection.weight");
        let projection = || Linear::unbiased(&w.at("visual_projection"), width, c.tower.projection);
        Ok(ClipVision {
            patch_embedding: Linear::of(embeddings.name("patch_embedding"), patch),
            positions: HostTensor::from_fn([c.tokens(), 1, width], with_class),
            pre_layrnorm: LayerNorm::open(&w.at("pre_layrnorm"), width, eps)?,
            encoder: ClipEncoder::open(&w.at("encoder"), &c.tower, false)?,
            post_layernorm: LayerNorm::open(&w.at("post_layernorm"), width, eps)?,
            visual_projection: projected.then(projection).transpose()?,
            report: w.finish()?,
            unread: unread(config, MODEL),
            config: c,
            device: device.clone(),
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &ClipVisionConfig {
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

    /// Binds the network for `batch` pictures. Operand: `patches [B,T,1,K]` (see [`ClipVision::patches`]). Results:
    /// `last_hidden_state` and `hidden_states [B,T,1,C]` (`skip` layers left out), `pooler_output [B,1,1,C]`, and in
    /// networks with a projection `image_embeds [B,1,1,P]`.
    ///
    /// # Errors
    /// More skipped layers than the network has, and the errors of making a plan.
    pub fn plan(&self, batch: usize, skip: usize, dtype: DType) -> Result<Plan> {
        let c = &self.config;
        if !(1..=1 << 12).contains(&batch) || skip > c.tower.layers {
            let reason = format!("{batch} pictures, {skip} of {} layers skipped", c.tower.layers);
            return Err(Error::call(MODEL, reason));
        }
        let mut g = Graph::new();
        let k = c.channels * c.patch * c.patch;
        let patches = g.input("patches", TensorDesc::new([batch, c.tokens(), 1, k], dtype));
        let x = self.patch_embedding.apply(&mut g, patches)?;
        let positions = Weight::owned("embeddings.position_embedding", self.positions.convert(dtype));
        let positions = g.weight(&positions);
        let x = g.node("embeddings.position_embedding", ops::Elementwise::ADD, &[x, positions])?;
        let x = self.pre_layrnorm.apply(&mut g, x)?;
        let [last, hidden] = self.encoder.build(&mut g, x, None, skip)?;
        g.output("last_hidden_state", last);
        g.output("hidden_states", hidden);
        // Of a map of T by 1 positions, the nearest to the only new one is the first.
        let first = ops::Resample { mode: ops::Mode::Nearest, size: [1, 1] };
        let class = g.node("pooler", first, &[last])?;
        let pooled = self.post_layernorm.apply(&mut g, class)?;
        g.output("pooler_output", pooled);
        if let Some(projection) = &self.visual_projection {
            let embeds = projection.apply(&mut g, pooled)?;
            g.output("image_embeds", embeds);
        }
        Ok(Plan::new(&g, &self.device)?)
    }

    /// Pictures `[B,H,W,3]`, normalised (see [`super::Preprocess`]), as the operand of [`ClipVision::plan`]: a row of
    /// zeros for the class token, then every patch as a row of its channels, `[B,T,1,K]`.
    ///
    /// # Errors
    /// Pictures of another size than the network's.
    pub fn patches(&self, pixels: &HostTensor) -> Result<HostTensor> {
        let ClipVisionConfig { image, patch, channels, .. } = self.config;
        let &[batch, height, width, c] = pixels.shape().dims() else {
            return Err(Error::call(MODEL, format!("pixels {}, wanted [B,H,W,C]", pixels.shape())));
        };
        if (height, width, c) != (image, image, channels) {
            let reason = format!("pixels {}, wanted [B,{image},{image},{channels}]", pixels.shape());
            return Err(Error::call(MODEL, reason));
        }
        let all = pixels.to_f32();
        let (side, k, tokens) = (image / patch, channels * patch * patch, self.config.tokens());
        let at = |i: usize| {
            let (row, column) = (i / k, i % k);
            let token = (row % tokens).checked_sub(1)?;
            let (channel, y, x) = (column / (patch * patch), column / patch % patch, column % patch);
            let (y, x) = (token / side * patch + y, token % side * patch + x);
            all.get(((row / tokens * height + y) * width + x) * channels + channel).copied()
        };
        Ok(HostTensor::from_fn([batch, tokens, 1, k], |i| at(i).unwrap_or(0.0)).convert(pixels.dtype()))
    }

    /// Pictures `[B,H,W,3]`, normalised (see [`super::Preprocess`]), to states, with `skip` layers left out for the
    /// hidden ones.
    ///
    /// # Errors
    /// As [`ClipVision::patches`] and [`ClipVision::plan`].
    pub fn encode(&self, pixels: &HostTensor, skip: usize, dtype: DType) -> Result<VisionStates> {
        let patches = self.patches(pixels)?.convert(dtype);
        let batch = patches.shape()[0];
        let mut results = self.plan(batch, skip, dtype)?.run_host(&[&patches])?.into_iter();
        let mut next = |tokens: Option<usize>| -> Result<HostTensor> {
            let t = results.next().ok_or_else(|| Error::call(MODEL, "the plan has fewer results"))?.convert(DType::F32);
            let c = t.shape().last();
            Ok(match tokens {
                Some(n) => t.reshape([batch, n, c])?,
                None => t.reshape([batch, c])?,
            })
        };
        let tokens = Some(self.config.tokens());
        Ok(VisionStates {
            last_hidden_state: next(tokens)?,
            hidden_states: next(tokens)?,
            pooler_output: next(None)?,
            image_embeds: self.visual_projection.is_some().then(|| next(None)).transpose()?,
        })
    }
}
