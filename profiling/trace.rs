//! A measured run as a trace for Perfetto and chrome://tracing: the Trace Event Format's JSON object form.

use serde_json::{Value, json};

use crate::{NodeSample, Report};

/// The row of nodes, and the row of their blocks above it.
const NODES: u32 = 2;
const BLOCKS: u32 = 1;

/// The trace of the run of median length. Slices carry flop, bytes and percent of the roof; a counter shows the arena.
pub fn trace(report: &Report) -> String {
    let name = |kind: &str, tid: u32, name: &str| json!({ "ph": "M", "pid": 1, "tid": tid, "name": kind, "args": { "name": name } });
    let device = format!("{} ({})", report.device.name, report.device.model);
    let mut events = vec![
        name("process_name", 0, &format!("{} on {device}", report.subject)),
        name("thread_name", BLOCKS, "blocks"),
        name("thread_name", NODES, "kernels"),
    ];
    events.extend(blocks(&report.nodes));
    for node in &report.nodes {
        events.push(slice(report, node));
        events.push(json!({
            "ph": "C", "pid": 1, "name": "arena", "ts": micros(node.start), "args": { "live MiB": mib(node.live) },
        }));
    }
    let whole = json!({
        "displayTimeUnit": "ms",
        "otherData": {
            "engine": report.engine, "subject": report.subject, "device": device, "driver": report.device.driver,
            "matmul roof GFLOP/s": report.roofs.flop_rate / 1e9, "copy roof GB/s": report.roofs.byte_rate / 1e9,
        },
        "traceEvents": events,
    });
    whole.to_string()
}

/// Microseconds, as the format counts, to the nanosecond.
fn micros(seconds: f64) -> f64 {
    (seconds * 1e9).round() / 1e3
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn slice(report: &Report, n: &NodeSample) -> Value {
    let seconds = n.took.max(1e-12);
    let at_roof = report.roofs.seconds(n.flop, n.bytes());
    json!({
        "ph": "X", "pid": 1, "tid": NODES, "cat": n.op, "name": format!("{}:{}", n.op, n.kernel),
        "ts": micros(n.start), "dur": micros(n.took),
        "args": {
            "path": n.path, "shape": n.shape(), "flop": n.flop, "bytes": n.bytes(), "GFLOP/s": n.flop as f64 / seconds / 1e9,
            "GB/s": n.bytes() as f64 / seconds / 1e9, "percent of roof": 100.0 * at_roof / seconds,
            "median ms": n.seconds.median() * 1e3, "spread %": 100.0 * n.seconds.relative_spread(),
            "launches": n.launches, "weights bytes": n.weights,
        },
    })
}

/// Slices of the parts of the paths: `up_blocks.1` round its resnets round their nodes. A slice lasts from the first of
/// consecutive nodes that share a part to the last.
fn blocks(nodes: &[NodeSample]) -> Vec<Value> {
    let mut events = Vec::new();
    // Open parts, each with its start and its end so far.
    let mut open: Vec<(String, f64, f64)> = Vec::new();
    let close = |open: &mut Vec<(String, f64, f64)>, keep: usize, events: &mut Vec<Value>| {
        for (name, start, end) in open.drain(keep..).rev() {
            let (ts, end) = (micros(start), micros(end));
            events.push(
                json!({ "ph": "X", "pid": 1, "tid": BLOCKS, "cat": "block", "name": name, "ts": ts, "dur": end - ts }),
            );
        }
    };
    for node in nodes {
        let parts = parts(&node.path);
        let same = open.iter().zip(&parts).take_while(|(o, p)| o.0 == **p).count();
        close(&mut open, same, &mut events);
        let end = node.start + node.took;
        open.iter_mut().for_each(|o| o.2 = o.2.max(end));
        open.extend(parts[same..].iter().map(|p| (p.clone(), node.start, end)));
    }
    close(&mut open, 0, &mut events);
    events
}

/// A path's parts with indices joined to their names: `up_blocks.1`, `resnets.0`, `norm1`.
pub(crate) fn parts(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for word in path.split('.') {
        match parts.last_mut() {
            Some(last) if !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()) => {
                last.push('.');
                last.push_str(word);
            }
            _ => parts.push(word.into()),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_nest_and_end_with_their_last_node() {
        let node = |path: &str, start: f64| NodeSample { path: path.into(), start, took: 1.0, ..NodeSample::default() };
        let nodes = [node("a.0.x", 0.0), node("a.0.y", 1.0), node("a.1.x", 2.0), node("b", 3.0)];
        let found: Vec<String> = blocks(&nodes)
            .iter()
            .map(|e| format!("{} {} {}", e["name"].as_str().unwrap_or(""), e["ts"], e["dur"]))
            .collect();
        let want = [
            "x 0.0 1000000.0",
            "y 1000000.0 1000000.0",
            "a.0 0.0 2000000.0",
            "x 2000000.0 1000000.0",
            "a.1 2000000.0 1000000.0",
            "b 3000000.0 1000000.0",
        ];
        assert_eq!(found, want);
    }
}
