//! Pictures of 8 bits: PNG, JPEG, WebP and GIF files in, PNG files out.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Seek, Write};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageFormat, ImageReader, Limits};

use crate::error::{LoadError, Result};
use crate::json::{check_length, open_regular};
use crate::partial::Partial;
use crate::video::gif;

/// Pixels in rows, `channels` bytes each: 1 is grey, 2 grey with alpha, 3 colour, 4 colour with alpha.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes of a pixel.
    pub channels: usize,
    /// The bytes, row by row.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// Longest side that is read, in pixels.
    pub const MAX_EXTENT: usize = 1 << 15;
    /// Most pixels that are read.
    pub const MAX_PIXELS: usize = 1 << 26;
    /// Longest file that is read, in bytes.
    pub const MAX_BYTES: u64 = 1 << 29;

    /// Reads a PNG, JPEG or WebP file, or the first frame of a GIF or of an animated WebP, whatever its name ends in. The
    /// picture keeps its channels; 16 bits are cut to their upper 8, a palette is resolved, and the orientation that a
    /// camera noted is applied. Colour profiles are not.
    ///
    /// # Errors
    /// [`LoadError::Picture`] where the file is none of these, is cut short or damaged, or its header names more than
    /// [`Picture::MAX_PIXELS`]: that is told before anything is allocated.
    pub fn open(path: impl AsRef<Path>) -> Result<Picture> {
        let path = path.as_ref();
        let (file, length) = open_regular(path)?;
        check_length(path, length, Picture::MAX_BYTES)?;
        decode(BufReader::new(file), path)
    }

    /// As [`Picture::open`], of bytes in memory; `file` is only used in errors.
    ///
    /// # Errors
    /// As [`Picture::open`].
    pub fn decode(bytes: &[u8], file: impl AsRef<Path>) -> Result<Picture> {
        check_length(file.as_ref(), bytes.len() as u64, Picture::MAX_BYTES)?;
        decode(std::io::Cursor::new(bytes), file.as_ref())
    }

    /// Whether the extents are not 0, within the limits, and fit the pixels.
    pub fn is_valid(&self) -> bool {
        let bytes = self.width.checked_mul(self.height).and_then(|n| n.checked_mul(self.channels));
        let sides = 1..=Picture::MAX_EXTENT;
        (1..=4).contains(&self.channels)
            && sides.contains(&self.width)
            && sides.contains(&self.height)
            && bytes == Some(self.pixels.len())
    }

    /// The picture in colour: grey three times over, alpha left out as if it were opaque (what Pillow's `convert("RGB")`
    /// does). What has other channels than pictures have stays as it is, see [`Picture::is_valid`].
    pub fn rgb(self) -> Picture {
        let pixels: Vec<u8> = match self.channels {
            1 | 2 => self.pixels.chunks_exact(self.channels).flat_map(|p| [p[0]; 3]).collect(),
            4 => self.pixels.as_chunks::<4>().0.iter().flat_map(|p| [p[0], p[1], p[2]]).collect(),
            _ => return self,
        };
        Picture { channels: 3, pixels, ..self }
    }

    /// The picture in colour, laid over a background where it has alpha: `(a·c + (255 − a)·b) / 255`, rounded. What has
    /// other channels than pictures have stays as it is, see [`Picture::is_valid`].
    pub fn over(self, background: [u8; 3]) -> Picture {
        if !matches!(self.channels, 2 | 4) {
            return self.rgb();
        }
        let mix = |colour: u8, alpha: u8, below: u8| {
            let (alpha, opaque) = (u32::from(alpha), 255 - u32::from(alpha));
            ((alpha * u32::from(colour) + opaque * u32::from(below) + 127) / 255) as u8
        };
        let flat = |p: &[u8]| {
            let (alpha, colour) = (p[p.len() - 1], if p.len() == 2 { [p[0]; 3] } else { [p[0], p[1], p[2]] });
            std::array::from_fn::<u8, 3, _>(|c| mix(colour[c], alpha, background[c]))
        };
        let pixels = self.pixels.chunks_exact(self.channels).flat_map(flat).collect();
        Picture { channels: 3, pixels, ..self }
    }

    /// Writes a PNG file. It appears under its name when it is complete and on disk, or not at all.
    ///
    /// # Errors
    /// The extents do not fit the pixels, or the system refuses to write.
    pub fn write_png(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let (partial, file) = Partial::file(path).map_err(LoadError::io(path))?;
        self.encode_png(&file, path)?;
        partial.commit(file).map_err(LoadError::io(path))
    }

    pub(crate) fn encode_png(&self, to: &File, path: &Path) -> Result<()> {
        let mut to = BufWriter::new(to);
        self.encode(path, |width, height, colour| {
            image::codecs::png::PngEncoder::new(&mut to).write_image(&self.pixels, width, height, colour)
        })?;
        to.flush().map_err(LoadError::io(path))
    }

    /// Lets an encoder of the `image` crate write this picture, once it is known to be whole.
    pub(crate) fn encode(
        &self,
        path: &Path,
        write: impl FnOnce(u32, u32, ExtendedColorType) -> image::ImageResult<()>,
    ) -> Result<()> {
        let colour = match self.channels {
            1 => ExtendedColorType::L8,
            2 => ExtendedColorType::La8,
            3 => ExtendedColorType::Rgb8,
            _ => ExtendedColorType::Rgba8,
        };
        self.check(path)?;
        write(self.width as u32, self.height as u32, colour).map_err(|e| refused(path, e))
    }

    /// Refuses a picture that is to be written, but whose extents do not fit its pixels.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        if self.is_valid() {
            return Ok(());
        }
        let Picture { width, height, channels, pixels } = self;
        let reason = format!("{} bytes for {width} x {height} pixels of {channels} channels", pixels.len());
        Err(LoadError::picture(path, reason))
    }
}

/// The limits that the `image` crate keeps while it decodes.
pub(crate) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(Picture::MAX_EXTENT as u32);
    limits.max_image_height = Some(Picture::MAX_EXTENT as u32);
    // Eight bytes a pixel: four channels of 16 bits, or a picture and the canvas it is drawn on.
    limits.max_alloc = Some(8 * Picture::MAX_PIXELS as u64);
    limits
}

/// An error of the `image` crate.
pub(crate) fn refused(file: &Path, error: image::ImageError) -> LoadError {
    match error {
        image::ImageError::IoError(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => LoadError::io(file)(e),
        image::ImageError::IoError(_) => LoadError::picture(file, "it ends before its picture does"),
        other => LoadError::picture(file, other),
    }
}

/// Refuses extents before there is memory for them.
pub(crate) fn check_extents(file: &Path, width: usize, height: usize) -> Result<()> {
    let most = Picture::MAX_EXTENT;
    if width == 0 || height == 0 || width > most || height > most || width * height > Picture::MAX_PIXELS {
        let reason =
            format!("{width} x {height} pixels, where 1 to {most} a side and {} in all are read", Picture::MAX_PIXELS);
        return Err(LoadError::picture(file, reason));
    }
    Ok(())
}

fn decode(mut from: impl BufRead + Seek, file: &Path) -> Result<Picture> {
    if from.fill_buf().map_err(LoadError::io(file))?.starts_with(b"GIF8") {
        return gif::first(from, file);
    }
    let mut reader = ImageReader::new(from).with_guessed_format().map_err(LoadError::io(file))?;
    match reader.format() {
        Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP) => {}
        _ => return Err(LoadError::picture(file, "neither PNG, JPEG, WebP nor GIF")),
    }
    reader.limits(limits());
    let mut decoder = reader.into_decoder().map_err(|e| refused(file, e))?;
    let (width, height) = decoder.dimensions();
    check_extents(file, width as usize, height as usize)?;
    // A note that cannot be read is no reason to refuse the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| refused(file, e))?;
    image.apply_orientation(orientation);
    Ok(eight_bits(image))
}

fn eight_bits(image: DynamicImage) -> Picture {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let upper = |wide: Vec<u16>| wide.into_iter().map(|v| (v >> 8) as u8).collect();
    let (channels, pixels) = match image {
        DynamicImage::ImageLuma8(p) => (1, p.into_raw()),
        DynamicImage::ImageLumaA8(p) => (2, p.into_raw()),
        DynamicImage::ImageRgb8(p) => (3, p.into_raw()),
        DynamicImage::ImageRgba8(p) => (4, p.into_raw()),
        DynamicImage::ImageLuma16(p) => (1, upper(p.into_raw())),
        DynamicImage::ImageLumaA16(p) => (2, upper(p.into_raw())),
        DynamicImage::ImageRgb16(p) => (3, upper(p.into_raw())),
        DynamicImage::ImageRgba16(p) => (4, upper(p.into_raw())),
        other => (3, other.into_rgb8().into_raw()),
    };
    Picture { width, height, channels, pixels }
}
