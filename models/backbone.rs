//! Everything of a UNet between its latents and its last norm: what denoising networks and reference networks share.

use muybridge_kernels as ops;
use muybridge_loaders::Weights;
use muybridge_runtime::{Graph, HostTensor, TensorDesc, Value, Weight};

use crate::blocks::{Conditions, Trunk, UpBlock2D};
use crate::config::UnetConfig;
use crate::embeddings::TimeEmbedding;
use crate::error::{Error, Result};
use crate::layers::{Conv2d, Linear};
use crate::resnet::TimeStack;
use crate::stages::{Operands, Stages, UnetShape};
use crate::transformer::{Context, CrossAttention, SelfAttention};
use crate::unet::Residuals;

/// The blocks of a UNet, and what they read.
#[derive(Debug)]
pub struct Backbone {
    conv_in: Conv2d,
    time: TimeEmbedding,
    time_emb_proj: Option<Linear>,
    encoder_hid_proj: Option<Linear>,
    pub(crate) trunk: Trunk,
    up_blocks: Vec<UpBlock2D>,
    pub(crate) config: UnetConfig,
}

impl Backbone {
    /// The blocks at the root of a checkpoint.
    ///
    /// # Errors
    /// A tensor is missing or has another shape; a configuration without levels.
    pub fn open(w: &Weights, config: UnetConfig) -> Result<Backbone> {
        let c = &config.trunk;
        let none = || Error::call("UNet2DConditionModel", "a network without levels");
        let finest = c.levels.first().ok_or_else(none)?.channels;
        let mut stack = TimeStack::new(c.time.width());
        let conv_in = Conv2d::open(&w.at("conv_in"), c.in_channels, finest, c.conv_in_kernel)?;
        let trunk = Trunk::open(w, c, &mut stack)?;
        let up_blocks = open_up_blocks(w, &config, &trunk.skips, &mut stack)?;
        let hid_proj = |n| Linear::open(&w.at("encoder_hid_proj"), n, c.context);
        Ok(Backbone {
            conv_in,
            time: TimeEmbedding::open(w, &c.time)?,
            time_emb_proj: stack.finish()?,
            encoder_hid_proj: config.encoder_hid_dim.map(hid_proj).transpose()?,
            trunk,
            up_blocks,
            config,
        })
    }

    /// `sample [B·F,h,w,Cin]`, `timestep [B]`, context `[B,M,K]` → `[B·F,h,w,C0]`, before the last norm.
    ///
    /// # Errors
    /// An operand that the network needs was not declared; shapes that do not fit.
    pub fn build(&self, s: &mut Stages, o: &Operands, residuals: Option<Residuals>) -> Result<Value> {
        let c = self.conditions(s, o)?;
        let g = &mut s.step;
        let x = if self.config.center_input_sample { centred(g, o.sample)? } else { o.sample };
        let mut x = match o.pose_features {
            Some(pose) => self.conv_in.add(g, x, pose)?,
            None => self.conv_in.apply(g, x)?,
        };
        if o.shared && o.clips > 1 {
            // Up to here all clips are alike: they denoise the same latents in the same pose.
            x = g.node("conv_in", ops::Layout::Repeat { run: o.frames, times: o.clips }, &[x])?;
        }
        let (mut skips, x) = self.trunk.down(g, x, &c)?;
        let mut x = self.trunk.mid(g, x, &c)?;
        if let Some(r) = residuals {
            skips = add_residuals(g, &skips, &r.down)?;
            x = r.mid.map_or(Ok(x), |mid| add_residual(g, "mid_residual", x, mid))?;
        }
        for block in &self.up_blocks {
            x = block.build(g, x, &c, &mut skips)?;
        }
        Ok(x)
    }

    fn conditions(&self, s: &mut Stages, o: &Operands) -> Result<Conditions> {
        let context = match &self.encoder_hid_proj {
            Some(proj) => proj.apply(&mut s.once, o.encoder_hidden_states)?,
            None => o.encoder_hidden_states,
        };
        let cross = self.trunk.cross_attentions().chain(self.up_blocks.iter().flat_map(UpBlock2D::cross_attentions));
        let mut context = keys_of(s, o, context, cross)?;
        self.reference(s, o, &mut context)?;
        let e = self.time.build(s, o)?;
        let g = &mut s.step;
        let time = self.time_emb_proj.as_ref().map(|proj| proj.apply(g, e)).transpose()?;
        let time = time.map(|rows| repeat_rows(g, "time_emb_proj", rows, o.frames)).transpose()?;
        let norm_frames = if self.config.trunk.joint_norms { o.frames } else { 1 };
        Conditions::new(time, context, o.frames, norm_frames).in_portions(g, o.at_a_time)
    }

    /// Keys and values of the reference's features as this network sees them, once per clip.
    fn reference(&self, s: &mut Stages, o: &Operands, context: &mut Context) -> Result<()> {
        let Some(shape) = o.reference else { return Ok(()) };
        context.first_reader = shape.first_clip * o.frames;
        let mut size = [shape.height, shape.width];
        let mut sizes = vec![size];
        for _ in 1..self.config.trunk.levels.len() {
            size = size.map(|n| self.config.trunk.halved(n));
            sizes.push(size);
        }
        for (level, attention) in self.self_attentions(shape.blocks) {
            let [h, w] = sizes.get(level).copied().unwrap_or(size);
            let desc = TensorDesc::new([shape.items, h, w, attention.width()], o.dtype);
            let features = s.once.input(format!("reference.{}", block_of(attention)), desc);
            let kv = attention.reference_keys(&mut s.once, features)?;
            let kv = s.hand_over(&format!("{}.reference", attention.path()), kv);
            context.reference.insert(attention.path().into(), kv);
        }
        Ok(())
    }

    /// The self-attentions of some blocks, in the order of the launches, each with the number of halvings before it.
    pub fn self_attentions(&self, blocks: FusionBlocks) -> impl Iterator<Item = (usize, &SelfAttention)> {
        let coarsest = self.config.trunk.levels.len().saturating_sub(1);
        let down = self.trunk.self_attentions().filter(move |_| blocks == FusionBlocks::Full);
        let mid = self.trunk.mid_self_attentions().map(move |a| (coarsest, a));
        let up = self.up_blocks.iter().enumerate();
        let up = up.flat_map(move |(i, b)| b.self_attentions().map(move |a| (coarsest.saturating_sub(i), a)));
        down.chain(mid).chain(up)
    }

    /// Operands for residuals that come from elsewhere: their extents follow the halvings.
    pub(crate) fn declare_residuals(&self, g: &mut Graph, shape: &UnetShape) -> Residuals {
        let trunk = &self.config.trunk;
        let mut size = [shape.height, shape.width];
        let mut sizes = vec![size];
        for (i, level) in trunk.levels.iter().enumerate() {
            sizes.extend(vec![size; level.layers]);
            if i + 1 < trunk.levels.len() {
                size = size.map(|n| trunk.halved(n));
                sizes.push(size);
            }
        }
        let desc = |[h, w]: [usize; 2], c: usize| TensorDesc::new([shape.items(), h, w, c], shape.dtype);
        let skips = sizes.iter().zip(&self.trunk.skips).enumerate();
        let down = skips.map(|(i, (size, c))| g.input(format!("down_residual.{i}"), desc(*size, *c))).collect();
        let coarsest = trunk.levels.last().map_or(0, |l| l.channels);
        Residuals { down, mid: Some(g.input("mid_residual", desc(size, coarsest))) }
    }
}

/// The blocks whose features a reference network gives and a denoising network reads (`fusion_blocks`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FusionBlocks {
    /// All of them.
    #[default]
    Full,
    /// Those of the middle and the way up.
    MidUp,
}

/// Path of the transformer block that an attention belongs to.
pub(crate) fn block_of(attention: &SelfAttention) -> &str {
    attention.path().strip_suffix(".attn1").unwrap_or(attention.path())
}

fn open_up_blocks(w: &Weights, c: &UnetConfig, skips: &[usize], stack: &mut TimeStack) -> Result<Vec<UpBlock2D>> {
    let mut left = skips.to_vec();
    let mut cin = c.trunk.levels.last().map_or(0, |l| l.channels);
    let mut blocks = Vec::new();
    for (i, level) in c.up.iter().enumerate() {
        let rest = left.len().saturating_sub(level.layers);
        let taken: Vec<usize> = left.drain(rest..).rev().collect();
        let upsamples = i + 1 < c.up.len();
        let at = w.at("up_blocks").at(i);
        blocks.push(UpBlock2D::open(&at, cin, &taken, level, &c.trunk.resnet, upsamples, stack)?);
        cin = level.channels;
    }
    Ok(blocks)
}

/// The row of each clip for each of its frames.
pub(crate) fn repeat_rows(g: &mut Graph, path: &str, rows: Value, frames: usize) -> Result<Value> {
    if frames == 1 {
        return Ok(rows);
    }
    Ok(g.node(path, ops::Layout::Repeat { run: 1, times: frames }, &[rows])?)
}

/// Keys and values of the context for each cross-attention, once per clip; of a context of one token, the attention's whole
/// result.
pub(crate) fn keys_of<'a>(
    s: &mut Stages,
    o: &Operands,
    context: Value,
    cross: impl Iterator<Item = &'a CrossAttention>,
) -> Result<Context> {
    let mut keys = Context::default();
    let single = s.once.desc(context).shape.dims().get(1) == Some(&1) && o.mask.is_none();
    for attention in cross {
        if single && attention.folds() {
            let row = attention.constant(&mut s.once, context, o.frames)?;
            keys.constants.insert(attention.path().into(), s.hand_over(attention.path(), row));
        } else {
            let kv = attention.keys(&mut s.once, context)?;
            keys.keys.insert(attention.path().into(), s.hand_over(attention.path(), kv));
        }
    }
    if let Some(mask) = o.mask {
        let mask = repeat_rows(&mut s.once, "encoder_attention_mask", mask, o.frames)?;
        keys.mask = Some(s.hand_over("encoder_attention_bias", mask));
    }
    Ok(keys)
}

/// 2x − 1
fn centred(g: &mut Graph, x: Value) -> Result<Value> {
    let desc = g.desc(x);
    let row = HostTensor::from_fn([desc.shape.last()], |_| -1.0).convert(desc.dtype);
    let row = g.weight(&Weight::owned("center_input_sample", row));
    let doubled = g.node("center_input_sample", ops::Elementwise::Scale(2.0), &[x])?;
    Ok(g.node("center_input_sample", ops::Elementwise::ADD, &[doubled, row])?)
}

pub(crate) fn add_residuals(g: &mut Graph, skips: &[Value], residuals: &[Value]) -> Result<Vec<Value>> {
    if skips.len() != residuals.len() {
        let reason = format!("{} residuals for {} skips", residuals.len(), skips.len());
        return Err(Error::call("UNet2DConditionModel", reason));
    }
    let pairs = skips.iter().zip(residuals).enumerate();
    pairs.map(|(i, (a, b))| add_residual(g, &format!("down_residual.{i}"), *a, *b)).collect()
}

/// `a + b`; of two maps of one position and many, the one is added to all.
pub(crate) fn add_residual(g: &mut Graph, path: &str, a: Value, b: Value) -> Result<Value> {
    let pixels = |g: &Graph, v: Value| crate::resnet::map_size(g, v);
    let (big, small) = if pixels(g, a) == [1, 1] { (b, a) } else { (a, b) };
    let size = pixels(g, big);
    let small = if size != [1, 1] && pixels(g, small) == [1, 1] {
        g.node(path, ops::Resample { mode: ops::Mode::Nearest, size }, &[small])?
    } else {
        small
    };
    Ok(g.node(path, ops::Elementwise::ADD, &[big, small])?)
}
