//! Configurations of CLIP's towers, as transformers 4 and 5 write them.

use muybridge_kernels::Activation;
use muybridge_loaders::Config;

use crate::config::{look_at, unknown};
use crate::error::Result;

/// What both towers have.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Channels C.
    pub width: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Channels inside the feed-forward networks.
    pub intermediate: usize,
    /// Activation of the feed-forward networks.
    pub activation: Activation,
    /// Added to the variance in the norms.
    pub eps: f32,
    /// Channels of the space that both towers share.
    pub projection: usize,
    /// The class of the network ends in `WithProjection`.
    pub projected: bool,
}

/// The text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// What both towers have.
    pub tower: ClipConfig,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Longest text, in tokens.
    pub positions: usize,
    /// The token whose first place is pooled; none where the place of the largest token id is.
    pub end: Option<u32>,
}

/// The picture tower.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipVisionConfig {
    /// What both towers have.
    pub tower: ClipConfig,
    /// Height and width of a picture, in pixels.
    pub image: usize,
    /// Height and width of a patch, in pixels.
    pub patch: usize,
    /// Channels of a picture.
    pub channels: usize,
}

/// Layers in a tower: more than any network has, few enough that a hostile file costs nothing.
const MOST_LAYERS: usize = 256;

impl ClipConfig {
    /// The fields of a tower, with the values of the text tower where they are absent: `[width, intermediate, heads]`.
    fn read(c: &Config, [width, intermediate, heads]: [usize; 3]) -> Result<ClipConfig> {
        let width = c.or("hidden_size", width)?;
        let heads = c.or("num_attention_heads", heads)?;
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return Err(c.error("num_attention_heads", format!("{heads} heads for {width} channels")).into());
        }
        let layers = c.or("num_hidden_layers", 12)?;
        if layers > MOST_LAYERS {
            return Err(c.error("num_hidden_layers", format!("{layers}, at most {MOST_LAYERS} are read")).into());
        }
        let classes = c.opt::<Vec<String>>("architectures")?.unwrap_or_default();
        look_at(c, &["attention_dropout", "dropout", "initializer_range", "initializer_factor", "model_type"]);
        look_at(c, &["torch_dtype", "dtype", "transformers_version", "bos_token_id", "pad_token_id", "return_dict"]);
        Ok(ClipConfig {
            width,
            heads,
            layers,
            intermediate: c.or("intermediate_size", intermediate)?,
            activation: activation(c)?,
            eps: c.or("layer_norm_eps", 1e-5)?,
            projection: c.or("projection_dim", 512)?,
            projected: classes.iter().any(|class| class.ends_with("WithProjection")),
        })
    }
}

impl ClipTextConfig {
    /// Reads the fields of a `CLIPTextModel` or `CLIPTextModelWithProjection`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that the engine does not support.
    pub fn read(c: &Config) -> Result<ClipTextConfig> {
        let end = c.or::<usize>("eos_token_id", 49407)?;
        Ok(ClipTextConfig {
            tower: ClipConfig::read(c, [512, 2048, 8])?,
            vocabulary: c.or("vocab_size", 49408)?,
            positions: c.or("max_position_embeddings", 77)?,
            // Old files say 2 whatever the vocabulary; their networks pool at the largest id, which is the end's.
            end: (end != 2).then_some(end as u32),
        })
    }
}

impl ClipVisionConfig {
    /// Reads the fields of a `CLIPVisionModel` or `CLIPVisionModelWithProjection`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that the engine does not support.
    pub fn read(c: &Config) -> Result<ClipVisionConfig> {
        let (image, patch) = (c.or("image_size", 224)?, c.or("patch_size", 32)?);
        if patch == 0 || image < patch || image > 1 << 14 {
            return Err(c.error("patch_size", format!("patches of {patch} pixels in pictures of {image}")).into());
        }
        let tower = ClipConfig::read(c, [768, 3072, 12])?;
        Ok(ClipVisionConfig { tower, image, patch, channels: c.or("num_channels", 3)? })
    }

    /// Tokens of a picture: its whole patches and the class token.
    pub fn tokens(&self) -> usize {
        (self.image / self.patch).pow(2) + 1
    }
}

fn activation(c: &Config) -> Result<Activation> {
    let name = c.opt::<String>("hidden_act")?;
    Ok(match name.as_deref() {
        None | Some("quick_gelu") => Activation::QuickGelu,
        Some("gelu" | "gelu_python") => Activation::Gelu,
        Some("silu" | "swish") => Activation::Silu,
        Some("relu") => Activation::Relu,
        Some("mish") => Activation::Mish,
        Some("linear") => Activation::None,
        Some(other) => {
            let known = "quick_gelu, gelu, gelu_python, silu, swish, relu, mish, linear";
            return Err(unknown(c, "hidden_act", other, known));
        }
    })
}
