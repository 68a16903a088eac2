//! Configurations of networks for clips: `UNet3DConditionModel` of AnimateAnyone and Champ, diffusers' `UNetMotionModel`, and
//! a `UNet2DConditionModel` joined with a `MotionAdapter`.

use muybridge_kernels::Activation;
use muybridge_loaders::Config;

use crate::config::{
    Blocks, Depth, Level, MOST_LAYERS, UnetConfig, activation, at_most, block_types, look_at, refuse_other, unknown,
};
use crate::embeddings::{AdditionOptions, TimeOptions};
use crate::error::{Error, Result};
use crate::motion::{MotionNames, MotionOptions};

/// Rows of a table of positions: the frames of a clip that a motion module knows.
const MOST_POSITIONS: usize = 4096;

impl UnetConfig {
    /// Reads the fields of a network for pictures or clips, whichever class the configuration names.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that the engine does not support.
    pub fn read_any(c: &Config) -> Result<UnetConfig> {
        match c.str("_class_name") {
            Ok("UNet3DConditionModel") => UnetConfig::read_3d(c),
            Ok("UNetMotionModel") => UnetConfig::read_motion(c, None),
            _ => UnetConfig::read(c),
        }
    }

    /// Reads the fields of AnimateAnyone's `UNet3DConditionModel`: a UNet for pictures, inflated to clips.
    ///
    /// # Errors
    /// As [`UnetConfig::read_any`].
    pub fn read_3d(c: &Config) -> Result<UnetConfig> {
        let (blocks, up_types) = blocks(c, "3D")?;
        let mut mid = match c.opt::<String>("mid_block_type")?.as_deref() {
            None | Some("UNetMidBlock3DCrossAttn") => blocks.mid(c, None)?,
            Some(other) => return Err(unknown(c, "mid_block_type", other, "UNetMidBlock3DCrossAttn")),
        };
        for field in ["dual_cross_attention", "unet_use_cross_frame_attention", "unet_use_temporal_attention"] {
            refuse_other(c, field, "false")?;
        }
        look_at(c, &["upcast_attention", "use_linear_projection", "sample_size", "mode", "task_type"]);
        let mut time = TimeOptions::read(c, blocks.channels[0], true)?;
        time.between = Activation::Silu;
        let mut up = blocks.up(c, &up_types)?;
        let mut trunk = blocks.trunk(c, None, time, 3)?;
        if let Some(motion) = Motion3d::read(c)? {
            for (i, level) in trunk.levels.iter_mut().enumerate().filter(|_| !motion.decoder_only) {
                level.motion = motion.at(Some(i), level.layers);
            }
            for (i, level) in up.iter_mut().enumerate() {
                // Resolutions count back from the coarsest of four levels, as the published code has them.
                level.motion = motion.at(3usize.checked_sub(i), level.layers);
            }
            if motion.mid {
                mid.motion = vec![motion.options; mid.attentions.len()];
            }
        }
        trunk.mid = Some(mid);
        trunk.joint_norms = !c.or("use_inflated_groupnorm", false)?;
        Ok(UnetConfig {
            trunk,
            up,
            out_channels: c.or("out_channels", 4)?,
            conv_out_kernel: 3,
            out_activation: Activation::Silu,
            // The published code scales by two and subtracts one.
            center_input_sample: c.or("center_input_sample", false)?,
            encoder_hid_dim: None,
        })
    }

    /// Reads the fields of diffusers' `UNetMotionModel`, or, with an adapter's configuration, those of a
    /// `UNet2DConditionModel` as `UNetMotionModel.from_unet2d` takes them over.
    ///
    /// # Errors
    /// As [`UnetConfig::read_any`]; an adapter for another number of blocks or layers.
    pub fn read_motion(c: &Config, adapter: Option<&Config>) -> Result<UnetConfig> {
        let (mut blocks, up_types) = blocks(c, if adapter.is_some() { "2D" } else { "Motion" })?;
        // Fields that `UNetMotionModel` does not have.
        blocks.plain();
        let levels = blocks.channels.len();
        if let Some(adapter) = adapter {
            fits(adapter, &blocks)?;
        }
        let mid_layers: usize = if adapter.is_some() { 1 } else { c.or("mid_block_layers", 1)? };
        at_most(c, "mid_block_layers", mid_layers, MOST_LAYERS)?;
        let motion = Motion2d::read(c, adapter, levels, mid_layers)?;
        let mut mid = blocks.mid(c, None)?;
        let depth = |i| match c.opt::<Depth>("transformer_layers_per_mid_block")? {
            Some(depth) => depth.of(c, "transformer_layers_per_mid_block", i),
            None => Ok(blocks.last_depth().unwrap_or(1)),
        };
        let attention = |i| blocks.transformer(c, levels - 1, depth(i)?);
        mid.attentions = (0..mid_layers).map(attention).collect::<Result<_>>()?;
        if motion.mid {
            mid.motion = (0..mid_layers).map(|i| motion.mid_module(i)).collect::<Result<_>>()?;
        }
        let time = motion_time(c, blocks.channels[0])?;
        let mut up = blocks.up(c, &up_types)?;
        let mut trunk = blocks.trunk(c, None, time, 3)?;
        for (i, level) in trunk.levels.iter_mut().enumerate() {
            level.motion = motion.modules(level, i, &motion.depths[i])?;
        }
        for (i, level) in up.iter_mut().enumerate() {
            level.motion = motion.modules(level, levels - 1 - i, &motion.up_depths[i])?;
        }
        trunk.mid = Some(mid);
        if let Some(kind) = c.opt::<String>("encoder_hid_dim_type")? {
            return Err(unknown(c, "encoder_hid_dim_type", &kind, "null"));
        }
        look_at(c, &["encoder_hid_dim", "sample_size", "use_linear_projection", "reverse_motion_num_attention_heads"]);
        Ok(UnetConfig {
            trunk,
            up,
            out_channels: c.or("out_channels", 4)?,
            conv_out_kernel: 3,
            out_activation: Activation::Silu,
            center_input_sample: false,
            encoder_hid_dim: None,
        })
    }
}

fn blocks(c: &Config, kind: &str) -> Result<(Blocks, Vec<bool>)> {
    let types = block_types(c, "down_block_types", "Down", kind)?;
    let up_types = block_types(c, "up_block_types", "Up", kind)?;
    if up_types.len() != types.len() {
        let reason = format!("{} blocks, and {} in down_block_types", up_types.len(), types.len());
        return Err(c.error("up_block_types", reason).into());
    }
    Ok((Blocks::read(c, types)?, up_types))
}

/// Time options of a `UNetMotionModel`: fewer than those of a UNet for pictures.
fn motion_time(c: &Config, channels: usize) -> Result<TimeOptions> {
    let act = activation(c, "act_fn")?.unwrap_or(Activation::Silu);
    look_at(c, &["addition_time_embed_dim", "projection_class_embeddings_input_dim"]);
    Ok(TimeOptions {
        channels,
        dim: 4 * channels,
        cosine_first: true,
        freq_shift: 0.0,
        activation: act,
        between: act,
        post: Activation::None,
        last: Activation::None,
        condition: c.opt("time_cond_proj_dim")?,
        class: None,
        concat: false,
        addition: AdditionOptions::read(c)?,
    })
}

/// Whether an adapter has a module for every layer of the blocks.
fn fits(adapter: &Config, blocks: &Blocks) -> Result<()> {
    if adapter.has("conv_in_channels") {
        return Err(adapter
            .error("conv_in_channels", "adapters with a first convolution (PIA) are not supported")
            .into());
    }
    let levels = blocks.channels.len();
    let channels: Vec<usize> = adapter.opt("block_out_channels")?.unwrap_or_else(|| vec![320, 640, 1280, 1280]);
    let layers = adapter.opt_list_or_scalar("motion_layers_per_block", levels)?.unwrap_or_else(|| vec![2; levels]);
    if channels != blocks.channels || layers != blocks.layers {
        let (own, ours) = (&blocks.channels, &blocks.layers);
        let reason = format!("channels {channels:?} with {layers:?} layers, where the UNet has {own:?} with {ours:?}");
        return Err(adapter.error("block_out_channels", reason).into());
    }
    let mid: usize = adapter.or("motion_mid_block_layers_per_block", 1)?;
    if mid != 1 {
        return Err(adapter.error("motion_mid_block_layers_per_block", format!("{mid}, where a UNet has 1")).into());
    }
    // The groups that count are the UNet's.
    look_at(adapter, &["motion_norm_num_groups"]);
    Ok(())
}

/// `motion_module_*` of a `UNet3DConditionModel`.
struct Motion3d {
    options: MotionOptions,
    resolutions: Vec<usize>,
    decoder_only: bool,
    mid: bool,
}

impl Motion3d {
    fn read(c: &Config) -> Result<Option<Motion3d>> {
        let resolutions = c.opt("motion_module_resolutions")?.unwrap_or_else(|| vec![1, 2, 4, 8]);
        let (decoder_only, mid) = (c.or("motion_module_decoder_only", false)?, c.or("motion_module_mid_block", false)?);
        let kind: Option<String> = c.opt("motion_module_type")?;
        let kwargs = c.object("motion_module_kwargs")?;
        if !c.or("use_motion_module", false)? {
            return Ok(None);
        }
        match kind.as_deref() {
            Some("Vanilla") => {}
            other => return Err(unknown(c, "motion_module_type", other.unwrap_or("null"), "Vanilla")),
        }
        let options = match &kwargs {
            Some(k) => Motion3d::options(k)?,
            None => Motion3d::options(&Config::parse(b"{}", c.file())?)?,
        };
        Ok(Some(Motion3d { options, resolutions, decoder_only, mid }))
    }

    fn options(k: &Config) -> Result<MotionOptions> {
        let types: Option<Vec<String>> = k.opt("attention_block_types")?;
        let types = types.unwrap_or_else(|| vec!["Temporal_Self".into(); 2]);
        if let Some(other) = types.iter().find(|t| *t != "Temporal_Self") {
            return Err(unknown(k, "attention_block_types", other, "Temporal_Self"));
        }
        if let Some(mode) = k.opt::<String>("cross_frame_attention_mode")? {
            return Err(unknown(k, "cross_frame_attention_mode", &mode, "null"));
        }
        look_at(k, &["zero_initialize"]);
        let field = "temporal_position_encoding_max_len";
        let most = at_most(k, field, k.or(field, 24)?, MOST_POSITIONS)?;
        let heads = sound(k, "num_attention_heads", k.or("num_attention_heads", 8)?)?;
        Ok(MotionOptions {
            heads,
            depth: at_most(k, "num_transformer_block", k.or("num_transformer_block", 2)?, MOST_LAYERS)?,
            attentions: at_most(k, "attention_block_types", types.len(), MOST_LAYERS)?,
            divisor: sound(k, "temporal_attention_dim_div", k.or("temporal_attention_dim_div", 1)?)?,
            // Whatever the network's own norms have.
            groups: 32,
            joint_norm: false,
            positions: k.or("temporal_position_encoding", false)?.then_some(most),
            names: MotionNames::Original,
        })
    }

    /// Modules of a level at 1 / 2^halvings of the latents' resolution.
    fn at(&self, halvings: Option<usize>, layers: usize) -> Vec<MotionOptions> {
        let there = halvings.is_some_and(|n| self.resolutions.contains(&(1 << n)));
        vec![self.options; if there { layers } else { 0 }]
    }
}

/// The motion fields of a `UNetMotionModel`, or of a `MotionAdapter` under its own names.
struct Motion2d {
    heads: Vec<usize>,
    positions: usize,
    depths: Vec<Depth>,
    up_depths: Vec<Depth>,
    mid_depths: Vec<usize>,
    mid: bool,
    groups: usize,
}

impl Motion2d {
    fn read(c: &Config, adapter: Option<&Config>, levels: usize, mid_layers: usize) -> Result<Motion2d> {
        let (m, depth, mid_depth) = match adapter {
            Some(a) => (a, "motion_transformer_layers_per_block", "motion_transformer_layers_per_mid_block"),
            None => (c, "temporal_transformer_layers_per_block", "temporal_transformer_layers_per_mid_block"),
        };
        let heads: Vec<usize> = m.opt_list_or_scalar("motion_num_attention_heads", levels)?.unwrap_or(vec![8; levels]);
        for n in &heads {
            sound(m, "motion_num_attention_heads", *n)?;
        }
        let depths: Vec<Depth> = m.opt_list_or_scalar(depth, levels)?.unwrap_or(vec![Depth::All(1); levels]);
        let reversed: Option<Vec<Depth>> = match adapter {
            Some(_) => None,
            None => m.opt_list_or_scalar("reverse_temporal_transformer_layers_per_block", levels)?,
        };
        let up_depths = reversed.unwrap_or_else(|| depths.iter().rev().cloned().collect());
        let mid_depths: Vec<usize> = m.opt_list_or_scalar(mid_depth, mid_layers)?.unwrap_or(vec![1; mid_layers]);
        mid_depths.iter().try_for_each(|n| at_most(m, mid_depth, *n, MOST_LAYERS).map(drop))?;
        Ok(Motion2d {
            heads,
            positions: at_most(m, "motion_max_seq_length", m.or("motion_max_seq_length", 32)?, MOST_POSITIONS)?,
            depths,
            up_depths,
            mid_depths,
            mid: m.or("use_motion_mid_block", true)?,
            groups: c.or("norm_num_groups", 32)?,
        })
    }

    fn options(&self, level: usize, depth: usize) -> MotionOptions {
        MotionOptions {
            heads: self.heads[level],
            depth,
            attentions: 2,
            divisor: 1,
            groups: self.groups,
            joint_norm: true,
            positions: Some(self.positions),
            names: MotionNames::Diffusers,
        }
    }

    fn modules(&self, level: &Level, i: usize, depth: &Depth) -> Result<Vec<MotionOptions>> {
        let of = |j| match depth.get(j) {
            Some(depth) => Ok(self.options(i, depth)),
            None => Err(Error::call("UNetMotionModel", format!("no number of motion layers for layer {j} of a block"))),
        };
        (0..level.layers).map(of).collect()
    }

    fn mid_module(&self, i: usize) -> Result<MotionOptions> {
        let depth = self.mid_depths.get(i).copied().unwrap_or(1);
        Ok(self.options(self.heads.len() - 1, depth))
    }
}

/// A number that divides.
fn sound(c: &Config, field: &str, n: usize) -> Result<usize> {
    if n > 0 { Ok(n) } else { Err(c.error(field, "0 divides the channels").into()) }
}
