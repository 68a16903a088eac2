//! Time per node of one run.

/// Time that a node took on its device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NodeTime {
    /// Seconds from the start of the run to the node's first launch.
    pub start: f64,
    /// Seconds on the device's own clock (the host's on the CPU).
    pub seconds: f64,
}

impl NodeTime {
    /// Seconds from the start of the run to the end of the node's last launch.
    pub fn end(&self) -> f64 {
        self.start + self.seconds
    }
}

/// What a node finds in the device's caches when it is timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caches {
    /// What the nodes before it left there: what a run is like.
    #[default]
    AsLeft,
    /// What it left there itself: it is launched twice in a row, and the second time counts.
    Warm,
    /// Nothing of use: more memory than the caches hold is written before it.
    Flushed,
}

impl Caches {
    /// Every state.
    pub const ALL: [Caches; 3] = [Caches::AsLeft, Caches::Warm, Caches::Flushed];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Caches::AsLeft => "as_left",
            Caches::Warm => "warm",
            Caches::Flushed => "flushed",
        }
    }
}

/// A request to a backend to time the nodes of a run.
#[derive(Debug)]
pub struct Timing<'a> {
    /// Where the times go: one entry per node.
    pub times: &'a mut [NodeTime],
    /// What each node finds in the caches.
    pub caches: Caches,
}

/// Times of one run, in the order of the plan's nodes.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// One entry per node of [`Plan::report`](crate::Plan::report).
    pub nodes: Vec<NodeTime>,
    /// Seconds of the whole run on the host's clock, waiting included.
    pub wall: f64,
}

impl Profile {
    /// Sum of the nodes' times in seconds.
    pub fn busy(&self) -> f64 {
        self.nodes.iter().map(|n| n.seconds).sum()
    }

    /// Seconds between the end of each node and the start of the next, where the device waited for a launch.
    pub fn gaps(&self) -> impl Iterator<Item = f64> {
        self.nodes.windows(2).map(|pair| (pair[1].start - pair[0].end()).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_lie_between_nodes() {
        let node = |start, seconds| NodeTime { start, seconds };
        let profile = Profile { nodes: vec![node(0.0, 1.0), node(1.5, 1.0), node(2.5, 2.0)], wall: 5.0 };
        assert_eq!(profile.gaps().collect::<Vec<_>>(), [0.5, 0.0]);
        assert_eq!(profile.busy(), 4.0);
    }
}
