//! Rows of what was measured, one for each kernel on each architecture, and how they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::Outcome;
use crate::budgets::{WHOLE, largest};
use crate::chips::Chip;
use crate::compile::{Kept, Wanted, all, on_all_cores};
use crate::launches::{Kernel, Use, Uses};
use crate::machine::{Measured, measure};

/// One kernel on one chip.
#[derive(Clone, Debug)]
pub struct Row {
    /// The chip.
    pub chip: Chip,
    /// Path of the source.
    pub file: &'static str,
    /// Name of the kernel.
    pub entry: &'static str,
    /// How it is launched.
    pub usage: Use,
    /// What it needs.
    pub measured: Measured,
}

/// How often instructions that matter stand in the code.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Products of a warp on tensor cores.
    pub hmma: u32,
    /// Products of a warpgroup.
    pub hgmma: u32,
    /// Loads of 16 bytes from global memory, and copies of whole blocks.
    pub wide: u32,
    /// Loads and stores of local memory.
    pub local: u32,
    /// Calls of functions that were not put in line.
    pub calls: u32,
    /// Instructions of all kinds.
    pub all: u32,
}

impl Row {
    /// Op and variant: `matmul/mma`.
    pub fn kernel(&self) -> String {
        format!("{}/{}", self.usage.kernel.0, self.usage.kernel.1)
    }

    /// Bytes of shared memory of a block, declared and asked for at launch.
    pub fn shared(&self) -> u32 {
        self.measured.resources.shared + self.usage.shared
    }

    /// Blocks that run on a multiprocessor at once.
    pub fn resident(&self) -> u32 {
        self.chip.resident(self.usage.threads, self.measured.resources.registers, self.shared())
    }

    /// Its instructions, where they were listed.
    pub fn counts(&self) -> Option<Counts> {
        let instructions = self.measured.instructions.as_ref()?;
        Some(Counts {
            hmma: instructions.count(&["HMMA"]),
            hgmma: instructions.count(&["HGMMA"]),
            wide: instructions.wide_loads(),
            local: instructions.count(&["LDL", "STL"]),
            calls: instructions.count(&["CALL"]),
            all: instructions.total(),
        })
    }
}

/// Compiles and measures the kernels of these uses, chip by chip. Instructions are listed of the largest launch of each
/// hot variant for the chips of [`WHOLE`], or of all kernels: nvdisasm takes as long as the compiler.
///
/// # Errors
/// There is no compiler or disassembler, or a text is refused.
pub fn rows(uses: &[(Chip, Uses)], kept: &Kept, list_all: bool) -> Outcome<Vec<Row>> {
    // Kernels of one text are compiled together.
    let mut texts: BTreeMap<(Chip, &str), (&Kernel, bool)> = BTreeMap::new();
    for (chip, kernels) in uses {
        let listed = if WHOLE.contains(&chip.name().as_str()) { per_dtype(kernels) } else { BTreeSet::new() };
        for kernel in kernels.keys() {
            let (_, list) = texts.entry((*chip, kernel.text.as_str())).or_insert((kernel, false));
            *list |= list_all || listed.contains(kernel);
        }
    }
    let wanted: Vec<_> =
        texts.iter().map(|((chip, _), (kernel, _))| Wanted { architecture: chip.name(), kernel }).collect();
    let compiled = all(&wanted, kept)?;
    let work: Vec<_> = compiled.iter().zip(texts.values().map(|(_, list)| *list)).collect();
    let measured = on_all_cores(&work, |(compiled, list)| measure(compiled, *list))?;
    let measured: BTreeMap<_, _> = texts.keys().zip(measured).collect();
    let mut rows = Vec::new();
    for (chip, kernels) in uses {
        for (kernel, usage) in kernels {
            let found = measured.get(&(*chip, kernel.text.as_str())).and_then(|m| m.get(kernel.entry));
            let found = found.ok_or_else(|| format!("{}: no kernel {}", kernel.file, kernel.entry))?;
            let (file, entry) = (kernel.file, kernel.entry);
            rows.push(Row { chip: *chip, file, entry, usage: usage.clone(), measured: found.clone() });
        }
    }
    Ok(rows)
}

/// The largest of each hot variant in each dtype.
fn per_dtype(kernels: &Uses) -> BTreeSet<Kernel> {
    let dtypes: BTreeSet<&str> = kernels.values().map(|u| u.dtype.name()).collect();
    let of = |dtype| {
        let own = kernels.iter().filter(|(_, u)| u.dtype.name() == dtype && u.kernel.1 != "simple");
        largest(&own.map(|(k, u)| (k.clone(), u.clone())).collect(), false)
    };
    dtypes.into_iter().flat_map(of).collect()
}

const COLUMNS: &str = "chip\tkernel\tentry\tdtype\tregisters\tspilled bytes\tstack\tshared bytes\tthreads\tblocks per SM\tHMMA\tHGMMA\t\
     16-byte loads\tlocal loads and stores\tcalls\tinstructions\tlaunches\tGFLOP\tMB\tconstants\tlargest at";

/// All rows, tab-separated, after a line of the columns' names. Counts of instructions are `-` where they were not listed.
pub fn lines(rows: &[Row]) -> String {
    let mut out = format!("{COLUMNS}\n");
    for r in rows {
        let (m, u, counts) = (&r.measured, &r.usage, r.counts());
        let count = |f: fn(Counts) -> u32| counts.map_or("-".into(), |c| f(c).to_string());
        let columns = [
            r.chip.name(),
            r.kernel(),
            r.entry.into(),
            u.dtype.to_string(),
            m.resources.registers.to_string(),
            (m.spills.stores + m.spills.loads).to_string(),
            m.resources.stack.to_string(),
            r.shared().to_string(),
            u.threads.to_string(),
            r.resident().to_string(),
            count(|c| c.hmma),
            count(|c| c.hgmma),
            count(|c| c.wide),
            count(|c| c.local),
            count(|c| c.calls),
            count(|c| c.all),
            u.launches.to_string(),
            format!("{:.3}", u.flop as f64 / 1e9),
            format!("{:.3}", u.bytes as f64 / 1e6),
            u.constants.clone(),
            u.site.clone(),
        ];
        out += &columns.join("\t");
        out.push('\n');
    }
    out
}

/// A row of [`summary`]: all kernels of a variant on a chip.
type Key = (Chip, String, &'static str);

/// Most registers of each variant on each chip: what tells a table that is out of date.
pub fn most_registers(rows: &[Row]) -> BTreeMap<Key, u32> {
    let mut found = BTreeMap::new();
    for r in rows {
        let most: &mut u32 = found.entry((r.chip, r.kernel(), r.usage.dtype.name())).or_default();
        *most = r.measured.resources.registers.max(*most);
    }
    found
}

/// One line for each variant in each dtype on each chip, as a table of Markdown.
pub fn summary(rows: &[Row]) -> String {
    let mut groups: BTreeMap<Key, Vec<&Row>> = BTreeMap::new();
    for r in rows {
        groups.entry((r.chip, r.kernel(), r.usage.dtype.name())).or_default().push(r);
    }
    let mut out = String::from(
        "| chip | kernel | dtype | kernels | registers | spilled bytes | warps per SM | HMMA | HGMMA | 16-byte loads | local | calls | \
         GFLOP per launch | MB per launch |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for ((chip, kernel, dtype), all) in groups {
        let range = |f: &dyn Fn(&Row) -> Option<u32>| {
            let values: Vec<u32> = all.iter().filter_map(|r| f(r)).collect();
            match (values.iter().min(), values.iter().max()) {
                (Some(a), Some(b)) if a == b => a.to_string(),
                (Some(a), Some(b)) => format!("{a}–{b}"),
                _ => "-".into(),
            }
        };
        let of = |f: fn(Counts) -> u32| range(&|r| r.counts().map(f));
        let largest = all.iter().max_by_key(|r| (r.usage.flop, r.usage.bytes));
        let [flop, bytes] = largest.map_or([0.0; 2], |r| [r.usage.flop as f64 / 1e9, r.usage.bytes as f64 / 1e6]);
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| {} | {kernel} | {dtype} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {flop:.3} | {bytes:.2} |",
            chip.name(),
            all.len(),
            range(&|r| Some(r.measured.resources.registers)),
            range(&|r| Some(r.measured.spills.stores + r.measured.spills.loads)),
            range(&|r| Some(r.resident() * r.usage.threads.div_ceil(32))),
            of(|c| c.hmma),
            of(|c| c.hgmma),
            of(|c| c.wide),
            of(|c| c.local),
            of(|c| c.calls),
        );
    }
    out
}
