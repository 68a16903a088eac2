//! The text tower: token ids to states of every token and one embedding of the text.

use std::path::Path;

use muybridge_loaders::{Config, LoadReport, Weights};
use muybridge_runtime::{DType, Device, Graph, HostTensor, Plan, TensorDesc, Weight};

use super::{ClipEncoder, ClipTextConfig, own_part, rows, tower};
use crate::error::{Error, Result};
use crate::layers::{LayerNorm, Linear};
use crate::unet::unread;

const MODEL: &str = "CLIPTextModel";

/// Extents, dtype and options of a plan of the text tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipTextShape {
    /// Texts at a time.
    pub batch: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Dtype of the activations. Weights stay as they are on disk.
    pub dtype: DType,
    /// Some tokens are hidden, by the operand `attention_bias`.
    pub mask: bool,
    /// Layers left out at the end for `hidden_states`: 1 for SDXL, where no layer is skipped.
    pub skip: usize,
}

/// What the text tower says about texts, in f32.
#[derive(Clone, Debug)]
pub struct TextStates {
    /// The normed states after the last layer, `[B,L,C]`.
    pub last_hidden_state: HostTensor,
    /// The states after all but the last `skip` layers, as they are, `[B,L,C]`.
    pub hidden_states: HostTensor,
    /// The same states under the last norm, `[B,L,C]`: what Stable Diffusion 1.x and 2.x read when layers are skipped.
    pub skipped_states: HostTensor,
    /// The row of `last_hidden_state` at the end of the text, `[B,C]`.
    pub pooler_output: HostTensor,
    /// Its projection, `[B,P]`, in networks that have one.
    pub text_embeds: Option<HostTensor>,
}

/// The text tower.
#[derive(Debug)]
pub struct ClipText {
    token_embedding: Weight,
    position_embedding: Weight,
    encoder: ClipEncoder,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
    config: ClipTextConfig,
    report: LoadReport,
    unread: Vec<String>,
    device: Device,
}

impl ClipText {
    /// Opens a directory with `config.json` and `*.safetensors`. Weights go to the device when the first plan is made.
    ///
    /// # Errors
    /// A file cannot be read, a field is not supported, a tensor is missing, left over, or has another shape.
    pub fn open(dir: impl AsRef<Path>, device: &Device) -> Result<ClipText> {
        let dir = dir.as_ref();
        ClipText::of(&Config::open(dir)?, Weights::open(dir)?, device)
    }

    /// The network of a configuration over a checkpoint: of this tower, with or without `text_model.` before its names,
    /// or of both towers.
    ///
    /// # Errors
    /// As [`ClipText::open`].
    pub fn of(config: &Config, w: Weights, device: &Device) -> Result<ClipText> {
        let part = own_part(config, "text_config")?;
        let config = part.as_ref().unwrap_or(config);
        let c = ClipTextConfig::read(config)?;
        let w = tower(w, "text_model.", ["vision_model", "visual_projection"])?;
        let width = c.tower.width;
        let embeddings = w.at("embeddings");
        let projected = c.tower.projected || w.has("text_projection.weight");
        let projection = || Linear::unbiased(&w.at("text_projection"), width, c.tower.projection);
        Ok(ClipText {
            token_embedding: embeddings.get("token_embedding.weight", [c.vocabulary, width])?,
            position_embedding: embeddings.get("position_embedding.weight", [c.positions, width])?,
            encoder: ClipEncoder::open(&w.at("encoder"), &c.tower, true)?,
            final_layer_norm: LayerNorm::open(&w.at("final_layer_norm"), width, c.tower.eps)?,
            text_projection: projected.then(projection).transpose()?,
            report: w.finish()?,
            unread: unread(config, MODEL),
            config: c,
            device: device.clone(),
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &ClipTextConfig {
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

    /// Binds the network. Operands: `embeddings [B,L,C]` (see [`ClipText::embed`]) and, with a mask, `attention_bias
    /// [B,1,L]` (see [`ClipText::bias`]). Results, all `[B,L,·]`: `last_hidden_state`, `hidden_states`,
    /// `skipped_states`, and in networks with a projection `text_embeds`, of every token.
    ///
    /// # Errors
    /// More tokens than the network has positions, more skipped layers than it has, and the errors of making a plan.
    pub fn plan(&self, shape: ClipTextShape) -> Result<Plan> {
        let ClipTextShape { batch, tokens, dtype, mask, skip } = shape;
        if !(1..=1 << 12).contains(&batch) || !(1..=self.config.positions).contains(&tokens) {
            let reason = format!("{batch} texts of {tokens} tokens; at most {} tokens", self.config.positions);
            return Err(Error::call(MODEL, reason));
        }
        if skip > self.config.tower.layers {
            return Err(Error::call(MODEL, format!("{skip} of {} layers skipped", self.config.tower.layers)));
        }
        let mut g = Graph::new();
        let x = g.input("embeddings", TensorDesc::new([batch, tokens, self.config.tower.width], dtype));
        let bias = mask.then(|| g.input("attention_bias", TensorDesc::new([batch, 1, tokens], dtype)));
        let [last, hidden] = self.encoder.build(&mut g, x, bias, skip)?;
        let normed = self.final_layer_norm.apply(&mut g, last)?;
        let skipped = if skip == 0 { normed } else { self.final_layer_norm.apply(&mut g, hidden)? };
        g.output("last_hidden_state", normed);
        g.output("hidden_states", hidden);
        g.output("skipped_states", skipped);
        if let Some(projection) = &self.text_projection {
            let embeds = projection.apply(&mut g, normed)?;
            g.output("text_embeds", embeds);
        }
        Ok(Plan::new(&g, &self.device)?)
    }

    /// Rows of the token embedding plus those of the positions: `[B,L,C]`, f32.
    ///
    /// # Errors
    /// No texts, texts of different lengths or beyond the network's positions, and ids beyond its vocabulary.
    pub fn embed(&self, ids: &[Vec<u32>]) -> Result<HostTensor> {
        let tokens = ids.first().map_or(0, Vec::len);
        if tokens == 0 || tokens > self.config.positions || ids.iter().any(|text| text.len() != tokens) {
            let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
            let reason = format!("texts of {lengths:?} tokens: wanted equal lengths up to {}", self.config.positions);
            return Err(Error::call(MODEL, reason));
        }
        if let Some(id) = ids.iter().flatten().find(|id| **id as usize >= self.config.vocabulary) {
            return Err(Error::call(MODEL, format!("token {id} of a vocabulary of {}", self.config.vocabulary)));
        }
        // Only the rows that are asked for are read from the file.
        let table = self.token_embedding.bytes();
        let width = self.config.tower.width;
        let row = TensorDesc { shape: [width].into(), ..self.token_embedding.desc() };
        let bytes = row.bytes() as usize;
        let positions = self.position_embedding.read()?.to_f32();
        let mut all = Vec::with_capacity(ids.len() * tokens * width);
        for (i, id) in ids.iter().flat_map(|text| text.iter().enumerate()) {
            let at = *id as usize * bytes;
            let token = HostTensor::from_bytes(row, &table[at..at + bytes])?.to_f32();
            all.extend(token.iter().zip(&positions[i * width..]).map(|(t, p)| t + p));
        }
        Ok(HostTensor::new([ids.len(), tokens, width], all)?)
    }

    /// The operand `attention_bias [B,1,L]` of a mask `[B][L]`: 0 where a token counts, as far below 0 as the dtype goes
    /// where it does not.
    ///
    /// # Errors
    /// A mask of unequal lengths, or one that hides a first token: causal attention leaves it nothing else to see.
    pub fn bias(mask: &[Vec<bool>], dtype: DType) -> Result<HostTensor> {
        let tokens = mask.first().map_or(0, Vec::len);
        if mask.iter().any(|m| m.len() != tokens || m.first() != Some(&true)) {
            return Err(Error::call(MODEL, "a mask of unequal lengths, or one that hides a first token"));
        }
        let far = if dtype == DType::F16 { -65504.0 } else { -1e30 };
        let seen = |i: usize| mask[i / tokens][i % tokens];
        Ok(HostTensor::from_fn([mask.len(), 1, tokens], |i| if seen(i) { 0.0 } else { far }).convert(dtype))
    }

    /// Token ids (equally many for every text) to states, with `skip` layers left out for the hidden ones. `mask` hides
    /// tokens: Stable Diffusion 1.x, 2.x and XL give none and let the padding count.
    ///
    /// # Errors
    /// As [`ClipText::embed`], [`ClipText::bias`] and [`ClipText::plan`]; a mask of another shape than the ids.
    pub fn encode(
        &self,
        ids: &[Vec<u32>],
        mask: Option<&[Vec<bool>]>,
        skip: usize,
        dtype: DType,
    ) -> Result<TextStates> {
        let embeddings = self.embed(ids)?.convert(dtype);
        let tokens = embeddings.shape()[1];
        if mask.is_some_and(|m| m.len() != ids.len() || m.iter().any(|row| row.len() != tokens)) {
            return Err(Error::call(MODEL, format!("a mask of another shape than {} texts of {tokens}", ids.len())));
        }
        let bias = mask.map(|m| ClipText::bias(m, dtype)).transpose()?;
        let shape = ClipTextShape { batch: ids.len(), tokens, dtype, mask: mask.is_some(), skip };
        let operands: Vec<&HostTensor> = [&embeddings].into_iter().chain(&bias).collect();
        let mut results = self.plan(shape)?.run_host(&operands)?.into_iter().map(|t| t.convert(DType::F32));
        let mut next = || results.next().ok_or_else(|| Error::call(MODEL, "the plan has fewer results"));
        let (last_hidden_state, hidden_states, skipped_states) = (next()?, next()?, next()?);
        let ends: Vec<usize> = ids.iter().map(|text| self.end(text)).collect();
        let pooled = |t: &HostTensor| rows(t, |b| ends[b]);
        let text_embeds = if self.text_projection.is_some() { Some(pooled(&next()?)) } else { None };
        Ok(TextStates {
            pooler_output: pooled(&last_hidden_state),
            last_hidden_state,
            hidden_states,
            skipped_states,
            text_embeds,
        })
    }

    /// Where a text is pooled: at its first end token, or at its largest id. The first position where there is none.
    fn end(&self, text: &[u32]) -> usize {
        let wanted = self.config.end.or(text.iter().max().copied());
        text.iter().position(|id| Some(*id) == wanted).unwrap_or(0)
    }
}
