//! The configuration of a UNet or a ControlNet: every field that changes the graph, checked.
//!
//! Field names, defaults and meanings are those of diffusers' `UNet2DConditionModel` and `ControlNetModel`. What the engine
//! does not do is refused by name: file, field and value.

use muybridge_kernels::Activation;
use muybridge_loaders::{Config, Field, LoadError};

use crate::embeddings::TimeOptions;
use crate::error::Result;
use crate::motion::MotionOptions;
use crate::resnet::ResnetOptions;
use crate::transformer::TransformerOptions;

/// One resolution of a network, on its way down or up.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// Channels of its results.
    pub channels: usize,
    /// One transformer after each residual block; empty where the level has none.
    pub attentions: Vec<TransformerOptions>,
    /// One motion module after each residual block; empty where the level has none.
    pub motion: Vec<MotionOptions>,
    /// Number of residual blocks.
    pub layers: usize,
}

/// The block between the way down and the way up.
#[derive(Clone, Debug, PartialEq)]
pub struct Mid {
    /// Transformers, with a residual block before and after each. Without one there is one residual block.
    pub attentions: Vec<TransformerOptions>,
    /// A motion module after each transformer; empty where there is none.
    pub motion: Vec<MotionOptions>,
    /// Its residual blocks.
    pub resnet: ResnetOptions,
}

/// What UNet and ControlNet have in common: everything down to the middle.
#[derive(Clone, Debug, PartialEq)]
pub struct TrunkConfig {
    /// Channels of the latents.
    pub in_channels: usize,
    /// Extent of the first convolution.
    pub conv_in_kernel: usize,
    /// From the finest resolution to the coarsest.
    pub levels: Vec<Level>,
    /// The middle, where there is one.
    pub mid: Option<Mid>,
    /// Residual blocks outside the middle.
    pub resnet: ResnetOptions,
    /// Zeros round the halving convolutions; 0 stands for one row below and one column to the right.
    pub downsample_padding: usize,
    /// Time, class and size embeddings.
    pub time: TimeOptions,
    /// Channels of the context as the blocks read it.
    pub context: usize,
    /// The norms of residual blocks, and the last one, take their statistics over all frames of a clip.
    pub joint_norms: bool,
}

impl TrunkConfig {
    /// Height or width after one halving.
    pub fn halved(&self, n: usize) -> usize {
        let zeros = if self.downsample_padding == 0 { 1 } else { 2 * self.downsample_padding };
        (n + zeros).saturating_sub(3) / 2 + 1
    }
}

/// A whole UNet.
#[derive(Clone, Debug, PartialEq)]
pub struct UnetConfig {
    /// Everything down to the middle.
    pub trunk: TrunkConfig,
    /// From the coarsest resolution to the finest.
    pub up: Vec<Level>,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Extent of the last convolution.
    pub conv_out_kernel: usize,
    /// Follows the last norm.
    pub out_activation: Activation,
    /// The latents come in [0, 1] and are moved to [−1, 1] first.
    pub center_input_sample: bool,
    /// Channels of the context before `encoder_hid_proj`, where there is one.
    pub encoder_hid_dim: Option<usize>,
}

/// A whole ControlNet.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlNetConfig {
    /// Everything down to the middle.
    pub trunk: TrunkConfig,
    /// Channels of the condition image.
    pub conditioning_channels: usize,
    /// Channels of the condition's embedding, from full resolution to that of the latents.
    pub embedding_channels: Vec<usize>,
    /// The image's channels are read backwards.
    pub bgr: bool,
    /// Each residual is replaced by its mean over space.
    pub global_pool_conditions: bool,
}

/// Blocks in a list: more than any network has, few enough that a hostile file costs nothing.
const MOST_LEVELS: usize = 16;
/// Layers in a block.
pub(crate) const MOST_LAYERS: usize = 128;
/// Zeros before a halving.
const MOST_ZEROS: usize = 16;

impl UnetConfig {
    /// Reads the fields of a `UNet2DConditionModel`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that the engine does not support.
    pub fn read(c: &Config) -> Result<UnetConfig> {
        let types = block_types(c, "down_block_types", "Down", "2D")?;
        let up_types = block_types(c, "up_block_types", "Up", "2D")?;
        if up_types.len() != types.len() {
            let reason = format!("{} blocks, and {} in down_block_types", up_types.len(), types.len());
            return Err(c.error("up_block_types", reason).into());
        }
        let blocks = Blocks::read(c, types)?;
        let mid = match c.opt::<String>("mid_block_type")?.as_deref() {
            None if c.is_null("mid_block_type") => None,
            kind => Some(blocks.mid(c, kind)?),
        };
        let time = TimeOptions::read(c, blocks.channels[0], true)?;
        let encoder_hid_dim = encoder_hid_dim(c)?;
        for (field, only) in [("dual_cross_attention", "false"), ("attention_type", "default")] {
            refuse_other(c, field, only)?;
        }
        look_at(c, &["resnet_skip_time_act", "resnet_out_scale_factor", "mid_block_only_cross_attention"]);
        look_at(c, &["cross_attention_norm", "addition_embed_type_num_heads", "upcast_attention", "sample_size"]);
        look_at(c, &["dropout", "use_linear_projection", "encoder_hid_dim_type"]);
        Ok(UnetConfig {
            up: blocks.up(c, &up_types)?,
            out_channels: c.or("out_channels", 4)?,
            conv_out_kernel: kernel(c, "conv_out_kernel")?,
            out_activation: blocks.resnet.activation,
            center_input_sample: c.or("center_input_sample", false)?,
            encoder_hid_dim,
            trunk: blocks.trunk(c, mid, time, kernel(c, "conv_in_kernel")?)?,
        })
    }
}

impl ControlNetConfig {
    /// Reads the fields of a `ControlNetModel`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that the engine does not support.
    pub fn read(c: &Config) -> Result<ControlNetConfig> {
        let types = block_types(c, "down_block_types", "Down", "2D")?;
        let blocks = Blocks::read(c, types)?;
        let mid = blocks.mid(c, c.opt::<String>("mid_block_type")?.as_deref())?;
        let time = TimeOptions::read(c, blocks.channels[0], false)?;
        if c.has("encoder_hid_dim") || c.has("encoder_hid_dim_type") {
            return Err(c.error("encoder_hid_dim", "a ControlNet does not project its context").into());
        }
        let bgr = match c.opt::<String>("controlnet_conditioning_channel_order")?.as_deref() {
            None | Some("rgb") => false,
            Some("bgr") => true,
            Some(other) => return Err(unknown(c, "controlnet_conditioning_channel_order", other, "rgb, bgr")),
        };
        let widths = c.opt::<Vec<usize>>("conditioning_embedding_out_channels")?;
        let embedding_channels = widths.unwrap_or_else(|| vec![16, 32, 96, 256]);
        if embedding_channels.is_empty() || embedding_channels.len() > MOST_LEVELS {
            let reason = format!("{} widths, wanted 1 to {MOST_LEVELS}", embedding_channels.len());
            return Err(c.error("conditioning_embedding_out_channels", reason).into());
        }
        look_at(c, &["addition_embed_type_num_heads", "upcast_attention", "use_linear_projection", "sample_size"]);
        Ok(ControlNetConfig {
            trunk: blocks.trunk(c, Some(mid), time, 3)?,
            conditioning_channels: c.or("conditioning_channels", 3)?,
            embedding_channels,
            bgr,
            global_pool_conditions: c.or("global_pool_conditions", false)?,
        })
    }
}

/// The fields that hold one value per block, spread out.
pub(crate) struct Blocks {
    /// Whether each block has transformers.
    cross: Vec<bool>,
    pub(crate) channels: Vec<usize>,
    pub(crate) layers: Vec<usize>,
    heads: Vec<Option<usize>>,
    contexts: Vec<usize>,
    depths: Vec<Depth>,
    only_cross: Vec<bool>,
    resnet: ResnetOptions,
}

impl Blocks {
    pub(crate) fn read(c: &Config, cross: Vec<bool>) -> Result<Blocks> {
        let n = cross.len();
        let channels: Vec<usize> = c.opt("block_out_channels")?.unwrap_or_else(|| vec![320, 640, 1280, 1280]);
        if channels.len() != n {
            return Err(c.error("block_out_channels", format!("wanted {n} values, found {}", channels.len())).into());
        }
        let layers = c.opt_list_or_scalar("layers_per_block", n)?.unwrap_or_else(|| vec![2; n]);
        layers.iter().try_for_each(|l| at_most(c, "layers_per_block", *l, MOST_LAYERS).map(drop))?;
        // The field called `attention_head_dim` has always held the number of heads (diffusers issue 2011).
        let heads = match c.opt_list_or_scalar("num_attention_heads", n)? {
            Some(heads) => {
                look_at(c, &["attention_head_dim"]);
                heads
            }
            None => c.opt_list_or_scalar("attention_head_dim", n)?.unwrap_or_else(|| vec![Some(8); n]),
        };
        let one = Depth::All(1);
        Ok(Blocks {
            channels,
            layers,
            heads,
            contexts: c.opt_list_or_scalar("cross_attention_dim", n)?.unwrap_or_else(|| vec![1280; n]),
            depths: c.opt_list_or_scalar("transformer_layers_per_block", n)?.unwrap_or_else(|| vec![one; n]),
            only_cross: c.opt_list_or_scalar("only_cross_attention", n)?.unwrap_or_else(|| vec![false; n]),
            resnet: resnet_options(c)?,
            cross,
        })
    }

    /// Without what only networks for pictures can have.
    pub(crate) fn plain(&mut self) {
        self.only_cross.fill(false);
        self.resnet.scale_shift = false;
    }

    /// Transformer blocks after each residual block of the coarsest level, where that is one number.
    pub(crate) fn last_depth(&self) -> Option<usize> {
        match self.depths.last() {
            Some(Depth::All(n)) => Some((*n).min(MOST_LAYERS)),
            _ => None,
        }
    }

    pub(crate) fn transformer(&self, c: &Config, i: usize, depth: usize) -> Result<TransformerOptions> {
        let channels = self.channels[i];
        let heads = self.heads[i].filter(|h| (1..=channels).contains(h));
        let shown = self.heads[i].map_or("null".into(), |h| h.to_string());
        let field = if c.has("num_attention_heads") { "num_attention_heads" } else { "attention_head_dim" };
        let heads = heads.ok_or_else(|| c.error(field, format!("{shown} heads for {channels} channels")))?;
        let (context, groups) = (self.contexts[i], self.resnet.groups);
        Ok(TransformerOptions { heads, depth, context, only_cross_attention: self.only_cross[i], groups })
    }

    fn level(&self, c: &Config, i: usize, cross: bool, layers: usize, depths: &Depth, field: &str) -> Result<Level> {
        let attention = |j| self.transformer(c, i, depths.of(c, field, j)?);
        let attentions = if cross { (0..layers).map(attention).collect::<Result<_>>()? } else { Vec::new() };
        Ok(Level { channels: self.channels[i], attentions, motion: Vec::new(), layers })
    }

    pub(crate) fn trunk(
        self,
        c: &Config,
        mid: Option<Mid>,
        time: TimeOptions,
        conv_in_kernel: usize,
    ) -> Result<TrunkConfig> {
        let field = "transformer_layers_per_block";
        let level = |i: usize| self.level(c, i, self.cross[i], self.layers[i], &self.depths[i], field);
        let contexts = self.contexts.iter().zip(&self.cross);
        let mut used: Vec<usize> = contexts.filter(|(_, cross)| **cross).map(|(n, _)| *n).collect();
        used.extend(mid.iter().flat_map(|m| m.attentions.iter().map(|a| a.context)));
        used.dedup();
        if used.len() > 1 {
            let reason = format!("blocks read contexts of {used:?} channels, where one context is given");
            return Err(c.error("cross_attention_dim", reason).into());
        }
        Ok(TrunkConfig {
            in_channels: c.or("in_channels", 4)?,
            conv_in_kernel,
            levels: (0..self.channels.len()).map(level).collect::<Result<_>>()?,
            context: used.first().or(self.contexts.first()).copied().unwrap_or(0),
            mid,
            downsample_padding: at_most(c, "downsample_padding", c.or("downsample_padding", 1)?, MOST_ZEROS)?,
            resnet: self.resnet,
            time,
            joint_norms: false,
        })
    }

    pub(crate) fn mid(&self, c: &Config, kind: Option<&str>) -> Result<Mid> {
        let last = self.channels.len() - 1;
        let scale: f32 = c.or("mid_block_scale_factor", 1.0)?;
        if scale == 0.0 {
            return Err(c.error("mid_block_scale_factor", "0 divides the middle's results").into());
        }
        let attentions = match kind.unwrap_or("UNetMidBlock2DCrossAttn") {
            "UNetMidBlock2DCrossAttn" => {
                let depth = self.depths[last].of(c, "transformer_layers_per_block", 0)?;
                vec![TransformerOptions { only_cross_attention: false, ..self.transformer(c, last, depth)? }]
            }
            "UNetMidBlock2D" => Vec::new(),
            other => return Err(unknown(c, "mid_block_type", other, "UNetMidBlock2DCrossAttn, UNetMidBlock2D")),
        };
        Ok(Mid { attentions, motion: Vec::new(), resnet: ResnetOptions { output_scale: scale, ..self.resnet } })
    }

    pub(crate) fn up(&self, c: &Config, cross: &[bool]) -> Result<Vec<Level>> {
        let n = self.channels.len();
        let own: Option<Vec<Depth>> = c.opt_list_or_scalar("reverse_transformer_layers_per_block", n)?;
        let nested = self.depths.iter().any(|d| matches!(d, Depth::Each(_)));
        if own.is_none() && nested {
            let reason = "is absent, where transformer_layers_per_block differs within a block";
            return Err(c.error("reverse_transformer_layers_per_block", reason).into());
        }
        let (field, depths) = match own {
            Some(own) => ("reverse_transformer_layers_per_block", own),
            None => ("transformer_layers_per_block", self.depths.iter().rev().cloned().collect()),
        };
        let level = |i: usize| {
            let mirror = n - 1 - i;
            self.level(c, mirror, cross[i], self.layers[mirror] + 1, &depths[i], field)
        };
        (0..n).map(level).collect()
    }
}

/// Number of transformer blocks after each residual block of a level.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Depth {
    All(usize),
    Each(Vec<usize>),
}

impl Field for Depth {
    fn from_json(value: &serde_json::Value) -> Result<Depth, String> {
        if value.is_array() { Vec::from_json(value).map(Depth::Each) } else { usize::from_json(value).map(Depth::All) }
    }
}

impl Depth {
    /// The number for a layer, if there is one and it is not beyond all use.
    pub(crate) fn get(&self, layer: usize) -> Option<usize> {
        self.at(layer).filter(|n| *n <= MOST_LAYERS)
    }

    fn at(&self, layer: usize) -> Option<usize> {
        match self {
            Depth::All(n) => Some(*n),
            Depth::Each(list) => list.get(layer).copied(),
        }
    }

    pub(crate) fn of(&self, c: &Config, field: &str, layer: usize) -> Result<usize> {
        let depth = self.at(layer).ok_or_else(|| c.error(field, format!("no value for layer {layer} of a block")))?;
        at_most(c, field, depth, MOST_LAYERS)
    }
}

/// For each block, whether it has transformers: `CrossAttnDownBlock2D` or `DownBlock2D`, for a `kind` of 2D.
pub(crate) fn block_types(c: &Config, field: &str, way: &str, kind: &str) -> Result<Vec<bool>> {
    let (cross, plain) = (format!("CrossAttn{way}Block{kind}"), format!("{way}Block{kind}"));
    let defaults = || {
        let mut list = vec![cross.clone(); 4];
        list[if way == "Up" { 0 } else { 3 }] = plain.clone();
        list
    };
    let types: Vec<String> = c.opt(field)?.unwrap_or_else(defaults);
    if types.is_empty() || types.len() > MOST_LEVELS {
        return Err(c.error(field, format!("{} blocks, wanted 1 to {MOST_LEVELS}", types.len())).into());
    }
    let kind = |name: &String| match name.strip_prefix("UNetRes").unwrap_or(name) {
        n if n == cross => Ok(true),
        n if n == plain => Ok(false),
        other => Err(unknown(c, field, other, &format!("{cross}, {plain}"))),
    };
    types.iter().map(kind).collect()
}

fn resnet_options(c: &Config) -> Result<ResnetOptions> {
    let scale_shift = match c.opt::<String>("resnet_time_scale_shift")?.as_deref() {
        None | Some("default") => false,
        Some("scale_shift") => true,
        Some(other) => return Err(unknown(c, "resnet_time_scale_shift", other, "default, scale_shift")),
    };
    let groups = match c.opt("norm_num_groups")? {
        None if c.is_null("norm_num_groups") => {
            return Err(c.error("norm_num_groups", "null: networks without norms are not supported").into());
        }
        groups => groups.unwrap_or(32),
    };
    Ok(ResnetOptions {
        groups,
        eps: c.or("norm_eps", 1e-5)?,
        activation: activation(c, "act_fn")?.unwrap_or(Activation::Silu),
        scale_shift,
        output_scale: 1.0,
    })
}

/// Channels of the context before its projection, where there is one.
fn encoder_hid_dim(c: &Config) -> Result<Option<usize>> {
    let dim = c.opt("encoder_hid_dim")?;
    match (c.opt::<String>("encoder_hid_dim_type")?.as_deref(), dim) {
        (Some("text_proj"), None) => Err(c.error("encoder_hid_dim", "is absent, where text_proj needs it").into()),
        (None | Some("text_proj"), dim) => Ok(dim),
        (Some(other), _) => Err(unknown(c, "encoder_hid_dim_type", other, "text_proj")),
    }
}

fn kernel(c: &Config, field: &str) -> Result<usize> {
    let kernel = c.or(field, 3)?;
    if kernel % 2 == 1 && kernel < 32 {
        Ok(kernel)
    } else {
        Err(unknown(c, field, &kernel.to_string(), "1, 3, 5, …"))
    }
}

/// A number of a configuration that is not beyond all use.
pub(crate) fn at_most(c: &Config, field: &str, n: usize, most: usize) -> Result<usize> {
    if n <= most { Ok(n) } else { Err(c.error(field, format!("{n}, wanted at most {most}")).into()) }
}

/// An activation by the name that PyTorch's world gives to it. None where the field is absent.
pub(crate) fn activation(c: &Config, field: &str) -> Result<Option<Activation>> {
    Ok(match c.opt::<String>(field)?.map(|name| name.to_lowercase()).as_deref() {
        None => None,
        Some("silu" | "swish") => Some(Activation::Silu),
        Some("gelu") => Some(Activation::Gelu),
        Some("relu") => Some(Activation::Relu),
        Some("mish") => Some(Activation::Mish),
        Some(other) => return Err(unknown(c, field, other, "silu, swish, gelu, relu, mish")),
    })
}

/// The error for a value that the engine does not know.
pub(crate) fn unknown(c: &Config, field: &str, value: &str, known: &str) -> crate::Error {
    let value: String = value.chars().take(80).collect();
    c.error(field, format!("{value:?} is not supported; known: {known}")).into()
}

/// Refuses every value of a field but the default.
pub(crate) fn refuse_other(c: &Config, field: &str, only: &str) -> Result<()> {
    let boolean = only == "false";
    let fits = if boolean { !c.or(field, false)? } else { c.opt::<String>(field)?.is_none_or(|v| v == only) };
    let refusal = || -> LoadError { c.error(field, format!("only {only} is supported")) };
    if fits { Ok(()) } else { Err(refusal().into()) }
}

/// Marks fields as known that do not change the graph: sizes for training, dropout, precision hints (sums are f32 here
/// anyway), and what only block types that are refused would read.
pub(crate) fn look_at(c: &Config, fields: &[&str]) {
    let _known = fields.iter().filter(|f| c.has(f)).count();
}
