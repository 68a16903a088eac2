//! What a run takes of the device's memory, planned before it begins, and how it is kept within a limit.

use std::fmt;

use muybridge_runtime::Device;

use super::watch::Stage;
use crate::error::{Error, Result};
use crate::tiling::Tiling;

/// How the halves of guidance are computed. The choice changes results in the last bits only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halves {
    /// In one batch.
    Together,
    /// One after the other, in the same memory.
    InTurn,
    /// There is no guidance: only the conditional half.
    Conditional,
}

/// The most memory that a stage holds at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageMemory {
    /// The stage.
    pub stage: Stage,
    /// Weights, activations, operands and results, in bytes.
    pub bytes: u64,
}

/// What a run takes, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// Stages in their order. Each frees what it holds before the next begins.
    pub stages: Vec<StageMemory>,
    /// How the halves of guidance are computed.
    pub halves: Halves,
    /// Frames of a window that spatial work is done for at a time, where not for all: only motion modules read several. The
    /// choice changes results in the last bits only.
    pub spatial_frames: Option<usize>,
    /// Frames that a guider reads at a time, where there are guiders. The choice does not change results.
    pub guider_frames: Option<usize>,
    /// Tiles of the decoder, where whole frames do not fit. Tiled frames differ a little from whole ones.
    pub tiling: Option<Tiling>,
    /// Bytes of host memory for latents and features of all frames, where there are many.
    pub host: u64,
}

impl MemoryPlan {
    /// The most device memory at once, in bytes.
    pub fn peak(&self) -> u64 {
        self.stages.iter().map(|s| s.bytes).max().unwrap_or(0)
    }

    /// The most device memory of a stage, in bytes: none of a stage that the run does not have.
    pub fn of(&self, stage: Stage) -> u64 {
        self.stages.iter().filter(|s| s.stage == stage).map(|s| s.bytes).max().unwrap_or(0)
    }

    /// The plan, being the smallest that there is if it is beyond the limit.
    ///
    /// # Errors
    /// It is beyond the limit; the error names the least that would do.
    pub(super) fn within(self, limit: Option<u64>, device: &Device) -> Result<MemoryPlan> {
        let wanted = self.peak();
        if limit.is_none_or(|limit| wanted <= limit) {
            return Ok(self);
        }
        let largest = self.stages.iter().max_by_key(|s| s.bytes).map_or(Stage::Denoising, |s| s.stage);
        let what = format!("{largest}, which is the least that this size, length and dtype can do with");
        Err(muybridge_runtime::Error::OutOfMemory { device: device.name().into(), what, wanted, limit }.into())
    }
}

/// A way of denoising.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub halves: Halves,
    /// Frames of spatial work at a time, where not all.
    pub spatial_frames: Option<usize>,
    /// What it takes.
    pub bytes: u64,
}

impl Way {
    /// The fastest way within a limit, or else the smallest: halves of guidance together (where `together` says that they
    /// can be), in turn, and in turn with spatial work on a half, a quarter or an eighth of a window's frames at a time.
    /// `cost` tells the bytes of each.
    pub(super) fn choose(
        (guided, together): (bool, bool),
        frames: usize,
        limit: u64,
        cost: impl Fn(Halves, Option<usize>) -> Result<u64>,
    ) -> Result<Way> {
        let one = if guided { Halves::InTurn } else { Halves::Conditional };
        let portions = [2, 4, 8].map(|parts| frames.div_ceil(parts)).into_iter().filter(|n| *n < frames);
        let first = (guided && together).then_some((Halves::Together, None));
        let mut ways: Vec<_> = first.into_iter().chain([(one, None)]).chain(portions.map(|n| (one, Some(n)))).collect();
        ways.dedup();
        let mut least: Option<Way> = None;
        for (halves, spatial_frames) in ways {
            let bytes = match cost(halves, spatial_frames) {
                // Maps of single frames do not lie as the device can bind them.
                Err(Error::Runtime(muybridge_runtime::Error::Misaligned { .. })) if spatial_frames.is_some() => {
                    continue;
                }
                other => other?,
            };
            if least.is_none_or(|l| bytes < l.bytes) {
                least = Some(Way { halves, spatial_frames, bytes });
            }
            if bytes <= limit {
                break;
            }
        }
        least.ok_or_else(|| Error::call("MemoryPlan", "no way of denoising"))
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let halves = match self.halves {
            Halves::Together => "both halves of guidance at once",
            Halves::InTurn => "halves of guidance in turn",
            Halves::Conditional => "no guidance",
        };
        let tiles =
            self.tiling.map_or("whole frames decoded".into(), |t| format!("frames decoded in tiles of {}", t.tile));
        write!(f, "at most {} on the device ({halves}, {tiles}", size(self.peak()))?;
        if let Some(frames) = self.spatial_frames {
            write!(f, ", spatial work on {frames} frames at a time")?;
        }
        if let Some(frames) = self.guider_frames {
            write!(f, ", {frames} frames of motion at a time")?;
        }
        write!(f, ")")?;
        if self.host > 0 {
            write!(f, ", {} of features in host memory", size(self.host))?;
        }
        self.stages.iter().try_for_each(|s| write!(f, "\n  {:<24} {:>10}", s.stage.to_string(), size(s.bytes)))
    }
}

fn size(bytes: u64) -> String {
    if bytes < 1_000_000_000 {
        format!("{:.1} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.2} GB", bytes as f64 / 1e9)
    }
}
