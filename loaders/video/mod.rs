//! Motions: frames of a folder, an animation or a video, read and written one after another. No more than a few frames
//! are in memory at a time, however long the motion is.

mod frames;
pub(crate) mod gif;
mod guidance;
#[cfg(feature = "h264")]
mod mp4;
mod rate;
mod webp;
mod writer;

pub use frames::Frames;
pub use guidance::Guidance;
pub use rate::FrameRate;
pub use writer::VideoWriter;

use std::io::Read;
use std::path::Path;

use crate::error::{LoadError, Result};
use crate::json::open_regular;

/// The first bytes of a file, by which its kind is told: sixteen, or zeros beyond its end.
fn first_bytes(path: &Path) -> Result<[u8; 16]> {
    let mut start = [0; 16];
    let (mut file, mut filled) = (open_regular(path)?.0, 0);
    while filled < start.len() {
        match file.read(&mut start[filled..]).map_err(LoadError::io(path))? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(start)
}
