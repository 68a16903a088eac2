//! The pages and what they must do.

use std::path::Path;
use std::process::Command;

use libtest_mimic::Failed;
use muybridge::loaders::Picture;
use muybridge::selection::{Embeddings, Shuffle};
use serde_json::Value;

use crate::many::an_evaluation_of_many;
use crate::{Browser, NARROW, WIDE, holds};

/// What is done with a page.
pub type Check = fn(&Browser) -> Result<(), Failed>;

/// Name and check of every page.
pub const CHECKS: [(&str, Check); 4] = [
    ("a_profile", a_profile),
    ("an_evaluation", an_evaluation),
    ("an_evaluation_of_many", an_evaluation_of_many),
    ("a_selection", a_selection),
];

/// A UNet of two levels that takes a blink.
const UNET: &str = r#"{"_class_name": "UNet2DConditionModel", "block_out_channels": [32, 64], "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": 4, "cross_attention_dim": 24, "norm_num_groups": 8, "in_channels": 4, "out_channels": 4}"#;

/// Runs the program on the cpu device.
fn muybridge(folder: &Path, line: &[&str]) -> Result<(), Failed> {
    let run = Command::new(env!("CARGO_BIN_EXE_muybridge"))
        .args(line)
        .args(["--device", "cpu"])
        .current_dir(folder)
        .output()?;
    // 1 says that a clip was left out.
    match run.status.code() {
        Some(0 | 1) => Ok(()),
        _ => Err(format!("muybridge {}: {}", line.join(" "), String::from_utf8_lossy(&run.stderr)).into()),
    }
}

fn a_profile(browser: &Browser) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("config.json"), UNET)?;
    let outputs = ["--html", "unet.html", "--trace", "trace.json"];
    let times = ["--repeats", "3", "--alone", "1", "--shape", "16x16", "--context", "7"];
    muybridge(folder.path(), &[&["profile", "config.json"][..], &times, &outputs].concat())?;
    let (flop, nodes) = a_trace(&folder.path().join("trace.json"))?;
    holds(flop > 0.0 && nodes > 50.0, &Value::Null, "the trace has no work in it")?;
    for window in [WIDE, NARROW] {
        let found = browser.use_page(&folder.path().join("unet.html"), window)?;
        holds(found["sort"]["changed"] == true, &found, "sorting changes nothing")?;
        for what in ["row", "dot", "cell", "block"] {
            holds(found[what].as_str().is_some_and(|t| t.len() > 12), &found, &format!("no tooltip over a {what}"))?;
        }
        let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
        holds(number(&found["dots"]) > 10.0, &found, "too few dots")?;
        let zoomed = &found["zoomed"];
        holds(number(&zoomed[1]) < number(&zoomed[0]) && zoomed[2] == false, &found, "a click does not zoom")?;
        holds(found["back"] == zoomed[0], &found, "there is no way back from a block")?;
        holds(found["chosen"] == 1, &found, "a dot does not choose its row")?;
        let filtered = &found["filtered"];
        let fewer = number(&filtered[1]) < number(&filtered[0]) && number(&filtered[1]) > 0.0;
        holds(fewer && filtered[2] == true, &found, "the filter does not filter")?;
        holds(number(&found["nodes"]) > number(&filtered[1]), &found, "nodes are not shown one by one")?;
    }
    Ok(())
}

/// Checks a trace by the rules of the format (Trace Event Format, Google): complete events that nest on each track, and names
/// of tracks. The flop of all slices, and their number.
fn a_trace(file: &Path) -> Result<(f64, f64), Failed> {
    let trace: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let events = trace["traceEvents"].as_array().ok_or("no traceEvents")?;
    let (mut slices, mut flop) = (Vec::new(), 0.0);
    for e in events {
        let numbered = |field: &str| e[field].as_u64().is_some();
        let named = e["name"].as_str().is_some_and(|n| !n.is_empty());
        holds(named && numbered("pid"), e, "an event without name or process")?;
        match e["ph"].as_str() {
            Some("X") => {
                let (start, length) = (e["ts"].as_f64().unwrap_or(-1.0), e["dur"].as_f64().unwrap_or(-1.0));
                holds(start >= 0.0 && length >= 0.0 && numbered("tid"), e, "a slice without time or track")?;
                slices.push((e["pid"].as_u64(), e["tid"].as_u64(), start, start + length));
                flop += e["args"]["flop"].as_f64().unwrap_or(0.0);
            }
            Some("M") => holds(e["args"]["name"].is_string() || e["args"]["sort_index"].is_number(), e, "no name")?,
            Some("C") => holds(e["args"].as_object().is_some_and(|a| a.values().all(Value::is_number)), e, "no count")?,
            _ => holds(false, e, "an event of an unknown kind")?,
        }
    }
    // Perfetto drops slices that overlap on a track without nesting. Times are microseconds with three places.
    slices.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)).then(b.3.total_cmp(&a.3)));
    let mut open: Vec<(Option<u64>, Option<u64>, f64, f64)> = Vec::new();
    for s in &slices {
        open.retain(|o| (o.0, o.1) == (s.0, s.1) && o.3 > s.2 + 2e-3);
        let nests = open.last().is_none_or(|o| s.3 <= o.3 + 2e-3);
        holds(nests, &Value::Null, &format!("a slice from {} to {} us is in another only in part", s.2, s.3))?;
        open.push(*s);
    }
    Ok((flop, slices.len() as f64))
}

/// A clip of moving pictures, the further from the plain one the greater `noise`.
fn clip(folder: &Path, frames: usize, noise: usize) -> Result<(), Failed> {
    std::fs::create_dir_all(folder)?;
    let (width, height) = (48, 40);
    for t in 0..frames {
        let value = |i: usize| (i / 3 % width * 3 + i / 3 / width * 2 + 5 * t) % 200 + (i * 7919 + 13 * t) % 17 * noise;
        let pixels = (0..width * height * 3).map(|i| value(i).min(255) as u8).collect();
        Picture { width, height, channels: 3, pixels }.write_png(folder.join(format!("{t:03}.png")))?;
    }
    Ok(())
}

fn an_evaluation(browser: &Browser) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    for (i, name) in ["waving", "walking", "a <b>turn & bow"].into_iter().enumerate() {
        clip(&folder.path().join("real").join(name), 7, 0)?;
        clip(&folder.path().join("generated").join(name), 7, i + 1)?;
    }
    muybridge(folder.path(), &["evaluate", "real", "generated", "-o", "out"])?;
    let found = browser.use_page(&folder.path().join("out/report.html"), NARROW)?;
    tables_and_plots(&found, 2)?;
    let pictures = found["pictures"].as_array().map_or(&[][..], Vec::as_slice);
    holds(pictures.len() == 6 && pictures.iter().all(|w| *w == 48), &found, "pictures of the worst clips")?;
    let clips = found["tables"].as_array().and_then(|t| t.last()).cloned().unwrap_or_default();
    holds(clips["rows"] == 3, &found, "a row for each clip")
}

fn a_selection(browser: &Browser) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let embeddings = |name: &str, count: usize, far: usize| -> Result<(), Failed> {
        let mut all = Embeddings { model: "a model".into(), ..Embeddings::default() };
        let mut random = Shuffle::new(count as u64);
        for i in 0..count {
            let centre = if i < far { [0.0, 3.0] } else { [3.0, 0.0] };
            let mut noise = || random.below(1000) as f32 / 1000.0 - 0.5;
            let row: Vec<f32> = (0..8).map(|c| centre.get(c).copied().unwrap_or(0.0) + noise()).collect();
            all.push(&format!("{name}{i}"), &format!("{i:064}"), &row)?;
        }
        Ok(all.write(folder.path().join(name))?)
    };
    embeddings("real.parquet", 60, 0)?;
    embeddings("pool.parquet", 90, 40)?;
    let sets = ["--real", "real.parquet", "--synthetic", "pool.parquet", "--fraction", "0.25", "-o", "out"];
    muybridge(folder.path(), &[&["select"][..], &sets].concat())?;
    tables_and_plots(&browser.use_page(&folder.path().join("out/report.html"), NARROW)?, 1)
}

/// At least so many tables can be sorted, and every plot shows values.
pub fn tables_and_plots(found: &Value, tables: usize) -> Result<(), Failed> {
    let sorted = found["tables"].as_array().map_or(&[][..], Vec::as_slice);
    let changed = sorted.iter().filter(|t| t["changed"] == true).count();
    holds(changed >= tables, found, "sorting changes nothing")?;
    let plots = found["plots"].as_array().map_or(&[][..], Vec::as_slice);
    let told = plots.iter().all(|t| t.as_str().is_some_and(|t| t.contains('·') && !t.contains("NaN")));
    holds(plots.len() >= 2 && told, found, "a plot shows no values")
}
