//! A measured plan as one page that needs nothing else: roofline, tree of blocks, arena over time, sortable table.

use serde_json::{Value, json};

use crate::Report;
use crate::trace::parts;

const PAGE: &str = include_str!("assets/report.html");
const STYLE: &str = include_str!("assets/report.css");
const SCRIPT: &str = include_str!("assets/report.js");
const PLOTS: &str = include_str!("assets/plots.js");

/// The page. It opens from disk, asks the network for nothing, and runs no script but its own.
pub fn html(report: &Report) -> String {
    // Within a script element only `<` could end the data.
    let data = data(report).to_string().replace('<', "\\u003c");
    let title = report.subject.replace('&', "&amp;").replace('<', "&lt;");
    PAGE.replace("{{title}}", &title)
        .replace("{{style}}", STYLE)
        .replace("{{script}}", &format!("{PLOTS}\n{SCRIPT}"))
        .replace("{{data}}", &data)
}

fn data(r: &Report) -> Value {
    let millis = |seconds: f64| (seconds * 1e9).round() / 1e6;
    let node = |n: &crate::NodeSample| {
        json!({
            "path": n.path, "parts": parts(&n.path), "op": n.op, "kernel": n.kernel, "shape": n.shape(),
            "flop": n.flop, "bytes": n.bytes(), "weights": n.weights, "live": n.live, "launches": n.launches,
            "ms": millis(n.seconds.median()), "spread": n.seconds.relative_spread(), "warm": millis(n.warm.median()),
            "flushed": millis(n.flushed.median()), "roof": millis(r.roofs.seconds(n.flop, n.bytes())),
        })
    };
    json!({
        "engine": r.engine, "subject": r.subject, "time": r.time, "load": r.load,
        "device": { "name": r.device.name, "model": r.device.model, "driver": r.device.driver },
        "roofs": {
            "flops": r.roofs.flop_rate, "bytes": r.roofs.byte_rate, "product": r.roofs.product, "copy": r.roofs.copy,
        },
        "plan": {
            "launches": r.plan.launches, "flop": r.plan.flop, "bytes": r.plan.bytes, "arena": r.plan.arena,
            "lowest": r.plan.arena_lower_bound, "weights": r.plan.weights, "tuned": r.plan.tuned,
        },
        "wall": millis(r.wall.median()), "wallSpread": r.wall.relative_spread(), "runs": r.wall.0.len(),
        "busy": millis(r.busy().median()), "accounted": r.accounted.median(), "gaps": millis(r.gaps.median()),
        "nodes": r.nodes.iter().map(node).collect::<Vec<_>>(),
        "memory": r.memory.iter().map(|m| json!([m.name, m.scratch, m.steps[0], m.steps[1], m.place[0], m.place[1], m.place[2]])).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_filled_and_nothing_is_fetched() {
        for text in [PAGE, STYLE, SCRIPT, PLOTS] {
            // The name of a namespace is no address.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("@import"));
        }
        for name in ["{{title}}", "{{style}}", "{{script}}", "{{data}}"] {
            assert_eq!(PAGE.matches(name).count(), 1, "{name}");
        }
    }
}
