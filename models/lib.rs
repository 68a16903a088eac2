//! muybridge: the networks of controllable human video diffusion on hand-written GPU kernels.
//!
//! This crate knows networks: it wires the ops of `muybridge-kernels` into graphs over the weights of `muybridge-loaders` and
//! lets `muybridge-runtime` run them. It hides nothing of what is launched: a model's `build` reads as its list of launches,
//! and a plan says what each of them costs. It must not know drivers, file formats or kernel languages.
//!
//! The three main types are [`Unet`], [`ControlNet`] and [`Vae`]; [`case`] runs recorded cases of other implementations.
//!
//! ```no_run
//! use muybridge::{DType, Device, Unet, UnetShape};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let zeros = |shape: Vec<usize>| -> Result<muybridge::Tensor, Box<dyn std::error::Error>> { unreachable!() };
//! # let (latents, timestep, context) = (zeros(vec![])?, zeros(vec![])?, zeros(vec![])?);
//! let device = Device::open("auto")?;
//! let unet = Unet::open("checkpoints/sd15/unet", &device)?;
//! let shape = UnetShape { batch: 2, height: 64, width: 64, context: 77, dtype: DType::F16, ..UnetShape::default() };
//! let plan = unet.plan(shape)?;
//! println!("{plan}");
//! let noise = plan.run(&[&latents, &timestep, &context])?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod arithmetic;
pub mod backbone;
pub mod blocks;
pub mod bundled;
pub mod carry;
pub mod case;
pub mod clip;
pub mod config;
pub mod context;
pub mod controlnet;
pub mod embeddings;
mod error;
pub mod files;
pub mod guider;
pub mod layers;
pub mod ldm;
pub mod lora;
pub mod metrics;
pub mod motion;
pub mod motion_config;
pub mod noise;
pub mod pipelines;
pub mod presets;
pub mod referencenet;
pub mod resize;
pub mod resnet;
pub mod schedulers;
pub mod selection;
pub mod stages;
pub mod tiling;
pub mod transformer;
pub mod unet;
pub mod vae;

pub use arithmetic::Spared;
pub use backbone::FusionBlocks;
pub use clip::{ClipText, ClipVision};
pub use controlnet::ControlNet;
pub use error::{Error, Result};
pub use guider::{Guider, GuiderConfig, GuiderKind, GuiderShape};
pub use muybridge_kernels as kernels;
pub use muybridge_loaders as loaders;
pub use muybridge_loaders::{Config, Weights};
pub use muybridge_profiling as profiling;
pub use muybridge_runtime as runtime;
pub use muybridge_runtime::{DType, Device, HostTensor, Plan, Tensor};
pub use referencenet::ReferenceNet;
pub use stages::{Features, ReferenceShape, StepPlan, UnetShape};
pub use tiling::Tiling;
pub use unet::Unet;
pub use vae::{Vae, VaeConfig, VaeShape};

/// The README's example must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
