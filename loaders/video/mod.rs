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
