//! Whether the emulator would notice: seeded bugs in CUDA kernels must fail on at least one of its schedules, and each
//! kernel as it is must pass on all of them. Likewise for the sanitizers, which see what no schedule shows.

mod bugs;
#[path = "../emulator/mod.rs"]
mod emulator;
#[path = "../emulator/sanitizer.rs"]
mod sanitizer;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bugs::{Bug, bugs};
use libtest_mimic::{Arguments, Failed, Trial};
use muybridge::kernels::{Case, OPS};
use muybridge::runtime::{
    self, Code, Cost, DType, Device, HostTensor, Lowering, Mismatch, Op, Pins, Plan, PlanOptions, Site, TensorDesc,
    Variant,
};
use sanitizer::Sanitizer;

/// Where the stand-ins are built.
const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/emulator");

/// Bugs that a sanitizer must report.
const REPORTED: &[(Sanitizer, Bug)] = &[
    (
        Sanitizer::Thread,
        Bug(
            "a neighbour adds nothing, which changes no number",
            "attention",
            "simple",
            "width_80",
            "scores[local] = mine;",
            "scores[local] = mine, scores[local & ~1u] += 0.0f;",
        ),
    ),
    (
        Sanitizer::Thread,
        Bug(
            "upper half read before it is written",
            "group_norm",
            "simple",
            "unet_like",
            "        // Protects the upper half until everyone has written it.\n        __syncthreads();\n",
            "",
        ),
    ),
    (
        Sanitizer::Address,
        Bug(
            "one element written too many",
            "elementwise",
            "simple",
            "gelu",
            "if (i >= params.count)",
            "if (i > params.count)",
        ),
    ),
    (
        Sanitizer::Address,
        Bug(
            "one element read too many, of which nothing comes",
            "layer_norm",
            "simple",
            "unet_like",
            "float mean = sum / params.columns;",
            "float mean = (sum + 0.0f * read_x(params.first_x + first + params.columns)) / params.columns;",
        ),
    ),
];

/// Whether some kernel of this process had the text that is edited.
static APPLIED: AtomicBool = AtomicBool::new(false);

/// An op whose kernel has another text.
#[derive(Debug)]
struct Edited {
    op: Arc<dyn Op>,
    from: &'static str,
    to: &'static str,
}

impl Op for Edited {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<TensorDesc, Mismatch> {
        self.op.infer(inputs)
    }

    fn cost(&self, inputs: &[TensorDesc], output: &TensorDesc) -> Cost {
        self.op.cost(inputs, output)
    }

    fn variants(&self) -> &'static [Variant] {
        self.op.variants()
    }

    fn reads_summary(&self, operand: usize) -> bool {
        self.op.reads_summary(operand)
    }

    fn lower(&self, variant: &Variant, site: &Site<'_>) -> Option<Lowering> {
        let mut lowering = self.op.lower(variant, site)?;
        for launch in &mut lowering.launches {
            let Code::Kernel(source) = &mut launch.code else { continue };
            if !source.text.contains(self.from) {
                continue;
            }
            APPLIED.store(true, Ordering::Relaxed);
            // A few kilobytes per bug, for a program that ends soon.
            source.text = Box::leak(source.text.replacen(self.from, self.to, 1).into_boxed_str());
        }
        Some(lowering)
    }
}

fn main() {
    let args = Arguments::from_args();
    let trials = match emulator::enter(Path::new(FOLDER)) {
        Ok(()) => bugs().map(trial).chain(REPORTED.iter().map(|(s, bug)| reported(*s, bug))).collect(),
        Err(reason) => {
            let promised = std::env::var_os("CI").is_some();
            let text = reason.clone();
            let trial = Trial::test(format!("mutations [no emulator: {reason}]"), move || Err(Failed::from(text)));
            vec![trial.with_ignored_flag(!promised)]
        }
    };
    libtest_mimic::run(&args, trials).exit();
}

fn trial(bug: &'static Bug) -> Trial {
    let name = format!("{}/{}: {}", bug.1, bug.2, bug.0);
    let alone = std::env::var_os(ALONE).is_some();
    Trial::test(name.clone(), move || if alone { check(bug) } else { try_alone(&name) })
}

/// Set in a process that tries one bug.
const ALONE: &str = "MUYBRIDGE_MUTATION";

/// What such a process prints once the kernel as it is has passed on every schedule.
const SOUND: &str = "passes as it is";

/// Tries a bug in a process of its own: a kernel that writes out of bounds may take its process down, then or later.
fn try_alone(name: &str) -> Result<(), Failed> {
    let mut child = Command::new(std::env::current_exe()?);
    let done = child.args(["--exact", name, "--test-threads", "1"]).env(ALONE, "1").output()?;
    let text = String::from_utf8_lossy(&done.stdout);
    let crashed = done.status.code().is_none();
    if done.status.success() || (crashed && text.contains(SOUND)) {
        return Ok(());
    }
    Err(format!("{}\n{text}\n{}", done.status, String::from_utf8_lossy(&done.stderr)).into())
}

/// The bug's case with its kernel as it is and as edited.
fn edited(bug: &Bug) -> Result<(Case, Case), Failed> {
    let Bug(_, op, _, name, from, to) = *bug;
    let entry = OPS.iter().find(|e| e.name == op).ok_or("no such op")?;
    let case = (entry.cases)().into_iter().find(|c| c.name == name).ok_or("no such case")?;
    Ok((edit(&case, from, from), edit(&case, from, to)))
}

/// The row with its kernels edited, and those that make its operands.
fn edit(case: &Case, from: &'static str, to: &'static str) -> Case {
    let made = case.made.iter().map(|(i, maker)| (*i, edit(maker, from, to))).collect();
    Case { op: Arc::new(Edited { op: case.op.clone(), from, to }), made, ..case.clone() }
}

/// The result, or `None` where it was written out of bounds.
fn run(bug: &Bug, case: &Case, schedule: usize) -> runtime::Result<Option<HostTensor>> {
    let device = Device::open(&format!("cuda:{schedule}"))?;
    let options = PlanOptions { pins: Pins::exactly(bug.1, bug.2), guard: 256 };
    let plan = Plan::with(&case.graph(DType::F16, DType::F16)?, &device, &options)?;
    plan.poison()?;
    let inputs = case.inputs(DType::F16)?;
    let got = plan.run_host(&inputs.iter().collect::<Vec<_>>())?.remove(0);
    Ok(plan.guards_intact()?.then_some(got))
}

/// A trial in which a child under the sanitizer runs the kernel as it is without a report, and the edited one with some.
fn reported(sanitizer: Sanitizer, bug: &'static Bug) -> Trial {
    let name = format!("{}/{}/{} sanitizer: {}", bug.1, bug.2, sanitizer.name(), bug.0);
    sanitizer.trial(&name.clone(), move || {
        if std::env::var_os(ALONE).is_some() {
            let (same, edited) = edited(bug)?;
            run(bug, &same, 0)?;
            if !APPLIED.load(Ordering::Relaxed) {
                return Err(format!("the edit no longer applies: {:?}", bug.4).into());
            }
            eprintln!("{SOUND}");
            return Ok(run(bug, &edited, 0).map(drop)?);
        }
        let out = sanitizer.run(Path::new(FOLDER), &["--exact", &name, "--test-threads", "1"], (ALONE, "1"))?;
        let text = String::from_utf8_lossy(&out.stderr);
        match text.split_once(SOUND) {
            Some((before, after)) if sanitizer.reports(before) == 0 && sanitizer.reports(after) > 0 => Ok(()),
            Some((before, _)) if sanitizer.reports(before) == 0 => Err(format!("nothing is reported: {text}").into()),
            _ => Err(format!("the kernel as it is is reported, or does not run: {text}").into()),
        }
    })
}

fn check(bug: &Bug) -> Result<(), Failed> {
    let (same, edited) = edited(bug)?;
    let want = reference(&same)?;
    let run = |case: &Case, i: usize| -> runtime::Result<bool> {
        Ok(run(bug, case, i)?.is_some_and(|got| close(&got, &want)))
    };
    if let Some(i) = (0..8).find(|i| !matches!(run(&same, *i), Ok(true))) {
        return Err(format!("the kernel as it is fails on schedule {i}").into());
    }
    if !APPLIED.load(Ordering::Relaxed) {
        return Err(format!("the edit no longer applies: {:?}", bug.4).into());
    }
    println!("{SOUND}");
    let caught = (0..8).filter(|i| !matches!(run(&edited, *i), Ok(true))).count();
    if caught > 0 { Ok(()) } else { Err("no schedule shows it".into()) }
}

fn reference(case: &Case) -> runtime::Result<HostTensor> {
    let pins = Pins::exactly(case.op.name(), "reference");
    let options = PlanOptions { pins, guard: 0 };
    let plan = Plan::with(&case.graph(DType::F32, DType::F16)?, &Device::open("cpu")?, &options)?;
    let inputs: Vec<_> = case.inputs(DType::F16)?.iter().map(|t| t.convert(DType::F32)).collect();
    Ok(plan.run_host(&inputs.iter().collect::<Vec<_>>())?.remove(0))
}

fn close(got: &HostTensor, want: &HostTensor) -> bool {
    let (got, want) = (got.to_f32(), want.to_f32());
    let power = want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().max(1e-30);
    let error = got.iter().zip(&want).map(|(g, w)| f64::from(g - w).powi(2)).sum::<f64>() / power;
    error <= 1e-6 && got.iter().all(|g| g.is_finite())
}
