//! Two measured plans against each other: what became faster or slower, and how sure that is.

use serde::Serialize;

use crate::groups::{By, Group, groups};
use crate::stats::Ratio;
use crate::{Report, Sample};

/// One group of nodes before and after.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// What the nodes have in common.
    pub key: String,
    /// Their kernels before, and after.
    pub kernels: [String; 2],
    /// Median seconds before, and after; 0 where the group is missing.
    pub seconds: [f64; 2],
    /// How many times as long they take, where both have them.
    pub ratio: Option<Ratio>,
    /// Part of the time before.
    pub share: f64,
}

impl Change {
    /// Whether it is slower by more than a part (0.05 is 5 %), even with twice the uncertainty in its favour.
    pub fn fails(&self, above: f64) -> bool {
        self.ratio.is_some_and(|r| r.ratio - 2.0 * r.uncertainty > 1.0 + above)
    }
}

/// A comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Whole runs.
    pub whole: Change,
    /// All kernels together.
    pub busy: Change,
    /// Groups, the largest change in seconds first.
    pub changes: Vec<Change>,
    /// What makes the two hard to compare: other devices, drivers, subjects.
    pub remarks: Vec<String>,
}

/// Groups with less than this part of the time do not fail a comparison.
pub const WEIGHTY: f64 = 0.01;

/// Compares group by group.
pub fn compare(before: &Report, after: &Report, by: By) -> Comparison {
    let (old, new) = (groups(before, by), groups(after, by));
    let busy = before.busy().median().max(1e-12);
    let mut changes: Vec<Change> = old
        .iter()
        .map(|a| pair(&a.key, Some(a), new.iter().find(|b| b.key == a.key), busy))
        .chain(new.iter().filter(|b| old.iter().all(|a| a.key != b.key)).map(|b| pair(&b.key, None, Some(b), busy)))
        .collect();
    let moved = |c: &Change| (c.seconds[1] - c.seconds[0]).abs();
    changes.sort_by(|a, b| moved(b).total_cmp(&moved(a)));
    let whole = |key: &str, a: &Sample, b: &Sample| Change {
        key: key.into(),
        kernels: Default::default(),
        seconds: [a.median(), b.median()],
        ratio: Ratio::of(a, b),
        share: 1.0,
    };
    Comparison {
        whole: whole("a run", &before.wall, &after.wall),
        busy: whole("all kernels", &before.busy(), &after.busy()),
        changes,
        remarks: remarks(before, after),
    }
}

fn pair(key: &str, a: Option<&Group>, b: Option<&Group>, busy: f64) -> Change {
    let kernels = |g: Option<&Group>| g.map(|g| g.kernels.join(", ")).unwrap_or_default();
    let seconds = |g: Option<&Group>| g.map_or(0.0, |g| g.seconds.median());
    Change {
        key: key.into(),
        kernels: [kernels(a), kernels(b)],
        seconds: [seconds(a), seconds(b)],
        ratio: a.zip(b).and_then(|(a, b)| Ratio::of(&a.seconds, &b.seconds)),
        share: seconds(a) / busy,
    }
}

fn remarks(a: &Report, b: &Report) -> Vec<String> {
    let mut out = Vec::new();
    let mut differ = |what: &str, a: &str, b: &str| {
        if a != b {
            out.push(format!("{what}: {a} before, {b} after"));
        }
    };
    differ("subject", &a.subject, &b.subject);
    differ("device", &a.device.model, &b.device.model);
    differ("driver", &a.device.driver, &b.device.driver);
    differ("engine", &a.engine, &b.engine);
    out
}

impl Comparison {
    /// The whole, and every weighty group, that is slower by more than a part.
    pub fn failures(&self, above: f64) -> Vec<&Change> {
        let weighty = self.changes.iter().filter(|c| c.share >= WEIGHTY);
        [&self.whole, &self.busy].into_iter().chain(weighty).filter(|c| c.fails(above)).collect()
    }
}
