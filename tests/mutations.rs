//! Whether the emulator would notice: seeded bugs in CUDA kernels must fail on at least one of its schedules, and each
//! kernel as it is must pass on all of them. Likewise for the sanitizers, which see what no schedule shows.

mod emulator;
#[path = "emulator/sanitizer.rs"]
mod sanitizer;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use muybridge::kernels::{Case, OPS};
use muybridge::runtime::{
    self, Code, Cost, DType, Device, HostTensor, Lowering, Mismatch, Op, Pins, Plan, PlanOptions, Site, TensorDesc,
    Variant,
};
use sanitizer::Sanitizer;

/// Where the stand-ins are built.
const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/emulator");

/// A bug: what it is, the op, variant and case that show it, and the edit of the kernel's text.
struct Bug(&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const BUGS: &[Bug] = &[
    Bug("no barrier in the main loop", "matmul", "mma", "ragged_long", "        __syncthreads();\n", ""),
    Bug("waits for one stage too few", "matmul", "mma", "ragged_long", "wait<STAGES - 2>", "wait<STAGES - 1>"),
    Bug(
        "fills the stage that is read",
        "matmul",
        "mma",
        "ragged_long",
        "fetch(next, shared + next",
        "fetch(next, shared + step",
    ),
    Bug(
        "stage beyond the ring",
        "matmul",
        "mma",
        "ragged_long",
        "shared + step % STAGES * STAGE_BYTES;\n        const u8* tile_w",
        "shared + step % (STAGES + 1) * STAGE_BYTES;\n        const u8* tile_w",
    ),
    Bug(
        "fragment rows in another order",
        "matmul",
        "mma",
        "ragged_long",
        "(lane & 7) + (lane >> 4) * 8",
        "(lane & 15)",
    ),
    Bug(
        "halves of a fragment swapped",
        "matmul",
        "mma",
        "ragged_long",
        "fw[j][0] = r[0], fw[j][1] = r[1]",
        "fw[j][0] = r[1], fw[j][1] = r[0]",
    ),
    Bug(
        "copies swizzled unlike fragments",
        "matmul",
        "mma",
        "ragged_long",
        "stage + place(at, chunk)",
        "stage + at * 64 + chunk * 16",
    ),
    Bug(
        "row bound off by one",
        "matmul",
        "mma",
        "ragged_long_narrow",
        "if (row >= params.m) continue;",
        "if (row > params.m) continue;",
    ),
    Bug(
        "edges not filled with zeros",
        "matmul",
        "mma",
        "ragged_long",
        "const bool inside = row < params.m",
        "const bool inside = true || row < params.m",
    ),
    Bug(
        "gate taken from its neighbour",
        "matmul",
        "mma",
        "geglu",
        "sums[i][j + 1][2 * h] +",
        "sums[i][j + 1][2 * h + 1] +",
    ),
    Bug(
        "padding read from the map",
        "conv2d",
        "mma",
        "ragged_tiles",
        "row < params.input_height && column",
        "true && column",
    ),
    Bug(
        "taps transposed",
        "conv2d",
        "mma",
        "ragged_tiles",
        "top[i] + tap / KERNEL_WIDTH",
        "top[i] + tap % KERNEL_WIDTH",
    ),
    Bug(
        "second source from its wrong channel",
        "conv2d",
        "mma",
        "two_sources",
        "x2 + (channel - params.c1)",
        "x2 + channel",
    ),
    Bug(
        "shift of another item",
        "conv2d",
        "mma",
        "shift",
        "row / area * params.shift_stride",
        "(row + 1) / area * params.shift_stride",
    ),
    Bug(
        "parts overwritten before they are read",
        "group_norm",
        "one_pass",
        "unet_like",
        "    // Protects the parts of an earlier sum until everyone has read them.\n    __syncthreads();\n",
        "",
    ),
    Bug(
        "parts read before they are written",
        "group_norm",
        "one_pass",
        "unet_like",
        "    // Protects the parts until every warp has written its own.\n    __syncthreads();\n",
        "",
    ),
    Bug("a lane left out", "layer_norm", "warp", "unet_like", "distance = 16", "distance = 8"),
    Bug(
        "sum read before it is written",
        "group_norm",
        "simple",
        "unet_like",
        "    // Protects the sum until thread 0 has written it.\n    __syncthreads();\n",
        "",
    ),
    Bug(
        "upper half read before it is written",
        "group_norm",
        "simple",
        "unet_like",
        "        // Protects the upper half until everyone has written it.\n        __syncthreads();\n",
        "",
    ),
    Bug(
        "sum overwritten before it is read",
        "group_norm",
        "simple",
        "unet_like",
        "    // Protects the result of an earlier sum until everyone has read it.\n    __syncthreads();\n",
        "",
    ),
    Bug(
        "query read before it is there",
        "attention",
        "simple",
        "width_80",
        "    // The query is there.\n    __syncthreads();\n",
        "",
    ),
    Bug(
        "scores become weights too early",
        "attention",
        "simple",
        "width_80",
        "        // Every thread has seen the scores before they become weights.\n        __syncthreads();\n",
        "",
    ),
    Bug(
        "weights overwritten too early",
        "attention",
        "simple",
        "width_64",
        "        // All weights have been read before the next block's scores overwrite them.\n        __syncthreads();\n",
        "",
    ),
    Bug("running maximum not applied", "attention", "simple", "width_64", "sum *= kept;", ""),
    Bug(
        "a tile used before it is there",
        "attention",
        "mma",
        "width_40_tiles",
        "copy_async_wait<0>();\n        // This tile is there for all threads, and all have done",
        "copy_async_wait<1>();\n        // This tile is there for all threads, and all have done",
    ),
    Bug(
        "a place filled while it is read",
        "attention",
        "mma",
        "width_80_tiles",
        "        // This tile is there for all threads, and all have done with the place that is filled next (first: have their queries).\n        __syncthreads();\n",
        "",
    ),
    Bug(
        "columns after the width not cleared",
        "attention",
        "mma",
        "width_40_tiles",
        "clear_ends(shared, 4 * KEYS, thread, THREADS);",
        "",
    ),
    Bug("values not scaled by a new maximum", "attention", "mma", "width_160_tiles", "o[i][j][2 * h] *= kept, ", ""),
    Bug(
        "values of half a fragment swapped",
        "attention",
        "mma",
        "width_80_tiles",
        "values + (k * 16 + (lane & 15)) * ROW",
        "values + (k * 16 + (lane & 7) + (lane >> 4) * 8) * ROW",
    ),
    Bug(
        "keys beyond the end have weight",
        "attention",
        "mma",
        "width_40_tiles",
        "const u32 limit = CAUSAL",
        "const u32 limit = true ? 1u << 31 : CAUSAL",
    ),
    Bug(
        "second segment of another item",
        "attention",
        "mma",
        "segment_tiles",
        "(item - params.segment) / params.share2) * keys2",
        "item / params.share2) * keys2",
    ),
    Bug(
        "queries see one key too many",
        "attention",
        "mma",
        "causal_tiles",
        "query < end ? query + 1 : end",
        "query < end ? query + 2 : end",
    ),
    Bug(
        "mask of the first item",
        "attention",
        "mma",
        "masked_tiles",
        "item * params.mask_item + query * params.mask_query",
        "query * params.mask_query",
    ),
    Bug(
        "keys beyond the end have weight",
        "attention",
        "few_keys",
        "text_tiles",
        "if (key >= params.keys) s[0][j][e] = nothing();",
        "",
    ),
    Bug(
        "a place filled while it is read",
        "attention",
        "few_keys",
        "text_tiles",
        "        // Keys, values and queries are there for all threads, and all have done with the queries' other place.\n        __syncthreads();\n",
        "",
    ),
    Bug(
        "one place for all queries",
        "attention",
        "few_keys",
        "text_tiles",
        "load_queries(a, ring + (round & 1) * QUERIES * ROW",
        "load_queries(a, ring + 0 * QUERIES * ROW",
    ),
    Bug("frames beyond the end have weight", "attention", "frames", "frames_29", "key >= params.frames ||", ""),
    Bug("keys for values", "attention", "frames", "frames_16", "from + 2 * params.columns", "from + params.columns"),
    Bug(
        "warps share their rows",
        "attention",
        "frames",
        "frames_16",
        "shared + warp * 3 * SPAN * ROW",
        "shared + warp * 2 * SPAN * ROW",
    ),
    Bug(
        "keys overwritten while they are read",
        "attention",
        "wide",
        "width_512_tiles",
        "        // The maxima are there, and all have done with the keys.\n        __syncthreads();\n",
        "",
    ),
    Bug(
        "weights read before they are there",
        "attention",
        "wide",
        "width_512_tiles",
        "        // The weights and this tile's values are there for all threads.\n        __syncthreads();\n",
        "",
    ),
    Bug(
        "values read before they are there",
        "attention",
        "wide",
        "width_512_tiles",
        "copy_async_wait<1>();",
        "copy_async_wait<2>();",
    ),
    Bug(
        "a maximum of some keys only",
        "attention",
        "wide",
        "width_512_tiles",
        "for (u32 i = 0; i < SPANS; i++) top[h]",
        "for (u32 i = span; i < SPANS; i++) top[h]",
    ),
    Bug(
        "sums read before they are there",
        "group_norm",
        "two_pass",
        "width_10",
        "    // All lines have written their sums.\n    __syncthreads();\n",
        "",
    ),
    Bug(
        "moments read before they are there",
        "group_norm",
        "two_pass",
        "uneven_slabs",
        "    // The channels' moments are there.\n    __syncthreads();\n",
        "",
    ),
    Bug(
        "scales read before they are there",
        "group_norm",
        "two_pass",
        "width_10",
        "    // The groups' means and scales are there.\n    __syncthreads();\n",
        "",
    ),
    Bug(
        "a group of its neighbour's channel",
        "group_norm",
        "two_pass",
        "width_10",
        "(p.octet * 8 + k) / WIDTH",
        "p.octet * 8 / WIDTH",
    ),
    Bug(
        "chunks counted as equal",
        "group_norm",
        "two_pass",
        "width_10",
        "(float)((rest < params.chunk ? rest : params.chunk) * WIDTH)",
        "(float)(params.chunk * WIDTH)",
    ),
    Bug(
        "last vectors counted twice",
        "layer_norm",
        "vec8",
        "unet_like",
        "squares += i * 32 + lane < OCTETS ? d * d : 0.0f",
        "squares += d * d",
    ),
    Bug("a lane left out", "layer_norm", "vec8", "far_mean", "distance = 16", "distance = 8"),
    Bug("row not repeated", "elementwise", "vec8", "add_row", "i % params.period", "i"),
    Bug(
        "limits swapped",
        "elementwise",
        "vec8",
        "clamp_octets",
        "fminf(fmaxf(v, params.low), params.high)",
        "fmaxf(fminf(v, params.low), params.high)",
    ),
    Bug("tail without bound", "layer_norm", "simple", "ragged", "if (row >= params.rows) return;", ""),
];

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

    fn lower(&self, variant: &Variant, site: &Site<'_>) -> Option<Lowering> {
        let mut lowering = self.op.lower(variant, site)?;
        for launch in &mut lowering.launches {
            let Code::Kernel(source) = &mut launch.code else { continue };
            assert!(source.text.contains(self.from), "the edit no longer applies: {:?}", self.from);
            // A few kilobytes per bug, for a program that ends soon.
            source.text = Box::leak(source.text.replacen(self.from, self.to, 1).into_boxed_str());
        }
        Some(lowering)
    }
}

fn main() {
    let args = Arguments::from_args();
    let trials = match emulator::enter(Path::new(FOLDER)) {
        Ok(()) => BUGS.iter().map(trial).chain(REPORTED.iter().map(|(s, bug)| reported(*s, bug))).collect(),
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
    let edit = |to| Case { op: Arc::new(Edited { op: case.op.clone(), from, to }), ..case.clone() };
    Ok((edit(from), edit(to)))
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
