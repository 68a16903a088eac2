//! What CUDA kernels need of a multiprocessor, as their machine code says.

use std::collections::HashSet;

use muybridge::kernels::{Case, OPS};
use muybridge::profiling::check;
use muybridge::profiling::occupancy::{Block, MULTIPROCESSORS, Multiprocessor};
use muybridge::runtime::backend::cuda;
use muybridge::runtime::backend::trace::TraceBackend;
use muybridge::runtime::backend::{Backend, Caps, Target};
use muybridge::runtime::cubin::{self, Resources, Spills};
use muybridge::runtime::{Code, Launch, source};

use super::{Args, split};
use crate::Failure;
use crate::table::{Table, say};

/// Asks the assembler what it spilled.
const OPTIONS: [&str; 2] = ["--std=c++17", "--ptxas-options=--verbose"];

/// Columns of a terminal.
const WIDTH: usize = 100;

/// A capability: (9, 0) for sm_90a.
type Capability = (u32, u32);

/// One launch of a kernel, as it is compiled for an architecture.
struct Wanted {
    name: String,
    entry: &'static str,
    file: &'static str,
    text: String,
    threads: u32,
    shared: u32,
}

/// Prints registers, shared memory, stack, spills and occupancy of the kernels that were asked for.
///
/// # Errors
/// There is no compiler; an architecture or a name that is not known; a kernel that does not compile.
pub fn print(args: &Args) -> Result<(), Failure> {
    let asked: Vec<Capability> = args.arch.iter().map(|a| capability(a)).collect::<Result<_, _>>()?;
    // What pretends to be a device of the architecture tells which kernels fit.
    let chips = if asked.is_empty() { vec![(8, 0), (9, 0)] } else { asked };
    let mut wanted = Vec::new();
    for chip in &chips {
        wanted.extend(launches(args, *chip)?.into_iter().map(|w| (*chip, w)));
    }
    if wanted.is_empty() {
        return Err(Failure(format!("no CUDA kernel of that name fits a case in {}", args.dtype)));
    }
    if let Some(version) = cuda::compiler() {
        say!("NVRTC {}.{}, {}", version / 1000, version % 1000, args.dtype);
    }
    let headings =
        ["arch", ">regs", ">shared", ">stack", ">spilled", ">threads", ">blocks", ">warps", "limit", "kernel for case"];
    let mut out = Table::new(&headings).within(WIDTH);
    let mut report = crate::profile::bar("compiling");
    for (i, (chip, one)) in wanted.iter().enumerate() {
        if !report(i as u64, wanted.len() as u64) {
            return crate::interrupt::check();
        }
        let (resources, spills) = compile(*chip, one)?;
        out.row(row(*chip, one, &resources, spills));
    }
    report(wanted.len() as u64, wanted.len() as u64);
    out.print();
    say!(
        "registers, stack and spilled bytes (stored + loaded) per thread; blocks and warps at once on a multiprocessor"
    );
    Ok(())
}

/// `sm_90a`, `sm_90` or `90`.
fn capability(name: &str) -> Result<Capability, Failure> {
    let digits = name.trim_start_matches("sm_").trim_end_matches(['a', 'f']);
    let known = digits.parse().ok().filter(|n| Multiprocessor::of(*n).is_some());
    let names = || MULTIPROCESSORS.map(|m| cuda::architecture((m.architecture / 10, m.architecture % 10))).join(", ");
    known.map(|n: u32| (n / 10, n % 10)).ok_or_else(|| Failure(format!("no architecture {name:?}; known: {}", names())))
}

fn multiprocessor((major, minor): Capability) -> Option<Multiprocessor> {
    Multiprocessor::of(10 * major + minor)
}

/// The launches of every variant that was asked for, on its first case that fits (one of a published network before others).
fn launches(args: &Args, chip: Capability) -> Result<Vec<Wanted>, Failure> {
    let shared = multiprocessor(chip).map_or(0, |m| m.most_shared());
    let usual = TraceBackend::new(Target::Cuda).caps().clone();
    let caps = Caps { compute_capability: Some(chip), max_shared: shared, ..usual };
    let (op, kernel) = match args.variant.as_deref() {
        Some(name) => split(name).map(|(op, kernel)| (Some(op), Some(kernel)))?,
        None => (args.case.as_deref().map(split).transpose()?.map(|(op, _)| op), None),
    };
    if let Some(op) = op.filter(|op| OPS.iter().all(|e| e.name != *op)) {
        return Err(Failure(format!("no op {op:?}")));
    }
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    for entry in OPS.iter().filter(|e| op.is_none_or(|op| e.name == op)) {
        let mut cases = match &args.case {
            Some(case) => vec![check::case(entry.name, case.split_once(':').map_or(case, |(_, case)| case))?],
            None => (entry.cases)(),
        };
        cases.sort_by_key(|c| !c.full_size);
        let own = entry.variants.iter().filter(|v| v.target == Target::Cuda);
        for variant in own.filter(|v| kernel.is_none_or(|k| v.name == k)) {
            let lowered = |c: &Case| Some((c.name, c.lower(variant, args.dtype, &caps).ok().flatten()?));
            let Some((case, lowering)) = cases.iter().find_map(lowered) else { continue };
            let of = |l| wanted(l, &format!("{}:{}", entry.name, variant.name), case);
            found.extend(lowering.launches.iter().filter_map(of).filter(|w| seen.insert((w.text.clone(), w.entry))));
        }
    }
    Ok(found)
}

fn wanted(launch: &Launch, name: &str, case: &str) -> Option<Wanted> {
    let Code::Kernel(kernel) = &launch.code else { return None };
    let own = name.split(':').next() == Some(kernel.entry);
    let entry = if own { String::new() } else { format!(" {}", kernel.entry) };
    Some(Wanted {
        name: format!("{name}{entry} {case}"),
        entry: kernel.entry,
        file: kernel.file,
        text: source::cuda(kernel, &launch.args),
        threads: launch.block.iter().product(),
        shared: launch.shared,
    })
}

fn compile(chip: Capability, one: &Wanted) -> Result<(Resources, Spills), Failure> {
    let (code, log) = cuda::compile(&one.text, one.file, &cuda::architecture(chip), &OPTIONS)?;
    let read = cubin::read(&code).map_err(|e| Failure(format!("{}: {e}", one.file)))?;
    let found = read.kernels.into_iter().find(|k| k.entry == one.entry);
    let found = found.ok_or_else(|| Failure(format!("{}: its machine code has no kernel {}", one.file, one.entry)))?;
    Ok((found, cubin::spills(&log).remove(one.entry).unwrap_or_default()))
}

fn row(chip: Capability, one: &Wanted, r: &Resources, spills: Spills) -> [String; 10] {
    let shared = r.shared + one.shared;
    let block = Block { threads: one.threads, registers: r.registers, shared };
    let filled = multiprocessor(chip).map(|m| m.filled_by(block));
    let spilled = spills.stores + spills.loads;
    [
        cuda::architecture(chip),
        r.registers.to_string(),
        shared.to_string(),
        r.stack.to_string(),
        spilled.to_string(),
        one.threads.to_string(),
        filled.map_or("-".into(), |f| f.blocks.to_string()),
        filled.map_or("-".into(), |f| format!("{:.0}%", 100.0 * f.part())),
        filled.map_or("-".into(), |f| f.limit.to_string()),
        one.name.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_read_by_name() {
        for (name, want) in [("sm_90a", (9, 0)), ("sm_80", (8, 0)), ("120", (12, 0)), ("sm_75", (7, 5))] {
            assert_eq!(capability(name).ok(), Some(want), "{name}");
        }
        for bad in ["", "sm_20", "gfx90a", "sm_9"] {
            assert!(capability(bad).is_err_and(|e| e.0.contains("sm_90a")), "{bad}");
        }
    }
}
