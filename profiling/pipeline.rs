//! A whole run of a pipeline as one report: every plan that ran, under the name of what it belongs to.

use muybridge_runtime::{Device, PlanReport, RecordedPlan};

use crate::report::MemoryBlock;
use crate::{NodeSample, PlanInfo, Report, Roofs, Sample};

/// A report of recorded plans. A node's path begins with its plan's name (`denoise.mid_block.…`), its work and its seconds are
/// those of all runs together; `seconds` is the time of the whole, in which there is loading, planning and the host's work, too.
/// Places in time are those of each plan's run of median length. There is one sample of each time, and so no spread.
pub fn report(subject: &str, device: &Device, roofs: Roofs, plans: &[RecordedPlan], seconds: f64) -> Report {
    let mut report = Report::new(subject, device, roofs, &PlanReport::default());
    let names = names(plans.iter().map(|p| p.name.as_str()));
    let mut gaps = 0.0;
    for (plan, name) in plans.iter().zip(names) {
        add_plan(&mut report.plan, plan);
        gaps += plan.runs.iter().flat_map(|r| r.profile.gaps()).sum::<f64>();
        let first = report.nodes.len();
        report.nodes.extend((0..plan.report.nodes.len()).map(|i| node(plan, &name, i)));
        // One plan after the other, though steps of two networks may take turns.
        report.memory.extend(plan.report.residents.iter().map(|r| MemoryBlock {
            name: format!("{name}.{}", r.name),
            scratch: r.scratch,
            steps: [first + r.first, first + r.last.min(plan.report.nodes.len())],
            place: [r.slab as u64, r.offset, r.bytes],
        }));
    }
    let busy: f64 = report.busy().median();
    report.wall = Sample(vec![seconds]);
    report.profiled = report.wall.clone();
    report.accounted = Sample(vec![busy / seconds.max(1e-12)]);
    report.gaps = Sample(vec![gaps]);
    report
}

/// Names of the plans, each once: `denoise`, `denoise (2)`.
fn names<'a>(plans: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for own in plans.map(|name| if name.is_empty() { "network" } else { name }) {
        let mut numbered = (1..=names.len() + 1).map(|n| if n == 1 { own.to_string() } else { format!("{own} ({n})") });
        let free = numbered.find(|n| !names.contains(n));
        names.extend(free);
    }
    names
}

fn add_plan(sum: &mut PlanInfo, plan: &RecordedPlan) {
    let (own, runs) = (PlanInfo::of(&plan.report), plan.runs.len());
    sum.launches += own.launches * runs;
    sum.flop += own.flop * runs as u64;
    sum.bytes += own.bytes * runs as u64;
    // Plans that share an arena and plans that follow one another need the largest.
    sum.arena = sum.arena.max(own.arena);
    sum.arena_lower_bound = sum.arena_lower_bound.max(own.arena_lower_bound);
    sum.weights += own.weights;
    sum.states += own.states;
    sum.tuned += own.tuned;
}

fn node(plan: &RecordedPlan, name: &str, i: usize) -> NodeSample {
    let mut own = NodeSample::of(&plan.report.nodes[i]);
    let runs = plan.runs.len() as u64;
    own.path = format!("{name}.{}", own.path);
    own.launches *= plan.runs.len();
    for count in [&mut own.flop, &mut own.read, &mut own.write, &mut own.weights] {
        *count *= runs;
    }
    own.seconds = Sample(vec![plan.runs.iter().filter_map(|r| r.profile.nodes.get(i)).map(|t| t.seconds).sum()]);
    let mut by_length: Vec<_> = plan.runs.iter().collect();
    by_length.sort_by(|a, b| a.profile.wall.total_cmp(&b.profile.wall));
    if let Some(middle) = by_length.get(by_length.len() / 2)
        && let Some(time) = middle.profile.nodes.get(i)
    {
        (own.start, own.took) = (middle.start + time.start, time.seconds);
    }
    own
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use muybridge_kernels::Elementwise;
    use muybridge_runtime::{DType, Graph, HostTensor, Plan, Recorder, TensorDesc};

    use super::*;
    use crate::groups::{By, groups};

    #[test]
    fn runs_of_several_plans_come_together() -> crate::Result<()> {
        let device = Device::open("cpu")?;
        let plan = |path: &str| -> crate::Result<Plan> {
            let mut g = Graph::new();
            let x = g.input("x", TensorDesc::new([300], DType::F32));
            let y = g.node(path, Elementwise::Scale(2.0), &[x])?;
            g.output("y", y);
            Ok(Plan::new(&g, &device)?)
        };
        let (first, second) = (plan("blocks.0.scale")?, plan("blocks.0.scale")?);
        let x = HostTensor::from_fn([300], |i| i as f32);
        let recorder = Arc::new(Recorder::new());
        device.record(Some(recorder.clone()));
        first.run_host(&[&x])?;
        recorder.name("text");
        for _ in 0..3 {
            assert_eq!(second.run_host(&[&x])?[0].to_f32()[7], 14.0);
        }
        recorder.name("denoise");
        device.record(None);
        first.run_host(&[&x])?;
        let plans = recorder.plans();
        assert_eq!(plans.iter().map(|p| p.runs.len()).collect::<Vec<_>>(), [1, 3]);
        let report = report("a pipeline", &device, Roofs::default(), &plans, 1.0);
        let paths: Vec<&str> = report.nodes.iter().map(|n| n.path.as_str()).collect();
        assert_eq!(paths, ["text.blocks.0.scale", "denoise.blocks.0.scale"]);
        assert_eq!(report.plan.flop, 4 * report.nodes[0].flop);
        assert_eq!((report.nodes[1].launches, report.plan.launches), (3, 4));
        assert!(report.nodes[1].start > report.nodes[0].start, "the second plan runs later");
        let by_part = groups(&report, By::Part);
        assert_eq!(by_part.len(), 2);
        assert_eq!(report.memory.iter().map(|m| m.steps[1]).max(), Some(2));
        Ok(())
    }

    #[test]
    fn plans_of_one_name_are_told_apart() {
        assert_eq!(names(["a", "a", "", "a"].into_iter()), ["a", "a (2)", "network", "a (3)"]);
    }
}
