//! Nodes taken together: by op and kernel, by block of the network, by shape.

use std::collections::BTreeMap;

use crate::{NodeSample, Report, Sample};

/// What nodes are taken together by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Part of a pipeline: `denoise`, the first word of a path.
    Part,
    /// Op and kernel: `conv2d:tiled`.
    Op,
    /// Block of the network: `up_blocks.1.attentions.0`.
    Block,
    /// Op, operands and result.
    Shape,
    /// Each node on its own.
    Node,
}

impl By {
    /// The group of a node.
    pub fn key(self, node: &NodeSample) -> String {
        match self {
            By::Part => node.path.split('.').next().unwrap_or_default().into(),
            By::Op => format!("{}:{}", node.op, node.kernel),
            By::Block => block(&node.path),
            By::Shape => node.shape(),
            By::Node => node.path.clone(),
        }
    }
}

/// The block of a path: up to its second index, `up_blocks.1.resnets.0` of `up_blocks.1.resnets.0.norm1`; its first word
/// where it has no index.
fn block(path: &str) -> String {
    let parts: Vec<&str> = path.split('.').collect();
    let is_index = |i: &usize| !parts[*i].is_empty() && parts[*i].bytes().all(|b| b.is_ascii_digit());
    let last = (0..parts.len()).filter(is_index).take(2).last().unwrap_or(0);
    parts[..=last].join(".")
}

/// Nodes taken together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// What they have in common.
    pub key: String,
    /// How many there are.
    pub nodes: usize,
    /// Their kernels, each once.
    pub kernels: Vec<String>,
    /// Seconds of all of them together, run by run.
    pub seconds: Sample,
    /// The same with warm and with flushed caches.
    pub warm: Sample,
    /// The same with flushed caches.
    pub flushed: Sample,
    /// Floating-point operations.
    pub flop: u64,
    /// Bytes read and written, each operand once.
    pub bytes: u64,
    /// Bytes of weights among them.
    pub weights: u64,
    /// Seconds at the roof.
    pub at_roof: f64,
}

impl Group {
    /// Seconds that would be won at the roof.
    pub fn won(&self) -> f64 {
        (self.seconds.median() - self.at_roof).max(0.0)
    }

    /// The part of the roof that is reached: above 1 where caches or a saving of work beat the roof.
    pub fn of_roof(&self) -> f64 {
        self.at_roof / self.seconds.median().max(1e-12)
    }
}

/// The groups of a report, those first of which most would be won at the roof.
pub fn groups(report: &Report, by: By) -> Vec<Group> {
    let mut found: BTreeMap<String, Vec<&NodeSample>> = BTreeMap::new();
    for node in &report.nodes {
        found.entry(by.key(node)).or_default().push(node);
    }
    let group = |(key, nodes): (String, Vec<&NodeSample>)| {
        let mut kernels: Vec<String> = nodes.iter().map(|n| n.kernel.clone()).collect();
        kernels.sort();
        kernels.dedup();
        Group {
            key,
            kernels,
            nodes: nodes.len(),
            seconds: Sample::sum(nodes.iter().map(|n| &n.seconds)),
            warm: Sample::sum(nodes.iter().map(|n| &n.warm)),
            flushed: Sample::sum(nodes.iter().map(|n| &n.flushed)),
            flop: nodes.iter().map(|n| n.flop).sum(),
            bytes: nodes.iter().map(|n| n.bytes()).sum(),
            weights: nodes.iter().map(|n| n.weights).sum(),
            at_roof: nodes.iter().map(|n| report.roofs.seconds(n.flop, n.bytes())).sum(),
        }
    };
    let mut groups: Vec<Group> = found.into_iter().map(group).collect();
    groups.sort_by(|a, b| b.won().total_cmp(&a.won()));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_end_at_their_second_index() {
        for (path, want) in [
            ("up_blocks.1.resnets.0.norm1", "up_blocks.1.resnets.0"),
            ("middle.0.attentions.1.transformer_blocks.0.attn1.to_q", "middle.0.attentions.1"),
            ("mid_block.attentions.0.norm", "mid_block.attentions.0"),
            ("decoder.mid_block.resnets.1.conv1", "decoder.mid_block.resnets.1"),
            ("conv_in", "conv_in"),
            ("time_embedding.linear_1", "time_embedding"),
            ("", ""),
        ] {
            assert_eq!(block(path), want, "{path}");
        }
    }
}
