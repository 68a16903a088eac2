//! `muybridge kernels`

#[cfg(feature = "cuda")]
mod resources;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use muybridge::kernels::{Case, OPS};
use muybridge::profiling::check::{self, Numbers};
use muybridge::profiling::substitute::Substitute;
use muybridge::profiling::{Roofs, Sample};
use muybridge::runtime::{Code, DType, Device, DeviceOptions, KernelSource, Launch, Target, source};

use crate::table::{self, Table, say};
use crate::{DeviceArgs, Failure, interrupt};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// Print the generated source of op:variant, as it is compiled for a case and a device
    #[arg(long, value_name = "OP:VARIANT", conflicts_with = "source")]
    show: Option<String>,
    /// With --show: only the kernel's own text, to be edited and tried with --source
    #[arg(long, requires = "show")]
    editable: bool,
    /// Print registers, shared memory, spills and occupancy of CUDA kernels, of all or of those of --variant or --case. Needs
    /// NVRTC, and no GPU
    #[arg(long, conflicts_with_all = ["show", "source"])]
    resources: bool,
    /// With --resources: an architecture to compile for; sm_80 and sm_90a by default. Any number of them
    #[arg(long, requires = "resources", value_name = "sm_NN")]
    arch: Vec<String>,
    /// A case of the op's table; without --show or --source, checks and times every kernel that fits it: conv2d:ragged
    #[arg(long, value_name = "OP:CASE")]
    case: Option<String>,
    /// Try a kernel from this file: checked against the reference, then timed
    #[arg(long, value_name = "FILE", requires = "variant")]
    source: Option<PathBuf>,
    /// Name of the op and of one's own kernel: attention:mine
    #[arg(long, value_name = "OP:NAME")]
    variant: Option<String>,
    /// The variant whose grid, constants and arguments one's own kernel takes; the first that fits by default
    #[arg(long, value_name = "VARIANT")]
    like: Option<String>,
    /// Try again whenever the file is saved, until Ctrl-C
    #[arg(long, requires = "source")]
    watch: bool,
    /// Numbers of the activations and weights: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_name = "DTYPE")]
    dtype: DType,
    /// Timed runs
    #[arg(long, default_value_t = 11, value_name = "N")]
    repeats: usize,
}

/// Lists, shows, examines or tries kernels. Exits with 1 if one is wrong.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    if let Some(name) = &args.show {
        return show(args, name);
    }
    if args.resources {
        return resources(args).map(|()| ExitCode::SUCCESS);
    }
    if let (Some(file), Some(variant)) = (&args.source, &args.variant) {
        return attempt(args, file, variant);
    }
    match &args.case {
        Some(case) => time_case(args, case),
        None => Ok(list()),
    }
}

#[cfg(feature = "cuda")]
fn resources(args: &Args) -> Result<(), Failure> {
    resources::print(args)
}

#[cfg(not(feature = "cuda"))]
fn resources(args: &Args) -> Result<(), Failure> {
    Err(Failure(format!("--resources {}: built without the feature `cuda`", args.arch.join(" "))))
}

fn list() -> ExitCode {
    let mut out = Table::new(&["op:variant", "for", ">cases", "source", "needs"]);
    for entry in OPS {
        let cases = (entry.cases)();
        for variant in entry.variants {
            let place = match variant.target {
                Target::Cpu => "trace:cpu",
                Target::Wgsl => "trace:wgpu",
                Target::Cuda => "trace:cuda",
            };
            let Ok(device) = Device::open(place) else { continue };
            let lowered = |c: &Case| {
                let of = |dtype| c.lower(variant, dtype, device.caps()).ok().flatten();
                of(DType::F32).or_else(|| of(DType::F16))
            };
            let fitting: Vec<_> = cases.iter().filter_map(lowered).collect();
            let kernel = fitting.iter().flat_map(|l| &l.launches).find_map(kernel_of);
            let file = kernel.map_or(format!("kernels/{}", entry.name), |k| k.file.to_string());
            let needs = kernel.map(needs).unwrap_or_default();
            let name = format!("{}:{}", entry.name, variant.name);
            out.row([name, variant.target.to_string(), fitting.len().to_string(), file, needs]);
        }
    }
    out.print();
    ExitCode::SUCCESS
}

fn kernel_of(launch: &Launch) -> Option<&KernelSource> {
    match &launch.code {
        Code::Kernel(source) => Some(source),
        Code::Host(_) => None,
    }
}

/// The field `needs` of a kernel's head.
fn needs(kernel: &KernelSource) -> String {
    let own = kernel.file.rsplit('/').next().unwrap_or_default();
    // A text may begin with others': the last head is its own.
    let mut heads = kernel.text.lines().filter_map(|l| l.strip_prefix("// needs:"));
    let text = heads.next_back().unwrap_or_default().trim();
    if own.is_empty() || text == "nothing" { String::new() } else { text.trim_end_matches(';').to_string() }
}

fn split(name: &str) -> Result<(&str, &str), Failure> {
    name.split_once(':').ok_or_else(|| Failure(format!("{name:?} is not of the form op:name")))
}

/// The case that was asked for, or the op's first small one that a kernel fits.
fn case_for(args: &Args, op: &str, fits: impl Fn(&Case) -> bool) -> Result<Case, Failure> {
    if let Some(name) = &args.case {
        return Ok(check::case(op, name.strip_prefix(&format!("{op}:")).unwrap_or(name))?);
    }
    let entry = OPS.iter().find(|e| e.name == op).ok_or_else(|| Failure(format!("no op {op:?}")))?;
    let cases = (entry.cases)();
    let found = cases.iter().filter(|c| !c.full_size).find(|c| fits(c)).cloned();
    found.ok_or_else(|| Failure(format!("no case of {op} fits in {}: name one with --case", args.dtype)))
}

fn show(args: &Args, name: &str) -> Result<ExitCode, Failure> {
    let (op, kernel) = split(name)?;
    let entry = OPS.iter().find(|e| e.name == op).ok_or_else(|| Failure(format!("no op {op:?}")))?;
    let targets: Vec<Target> = entry.variants.iter().filter(|v| v.name == kernel).map(|v| v.target).collect();
    // Without a device, the kernel language that has such a variant; WGSL before CUDA where both have.
    let place = match (args.device.device.as_str(), targets.as_slice()) {
        ("auto", [Target::Cuda]) => "trace:cuda",
        ("auto", _) => "trace:wgpu",
        (named, _) => named,
    };
    let device = Device::open_with(place, &args.device.options())?;
    let lower = |c: &Case| {
        let variant = c.op.variants().iter().find(|v| v.name == kernel && v.target == device.caps().target)?;
        c.lower(variant, args.dtype, device.caps()).ok().flatten()
    };
    let case = case_for(args, op, |c| lower(c).is_some())?;
    let none = || Failure(format!("{name} does not fit {op}:{} in {} on {place}", case.name, args.dtype));
    let lowering = lower(&case).ok_or_else(none)?;
    let mut shown: Vec<String> = Vec::new();
    for launch in &lowering.launches {
        let kernel =
            kernel_of(launch).ok_or_else(|| Failure(format!("{name} is a host function, without a source")))?;
        let text = match (args.editable, device.caps().target) {
            (true, _) => kernel.text.to_string(),
            (false, Target::Cuda) => source::cuda(kernel, &launch.args),
            (false, _) => source::wgsl(kernel, false),
        };
        if shown.contains(&text) {
            continue;
        }
        if !args.editable {
            say!("// {} for {op}:{} in {} on {place}", kernel.file, case.name, args.dtype);
            say!(
                "// grid {:?}, block {:?}, {} shared bytes, entry {}",
                launch.grid,
                launch.block,
                launch.shared,
                kernel.entry
            );
        }
        say!("{}", text.trim_end());
        shown.push(text);
    }
    Ok(ExitCode::SUCCESS)
}

fn time_case(args: &Args, name: &str) -> Result<ExitCode, Failure> {
    let (op, case) = split(name)?;
    let device = args.device.open()?;
    let case = check::case(op, case)?;
    let roofs = Roofs::measure(&device, args.dtype, &mut crate::profile::bar("roofs"))?;
    let wanted = args.variant.as_deref().map(split).transpose()?.map(|(_, v)| v);
    let kernels: Vec<String> = check::kernels(&case, &device, args.dtype)
        .into_iter()
        .filter(|k| wanted.map_or(k != "reference", |w| k == w))
        .collect();
    if kernels.is_empty() {
        return Err(Failure(format!("no kernel of {op} fits {} in {} on {}", case.name, args.dtype, device.name())));
    }
    let numbers = (args.dtype, args.dtype);
    // The references of full-size cases would take hours.
    let want = if case.full_size { None } else { Some(check::reference(&case, numbers)?) };
    let mut out = heading();
    let mut wrong = false;
    for kernel in &kernels {
        interrupt::check()?;
        let verdict = match &want {
            Some(want) => check::check(&case, kernel, &device, numbers, want)?.fault.unwrap_or("right".into()),
            None => "not checked".into(),
        };
        wrong |= verdict != "right" && want.is_some();
        let sample = check::time(&case, kernel, &device, numbers, args.repeats)?;
        out.row(row(&format!("{op}:{kernel}"), &case, args.dtype, &sample, &roofs, &verdict)?);
    }
    say!("{op}:{} in {} on {} ({})", case.name, args.dtype, device.name(), device.caps().name);
    out.print();
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn heading() -> Table {
    Table::new(&["kernel", ">ms", ">±", ">GFLOP/s", ">GB/s", ">roof", "result"])
}

fn row(
    name: &str,
    case: &Case,
    dtype: DType,
    sample: &Sample,
    roofs: &Roofs,
    verdict: &str,
) -> Result<[String; 7], Failure> {
    let graph = case.graph(dtype, dtype)?;
    let cost = graph.cost(&graph.nodes()[0]);
    let seconds = sample.median().max(1e-12);
    let bytes = cost.read + cost.write;
    let at_roof = roofs.seconds(cost.flop, bytes);
    Ok([
        name.into(),
        format!("{:.4}", seconds * 1e3),
        format!("{:.1}%", 100.0 * sample.relative_spread()),
        format!("{:.1}", cost.flop as f64 / seconds / 1e9),
        format!("{:.2}", bytes as f64 / seconds / 1e9),
        // Roofs that were not measured are at 0.
        if at_roof > 0.0 { format!("{:.0}%", 100.0 * at_roof / seconds) } else { "-".into() },
        verdict.into(),
    ])
}

/// Tries a kernel from a file, once or at every save.
fn attempt(args: &Args, file: &Path, variant: &str) -> Result<ExitCode, Failure> {
    let (op, name) = split(variant)?;
    // A kernel of the user's may index anywhere: the shader compiler's bounds checks stay in.
    let options = DeviceOptions { checked: true, ..args.device.options() };
    let device = Device::open_with(&args.device.device, &options)?;
    if device.caps().target == Target::Cpu {
        return Err(Failure("kernels from files are WGSL or CUDA: choose wgpu:N or cuda:N with --device".into()));
    }
    let like = |c: &Case| {
        let own = check::kernels(c, &device, args.dtype);
        own.into_iter().find(|k| args.like.as_ref().is_none_or(|l| k == l))
    };
    let case = case_for(args, op, |c| like(c).is_some())?;
    let none = || Failure(format!("no variant to take the launch of fits {op}:{} on {}", case.name, device.name()));
    let like = like(&case).ok_or_else(none)?;
    loop {
        let saved = saved(file);
        let right = try_once(args, &device, &case, (&like, name), file);
        match (right, args.watch) {
            (Ok(right), false) => return Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
            (Err(e), false) => return Err(e),
            (Ok(_), true) => {}
            (Err(Failure(reason)), true) => say!("{reason}"),
        }
        say!("watching {}", file.display());
        while self::saved(file) == saved {
            interrupt::check()?;
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn saved(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|m| m.modified()).ok()
}

/// Checks, and times only what is right.
fn try_once(
    args: &Args,
    device: &Device,
    case: &Case,
    (like, name): (&str, &str),
    file: &Path,
) -> Result<bool, Failure> {
    let numbers: Numbers = (args.dtype, args.dtype);
    let own = Substitute::of(case, device.caps().target, like, name, file)?;
    let want = check::reference(case, numbers)?;
    let verdict = check::check(&own, name, device, numbers, &want)?;
    let op = case.op.name();
    if let Some(fault) = &verdict.fault {
        let worst = verdict.worst.as_ref().map(|w| format!("; {w}")).unwrap_or_default();
        say!("{op}:{name} is wrong on {op}:{} in {}: {fault}{worst}", case.name, args.dtype);
        return Ok(false);
    }
    let roofs = Roofs::default();
    let mut out = heading();
    let error = format!("right, NMSE {:.1e}", verdict.error);
    let [mine, theirs] = check::time_in_turns([(&own, name), (case, like)], device, numbers, args.repeats)?;
    out.row(row(&format!("{op}:{name}"), &own, args.dtype, &mine, &roofs, &error)?);
    out.row(row(&format!("{op}:{like}"), case, args.dtype, &theirs, &roofs, "its model")?);
    say!("{op}:{} in {} on {} ({})", case.name, args.dtype, device.name(), device.caps().name);
    out.print();
    if let Some(r) = muybridge::profiling::stats::Ratio::paired(&theirs, &mine) {
        say!("{op}:{name} takes {:.3} ± {:.3} of the time of {op}:{like}", r.ratio, r.uncertainty);
    }
    say!(
        "both with the bounds checks that kernels of the engine do without; {} on the device at most",
        table::bytes(device.memory().peak)
    );
    Ok(true)
}
