//! Stable Diffusion: from prompts and pictures to pictures and clips.
//!
//! A run opens its networks one after the other and frees each after its use. What a run needs on the device is known
//! before it begins ([`MemoryPlan`](super::MemoryPlan)), and a limit on it is kept or refused.

mod begin;
mod checkpoint;
mod denoise;
pub mod generate;
mod memory;
pub mod motion;
mod pixels;
mod prompt;

pub use checkpoint::Checkpoint;
pub use denoise::guide;
pub use generate::{Control, Generate, Generated, Start, generate};
pub use motion::{Motion, MotionControl, Moved, motion};
pub use pixels::{from_pixels, mask, preview, to_pixels};
pub use prompt::{Conditioning, PromptOptions};
