//! What the scores of all clips come to: a table, JSON, CSV, and a page.

use std::path::Path;

use muybridge::files;
use muybridge::loaders::{Frames, Picture};
use muybridge::metrics::bootstrap::{Windows, frechet_interval, mean_interval};
use muybridge::metrics::evaluate::{ClipScores, METRICS, Metric};
use muybridge::metrics::frechet::{Frechet, Moments};
use muybridge::resize::{Filter, Resize};
use serde_json::json;

use super::{Args, Done};
use crate::Failure;
use crate::clips::Clip;
use crate::html::{self, Mark};
use crate::interrupt::{self, Stopped};
use crate::table::{Table, say};

/// Clips that the page shows.
const WORST: usize = 3;

/// Width of a frame on the page.
const SHOWN: usize = 320;

/// A metric over all clips: its mean, the interval of the bootstrap, and the number of clips.
struct Total {
    metric: &'static Metric,
    mean: f64,
    interval: [f64; 2],
    clips: usize,
}

/// The Fréchet video distance and the windows on both sides.
struct Fvd {
    frechet: Frechet,
    windows: [usize; 2],
    /// Where there are clips enough.
    interval: Option<[f64; 2]>,
}

impl Fvd {
    /// Both ends of the interval.
    fn ends(&self) -> [String; 2] {
        self.interval.map_or(["-".into(), "-".into()], |ends| ends.map(html::short))
    }
}

/// What every form of the report tells.
#[derive(Clone, Copy)]
struct Found<'a> {
    args: &'a Args,
    done: &'a Done,
    scores: &'a [ClipScores],
    totals: &'a [Total],
    fvd: Option<&'a Fvd>,
    /// Frames with a face, and all of them.
    faces: Option<[usize; 2]>,
}

/// Writes `report.json`, `clips.csv` and `report.html`, and prints the totals.
pub fn write(args: &Args, done: &Done, pairs: &[(Clip, Clip)], scores: &[ClipScores]) -> Result<(), Failure> {
    let totals: Vec<Total> = METRICS.iter().filter_map(|m| total(m, scores)).collect();
    let fvd = fvd(scores)?;
    let faces: Option<[usize; 2]> =
        scores.iter().filter_map(|s| Some([s.faces?, s.frames])).reduce(|a, b| [a[0] + b[0], a[1] + b[1]]);
    let found = Found { args, done, scores, totals: &totals, fvd: fvd.as_ref(), faces };
    let to = |name: &str| args.output.join(name);
    files::write(&to("report.json"), serde_json::to_string_pretty(&json(found))?.as_bytes())?;
    files::write(&to("clips.csv"), csv(scores).as_bytes())?;
    files::write(&to("report.html"), page(found, pairs)?.as_bytes())?;
    print(found);
    Ok(())
}

fn total(metric: &'static Metric, scores: &[ClipScores]) -> Option<Total> {
    let means: Vec<f64> = scores.iter().filter_map(|s| s.mean(metric.name)).collect();
    let (mean, interval) = mean_interval(&means)?;
    Some(Total { metric, mean, interval, clips: means.len() })
}

fn fvd(scores: &[ClipScores]) -> Result<Option<Fvd>, Failure> {
    let side = |i: usize| scores.iter().flat_map(move |s| s.features[i].iter().map(Vec::as_slice));
    if side(0).next().is_none() {
        return Ok(None);
    }
    let (real, generated) = (Moments::of(side(0))?, Moments::of(side(1))?);
    let frechet = real.distance(&generated)?;
    let clips: Vec<Windows<'_>> = scores.iter().map(|s| [&s.features[0][..], &s.features[1][..]]).collect();
    let interval = frechet_interval(&clips, frechet.distance, || interrupt::check().map_err(Stopped));
    let interval = interval.map_err(|Stopped(failure)| failure)?;
    Ok(Some(Fvd { frechet, windows: [real.rows(), generated.rows()], interval }))
}

/// What must be said beside the number.
fn fvd_note(done: &Done, fvd: &Fvd) -> String {
    let [n, m] = fvd.windows;
    let protocol = done.protocol.get("fvd").map_or("", String::as_str);
    let few = if n.min(m) <= 400 { "; fewer windows than features: compare only at the same number" } else { "" };
    format!("{n} real and {m} generated windows; {protocol}{few}")
}

fn print(found: Found<'_>) {
    let Found { args, done, scores, totals, fvd, faces } = found;
    let mut table = Table::new(&["metric", ">mean", ">95 % interval", ">clips", "what"]);
    for t in totals {
        let [low, high] = t.interval.map(html::short);
        let better = if t.metric.more_is_better { "more is better" } else { "less is better" };
        let what = format!("{} ({better})", t.metric.what);
        table.row([t.metric.name.into(), html::short(t.mean), format!("{low} .. {high}"), t.clips.to_string(), what]);
    }
    if let Some(f) = fvd {
        let clips = scores.iter().filter(|s| !s.features[0].is_empty()).count();
        let ends = f.ends().join(" .. ");
        table.row(["fvd".into(), html::short(f.frechet.distance), ends, clips.to_string(), fvd_note(done, f)]);
    }
    table.print();
    if let Some([found, of]) = faces {
        say!("faces in {found} of {of} generated frames; frames without one are in no csim");
    }
    let failed: Vec<&ClipScores> = scores.iter().filter(|s| s.error.is_some()).collect();
    if !failed.is_empty() {
        say!("{} of {} clips are left out:", failed.len(), scores.len());
        failed.iter().for_each(|s| say!("  {}: {}", s.id, s.error.as_deref().unwrap_or("")));
    }
    say!("report: {}", args.output.join("report.html").display());
}

fn json(found: Found<'_>) -> serde_json::Value {
    let Found { args, done, scores, totals, fvd, faces } = found;
    let metrics: serde_json::Map<String, serde_json::Value> = totals
        .iter()
        .map(|t| {
            let value = json!({
                "mean": t.mean, "interval_95": t.interval, "clips": t.clips,
                "what": t.metric.what, "more_is_better": t.metric.more_is_better,
            });
            (t.metric.name.to_string(), value)
        })
        .collect();
    let means = |s: &ClipScores| -> serde_json::Map<String, serde_json::Value> {
        METRICS.iter().filter_map(|m| Some((m.name.to_string(), json!(s.mean(m.name)?)))).collect()
    };
    json!({
        "inputs": done,
        "metrics": metrics,
        "fvd": fvd.map(|f| json!({
            "distance": f.frechet.distance, "mean_term": f.frechet.mean_term, "windows": f.windows, "interval_95": f.interval,
            "frames": args.frames, "stride": args.stride, "resize": super::RESIZE, "note": fvd_note(done, f),
        })),
        "faces": faces.map(|[found, of]| json!({"found": found, "frames": of, "rate": found as f64 / of.max(1) as f64})),
        "clips": scores.iter().map(|s| json!({
            "id": s.id, "frames": s.frames, "faces": s.faces, "means": means(s), "error": s.error,
        })).collect::<Vec<_>>(),
    })
}

fn csv(scores: &[ClipScores]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let names: Vec<&str> = METRICS.iter().map(|m| m.name).collect();
    let mut out = format!("id,frames,faces,{},error\n", names.join(","));
    for s in scores {
        let means = names.iter().map(|m| s.mean(m).map_or(String::new(), |v| v.to_string()));
        let faces = s.faces.map_or(String::new(), |n| n.to_string());
        let error = s.error.as_deref().map_or(String::new(), quoted);
        let cells: Vec<String> = [quoted(&s.id), s.frames.to_string(), faces].into_iter().chain(means).collect();
        out += &format!("{},{error}\n", cells.join(","));
    }
    out
}

fn page(found: Found<'_>, pairs: &[(Clip, Clip)]) -> Result<String, Failure> {
    let Found { args, done, scores, totals, fvd, .. } = found;
    let mut body = format!("<p>{} beside {}</p>\n", html::escape(&done.generated), html::escape(&done.real));
    let row = |t: &Total| {
        let [low, high] = t.interval.map(html::short);
        vec![t.metric.name.to_string(), html::short(t.mean), low, high, t.clips.to_string(), t.metric.what.to_string()]
    };
    let mut rows: Vec<Vec<String>> = totals.iter().map(row).collect();
    if let Some(f) = fvd {
        let [low, high] = f.ends();
        rows.push(vec!["fvd".into(), html::short(f.frechet.distance), low, high, String::new(), fvd_note(done, f)]);
    }
    body += &html::table(&["metric", ">mean", ">2.5 %", ">97.5 %", ">clips", "what"], &rows);
    let protocol: Vec<Vec<String>> = done.protocol.iter().map(|(k, v)| vec![k.clone(), v.clone()]).collect();
    body += &html::table(&["protocol", ""], &protocol);
    for s in scores.iter().filter(|s| s.error.is_some()) {
        let reason = html::escape(s.error.as_deref().unwrap_or(""));
        body += &format!("<p class=\"bad\">left out: {}: {reason}</p>\n", html::escape(&s.id));
    }
    // The perceptual metric says best what looks worst.
    let by = totals.iter().find(|t| t.metric.name == "lpips").or(totals.first()).map(|t| t.metric);
    if let Some(by) = by {
        let mut order: Vec<&ClipScores> = scores.iter().filter(|s| s.mean(by.name).is_some()).collect();
        let badness = |s: &ClipScores| s.mean(by.name).unwrap_or(0.0) * if by.more_is_better { -1.0 } else { 1.0 };
        order.sort_by(|a, b| badness(b).total_cmp(&badness(a)));
        body += &format!("<h2>Worst clips by {}</h2>\n", by.name);
        for s in order.into_iter().take(WORST) {
            let pair = pairs.iter().find(|(r, _)| r.id == s.id);
            body += &worst(args, s, by, pair)?;
        }
    }
    let headings: Vec<String> = totals.iter().map(|t| format!(">{}", t.metric.name)).collect();
    let headings: Vec<&str> = ["clip", ">frames"].into_iter().chain(headings.iter().map(String::as_str)).collect();
    let clip = |s: &ClipScores| {
        let means = totals.iter().map(|t| s.mean(t.metric.name).map_or("-".into(), html::short));
        [s.id.clone(), s.frames.to_string()].into_iter().chain(means).collect()
    };
    let rows: Vec<Vec<String>> = scores.iter().filter(|s| s.error.is_none()).map(clip).collect();
    body += "<h2>All clips</h2>\n";
    body += &html::table(&headings, &rows);
    Ok(html::page("Evaluation", &body))
}

/// A clip's worst frame on both sides, and every metric frame by frame.
fn worst(args: &Args, s: &ClipScores, by: &Metric, pair: Option<&(Clip, Clip)>) -> Result<String, Failure> {
    let series = s.series.get(by.name).map_or(&[][..], Vec::as_slice);
    let sign = if by.more_is_better { -1.0 } else { 1.0 };
    let frame = (0..series.len()).max_by(|a, b| (sign * series[*a]).total_cmp(&(sign * series[*b]))).unwrap_or(0);
    let mut out = format!("<h3>{}</h3>\n", html::escape(&s.id));
    if let Some((real, generated)) = pair {
        let shown = [(&real.path, "real"), (&generated.path, "generated")].map(|(path, side)| {
            let uri = picture(path, frame, &args.output)?;
            Ok::<_, Failure>(format!("<img src=\"{uri}\" alt=\"{side}\" title=\"{side}\">"))
        });
        let [real, generated] = shown;
        out += &format!(
            "<figure class=\"pair\"><figcaption>frame {frame}: real, generated</figcaption>{} {}</figure>\n",
            real?, generated?
        );
    }
    for metric in METRICS {
        if let Some(values) = s.series.get(metric.name) {
            let points = values.iter().enumerate().map(|(i, v)| [i as f64, *v]).collect();
            out += &html::plot(
                &format!("{} by frame", metric.name),
                ["frame", metric.name],
                &[(metric.name, points)],
                Mark::Line,
            );
        }
    }
    Ok(out)
}

/// A frame of a clip, made small, as the source of an image.
fn picture(path: &Path, frame: usize, folder: &Path) -> Result<String, Failure> {
    let found = Frames::open(path)?.nth(frame).transpose()?;
    let picture: Picture = found.ok_or_else(|| Failure(format!("{}: no frame {frame}", path.display())))?;
    let picture = picture.rgb();
    let height = (picture.height * SHOWN / picture.width.max(1)).max(1);
    let picture = if picture.width > SHOWN { picture.resize(SHOWN, height, Filter::Box)? } else { picture };
    let file = folder.join(".frame.png");
    picture.write_png(&file)?;
    let bytes = std::fs::read(&file)?;
    std::fs::remove_file(&file)?;
    Ok(html::data_uri(&bytes))
}
