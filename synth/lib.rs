//! A synthetic human world: people of random build, face and clothes who walk, dance and wave, rendered with exact ground truth.
//!
//! This crate knows bodies, motions, light and cameras. It must not know networks, kernels or checkpoints. Everything is a pure
//! function of seeds, to the last bit, on every machine (see [`math`]).
//!
//! The three main types are [`Clip`] (who does what, where, seen how), [`Frame`] (its pictures and what is true of them) and
//! [`Identity`].

#![forbid(unsafe_code)]

mod body;
mod clip;
mod draw;
mod error;
pub mod files;
mod identity;
mod landmarks;
pub mod math;
mod motion;
mod nocs;
mod packed;
mod paint;
mod pose;
mod random;
mod render;
mod scene;
mod shape;

pub use clip::{Clip, ClipOptions, Frame};
pub use error::{Error, Result};
pub use identity::Identity;
pub use landmarks::Landmarks;
pub use motion::{Motion, Split};
pub use packed::Shard;
pub use render::Picture;
pub use scene::Look;
pub use shape::Part;
