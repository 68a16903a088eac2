//! What a run needs on its device, part by part.

use muybridge_runtime::{DType, Device};

use crate::error::{Error, Result};
use crate::pipelines::memory::{Halves, MemoryPlan, StageMemory, Way};
use crate::pipelines::watch::Stage;
use crate::tiling::Tiling;
use crate::vae::{Vae, VaeShape};

/// Parts that a memory plan is chosen from.
pub(super) struct Needs<'a> {
    pub text: u64,
    /// The encoder of the autoencoder, where pictures are given.
    pub encode: u64,
    /// Bytes of a way of denoising.
    pub denoise: &'a dyn Fn(Halves, Option<usize>) -> Result<u64>,
    /// There are two halves.
    pub guided: bool,
    /// Frames of a window.
    pub frames: usize,
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
        let most = limit.unwrap_or(u64::MAX);
        let Way { halves, spatial_frames, bytes: denoising } =
            Way::choose((self.guided, true), self.frames, most, self.denoise)?;
        let tiling = match self.vae.tiling_within(self.latents, self.dtype, most) {
            Ok(tiling) => tiling,
            // What the smallest tiles need is told with everything else.
            Err(Error::Runtime(muybridge_runtime::Error::OutOfMemory { .. })) => Some(Tiling::of(8)),
            Err(other) => return Err(other),
        };
        let decoding = self.decode(tiling.map_or(usize::MAX, |t| t.tile))?;
        let stages = [
            (Stage::Text, self.text),
            (Stage::Encoding, self.encode),
            (Stage::Denoising, denoising),
            (Stage::Decoding, decoding),
        ];
        let stages = stages.into_iter().filter(|(_, bytes)| *bytes > 0);
        let stages = stages.map(|(stage, bytes)| StageMemory { stage, bytes }).collect();
        MemoryPlan { stages, halves, spatial_frames, guider_frames: None, tiling, host: 0 }.within(limit, device)
    }

    fn decode(&self, tile: usize) -> Result<u64> {
        let [batch, height, width] = self.latents;
        let shape = VaeShape { batch, height: height.min(tile), width: width.min(tile), dtype: self.dtype };
        self.vae.decoder_memory(shape)
    }
}
