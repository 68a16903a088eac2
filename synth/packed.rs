//! Many clips in a few large arrays: `.npy` files of bytes, which NumPy maps into memory without decoding anything.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::clip::{ClipOptions, Frame};
use crate::error::{Error, Result};
use crate::files::NOCS;
use crate::render::Picture;

/// A folder of arrays: `reference.npy [N,H,W,3]`, `frames.npy [N,F,H,W,3]`, and for each map `MAP.npy` of the same shape as the
/// frames (`depth.npy` without its last axis); with `nocs.npy` comes `reference_nocs.npy`.
pub struct Shard<'a> {
    /// What the clips are.
    pub options: &'a ClipOptions,
    /// Which maps beside the pictures.
    pub maps: &'a [String],
}

impl Shard<'_> {
    /// Writes the arrays of some clips: the reference and the frames of each.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write<'f>(
        &self,
        dir: &Path,
        clips: impl Iterator<Item = (&'f Frame, &'f [Frame])> + Clone,
        count: usize,
    ) -> Result<()> {
        let (f, h, w) = (self.options.frames, self.options.height, self.options.width);
        let mut file = Array::create(&dir.join("reference.npy"), &[count, h, w, 3])?;
        for (reference, _) in clips.clone() {
            file.put(&reference.colour, 3)?;
        }
        file.finish()?;
        if self.maps.iter().any(|m| m == NOCS) {
            let mut file = Array::create(&dir.join("reference_nocs.npy"), &[count, h, w, 3])?;
            for (reference, _) in clips.clone() {
                file.put(&reference.nocs, 3)?;
            }
            file.finish()?;
        }
        let mut file = Array::create(&dir.join("frames.npy"), &[count, f, h, w, 3])?;
        for frame in clips.clone().flat_map(|(_, frames)| frames) {
            file.put(&frame.colour, 3)?;
        }
        file.finish()?;
        for map in self.maps {
            let channels = if map == "depth" { 1 } else { 3 };
            let shape = [count, f, h, w, channels];
            let shape = if channels == 1 { &shape[..4] } else { &shape[..] };
            let mut file = Array::create(&dir.join(format!("{map}.npy")), shape)?;
            for picture in clips.clone().flat_map(|(_, frames)| frames).filter_map(|frame| frame.map(map)) {
                file.put(picture, channels)?;
            }
            file.finish()?;
        }
        Ok(())
    }
}

struct Array {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Array {
    /// Version 1.0 of NumPy's format: a header padded to a multiple of 64 bytes, then the numbers.
    fn create(path: &Path, shape: &[usize]) -> Result<Array> {
        let extents: Vec<String> = shape.iter().map(usize::to_string).collect();
        let mut header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({},), }}", extents.join(", "));
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut array = Array { path: path.into(), file: BufWriter::new(File::create(path).map_err(Error::io(path))?) };
        array.bytes(b"\x93NUMPY\x01\x00")?;
        array.bytes(&(header.len() as u16).to_le_bytes())?;
        array.bytes(header.as_bytes())?;
        Ok(array)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }

    fn put(&mut self, picture: &Picture, channels: usize) -> Result<()> {
        if channels == 3 {
            return self.bytes(&picture.pixels);
        }
        let first: Vec<u8> = picture.pixels.chunks_exact(3).map(|p| p[0]).collect();
        self.bytes(&first)
    }

    fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path))
    }
}
