//! Motion modules: transformers over the frames of a clip, one at each position of a map.
//!
//! Guo et al., "AnimateDiff" (2023). A module sees `x [B·F,H,W,C]`, clips of F successive items, and attends along the frames
//! without moving them: no transpose exists. A frame is known by a sinusoid of its place in the clip, which is added after
//! each norm; both are constants, so the norm adds their sum.

use muybridge_kernels as ops;
use muybridge_loaders::Weights;
use muybridge_runtime::{Graph, HostTensor, Value};

use crate::blocks::Conditions;
use crate::error::{Error, Result};
use crate::layers::{GroupNorm, LayerNorm, Linear};
use crate::transformer::FeedForward;

const MODEL: &str = "TemporalTransformer";

/// How a file names the parts of a module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MotionNames {
    /// `temporal_transformer.…attention_blocks.0`, `norms.0`, `ff_norm`: AnimateDiff, AnimateAnyone and Champ.
    #[default]
    Original,
    /// `…attn1`, `norm1`, `norm3`: diffusers' `MotionAdapter` and `UNetMotionModel`.
    Diffusers,
}

/// What a motion module is made of, besides its channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MotionOptions {
    /// Number of heads. Inside, the width is `heads · ⌊channels / heads / divisor⌋`.
    pub heads: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Temporal attentions in a block.
    pub attentions: usize,
    /// The channels are divided by this inside.
    pub divisor: usize,
    /// Groups of the norm.
    pub groups: usize,
    /// The norm's statistics are those of all frames of a clip, as diffusers takes them, rather than of each frame.
    pub joint_norm: bool,
    /// Most frames of a clip: rows of the position table. None where frames are not told apart.
    pub positions: Option<usize>,
    /// Names that are expected. Where the file has the other ones, those are taken.
    pub names: MotionNames,
}

/// Self-attention along the frames, with the norm before it.
#[derive(Clone, Debug)]
struct TemporalAttention {
    norm: LayerNorm,
    /// Sinusoids `[frames, C]`.
    positions: Option<HostTensor>,
    to_qkv: Linear,
    to_out: Linear,
    heads: usize,
    path: String,
}

impl TemporalAttention {
    fn open(w: &Weights, norm: &Weights, pe: &Weights, width: usize, options: &MotionOptions) -> Result<Self> {
        let parts = ["to_q", "to_k", "to_v"].map(|part| Linear::unbiased(&w.at(part), width, width));
        let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(TemporalAttention {
            norm: LayerNorm::open(norm, width, 1e-5)?,
            positions: options.positions.map(|most| positions(pe, most, width)).transpose()?,
            to_qkv: Linear::stack(&w.name("to_qkv"), &parts)?,
            to_out: Linear::open(&w.at("to_out.0"), width, width)?,
            heads: options.heads,
            path: w.path().into(),
        })
    }

    /// `x [B·F,H,W,C]` → the same, the attention added.
    fn add(&self, g: &mut Graph, x: Value, frames: usize) -> Result<Value> {
        let h = match &self.positions {
            Some(table) => self.norm.apply_table(g, x, &first_rows(table, frames, &self.path)?)?,
            None => self.norm.apply(g, x)?,
        };
        let qkv = self.to_qkv.apply(g, h)?;
        let op = ops::Attention { axis: ops::Axis::Frames(frames), ..ops::Attention::packed(self.heads) };
        let h = g.node(&self.path, op, &[qkv])?;
        self.to_out.add(g, h, x)
    }
}

/// The position table of a file, `pe [1, frames, C]`, or the formula's, of `most` frames, where it has none.
fn positions(w: &Weights, most: usize, width: usize) -> Result<HostTensor> {
    if w.has("pe") {
        let stored = w.get_any("pe")?;
        let fits = matches!(*stored.desc().shape.dims(), [1, frames, c] if frames > 0 && c == width);
        if !fits {
            let reason = format!("{}: {}, wanted [1, frames, {width}]", w.name("pe"), stored.desc());
            return Err(Error::call(MODEL, reason));
        }
        let frames = stored.desc().shape[1];
        return Ok(HostTensor::new([frames, width], stored.read()?.to_f32())?);
    }
    Ok(HostTensor::from_fn([most, width], |i| sinusoid(i / width, i % width, width)))
}

/// Element `column` of the encoding of a frame (Vaswani et al., "Attention is all you need", 2017, section 3.5).
fn sinusoid(frame: usize, column: usize, width: usize) -> f32 {
    let rate = (-(10_000f64.ln()) * (column - column % 2) as f64 / width as f64).exp();
    let angle = frame as f64 * rate;
    (if column.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
}

fn first_rows(table: &HostTensor, frames: usize, path: &str) -> Result<HostTensor> {
    let [most, width] = *table.shape().dims() else { return Ok(table.clone()) };
    if frames > most {
        let reason = format!("{path}: clips of {frames} frames, where the motion module knows {most} positions");
        return Err(Error::call(MODEL, reason));
    }
    Ok(HostTensor::new([frames, width], table.to_f32()[..frames * width].to_vec())?)
}

#[derive(Clone, Debug)]
struct TemporalBlock {
    attentions: Vec<TemporalAttention>,
    ff_norm: LayerNorm,
    ff: FeedForward,
}

impl TemporalBlock {
    fn open(w: &Weights, width: usize, options: &MotionOptions, names: MotionNames) -> Result<TemporalBlock> {
        let attention = |i: usize| match names {
            MotionNames::Original => {
                let at = w.at("attention_blocks").at(i);
                TemporalAttention::open(&at, &w.at("norms").at(i), &at.at("pos_encoder"), width, options)
            }
            MotionNames::Diffusers => {
                let at = |part: &str| w.at(format!("{part}{}", i + 1));
                TemporalAttention::open(&at("attn"), &at("norm"), &w.at("pos_embed"), width, options)
            }
        };
        let ff_norm = match names {
            MotionNames::Original => w.at("ff_norm"),
            MotionNames::Diffusers => w.at(format!("norm{}", options.attentions + 1)),
        };
        Ok(TemporalBlock {
            attentions: (0..options.attentions).map(attention).collect::<Result<_>>()?,
            ff_norm: LayerNorm::open(&ff_norm, width, 1e-5)?,
            ff: FeedForward::open(&w.at("ff"), width)?,
        })
    }

    fn build(&self, g: &mut Graph, mut x: Value, c: &Conditions) -> Result<Value> {
        for attention in &self.attentions {
            x = attention.add(g, x, c.frames)?;
        }
        c.by_frames(g, x, |g, x| {
            let h = self.ff_norm.apply(g, x)?;
            self.ff.add(g, h, x)
        })
    }
}

/// A motion module: `x [B·F,H,W,C]` → the same, in 3 + 11 · depth launches.
#[derive(Clone, Debug)]
pub struct TemporalTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<TemporalBlock>,
    proj_out: Linear,
    joint_norm: bool,
}

impl TemporalTransformer {
    /// The module at the cursor (`down_blocks.0.motion_modules.0`), under either kind of names.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(w: &Weights, channels: usize, options: &MotionOptions) -> Result<TemporalTransformer> {
        let (original, diffusers) = (w.has_prefix("temporal_transformer"), w.has_prefix("norm"));
        let names = match options.names {
            MotionNames::Original if diffusers && !original => MotionNames::Diffusers,
            MotionNames::Diffusers if original => MotionNames::Original,
            names => names,
        };
        let w = if names == MotionNames::Original { w.at("temporal_transformer") } else { w.clone() };
        let width = options.heads * (channels / options.heads.max(1) / options.divisor.max(1));
        let block = |i| TemporalBlock::open(&w.at("transformer_blocks").at(i), width, options, names);
        Ok(TemporalTransformer {
            norm: GroupNorm::open(&w.at("norm"), channels, options.groups, 1e-6)?,
            proj_in: Linear::open(&w.at("proj_in"), channels, width)?,
            transformer_blocks: (0..options.depth).map(block).collect::<Result<_>>()?,
            proj_out: Linear::open(&w.at("proj_out"), width, channels)?,
            joint_norm: options.joint_norm,
        })
    }

    /// `x [B·F,H,W,C]`, clips of `frames` → the same.
    ///
    /// # Errors
    /// Shapes that do not fit; more frames than the module has positions for.
    pub fn build(&self, g: &mut Graph, x: Value, c: &Conditions) -> Result<Value> {
        let h = self.norm.over(if self.joint_norm { c.frames } else { 1 }).apply(g, x)?;
        let mut h = self.proj_in.apply(g, h)?;
        for block in &self.transformer_blocks {
            h = block.build(g, h, c)?;
        }
        self.proj_out.add(g, h, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_the_formula() {
        // Frame 3 of width 4: angles 3 and 3 / 100.
        let row: Vec<f32> = (0..4).map(|c| sinusoid(3, c, 4)).collect();
        let want = [3f64.sin(), 3f64.cos(), 0.03f64.sin(), 0.03f64.cos()];
        assert!(row.iter().zip(want).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-7), "{row:?}");
        let table = HostTensor::from_fn([2, 4], |i| i as f32);
        assert_eq!(first_rows(&table, 1, "").unwrap().to_f32(), [0.0, 1.0, 2.0, 3.0]);
        assert!(first_rows(&table, 3, "down_blocks.0").unwrap_err().to_string().contains("down_blocks.0"));
    }
}
