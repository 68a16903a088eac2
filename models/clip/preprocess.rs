//! Pictures as CLIP was trained on them: resized by Pillow's bicubic filter, maybe cropped, and normalised.

use muybridge_loaders::Config;
use muybridge_runtime::HostTensor;

use crate::config::{look_at, unknown};
use crate::error::{Error, Result};
use crate::resize::{Filter, Picture, Resize};

const MODEL: &str = "CLIPImageProcessor";

/// How a picture gets its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizing {
    /// Exactly this width and height, whatever that does to its proportions.
    Exact {
        /// Width, in pixels.
        width: usize,
        /// Height, in pixels.
        height: usize,
    },
    /// Its shortest side gets this length, the other follows in proportion, rounded down.
    Shortest(usize),
    /// It stays as it is.
    Keep,
}

/// The steps from a picture to CLIP's operand.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Its size before the crop.
    pub sizing: Sizing,
    /// The filter for that.
    pub filter: Filter,
    /// Width and height that are cut out of its middle.
    pub crop: Option<[usize; 2]>,
    /// What a byte is multiplied by.
    pub scale: f32,
    /// Subtracted from each channel then.
    pub mean: [f32; 3],
    /// Each channel is divided by this.
    pub std: [f32; 3],
}

impl Preprocess {
    /// CLIP's own: the shortest side to `size`, bicubic, then the middle square.
    pub fn clip(size: usize) -> Preprocess {
        Preprocess {
            sizing: Sizing::Shortest(size),
            filter: Filter::Bicubic,
            crop: Some([size, size]),
            scale: 1.0 / 255.0,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }

    /// As pose-to-video pipelines do: the whole picture squeezed to a square of `size`, bicubic, no crop.
    pub fn squeezed(size: usize) -> Preprocess {
        Preprocess { sizing: Sizing::Exact { width: size, height: size }, crop: None, ..Preprocess::clip(size) }
    }

    /// Reads a `preprocessor_config.json` of a `CLIPImageProcessor` (or `CLIPFeatureExtractor`).
    ///
    /// # Errors
    /// A field of the wrong type, or a value that the engine does not support.
    pub fn read(c: &Config) -> Result<Preprocess> {
        let own = Preprocess::clip(224);
        look_at(c, &["image_processor_type", "feature_extractor_type", "do_convert_rgb", "processor_class"]);
        let sizing = if c.or("do_resize", true)? { sizing(c)?.unwrap_or(own.sizing) } else { Sizing::Keep };
        let filter = match c.or("resample", 3usize)? {
            0 => Filter::Nearest,
            1 => Filter::Lanczos,
            2 => Filter::Bilinear,
            3 => Filter::Bicubic,
            4 => Filter::Box,
            5 => Filter::Hamming,
            other => return Err(unknown(c, "resample", &other.to_string(), "0 to 5, Pillow's numbers")),
        };
        let crop = match extents(c, "crop_size")? {
            _ if !c.or("do_center_crop", true)? => None,
            None => own.crop,
            Some(Sizing::Exact { width, height }) => Some([width, height]),
            Some(_) => return Err(c.error("crop_size", "wanted a number, or height and width").into()),
        };
        let scale = c.or("rescale_factor", own.scale)?;
        let normal = c.or("do_normalize", true)?;
        let channels = |field: &str, default: [f32; 3]| -> Result<[f32; 3]> {
            let Some(list) = c.opt::<Vec<f32>>(field)? else { return Ok(default) };
            list.try_into().map_err(|_| c.error(field, "wanted three numbers").into())
        };
        let (mean, std) = (channels("image_mean", own.mean)?, channels("image_std", own.std)?);
        if std.contains(&0.0) {
            return Err(c.error("image_std", "0 divides the pixels").into());
        }
        Ok(Preprocess {
            sizing,
            filter,
            crop,
            scale: if c.or("do_rescale", true)? { scale } else { 1.0 },
            mean: if normal { mean } else { [0.0; 3] },
            std: if normal { std } else { [1.0; 3] },
        })
    }

    /// An RGB picture as `[1,H,W,3]`, f32.
    ///
    /// # Errors
    /// A picture that is not RGB, has too few or too many pixels, or is smaller than the crop.
    pub fn apply(&self, picture: &Picture) -> Result<HostTensor> {
        if picture.channels != 3 {
            return Err(Error::call(MODEL, format!("a picture of {} channels, wanted RGB", picture.channels)));
        }
        let count = picture.width.checked_mul(picture.height).and_then(|n| n.checked_mul(3));
        if count != Some(picture.pixels.len()) {
            let (width, height, bytes) = (picture.width, picture.height, picture.pixels.len());
            return Err(Error::call(MODEL, format!("{bytes} bytes for {width} x {height} RGB pixels")));
        }
        let (w, h) = (picture.width, picture.height);
        let picture = match self.sizing {
            Sizing::Keep => picture.clone(),
            Sizing::Exact { width, height } => picture.resize(width, height, self.filter)?,
            Sizing::Shortest(size) if w <= h => picture.resize(size, size.saturating_mul(h) / w.max(1), self.filter)?,
            Sizing::Shortest(size) => picture.resize(size.saturating_mul(w) / h.max(1), size, self.filter)?,
        };
        let [width, height] = self.crop.unwrap_or([picture.width, picture.height]);
        if width > picture.width || height > picture.height {
            let reason = format!("a crop of {width} x {height} from {} x {} pixels", picture.width, picture.height);
            return Err(Error::call(MODEL, reason));
        }
        let (left, top) = ((picture.width - width) / 2, (picture.height - height) / 2);
        Ok(HostTensor::from_fn([1, height, width, 3], |i| {
            let (channel, x, y) = (i % 3, i / 3 % width, i / 3 / width);
            let byte = picture.pixels[((top + y) * picture.width + left + x) * 3 + channel];
            (f32::from(byte) * self.scale - self.mean[channel]) / self.std[channel]
        }))
    }
}

fn sizing(c: &Config) -> Result<Option<Sizing>> {
    // A plain number is the shortest side, as the first version of the processor had it.
    Ok(match extents(c, "size")? {
        Some(Sizing::Exact { width, height }) if number(c, "size") => Some(Sizing::Shortest(width.min(height))),
        other => other,
    })
}

fn number(c: &Config, field: &str) -> bool {
    c.opt::<usize>(field).is_ok_and(|n| n.is_some())
}

/// A field that is a number, `{height, width}`, or `{shortest_edge}`.
fn extents(c: &Config, field: &str) -> Result<Option<Sizing>> {
    if number(c, field) {
        let n = c.get::<usize>(field)?;
        return Ok(Some(Sizing::Exact { width: n, height: n }));
    }
    let Some(fields) = c.object(field)? else { return Ok(None) };
    let get = |name: &str| -> Result<Option<usize>> { Ok(fields.opt(name)?) };
    match (get("shortest_edge")?, get("width")?, get("height")?) {
        (Some(n), None, None) => Ok(Some(Sizing::Shortest(n))),
        (None, Some(width), Some(height)) => Ok(Some(Sizing::Exact { width, height })),
        _ => Err(c.error(field, "wanted shortest_edge, or height and width").into()),
    }
}
