//! What a run begins with: noise, or the latents of pictures among it.

use muybridge_runtime::HostTensor;

use super::generate::Start;
use crate::error::Result;
use crate::noise::{NoiseSource, TorchCpu};
use crate::schedulers::{At, Scheduler};
use crate::vae::Vae;

/// What pictures given become.
pub(super) struct Given {
    /// Moments of the picture's latents.
    pub picture: Option<[HostTensor; 2]>,
    /// Mask `[1,h,w,1]` and moments of the latents of what is kept.
    pub kept: Option<(HostTensor, [HostTensor; 2])>,
}

/// Latents at the beginning of a run, in PyTorch's layout: noise that people share seeds of was drawn in it.
pub(super) struct Begun {
    /// `[1,C,h,w]`.
    pub sample: Vec<f32>,
    noise: Vec<f32>,
    /// Latents of the picture that is kept but for a part.
    picture: Option<Vec<f32>>,
    /// The mask `[1,h,w,1]` and the latents `[1,h,w,C]` of what is kept.
    kept: Option<(HostTensor, HostTensor)>,
}

impl Begun {
    /// Draws in the order of the field's pipelines: the picture's latents, the noise, the latents of what is kept.
    pub(super) fn new(
        vae: &Vae,
        extents: [usize; 4],
        given: &Given,
        (start, first): (&Start, usize),
        reads_mask: bool,
        scheduler: &dyn Scheduler,
        source: &mut TorchCpu,
    ) -> Result<Begun> {
        let count = extents.iter().product();
        let config = vae.config();
        let sample = |[mean, logvar]: &[HostTensor; 2], source: &mut TorchCpu| -> Result<HostTensor> {
            let noise = nhwc(source.normal(count)?, extents)?;
            Ok(config.scale(&config.sample(mean, logvar, &noise)?))
        };
        // Painting from nothing but noise, a network that reads the mask does not need the picture itself.
        let partly = start.strength() < 1.0;
        let needed = given.kept.is_none() || !reads_mask || partly;
        let picture = match given.picture.as_ref().filter(|_| needed) {
            Some(moments) => Some(nchw(&sample(moments, source)?)?),
            None => None,
        };
        let noise = source.normal(count)?;
        let kept = match &given.kept {
            Some((mask, moments)) => Some((mask.clone(), sample(moments, source)?)),
            None => None,
        };
        let begin = match &picture {
            Some(picture) if partly || matches!(start, Start::Picture { .. }) => {
                scheduler.add_noise(picture, &noise, &[At::Step(first)])?
            }
            _ => noise.iter().map(|n| n * scheduler.init_noise_sigma()).collect(),
        };
        Ok(Begun { sample: begin, noise, picture: picture.filter(|_| given.kept.is_some()), kept })
    }

    /// What the network reads: latents, and where it reads a mask, mask and kept latents beside them.
    pub(super) fn input(&self, latents: HostTensor, reads_mask: bool) -> Result<HostTensor> {
        let Some((mask, kept)) = self.kept.as_ref().filter(|_| reads_mask) else { return Ok(latents) };
        let (z, m, k) = (latents.to_f32(), mask.to_f32(), kept.to_f32());
        let (c, shape) = (latents.shape().last(), latents.shape());
        let wide = 2 * c + 1;
        Ok(HostTensor::from_fn(shape.with_last(wide), |i| match (i / wide, i % wide) {
            (p, j) if j < c => z[p * c + j],
            (p, j) if j == c => m[p],
            (p, j) => k[p * c + j - c - 1],
        }))
    }

    /// Puts back what is kept, as noisy as step `next` begins; without noise after the last.
    pub(super) fn blend(&self, sample: &mut [f32], next: Option<usize>, scheduler: &dyn Scheduler) -> Result<()> {
        let (Some((mask, _)), Some(picture)) = (&self.kept, &self.picture) else { return Ok(()) };
        let noisy = match next {
            Some(i) => scheduler.add_noise(picture, &self.noise, &[At::Step(i)])?,
            None => picture.clone(),
        };
        let anew = mask.to_f32();
        for (i, (value, kept)) in sample.iter_mut().zip(&noisy).enumerate() {
            let m = anew[i % anew.len()];
            *value = (1.0 - m) * kept + m * *value;
        }
        Ok(())
    }
}

/// Values `[B,C,H,W]` as a tensor `[B,H,W,C]`.
pub(super) fn nhwc(values: Vec<f32>, extents: [usize; 4]) -> Result<HostTensor> {
    Ok(HostTensor::new(extents, values)?.nchw_to_nhwc()?)
}

/// A tensor `[B,H,W,C]` as values `[B,C,H,W]`.
pub(super) fn nchw(tensor: &HostTensor) -> Result<Vec<f32>> {
    Ok(tensor.nhwc_to_nchw()?.to_f32())
}
