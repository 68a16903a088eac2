//! Time per node of one run.

/// Time that a node took on its device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NodeTime {
    /// Seconds on the device's own clock (the host's on the CPU).
    pub seconds: f64,
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
}
