//! The ops of the engine: what they compute, what they cost, and how they are launched.
//!
//! This crate knows mathematics, references and launch geometry. It must not know files, models or drivers: an op lowers
//! itself to launches, which are plain data, and `muybridge-runtime` hands them to a device. One op is one folder.
//!
//! The main types are the op structs ([`Matmul`], [`Conv2d`], [`Attention`], …), [`OPS`], the one list of ops, and [`Case`],
//! one row of the tables that drive tests and benches.

mod activation;
pub mod attention;
pub mod case;
pub mod conv2d;
pub mod conv3d;
mod cpu;
mod cuda;
pub mod elementwise;
pub mod group_norm;
mod host;
pub mod layer_norm;
pub mod layout;
pub mod matmul;
pub mod pool;
pub mod resample;
pub mod timestep_embedding;
pub mod unit_distance;
mod wgsl;
pub mod wrappers;

pub use activation::Activation;
pub use attention::{Attention, Axis};
pub use case::{Case, Operand, Role};
pub use conv2d::Conv2d;
pub use conv3d::Conv3d;
pub use elementwise::Elementwise;
pub use group_norm::GroupNorm;
pub use layer_norm::LayerNorm;
pub use layout::Layout;
pub use matmul::Matmul;
pub use pool::{Pool, Pooling};
pub use resample::{Mode, Resample};
pub use timestep_embedding::TimestepEmbedding;
pub use unit_distance::UnitDistance;

use muybridge_runtime::{Target, Variant};

/// Changes with the sources of this crate: what was measured of its host kernels is measured again then.
pub(crate) const REVISION: &str = env!("KERNELS_REVISION");

/// An op's entry in the list of ops.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Name of the op and of its folder.
    pub name: &'static str,
    /// Its kernels, the preferred one first for each target.
    pub variants: &'static [Variant],
    /// The rows of its tests and benches.
    pub cases: fn() -> Vec<Case>,
}

/// Every op of the engine.
pub const OPS: &[Entry] = &[
    Entry { name: "matmul", variants: matmul::VARIANTS, cases: matmul::cases },
    Entry { name: "conv2d", variants: conv2d::VARIANTS, cases: conv2d::cases },
    Entry { name: "attention", variants: attention::VARIANTS, cases: attention::cases },
    Entry { name: "group_norm", variants: group_norm::VARIANTS, cases: group_norm::cases },
    Entry { name: "layer_norm", variants: layer_norm::VARIANTS, cases: layer_norm::cases },
    Entry { name: "elementwise", variants: elementwise::VARIANTS, cases: elementwise::cases },
    Entry { name: "resample", variants: resample::VARIANTS, cases: resample::cases },
    Entry { name: "timestep_embedding", variants: timestep_embedding::VARIANTS, cases: timestep_embedding::cases },
    Entry { name: "layout", variants: layout::VARIANTS, cases: layout::cases },
    Entry { name: "conv3d", variants: conv3d::VARIANTS, cases: conv3d::cases },
    Entry { name: "pool", variants: pool::VARIANTS, cases: pool::cases },
    Entry { name: "unit_distance", variants: unit_distance::VARIANTS, cases: unit_distance::cases },
];

/// Tilings of the products' kernels.
pub(crate) fn tiles(variant: &Variant) -> &'static [&'static str] {
    match (variant.target, variant.name) {
        (Target::Wgsl, "tiled") => wgsl::TILES,
        (Target::Cuda, "mma" | "stream_k") => cuda::Tile::NAMES,
        (Target::Cuda, "split_k") => cuda::Tile::SLICED,
        _ => &[],
    }
}

/// Kernels that only a pin chooses: `tf32` rounds f32 operands to 11 digits, `wgmma`, `tma` and `stream_k` have not run on hardware yet.
pub(crate) fn by_pin(variant: &Variant) -> bool {
    variant.target == Target::Cuda && ["tf32", "wgmma", "tma", "stream_k"].contains(&variant.name)
}
