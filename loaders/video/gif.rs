//! Animated GIF: frames drawn onto a canvas, and frames of 256 colours each.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use gif::{ColorOutput, DecodeOptions, Decoder, DecodingError, DisposalMethod, EncodingError, MemoryLimit};

use crate::error::{LoadError, Result};
use crate::json::open_regular;
use crate::partial::Partial;
use crate::picture::{Picture, check_extents};
use crate::video::frames::Frames;
use crate::video::rate::FrameRate;
use crate::video::writer::Sink;

/// Opens an animated GIF. Its blocks are walked once for the count and the durations; no frame is decoded for that.
pub(crate) fn open(path: &Path) -> Result<Frames> {
    let reader = || Ok(BufReader::new(open_regular(path)?.0));
    let bad = |e| unreadable(path, e);
    let mut options = DecodeOptions::new();
    options.skip_frame_decoding(true);
    let mut blocks = options.read_info(reader()?).map_err(bad)?;
    let (mut count, mut hundredths) = (0usize, 0u64);
    while let Some(frame) = blocks.next_frame_info().map_err(bad)? {
        count += 1;
        hundredths += u64::from(frame.delay);
    }
    let rate = FrameRate::of(count as u64 * 100, hundredths);
    Ok(Frames::new(path, rate, Some(count), GifFrames::new(reader()?, path)?))
}

/// The first frame of a GIF.
pub(crate) fn first(from: impl Read, path: &Path) -> Result<Picture> {
    GifFrames::new(from, path)?.next().unwrap_or_else(|| Err(LoadError::picture(path, "a GIF without a frame")))
}

fn unreadable(path: &Path, error: DecodingError) -> LoadError {
    match error {
        DecodingError::Io(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => LoadError::io(path)(e),
        DecodingError::Io(_) => LoadError::picture(path, "it ends before its picture does"),
        other => LoadError::picture(path, other),
    }
}

/// Where a frame lies on the canvas.
#[derive(Clone, Copy)]
struct Part {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

struct GifFrames<R: Read> {
    path: PathBuf,
    decoder: Decoder<R>,
    canvas: Picture,
    /// What becomes of the last frame before the next is drawn.
    disposal: Option<(DisposalMethod, Part)>,
    /// The canvas without the last frame, where that frame is to vanish again.
    before: Option<Picture>,
}

impl<R: Read> GifFrames<R> {
    fn new(from: R, path: &Path) -> Result<GifFrames<R>> {
        let mut options = DecodeOptions::new();
        options.set_color_output(ColorOutput::RGBA);
        options.check_frame_consistency(true);
        options.set_memory_limit(MemoryLimit::Bytes(NonZeroU64::MIN.saturating_add(8 * Picture::MAX_PIXELS as u64)));
        let decoder = options.read_info(from).map_err(|e| unreadable(path, e))?;
        let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
        check_extents(path, width, height)?;
        let canvas = Picture { width, height, channels: 4, pixels: vec![0; width * height * 4] };
        Ok(GifFrames { path: path.into(), decoder, canvas, disposal: None, before: None })
    }

    fn read(&mut self) -> Result<Option<Picture>, DecodingError> {
        match self.disposal.take() {
            Some((DisposalMethod::Background, part)) => {
                self.rows(part).for_each(|row| row.fill(0));
            }
            Some((DisposalMethod::Previous, _)) => {
                if let Some(before) = self.before.take() {
                    self.canvas = before;
                }
            }
            _ => {}
        }
        let Some(frame) = self.decoder.next_frame_info()? else { return Ok(None) };
        let [left, top, width, height] = [frame.left, frame.top, frame.width, frame.height].map(usize::from);
        let (part, disposal) = (Part { left, top, width, height }, frame.dispose);
        let mut drawn = vec![0; self.decoder.buffer_size()];
        self.decoder.read_into_buffer(&mut drawn)?;
        if disposal == DisposalMethod::Previous {
            self.before = Some(self.canvas.clone());
        }
        for (row, new) in self.rows(part).zip(drawn.chunks_exact(part.width.max(1) * 4)) {
            for (old, new) in row.as_chunks_mut::<4>().0.iter_mut().zip(new.as_chunks::<4>().0) {
                if new[3] != 0 {
                    *old = *new;
                }
            }
        }
        self.disposal = Some((disposal, part));
        Ok(Some(self.canvas.clone()))
    }

    /// The rows of a part of the canvas. Parts lie within it: the decoder refuses others.
    fn rows(&mut self, part: Part) -> impl Iterator<Item = &mut [u8]> {
        let pitch = self.canvas.width * 4;
        let columns = part.left * 4..(part.left + part.width) * 4;
        let rows = self.canvas.pixels.chunks_exact_mut(pitch).skip(part.top).take(part.height);
        rows.filter_map(move |row| row.get_mut(columns.clone()))
    }
}

impl<R: Read> Iterator for GifFrames<R> {
    type Item = Result<Picture>;

    fn next(&mut self) -> Option<Result<Picture>> {
        self.read().map_err(|e| unreadable(&self.path, e)).transpose()
    }
}

/// An animated GIF in the making: each frame has 256 colours of its own, chosen by NeuQuant.
pub(crate) struct GifSink {
    path: PathBuf,
    rate: FrameRate,
    partial: Partial,
    encoder: Option<gif::Encoder<BufWriter<File>>>,
    file: File,
    count: u64,
}

/// NeuQuant learns a frame's colours from about so many of its pixels.
const SAMPLES: usize = 40_000;

impl GifSink {
    pub(crate) fn create(path: &Path, rate: FrameRate) -> Result<GifSink> {
        if rate.as_f64() > 50.0 {
            let reason = format!("players show at most 50 frames of a GIF per second, not {rate}");
            return Err(LoadError::video(path, reason));
        }
        let (partial, file) = Partial::file(path).map_err(LoadError::io(path))?;
        Ok(GifSink { path: path.into(), rate, partial, encoder: None, file, count: 0 })
    }
}

fn unwritable(path: &Path, error: EncodingError) -> LoadError {
    match error {
        EncodingError::Io(e) => LoadError::io(path)(e),
        other => LoadError::video(path, other),
    }
}

impl Sink for GifSink {
    fn push(&mut self, picture: &Picture) -> Result<()> {
        let (Ok(width), Ok(height)) = (u16::try_from(picture.width), u16::try_from(picture.height)) else {
            return Err(LoadError::video(&self.path, "a GIF is at most 65535 pixels wide and high"));
        };
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => {
                let to = BufWriter::new(self.file.try_clone().map_err(LoadError::io(&self.path))?);
                let new = gif::Encoder::new(to, width, height, &[]);
                let mut new = new.map_err(|e| unwritable(&self.path, e))?;
                new.set_repeat(gif::Repeat::Infinite).map_err(|e| unwritable(&self.path, e))?;
                none.insert(new)
            }
        };
        let colour = picture.clone().rgb();
        let sampling = (picture.width * picture.height / SAMPLES).clamp(1, 30) as i32;
        let mut frame = gif::Frame::from_rgb_speed(width, height, &colour.pixels, sampling);
        let hundredths = self.rate.begins(self.count + 1, 100) - self.rate.begins(self.count, 100);
        frame.delay = hundredths.min(u64::from(u16::MAX)) as u16;
        self.count += 1;
        encoder.write_frame(&frame).map_err(|e| unwritable(&self.path, e))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        if let Some(encoder) = self.encoder {
            let mut to = encoder.into_inner().map_err(|e| unwritable(&self.path, e))?;
            to.flush().map_err(LoadError::io(&self.path))?;
        }
        self.partial.commit(self.file).map_err(LoadError::io(&self.path))
    }
}
