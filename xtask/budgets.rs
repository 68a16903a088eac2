//! What the machine code of a kernel may need and must consist of, and the kernels that this is checked of.

use std::collections::{BTreeMap, BTreeSet};

use muybridge::DType;

use crate::Outcome;
use crate::chips::{CHIPS, Chip};
use crate::launches::{JUDGED, Kernel, Use, Uses, of_cases, of_network, pinned};
use crate::table::Row;

/// Limits of a variant's kernels.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Op and variant, as `matmul/mma`.
    pub kernel: &'static str,
    /// Fewest warps that a multiprocessor holds at once: what hides the latency of memory.
    pub warps: u32,
    /// Whether tensor cores do the work.
    pub tensor: bool,
    /// Whether it reads global memory in pieces of 16 bytes.
    pub wide: bool,
}

const fn budget(kernel: &'static str, warps: u32, tensor: bool, wide: bool) -> Budget {
    Budget { kernel, warps, tensor, wide }
}

/// Budgets of the kernels that a step spends its time in. A variant that is neither here nor `simple` has that of unlisted ones.
pub const BUDGETS: [Budget; 23] = [
    budget("matmul/mma", 8, true, true),
    budget("matmul/split_k", 8, true, true),
    budget("matmul/stream_k", 8, true, true),
    budget("matmul/tf32", 8, true, true),
    budget("matmul/wgmma", 12, true, true),
    budget("matmul/tma", 12, true, true),
    budget("matmul/few_rows", 24, false, true),
    budget("conv2d/mma", 8, true, true),
    budget("conv2d/split_k", 8, true, true),
    budget("conv2d/stream_k", 8, true, true),
    budget("conv2d/tf32", 8, true, true),
    budget("conv2d/wgmma", 12, true, true),
    budget("conv2d/tma", 12, true, true),
    budget("attention/mma", 4, true, true),
    budget("attention/few_keys", 4, true, true),
    budget("attention/frames", 2, true, true),
    budget("attention/wgmma", 12, true, true),
    budget("attention/tma", 12, true, true),
    budget("group_norm/two_pass", 16, false, true),
    budget("group_norm/from_moments", 16, false, false),
    budget("layer_norm/vec8", 16, false, true),
    budget("layer_norm/warp", 32, false, false),
    budget("elementwise/vec8", 24, false, true),
];

/// For a kernel of which nobody has said more.
const UNLISTED: Budget = budget("", 4, false, false);

/// Most bytes of stack of a `simple` kernel, which is a fallback: it may spill a little, and divide exactly.
const SIMPLE_STACK: u32 = 64;

impl Row {
    /// Whether it is a fallback that no step of the published networks spends time in.
    pub fn is_simple(&self) -> bool {
        self.usage.kernel.1 == "simple"
    }

    /// Its limits.
    pub fn budget(&self) -> Budget {
        let name = self.kernel();
        BUDGETS.into_iter().find(|b| b.kernel == name).unwrap_or(UNLISTED)
    }

    /// What breaks the budget, each in a few words; nothing where it is kept.
    pub fn broken(&self) -> Vec<String> {
        let (resources, spills, budget) = (&self.measured.resources, self.measured.spills, self.budget());
        let mut broken = Vec::new();
        let mut demand = |kept: bool, what: String| {
            if !kept {
                broken.push(what);
            }
        };
        let warps = self.resident() * self.usage.threads.div_ceil(32);
        demand(warps > 0, "not even one block fits a multiprocessor".into());
        if self.is_simple() {
            demand(resources.stack <= SIMPLE_STACK, format!("{} bytes of stack", resources.stack));
            return broken;
        }
        let spilled = spills.stores + spills.loads;
        let whole = WHOLE.contains(&self.chip.name().as_str());
        let most = if whole { 0 } else { ELSEWHERE };
        demand(spilled <= most, format!("{spilled} bytes of spilled registers"));
        // Local memory is the stack's: without a stack there is no traffic.
        demand(resources.stack <= most, format!("{} bytes of stack", resources.stack));
        if let Some(why) = &self.measured.serialized {
            demand(false, why.clone());
        }
        // Multiprocessors of 7.5 have half the room for warps and a third of the shared memory.
        let least = if self.chip.0 < (8, 0) { budget.warps / 2 } else { budget.warps };
        demand(warps >= least, format!("{warps} warps at once, and {least} hide latency"));
        if let Some(counts) = self.counts() {
            demand(!whole || counts.local == 0, format!("{} loads and stores of local memory", counts.local));
            demand(counts.calls == 0, format!("{} calls", counts.calls));
            let warpgroups = ["wgmma", "tma"].contains(&self.usage.kernel.1);
            let own = if warpgroups { counts.hgmma } else { counts.hmma };
            demand(!budget.tensor || own > 0, "no instruction on tensor cores".into());
            demand(!budget.wide || counts.wide > 0, "no load of 16 bytes".into());
        }
        broken
    }
}

/// Most bytes that a hot kernel spills on a chip that is not among [`WHOLE`]: kernels are shaped for those.
const ELSEWHERE: u32 = 32;

/// Chips whose hot kernels are all compiled.
pub const WHOLE: [&str; 3] = ["sm_80", "sm_89", "sm_90a"];

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every hot kernel in f16 for the chips of [`WHOLE`]; of the fallbacks, the other dtypes and the other chips the
    /// largest of each variant. bf16 differs from f16 in the name of an instruction, and f32 in the width of its loads.
    Usual,
    /// Every kernel of every chip in every dtype.
    All,
}

/// The kernels to look at, by chip.
///
/// # Errors
/// A network that cannot be planned.
pub fn selection(scope: Scope) -> Outcome<Vec<(Chip, Uses)>> {
    CHIPS.into_iter().map(|chip| Ok((chip, kernels(&chip, scope)?))).collect()
}

fn kernels(chip: &Chip, scope: Scope) -> Outcome<Uses> {
    let mut chosen = Uses::new();
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        let mut uses = Uses::new();
        for work in JUDGED {
            of_network(&mut uses, chip, work, dtype, "")?;
            for pins in pinned() {
                of_network(&mut uses, chip, work, dtype, &pins)?;
            }
        }
        of_cases(&mut uses, chip, dtype, |_, _| true)?;
        let whole = dtype == DType::F16 && WHOLE.contains(&chip.name().as_str());
        let other = dtype != DType::F16 && !WHOLE.contains(&chip.name().as_str());
        let largest = largest(&uses, true);
        let take = |(kernel, usage): &(Kernel, Use)| match scope {
            Scope::All => true,
            Scope::Usual if other => false,
            Scope::Usual => (whole && usage.kernel.1 != "simple") || largest.contains(kernel),
        };
        chosen.extend(uses.into_iter().filter(take));
    }
    Ok(chosen)
}

/// Of each op, variant and entry, and of each width of heads where widths are told apart, the kernel with the largest launch.
pub fn largest(uses: &Uses, widths: bool) -> BTreeSet<Kernel> {
    let mut found: BTreeMap<_, (&Kernel, &Use)> = BTreeMap::new();
    for (kernel, usage) in uses {
        let heads = widths && usage.kernel.0 == "attention";
        let width = usage.constants.split(' ').find(|c| heads && c.starts_with("WIDTH="));
        let slot = found.entry((usage.kernel, kernel.entry, width)).or_insert((kernel, usage));
        if (usage.flop, usage.bytes) > (slot.1.flop, slot.1.bytes) {
            *slot = (kernel, usage);
        }
    }
    found.into_values().map(|(kernel, _)| kernel.clone()).collect()
}
