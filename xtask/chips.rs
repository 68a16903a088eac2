//! The architectures that kernels are compiled for.

use muybridge::profiling::occupancy::{Block, MULTIPROCESSORS, Multiprocessor};
use muybridge::runtime::backend::Backend;
use muybridge::runtime::backend::cuda;
use muybridge::runtime::backend::trace::TraceBackend;
use muybridge::runtime::{Caps, Target};

/// A device that is not there, of one compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chip(pub (u32, u32));

/// Every architecture of a kernel pack, the oldest first.
pub const CHIPS: [Chip; 7] =
    [Chip((7, 5)), Chip((8, 0)), Chip((8, 6)), Chip((8, 9)), Chip((9, 0)), Chip((10, 0)), Chip((12, 0))];

impl Chip {
    /// The chip of this name, as `sm_90a`.
    pub fn named(name: &str) -> Option<Chip> {
        CHIPS.into_iter().find(|c| c.name() == name)
    }

    /// Name of its machine code: `sm_90a`.
    pub fn name(&self) -> String {
        cuda::architecture(self.0)
    }

    /// What its multiprocessors hold; those of the newest known where it is newer than all of them.
    pub fn multiprocessor(&self) -> Multiprocessor {
        let [.., newest] = MULTIPROCESSORS;
        Multiprocessor::of(10 * self.0.0 + self.0.1).unwrap_or(newest)
    }

    /// What a device of this chip can do, as far as plans look.
    pub fn caps(&self) -> Caps {
        let usual = TraceBackend::new(Target::Cuda).caps().clone();
        let max_shared = self.multiprocessor().most_shared();
        Caps { compute_capability: Some(self.0), max_shared, name: self.name(), ..usual }
    }

    /// Blocks of this kind that run on a multiprocessor at once.
    pub fn resident(&self, threads: u32, registers: u32, shared: u32) -> u32 {
        self.multiprocessor().filled_by(Block { threads, registers, shared }).blocks
    }
}
