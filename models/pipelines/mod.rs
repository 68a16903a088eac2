//! Pipelines: several networks and a sampler that together make pictures or videos from what people give.
//!
//! A component is loaded when it is wanted and freed after its use, so that a pipeline needs the memory of its largest stage
//! only; what a run will take is planned, and can be limited, before it begins.

pub mod animate;
pub mod components;
mod control;
mod decode;
mod denoise;
mod input;
mod memory;
mod planner;
pub mod stable;
mod stages;
mod steps;
mod watch;

pub use animate::{AnimateOptions, Animator};
pub(crate) use components::SCENE;
pub use components::{Components, Loaded};
pub use control::ControlInput;
pub use input::{AnimateInput, Checkpoint, Motion};
pub use memory::{Halves, MemoryPlan, StageMemory};
pub use watch::{Event, Flow, Progress, Stage};
