//! PyTorch's checkpoints (`.pth`, `.pt`, `.bin`, `.ckpt`), read without executing them.

mod file;
mod known;
mod pickle;
mod places;
mod rules;
mod zip;

pub use file::{TorchFile, TorchTensor};
