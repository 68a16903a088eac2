//! Times the CPU kernels on the full-size rows of the ops' tables, in turns with the bare `gemm` crate doing as much work.
//!
//!     cargo run --release -p muybridge-kernels --example cpu_bench -- [text that the id contains] [repetitions]
//!
//! The machine may be shared, so a time alone says little: read the ratio, of minima over alternating runs. With
//! `--shapes FILE` the rows of a work table (`spec/shapes/*.tsv`) are timed instead and summed by their counts.

mod roof;

use muybridge_kernels::{Attention, Case, Conv2d, GroupNorm, LayerNorm, Matmul, OPS, Operand};
use muybridge_runtime::{DType, Device, DeviceOptions, Pins, Plan, PlanOptions, Target, Tensor};
use roof::Roof;

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut option = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.remove(at);
        Some(args.remove(at))
    };
    let shapes = option("--shapes");
    let stored = option("--stored").map_or(DType::F32, |s| s.parse().expect("a dtype"));
    let dtype = option("--dtype").map_or(DType::F32, |s| s.parse().expect("a dtype"));
    let threads = option("--threads").map(|s| s.parse().expect("a number"));
    let pin = option("--variant");
    let filter = args.first().cloned().unwrap_or_default();
    let reps = args.get(1).map_or(5, |r| r.parse().expect("a number of repetitions"));
    let device = Device::open_with("cpu", &DeviceOptions { threads, ..DeviceOptions::default() }).expect("a CPU");
    let mut roof = Roof::of(device.caps().threads, [768; 3]);
    println!("{:58} {:>9} {:>9} {:>8} {:>7} {:>8}", "op/case/variant", "ms", "GFLOP/s", "GB/s", "x gemm", "scratch");
    let time = |case: &Case, count: usize, roof: &mut Roof| -> f64 {
        let mut best = f64::INFINITY;
        for variant in case.op.variants().iter().filter(|v| v.target == Target::Cpu && v.name != "reference") {
            let fits = matches!(case.lower(variant, dtype, device.caps()), Ok(Some(_)));
            if fits && pin.as_ref().is_none_or(|p| p == variant.name) {
                let seconds = row(case, variant.name, &device, (dtype, stored), reps, count, roof);
                // The first that fits is what a plan takes.
                best = if best.is_finite() { best } else { seconds };
            }
        }
        best
    };
    match shapes {
        None => {
            let all = OPS.iter().flat_map(|e| (e.cases)());
            for case in all.filter(|c| c.full_size && format!("{}/{}", c.op.name(), c.name).contains(&filter)) {
                time(&case, 1, &mut roof);
            }
        }
        Some(file) => {
            let text = std::fs::read_to_string(file).expect("the work table");
            let (mut total, mut flop) = (0.0, 0.0);
            for (line, case, count) in table(&text).filter(|(line, ..)| line.contains(&filter)) {
                let seconds = time(&case, count, &mut roof);
                total += seconds * count as f64;
                flop += line.split('\t').nth(3).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
            }
            println!("sum by counts: {total:.3} s, {flop:.1} GFLOP, {:.1} GFLOP/s", flop / total);
        }
    }
}

/// Rows of a work table as cases: what each means is in the table's second line.
fn table(text: &str) -> impl Iterator<Item = (&str, Case, usize)> {
    text.lines().filter(|l| !l.starts_with('#')).filter_map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let s: Vec<usize> = columns[1].split(',').map(|n| n.parse().expect("an extent")).collect();
        let name: &'static str = Box::leak(format!("{} {} x{}", columns[0], columns[1], columns[2]).into_boxed_str());
        let (act, weight) = (|s: &[usize]| shape(s, true), |s: &[usize]| shape(s, false));
        let case = match columns[0] {
            "conv" => {
                let (n, cin, cout, k, stride, h, w) = (s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
                let op = Conv2d { stride, ..Conv2d::same(k) };
                let x = act(&[n, h * stride, w * stride, cin]);
                Case::full_size(name, op, vec![x, weight(&[cout, cin, k, k]), weight(&[cout])])
            }
            kind if kind.starts_with("linear") => {
                let geglu = kind.ends_with("geglu");
                let residual = kind.ends_with("ff2") || kind.ends_with("out");
                let op = Matmul { bias: true, geglu, residual, ..Matmul::default() };
                let mut operands = vec![act(&[s[0], s[1]]), weight(&[s[2], s[1]]), weight(&[s[2]])];
                if residual {
                    operands.push(act(&[s[0], s[2]]));
                }
                Case::full_size(name, op, operands)
            }
            "attn_cross" => {
                let c = s[1] * s[4];
                let operands = vec![act(&[s[0], s[2], c]), act(&[s[0], s[3], 2 * c])];
                Case::full_size(name, Attention::cross(s[1]), operands)
            }
            kind if kind.starts_with("attn") => {
                Case::full_size(name, Attention::packed(s[1]), vec![act(&[s[0], s[2], 3 * s[1] * s[4]])])
            }
            kind if kind.starts_with("groupnorm") => {
                let op = GroupNorm { activation: muybridge_kernels::Activation::Silu, ..GroupNorm::new(s[3], 1e-5) };
                Case::full_size(name, op, vec![act(&[s[0], s[2], s[1]]), weight(&[s[1]]), weight(&[s[1]])])
            }
            "layernorm" => {
                let operands = vec![act(&[s[0], s[1]]), weight(&[s[1]]), weight(&[s[1]])];
                Case::full_size(name, LayerNorm { eps: 1e-5 }, operands)
            }
            _ => return None,
        };
        Some((line, case, columns[2].parse().expect("a count")))
    })
}

fn shape(extents: &[usize], activation: bool) -> Operand {
    let shape = muybridge_runtime::Shape::new(extents).expect("a rank");
    if activation { Operand::activation(shape) } else { Operand::weight(shape) }
}

/// Times one variant; prints and returns the least time of a run, in seconds.
fn row(
    case: &Case,
    variant: &str,
    device: &Device,
    (dtype, stored): (DType, DType),
    reps: usize,
    count: usize,
    roof: &mut Roof,
) -> f64 {
    let graph = case.graph(dtype, stored).expect("a case");
    let cost = graph.cost(&graph.nodes()[0]);
    let pins = Pins::exactly(case.op.name(), variant);
    let plan = Plan::with(&graph, device, &PlanOptions { pins, guard: 0 }).expect("a plan");
    let inputs: Vec<Tensor> =
        case.inputs(dtype).expect("inputs").iter().map(|t| device.tensor(t).expect("memory")).collect();
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let outputs = plan.empty_outputs().expect("memory");
    let (mut best, mut best_gemm) = (f64::INFINITY, f64::INFINITY);
    for rep in 0..=reps {
        let seconds = plan.profile(&inputs, &outputs).expect("a run").nodes[0].seconds;
        let gemm = roof.seconds_per_gflop();
        if rep > 0 {
            (best, best_gemm) = (best.min(seconds), best_gemm.min(gemm));
        }
    }
    let gflop = cost.flop as f64 / 1e9;
    let bytes = (cost.read + cost.write) as f64 / 1e9;
    let id = format!("{}/{}/{variant}", case.op.name(), case.name);
    let ratio = best_gemm * gflop / best;
    let share = if count > 1 { format!("  {:8.2} ms in all", 1e3 * best * count as f64) } else { String::new() };
    let scratch = format!("{:.1}M", plan.report().nodes[0].scratch as f64 / 1e6);
    let (ms, rate, traffic) = (1e3 * best, gflop / best, bytes / best);
    println!("{id:58} {ms:9.3} {rate:9.1} {traffic:8.1} {ratio:7.2} {scratch:>8}{share}");
    best
}
