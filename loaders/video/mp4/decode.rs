//! Reading H.264 from MP4.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};

use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use crate::error::{LoadError, Result};
use crate::map::MappedFile;
use crate::picture::Picture;
use crate::video::frames::{Frames, make_frames};
use crate::video::mp4::colour::{Coding, Decoded};
use crate::video::mp4::parameters::Parameters;
use crate::video::mp4::tables::{Movie, Samples};
use crate::video::rate::FrameRate;

/// Opens a video. Frames come in the order in which they are shown; edit lists are not followed.
pub(crate) fn open(path: &Path) -> Result<Frames> {
    let file = MappedFile::open(path)?;
    let bad = |reason: String| LoadError::video(path, format!("{reason}; {}", make_frames(path)));
    let movie = Movie::of(file.bytes()).map_err(bad)?;
    let mut coding = None;
    for set in &movie.sets {
        if file.bytes().get(set.clone()).and_then(|s| s.first()).is_some_and(|kind| kind & 0x1F == 7) {
            let parameters = Parameters::of(&file.bytes()[set.clone()]).map_err(bad)?;
            coding.get_or_insert(parameters.coding);
        }
    }
    let coding = coding.ok_or_else(|| bad("its parameter sets are missing".into()))?;
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    let decoder = Decoder::with_api_config(OpenH264API::from_source(), config);
    let decoder = decoder.map_err(|e| bad(format!("the decoder does not start: {e}")))?;
    let rate = FrameRate::of((movie.count as u64).saturating_mul(movie.units.into()), movie.duration);
    let (count, samples) = (movie.count, movie.samples());
    let source =
        Source { path: path.into(), file, movie, samples, decoder, coding, ready: VecDeque::new(), ended: false };
    Ok(Frames::new(path, rate, Some(count), source))
}

struct Source {
    path: PathBuf,
    file: MappedFile,
    movie: Movie,
    samples: Samples,
    decoder: Decoder,
    coding: Coding,
    /// Pictures that the decoder gave back at once, at the end.
    ready: VecDeque<Picture>,
    ended: bool,
}

impl Source {
    fn read(&mut self) -> Result<Option<Picture>, String> {
        if self.ended {
            return Ok(self.ready.pop_front());
        }
        while let Some(place) = self.samples.next(&self.movie, self.file.bytes()) {
            let place = place?;
            let stream = stream(self.file.bytes(), &self.movie, place)?;
            if let Some(shown) = self.decoder.decode(&stream).map_err(|e| format!("damaged H.264: {e}"))? {
                return picture(&shown, self.coding, self.movie.turns).map(Some);
            }
        }
        self.ended = true;
        let left = self.decoder.flush_remaining().map_err(|e| format!("damaged H.264: {e}"))?;
        let turned = left.iter().map(|shown| picture(shown, self.coding, self.movie.turns));
        self.ready = turned.collect::<Result<_, _>>()?;
        Ok(self.ready.pop_front())
    }
}

impl Iterator for Source {
    type Item = Result<Picture>;

    fn next(&mut self) -> Option<Result<Picture>> {
        self.read().map_err(|reason| LoadError::video(&self.path, reason)).transpose()
    }
}

const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// A sample as the decoder wants it: start codes in place of lengths, and the parameter sets before each, which lets it
/// begin anywhere.
fn stream(file: &[u8], movie: &Movie, place: Range<usize>) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(place.len() + 256);
    let mut unit = |bytes: &[u8]| {
        out.extend_from_slice(&START_CODE);
        out.extend_from_slice(bytes);
    };
    movie.sets.iter().filter_map(|set| file.get(set.clone())).for_each(&mut unit);
    let mut rest = file.get(place).unwrap_or_default();
    while !rest.is_empty() {
        let cut = || "a frame is cut short".to_string();
        let (length, after) = rest.split_at_checked(movie.length_bytes).ok_or_else(cut)?;
        let length = length.iter().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
        let (bytes, after) = after.split_at_checked(length).ok_or_else(cut)?;
        unit(bytes);
        rest = after;
    }
    Ok(out)
}

fn picture(shown: &DecodedYUV<'_>, coding: Coding, turns: u8) -> Result<Picture, String> {
    let (width, height) = shown.dimensions();
    let planes = [shown.y(), shown.u(), shown.v()];
    let decoded = Decoded { width, height, planes, strides: shown.strides() };
    let picture = decoded.rgb(coding).filter(Picture::is_valid);
    Ok(turned(picture.ok_or("the decoder gave a picture of no extent")?, turns))
}

/// The picture after quarter turns to the right.
fn turned(picture: Picture, turns: u8) -> Picture {
    let (w, h) = (picture.width, picture.height);
    let (width, height) = if turns % 2 == 1 { (h, w) } else { (w, h) };
    let from = |x: usize, y: usize| match turns {
        1 => (y, h - 1 - x),
        2 => (w - 1 - x, h - 1 - y),
        _ => (w - 1 - y, x),
    };
    if turns == 0 {
        return picture;
    }
    let mut pixels = Vec::with_capacity(picture.pixels.len());
    for y in 0..height {
        for x in 0..width {
            let (x, y) = from(x, y);
            pixels.extend_from_slice(&picture.pixels[(y * w + x) * 3..][..3]);
        }
    }
    Picture { width, height, channels: 3, pixels }
}
