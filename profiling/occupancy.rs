//! How many blocks of a kernel a multiprocessor holds at once, and what stands in the way of more.

use std::fmt;

/// What bounds a multiprocessor of one architecture. Source: the table of technical specifications per compute capability
/// of the CUDA C++ programming guide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiprocessor {
    /// Compute capability times ten.
    pub architecture: u32,
    /// Most warps at once.
    pub warps: u32,
    /// Most blocks at once.
    pub blocks: u32,
    /// Bytes of shared memory for all blocks together.
    pub shared: u32,
    /// Bytes of shared memory that the system keeps for itself in every block.
    pub reserved: u32,
}

/// Registers of every multiprocessor since 3.5, which lie in four parts of as many.
const REGISTERS: u32 = 65_536;
const PARTS: u32 = 4;

/// A warp gets registers in units of this many.
const REGISTER_UNIT: u32 = 256;

/// A block gets shared memory in units of this many bytes, before sm_80 and from there on.
const SHARED_UNITS: [u64; 2] = [256, 128];

/// Threads of a warp.
const WARP: u32 = 32;

/// Most threads of a block.
const MOST_THREADS: u32 = 1024;

const fn row(architecture: u32, warps: u32, blocks: u32, kib: u32) -> Multiprocessor {
    let reserved = if architecture >= 80 { 1024 } else { 0 };
    Multiprocessor { architecture, warps, blocks, shared: kib << 10, reserved }
}

/// The architectures that are known.
pub const MULTIPROCESSORS: [Multiprocessor; 11] = [
    row(75, 32, 16, 64),
    row(80, 64, 32, 164),
    row(86, 48, 16, 100),
    row(87, 48, 16, 164),
    row(89, 48, 24, 100),
    row(90, 64, 32, 228),
    row(100, 64, 32, 228),
    row(103, 64, 32, 228),
    row(110, 48, 24, 228),
    row(120, 48, 24, 100),
    row(121, 48, 24, 100),
];

/// What stands in the way of more blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Registers.
    Registers,
    /// Shared memory.
    Shared,
    /// Warps.
    Warps,
    /// The number of blocks itself.
    Blocks,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Registers => "registers",
            Limit::Shared => "shared",
            Limit::Warps => "warps",
            Limit::Blocks => "blocks",
        })
    }
}

/// What one block takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Threads.
    pub threads: u32,
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of shared memory, both declared and asked for by the launch.
    pub shared: u32,
}

/// How a multiprocessor is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Blocks at once; 0 where not even one fits.
    pub blocks: u32,
    /// Warps of all of them.
    pub warps: u32,
    /// Warps that there is room for.
    pub of_warps: u32,
    /// What stands in the way of more.
    pub limit: Limit,
}

impl Occupancy {
    /// The part of the warps that are taken.
    pub fn part(&self) -> f64 {
        f64::from(self.warps) / f64::from(self.of_warps.max(1))
    }
}

impl Multiprocessor {
    /// Of this architecture (90 for sm_90 and sm_90a), if it is known.
    pub fn of(architecture: u32) -> Option<Multiprocessor> {
        MULTIPROCESSORS.into_iter().find(|m| m.architecture == architecture)
    }

    /// Most bytes of shared memory that one block may have.
    pub fn most_shared(&self) -> u32 {
        self.shared - self.reserved
    }

    /// How blocks of this kind fill it. Warps go to the four parts of the registers one by one, as CUDA's own calculation
    /// (`cuda_occupancy.h`) has it.
    pub fn filled_by(&self, block: Block) -> Occupancy {
        let warps = block.threads.div_ceil(WARP).max(1);
        let per_warp = block.registers.clamp(1, REGISTERS).saturating_mul(WARP).next_multiple_of(REGISTER_UNIT);
        let by_registers = REGISTERS / PARTS / per_warp * PARTS / warps;
        let unit = SHARED_UNITS[usize::from(self.architecture >= 80)];
        let shared = (u64::from(block.shared) + u64::from(self.reserved)).next_multiple_of(unit);
        let by_shared = u64::from(self.shared).checked_div(shared).map_or(self.blocks, |n| n as u32);
        let bounds = [
            (Limit::Registers, by_registers),
            (Limit::Shared, by_shared),
            (Limit::Warps, if block.threads > MOST_THREADS { 0 } else { self.warps / warps }),
            (Limit::Blocks, self.blocks),
        ];
        let tightest = |best: (Limit, u32), next: (Limit, u32)| if next.1 < best.1 { next } else { best };
        let (limit, blocks) = bounds.into_iter().rev().reduce(tightest).unwrap_or((Limit::Blocks, 0));
        Occupancy { blocks, warps: blocks * warps, of_warps: self.warps, limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn filled(architecture: u32, (threads, registers, shared): (u32, u32, u32)) -> (u32, u32, Limit) {
        let of = Multiprocessor::of(architecture).expect("known").filled_by(Block { threads, registers, shared });
        (of.blocks, of.warps, of.limit)
    }

    #[test]
    fn the_tightest_bound_counts() {
        assert_eq!(filled(90, (256, 32, 0)), (8, 64, Limit::Warps));
        assert_eq!(filled(90, (256, 33, 0)), (6, 48, Limit::Registers));
        assert_eq!(filled(90, (128, 168, 0)), (3, 12, Limit::Registers));
        assert_eq!(filled(90, (128, 32, 100 << 10)), (2, 8, Limit::Shared));
        assert_eq!(filled(80, (128, 32, 100 << 10)), (1, 4, Limit::Shared));
        assert_eq!(filled(86, (32, 16, 0)), (16, 16, Limit::Blocks));
        assert_eq!(filled(75, (1024, 64, 0)), (1, 32, Limit::Warps));
    }

    #[test]
    fn what_does_not_fit_is_none() {
        assert_eq!(filled(90, (384, 255, 0)).0, 0);
        assert_eq!(filled(86, (128, 32, 100 << 10)), (0, 0, Limit::Shared));
        assert_eq!(filled(90, (1025, 16, 0)).0, 0);
        assert_eq!(filled(90, (128, 32, u32::MAX)).0, 0);
        assert!(Multiprocessor::of(20).is_none());
        // The most that one block may have is one block's.
        for m in MULTIPROCESSORS {
            let block = Block { threads: 128, registers: 32, shared: m.most_shared() };
            assert_eq!(m.filled_by(block).blocks, 1, "{}", m.architecture);
        }
    }
}
