//! CLIP: text and pictures to states and embeddings in one space.
//!
//! Radford et al., "Learning transferable visual models from natural language supervision" (2021). Both towers are the same
//! pre-norm transformer; the text tower is causal.

mod config;
mod preprocess;
mod text;
mod vision;

use muybridge_kernels as ops;
use muybridge_kernels::Activation;
use muybridge_loaders::{Config, Weights};
use muybridge_runtime::{Graph, HostTensor, Value};

pub use config::{ClipConfig, ClipTextConfig, ClipVisionConfig};
pub use preprocess::{Preprocess, Sizing};
pub use text::{ClipText, ClipTextShape, TextStates};
pub use vision::{ClipVision, VisionStates};

use crate::error::Result;
use crate::layers::{LayerNorm, Linear};

/// Self-attention: `x [B,..,C]` → `[B,..,C]`, in three launches.
#[derive(Clone, Debug)]
struct ClipAttention {
    qkv: Linear,
    out_proj: Linear,
    op: ops::Attention,
    path: String,
}

impl ClipAttention {
    fn open(w: &Weights, c: &ClipConfig, causal: bool) -> Result<ClipAttention> {
        let parts = ["q_proj", "k_proj", "v_proj"].map(|part| Linear::open(&w.at(part), c.width, c.width));
        let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(ClipAttention {
            qkv: Linear::stack(&w.name("qkv_proj"), &parts)?,
            out_proj: Linear::open(&w.at("out_proj"), c.width, c.width)?,
            op: ops::Attention { causal, ..ops::Attention::packed(c.heads) },
            path: w.path().into(),
        })
    }

    fn add(&self, g: &mut Graph, x: Value, bias: Option<Value>, residual: Value) -> Result<Value> {
        let qkv = self.qkv.apply(g, x)?; // [B,..,3C]
        let op = ops::Attention { mask: bias.is_some(), ..self.op };
        let operands: Vec<Value> = [qkv].into_iter().chain(bias).collect();
        let h = g.node(&self.path, op, &operands)?;
        self.out_proj.add(g, h, residual)
    }
}

/// `x [B,..,C]` → `[B,..,C]`, in seven launches.
#[derive(Clone, Debug)]
struct ClipLayer {
    layer_norm1: LayerNorm,
    self_attn: ClipAttention,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl ClipLayer {
    fn open(w: &Weights, c: &ClipConfig, causal: bool) -> Result<ClipLayer> {
        let mlp = w.at("mlp");
        Ok(ClipLayer {
            layer_norm1: LayerNorm::open(&w.at("layer_norm1"), c.width, c.eps)?,
            self_attn: ClipAttention::open(&w.at("self_attn"), c, causal)?,
            layer_norm2: LayerNorm::open(&w.at("layer_norm2"), c.width, c.eps)?,
            fc1: Linear::open(&mlp.at("fc1"), c.width, c.intermediate)?,
            fc2: Linear::open(&mlp.at("fc2"), c.intermediate, c.width)?,
            activation: c.activation,
        })
    }

    fn build(&self, g: &mut Graph, x: Value, bias: Option<Value>) -> Result<Value> {
        let h = self.layer_norm1.apply(g, x)?;
        let x = self.self_attn.add(g, h, bias, x)?;
        let h = self.layer_norm2.apply(g, x)?;
        let h = self.fc1.activate(g, h, self.activation)?;
        self.fc2.add(g, h, x)
    }
}

/// The layers of a tower.
#[derive(Clone, Debug)]
struct ClipEncoder {
    layers: Vec<ClipLayer>,
}

impl ClipEncoder {
    fn open(w: &Weights, c: &ClipConfig, causal: bool) -> Result<ClipEncoder> {
        let layer = |i| ClipLayer::open(&w.at("layers").at(i), c, causal);
        Ok(ClipEncoder { layers: (0..c.layers).map(layer).collect::<Result<_>>()? })
    }

    /// The states after all layers, and those after all but the last `skip`.
    fn build(&self, g: &mut Graph, x: Value, bias: Option<Value>, skip: usize) -> Result<[Value; 2]> {
        let kept = self.layers.len().saturating_sub(skip);
        let (mut x, mut hidden) = (x, x);
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.build(g, x, bias)?;
            hidden = if i < kept { x } else { hidden };
        }
        Ok([x, hidden])
    }
}

/// The cursor of one tower: its names with or without the tower's prefix; what belongs to the other is left alone.
fn tower(w: Weights, own: &str, other: [&str; 2]) -> Result<Weights> {
    let w = w.strip_wrappers()?.strip_prefix(own)?;
    for part in other.into_iter().chain(["logit_scale"]) {
        w.ignore(part);
    }
    Ok(w)
}

/// The part of a configuration that is about one tower, where the file is about both.
fn own_part(config: &Config, part: &str) -> Result<Option<Config>> {
    if config.has("hidden_size") { Ok(None) } else { Ok(config.object(part)?) }
}

/// `count` rows of a host tensor `[B,..,C]`, one for each item: `row(b)` says which.
fn rows(tensor: &HostTensor, row: impl Fn(usize) -> usize) -> HostTensor {
    let shape = tensor.shape();
    let (batch, c) = (shape.dims().first().copied().unwrap_or(0), shape.last());
    let positions = shape.rows() / batch.max(1);
    let all = tensor.to_f32();
    HostTensor::from_fn([batch, c], |i| all[((i / c) * positions + row(i / c)) * c + i % c])
}
