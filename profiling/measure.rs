//! Measuring a plan.

use std::time::Instant;

use muybridge_runtime::{Caches, Plan, Profile, Tensor, Weight};

use crate::error::Result;
use crate::{Report, Roofs, Sample, step};

/// How a plan is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Profiled runs, and as many that are not, in turn, after one of each to warm up.
    pub repeats: usize,
    /// Runs with each node's operands in the caches; 0 leaves that out.
    pub warm: usize,
    /// Runs with nothing of use in the caches; 0 leaves that out.
    pub flushed: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { repeats: 5, warm: 3, flushed: 3 }
    }
}

impl Options {
    /// Runs that [`measure`] makes.
    pub fn runs(&self) -> u64 {
        (2 * (self.repeats + 1) + self.warm + self.flushed) as u64
    }
}

/// Random operands for a plan: uniform in ±1.
pub(crate) fn operands(plan: &Plan) -> Result<Vec<Tensor>> {
    let noise = |(i, (name, desc))| Weight::procedural(name, desc, i as u64, 1.0, 0.0).read();
    let one = |input| Ok(plan.device().tensor(&noise(input)?)?);
    plan.inputs().enumerate().map(one).collect()
}

/// Runs a plan on random operands and times whole runs and each of its nodes. `subject` says what the plan is.
///
/// # Errors
/// The device's errors (one that cannot time its own work says so), and the caller's wish to stop.
pub fn measure(
    subject: &str,
    plan: &Plan,
    roofs: Roofs,
    options: &Options,
    progress: crate::Progress<'_>,
) -> Result<Report> {
    let mut report = Report::new(subject, plan.device(), roofs, plan.report());
    let inputs = operands(plan)?;
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let outputs = plan.empty_outputs()?;
    let of = options.runs();
    let mut done = 0;
    let mut profiles: Vec<Profile> = Vec::new();
    for i in 0..=options.repeats.max(1) {
        step(progress, done, of)?;
        let plain = whole(&outputs, || Ok(plan.run_into(&inputs, &outputs)?))?;
        step(progress, done + 1, of)?;
        let mut profile = Profile::default();
        let profiled = whole(&outputs, || {
            profile = plan.profile(&inputs, &outputs)?;
            Ok(())
        })?;
        done += 2;
        // The first runs warm up: pages, caches, clocks.
        if i > 0 {
            report.wall.0.push(plain);
            report.profiled.0.push(profiled);
            report.accounted.0.push(profile.busy() / profile.wall.max(1e-12));
            report.gaps.0.push(profile.gaps().sum());
            profiles.push(profile);
        }
    }
    for (caches, runs) in [(Caches::Warm, options.warm), (Caches::Flushed, options.flushed)] {
        for _ in 0..runs {
            step(progress, done, of)?;
            done += 1;
            let profile = plan.profile_in(caches, &inputs, &outputs)?;
            for (node, time) in report.nodes.iter_mut().zip(&profile.nodes) {
                let to = if caches == Caches::Warm { &mut node.warm } else { &mut node.flushed };
                to.0.push(time.seconds);
            }
        }
    }
    fill(&mut report, &mut profiles);
    Ok(report)
}

/// Seconds until the run's first result is on the host.
fn whole(outputs: &[Tensor], run: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    run()?;
    outputs.first().map(Tensor::to_host).transpose()?;
    Ok(started.elapsed().as_secs_f64())
}

/// Times of the nodes, and the run of median length for pictures of one run.
fn fill(report: &mut Report, profiles: &mut [Profile]) {
    for (i, node) in report.nodes.iter_mut().enumerate() {
        node.seconds = Sample(profiles.iter().map(|p| p.nodes[i].seconds).collect());
    }
    profiles.sort_by(|a, b| a.wall.total_cmp(&b.wall));
    if let Some(middle) = profiles.get(profiles.len() / 2) {
        for (node, time) in report.nodes.iter_mut().zip(&middle.nodes) {
            (node.start, node.took) = (time.start, time.seconds);
        }
    }
}
