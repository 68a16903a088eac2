//! The kernel engineer's bench: what is slow, by how much, and whether a change made it faster.
//!
//! This crate knows how plans and kernels are timed and judged: against the device's own measured roofs, against each other,
//! and against the f64 references. It must not know networks or files of weights: it takes plans and ops as they are.
//!
//! The three main types are [`Report`] (a measured plan; [`compare`], [`trace`] and [`html`] take it), [`Roofs`] (what the
//! device reaches at best) and [`tune::Tuning`] (kernels chosen by measurement).

#![forbid(unsafe_code)]

pub mod check;
pub mod compare;
pub mod doctor;
pub mod error;
pub mod groups;
pub mod html;
mod measure;
pub mod occupancy;
pub mod pipeline;
mod report;
mod roofs;
pub mod stats;
pub mod substitute;
pub mod trace;
pub mod tune;

pub use error::{Error, Result};
pub use measure::{Options, measure};
pub use report::{DeviceInfo, MemoryBlock, NodeSample, PlanInfo, Report};
pub use roofs::Roofs;
pub use stats::Sample;

/// Told how far a long measurement has come: what is done, of how much. Returns whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// Goes on, or stops because the caller wants to.
pub(crate) fn step(progress: &mut dyn FnMut(u64, u64) -> bool, done: u64, of: u64) -> Result<()> {
    if progress(done, of) { Ok(()) } else { Err(Error::Interrupted) }
}
