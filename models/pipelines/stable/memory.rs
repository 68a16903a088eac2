//! What a run needs on its device, part by part.

use std::fmt;

use muybridge_runtime::{DType, Device};

use crate::error::{Error, Result};
use crate::tiling::Tiling;
use crate::vae::{Vae, VaeShape};

/// Bytes that each part of a run takes on the device, networks of other parts being freed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryPlan {
    /// The largest text tower.
    pub text: u64,
    /// The encoder of the autoencoder, where pictures are given.
    pub encode: u64,
    /// The denoising network and its ControlNets.
    pub denoise: u64,
    /// The decoder of the autoencoder.
    pub decode: u64,
    /// The halves of guidance run one after the other.
    pub apart: bool,
    /// Pictures are decoded in tiles.
    pub tiling: Option<Tiling>,
}

impl MemoryPlan {
    /// The most that any part takes.
    pub fn peak(&self) -> u64 {
        self.text.max(self.encode).max(self.denoise).max(self.decode)
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        write!(f, "text {}", mib(self.text))?;
        if self.encode > 0 {
            write!(f, ", encode {}", mib(self.encode))?;
        }
        let apart = if self.apart { " (halves of guidance apart)" } else { "" };
        write!(f, ", denoise {}{apart}, decode {}", mib(self.denoise), mib(self.decode))?;
        if let Some(tiling) = self.tiling {
            write!(f, " (tiles of {} latents)", tiling.tile)?;
        }
        write!(f, "; at most {} at a time", mib(self.peak()))
    }
}

/// Parts that a memory plan is chosen from.
pub(super) struct Needs<'a> {
    pub text: u64,
    pub encode: u64,
    /// Denoising with both halves at once, and with one after the other where there are two.
    pub denoise: [u64; 2],
    pub vae: &'a Vae,
    /// Batch, height and width of what is decoded at a time.
    pub latents: [usize; 3],
    pub dtype: DType,
}

impl Needs<'_> {
    /// The fastest way within the limit.
    ///
    /// # Errors
    /// No way is within it; the error names the least that would do.
    pub(super) fn choose(&self, limit: Option<u64>, device: &Device) -> Result<MemoryPlan> {
        let [batch, height, width] = self.latents;
        let whole = self.vae.decoder_memory(VaeShape { batch, height, width, dtype: self.dtype })?;
        let [together, apart] = self.denoise;
        let plan = MemoryPlan {
            text: self.text,
            encode: self.encode,
            denoise: together,
            decode: whole,
            apart: false,
            tiling: None,
        };
        let Some(limit) = limit.filter(|limit| plan.peak() > *limit) else { return Ok(plan) };
        let smallest = self.decode(8)?.min(whole);
        let parts = [
            ("the text tower", self.text),
            ("encoding pictures", self.encode),
            ("denoising with the halves of guidance apart", apart),
            ("decoding in the smallest tiles", smallest),
        ];
        let (what, wanted) = parts.into_iter().max_by_key(|(_, bytes)| *bytes).unwrap_or_default();
        if wanted > limit {
            let (device, what) = (device.name().into(), format!("{what}, the least that this run can do with"));
            return Err(Error::Runtime(muybridge_runtime::Error::OutOfMemory {
                device,
                what,
                wanted,
                limit: Some(limit),
            }));
        }
        let tiling = self.vae.tiling_within(self.latents, self.dtype, limit)?;
        let decode = tiling.map_or(Ok(whole), |t| self.decode(t.tile))?;
        let halved = together > limit;
        Ok(MemoryPlan { denoise: if halved { apart } else { together }, apart: halved, decode, tiling, ..plan })
    }

    fn decode(&self, tile: usize) -> Result<u64> {
        let [batch, height, width] = self.latents;
        let shape = VaeShape { batch, height: height.min(tile), width: width.min(tile), dtype: self.dtype };
        self.vae.decoder_memory(shape)
    }
}
