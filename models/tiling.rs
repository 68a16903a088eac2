//! Decoding large pictures in overlapping tiles, in bounded memory.
//!
//! A tile's norms and attention see the tile only, so a tiled picture is not quite the whole one; where tiles overlap, each
//! fades into the next. A picture of one tile is decoded whole.

use muybridge_runtime::{DType, HostTensor, KeptWeights, Plan};

use crate::error::{Error, Result};
use crate::vae::{Vae, VaeShape};

/// Tiles of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Extent of a tile along each side, in latents.
    pub tile: usize,
    /// From one tile to the next, in latents; at most a tile.
    pub stride: usize,
}

impl Tiling {
    /// Tiles of this extent, a quarter of which they share with the next.
    pub const fn of(tile: usize) -> Tiling {
        // Three quarters, of any number.
        Tiling { tile, stride: tile / 4 * 3 + tile % 4 * 3 / 4 }
    }
}

impl Default for Tiling {
    /// 64 latents (512 pixels), every 48.
    fn default() -> Tiling {
        Tiling::of(64)
    }
}

/// A picture `[B,H,W,C]` in host memory.
struct Picture {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    values: Vec<f32>,
}

impl Picture {
    fn of(tensor: &HostTensor) -> Result<Picture> {
        let [batch, height, width, channels] = *tensor.shape().dims() else {
            return Err(Error::call("AutoencoderKL", format!("{}, wanted [B,h,w,C]", tensor.desc())));
        };
        Ok(Picture { batch, height, width, channels, values: tensor.to_f32() })
    }

    fn zeros(batch: usize, height: usize, width: usize, channels: usize) -> Picture {
        Picture { batch, height, width, channels, values: vec![0.0; batch * height * width * channels] }
    }

    /// A row of pixels from column `x` on.
    fn at(&self, b: usize, y: usize, x: usize) -> usize {
        ((b * self.height + y) * self.width + x) * self.channels
    }

    /// The part of `height` × `width` pixels from row `y` and column `x` on, as far as there is one.
    fn part(&self, y: usize, x: usize, height: usize, width: usize) -> Picture {
        let (height, width) = (height.min(self.height - y), width.min(self.width - x));
        let mut part = Picture::zeros(self.batch, height, width, self.channels);
        for (b, row) in (0..self.batch).flat_map(|b| (0..height).map(move |r| (b, r))) {
            let (from, to) = (self.at(b, y + row, x), part.at(b, row, 0));
            let n = width * self.channels;
            part.values[to..to + n].copy_from_slice(&self.values[from..from + n]);
        }
        part
    }

    /// Copies the first `height` × `width` pixels of `part`, as far as it has them and they fit, to row `y` and column `x`.
    fn place(&mut self, part: &Picture, y: usize, x: usize, height: usize, width: usize) {
        let height = height.min(part.height).min(self.height.saturating_sub(y));
        let n = width.min(part.width).min(self.width.saturating_sub(x)) * self.channels;
        for (b, row) in (0..self.batch).flat_map(|b| (0..height).map(move |r| (b, r))) {
            let (from, to) = (part.at(b, row, 0), self.at(b, y + row, x));
            self.values[to..to + n].copy_from_slice(&part.values[from..from + n]);
        }
    }

    fn tensor(self, dtype: DType) -> Result<HostTensor> {
        let shape = [self.batch, self.height, self.width, self.channels];
        Ok(HostTensor::new(shape, self.values)?.convert(dtype))
    }

    /// Fades the first `extent` rows in over the last rows of the tile above.
    fn fade_rows(&mut self, above: &Picture, extent: usize) {
        let extent = extent.min(above.height).min(self.height);
        for (b, y) in (0..self.batch).flat_map(|b| (0..extent).map(move |y| (b, y))) {
            let (old, own) = (above.at(b, above.height - extent + y, 0), self.at(b, y, 0));
            let n = self.width.min(above.width) * self.channels;
            fade(&mut self.values[own..own + n], &above.values[old..old + n], y, extent);
        }
    }

    /// Fades the first `extent` columns in over the last columns of the tile to the left.
    fn fade_columns(&mut self, left: &Picture, extent: usize) {
        let extent = extent.min(left.width).min(self.width);
        let (height, n) = (self.height.min(left.height), self.channels);
        for (b, y) in (0..self.batch).flat_map(|b| (0..height).map(move |y| (b, y))) {
            for x in 0..extent {
                let (old, own) = (left.at(b, y, left.width - extent + x), self.at(b, y, x));
                fade(&mut self.values[own..own + n], &left.values[old..old + n], x, extent);
            }
        }
    }
}

fn fade(own: &mut [f32], old: &[f32], step: usize, steps: usize) {
    let share = step as f32 / steps as f32;
    own.iter_mut().zip(old).for_each(|(new, old)| *new = old * (1.0 - share) + *new * share);
}

impl Vae {
    /// The largest tiles with which decoding `latents` (batch, height, width) needs at most `limit` bytes on the device;
    /// `None` if whole pictures fit.
    ///
    /// # Errors
    /// The limit is below what the smallest tiles need, which the error names.
    pub fn tiling_within(&self, latents: [usize; 3], dtype: DType, limit: u64) -> Result<Option<Tiling>> {
        let [batch, height, width] = latents;
        let mut wanted = 0;
        for tile in [None, Some(64), Some(48), Some(32), Some(24), Some(16), Some(8)] {
            let extent = |n: usize| tile.map_or(n, |t| n.min(t));
            let shape = VaeShape { batch, height: extent(height), width: extent(width), dtype };
            let needed = self.decoder_memory(shape)?;
            if needed <= limit {
                return Ok(tile.map(Tiling::of));
            }
            wanted = needed;
        }
        let device = self.device().name().into();
        let what = "decoding in the smallest tiles".into();
        Err(muybridge_runtime::Error::OutOfMemory { device, what, wanted, limit: Some(limit) }.into())
    }

    /// Decodes `latents [B,h,w,C]` of the VAE in tiles, on its device and in `dtype`: `pixels [B,8h,8w,3]`. Latents and
    /// pictures are in host memory: only tiles go to the device.
    ///
    /// # Errors
    /// Tiles that do not fit each other, latents that do not fit the network, and the device's errors.
    pub fn decode_tiled(&self, latents: &HostTensor, tiling: Tiling, dtype: DType) -> Result<HostTensor> {
        let Tiling { tile, stride } = tiling;
        if tile == 0 || stride == 0 || stride > tile {
            return Err(Error::call("AutoencoderKL", format!("tiles of {tile} latents, one every {stride}")));
        }
        let latents = Picture::of(latents)?;
        let mut plans = TilePlans { vae: self, dtype, plan: None, weights: None };
        if latents.height <= tile && latents.width <= tile {
            return plans.decode(latents)?.tensor(dtype);
        }
        let f = self.config().factor();
        let extent = (tile - stride) * f;
        let (height, width) = (latents.height * f, latents.width * f);
        let mut picture = Picture::zeros(latents.batch, height, width, self.config().out_channels);
        let mut above: Vec<Picture> = Vec::new();
        for y in (0..latents.height).step_by(stride) {
            let mut row: Vec<Picture> = Vec::new();
            for (i, x) in (0..latents.width).step_by(stride).enumerate() {
                let mut pixels = plans.decode(latents.part(y, x, tile, tile))?;
                if let Some(above) = above.get(i) {
                    pixels.fade_rows(above, extent);
                }
                if let Some(left) = row.last() {
                    pixels.fade_columns(left, extent);
                }
                picture.place(&pixels, y * f, x * f, stride * f, stride * f);
                row.push(pixels);
            }
            above = row;
        }
        picture.tensor(dtype)
    }
}

/// A plan for the extents of the tile at hand. Tiles of other extents, at the picture's lower and right edges, take turns with
/// it: two arenas at once would cost more memory than the planning costs time.
struct TilePlans<'a> {
    vae: &'a Vae,
    dtype: DType,
    plan: Option<([usize; 2], Plan)>,
    /// So that the weights stay on the device from plan to plan.
    weights: Option<KeptWeights>,
}

impl TilePlans<'_> {
    fn decode(&mut self, latents: Picture) -> Result<Picture> {
        let size @ [height, width] = [latents.height, latents.width];
        let plan = match self.plan.take() {
            Some((planned, plan)) if planned == size => plan,
            other => {
                drop(other);
                let shape = VaeShape { batch: latents.batch, height, width, dtype: self.dtype };
                let plan = self.vae.decoder(shape)?;
                self.weights = Some(plan.weights());
                plan
            }
        };
        let results = plan.run_host(&[&latents.tensor(self.dtype)?])?;
        self.plan = Some((size, plan));
        match &results[..] {
            [pixels] => Picture::of(pixels),
            _ => Err(Error::call("AutoencoderKL", "the decoder has other results")),
        }
    }
}
