//! The decoding stage: frame by frame, whole or in tiles.

use muybridge_runtime::{DType, HostTensor, KeptWeights, Plan};

use super::stages::Size;
use crate::error::{Error, Result};
use crate::tiling::Tiling;
use crate::vae::{Vae, VaeShape};

/// Decodes one frame after another.
pub(super) struct FrameDecoder<'a> {
    vae: &'a Vae,
    dtype: DType,
    way: Way,
}

enum Way {
    Whole(Box<Plan>),
    /// The weights are kept from frame to frame.
    Tiles {
        tiling: Tiling,
        _weights: KeptWeights,
    },
}

impl FrameDecoder<'_> {
    /// Binds the decoder for frames of this size.
    pub(super) fn open(vae: &Vae, size: Size, dtype: DType, tiling: Option<Tiling>) -> Result<FrameDecoder<'_>> {
        let extents = size.latents();
        let [height, width] = tiling.map_or(extents, |t| extents.map(|n| n.min(t.tile)));
        let plan = vae.decoder(VaeShape { batch: 1, height, width, dtype })?;
        let way = match tiling {
            None => Way::Whole(Box::new(plan)),
            Some(tiling) => Way::Tiles { tiling, _weights: plan.weights() },
        };
        Ok(FrameDecoder { vae, dtype, way })
    }

    /// `latents [1,h,w,C]` of the VAE → pixels `[1,H,W,3]`.
    pub(super) fn decode(&self, latents: &HostTensor) -> Result<HostTensor> {
        match &self.way {
            Way::Whole(plan) => {
                let pixels = plan.run_host(&[&latents.convert(self.dtype)])?.pop();
                pixels.ok_or_else(|| Error::call("Animator", "the VAE's decoder has no result"))
            }
            Way::Tiles { tiling, .. } => self.vae.decode_tiled(latents, *tiling, self.dtype),
        }
    }
}
