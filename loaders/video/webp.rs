//! Animated WebP, read and written.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use image_webp::{ColorType, EncodingError, WebPDecoder, WebPEncoder};

use crate::error::{LoadError, Result};
use crate::json::open_regular;
use crate::partial::Partial;
use crate::picture::{Picture, check_extents};
use crate::video::frames::Frames;
use crate::video::rate::FrameRate;
use crate::video::writer::Sink;

/// Opens an animated WebP, or a single picture as a motion of one frame.
pub(crate) fn open(path: &Path) -> Result<Frames> {
    let bad = |e: image_webp::DecodingError| LoadError::video(path, format!("bad WebP: {e}"));
    let mut decoder = WebPDecoder::new(BufReader::new(open_regular(path)?.0)).map_err(bad)?;
    let (width, height) = decoder.dimensions();
    check_extents(path, width as usize, height as usize)?;
    decoder.set_memory_limit(8 * Picture::MAX_PIXELS);
    if !decoder.is_animated() {
        return Ok(Frames::new(path, None, Some(1), std::iter::once(Picture::open(path))));
    }
    let count = decoder.num_frames() as usize;
    let rate = FrameRate::of(count as u64 * 1000, decoder.loop_duration());
    let source = WebpFrames { path: path.into(), decoder, left: count };
    Ok(Frames::new(path, rate, Some(count), source))
}

struct WebpFrames {
    path: PathBuf,
    decoder: WebPDecoder<BufReader<File>>,
    left: usize,
}

impl Iterator for WebpFrames {
    type Item = Result<Picture>;

    fn next(&mut self) -> Option<Result<Picture>> {
        self.left = self.left.checked_sub(1)?;
        let (width, height) = self.decoder.dimensions();
        let (width, height) = (width as usize, height as usize);
        let channels = if self.decoder.has_alpha() { 4 } else { 3 };
        let mut pixels = vec![0; width * height * channels];
        let read = self.decoder.read_frame(&mut pixels);
        let bad = |e| LoadError::video(&self.path, format!("bad WebP: {e}"));
        Some(read.map_err(bad).map(|_| Picture { width, height, channels, pixels }))
    }
}

/// An animated WebP in the making: every frame whole and without loss.
///
/// The container: <https://developers.google.com/speed/webp/docs/riff_container>
pub(crate) struct WebpSink {
    path: PathBuf,
    rate: FrameRate,
    partial: Partial,
    to: BufWriter<File>,
    count: u64,
    /// Bytes after the first eight.
    length: u64,
    alpha: bool,
}

impl WebpSink {
    pub(crate) fn create(path: &Path, rate: FrameRate) -> Result<WebpSink> {
        let (partial, file) = Partial::file(path).map_err(LoadError::io(path))?;
        Ok(WebpSink { path: path.into(), rate, partial, to: BufWriter::new(file), count: 0, length: 0, alpha: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.length += bytes.len() as u64;
        self.to.write_all(bytes).map_err(LoadError::io(&self.path))
    }

    fn chunk(&mut self, name: &[u8; 4], payload: &[&[u8]]) -> Result<()> {
        let length: usize = payload.iter().map(|part| part.len()).sum();
        self.write(name)?;
        self.write(&(length as u32).to_le_bytes())?;
        payload.iter().try_for_each(|part| self.write(part))?;
        if length.is_multiple_of(2) { Ok(()) } else { self.write(&[0]) }
    }

    fn begin(&mut self, width: &[u8], height: &[u8]) -> Result<()> {
        self.to.write_all(b"RIFF\0\0\0\0").map_err(LoadError::io(&self.path))?;
        self.write(b"WEBP")?;
        let flags = 2 | if self.alpha { 16 } else { 0 };
        self.chunk(b"VP8X", &[&[flags, 0, 0, 0], width, height])?;
        // A transparent background, and no end of the loop.
        self.chunk(b"ANIM", &[&[0; 6]])
    }
}

impl Sink for WebpSink {
    fn push(&mut self, picture: &Picture) -> Result<()> {
        let most = 1 << 14;
        if picture.width > most || picture.height > most {
            return Err(LoadError::video(&self.path, format!("a WebP is at most {most} pixels wide and high")));
        }
        let colour = match picture.channels {
            1 => ColorType::L8,
            2 => ColorType::La8,
            3 => ColorType::Rgb8,
            _ => ColorType::Rgba8,
        };
        let mut whole = Vec::new();
        let (width, height) = (picture.width as u32, picture.height as u32);
        WebPEncoder::new(&mut whole).encode(&picture.pixels, width, height, colour).map_err(|e| match e {
            EncodingError::IoError(e) => LoadError::io(&self.path)(e),
            other => LoadError::video(&self.path, other),
        })?;
        // What the encoder makes is a file of one picture: twelve bytes, then the chunk that is wanted here.
        let picture_chunk = &whole[12..];
        let (width, height) = (&(width - 1).to_le_bytes()[..3], &(height - 1).to_le_bytes()[..3]);
        if self.count == 0 {
            self.alpha = picture.channels.is_multiple_of(2);
            self.begin(width, height)?;
        }
        let thousandths = self.rate.begins(self.count + 1, 1000) - self.rate.begins(self.count, 1000);
        let duration = &(thousandths.min((1 << 24) - 1) as u32).to_le_bytes()[..3];
        self.count += 1;
        // Each frame replaces all before it: at 0,0, not blended.
        self.chunk(b"ANMF", &[&[0; 6], width, height, duration, &[2], picture_chunk])?;
        if self.length > u64::from(u32::MAX - 1) {
            return Err(LoadError::video(&self.path, "a WebP is at most 4 GiB long"));
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let mut patch = || {
            self.to.seek(SeekFrom::Start(4))?;
            self.to.write_all(&(self.length as u32).to_le_bytes())?;
            self.to.flush()
        };
        patch().map_err(LoadError::io(&self.path))?;
        let file = self.to.into_inner().map_err(|e| LoadError::io(&self.path)(e.into_error()))?;
        self.partial.commit(file).map_err(LoadError::io(&self.path))
    }
}
