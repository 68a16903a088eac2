//! `muybridge inspect`

use std::collections::BTreeMap;
use std::process::ExitCode;

use muybridge::runtime::{Cost, NodeReport, PlanReport};
use muybridge::{Spared, Weights};
use serde_json::{Value, json};

use crate::component::{Component, ModelArgs};
use crate::table::{self, Table, say};
use crate::{DeviceArgs, Failure};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Where to plan: trace plans for a GPU that is not there (also trace:cpu); cpu, wgpu:N bind the real device
    #[arg(long, default_value = "trace", value_name = "NAME")]
    device: String,
    /// List every node
    #[arg(long)]
    nodes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what the model consists of, and what its plans take.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let device =
        DeviceArgs { device: args.device.clone(), threads: None, webgpu_limits: false, no_tune: false, tuned: None }
            .open()?;
    let (component, weights, random) = args.model.open(&device)?;
    let parts = args.model.parts(&component, None)?;
    let reports: Vec<_> = parts.iter().flat_map(|p| p.reports()).collect();
    if args.json {
        let plans: Vec<Value> = reports.iter().map(|(name, r)| as_json(name, r, args.nodes)).collect();
        say!("{:#}", json!({ "class": component.class(), "device": device.name(), "plans": plans }));
        return Ok(ExitCode::SUCCESS);
    }
    say!("{} {}", component.class(), args.model.name());
    if !component.unread().is_empty() {
        say!("fields of its configuration without effect: {}", component.unread().join(", "));
    }
    if random {
        say!("no checkpoint: planned with random {} weights", args.model.weights);
    } else {
        census(&weights);
    }
    if let Component::Unet3d(unet) = &component {
        let step: u64 = reports.iter().filter(|(name, _)| *name == "step").map(|(_, r)| r.cost().flop).sum();
        spared(step, &unet.spared(&args.model.unet_shape(&component))).print();
    }
    for (name, report) in reports {
        say!("\n{name} on {} in {}: {report}", device.name(), args.model.dtype);
        by_op(report).print();
        if args.nodes {
            say!("");
            nodes(report).print();
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Tensors by block: the first two parts of their names.
fn census(weights: &Weights) {
    let mut blocks: BTreeMap<String, (usize, u64, u64, BTreeMap<String, usize>)> = BTreeMap::new();
    for t in weights.census() {
        let parts: Vec<&str> = t.name.split('.').collect();
        let depth = if parts.get(1).is_some_and(|p| p.chars().all(|c| c.is_ascii_digit())) { 2 } else { 1 };
        let block = blocks.entry(parts[..depth.min(parts.len())].join(".")).or_default();
        block.0 += 1;
        block.1 += t.shape.iter().map(|e| *e as u64).product::<u64>();
        block.2 += t.bytes;
        *block.3.entry(t.dtype).or_default() += 1;
    }
    let mut out = Table::new(&["block", ">tensors", ">parameters", ">bytes", "stored as"]);
    let mut total = (0, 0, 0);
    for (name, (tensors, parameters, bytes, dtypes)) in blocks {
        total = (total.0 + tensors, total.1 + parameters, total.2 + bytes);
        let dtypes: Vec<String> = dtypes.into_iter().map(|(d, n)| format!("{n} {d}")).collect();
        out.row([name, tensors.to_string(), parameters.to_string(), table::bytes(bytes), dtypes.join(", ")]);
    }
    out.row(["all".into(), total.0.to_string(), total.1.to_string(), table::bytes(total.2), String::new()]);
    out.print();
}

/// What a step does not compute, beside the published implementation.
fn spared(step: u64, s: &Spared) -> Table {
    let mut out = Table::new(&[">work of a step", ""]);
    out.row([table::flop(step + s.total()), "as published".into()]);
    let rows = [
        (s.discarded, "less attention of the unconditional half to the reference, which is thrown away"),
        (s.reference_keys, "less keys and values of the reference in every frame: once per clip"),
        (s.single_token, "less cross-attention to a single token: a constant"),
    ];
    for (work, what) in rows {
        out.row([table::flop(work), what.to_string()]);
    }
    out.row([table::flop(step), "here".into()]);
    out
}

/// Nodes, launches and work of each op and variant.
fn by_op(report: &PlanReport) -> Table {
    let mut ops: BTreeMap<(&str, &str), (usize, usize, Cost)> = BTreeMap::new();
    for n in &report.nodes {
        let entry = ops.entry((n.op, n.variant)).or_default();
        entry.0 += 1;
        entry.1 += n.launches;
        entry.2 += n.cost;
    }
    let total = report.cost().flop.max(1) as f64;
    let mut rows: Vec<_> = ops.into_iter().collect();
    rows.sort_by_key(|(_, (_, _, cost))| std::cmp::Reverse(cost.flop));
    let mut out = Table::new(&["op:variant", ">nodes", ">launches", ">work", ">share", ">traffic"]);
    for ((op, variant), (nodes, launches, cost)) in rows {
        out.row([
            format!("{op}:{variant}"),
            nodes.to_string(),
            launches.to_string(),
            table::flop(cost.flop),
            format!("{:.1} %", 100.0 * cost.flop as f64 / total),
            table::bytes(cost.read + cost.write),
        ]);
    }
    out
}

fn nodes(report: &PlanReport) -> Table {
    let mut out = Table::new(&[">live", ">work", ">launches", "op:variant", "result", "node"]);
    for n in &report.nodes {
        out.row([
            table::bytes(n.live),
            table::flop(n.cost.flop),
            n.launches.to_string(),
            format!("{}:{}", n.op, n.variant),
            n.output.to_string(),
            n.path.clone(),
        ]);
    }
    out
}

fn as_json(name: &str, r: &PlanReport, nodes: bool) -> Value {
    let node = |n: &NodeReport| {
        json!({
            "path": n.path, "op": n.op, "variant": n.variant, "launches": n.launches, "declared": n.declared,
            "flop": n.cost.flop, "read": n.cost.read, "write": n.cost.write, "scratch": n.scratch, "live": n.live,
            "inputs": n.inputs.iter().map(ToString::to_string).collect::<Vec<_>>(), "output": n.output.to_string(),
        })
    };
    let mut out = json!({
        "name": name, "nodes": r.nodes.len(), "launches": r.launches(), "flop": r.cost().flop, "arena": r.arena,
        "arena_lower_bound": r.arena_lower_bound, "weights": r.weights, "states": r.states,
    });
    if nodes {
        out["node"] = r.nodes.iter().map(node).collect();
    }
    out
}
