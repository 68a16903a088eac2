//! The denoising network at work on a clip: what a window reads is made when it is turned to.

use std::collections::BTreeMap;

use muybridge_runtime::{Device, HostTensor, Tensor};

use super::control::{ControlInput, strength};
use super::denoise::{Denoiser, Ready};
use super::stable::to_pixels;
use super::stages::{FrameFeatures, Size};
use crate::controlnet::ControlNet;
use crate::error::{Error, Result};

/// What all windows of a clip read.
pub(super) struct Clip<'a> {
    /// The reference's embedding `[1,1,C]`.
    pub embedding: HostTensor,
    /// The reference's features by block.
    pub bank: BTreeMap<String, Tensor>,
    /// Features of every frame's poses.
    pub pose: FrameFeatures,
    /// What each ControlNet follows.
    pub controls: &'a [ControlInput],
    /// Extents of the frames.
    pub size: Size,
}

/// A network bound for windows of a clip.
pub(super) struct Windowed<'a> {
    pub device: &'a Device,
    pub denoiser: Denoiser,
    pub nets: Vec<ControlNet>,
    pub clip: Clip<'a>,
    at_hand: Option<AtHand>,
}

/// The window that was turned to.
struct AtHand {
    frames: Vec<usize>,
    pose: Tensor,
    ready: Ready,
}

impl<'a> Windowed<'a> {
    pub(super) fn new(device: &'a Device, denoiser: Denoiser, nets: Vec<ControlNet>, clip: Clip<'a>) -> Windowed<'a> {
        Windowed { device, denoiser, nets, clip, at_hand: None }
    }

    /// The guided prediction for the latents `[n,h,w,C]` of a window in step `i` of `steps`.
    pub(super) fn predict(
        &mut self,
        window: &[usize],
        latents: &HostTensor,
        (i, steps): (usize, usize),
        numbers: (f32, f32),
    ) -> Result<Vec<f32>> {
        let scale = |(net, c): (&ControlNet, &ControlInput)| net.scales(strength(c.scale, c.range, i, steps), false);
        let scales: Vec<HostTensor> = self.nets.iter().zip(self.clip.controls).map(scale).collect();
        let at_hand = match self.at_hand.take() {
            // A single window is the same in every step.
            Some(same) if same.frames == window => same,
            other => self.turn(window, other)?,
        };
        let predicted =
            self.denoiser.predict(&at_hand.ready, self.device, latents, (&at_hand.pose, &scales), numbers)?;
        self.at_hand = Some(at_hand);
        Ok(predicted)
    }

    fn turn(&mut self, window: &[usize], before: Option<AtHand>) -> Result<AtHand> {
        // The reference is the same for all windows; what ControlNets follow is not.
        let ready = match before.map(|b| b.ready).filter(|_| self.nets.is_empty()) {
            Some(ready) => ready,
            None => self.prepare(window)?,
        };
        let pose = self.device.tensor(&self.clip.pose.gather(window)?)?;
        Ok(AtHand { frames: window.to_vec(), pose, ready })
    }

    fn prepare(&mut self, window: &[usize]) -> Result<Ready> {
        let followed = self.clip.controls.iter().map(|c| self.followed(c, window)).collect::<Result<Vec<_>>>()?;
        let ready = self.denoiser.prepare(self.device, &self.clip.embedding, &self.clip.bank, &followed)?;
        if self.nets.is_empty() {
            self.clip.bank.clear();
        }
        Ok(ready)
    }

    /// Pictures `[n,H,W,3]` for the frames of a window, from 0 to 1; or the one that there is.
    fn followed(&self, control: &ControlInput, window: &[usize]) -> Result<HostTensor> {
        let Size { width, height, .. } = self.clip.size;
        let one = |picture| to_pixels(picture, [width, height], false);
        if let [single] = &control.pictures[..] {
            return one(single);
        }
        let missing = || Error::call("Animator", format!("{} pictures to follow", control.pictures.len()));
        let pictures = window.iter().map(|f| one(control.pictures.get(*f).ok_or_else(missing)?));
        let pictures = pictures.collect::<Result<Vec<_>>>()?;
        let all: Vec<f32> = pictures.iter().flat_map(HostTensor::to_f32).collect();
        Ok(HostTensor::new([pictures.len(), height, width, 3], all)?)
    }
}

/// Some frames `[n,h,w,C]` of `[F,h,w,C]`.
pub(super) fn frames_of(all: &HostTensor, frames: &[usize]) -> Result<HostTensor> {
    let [count, h, w, channels] = *all.shape().dims() else {
        return Err(Error::call("Animator", format!("latents {}, wanted [F,h,w,C]", all.desc())));
    };
    let each = h * w * channels;
    let values = all.to_f32();
    let mut part = Vec::with_capacity(frames.len() * each);
    frames.iter().for_each(|f| part.extend_from_slice(&values[f % count.max(1) * each..][..each]));
    Ok(HostTensor::new([frames.len(), h, w, channels], part)?)
}

/// Adds a window's prediction, each frame with its weight.
pub(super) fn accumulate(output: &mut [f32], predicted: &[f32], window: &[usize], weights: &[f32]) {
    let each = predicted.len() / window.len().max(1);
    for ((frame, weight), part) in window.iter().zip(weights).zip(predicted.chunks(each.max(1))) {
        let place = &mut output[frame * each..][..each];
        place.iter_mut().zip(part).for_each(|(sum, v)| *sum += weight * v);
    }
}
