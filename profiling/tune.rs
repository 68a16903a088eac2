//! Choosing kernels by measurement.

use std::collections::BTreeMap;

use muybridge_runtime::tuned::{self, Entry, Table};
use muybridge_runtime::{
    Caches, Device, Graph, NodeReport, Pins, Plan, PlanOptions, PlanReport, Site, Tensor, Variant, Weight,
};

use crate::error::Result;
use crate::stats::Ratio;
use crate::{Sample, measure, step};

/// Timed runs of each kernel.
const RUNS: usize = 5;

/// A kernel whose first timed run takes so many times as long as the best so far is hopeless.
const HOPELESS: f64 = 2.0;

/// A winner takes at most this part of the usual kernel's time.
const WORTH: f64 = 0.98;

/// What was found for one op on operands of one kind.
#[derive(Clone, Debug)]
pub struct Row {
    /// Key in the table.
    pub key: String,
    /// Op, operands and result.
    pub shape: String,
    /// Nodes of the plan that it stands for.
    pub nodes: usize,
    /// The kernel that the op's own order chooses, and its time.
    pub usual: (String, Sample),
    /// A clearly faster one, and its time.
    pub winner: Option<(String, Sample)>,
    /// Every other kernel that was tried: its time, and whether it was given up after one run.
    pub tried: Vec<(String, Sample, bool)>,
}

impl Row {
    /// Seconds of one run of the plan that the winner saves.
    pub fn gain(&self) -> f64 {
        let saved = |w: &(String, Sample)| self.usual.1.median() - w.1.median();
        self.winner.as_ref().map_or(0.0, saved) * self.nodes as f64
    }
}

/// Kernels chosen for a plan.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// What later plans take.
    pub table: Table,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// Measures every kernel that fits the nodes of a plan, each kind of node once. The f64 references are not candidates. While
/// it runs, plans on this device take the ops' own order.
///
/// # Errors
/// The device's errors (one that cannot time its own work says so), and the caller's wish to stop.
pub fn tune(plan: &PlanReport, device: &Device, progress: crate::Progress<'_>) -> Result<Tuning> {
    let before = device.tuned();
    device.set_tuned(None);
    let done = tune_all(plan, device, progress);
    device.set_tuned(before);
    done
}

fn tune_all(plan: &PlanReport, device: &Device, progress: crate::Progress<'_>) -> Result<Tuning> {
    let mut kinds: BTreeMap<String, Vec<&NodeReport>> = BTreeMap::new();
    for node in &plan.nodes {
        kinds.entry(tuned::key(&*node.spec, &site(node, device))).or_default().push(node);
    }
    let mut tuning = Tuning::default();
    let of = kinds.len() as u64;
    for (i, (key, nodes)) in kinds.into_iter().enumerate() {
        step(progress, i as u64, of)?;
        let Some(mut row) = race(nodes[0], device)? else { continue };
        (row.key, row.nodes) = (key, nodes.len());
        if let Some((name, sample)) = &row.winner {
            let (variant, tile) = name.split_once('@').map_or((name.as_str(), None), |(v, t)| (v, Some(t)));
            let entry = Entry {
                variant: variant.into(),
                tile: tile.map(String::from),
                sources: tuned::sources(&*nodes[0].spec, &site(nodes[0], device)),
                seconds: sample.median(),
                usual_seconds: row.usual.1.median(),
            };
            tuning.table.insert(row.key.clone(), entry);
        }
        tuning.rows.push(row);
    }
    step(progress, of, of)?;
    tuning.rows.sort_by(|a, b| b.gain().total_cmp(&a.gain()));
    Ok(tuning)
}

fn site<'a>(node: &'a NodeReport, device: &'a Device) -> Site<'a> {
    let NodeReport { inputs, is_weight, output, .. } = node;
    // A node is tried alone, so that no operand comes with a summary.
    Site { inputs, is_weight, output: *output, caps: device.caps(), tile: None, summarise: false, summaries: &[] }
}

/// Kernels that fit a node: variants and their tilings, without the f64 reference.
fn candidates(node: &NodeReport, device: &Device) -> Vec<String> {
    let site = site(node, device);
    let fits = |v: &Variant, tile| node.spec.lower(v, &Site { tile, ..site }).is_some();
    let of = |v: &&'static Variant| {
        let tiles = node.spec.tiles(v).iter().filter(|t| fits(v, Some(**t))).map(|t| format!("{}@{t}", v.name));
        fits(v, None).then(|| v.name.to_string()).into_iter().chain(tiles).collect::<Vec<_>>()
    };
    let variants: &'static [Variant] = node.spec.variants();
    let own = variants.iter().filter(|v| v.target == device.caps().target && v.name != "reference");
    own.collect::<Vec<_>>().iter().flat_map(of).collect()
}

/// One kernel of a node, ready to be timed.
struct Runner {
    plan: Plan,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

impl Runner {
    fn new(node: &NodeReport, kernel: &str, device: &Device) -> Result<Runner> {
        let mut g = Graph::new();
        let mut values = Vec::new();
        for (i, (desc, weight)) in node.inputs.iter().zip(&node.is_weight).enumerate() {
            let fan_in = desc.shape.dims().iter().skip(1).product::<usize>().max(1);
            let amplitude = if desc.shape.rank() < 2 { 0.5 } else { (3.0 / fan_in as f32).sqrt() };
            values.push(match weight {
                true => g.weight(&Weight::procedural(format!("operand {i}"), *desc, i as u64, amplitude, 0.0)),
                false => g.input(format!("operand {i}"), *desc),
            });
        }
        let y = g.node_of(&node.path, node.spec.clone(), &values)?;
        g.output("y", y);
        let pins = Pins::exactly(node.op, kernel);
        let plan = Plan::with(&g, device, &PlanOptions { pins, ..PlanOptions::default() })?;
        let (inputs, outputs) = (measure::operands(&plan)?, plan.empty_outputs()?);
        Ok(Runner { plan, inputs, outputs })
    }

    /// In a plan, weights come from memory: caches are flushed.
    fn time(&self) -> Result<f64> {
        let inputs: Vec<&Tensor> = self.inputs.iter().collect();
        Ok(self.plan.profile_in(Caches::Flushed, &inputs, &self.outputs)?.busy())
    }

    fn sample(&self) -> Result<Sample> {
        Ok(Sample((0..RUNS).map(|_| self.time()).collect::<Result<_>>()?))
    }
}

/// Times all kernels of one node; `None` where there is no choice.
fn race(node: &NodeReport, device: &Device) -> Result<Option<Row>> {
    let names = candidates(node, device);
    let Some((usual, others)) = names.split_first().filter(|(_, others)| !others.is_empty()) else { return Ok(None) };
    let first = Runner::new(node, usual, device)?;
    first.time()?;
    let mut best = (usual.clone(), first.sample()?);
    let usual = best.clone();
    let mut tried = Vec::new();
    for name in others {
        let runner = Runner::new(node, name, device)?;
        // Compiled and paged in; what counts comes after.
        let warm = runner.time()?;
        if warm > HOPELESS * HOPELESS * best.1.median() {
            tried.push((name.clone(), Sample(vec![warm]), true));
            continue;
        }
        let once = runner.time()?;
        if once > HOPELESS * best.1.median() {
            tried.push((name.clone(), Sample(vec![once]), true));
            continue;
        }
        let sample = runner.sample()?;
        if sample.median() < best.1.median() {
            best = (name.clone(), sample.clone());
        }
        tried.push((name.clone(), sample, false));
    }
    let mut row = Row { key: String::new(), shape: shape(node), nodes: 1, usual, winner: None, tried };
    if best.0 != row.usual.0 {
        // Again, in turn, so that a machine that changed its pace meanwhile favours neither.
        let rival = Runner::new(node, &best.0, device)?;
        rival.time()?;
        let mut pair = [Sample::default(), Sample::default()];
        for _ in 0..RUNS {
            pair[0].0.push(first.time()?);
            pair[1].0.push(rival.time()?);
        }
        let clear = |r: Ratio| r.ratio + 2.0 * r.uncertainty < 1.0 && r.ratio <= WORTH;
        if Ratio::paired(&pair[0], &pair[1]).is_some_and(clear) {
            let [usual, winner] = pair;
            row.usual.1 = usual;
            row.winner = Some((best.0, winner));
        }
    }
    Ok(Some(row))
}

fn shape(node: &NodeReport) -> String {
    crate::NodeSample::of(node).shape()
}

/// A tuned plan against the same plan untuned, run in turn: how many times as long it takes.
///
/// # Errors
/// The device's errors, and the caller's wish to stop.
pub fn verify(usual: &Plan, tuned: &Plan, runs: usize, progress: crate::Progress<'_>) -> Result<Option<Ratio>> {
    let mut samples = [Sample::default(), Sample::default()];
    let inputs = [measure::operands(usual)?, measure::operands(tuned)?];
    let outputs = [usual.empty_outputs()?, tuned.empty_outputs()?];
    for run in 0..=runs {
        step(progress, run as u64, runs as u64 + 1)?;
        for (i, plan) in [usual, tuned].into_iter().enumerate() {
            let inputs: Vec<&Tensor> = inputs[i].iter().collect();
            let started = std::time::Instant::now();
            plan.run_into(&inputs, &outputs[i])?;
            outputs[i].first().map(Tensor::to_host).transpose()?;
            if run > 0 {
                samples[i].0.push(started.elapsed().as_secs_f64());
            }
        }
    }
    step(progress, runs as u64 + 1, runs as u64 + 1)?;
    Ok(Ratio::paired(&samples[0], &samples[1]))
}
