//! How far a run is, told to whoever watches.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use muybridge_runtime::HostTensor;

use crate::error::{Error, Result};

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Prompts become states.
    Text,
    /// Pictures become latents.
    Encode,
    /// Noise becomes latents.
    Denoise,
    /// Latents become pictures.
    Decode,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The part of the run.
    pub stage: Stage,
    /// The picture or clip at hand, from 0.
    pub item: usize,
    /// Pictures or clips of the run.
    pub items: usize,
    /// Steps done in this part, for all items together.
    pub done: usize,
    /// Steps of this part, for all items together.
    pub steps: usize,
    /// What this part will still take, judging by the steps done.
    pub left: Option<Duration>,
    /// The latents after the step, `[F,h,w,C]`, where there are any (see [`super::preview`]).
    pub latents: Option<&'a HostTensor>,
}

/// Told after every step; it may end the run.
pub type Watch<'a> = dyn FnMut(&Progress<'_>) -> ControlFlow<()> + 'a;

/// Counts the steps of one part of a run.
pub(super) struct Counter<'a, 'w> {
    watch: &'a mut Watch<'w>,
    stage: Stage,
    items: usize,
    steps: usize,
    done: usize,
    begun: Instant,
}

impl<'a, 'w> Counter<'a, 'w> {
    pub(super) fn new(watch: &'a mut Watch<'w>, stage: Stage, items: usize, steps: usize) -> Result<Counter<'a, 'w>> {
        let mut counter = Counter { watch, stage, items, steps, done: 0, begun: Instant::now() };
        counter.tell(0, None)?;
        Ok(counter)
    }

    /// Tells that one more step is done.
    pub(super) fn step(&mut self, item: usize, latents: Option<&HostTensor>) -> Result<()> {
        self.done += 1;
        self.tell(item, latents)
    }

    fn tell(&mut self, item: usize, latents: Option<&HostTensor>) -> Result<()> {
        let Counter { stage, items, steps, done, .. } = *self;
        let each = (done > 0).then(|| self.begun.elapsed() / done as u32);
        let left = each.map(|each| each * steps.saturating_sub(done) as u32);
        let progress = Progress { stage, item, items, done, steps, left, latents };
        match (self.watch)(&progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    }
}
