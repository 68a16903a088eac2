//! `muybridge select`

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use muybridge::metrics::frechet::{Moments, polynomial_mmd};
use muybridge::metrics::unit;
use muybridge::selection::choose::{self, Rows};
use muybridge::selection::scores::{self, Neighbour};
use muybridge::selection::{Embeddings, Shuffle, map};
use muybridge::{Device, files};
use serde_json::json;

use crate::html::{self, Mark};
use crate::interrupt::{self, Stopped};
use crate::table::{Table, say};
use crate::{DeviceArgs, Failure, output};

/// Options of the verb.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("rule").args(["fraction", "threshold", "cover"]).required(true))]
pub struct Args {
    /// Embeddings of the real clips: Parquet files, or folders of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    real: Vec<PathBuf>,
    /// Embeddings of the synthetic clips, of which some are chosen
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    synthetic: Vec<PathBuf>,
    /// Folder for manifest.jsonl, report.json and report.html
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    /// What a clip's score is: its cosine to the mean of the real clips, to the nearest, or the mean to the K nearest
    #[arg(long, value_enum, default_value = "topk")]
    score: Score,
    /// Nearest real clips of each clip
    #[arg(long, default_value_t = 5, value_name = "K", value_parser = clap::value_parser!(u16).range(1..=1024))]
    k: u16,
    /// Take this fraction of the pool, the best scores first
    #[arg(long, value_name = "P")]
    fraction: Option<f64>,
    /// Take all clips with this score or more
    #[arg(long, value_name = "COSINE")]
    threshold: Option<f32>,
    /// Take this many clips that together cover the real ones (facility location, lazy greedy)
    #[arg(long, value_name = "N")]
    cover: Option<usize>,
    /// Pass over clips whose cosine to one taken before is above this
    #[arg(long, default_value_t = 0.98, value_name = "COSINE")]
    duplicates: f32,
    /// Seed of the random control
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
}

/// A rule by which a clip is compared with the real ones.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Score {
    Centroid,
    Nearest,
    Topk,
}

/// Rows that the kernel distance looks at on each side, and points of the map.
const SAMPLE: usize = 1000;
const SHOWN: usize = 3000;

/// A choice of clips of the pool.
struct Choice {
    name: &'static str,
    places: Vec<usize>,
}

/// A choice beside the real clips.
struct Judged {
    name: &'static str,
    clips: usize,
    score: f64,
    frechet: Option<f64>,
    mmd: Option<f64>,
}

/// Scores, chooses, and writes what was chosen.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    output::folder(&args.output)?;
    let (real, pool) = (read(&args.real)?, read(&args.synthetic)?);
    if (&real.model, real.width) != (&pool.model, pool.width) {
        return Err(Failure(format!(
            "the embeddings do not compare: model {:?} of width {} and model {:?} of width {}",
            real.model, real.width, pool.model, pool.width
        )));
    }
    let device = args.device.open()?;
    let lists = nearest(args, &device, &pool, &real)?;
    let scores: Vec<f32> = match args.score {
        Score::Centroid => scores::centroid(&pool.rows, &real.rows, pool.width)?,
        Score::Nearest => lists.iter().map(|l| scores::mean(&l[..l.len().min(1)])).collect(),
        Score::Topk => lists.iter().map(|l| scores::mean(l)).collect(),
    };
    let order = choose::ranked(&scores);
    let chosen = chosen(args, &device, &pool, &real, &scores, &order)?;
    let choices = [
        Choice { name: "all", places: (0..pool.len()).collect() },
        Choice { name: "random", places: choose::random(pool.len(), chosen.len(), args.seed) },
        Choice { name: "bottom", places: order.iter().rev().take(chosen.len()).copied().collect() },
        Choice { name: "chosen", places: chosen },
    ];
    let judged = judge(args, &pool, &real, &scores, &choices)?;
    std::fs::create_dir_all(&args.output)?;
    let to = |name: &str| args.output.join(name);
    files::write(&to("manifest.jsonl"), manifest(&pool, &real, &lists, &scores, &order, &choices)?.as_bytes())?;
    files::write(&to("report.json"), serde_json::to_string_pretty(&report(args, &pool, &real, &judged))?.as_bytes())?;
    files::write(&to("report.html"), page(args, &pool, &real, &scores, &choices, &judged).as_bytes())?;
    table(&judged).print();
    say!("manifest: {}", to("manifest.jsonl").display());
    Ok(ExitCode::SUCCESS)
}

/// All embeddings of some files, as one set.
fn read(paths: &[PathBuf]) -> Result<Embeddings, Failure> {
    let mut all = Embeddings::default();
    for path in paths {
        let part = Embeddings::open(path)?;
        if all.is_empty() {
            all.model = part.model.clone();
        } else if part.model != all.model {
            return Err(Failure(format!("{}: embeddings of another model than the files before it", path.display())));
        }
        for i in 0..part.len() {
            // Scores are cosines, whoever made the embeddings.
            all.push(&part.ids[i], &part.hashes[i], &unit(part.row(i)))?;
        }
    }
    if all.is_empty() {
        return Err(Failure("no clip in the embeddings".into()));
    }
    let mut ids = HashSet::new();
    match all.ids.iter().find(|id| !ids.insert(id.as_str())) {
        Some(id) => Err(Failure(format!("two clips are called {id}"))),
        None => Ok(all),
    }
}

fn bar(length: usize, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {eta} left");
    let bar = ProgressBar::new(length as u64).with_style(style.unwrap_or(ProgressStyle::default_bar()));
    bar.set_message(what.to_string());
    bar
}

fn nearest(args: &Args, device: &Device, pool: &Embeddings, real: &Embeddings) -> Result<Vec<Vec<Neighbour>>, Failure> {
    let bar = bar(0, "tiles of cosines");
    let step = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        interrupt::check().map_err(Stopped)
    };
    let lists = scores::nearest(device, &pool.rows, &real.rows, pool.width, usize::from(args.k), step);
    bar.finish_and_clear();
    lists.map_err(|Stopped(failure)| failure)
}

fn chosen(
    args: &Args,
    device: &Device,
    pool: &Embeddings,
    real: &Embeddings,
    scores: &[f32],
    order: &[usize],
) -> Result<Vec<usize>, Failure> {
    let (rows, to) = (Rows::new(&pool.rows, pool.width)?, Rows::new(&real.rows, real.width)?);
    let chosen = match (args.fraction, args.threshold, args.cover) {
        (Some(fraction), _, _) => {
            let count = choose::fraction_of(pool.len(), fraction)?;
            choose::without_duplicates(rows, order, args.duplicates, count)
        }
        (_, Some(least), _) => {
            let order: Vec<usize> = order.iter().copied().filter(|p| scores[*p] >= least).collect();
            choose::without_duplicates(rows, &order, args.duplicates, order.len())
        }
        (_, _, Some(count)) => {
            let bar = bar(count, "clips that cover");
            let step = |done: usize| {
                bar.set_position(done as u64);
                interrupt::check().map_err(Stopped)
            };
            let chosen = choose::covering(rows, to, count, args.duplicates, device.caps().threads, step);
            bar.finish_and_clear();
            chosen.map_err(|Stopped(failure)| failure)?
        }
        _ => return Err(Failure("no rule: --fraction, --threshold or --cover".into())),
    };
    if chosen.is_empty() { Err(Failure("the rule takes no clip".into())) } else { Ok(chosen) }
}

/// Distances of every choice to the real clips.
fn judge(
    args: &Args,
    pool: &Embeddings,
    real: &Embeddings,
    scores: &[f32],
    choices: &[Choice],
) -> Result<Vec<Judged>, Failure> {
    let bar = bar(choices.len(), "distances between sets");
    let moments = Moments::of((0..real.len()).map(|i| real.row(i)))?;
    let some = |count: usize| Shuffle::new(args.seed).sample(count, SAMPLE);
    let real_rows: Vec<&[f32]> = some(real.len()).into_iter().map(|i| real.row(i)).collect();
    let mut judged = Vec::new();
    for Choice { name, places } in choices {
        interrupt::check()?;
        let own = Moments::of(places.iter().map(|p| pool.row(*p)))?;
        let two = real.len() > 1 && places.len() > 1;
        let rows: Vec<&[f32]> = some(places.len()).into_iter().map(|i| pool.row(places[i])).collect();
        judged.push(Judged {
            name,
            clips: places.len(),
            score: places.iter().map(|p| f64::from(scores[*p])).sum::<f64>() / places.len().max(1) as f64,
            frechet: two.then(|| own.distance(&moments)).transpose()?.map(|d| d.distance),
            mmd: two.then(|| polynomial_mmd(&rows, &real_rows)).transpose()?,
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(judged)
}

fn manifest(
    pool: &Embeddings,
    real: &Embeddings,
    lists: &[Vec<Neighbour>],
    scores: &[f32],
    order: &[usize],
    choices: &[Choice],
) -> Result<String, Failure> {
    let of = |name: &str| -> HashSet<usize> {
        choices.iter().filter(|c| c.name == name).flat_map(|c| c.places.iter().copied()).collect()
    };
    let (chosen, random, bottom) = (of("chosen"), of("random"), of("bottom"));
    let mut out = String::new();
    for (rank, &place) in order.iter().enumerate() {
        let nearest: Vec<&str> = lists[place].iter().map(|n| real.ids[n.index].as_str()).collect();
        let line = json!({
            "id": pool.ids[place], "score": scores[place], "rank": rank, "nearest": nearest,
            "chosen": chosen.contains(&place), "random": random.contains(&place), "bottom": bottom.contains(&place),
            "hash": pool.hashes[place], "model": pool.model,
        });
        out += &(serde_json::to_string(&line)? + "\n");
    }
    Ok(out)
}

/// The rule in words.
fn rule(args: &Args) -> String {
    let score = match args.score {
        Score::Centroid => "cosine to the direction of the mean of the real clips".into(),
        Score::Nearest => "cosine to the nearest real clip".into(),
        Score::Topk => format!("mean cosine to the {} nearest real clips", args.k),
    };
    let rule = match (args.fraction, args.threshold, args.cover) {
        (Some(p), _, _) => format!("the best {p} of the pool"),
        (_, Some(t), _) => format!("scores of {t} or more"),
        (_, _, n) => format!("{} clips that cover the real ones (facility location)", n.unwrap_or(0)),
    };
    format!("{rule}; score: {score}; near-duplicates above {} passed over", args.duplicates)
}

fn note(real: &Embeddings, judged: &[Judged]) -> Option<String> {
    let least = judged.iter().map(|j| j.clips).min().unwrap_or(0).min(real.len());
    let width = real.width;
    (least <= width).then(|| {
        format!("a set has {least} clips, no more than an embedding's {width} numbers: compare Fréchet distances only at equal size")
    })
}

fn report(args: &Args, pool: &Embeddings, real: &Embeddings, judged: &[Judged]) -> serde_json::Value {
    json!({
        "rule": rule(args), "seed": args.seed, "model": pool.model,
        "real": real.len(), "synthetic": pool.len(), "width": pool.width, "note": note(real, judged),
        "choices": judged.iter().map(|j| json!({
            "name": j.name, "clips": j.clips, "mean_score": j.score, "frechet": j.frechet, "mmd": j.mmd,
        })).collect::<Vec<_>>(),
    })
}

fn cells(j: &Judged) -> Vec<String> {
    let number = |v: Option<f64>| v.map_or("-".into(), html::short);
    vec![j.name.into(), j.clips.to_string(), html::short(j.score), number(j.frechet), number(j.mmd)]
}

const HEADINGS: [&str; 5] = ["choice", ">clips", ">mean score", ">Fréchet to real", ">MMD² to real"];

fn table(judged: &[Judged]) -> Table {
    let mut table = Table::new(&HEADINGS);
    judged.iter().for_each(|j| table.row(cells(j)));
    table
}

fn page(
    args: &Args,
    pool: &Embeddings,
    real: &Embeddings,
    scores: &[f32],
    choices: &[Choice],
    judged: &[Judged],
) -> String {
    let mut body = format!("<p>{}</p><p>model {}</p>\n", html::escape(&rule(args)), html::escape(&pool.model));
    body += &html::table(&HEADINGS, &judged.iter().map(cells).collect::<Vec<_>>());
    body += &note(real, judged).map_or(String::new(), |n| format!("<p class=\"bad\">{}</p>\n", html::escape(&n)));
    let of = |c: &Choice| c.places.iter().map(|p| scores[*p]).collect::<Vec<f32>>();
    let sets: Vec<(&str, Vec<f32>)> = choices.iter().map(|c| (c.name, of(c))).collect();
    let sets: Vec<(&str, &[f32])> = sets.iter().map(|(n, s)| (*n, s.as_slice())).collect();
    let (bars, width) = html::histogram(&sets, 40);
    body += &html::plot("Share of clips by score", ["score", "share"], &bars, Mark::Bar(width));
    // Places of the pool, of the real clips, and of those chosen, a sample of each.
    let some = |count: usize| Shuffle::new(args.seed).sample(count, SHOWN);
    let rows = |e: &Embeddings, places: &[usize]| places.iter().flat_map(|p| e.row(*p).to_vec()).collect::<Vec<f32>>();
    let chosen = choices.iter().find(|c| c.name == "chosen").map_or(&[][..], |c| c.places.as_slice());
    let shown: Vec<usize> = some(chosen.len()).into_iter().map(|i| chosen[i]).collect();
    let sets = [rows(pool, &some(pool.len())), rows(real, &some(real.len())), rows(pool, &shown)];
    let places = map::plane(&[&sets[0], &sets[1], &sets[2]], pool.width);
    let parts: Vec<html::Part<'_>> = ["synthetic", "real", "chosen"]
        .into_iter()
        .zip(&places)
        .map(|(name, p)| (name, p.iter().map(|[x, y]| [f64::from(*x), f64::from(*y)]).collect()))
        .collect();
    body += &html::plot("Two directions of greatest variance", ["first", "second"], &parts, Mark::Dot);
    html::page("Selection", &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// Directions around one of two places, `far` of them around the second.
    fn embeddings(prefix: &str, count: usize, far: usize) -> Result<Embeddings, Failure> {
        let mut all = Embeddings { model: "m".into(), ..Embeddings::default() };
        let mut random = Shuffle::new(count as u64);
        for i in 0..count {
            let noise = |r: &mut Shuffle| r.below(1000) as f32 / 1000.0 - 0.5;
            let centre = if i < far { [0.0, 3.0] } else { [3.0, 0.0] };
            let row: Vec<f32> = (0..8).map(|c| centre.get(c).copied().unwrap_or(0.0) + noise(&mut random)).collect();
            all.push(&format!("{prefix}{i}"), &format!("{i:064}"), &unit(&row))?;
        }
        Ok(all)
    }

    fn run(line: &[&str]) -> Result<ExitCode, Failure> {
        let line = Line::try_parse_from([&["select"], line].concat())?;
        execute(&line.args)
    }

    #[test]
    fn the_clips_that_are_like_the_real_ones_are_chosen() -> Result<(), Failure> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let (real, pool) = (at("real.parquet"), at("pool.parquet"));
        embeddings("r", 60, 0)?.write(&real)?;
        embeddings("s", 80, 40)?.write(&pool)?;
        let rules: [&[&str]; 5] = [
            &["--fraction", "0.25", "--duplicates", "1.1"],
            &["--fraction", "0.25", "--duplicates", "1.1", "--score", "nearest"],
            &["--fraction", "0.25", "--duplicates", "1.1", "--score", "centroid"],
            &["--threshold", "0.8"],
            &["--cover", "10"],
        ];
        for (i, rule) in rules.into_iter().enumerate() {
            let out = at(&format!("out{i}"));
            let own = ["--real", &real, "--synthetic", &pool, "-o", &out, "--device", "cpu"];
            run(&[&own[..], rule].concat())?;
            let text = std::fs::read_to_string(format!("{out}/manifest.jsonl"))?;
            let lines: Vec<serde_json::Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
            assert_eq!(lines.len(), 80);
            let near = |l: &serde_json::Value| {
                l["id"].as_str().is_some_and(|id| id[1..].parse::<usize>().is_ok_and(|n| n >= 40))
            };
            let chosen: Vec<_> = lines.iter().filter(|l| l["chosen"] == true).collect();
            assert!(!chosen.is_empty() && chosen.iter().all(|l| near(l)), "{rule:?}");
            assert!(lines.iter().filter(|l| l["bottom"] == true).all(|l| !near(l)), "{rule:?}");
            assert_eq!(lines[0]["nearest"].as_array().map(Vec::len), Some(5));
            let report: serde_json::Value = serde_json::from_slice(&std::fs::read(format!("{out}/report.json"))?)?;
            let of = |name: &str, what: &str| {
                let found = report["choices"].as_array().and_then(|c| c.iter().find(|c| c["name"] == name));
                found.and_then(|c| c[what].as_f64()).unwrap_or(f64::NAN)
            };
            for what in ["frechet", "mmd"] {
                assert!(of("chosen", what) < of("all", what) && of("all", what) < of("bottom", what), "{report}");
            }
            let page = std::fs::read_to_string(format!("{out}/report.html"))?;
            assert!(
                page.contains("<rect")
                    && page.contains("<circle")
                    && page.contains("no more than") == (chosen.len() <= 8)
            );
        }
        Ok(())
    }

    #[test]
    fn sets_that_do_not_compare_are_refused() -> Result<(), Failure> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let (real, pool, out) = (at("real.parquet"), at("pool.parquet"), at("out"));
        embeddings("r", 6, 0)?.write(&real)?;
        Embeddings { model: "another".into(), ..embeddings("s", 6, 0)? }.write(&pool)?;
        let own = ["--real", &real, "--synthetic", &pool, "-o", &out, "--device", "cpu", "--fraction", "0.5"];
        assert!(run(&own).is_err_and(|e| e.0.contains("do not compare")));
        let twice = ["--real", &real, &real, "--synthetic", &pool, "-o", &out, "--fraction", "0.5"];
        assert!(run(&twice).is_err_and(|e| e.0.contains("two clips are called r0")));
        assert!(run(&["--real", &real, "--synthetic", &pool, "-o", &out]).is_err(), "no rule");
        Ok(())
    }
}
