//! Times of every plan that runs on a device for a while: what a whole pipeline spends its time on.

use std::sync::Mutex;
use std::time::Instant;

use crate::plan::PlanReport;
use crate::profile::Profile;

/// A run of a plan.
#[derive(Clone, Debug, Default)]
pub struct RecordedRun {
    /// Seconds from the recorder's begin to the run's.
    pub start: f64,
    /// Times of its nodes.
    pub profile: Profile,
}

/// A plan and its runs.
#[derive(Clone, Debug, Default)]
pub struct RecordedPlan {
    /// What it belongs to, as [`Recorder::name`] was told; empty where it was not.
    pub name: String,
    /// Launches, memory and work of one run.
    pub report: PlanReport,
    /// Its runs, in order.
    pub runs: Vec<RecordedRun>,
    id: u64,
}

/// Times runs of plans instead of only running them, on the devices that it was given to
/// ([`Device::record`](crate::Device::record)).
#[derive(Debug)]
pub struct Recorder {
    begun: Instant,
    plans: Mutex<Vec<RecordedPlan>>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder { begun: Instant::now(), plans: Mutex::default() }
    }
}

impl Recorder {
    /// Begins now.
    pub fn new() -> Recorder {
        Recorder::default()
    }

    /// Seconds since it began.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Names all plans that ran so far and have no name. Pipelines say what they do when they have done it.
    pub fn name(&self, name: &str) {
        let mut plans = self.lock();
        for plan in plans.iter_mut().filter(|p| p.name.is_empty()) {
            plan.name = name.into();
        }
    }

    /// The plans that ran, in the order of their first runs.
    pub fn plans(&self) -> Vec<RecordedPlan> {
        self.lock().clone()
    }

    pub(crate) fn add(&self, id: u64, report: &PlanReport, run: RecordedRun) {
        let mut plans = self.lock();
        match plans.iter_mut().find(|p| p.id == id) {
            Some(plan) => plan.runs.push(run),
            None => plans.push(RecordedPlan { name: String::new(), report: report.clone(), runs: vec![run], id }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<RecordedPlan>> {
        self.plans.lock().unwrap_or_else(|e| e.into_inner())
    }
}
