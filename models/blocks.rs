//! The blocks of a UNet: one per resolution on the way down and up, and one in the middle.

use std::collections::BTreeMap;
use std::sync::Arc;

use muybridge_loaders::Weights;
use muybridge_runtime::{Graph, Value};

use crate::config::{Level, Mid, TrunkConfig};
use crate::error::{Error, Result};
use crate::layers::{Conv2d, Source};
use crate::motion::{MotionOptions, TemporalTransformer};
use crate::resnet::{ResnetBlock2D, ResnetOptions, TimeStack, map_size, open_downsampler, open_upsampler};
use crate::transformer::{Context, CrossAttention, SelfAttention, Transformer2D, TransformerOptions};

/// What every block of a step reads.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// The stacked time projections `[B,T]`.
    pub time: Option<Value>,
    /// Keys and values of the context and of the reference.
    pub context: Context,
    /// Successive items of the batch that are frames of one clip.
    pub frames: usize,
    /// Successive items that share the statistics of the residual blocks' norms: 1, or a clip's frames.
    pub norm_frames: usize,
    /// Frames that spatial work is done for at a time, one portion after the other: all at once where there are none.
    portions: Vec<Portion>,
}

/// Successive frames of the one clip, and what their blocks read.
#[derive(Clone, Debug)]
struct Portion {
    frames: usize,
    conditions: Arc<Conditions>,
}

impl Conditions {
    /// Times, and keys and values of the context, of clips of so many frames: 1 for pictures.
    pub fn new(time: Option<Value>, context: Context, frames: usize, norm_frames: usize) -> Conditions {
        Conditions { time, context, frames, norm_frames, portions: Vec::new() }
    }

    /// The same for one clip, whose spatial work is done for `at_a_time` frames at a time: no frame reads another there. All
    /// frames of a clip have the same times and the same context.
    ///
    /// # Errors
    /// Rows that cannot be cut.
    pub fn in_portions(self, g: &mut Graph, at_a_time: usize) -> Result<Conditions> {
        if at_a_time == 0 || at_a_time >= self.frames {
            return Ok(self);
        }
        let mut made: BTreeMap<usize, Arc<Conditions>> = BTreeMap::new();
        let mut portions = Vec::new();
        for first in (0..self.frames).step_by(at_a_time) {
            let frames = at_a_time.min(self.frames - first);
            let conditions = match made.get(&frames) {
                Some(conditions) => conditions.clone(),
                None => Arc::new(self.first_rows(g, frames)?),
            };
            made.insert(frames, conditions.clone());
            portions.push(Portion { frames, conditions });
        }
        Ok(Conditions { portions, ..self })
    }

    /// What the first frames read, and any others.
    fn first_rows(&self, g: &mut Graph, frames: usize) -> Result<Conditions> {
        let whole = self.frames;
        let mut rows = |v: Value| -> Result<Value> {
            match g.desc(v).shape[0] {
                items if items == whole => Ok(g.part(v, 0, frames)?),
                _ => Ok(v),
            }
        };
        let mut context = self.context.clone();
        context.mask = context.mask.map(&mut rows).transpose()?;
        for row in context.constants.values_mut() {
            *row = rows(*row)?;
        }
        let time = self.time.map(&mut rows).transpose()?;
        Ok(Conditions { time, context, frames, norm_frames: self.norm_frames, portions: Vec::new() })
    }

    /// Builds spatial work `x [F,..]` → `[F,..]` portion by portion.
    fn apply(
        &self,
        g: &mut Graph,
        x: Source,
        build: impl Fn(&mut Graph, Source, &Conditions) -> Result<Value>,
    ) -> Result<Value> {
        if self.portions.is_empty() {
            return build(g, x, self);
        }
        let (mut first, mut parts) = (0, Vec::new());
        for Portion { frames, conditions } in &self.portions {
            let part = match x {
                Source::One(x) => Source::One(g.part(x, first, *frames)?),
                Source::Two(x, x2) => Source::Two(g.part(x, first, *frames)?, g.part(x2, first, *frames)?),
            };
            parts.push(build(g, part, conditions)?);
            first += frames;
        }
        Ok(g.join(&parts)?)
    }

    /// Builds work that reads nothing but `x [F,..]` → `[F,..]`, portion by portion.
    pub(crate) fn by_frames(
        &self,
        g: &mut Graph,
        x: Value,
        build: impl Fn(&mut Graph, Value) -> Result<Value>,
    ) -> Result<Value> {
        self.apply(g, x.into(), |g, x, _| build(g, x.first()))
    }
}

/// What may follow the residual block `j` of a block: a transformer over positions, and one over frames.
#[derive(Clone, Debug)]
struct Followers {
    attentions: Vec<Transformer2D>,
    motion_modules: Vec<TemporalTransformer>,
}

impl Followers {
    fn open(w: &Weights, channels: usize, attentions: &[TransformerOptions], motion: &[MotionOptions]) -> Result<Self> {
        let attention = |(j, options)| Transformer2D::open(&w.at("attentions").at(j), channels, options);
        let module = |(j, options)| TemporalTransformer::open(&w.at("motion_modules").at(j), channels, options);
        Ok(Followers {
            attentions: attentions.iter().enumerate().map(attention).collect::<Result<_>>()?,
            motion_modules: motion.iter().enumerate().map(module).collect::<Result<_>>()?,
        })
    }

    /// The residual block `j` and what follows it.
    fn build(
        &self,
        g: &mut Graph,
        resnet: &ResnetBlock2D,
        j: usize,
        x: impl Into<Source>,
        c: &Conditions,
    ) -> Result<Value> {
        let x = x.into();
        let attend = |g: &mut Graph, x: Value, c: &Conditions| match self.attentions.get(j) {
            Some(attention) => attention.build(g, x, &c.context),
            None => Ok(x),
        };
        let x = if c.norm_frames == 1 {
            c.apply(g, x, |g, x, c| {
                let x = resnet.build_over(g, x, c.time, 1)?;
                attend(g, x, c)
            })?
        } else {
            // The norms of the residual block read all frames.
            let x = resnet.build_over(g, x, c.time, c.norm_frames)?;
            match self.attentions.get(j) {
                Some(attention) => c.apply(g, x.into(), |g, x, c| attention.build(g, x.first(), &c.context))?,
                None => x,
            }
        };
        self.motion_modules.get(j).map_or(Ok(x), |module| module.build(g, x, c))
    }

    fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        self.attentions.iter().flat_map(Transformer2D::cross_attentions)
    }

    fn self_attentions(&self) -> impl Iterator<Item = &SelfAttention> {
        self.attentions.iter().flat_map(Transformer2D::self_attentions)
    }
}

/// One resolution on the way down: `[B,H,W,Cin]` → `[B,⌈H/2⌉,⌈W/2⌉,C]`, or the same extents at the coarsest.
#[derive(Clone, Debug)]
pub struct DownBlock2D {
    resnets: Vec<ResnetBlock2D>,
    followers: Followers,
    downsampler: Option<Conv2d>,
}

impl DownBlock2D {
    /// The block at the cursor. With `padding`, it ends in a halving convolution of this padding.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(
        w: &Weights,
        cin: usize,
        level: &Level,
        options: &ResnetOptions,
        padding: Option<usize>,
        time: &mut TimeStack,
    ) -> Result<DownBlock2D> {
        let mut resnet = |j| {
            let cin = if j == 0 { cin } else { level.channels };
            ResnetBlock2D::open(&w.at("resnets").at(j), cin, level.channels, options, Some(&mut *time))
        };
        Ok(DownBlock2D {
            resnets: (0..level.layers).map(&mut resnet).collect::<Result<_>>()?,
            followers: Followers::open(w, level.channels, &level.attentions, &level.motion)?,
            downsampler: padding.map(|p| open_downsampler(w, level.channels, p)).transpose()?,
        })
    }

    /// Builds the block; every result that the way up reads is pushed to `skips`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn build(&self, g: &mut Graph, mut x: Value, c: &Conditions, skips: &mut Vec<Value>) -> Result<Value> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            x = self.followers.build(g, resnet, j, x, c)?;
            skips.push(x);
        }
        if let Some(downsampler) = &self.downsampler {
            x = c.by_frames(g, x, |g, x| downsampler.apply(g, x))?;
            skips.push(x);
        }
        Ok(x)
    }
}

/// The middle: `[B,H,W,C]` → `[B,H,W,C]`.
#[derive(Clone, Debug)]
pub struct MidBlock2D {
    resnets: Vec<ResnetBlock2D>,
    followers: Followers,
}

impl MidBlock2D {
    /// The block at the cursor: residual blocks round each transformer, or one residual block.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(w: &Weights, channels: usize, mid: &Mid, time: &mut TimeStack) -> Result<MidBlock2D> {
        let resnet = |j| ResnetBlock2D::open(&w.at("resnets").at(j), channels, channels, &mid.resnet, Some(&mut *time));
        Ok(MidBlock2D {
            resnets: (0..=mid.attentions.len()).map(resnet).collect::<Result<_>>()?,
            followers: Followers::open(w, channels, &mid.attentions, &mid.motion)?,
        })
    }

    /// Builds the block.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn build(&self, g: &mut Graph, mut x: Value, c: &Conditions) -> Result<Value> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            x = self.followers.build(g, resnet, j, x, c)?;
        }
        Ok(x)
    }
}

/// One resolution on the way up: `[B,H,W,Cin]` and skips → the extents of the next skip, or the same at the finest.
#[derive(Clone, Debug)]
pub struct UpBlock2D {
    resnets: Vec<ResnetBlock2D>,
    followers: Followers,
    upsampler: Option<Conv2d>,
}

impl UpBlock2D {
    /// The block at the cursor. `skips` counts the channels of the skips that it takes, in this order.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(
        w: &Weights,
        cin: usize,
        skips: &[usize],
        level: &Level,
        options: &ResnetOptions,
        upsamples: bool,
        time: &mut TimeStack,
    ) -> Result<UpBlock2D> {
        let mut resnet = |(j, skip): (usize, &usize)| {
            let cin = if j == 0 { cin } else { level.channels } + skip;
            ResnetBlock2D::open(&w.at("resnets").at(j), cin, level.channels, options, Some(&mut *time))
        };
        Ok(UpBlock2D {
            resnets: skips.iter().enumerate().map(&mut resnet).collect::<Result<_>>()?,
            followers: Followers::open(w, level.channels, &level.attentions, &level.motion)?,
            upsampler: upsamples.then(|| open_upsampler(w, level.channels)).transpose()?,
        })
    }

    /// Builds the block; it pops the skips that it reads, and takes the extents of the next one.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn build(&self, g: &mut Graph, mut x: Value, c: &Conditions, skips: &mut Vec<Value>) -> Result<Value> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop().ok_or_else(|| Error::call("UpBlock2D", "more residual blocks than skips"))?;
            x = self.followers.build(g, resnet, j, Source::Two(x, skip), c)?;
        }
        match (&self.upsampler, skips.last()) {
            (Some(upsampler), Some(next)) => {
                let size = map_size(g, *next);
                c.by_frames(g, x, |g, x| upsampler.upsample(g, x, size))
            }
            _ => Ok(x),
        }
    }

    /// The cross-attentions of the block.
    pub fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        self.followers.cross_attentions()
    }

    /// The self-attentions of the block.
    pub fn self_attentions(&self) -> impl Iterator<Item = &SelfAttention> {
        self.followers.self_attentions()
    }
}

/// The blocks down to the middle, which UNet and ControlNet have in common.
#[derive(Clone, Debug)]
pub struct Trunk {
    /// Channels of the skips, in the order of the launches.
    pub(crate) skips: Vec<usize>,
    down_blocks: Vec<DownBlock2D>,
    mid_block: Option<MidBlock2D>,
}

impl Trunk {
    /// `down_blocks` and `mid_block` below the cursor.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn open(w: &Weights, config: &TrunkConfig, time: &mut TimeStack) -> Result<Trunk> {
        let mut cin = config.levels.first().map_or(0, |l| l.channels);
        let mut skips = vec![cin];
        let mut down_blocks = Vec::new();
        for (i, level) in config.levels.iter().enumerate() {
            let padding = (i + 1 < config.levels.len()).then_some(config.downsample_padding);
            let at = w.at("down_blocks").at(i);
            down_blocks.push(DownBlock2D::open(&at, cin, level, &config.resnet, padding, time)?);
            cin = level.channels;
            skips.extend(vec![cin; level.layers + usize::from(padding.is_some())]);
        }
        let mid = |mid| MidBlock2D::open(&w.at("mid_block"), cin, mid, time);
        Ok(Trunk { skips, down_blocks, mid_block: config.mid.as_ref().map(mid).transpose()? })
    }

    /// `x [B,h,w,C0]` (the first convolution's result) → all skips, `x` itself first, and the coarsest map.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn down(&self, g: &mut Graph, mut x: Value, c: &Conditions) -> Result<(Vec<Value>, Value)> {
        let mut skips = vec![x];
        for block in &self.down_blocks {
            x = block.build(g, x, c, &mut skips)?;
        }
        Ok((skips, x))
    }

    /// The middle, where the network has one.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn mid(&self, g: &mut Graph, x: Value, c: &Conditions) -> Result<Value> {
        self.mid_block.as_ref().map_or(Ok(x), |mid| mid.build(g, x, c))
    }

    /// All cross-attentions, in the order of the launches.
    pub fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        let down = self.down_blocks.iter().map(|b| &b.followers);
        let mid = self.mid_block.iter().map(|b| &b.followers);
        down.chain(mid).flat_map(Followers::cross_attentions)
    }

    /// The self-attentions of the way down, in the order of the launches, each with the number of its block.
    pub fn self_attentions(&self) -> impl Iterator<Item = (usize, &SelfAttention)> {
        self.down_blocks.iter().enumerate().flat_map(|(i, b)| b.followers.self_attentions().map(move |a| (i, a)))
    }

    /// The self-attentions of the middle.
    pub fn mid_self_attentions(&self) -> impl Iterator<Item = &SelfAttention> {
        self.mid_block.iter().flat_map(|b| b.followers.self_attentions())
    }
}
