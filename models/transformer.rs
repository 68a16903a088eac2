//! Transformers over the positions of a map, with cross-attention to a context.

use std::collections::HashMap;

use muybridge_kernels as ops;
use muybridge_loaders::Weights;
use muybridge_runtime::{Graph, Value};

use crate::error::{Error, Result};
use crate::layers::{Conv2d, GroupNorm, LayerNorm, Linear};

/// What the attentions of a network read besides their own tokens, by the attentions' paths.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// `[B,M,2C]` for each cross-attention: keys, then values.
    pub keys: HashMap<String, Value>,
    /// `[B,1,M]`, added to the scores.
    pub mask: Option<Value>,
    /// Results of cross-attentions that read a single token, a row for each item of the batch: a softmax over one key is 1,
    /// so every position gets the same row.
    pub constants: HashMap<String, Value>,
    /// `[Br,..,2C]` for self-attentions that see reference features behind their own tokens: keys, then values.
    pub reference: HashMap<String, Value>,
    /// The first item of the batch that sees reference features.
    pub first_reader: usize,
}

/// Self-attention: `x [B,..,C]` → `[B,..,C]`, in three launches.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    to_qkv: Linear,
    to_out: Linear,
    /// `to_out` again, where a row for each item is added.
    to_out_point: Option<Conv2d>,
    heads: usize,
    path: String,
}

impl SelfAttention {
    /// `to_q`, `to_k`, `to_v` and `to_out.0` at the cursor; the first three with a bias or without.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(w: &Weights, channels: usize, heads: usize, biased: bool) -> Result<SelfAttention> {
        let open = if biased { Linear::open } else { Linear::unbiased };
        let parts = ["to_q", "to_k", "to_v"].map(|part| open(&w.at(part), channels, channels));
        let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        let to_out = Linear::open(&w.at("to_out.0"), channels, channels)?;
        Ok(SelfAttention {
            to_qkv: Linear::stack(&w.name("to_qkv"), &parts)?,
            to_out_point: Conv2d::of_point(&to_out)?,
            to_out,
            heads,
            path: w.path().into(),
        })
    }

    /// Attention of `x` (normed) to itself, plus `residual`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add(&self, g: &mut Graph, x: Value, residual: Value) -> Result<Value> {
        self.add_context(g, x, &Context::default(), None, residual)
    }

    /// As [`SelfAttention::add`]. Items from `context.first_reader` on see the reference features that the context has for
    /// this attention behind their own tokens. `constant`, a row for each item, is added to all positions.
    ///
    /// # Errors
    /// Shapes that do not fit; a constant needs maps `[B,H,W,C]`.
    pub fn add_context(
        &self,
        g: &mut Graph,
        x: Value,
        context: &Context,
        constant: Option<Value>,
        residual: Value,
    ) -> Result<Value> {
        let reference = context.reference.get(&self.path).copied();
        let segment = reference.map(|_| context.first_reader);
        let qkv = self.to_qkv.apply(g, x)?; // [B,..,3C]
        let operands: Vec<Value> = [qkv].into_iter().chain(reference).collect();
        let h = g.node(&self.path, ops::Attention { segment, ..ops::Attention::packed(self.heads) }, &operands)?;
        match (constant, &self.to_out_point) {
            (Some(row), Some(to_out)) => to_out.shift_add(g, h, row, residual),
            (Some(_), None) => Err(Error::call("SelfAttention", format!("{}: to_out has no bias", self.path))),
            (None, _) => self.to_out.add(g, h, residual),
        }
    }

    /// Keys and values of reference features `[Br,..,C]` (normed tokens of another network) as this attention sees them:
    /// `[Br,..,2C]`, once per clip.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn reference_keys(&self, g: &mut Graph, features: Value) -> Result<Value> {
        let qkv = self.to_qkv.apply(g, features)?;
        let c = self.width();
        Ok(g.node(&self.path, ops::Layout::Slice { from: c, to: 3 * c }, &[qkv])?)
    }

    /// Path in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Channels of its tokens.
    pub fn width(&self) -> usize {
        self.to_out.width()
    }
}

/// Cross-attention: `x [B,..,C]` and keys and values `[B,M,2C]` → `[B,..,C]`, in three launches.
#[derive(Clone, Debug)]
pub struct CrossAttention {
    to_q: Linear,
    to_kv: Linear,
    to_out: Linear,
    heads: usize,
    masked: bool,
    /// Its block can add a constant in its place.
    folds: bool,
    path: String,
}

impl CrossAttention {
    /// `to_q`, `to_k`, `to_v` and `to_out.0` at the cursor. Only a `masked` one sees the bias of the context's tokens.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(w: &Weights, channels: usize, context: usize, heads: usize, masked: bool) -> Result<CrossAttention> {
        let kv = ["to_k", "to_v"].map(|part| Linear::unbiased(&w.at(part), context, channels));
        let kv = kv.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(CrossAttention {
            to_q: Linear::unbiased(&w.at("to_q"), channels, channels)?,
            to_kv: Linear::stack(&w.name("to_kv"), &kv)?,
            to_out: Linear::open(&w.at("to_out.0"), channels, channels)?,
            heads,
            masked,
            folds: false,
            path: w.path().into(),
        })
    }

    /// Path in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Keys and values of a context `[B,M,context]`: `[B,M,2C]`, once per clip.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn keys(&self, g: &mut Graph, context: Value) -> Result<Value> {
        self.to_kv.apply(g, context)
    }

    /// Whether a context of a single token makes it a constant that its block adds elsewhere.
    pub fn folds(&self) -> bool {
        self.folds
    }

    /// What it gives for a context `[B,1,context]`, for each of the `frames` items of a clip: `[B · frames, 1, C]`. A softmax
    /// over one key is 1, so this is the value's projection at every position.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn constant(&self, g: &mut Graph, context: Value, frames: usize) -> Result<Value> {
        let kv = self.to_kv.apply(g, context)?;
        let c = self.to_kv.width() / 2;
        let v = g.node(&self.path, ops::Layout::Slice { from: c, to: 2 * c }, &[kv])?;
        let row = self.to_out.apply(g, v)?;
        if frames == 1 {
            Ok(row)
        } else {
            Ok(g.node(&self.path, ops::Layout::Repeat { run: 1, times: frames }, &[row])?)
        }
    }

    /// Attention of `x` (normed) to the context, plus `residual`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add(&self, g: &mut Graph, x: Value, context: &Context, residual: Value) -> Result<Value> {
        let missing = || Error::call("CrossAttention", format!("{}: no keys and values of the context", self.path));
        let kv = *context.keys.get(&self.path).ok_or_else(missing)?;
        let mask = context.mask.filter(|_| self.masked);
        let q = self.to_q.apply(g, x)?;
        let op = ops::Attention { mask: mask.is_some(), ..ops::Attention::cross(self.heads) };
        let operands: Vec<Value> = [q, kv].into_iter().chain(mask).collect();
        let h = g.node(&self.path, op, &operands)?;
        self.to_out.add(g, h, residual)
    }
}

/// Feed-forward network with a gated unit: `x [B,..,C]` → `[B,..,C]`, in two launches.
#[derive(Clone, Debug)]
pub struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    /// `net.0.proj [8C, C]` and `net.2 [C, 4C]` at the cursor.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(w: &Weights, channels: usize) -> Result<FeedForward> {
        Ok(FeedForward {
            proj: Linear::open(&w.at("net.0.proj"), channels, 8 * channels)?,
            out: Linear::open(&w.at("net.2"), 4 * channels, channels)?,
        })
    }

    /// The network on `x` (normed), plus `residual`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add(&self, g: &mut Graph, x: Value, residual: Value) -> Result<Value> {
        let h = self.proj.geglu(g, x)?; // [B,..,4C]
        self.out.add(g, h, residual)
    }
}

/// The first attention of a block: to itself, or (`only_cross_attention`) to the context as well.
#[derive(Clone, Debug)]
enum FirstAttention {
    Own(SelfAttention),
    Cross(CrossAttention),
}

/// `x [B,..,C]` → `[B,..,C]`, in eleven launches, seven where the context has a single token. Vaswani et al. (2017), with the
/// norms first.
#[derive(Clone, Debug)]
pub struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: FirstAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    /// The block at the cursor.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(w: &Weights, channels: usize, options: &TransformerOptions) -> Result<BasicTransformerBlock> {
        let norm = |part: &str| LayerNorm::open(&w.at(part), channels, 1e-5);
        let (heads, context) = (options.heads, options.context);
        let mut attn2 = CrossAttention::open(&w.at("attn2"), channels, context, heads, true)?;
        attn2.folds = !options.only_cross_attention;
        let attn1 = if options.only_cross_attention {
            FirstAttention::Cross(CrossAttention::open(&w.at("attn1"), channels, context, heads, false)?)
        } else {
            FirstAttention::Own(SelfAttention::open(&w.at("attn1"), channels, heads, false)?)
        };
        Ok(BasicTransformerBlock {
            norm1: norm("norm1")?,
            attn1,
            norm2: norm("norm2")?,
            attn2,
            norm3: norm("norm3")?,
            ff: FeedForward::open(&w.at("ff"), channels)?,
        })
    }

    /// `x [B,..,C]` → `[B,..,C]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn build(&self, g: &mut Graph, x: Value, context: &Context) -> Result<Value> {
        let constant = context.constants.get(self.attn2.path()).copied();
        let h = self.norm1.apply(g, x)?;
        let mut x = match &self.attn1 {
            FirstAttention::Own(attention) => attention.add_context(g, h, context, constant, x)?,
            FirstAttention::Cross(attention) => attention.add(g, h, context, x)?,
        };
        if constant.is_none() {
            let h = self.norm2.apply(g, x)?;
            x = self.attn2.add(g, h, context, x)?;
        }
        let h = self.norm3.apply(g, x)?;
        self.ff.add(g, h, x)
    }

    fn self_attention(&self) -> Option<&SelfAttention> {
        match &self.attn1 {
            FirstAttention::Own(attention) => Some(attention),
            FirstAttention::Cross(_) => None,
        }
    }

    fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        let first = match &self.attn1 {
            FirstAttention::Own(_) => None,
            FirstAttention::Cross(attention) => Some(attention),
        };
        first.into_iter().chain([&self.attn2])
    }
}

/// What a transformer is made of, besides its channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransformerOptions {
    /// Number of heads. Inside, the width is `heads · ⌊channels / heads⌋`.
    pub heads: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Channels of the context.
    pub context: usize,
    /// The first attention of every block reads the context, too.
    pub only_cross_attention: bool,
    /// Groups of the norm.
    pub groups: usize,
}

/// A transformer over the positions of a map: `x [B,H,W,C]` → `[B,H,W,C]`, in 3 + 11 · depth launches.
#[derive(Clone, Debug)]
pub struct Transformer2D {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<BasicTransformerBlock>,
    proj_out: Linear,
}

impl Transformer2D {
    /// The transformer at the cursor. Its projections may be stored as linear layers or as convolutions of one point.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(w: &Weights, channels: usize, options: &TransformerOptions) -> Result<Transformer2D> {
        let width = options.heads * (channels / options.heads.max(1));
        let block = |i| BasicTransformerBlock::open(&w.at("transformer_blocks").at(i), width, options);
        Ok(Transformer2D {
            norm: GroupNorm::open(&w.at("norm"), channels, options.groups, 1e-6)?,
            proj_in: Linear::open(&w.at("proj_in"), channels, width)?,
            transformer_blocks: (0..options.depth).map(block).collect::<Result<_>>()?,
            proj_out: Linear::open(&w.at("proj_out"), width, channels)?,
        })
    }

    /// `x [B,H,W,C]` → `[B,H,W,C]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn build(&self, g: &mut Graph, x: Value, context: &Context) -> Result<Value> {
        let h = self.norm.apply(g, x)?;
        let mut h = self.proj_in.apply(g, h)?;
        for block in &self.transformer_blocks {
            h = block.build(g, h, context)?;
        }
        self.proj_out.add(g, h, x)
    }

    /// Its self-attentions, in the order of the launches.
    pub fn self_attentions(&self) -> impl Iterator<Item = &SelfAttention> {
        self.transformer_blocks.iter().filter_map(BasicTransformerBlock::self_attention)
    }

    /// Its cross-attentions, in the order of the launches.
    pub fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        self.transformer_blocks.iter().flat_map(BasicTransformerBlock::cross_attentions)
    }
}
