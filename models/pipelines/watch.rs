//! What a pipeline tells while it runs, and how it is stopped.

use std::fmt;
use std::time::{Duration, Instant};

use muybridge_runtime::HostTensor;

use super::components::Loaded;
use super::memory::MemoryPlan;
use crate::error::{Error, Result};

/// A part of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Prompts become states.
    Text,
    /// The reference picture becomes the context's token.
    Embedding,
    /// Pictures that are given become latents.
    Encoding,
    /// Pictures of the motion become features.
    Guidance,
    /// The reference's latents become features.
    Reference,
    /// Noise becomes latents.
    Denoising,
    /// Latents become pictures.
    Decoding,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Text => "reading the prompt",
            Stage::Embedding => "embedding the reference",
            Stage::Encoding => "encoding the picture",
            Stage::Guidance => "reading the motion",
            Stage::Reference => "reading the reference",
            Stage::Denoising => "denoising",
            Stage::Decoding => "decoding",
        })
    }
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The stage.
    pub stage: Stage,
    /// Units of work that are done: frames, or windows of all steps of all pictures.
    pub done: usize,
    /// All of them.
    pub of: usize,
    /// Time that the rest of the stage will take, once one unit is done.
    pub left: Option<Duration>,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// What the run will take is known, and nothing has been done yet.
    Planned(&'a MemoryPlan),
    /// A component was loaded.
    Loaded(&'a Loaded),
    /// Work went on.
    Progress(Progress),
    /// The reference as CLIP reads it `[1,S,S,3]`, its embedding `[1,C]`, as the VAE reads it `[1,H,W,3]`, and its latents
    /// `[1,h,w,C]`.
    Reference {
        /// Normalised pixels.
        clip_pixels: &'a HostTensor,
        /// Not normalised.
        embedding: &'a HostTensor,
        /// In [−1, 1].
        pixels: &'a HostTensor,
        /// The encoder's mean, scaled.
        latents: &'a HostTensor,
    },
    /// Some frames of the motion as the guiders read them, `[n,H,W,3]` in [0, 1].
    Motion(&'a HostTensor),
    /// A step was taken.
    Step {
        /// Its number.
        step: usize,
        /// Its training timestep.
        timestep: f32,
        /// The latents after it, `[F,h,w,C]`.
        latents: &'a HostTensor,
        /// What the sampler takes the end to be, of the same shape, where it has an opinion.
        estimate: Option<&'a HostTensor>,
    },
    /// A frame is done.
    Frame {
        /// Its number.
        index: usize,
        /// `[1,H,W,3]` in [0, 1].
        pixels: &'a HostTensor,
    },
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Stop here: the run returns [`Error::Interrupted`].
    Stop,
}

/// The listener of a run.
pub(super) struct Watch<'a> {
    pub(super) listener: &'a mut dyn FnMut(Event<'_>) -> Flow,
}

impl Watch<'_> {
    /// Tells an event.
    pub(super) fn tell(&mut self, event: Event<'_>) -> Result<()> {
        match (self.listener)(event) {
            Flow::Continue => Ok(()),
            Flow::Stop => Err(Error::Interrupted),
        }
    }
}

/// The clock of a stage.
pub(super) struct Clock {
    stage: Stage,
    of: usize,
    done: usize,
    started: Instant,
}

impl Clock {
    /// A stage of `of` units begins.
    pub(super) fn start(stage: Stage, of: usize, watch: &mut Watch<'_>) -> Result<Clock> {
        watch.tell(Event::Progress(Progress { stage, done: 0, of, left: None }))?;
        Ok(Clock { stage, of, done: 0, started: Instant::now() })
    }

    /// `units` more are done.
    pub(super) fn tick(&mut self, units: usize, watch: &mut Watch<'_>) -> Result<()> {
        self.done += units;
        let each = self.started.elapsed().as_secs_f64() / self.done.max(1) as f64;
        let rest = each * self.of.saturating_sub(self.done) as f64;
        let left = (self.done > 0).then(|| Duration::try_from_secs_f64(rest).unwrap_or(Duration::MAX));
        watch.tell(Event::Progress(Progress { stage: self.stage, done: self.done, of: self.of, left }))
    }
}
