//! A synthetic person in a motion, of those that no training saw: drawn where no picture or motion is given.

use muybridge::loaders::Picture;
use muybridge::pipelines::Motion;
use muybridge::resize::Resize;
use muybridge_synth::{Clip, ClipOptions, Frame, Split};

use crate::Failure;

/// Of all held-out clips, those that the README and the model's card speak of.
const SEED: u64 = 7;

/// The person, and what is true of every frame.
pub struct Person {
    reference: Frame,
    pub frames: Vec<Frame>,
}

impl Person {
    /// Frames per second of the motion.
    pub const RATE: u32 = 12;

    /// The `n`th person; even ones live in the look with textures and noise, odd ones in the plain look.
    pub fn draw(n: u64, [width, height]: [usize; 2], frames: usize) -> Result<Person, Failure> {
        let look = None;
        let rate = Person::RATE as f32;
        let options =
            ClipOptions { width, height, frames, rate, look, split: Split::Test, seed: SEED, ..Default::default() };
        options.check()?;
        let (reference, frames) = Clip::new(&options, n).render();
        Ok(Person { reference, frames })
    }

    /// The person at ease.
    pub fn reference(&self) -> Picture {
        picture(&self.reference.colour)
    }

    /// What a video of it should be.
    pub fn truth(&self) -> Vec<Picture> {
        self.frames.iter().map(|f| picture(&f.colour)).collect()
    }

    /// Where on the body each pixel of the reference is.
    pub fn reference_nocs(&self) -> Picture {
        picture(&self.reference.nocs)
    }

    /// Where on the body each pixel of the frames is.
    pub fn nocs(&self) -> Vec<Picture> {
        self.frames.iter().map(|f| picture(&f.nocs)).collect()
    }

    /// The motion, in every kind that a model reads.
    pub fn motion(&self, kinds: &[String]) -> Vec<Motion> {
        let of = |kind: &String| {
            // AnimateAnyone's poses are drawings of the skeleton too.
            let map = if kind == "pose" { "dwpose" } else { kind };
            let frames = self.frames.iter().filter_map(|f| Some(picture(f.map(map)?))).collect();
            Motion { kind: kind.clone(), frames }
        };
        kinds.iter().map(of).filter(|m| !m.frames.is_empty()).collect()
    }
}

fn picture(drawn: &muybridge_synth::Picture) -> Picture {
    Picture { width: drawn.width, height: drawn.height, channels: 3, pixels: drawn.pixels.clone() }
}

/// Columns of a sheet beside the reference.
const COLUMNS: usize = 8;

/// A contact sheet: the reference in the first column, and beside it, row by row, some frames of each kind of pictures (guidance,
/// result, ground truth), evenly spread.
pub fn sheet(reference: &Picture, rows: &[&[Picture]]) -> Result<Picture, Failure> {
    let frames = rows.iter().map(|r| r.len()).min().unwrap_or(0);
    let Some(first) = rows.first().and_then(|r| r.first()).filter(|_| frames > 0) else {
        return Err(Failure("a sheet of no pictures".into()));
    };
    let (w, h) = (first.width, first.height);
    let columns = frames.min(COLUMNS);
    let picked: Vec<usize> = (0..columns).map(|i| i * (frames - 1) / (columns - 1).max(1)).collect();
    let width = w * (columns + 1);
    let mut pixels = vec![0; 3 * width * h * rows.len()];
    let mut put = |picture: &Picture, column: usize, row: usize| -> Result<(), Failure> {
        let fit = picture.clone().rgb().resize(w, h, muybridge::resize::Filter::Lanczos)?;
        for (y, line) in fit.pixels.chunks(3 * w).enumerate() {
            pixels[3 * ((row * h + y) * width + column * w)..][..3 * w].copy_from_slice(line);
        }
        Ok(())
    };
    put(reference, 0, 0)?;
    for (row, pictures) in rows.iter().enumerate() {
        for (column, frame) in picked.iter().enumerate() {
            put(&pictures[*frame], column + 1, row)?;
        }
    }
    Ok(Picture { width, height: h * rows.len(), channels: 3, pixels })
}
