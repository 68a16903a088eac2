//! Files: safetensors weights, sharded checkpoints, JSON configurations, CLIP's vocabularies, pictures and videos.
//!
//! This crate knows file formats and how to distrust them: every length, offset, name and number of a file is checked
//! before it is used, and every failure is a [`LoadError`] that names the file and the tensor or field. It must not know
//! any operation or network: it hands out names, shapes and bytes, and the models say which of them they want.
//!
//! The three main types are [`Weights`] (a cursor over the tensor names of a checkpoint, which remembers what was asked
//! for), [`SafetensorsFile`] (one memory-mapped file whose header has been checked) and [`Config`] (a JSON object with
//! typed, range-checked fields).

#![deny(unsafe_code)]

mod config;
mod convert;
mod error;
mod file;
mod finite;
mod header;
mod index;
mod json;
mod locate;
mod map;
mod partial;
mod picture;
mod procedural;
mod report;
mod table;
mod tensors;
mod tokenizer;
mod torch;
mod video;
mod weights;

pub use config::{Config, Field};
pub use convert::{Cut, Piece, copy_tensors};
pub use error::{LoadError, Result};
pub use file::SafetensorsFile;
pub use finite::first_non_finite;
pub use header::{Header, TensorEntry};
pub use index::Index;
pub use json::write_json;
pub use picture::Picture;
pub use report::{CensusEntry, LoadReport};
pub use tensors::{read_tensors, write_tensors};
pub use tokenizer::Tokenizer;
pub use torch::{TorchFile, TorchTensor};
pub use video::{FrameRate, Frames, Guidance, VideoWriter};
pub use weights::Weights;
