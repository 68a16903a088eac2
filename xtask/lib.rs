//! Tasks of the repository that are no part of the engine.
//!
//! Every CUDA kernel that published networks and the ops' cases need is known without a GPU: plans are made on pretended
//! devices ([`launches`]), their texts are compiled by NVRTC for each architecture ([`compile`]), and the machine code tells
//! what it needs and what it consists of ([`machine`], [`budgets`]). [`pack`] puts the same code into a file for machines
//! without NVRTC, and [`bundle`] all that it takes to check and time the engine on a machine with a GPU into a folder.
#![forbid(unsafe_code)]

pub mod budgets;
pub mod bundle;
pub mod chips;
pub mod compile;
pub mod launches;
pub mod machine;
pub mod pack;

pub mod table;

/// What tasks return.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
